"""A price book: what AWS charges in one region, each figure with its source and date.

    book["lambda.gb_s.x86_64"].cost(Decimal("1727.5"))     Decimal("0.02879172425")
    book.instance("c8g.4xlarge").usd_per_hour.usd          Decimal("0.63808")

Pure: records and exact sums. What a book has no price of raises, and names the region: the price
of another one never stands in. Names of items are listed in `items.py`; `books.py` reads the files.
"""

from __future__ import annotations

import difflib
import itertools
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from fanout.cost.items import AWS_REGIONS, ITEMS, service_of
from fanout.cost.money import Amount, amount, exactly
from fanout.errors import PriceMissingError, UsageError

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Mapping

Architecture: TypeAlias = Literal["x86_64", "arm64"]

# AWS changes prices a few times a year, and lowers most of them; half a year is what we vouch for.
MAX_AGE_DAYS: Final = 180
_NEAR: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """What one unit costs from so many units a month on.

    Attributes:
        from_units: Units of the month before it; 0 for the first tier.
        usd: US dollars for one unit.
    """

    from_units: Decimal
    usd: Decimal

    def __post_init__(self) -> None:
        amount(self.from_units, "from_units")
        amount(self.usd, "usd")


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What something costs, and who says so.

    Attributes:
        tiers: The first from 0 units, the others in order.
        unit: What is counted, for example "GB-second".
        source: Where the figure is from.
        published: When that was published.
        note: What must be known of it, for example that nobody has verified it; mostly empty.
    """

    tiers: tuple[Tier, ...]
    unit: str
    source: str
    published: dt.date
    note: str = ""

    def __post_init__(self) -> None:
        starts = [tier.from_units for tier in self.tiers]
        if not starts or starts[0] != 0 or any(a >= b for a, b in itertools.pairwise(starts)):
            told = ", ".join(map(str, starts))
            raise UsageError(f"tiers begin at {told or 'nothing'}: give 0 first, then in order")

    @property
    def usd(self) -> Decimal:
        """US dollars for one unit in the first tier."""
        return self.tiers[0].usd

    def cost(self, units: Amount, already: Amount = 0) -> Decimal:
        """US dollars for so many units, exactly.

        Args:
            units: How many: an integer or a `Decimal`.
            already: How many the month has had before: they fill the lower tiers.

        Raises:
            UsageError: One of them is negative, not finite, or a float.
        """
        begin = amount(already, f"already ({self.unit}s)")
        with exactly():
            end = begin + amount(units, f"units ({self.unit}s)")
            ends = [*(tier.from_units for tier in self.tiers[1:]), None]
            found = Decimal(0)
            for tier, until in zip(self.tiers, ends, strict=True):
                upper = end if until is None else min(end, until)
                found += max(upper - max(begin, tier.from_units), Decimal(0)) * tier.usd
            return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A type of EC2 instance, on demand with Linux.

    Attributes:
        name: For example "c8g.4xlarge".
        arch: "x86_64" or "arm64".
        vcpus: Processors that the operating system shows.
        cores: Physical cores of them; None where the source does not tell.
        memory_gib: Memory, GiB.
        network: As AWS words it, for example "Up to 15 Gigabit".
        clock_ghz: Sustained clock; None where the source does not tell.
        is_burstable: Whether its processors are yours for part of the time only (T family).
        is_bare_metal: Whether it has no hypervisor.
        gpus: How many.
        usd_per_hour: Its price; billed by the second, at least a minute.
    """

    name: str
    arch: Architecture
    vcpus: int
    cores: int | None
    memory_gib: float
    network: str
    clock_ghz: float | None
    is_burstable: bool
    is_bare_metal: bool
    gpus: int
    usd_per_hour: Price


