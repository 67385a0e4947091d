"""What an offer file changes in a price book, and what of it is not believed.

Pure. A price that is not in the file stays as it is, and is named. One that is three times what it
was, or a third, is more likely a change of AWS's format or units than of its prices: it is flagged
and not taken, unless the user insists. Where there is no price as yet, that of us-east-1 is what it
is held against, within a factor of ten: regions do differ, by up to two or so.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from fanout.cost.book import Instance, Price, PriceBook
from fanout.cost.items import EC2_OFFER, ITEMS
from fanout.cost.money import product
from fanout.cost.price_list.matching import items_of

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping

    from fanout.cost.price_list import Found

V = TypeVar("V")

MAX_CHANGE: Final = 3
MAX_DIFFERENCE: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A price in the file, and what it was.

    Attributes:
        name: The item or type of instance.
        old: What it was; None if it was not known.
        new: What the file says.
        why: Why it was not taken; "" if it was.
    """

    name: str
    old: Price | None
    new: Price
    why: str = ""

    @property
    def is_same(self) -> bool:
        """Whether it costs what it did."""
        return self.old is not None and self.old.tiers == self.new.tiers


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    """What an offer file made of a book.

    Attributes:
        offer: The file's code.
        published: When AWS published it.
        book: The user's book as it is to be.
        same: How many prices were confirmed.
        changes: Prices that changed, or were not known.
        refused: Prices that were not taken, and why.
        missing: What the file does not have as expected, and why; it stays as it was.
    """

    offer: str
    published: dt.date
    book: PriceBook
    same: int
    changes: list[Change]
    refused: list[Change]
    missing: dict[str, str]


def renewed(
    found: Found,
    *,
    offer: str,
    source: str,
    own: PriceBook,
    current: PriceBook,
    reference: PriceBook,
    is_forced: bool = False,
) -> Renewal:
    """The user's book with what an offer file has.

    Args:
        found: What is in the file.
        offer: Its code.
        source: What to call it.
        own: The user's book as it is, maybe empty.
        current: The prices that count now, the user's over the shipped ones.
        reference: The book of us-east-1.
        is_forced: Take prices that are not believed, too.
    """
    prices = {
        name: Price(tiers=tiers, unit=ITEMS[name].unit, source=source, published=found.published)
        for name, tiers in found.prices.items()
    }
    instances = {name: _sourced(one, source) for name, one in found.instances.items()}
    old, usual = _all(current), _all(reference)
    judged = [
        Change(
            name=name,
            old=old.get(name),
            new=price,
            why=_doubt(price, old.get(name), usual.get(name), is_forced=is_forced),
        )
        for name, price in {**prices, **_rates(instances)}.items()
    ]
    refused = [change for change in judged if change.why]
    taken = [change for change in judged if not change.why]
    changes = [change for change in taken if not change.is_same]
    not_taken = {change.name for change in refused}
    return Renewal(
        offer=offer,
        published=found.published,
        book=PriceBook(
            region=own.region,
            prices=_with(own.prices, prices, not_taken),
            instances=_with(own.instances, instances, not_taken),
        ),
        same=len(taken) - len(changes),
        changes=changes,
        refused=refused,
        missing=_missing(offer, found, current),
    )


def _sourced(one: Instance, source: str) -> Instance:
    price = dataclasses.replace(one.usd_per_hour, source=source)
    return dataclasses.replace(one, usd_per_hour=price)


def _all(book: PriceBook) -> dict[str, Price]:
    return {**book.prices, **_rates(book.instances)}


def _rates(instances: Mapping[str, Instance]) -> dict[str, Price]:
    return {name: one.usd_per_hour for name, one in instances.items()}


def _with(have: Mapping[str, V], more: Mapping[str, V], but: set[str]) -> dict[str, V]:
    return {**have, **{name: one for name, one in more.items() if name not in but}}


def _doubt(new: Price, old: Price | None, usual: Price | None, *, is_forced: bool) -> str:
    """Why a price is not taken; "" if it is."""
    if old is not None and new.published < old.published:
        return f"the file is of {new.published}, and what is known of {old.published}"
    if is_forced:
        return ""
    if old is not None and differs(new, old, MAX_CHANGE):
        return f"more than {MAX_CHANGE} times what it was, or less than a third"
    if old is None and usual is not None and differs(new, usual, MAX_DIFFERENCE):
        return f"more than {MAX_DIFFERENCE} times the price in us-east-1, or less than a tenth"
    return ""


def differs(one: Price, other: Price, factor: int) -> bool:
    """Whether two prices differ by more than a factor, in any of the tiers that both have."""
    return any(
        a.usd > product(b.usd, factor) or b.usd > product(a.usd, factor)
        for a, b in zip(one.tiers, other.tiers, strict=False)
    )


def _missing(offer: str, found: Found, current: PriceBook) -> dict[str, str]:
    wanted = items_of(offer)
    if offer == EC2_OFFER:
        wanted += sorted(current.instances)
    have = found.prices.keys() | found.instances.keys()
    absent = {name: "is not in the file" for name in wanted if name not in have}
    return absent | found.troubles
