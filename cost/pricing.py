"""Prices for what runs have used: the books of their regions, read when they are first needed.

Shell, and thin. A run never fails for want of a price: what has none is in its bill without one,
and that is said once. Only a cap in dollars can't do without.
"""

from __future__ import annotations

import functools
import logging
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Final

from fanout.budget import Rates
from fanout.cost.bill import bill_of, gb_s_of
from fanout.cost.books import book_of
from fanout.cost.run_usage import Size
from fanout.errors import UsageError

if TYPE_CHECKING:
    from fanout.budget import Billed
    from fanout.cost.bill import Bill
    from fanout.cost.book import PriceBook
    from fanout.cost.ledger import SoFar
    from fanout.cost.run_usage import Usage

_LOG: Final = logging.getLogger("fanout")
# Those that are in bills; others may be as old as they like.
_SERVICES: Final = ("lambda", "s3", "logs", "transfer")


def priced(usage: Usage, *, has_free_tier: bool = False, is_client_outside: bool = True) -> Bill:
    """The bill for what was used, by the books of its regions; see `bill_of`."""
    books = {region: known_book(region) for region in usage.regions}
    return bill_of(
        usage,
        {region: book for region, book in books.items() if book is not None},
        has_free_tier=has_free_tier,
        is_client_outside=is_client_outside,
    )


@functools.cache
def known_book(region: str) -> PriceBook | None:
    """The book of a region; None if there is none, which is told once."""
    try:
        return book_of(region, _SERVICES)
    except UsageError as error:
        _LOG.warning("fanout: bills have no dollars for %s: %s", region or "this backend", error)
        return None


def rates_of(billed: Billed) -> Rates:
    """What attempts cost on a function, and on the larger one for what is escalated.

    Raises:
        UsageError: A price is not known.
    """
    found = [rates_at(Size.of(billed))]
    if billed.larger is not None:
        found.append(rates_at(Size.of(billed.larger)))
    # Where the larger function has another architecture, or is elsewhere, the dearer one counts.
    return Rates(
        usd_per_gb_s=max(rates.usd_per_gb_s for rates in found),
        usd_per_request=max(rates.usd_per_request for rates in found),
    )


def rates_at(size: Size) -> Rates:
    """What attempts cost, at the prices of the first tier.

    Raises:
        UsageError: A price is not known.
    """
    book = book_of(size.region, ["lambda"])
    return Rates(
        usd_per_gb_s=Fraction(book[f"lambda.gb_s.{size.arch}"].usd),
        usd_per_request=Fraction(book[f"lambda.request.{size.arch}"].usd),
    )


def usd_so_far(so_far: list[SoFar]) -> tuple[float, float | None]:
    """What attempts have cost that have ended: GB-seconds, and dollars if prices are known.

    Their time and their requests, no more: for progress.
    """
    gb_s, usd, is_known = Decimal(0), Decimal(0), True
    for size, ms, requests in so_far:
        used = gb_s_of(ms, size.memory_mb)
        gb_s += used
        prices = {} if (book := known_book(size.region)) is None else book.prices
        names = (f"lambda.gb_s.{size.arch}", f"lambda.request.{size.arch}")
        is_known = is_known and all(name in prices for name in names)
        if is_known:
            usd += used * prices[names[0]].usd + requests * prices[names[1]].usd
    return float(gb_s), float(usd) if is_known else None
