"""What is predicted of a run in one place, and what predictions start from.

Pure: records only.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from fanout.cost.machines import Calibration, Speed, Speeds
from fanout.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanout.cost.book import PriceBook
    from fanout.cost.places import Place
    from fanout.cost.usage import Item
    from fanout.cost.workload import Workload

V = TypeVar("V", float, Decimal)

# Lambda's longest (quotas, 2026-10).
MOST_TIMEOUT_S: Final = 900.0
# On-demand prices less this: c8g was 37 to 77 % cheaper on spot (SkyPilot catalog v9, 2026).
SPOT_DISCOUNT: Final = Decimal("0.6")
# Of a spot instance in an hour. AWS's advisor speaks of under 5 % a *month* for most types, others
# of 5 to 10 %; an hour of a busy day may be as bad as this.
INTERRUPTIONS_PER_H: Final = 0.01
UPLINK_MBIT: Final = 200.0
_LOW, _HIGH = 0.1, 0.9


@dataclass(frozen=True, slots=True)
class Band(Generic[V]):
    """What a number is in the middle, and from where to where it is in 8 of 10 cases."""

    low: V
    median: V
    high: V


def band_of(values: Sequence[V]) -> Band[V]:
    """10th percentile, median and 90th, each of them one of the values (the nearest rank)."""
    ordered = sorted(values)
    return Band(*(ordered[_rank(share, len(ordered))] for share in (_LOW, 0.5, _HIGH)))


def _rank(share: float, count: int) -> int:
    return max(0, math.ceil(share * count - 1e-9) - 1)


def median_of(values: Sequence[V]) -> int:
    """Where in a sequence its median is (the nearest rank)."""
    order = sorted(range(len(values)), key=values.__getitem__)
    return order[_rank(0.5, len(order))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """All that a prediction starts from, besides the work.

    Attributes:
        book: Prices.
        calibration: What this machine does.
        base: Speed of the core that the times of tasks were measured on.
        speeds: Of all others.
        concurrency: Lambda's quota, invocations at once.
        timeout_s: Of the function, seconds.
        spot_discount: From the on-demand price, 0 to 1.
        interruptions_per_h: Of a spot instance in an hour.
        uplink_mbit: What comes and goes between here and AWS, Mbit/s.
        is_free_tier: Whether Lambda's free tier is this workload's alone.
        seed: Of all chance.
    """

    book: PriceBook
    calibration: Calibration
    base: Speed
    speeds: Speeds = field(default_factory=Speeds)
    concurrency: int = 1000
    timeout_s: float = MOST_TIMEOUT_S
    spot_discount: Decimal = SPOT_DISCOUNT
    interruptions_per_h: float = INTERRUPTIONS_PER_H
    uplink_mbit: float = UPLINK_MBIT
    is_free_tier: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.timeout_s <= MOST_TIMEOUT_S:
            msg = (
                f"a timeout of {self.timeout_s!r} s can't be: Lambda ends every invocation after "
                "900 s; give 1 to 900, and longer tasks to EC2 or Fargate, or make chunks smaller"
            )
            raise UsageError(msg)
        if not 1 <= self.concurrency <= 10**6:
            raise UsageError(f"concurrency={self.concurrency!r} must be 1 to 1,000,000")
        if not 0 <= self.spot_discount < 1:
            raise UsageError(f"a discount of {self.spot_discount} must be a share, 0 to below 1")
        if not 0 <= self.interruptions_per_h <= 60:
            msg = f"{self.interruptions_per_h!r} interruptions an hour must be 0 to 60"
            raise UsageError(msg)
        if not 0 < self.uplink_mbit < math.inf:
            raise UsageError(f"an uplink of {self.uplink_mbit!r} Mbit/s must be above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What becomes of a run in one place.

    Attributes:
        place: Where.
        what: The same in words.
        why_not: Why it can't run there; empty if it can. Nothing below is known then.
        makespan_s: From the start, machines that are still to boot included, seconds.
        usd: A run, US dollars.
        usd_per_month: All runs of a month, at the median.
        items: What the median run is made of; they add up to its total.
        slots: How many tasks run at once.
        task_s: What a task takes there, seconds, on average.
        speed: Of one vCPU there.
        notes: What else must be known.
        method: How it was found.
    """

    place: Place
    what: str
    why_not: str = ""
    makespan_s: Band[float] = Band(0.0, 0.0, 0.0)
    usd: Band[Decimal] = Band(Decimal(0), Decimal(0), Decimal(0))
    usd_per_month: Decimal = Decimal(0)
    items: tuple[Item, ...] = ()
    slots: int = 0
    task_s: float = 0.0
    speed: Speed | None = None
    notes: tuple[str, ...] = ()
    method: str = ""

    @property
    def is_possible(self) -> bool:
        """Whether it can run there."""
        return not self.why_not


def lucks(workload: Workload, setting: Setting, speed: Speed, count: int) -> list[float]:
    """By what tasks may take longer somewhere than expected, from luck to bad luck.

    What isn't known of the mean and of both speeds is one lognormal factor, of which these are
    `count` quantiles at equal distances: so a few draws give its median and bands without noise.
    """
    sigma = 0.0 if setting.base == speed else math.hypot(setting.base.sigma, speed.sigma)
    whole = math.hypot(sigma, workload.times.mean_error)
    normal = statistics.NormalDist()
    shares = [(2 * number + 1) / (2 * count) for number in range(count)]
    return [math.exp(whole * normal.inv_cdf(share)) for share in shares]


def transfer_s(workload: Workload, setting: Setting) -> float:
    """How long all chunks and results take between here and AWS, seconds."""
    sent = workload.tasks * (workload.bytes_in + workload.bytes_out)
    return sent * 8 / (setting.uplink_mbit * 1e6)
