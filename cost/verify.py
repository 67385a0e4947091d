"""Looks for what is wrong with a price book: old, missing, or hard to believe.

Pure. A remark is a fault where somebody would be told a wrong price; all else is for information.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fanout.cost.book import MAX_AGE_DAYS, old_text
from fanout.cost.items import EC2_OFFER
from fanout.cost.money import plain
from fanout.cost.renewal import MAX_DIFFERENCE, differs

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator

    from fanout.cost.book import Price, PriceBook


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """Something about a price book.

    Attributes:
        region: Whose.
        text: What there is to say.
        is_fault: Whether a price may be wrong.
    """

    region: str
    text: str
    is_fault: bool = False


def remarks(
    book: PriceBook,
    *,
    shipped: PriceBook | None,
    own: PriceBook | None,
    reference: PriceBook,
    today: dt.date,
) -> list[Remark]:
    """What there is to say of a book.

    Args:
        book: The prices that count: the user's over the shipped ones.
        shipped: What fanout ships.
        own: The user's.
        reference: The book of us-east-1, which others are held against.
        today: The day.
    """
    usual = _all(reference)
    found = [
        Remark(region=book.region, text=text, is_fault=True)
        for name, price in _all(book).items()
        for text in _faults(name, price, usual.get(name), today)
    ]
    told = (*_state(book, today), *_differences(shipped, own))
    return found + [Remark(region=book.region, text=text) for text in told]


def _all(book: PriceBook) -> dict[str, Price]:
    return {**book.prices, **{name: one.usd_per_hour for name, one in book.instances.items()}}


def _faults(name: str, price: Price, usual: Price | None, today: dt.date) -> Iterator[str]:
    if price.published > today:
        yield f"{name} is of {price.published}, which is still to come"
    if not all(tier.usd for tier in price.tiers):
        yield f"{name} costs nothing in one of its tiers"
    if any(a.usd <= b.usd for a, b in zip(price.tiers, price.tiers[1:], strict=False)):
        yield f"{name} does not get cheaper from tier to tier"
    if usual is not None and differs(price, usual, MAX_DIFFERENCE):
        yield (
            f"{name} costs ${plain(price.usd)}, and ${plain(usual.usd)} in us-east-1: more than "
            f"{MAX_DIFFERENCE} times as much, or less than a tenth"
        )


def _state(book: PriceBook, today: dt.date) -> Iterator[str]:
    if told := old_text(book.region, book.old(today)):
        yield told
    singly = [
        f"{name} ({price.published})"
        for name, price in book.prices.items()
        if (today - price.published).days > MAX_AGE_DAYS
    ]
    if singly:
        yield f"older than {MAX_AGE_DAYS} days: {', '.join(singly)}"
    noted: dict[str, list[str]] = {}
    for name, price in book.prices.items():
        if price.note:
            noted.setdefault(price.note, []).append(name)
    for note, names in noted.items():
        yield f"{note}: {', '.join(names)}"
    if missing := book.missing():
        yield f"not known: {', '.join(missing)}"


def _differences(shipped: PriceBook | None, own: PriceBook | None) -> Iterator[str]:
    if shipped is None or own is None:
        return
    ours, theirs = _all(shipped), _all(own)
    for name in theirs.keys() & ours.keys():
        mine, other = theirs[name], ours[name]
        if mine.tiers != other.tiers:
            counts = "yours" if mine.published > other.published else "the shipped one"
            yield (
                f"{name} is ${plain(mine.usd)} in your book of {mine.published} and "
                f"${plain(other.usd)} in the shipped one of {other.published}; {counts} counts"
            )
    if own.instances and (gone := sorted(shipped.instances.keys() - own.instances.keys())):
        yield f"not in the {EC2_OFFER} file that you have read: {', '.join(gone)}"
