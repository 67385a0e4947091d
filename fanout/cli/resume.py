"""`fanout resume`: goes on with a run whose client was killed, closed or cancelled."""

from __future__ import annotations

import contextlib

import click

from fanout.cli import Command, say
from fanout.cli import run as run_to_its_end
from fanout.cli.map import line_of, target_of


@click.command(
    cls=Command,
    short_help="Go on with a run that did not end.",
    examples=(
        "fanout runs\nfanout resume sweep-7\nfanout resume 20261121-173000-ab12 --out results.jsonl"
    ),
)
@click.argument("run", metavar="RUN")
@click.option("--out", metavar="FILE", help="Write all results there, as `fanout map` does.")
@click.option(
    "--progress/--no-progress",
    default=None,
    help="Show progress on stderr.  [default: yes, or what FANOUT_PROGRESS says]",
)
def command(run: str, out: str | None, progress: bool | None) -> int:
    """Do what RUN (its id or name, see `fanout runs`) has not done yet, and pay for no more.

    It runs where it did, with the options that it had. The results are in its journal: the call
    that began it gives them all, and at once, when it is made again with the same name. Exit code 1
    if a task failed.
    """
    from fanout.executor import resume

    with contextlib.ExitStack() as files:
        target = None if out is None else target_of(out, files)  # before anything is paid for
        done = run_to_its_end(resume(run, progress=progress))
        failed = len(done.failures)
        if target is not None:
            for outcome in done.outcomes:
                target.write(line_of(outcome)[0] + "\n")
    total = len(done.outcomes)
    say(f"{total - failed:,} of {total:,} tasks are done, {failed:,} failed")
    return 1 if failed else 0
