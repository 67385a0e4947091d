"""`fanout cost breakeven`: when a machine that is kept on costs less than Lambda."""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING, Any, Final

import click

from fanout.cli import Command
from fanout.cost.commands.workload_options import (
    book_for,
    has_work,
    new_rng,
    work_and_setting,
    workload_options,
)
from fanout.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanout.cost.book import PriceBook
    from fanout.cost.break_even import BreakEven, UnitPrice

_USUAL: Final = (
    *("c7i.4xlarge", "c8i.4xlarge", "c8a.4xlarge", "m7i.4xlarge"),
    *("c7g.4xlarge", "c8g.4xlarge", "c9g.4xlarge"),
)


@click.command(
    cls=Command,
    short_help="When a machine kept on costs less than Lambda.",
    examples=(
        "fanout cost breakeven\n"
        "fanout cost breakeven c8g.4xlarge --tasks 1000 --seconds 12\n"
        "fanout cost breakeven c7i.4xlarge m7i.4xlarge --tasks 1e5 --seconds 0.4"
    ),
)
@click.argument("types", nargs=-1, metavar="[TYPE]...")
@workload_options
@click.option(
    "--memory",
    "memory_mb",
    type=float,
    default=1769,
    show_default=True,
    metavar="MB",
    help="Of the function.",
)
@click.option(
    "--arch",
    type=click.Choice(["arm64", "x86_64"]),
    help="Of the function.  [default: that of the instance]",
)
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
def command(
    types: tuple[str, ...],
    region: str,
    memory_mb: float,
    arch: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Tell when an EC2 instance that is kept on costs less than Lambda.

    Without a workload: by prices alone, what a vCPU costs for an hour, and how busy an instance
    must be to cost the same as Lambda for what it does. With one: from how many runs on, and how
    busy it is then, with the speeds of both, cold starts and requests.
    """
    from fanout.cost.machines import check_memory

    size = check_memory(memory_mb)
    book = book_for(region)
    names = [book.instance(name).name for name in types]
    names = names or [name for name in _USUAL if name in book.instances]
    if not has_work(options):
        _by_price(book, names, arch, as_json=as_json)
    else:
        _by_work(book, names, size, arch, options, as_json=as_json)


def _by_price(book: PriceBook, names: Sequence[str], arch: str | None, *, as_json: bool) -> None:
    from fanout.cost.break_even import unit_price
    from fanout.cost.money import plain

    found = [unit_price(book, name) for name in names]
    found = [one for one in found if arch in {None, one.arch}]
    if not found:
        raise UsageError(f"there is no instance to compare in {book.region}: name a TYPE")
    if as_json:
        rows = [
            {
                "type": one.type,
                "arch": one.arch,
                "usd_per_vcpu_hour": plain(one.usd),
                "lambda_usd_per_vcpu_hour": plain(one.lambda_usd),
                "ratio": one.ratio,
                "utilisation": one.utilisation,
            }
            for one in found
        ]
        click.echo(json.dumps({"region": book.region, "types": rows}, indent=2))
        return
    for line in _price_lines(book, found):
        click.echo(line)


def _price_lines(book: PriceBook, found: Sequence[UnitPrice]) -> list[str]:
    lines = [
        f"What a vCPU costs for an hour in {book.region}; on Lambda it has 1,769 MB.",
        "",
        f"{'type':16}{'arch':8}{'EC2':>10}{'Lambda':>10}{'Lambda/EC2':>12}{'break-even':>12}",
    ]
    lines += [
        f"{one.type:16}{one.arch:8}{one.usd:>10.4f}{one.lambda_usd:>10.4f}"
        f"{one.ratio:>12.2f}{one.utilisation:>12.0%}"
        for one in found
    ]
    return [
        *lines,
        "",
        "Break-even: an instance that is kept on and busy for this share of the time costs as much",
        "as Lambda for the same, if a vCPU does the same on both. That differs: with --tasks and",
        "--seconds, speeds, cold starts and requests count, too.",
    ]


def _by_work(
    book: PriceBook,
    names: Sequence[str],
    memory_mb: int,
    arch: str | None,
    options: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    from fanout.cost.advice import break_even_text
    from fanout.cost.break_even import break_even
    from fanout.cost.estimate import predicted
    from fanout.cost.places import Instances, LambdaFunction

    workload, setting = work_and_setting(options, book)
    found = []
    for name in names:
        instance = book.instance(name)
        function = LambdaFunction(
            memory_mb=memory_mb,
            arch=instance.arch if arch is None else "arm64" if arch == "arm64" else "x86_64",
        )
        here, there = (
            predicted(place, workload, setting, new_rng)
            for place in (function, Instances(type=name))
        )
        for one in (here, there):
            if not one.is_possible:
                raise UsageError(f"{one.what}: not possible, {one.why_not}")
        found.append(break_even(here, there, workload, setting))
    if as_json:
        click.echo(json.dumps({"region": book.region, "types": [*map(_told, found)]}, indent=2))
        return
    for even in found:
        click.echo(f"{even.function.what}, and {even.machine.what}:")
        for line in textwrap.wrap(break_even_text(even), 98):
            click.echo(f"  {line}")


def _told(even: BreakEven) -> dict[str, Any]:
    from fanout.cost.money import plain

    return {
        "function": even.function.place.name,
        "type": even.machine.place.name.removeprefix("ec2:"),
        "kept_on_usd_per_month": plain(even.usd_per_month),
        "runs_per_month": even.runs_per_month,
        "runs_per_month_low": even.low,
        "runs_per_month_high": even.high,
        "most_runs_per_month": even.most_runs,
        "utilisation": even.utilisation,
        "is_reached": even.is_reached,
    }
