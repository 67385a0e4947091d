"""The bill of a run: what it used, at the prices of a book, item by item and exactly.

    bill = bill_of(usage, book_of("eu-west-1"))
    bill.usd                     Decimal("0.04213…"), the sum of its items to the last digit
    print(bill.text())

Pure. AWS's own rules (aws.amazon.com/lambda/pricing, 2026-11): milliseconds are rounded up for each
invocation (Lambda has done that), a GB is 1024 MB, tiers fill up across a month, for each region
and architecture; disk is charged above 512 MB. What has no price in a region is in the bill all the
same, without one, and the bill says that its sum lacks it: the price of another region never
stands in.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from fanout.budget import FREE_DISK_MB
from fanout.cost.bill_text import summary_of, text_of
from fanout.cost.book import PriceBook
from fanout.cost.items import FREE_LAMBDA_GB_S, FREE_LAMBDA_REQUESTS, ITEMS
from fanout.cost.money import exactly, plain, quotient, total
from fanout.cost.run_usage import Cause

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fanout.cost.book import Price
    from fanout.cost.money import Amount
    from fanout.cost.run_usage import Size, Usage

_MB_MS_PER_GB_S: Final = 1024 * 1000
_BYTES_PER_GB: Final = 2**30
# S3 counts GB-months by the hours of the month, Lambda's other units don't need one. The shortest
# usual month, so that it is never too little; such an amount is rounded to a billionth of a byte.
_S_PER_MONTH: Final = 30 * 24 * 3600
_GB_MONTH: Final = Decimal("1e-18")
# Items whose units are the time of functions.
_TIMES: Final = frozenset(
    {Cause.USEFUL, Cause.RETRIES, Cause.HEDGES, Cause.UNFINISHED, Cause.COLD_STARTS}
)
_FREE: Final = "Lambda's free tier"
_STORED: Final = {
    "put": ("s3.put", "objects written"),
    "get": ("s3.get", "objects read"),
    "list": ("s3.list", "objects listed"),
    "byte_s": ("s3.storage_gb_month", "objects kept"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BillItem:
    """One line of a bill: `usd` is `units` times `price_usd`, exactly.

    Attributes:
        cause: Why it is paid for.
        what: What it is.
        region: Where.
        units: How many.
        unit: Of what.
        price_usd: US dollars for one; None if the region has no price for it.
        source: Where the price is from, and of when.
        usd: US dollars; None if it isn't priced.
        is_measured: Whether the units are what AWS or the client counted; else they are assumed.
    """

    cause: Cause
    what: str
    region: str
    units: Decimal
    unit: str
    price_usd: Decimal | None
    source: str
    usd: Decimal | None
    is_measured: bool

    def as_dict(self) -> dict[str, Any]:
        """For JSON: amounts as text, with all their digits."""
        return {
            "cause": self.cause.value,
            "what": self.what,
            "region": self.region,
            "units": plain(self.units),
            "unit": self.unit,
            "price_usd": None if self.price_usd is None else plain(self.price_usd),
            "source": self.source,
            "usd": None if self.usd is None else plain(self.usd),
            "basis": "measured" if self.is_measured else "assumed",
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """What something cost, or would cost.

    Attributes:
        items: By cause.
    """

    items: tuple[BillItem, ...] = ()

    @property
    def usd(self) -> Decimal:
        """US dollars: the sum of all items that have a price."""
        return total(item.usd for item in self.items if item.usd is not None)

    @property
    def gb_s(self) -> Decimal:
        """Billed time of functions, starts included, GB-seconds."""
        return total(item.units for item in self.items if item.cause in _TIMES)

    @property
    def requests(self) -> int:
        """Invocations."""
        return int(total(item.units for item in self.items if item.cause is Cause.REQUESTS))

    @property
    def assumed_usd(self) -> Decimal:
        """What of the sum is assumed and not measured."""
        priced = (item for item in self.items if item.usd is not None and not item.is_measured)
        return total(item.usd or 0 for item in priced)

    @property
    def unpriced(self) -> list[BillItem]:
        """What the sum lacks, as no price is known."""
        return [item for item in self.items if item.usd is None]

    def by_cause(self) -> dict[Cause, Decimal]:
        """The sum for each cause that there is, in the order of the items."""
        return {
            cause: total(item.usd or 0 for item in self.items if item.cause is cause)
            for cause in dict.fromkeys(item.cause for item in self.items)
        }

    @property
    def summary(self) -> str:
        """In a few words: for a line of a log."""
        return summary_of(self)

    def text(self) -> str:
        """A table for people."""
        return text_of(self)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: amounts as text, with all their digits."""
        return {
            "usd": plain(self.usd),
            "is_complete": not self.unpriced,
            "assumed_usd": plain(self.assumed_usd),
            "gb_s": plain(self.gb_s),
            "requests": self.requests,
            "by_cause": {cause.value: plain(usd) for cause, usd in self.by_cause().items()},
            "items": [item.as_dict() for item in self.items],
        }


