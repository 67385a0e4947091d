"""Finds the items of a price book among the rows of an offer file.

Pure. An item is found by its group or operation, its usage type without the region's prefix, and
its unit, all of them exact: so neither Lambda@Edge, MicroVMs, spot discounts nor regional NAT
gateways are taken for what they resemble. Whatever is not as expected is told, and not taken.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from fanout.cost.book import Instance, Tier
from fanout.cost.items import ARCHITECTURES, EC2_OFFER, ITEMS
from fanout.cost.money import amount, product, quotient
from fanout.cost.price_list.ec2 import instance_of, is_linux_on_demand
from fanout.cost.price_list.rows import is_of, usage_of
from fanout.errors import UsageError

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping

    from fanout.cost.price_list.rows import Offer, Row

_SECONDS: Final = {"Lambda-GB-Second": 1, "GB-Seconds": 1, "GB-Second": 1}
_REQUESTS: Final = {"Requests": 1, "Request": 1}
_GB: Final = {"GB": 1, "Processed-Gigabytes": 1}
_GB_HOURS: Final = ("GB-Hours", "GB-hours", "GB-Hour", "GB-hour", "GB-Hrs", "GigabyteHours")
_HOURS: Final = dict.fromkeys(
    ("Hrs", "Hours", "hours", "Hour", "hour", "vCPU-Hours", *_GB_HOURS), 1
)
_MONTHS: Final = {"GB-Mo": 1, "GB-Month": 1, "GB-month": 1}
_MILLION: Final = 10**6
_ECPUS: Final = {"ElastiCacheProcessingUnit": _MILLION, "ElastiCacheProcessingUnits": _MILLION}


@dataclass(frozen=True, slots=True)
class Rule:
    """How an item is recognised.

    Attributes:
        usage: Its usage type, without the region.
        units: Units that it may be priced in; how many of these are one of the book's.
        attributes: What else must hold.
    """

    usage: str
    units: Mapping[str, int]
    attributes: Mapping[str, str] = field(default_factory=dict)


def _of_lambda() -> dict[str, Rule]:
    found = {}
    for arch in ARCHITECTURES:
        suffix = "-ARM" if arch == "arm64" else ""
        for name, usage, group, units in (
            ("gb_s", "Lambda-GB-Second", "Duration", _SECONDS),
            ("request", "Request", "Requests", _REQUESTS),
            ("provisioned_gb_s", "Lambda-Provisioned-Concurrency", "Provisioned-Concurrency",
             _SECONDS),
            ("on_provisioned_gb_s", "Lambda-Provisioned-GB-Second", "Duration-Provisioned",
             _SECONDS),
        ):  # fmt: skip
            found[f"lambda.{name}.{arch}"] = Rule(
                f"{usage}{suffix}", units, {"group": f"AWS-Lambda-{group}{suffix}"}
            )
    return found


# As AWS's files had them in October 2026.
RULES: Final[Mapping[str, Rule]] = {
    **_of_lambda(),
    # Arm has rows of its own for these two, at the same price.
    "lambda.ephemeral_gb_s": Rule(
        "Lambda-Storage-GB-Second", _SECONDS, {"group": "AWS-Lambda-Storage-Duration"}
    ),
    "lambda.streamed_gb": Rule(
        "Lambda-Streaming-Response-Processed-Bytes", _GB, {"group": "AWS-Lambda-Processed-Bytes"}
    ),
    "fargate.vcpu_hour.x86_64": Rule("Fargate-vCPU-Hours:perCPU", _HOURS),
    "fargate.vcpu_hour.arm64": Rule("Fargate-ARM-vCPU-Hours:perCPU", _HOURS),
    "fargate.gb_hour.x86_64": Rule("Fargate-GB-Hours", _HOURS),
    "fargate.gb_hour.arm64": Rule("Fargate-ARM-GB-Hours", _HOURS),
    "fargate.ephemeral_gb_hour": Rule("Fargate-EphemeralStorage-GB-Hours", _HOURS),
    "s3.put": Rule("Requests-Tier1", _REQUESTS),
    "s3.list": Rule("Requests-Tier1", _REQUESTS),
    "s3.get": Rule("Requests-Tier2", _REQUESTS),
    "s3.storage_gb_month": Rule("TimedStorage-ByteHrs", _MONTHS),
    "logs.ingested_gb": Rule("DataProcessing-Bytes", _GB, {"operation": "PutLogEvents"}),
    "logs.stored_gb_month": Rule("TimedStorage-ByteHrs", _MONTHS),
    "transfer.internet_gb": Rule("DataTransfer-Out-Bytes", _GB),
    "transfer.regional_gb": Rule("DataTransfer-Regional-Bytes", _GB),
    "nat.gb": Rule("NatGateway-Bytes", _GB, {"operation": "NatGateway"}),
    "nat.hour": Rule("NatGateway-Hours", _HOURS, {"operation": "NatGateway"}),
    "valkey.gb_hour": Rule("CachedData:Valkey", _HOURS),
    "valkey.million_ecpu": Rule("ElastiCacheProcessingUnits:Valkey", _ECPUS),
}


@dataclass(frozen=True, slots=True)
class Found:
    """What an offer file has of a book.

    Attributes:
        published: When AWS published it.
        prices: Tiers by item.
        instances: By name; the source of their price is left empty.
        troubles: Why an item or instance could not be taken, by its name.
    """

    published: dt.date
    prices: dict[str, tuple[Tier, ...]]
    instances: dict[str, Instance]
    troubles: dict[str, str]


def items_of(offer: str) -> list[str]:
    """Items that an offer's file has."""
    return [name for name, item in ITEMS.items() if item.offer == offer]


