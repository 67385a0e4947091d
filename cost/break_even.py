"""Up to how many runs Lambda costs less than a machine that is kept on.

Pure. Two comparisons: of prices alone (a vCPU for an hour, `unit_prices`), and of a run
(`break_even`), where the machine's speed, cold starts and requests count as well. A machine that is
kept on costs 730 hours a month whatever it does; Lambda costs what is run. Where the two are equal,
the machine is busy for a share of the time: that is its utilisation at the break-even. What chunks
and results cost that go to AWS and back is the same for both, and left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from fanout.cost.machines import MB_PER_VCPU
from fanout.cost.money import product, quotient, total
from fanout.cost.places import Instances, LambdaFunction
from fanout.cost.usage import per_month, priced, runs
from fanout.cost.wording import HOURS_PER_MONTH

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanout.cost.book import Architecture, PriceBook
    from fanout.cost.prediction import Prediction, Setting
    from fanout.cost.workload import Workload

_MOST_RUNS: Final = 1e15
_HALVINGS: Final = 80
_SHORT_RUN_S: Final = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitPrice:
    """What a vCPU costs for an hour, there and on Lambda.

    Attributes:
        type: Of EC2.
        arch: Its architecture; Lambda's is the same.
        usd: On EC2, on demand.
        lambda_usd: On Lambda, with 1,769 MB.
        ratio: Lambda's over EC2's.
        utilisation: How busy the instance must be to cost the same for what it does.
    """

    type: str
    arch: Architecture
    usd: Decimal
    lambda_usd: Decimal
    ratio: float
    utilisation: float


def unit_price(book: PriceBook, name: str) -> UnitPrice:
    """What a vCPU of an instance costs for an hour, and what Lambda asks for one."""
    instance = book.instance(name)
    usd = quotient(instance.usd_per_hour.usd, instance.vcpus)
    lambda_usd = lambda_vcpu_hour(book, instance.arch)
    return UnitPrice(
        type=name,
        arch=instance.arch,
        usd=usd,
        lambda_usd=lambda_usd,
        ratio=float(quotient(lambda_usd, usd)),
        utilisation=float(quotient(usd, lambda_usd)),
    )


def lambda_vcpu_hour(book: PriceBook, arch: Architecture) -> Decimal:
    """What a vCPU of Lambda costs for an hour: 1,769 MB for 3,600 s, in the first tier."""
    gb_s = quotient(MB_PER_VCPU * 3600, 1024)
    with_digits = Decimal(f"{gb_s:.6f}")
    return product(with_digits, book[f"lambda.gb_s.{arch}"].usd)


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakEven:
    """Where Lambda and a machine that is kept on cost the same.

    Attributes:
        function: On Lambda.
        machine: On one instance.
        usd_per_month: What the instance costs, whatever it does.
        busy_s: How long it works on a run, seconds.
        runs_per_month: From so many on, the instance costs less.
        low: The same if Lambda costs as much as in the worst of ten cases.
        high: If it costs as little as in the best of ten.
        most_runs: The instance can do no more in a month.
        utilisation: How busy it is then; above 1: it can't do as many, so Lambda costs less always.
    """

    function: Prediction
    machine: Prediction
    usd_per_month: Decimal
    busy_s: float
    runs_per_month: float
    low: float
    high: float
    most_runs: float
    utilisation: float

    @property
    def is_reached(self) -> bool:
        """Whether the instance can do as many runs as make it cheaper."""
        return self.utilisation <= 1


def break_even(
    function: Prediction, machine: Prediction, workload: Workload, setting: Setting
) -> BreakEven:
    """Where a function and one instance that is kept on cost the same."""
    assert isinstance(machine.place, Instances)
    hourly = setting.book.instance(machine.place.type).usd_per_hour.usd
    kept = product(hourly, Decimal(str(HOURS_PER_MONTH)), machine.place.count)
    busy_s = machine.task_s * max(1.0, workload.tasks / machine.slots)
    found = _runs_for(kept, function, setting)
    most = HOURS_PER_MONTH * 3600 / busy_s
    data = float(usd_of_data(function))
    low, median, high = (
        float(usd) - data for usd in (function.usd.low, function.usd.median, function.usd.high)
    )
    return BreakEven(
        function=function,
        machine=machine,
        usd_per_month=kept,
        busy_s=busy_s,
        runs_per_month=found,
        low=found * median / high if high > 0 else found,
        high=found * median / low if low > 0 else math.inf,
        most_runs=most,
        utilisation=found / most,
    )


def usd_per_month(
    function: Prediction, runs_per_month: float, setting: Setting, *, with_data: bool = True
) -> Decimal:
    """What so many runs a month cost on Lambda: tiers and the free tier depend on it."""
    usage = {
        item.name: item.units for item in function.items if with_data or not is_data(item.name)
    }
    return per_month(
        priced(
            usage,
            setting.book,
            runs_per_month=runs(runs_per_month),
            is_free_tier=setting.is_free_tier and isinstance(function.place, LambdaFunction),
            spot_discount=setting.spot_discount,
        )
    )


def is_data(item: str) -> bool:
    """Whether an item is of chunks and results on their way: the same wherever it runs on AWS."""
    return item.startswith(("s3.", "transfer."))


def usd_of_data(one: Prediction) -> Decimal:
    """What chunks and results of a run cost that go to AWS and back."""
    return total(item.usd_per_run for item in one.items if is_data(item.name))


def _runs_for(kept: Decimal, function: Prediction, setting: Setting) -> float:
    """So many runs on Lambda cost that much in a month; it costs more the more there are."""
    low, high = 0.0, 1.0
    while usd_per_month(function, high, setting, with_data=False) < kept and high < _MOST_RUNS:
        low, high = high, high * 4
    for _ in range(_HALVINGS):
        if high - low <= 1e-6 * high:
            break
        middle = (low + high) / 2
        if usd_per_month(function, middle, setting, with_data=False) < kept:
            low = middle
        else:
            high = middle
    return high


def kept_on(predictions: Sequence[Prediction], setting: Setting) -> Prediction | None:
    """The instance that is worth keeping on: the one that does the work for least.

    Of its family the smallest that does a run within an hour; the largest, if none does.
    """
    single = [
        one
        for one in predictions
        if one.is_possible
        and isinstance(one.place, Instances)
        and one.place.count == 1
        and not one.place.is_spot
    ]
    if not single:
        return None

    def usd_per_task(one: Prediction) -> float:
        assert isinstance(one.place, Instances)
        hourly = setting.book.instance(one.place.type).usd_per_hour.usd
        return float(hourly) / one.slots * one.task_s

    def family(one: Prediction) -> str:
        assert isinstance(one.place, Instances)
        return one.place.type.partition(".")[0]

    best = family(min(single, key=usd_per_task))
    sizes = sorted((one for one in single if family(one) == best), key=lambda one: one.slots)
    quick = [one for one in sizes if one.makespan_s.median <= _SHORT_RUN_S]
    return quick[0] if quick else sizes[-1]