def bill_of(
    usage: Usage,
    books: PriceBook | Mapping[str, PriceBook],
    *,
    before: Mapping[str, Amount] | None = None,
    has_free_tier: bool = False,
    is_client_outside: bool = True,
) -> Bill:
    """The bill for what was used.

    Args:
        usage: It.
        books: The price book, or those of several regions; a region without one has no prices.
        before: What the month has had before, by item of the price books: its units fill the lower
            tiers, as in `{"lambda.gb_s.arm64": 10**9, "lambda.request.arm64": 4_000_000}`.
        has_free_tier: Whether what Lambda gives away in each month still counts, for what `before`
            leaves of it.
        is_client_outside: Whether answers leave AWS for the internet.
    """
    known = {books.region: books} if isinstance(books, PriceBook) else books
    register = _Register(known, dict(before or {}), has_free_tier=has_free_tier)
    _charge_time(register, usage)
    for (region, arch, is_measured), count in sorted(usage.requests.items()):
        name = f"lambda.request.{arch}"
        register.charge(Cause.REQUESTS, "invocations", region, name, Decimal(count), is_measured)
    _charge_storage(register, usage)
    for (region, is_measured), nbytes in sorted(usage.log_bytes.items()):
        units = quotient(nbytes, _BYTES_PER_GB)
        register.charge(Cause.LOGS, "log", region, "logs.ingested_gb", units, is_measured)
    if is_client_outside:
        for (region, _), nbytes in sorted(usage.answer_bytes.items()):
            units = quotient(nbytes, _BYTES_PER_GB)
            what = "answers to the internet"
            register.charge(Cause.TRANSFER, what, region, "transfer.internet_gb", units, False)
    return Bill(items=tuple(register.items))


def gb_s_of(ms: int, memory_mb: int) -> Decimal:
    """GB-seconds of so many milliseconds, exactly."""
    with exactly():
        return Decimal(ms * memory_mb) / _MB_MS_PER_GB_S


def _charge_time(register: _Register, usage: Usage) -> None:
    order = {cause: at for at, cause in enumerate(Cause)}
    rows = [(order[key[0]], *key, ms) for key, ms in usage.time_ms.items()]
    rows += [
        (order[Cause.COLD_STARTS], Cause.COLD_STARTS, *key, ms) for key, ms in usage.init_ms.items()
    ]
    for _, cause, size, is_measured, ms in sorted(rows):
        what = f"{size.memory_mb:,} MB, {size.arch}"
        units = gb_s_of(ms, size.memory_mb)
        register.charge(cause, what, size.region, f"lambda.gb_s.{size.arch}", units, is_measured)


def _charge_storage(register: _Register, usage: Usage) -> None:
    disks: dict[tuple[Size, bool], int] = {}
    for (_, size, is_measured), ms in usage.time_ms.items():
        disks[size, is_measured] = disks.get((size, is_measured), 0) + ms
    for key, ms in usage.init_ms.items():
        disks[key] = disks.get(key, 0) + ms
    for (size, is_measured), ms in sorted(disks.items()):
        if (above_mb := size.disk_mb - FREE_DISK_MB) > 0:
            units, name = gb_s_of(ms, above_mb), "lambda.ephemeral_gb_s"
            what = f"disk, {above_mb:,} MB above {FREE_DISK_MB}"
            register.charge(Cause.STORAGE, what, size.region, name, units, is_measured)
    for (region, kind, is_measured), count in sorted(usage.stored.items()):
        name, what = _STORED[kind]
        units = Decimal(count)
        if kind == "byte_s":
            units = quotient(count, _BYTES_PER_GB * _S_PER_MONTH).quantize(_GB_MONTH)
        register.charge(Cause.STORAGE, what, region, name, units, is_measured)


class _Register:
    """Makes the items, and remembers how far the tiers of the month are filled."""

    def __init__(
        self, books: Mapping[str, PriceBook], before: dict[str, Amount], *, has_free_tier: bool
    ) -> None:
        self.items: list[BillItem] = []
        self._books = books
        self._before = before
        self._used: dict[tuple[str, str], Decimal] = {}
        self._free: dict[str, Decimal] = {}
        if has_free_tier:
            for start, free in (
                ("lambda.gb_s.", FREE_LAMBDA_GB_S),
                ("lambda.request.", FREE_LAMBDA_REQUESTS),
            ):
                used = total(units for name, units in before.items() if name.startswith(start))
                self._free[start] = total([max(Decimal(free) - used, Decimal(0))])

    def charge(
        self, cause: Cause, what: str, region: str, name: str, units: Decimal, is_measured: bool
    ) -> None:
        """Add what so many units cost; nothing if there are none."""
        if not units:
            return
        book = self._books.get(region)
        price = None if book is None else book.prices.get(name)
        for part, usd, source in self._parts(region, name, units, price):
            with exactly():
                cost = None if usd is None else part * usd
            self.items.append(
                BillItem(
                    cause=cause,
                    what=what,
                    region=region,
                    units=part,
                    unit=ITEMS[name].unit,
                    price_usd=usd,
                    source=source,
                    usd=cost,
                    is_measured=is_measured,
                )
            )

    def _parts(
        self, region: str, name: str, units: Decimal, price: Price | None
    ) -> Iterator[tuple[Decimal, Decimal | None, str]]:
        """The units by what one of them costs."""
        already = self._used.get((region, name), Decimal(self._before.get(name, 0)))
        with exactly():
            self._used[region, name] = already + units
        for start, left in self._free.items():
            if name.startswith(start) and left:
                free = min(left, units)
                with exactly():
                    self._free[start] = left - free
                    units, already = units - free, already + free
                yield free, Decimal(0), _FREE
        if not units:
            return
        if price is None:
            yield units, None, f"no price known for {region or 'where it ran'}"
            return
        source = f"{price.source}, {price.published}"
        starts = [tier.from_units for tier in price.tiers]
        with exactly():
            for tier, until in zip(price.tiers, [*starts[1:], None], strict=True):
                upper = already + units if until is None else min(already + units, until)
                part = upper - max(already, tier.from_units)
                if part > 0:
                    yield part, tier.usd, source
