"""`fanout runs`: what is kept of earlier runs; and its removal."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import TYPE_CHECKING

import click

from fanout.cli import Command, say
from fanout.cli import run as run_to_its_end

if TYPE_CHECKING:
    from fanout.journal import RunRecord


@click.command(
    cls=Command,
    short_help="List runs that can be resumed, or were.",
    examples=(
        "fanout runs\n"
        "fanout runs --json\n"
        "fanout runs --prune                    # those that are done\n"
        "fanout runs --prune 20261121-173000-ab12 sweep-7"
    ),
)
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout, with all that is known.")
@click.option(
    "--prune",
    is_flag=True,
    help="Remove the journals of these runs; without any, of all that are done or damaged.",
)
def command(runs: tuple[str, ...], as_json: bool, prune: bool) -> None:
    """List the runs that have a journal, the newest first.

    Runs are kept that have a name, and those on Lambda. Journals of runs that are done are removed
    after 30 days, and the oldest when all together take more than 5 GB; none that can be resumed.
    """
    from fanout.journal import Folder

    folder = Folder()
    found = [record for record in folder.runs() if not runs or {record.id, record.name} & {*runs}]
    for name in runs:
        if not any(name in {record.id, record.name} for record in found):
            raise folder.unknown(name)
    if prune:
        is_named = bool(runs)
        gone = [record for record in found if record.is_removable(is_named=is_named)]
        left = [(record.id, store) for record in gone for store in folder.remove(record)]
        nbytes = sum(record.nbytes for record in gone)
        say(f"{len(gone)} journals removed, {nbytes / 1e6:,.1f} MB")
        if left:
            from fanout.journal.removal import remove_results

            for message in run_to_its_end(remove_results(left)):
                say(message)
        return
    if as_json:
        told = [{**dataclasses.asdict(record), "path": str(record.path)} for record in found]
        click.echo(json.dumps(told, indent=2))
        return
    if not found:
        say(f"no runs are kept in {folder.path}")
        return
    for line in _table(found):
        click.echo(line)


def _table(records: list[RunRecord]) -> list[str]:
    rows = [("run", "name", "state", "tasks", "failed", "GB-s at most", "began", "kernel")]
    for record in records:
        total = "?" if record.total is None else f"{record.total:,}"
        rows.append(
            (
                record.id,
                record.name or "",
                record.state,
                f"{record.done:,} of {total}",
                f"{record.failed:,}" if record.failed else "",
                f"{record.spent_gb_s:,.1f}" if record.spent_gb_s else "",
                time.strftime("%Y-%m-%d %H:%M", time.localtime(record.began_epoch_s)),
                record.kernel,
            )
        )
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows]  # fmt: skip
