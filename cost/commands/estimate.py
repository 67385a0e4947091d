"""`fanout cost estimate`: how long and how much, here and on AWS, before anything is run there."""

from __future__ import annotations

import json
from typing import Any

import click

from fanout.cli import Command, say
from fanout.cost.commands.options import memory_sizes
from fanout.cost.commands.workload_options import (
    book_for,
    new_rng,
    work_and_setting,
    workload_options,
)
from fanout.errors import UsageError


@click.command(
    cls=Command,
    short_help="How long and how much: here, Lambda, EC2, Fargate.",
    examples=(
        "fanout cost estimate --tasks 1000 --seconds 12\n"
        "fanout cost estimate --kernel mymodule:simulate --chunks chunks.jsonl --runs 2/day\n"
        "fanout cost estimate --kernel mymodule:simulate --chunks chunks.jsonl --probe-remote\n"
        "fanout cost estimate --tasks 1000 --seconds 12 --memory 1769,3538 --arch arm64\n"
        "fanout cost estimate --tasks 1e6 --seconds 0.2 --types c8g.4xlarge,c7i.4xlarge --all\n"
        "fanout cost estimate --tasks 1000 --seconds 12 --plot cost.png --json > cost.json"
    ),
)
@workload_options
@click.option(
    "--memory",
    "memories",
    metavar="MB[,MB…]",
    help="Sizes of Lambda to compare.  [default: 512, 1024 and 1769, or what threads and memory of "
    "a task ask for]",
)
@click.option(
    "--arch",
    type=click.Choice(["arm64", "x86_64"]),
    help="Compare this architecture only.  [default: both]",
)
@click.option(
    "--types",
    metavar="TYPE[,TYPE…]",
    help="EC2 types to compare.  [default: current ones of the families c, m or r]",
)
@click.option("--all", "is_all", is_flag=True, help="Show all places that were compared.")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV on stdout.")
@click.option("--plot", metavar="FILE", help="Draw time, money and break-even: .png, .svg, .pdf.")
def command(
    region: str,
    memories: str | None,
    arch: str | None,
    types: str | None,
    is_all: bool,
    as_json: bool,
    as_csv: bool,
    plot: str | None,
    **options: Any,
) -> None:
    """Estimate how long a run takes and what it costs: here, on Lambda, EC2 and Fargate.

    Nothing is run on AWS, and nothing is asked of it, unless you say --probe-remote. With --kernel
    a few chunks are run here; with --seconds, two short loops compare this machine with Lambda's.
    Bands are from the 10th to the 90th percentile of what is uncertain; the last part says what was
    assumed.
    """
    from fanout.cost import tables
    from fanout.cost.books import today
    from fanout.cost.estimate import estimated
    from fanout.cost.places import ARCHITECTURES, usual_places

    if as_json and as_csv:
        raise UsageError("--json and --csv exclude each other")
    target = None
    if plot is not None:
        from fanout.cost.plots import check_target

        target = check_target(plot)
    sizes = [] if memories is None else memory_sizes(memories)
    book = book_for(region)
    wanted = _types(types, book)
    workload, setting = work_and_setting(options, book)
    places = usual_places(
        workload,
        book,
        memories=sizes,
        arches=[one for one in ARCHITECTURES if arch in {None, one}],
        types=wanted,
        seconds=workload.core_s * setting.base.value,
    )
    estimate = estimated(workload, setting, places, new_rng)
    if target is not None:
        from fanout.cost.plots import draw

        draw(estimate, target)
        say(f"drew {target}")
    if as_json:
        click.echo(json.dumps(tables.as_json(estimate, today()), indent=2))
    elif as_csv:
        click.echo(tables.as_csv(estimate), nl=False)
    else:
        for line in tables.lines_of(estimate, today(), is_all=is_all):
            click.echo(line)


def _types(text: str | None, book: Any) -> list[str]:
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    if text is not None and not names:
        raise UsageError("--types must be EC2 types, as c8g.4xlarge,c7i.4xlarge")
    return list(dict.fromkeys(book.instance(name).name for name in names))
