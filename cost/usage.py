"""What is used, and what that costs: items that add up to the total, exactly.

Pure. A usage is units by the name of an item of the price book, `ec2:TYPE` and `ec2-spot:TYPE` for
hours of instances. Tiers and the free tier count for a month, so a run costs what a month of runs
costs over their number, rounded to a billionth of a dollar for each item.
"""

from __future__ import annotations

import decimal
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from fanout.cost.items import FREE_LAMBDA_GB_S, FREE_LAMBDA_REQUESTS, ITEMS
from fanout.cost.money import exactly, quotient, rounded, total

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fanout.cost.book import PriceBook

_STEP: Final = Decimal("1e-9")  # of a dollar
_DIGITS: Final = 9  # of units that a model has found


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """What one thing costs.

    Attributes:
        name: In the price book, or `ec2:TYPE`.
        what: In words.
        units: How many a run uses.
        unit: Of what.
        usd_per_run: US dollars, a billionth at the finest.
        usd_per_month: For all runs of a month.
    """

    name: str
    what: str
    units: Decimal
    unit: str
    usd_per_run: Decimal
    usd_per_month: Decimal


def units(value: float) -> Decimal:
    """A number that a model has found, as an amount."""
    return Decimal(f"{max(0.0, value):.{_DIGITS}f}")


def runs(value: float) -> Decimal:
    """Runs a month, as an amount."""
    return Decimal(f"{value:.9f}")


def priced(
    usage: Mapping[str, Decimal],
    book: PriceBook,
    *,
    runs_per_month: Decimal,
    is_free_tier: bool = False,
    spot_discount: Decimal = Decimal(0),
) -> tuple[Item, ...]:
    """What a run costs, item by item; what has no units is left out.

    Args:
        usage: Units of one run by item.
        book: Prices.
        runs_per_month: How often it is run.
        is_free_tier: Whether Lambda's free tier is this workload's alone.
        spot_discount: From the on-demand price, 0 to 1.

    Raises:
        PriceMissingError: An item has no price in this region.
    """
    free = {}
    if is_free_tier:
        free = {"lambda.gb_s": FREE_LAMBDA_GB_S, "lambda.request": FREE_LAMBDA_REQUESTS}
    found = []
    for name, count in usage.items():
        if not count:
            continue
        with exactly():
            month = max(Decimal(0), count * runs_per_month - free.get(name.rpartition(".")[0], 0))
        usd, what, unit = _cost(name, month, book, spot_discount)
        with rounded():
            per_run = quotient(usd, runs_per_month).quantize(_STEP, decimal.ROUND_HALF_EVEN)
        found.append(
            Item(
                name=name,
                what=what,
                units=count,
                unit=unit,
                usd_per_run=per_run,
                usd_per_month=usd,
            )
        )
    return tuple(found)


def _cost(
    name: str, month: Decimal, book: PriceBook, spot_discount: Decimal
) -> tuple[Decimal, str, str]:
    kind, _, type_name = name.partition(":")
    if not type_name:
        return book[name].cost(month), ITEMS[name].what, ITEMS[name].unit
    usd = book.instance(type_name).usd_per_hour.cost(month)
    if kind == "ec2-spot":
        with exactly():
            return usd * (1 - spot_discount), f"{type_name}, spot", "hour"
    return usd, f"{type_name}, on demand", "hour"


def per_run(items: tuple[Item, ...]) -> Decimal:
    """What a run costs: the sum of its items."""
    return total(item.usd_per_run for item in items)


def per_month(items: tuple[Item, ...]) -> Decimal:
    """What a month costs: the sum of its items."""
    return total(item.usd_per_month for item in items)