@dataclass(frozen=True, slots=True, kw_only=True)
class OldPrices:
    """Prices of one service that nobody has renewed for long.

    Attributes:
        service: The first part of an item's name, or "ec2".
        newest: When the newest of them was published.
        age_days: How long ago that is.
    """

    service: str
    newest: dt.date
    age_days: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceBook:
    """All prices of a region.

    Attributes:
        region: For example "eu-west-1".
        prices: By the name of the item, as `items.ITEMS` lists them; not every book has all.
        instances: Types of EC2 instance by name; empty if the book has none.
    """

    region: str
    prices: Mapping[str, Price]
    instances: Mapping[str, Instance]

    def __getitem__(self, item: str) -> Price:
        """The price of an item.

        Raises:
            PriceMissingError: It isn't known for this region.
            UsageError: There is no such item.
        """
        if item in self.prices:
            return self.prices[item]
        if item not in ITEMS:
            raise UsageError(f"no item {item!r} in price books: {_near(item, ITEMS)}")
        raise PriceMissingError(self.region, item)

    def __contains__(self, item: object) -> bool:
        return item in self.prices

    def instance(self, name: str) -> Instance:
        """A type of EC2 instance.

        Raises:
            PriceMissingError: No instance of this region is known.
            UsageError: The region has none of this name, as far as is known.
        """
        if name in self.instances:
            return self.instances[name]
        if not self.instances:
            raise PriceMissingError(self.region, f"EC2 instance {name}")
        msg = f"no EC2 instance type {name!r} is known in {self.region}"
        raise UsageError(f"{msg}: {_near(name, self.instances)}")

    def missing(self) -> list[str]:
        """Items without a price here; "ec2" among them if there is no instance."""
        found = [item for item in ITEMS if item not in self.prices]
        return found if self.instances else [*found, "ec2"]

    def old(self, today: dt.date, services: Iterable[str] | None = None) -> list[OldPrices]:
        """Services whose prices are older than 180 days.

        The newest figure of a service decides: then somebody last read its list, and what had not
        changed may keep an older source. So one service that is renewed hides no other.

        Args:
            today: The day to count from.
            services: Look at these only, for example `["lambda", "s3"]`.
        """
        newest: dict[str, dt.date] = {}
        dated = [(service_of(item), price.published) for item, price in self.prices.items()]
        dated += [("ec2", one.usd_per_hour.published) for one in self.instances.values()]
        for service, published in dated:
            newest[service] = max(published, newest.get(service, published))
        wanted = None if services is None else {*services}
        return [
            OldPrices(service=service, newest=day, age_days=(today - day).days)
            for service, day in newest.items()
            if (today - day).days > MAX_AGE_DAYS and (wanted is None or service in wanted)
        ]


def unknown_region(region: str, known: Iterable[str]) -> UsageError:
    """There is no book for a region; what there is, and how to get one."""
    have = f"there are books for {', '.join(sorted(known))}"
    if region in AWS_REGIONS:
        return UsageError(
            f"no price book for region {region}: {have}; `fanout cost prices refresh --region "
            f"{region}` makes one from AWS's public price list, without an account"
        )
    hint = near_regions(region).removeprefix(": ")
    return UsageError(f"no region {region!r} is known: {hint}{' ' if hint else ''}{have}")


def near_regions(region: str) -> str:
    """The regions that may have been meant, as the end of a message; "" if this is one."""
    if region in AWS_REGIONS:
        return ""
    near = difflib.get_close_matches(region, AWS_REGIONS, n=_NEAR, cutoff=0.6)
    return f": did you mean {' or '.join(near)}?" if near else ""


def old_text(region: str, old: Iterable[OldPrices]) -> str:
    """What to say of prices that are old; "" if none is."""
    told = ", ".join(f"{one.service} of {one.newest} ({one.age_days} days)" for one in old)
    if not told:
        return ""
    return (
        f"prices of {region} are older than {MAX_AGE_DAYS} days: {told}; renew them with "
        f"`fanout cost prices refresh --region {region}`"
    )


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=_NEAR, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return "`fanout cost prices show` lists what there is"
