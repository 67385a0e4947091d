"""`fanout cost prices show`: prices with their source and date."""

from __future__ import annotations

import fnmatch
import json
from typing import TYPE_CHECKING, Any

import click

from fanout.cli import Command, say
from fanout.cost.commands.options import region_option
from fanout.cost.money import plain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fanout.cost.book import Instance, Price, PriceBook


@click.command(
    cls=Command,
    short_help="Show prices.",
    examples=(
        "fanout cost prices show\n"
        "fanout cost prices show --region ap-northeast-1 'lambda.*'\n"
        "fanout cost prices show 'c8g.*' r4.16xlarge nat.hour\n"
        "fanout cost prices show --json > prices.json"
    ),
)
@region_option
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout, with all that is known.")
@click.argument("names", nargs=-1, metavar="[ITEM|TYPE]...")
def command(region: str, as_json: bool, names: tuple[str, ...]) -> None:
    """Show the prices of a region, each with its source and date.

    ITEM is what is paid for, TYPE an EC2 instance (Linux, on demand); both may have * in them.
    Without any, all items are shown, and with --json all instances, too.
    """
    from fanout.cost.book import old_text
    from fanout.cost.books import quiet_book_of, today

    book = quiet_book_of(region)
    prices, instances = _chosen(book, names, with_instances=as_json)
    if told := old_text(region, book.old(today())):
        say(told)
    if as_json:
        click.echo(json.dumps(_report(region, prices, instances), indent=2))
        return
    for line in _price_lines(prices):
        click.echo(line)
    if instances:
        if prices:
            click.echo()
        for line in _instance_lines(instances):
            click.echo(line)
    if not names:
        _tell_of_the_rest(book)


def _chosen(
    book: PriceBook, names: tuple[str, ...], *, with_instances: bool
) -> tuple[dict[str, Price], dict[str, Instance]]:
    if not names:
        return dict(book.prices), dict(book.instances) if with_instances else {}
    prices: dict[str, Price] = {}
    instances: dict[str, Instance] = {}
    for name in names:
        if "*" in name:
            of_items = fnmatch.filter(book.prices, name)
            of_types = fnmatch.filter(book.instances, name)
            if not of_items and not of_types:
                raise click.UsageError(f"no item and no instance type of {book.region} is {name}")
            prices |= {item: book[item] for item in of_items}
            instances |= {one: book.instance(one) for one in of_types}
        elif _is_instance(name):
            instances[name] = book.instance(name)
        else:
            prices[name] = book[name]
    return prices, instances


def _is_instance(name: str) -> bool:
    """Whether a name is made like "c8g.4xlarge": a family, which has a digit, and a size."""
    from fanout.cost.items import ITEMS

    family = name.partition(".")[0]
    return name not in ITEMS and any(char.isdigit() for char in family) and family != "s3"


def _tiers_text(price: Price) -> str:
    """As in "0.09; from 10,240: 0.085"."""
    first, *others = price.tiers
    more = "".join(f"; from {tier.from_units:,f}: {plain(tier.usd)}" for tier in others)
    return f"${plain(first.usd)}{more}"


def _price_lines(prices: Mapping[str, Price]) -> list[str]:
    """A table, and below it the sources and notes that its last column refers to."""
    if not prices:
        return []
    rows = [("item", "per", "price", "of", "source")]
    numbers: dict[str, int] = {}
    for name, price in prices.items():
        told = [price.source, price.note] if price.note else [price.source]
        marks = [str(numbers.setdefault(text, len(numbers) + 1)) for text in told]
        published = price.published.isoformat()
        rows.append((name, price.unit, _tiers_text(price), published, ", ".join(marks)))
    return [*table(rows), "", *(f"{number:>3}  {text}" for text, number in numbers.items())]


def _instance_lines(instances: Mapping[str, Instance]) -> list[str]:
    rows = [("type", "$/hour", "vCPUs", "cores", "GiB", "arch", "GHz", "network", "of")]
    for name, one in instances.items():
        rows.append(
            (
                name,
                plain(one.usd_per_hour.usd),
                str(one.vcpus),
                "?" if one.cores is None else str(one.cores),
                f"{one.memory_gib:g}",
                one.arch,
                "?" if one.clock_ghz is None else f"{one.clock_ghz:g}",
                one.network,
                one.usd_per_hour.published.isoformat(),
            )
        )
    return table(rows)


def table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows as lines, with columns as wide as they need."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows]  # fmt: skip


def _tell_of_the_rest(book: PriceBook) -> None:
    if book.instances:
        say(f"and {len(book.instances):,} types of EC2 instance: name some, or '*.large'")
    if missing := book.missing():
        say(
            f"not known in {book.region}: {', '.join(missing)}; `fanout cost prices refresh "
            f"--region {book.region}` reads them from AWS's public price list"
        )


def _report(
    region: str, prices: Mapping[str, Price], instances: Mapping[str, Instance]
) -> dict[str, Any]:
    return {
        "region": region,
        "prices": {name: _price(price) for name, price in prices.items()},
        "instances": {
            name: {
                "arch": one.arch,
                "vcpus": one.vcpus,
                "cores": one.cores,
                "memory_gib": one.memory_gib,
                "network": one.network,
                "clock_ghz": one.clock_ghz,
                "is_burstable": one.is_burstable,
                "is_bare_metal": one.is_bare_metal,
                "gpus": one.gpus,
                "usd_per_hour": plain(one.usd_per_hour.usd),
                "source": one.usd_per_hour.source,
                "published": one.usd_per_hour.published.isoformat(),
            }
            for name, one in instances.items()
        },
    }


def _price(price: Price) -> dict[str, Any]:
    """Amounts are text: a JSON number may become a float."""
    return {
        "unit": price.unit,
        "tiers": [
            {"from_units": plain(tier.from_units), "usd": plain(tier.usd)} for tier in price.tiers
        ],
        "source": price.source,
        "published": price.published.isoformat(),
        "note": price.note,
    }
