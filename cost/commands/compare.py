"""`fanout cost compare`: the same run in places of one's own choice, side by side."""

from __future__ import annotations

import json
from typing import Any

import click

from fanout.cli import Command
from fanout.cost.commands.workload_options import (
    book_for,
    new_rng,
    work_and_setting,
    workload_options,
)
from fanout.errors import UsageError


@click.command(
    cls=Command,
    short_help="The same run in places of your choice.",
    examples=(
        "fanout cost compare lambda:1769:arm64 ec2:c8g.4xlarge local --tasks 1000 --seconds 12\n"
        "fanout cost compare ec2-spot:c8g.4xlarge:4 fargate:4:8:10 --tasks 1e5 --seconds 3\n"
        "fanout cost compare lambda:1024 lambda:1769 --tasks 1e6 --seconds 0.1 --json"
    ),
)
@click.argument("places", nargs=-1, required=True, metavar="PLACE...")
@workload_options
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV on stdout.")
def command(
    places: tuple[str, ...], region: str, as_json: bool, as_csv: bool, **options: Any
) -> None:
    """Compare a run in these places.

    PLACE is local, lambda:MB[:ARCH], ec2:TYPE[:COUNT], ec2-spot:TYPE[:COUNT] or
    fargate:VCPUS:GB[:ARCH][:COUNT]; ARCH is x86_64 unless it is arm64.
    """
    from fanout.cost import tables
    from fanout.cost.books import today
    from fanout.cost.estimate import estimated
    from fanout.cost.places import place_of

    if as_json and as_csv:
        raise UsageError("--json and --csv exclude each other")
    book = book_for(region)
    wanted = list(dict.fromkeys(place_of(place, book) for place in places))
    workload, setting = work_and_setting(options, book)
    estimate = estimated(workload, setting, wanted, new_rng)
    if as_json:
        click.echo(json.dumps(tables.as_json(estimate, today()), indent=2))
    elif as_csv:
        click.echo(tables.as_csv(estimate), nl=False)
    else:
        for line in tables.lines_of(estimate, today(), is_all=True):
            click.echo(line)