def find(offer: str, region: str, told: Offer, known: Mapping[str, Instance]) -> Found:
    """Find the items, and the instances if it is EC2's file.

    Args:
        offer: Its code, for example "AWSLambda".
        region: Whose prices.
        told: The file.
        known: Types of instance, for what the file does not tell of them.
    """
    by_usage: dict[str, list[str]] = defaultdict(list)
    for name in items_of(offer):
        by_usage[RULES[name].usage].append(name)
    matched: dict[str, list[Row]] = defaultdict(list)
    instances = _Instances(known, told.published)
    for row in told.rows:
        if not is_of(row, region):
            continue
        usage = usage_of(row)
        for name in by_usage.get(usage, ()):
            if all(row.get(key) == value for key, value in RULES[name].attributes.items()):
                matched[name].append(row)
        if offer == EC2_OFFER and is_linux_on_demand(row, usage):
            instances.take(row)
    prices, troubles = {}, instances.troubles
    for name, rows in matched.items():
        try:
            prices[name] = _tiers(RULES[name], rows)
        except UsageError as error:
            troubles[name] = str(error)
    return Found(told.published, prices, instances.found, troubles)


class _Instances:
    """Types of instance, as they are met; those with two prices are not taken."""

    def __init__(self, known: Mapping[str, Instance], published: dt.date) -> None:
        self.found: dict[str, Instance] = {}
        self.troubles: dict[str, str] = {}
        self._known = known
        self._published = published

    def take(self, row: Row) -> None:
        name = row.get("instancetype", "")
        if name in self.troubles:
            return
        try:
            (tier,) = _tiers(Rule("", _HOURS), [row])
            one = instance_of(row, tier.usd, self._known.get(name), self._published)
        except (UsageError, ValueError) as error:
            self.troubles[name] = str(error)
            return
        before = self.found.setdefault(name, one)
        if before.usd_per_hour.usd != tier.usd:
            self.troubles[name] = f"has two prices, {before.usd_per_hour.usd} and {tier.usd}"
            del self.found[name]


def _tiers(rule: Rule, rows: list[Row]) -> tuple[Tier, ...]:
    """The tiers in rows of one item; the same for all its products.

    Raises:
        UsageError: They are not as expected.
    """
    products: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        products[row.get("sku", ""), row.get("offertermcode", "")].append(row)
    found = {_tiers_of_one(rule, of_one) for of_one in products.values()}
    if len(found) > 1:
        prices = " and ".join(sorted(str(tiers[0].usd) for tiers in found))
        raise UsageError(f"has several prices that can't be told apart: {prices}")
    return found.pop()


def _tiers_of_one(rule: Rule, rows: list[Row]) -> tuple[Tier, ...]:
    ranges: dict[Decimal, tuple[str, Tier]] = {}
    for row in rows:
        if row["currency"] != "USD":
            raise UsageError(f"is priced in {row['currency']}, not in USD")
        per = rule.units.get(row["unit"])
        if per is None:
            raise UsageError(f"is priced by the {row['unit'] or 'unnamed unit'}, not as known")
        start = amount(row["startingrange"] or "0", "the beginning of a range")
        usd = product(amount(row["priceperunit"], "a price"), per)
        tier = Tier(from_units=quotient(start, per), usd=usd)
        if start in ranges and ranges[start][1] != tier:
            raise UsageError(f"has two prices from {start} {row['unit']} on")
        ranges[start] = row.get("endingrange", "Inf") or "Inf", tier
    return _contiguous(ranges)


def _contiguous(ranges: Mapping[Decimal, tuple[str, Tier]]) -> tuple[Tier, ...]:
    """Tiers in order, from 0 without a gap to infinity."""
    expected = Decimal(0)
    tiers = []
    for start in sorted(ranges):
        end, tier = ranges[start]
        if start != expected:
            raise UsageError(f"has no price between {expected} and {start}")
        expected = Decimal("Infinity") if end == "Inf" else amount(end, "the end of a range")
        tiers.append(tier)
    if expected.is_finite():
        raise UsageError(f"has no price beyond {expected}")
    if not any(tier.usd for tier in tiers):
        raise UsageError("costs nothing, which is the price of something else")
    return tuple(tiers)
