"""`fanout cost prices verify`: what is wrong with the price books."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from fanout.cli import Command, say
from fanout.errors import UsageError

if TYPE_CHECKING:
    from fanout.cost.verify import Remark


@click.command(
    cls=Command,
    short_help="Check price books.",
    examples=(
        "fanout cost prices verify\n"
        "fanout cost prices verify --region eu-west-1 --json"
    ),
)  # fmt: skip
@click.option("--region", "regions", multiple=True, metavar="R", help="May be repeated.  "
              "[default: all that have a book]")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
def command(regions: tuple[str, ...], as_json: bool) -> int:
    """Check the shipped price books and yours.

    Looks at dates, what is missing, what is hard to believe, and how yours differ from the shipped
    ones. The exit code is 1 if a price may be wrong: a FAULT; all else is for information.
    """
    from fanout.cost import books

    found: list[Remark] = []
    for region in regions or books.regions():
        found += _remarks(region)
    if as_json:
        told = [{"region": one.region, "is_fault": one.is_fault, "text": one.text} for one in found]
        click.echo(json.dumps(told, indent=2))
    else:
        for one in found:
            click.echo(f"{one.region}: {'FAULT: ' if one.is_fault else ''}{one.text}")
    faults = sum(one.is_fault for one in found)
    say(f"{len(regions or books.regions())} books, {faults} faults")
    return 1 if faults else 0


def _remarks(region: str) -> list[Remark]:
    from fanout.cost import books
    from fanout.cost.book import unknown_region
    from fanout.cost.verify import Remark, remarks

    shipped = books.shipped_book(region)
    try:
        own = books.user_book(region)
    except UsageError as error:
        return [Remark(region=region, text=str(error), is_fault=True)]
    present = [book for book in (shipped, own) if book is not None]
    if not present:
        raise unknown_region(region, books.regions())
    reference = books.shipped_book("us-east-1")
    assert reference is not None
    return remarks(
        books.overlaid(present[0], present[-1]),
        shipped=shipped,
        own=own,
        reference=reference,
        today=books.today(),
    )
