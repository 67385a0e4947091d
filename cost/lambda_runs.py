"""What a run takes and costs on Lambda: the scheduler of fanout itself, on a modelled fleet.

Pure. `fanout.simulator` runs the very scheduler that runs maps, with its groups, hedges, retries
and 429s, against AWS's limits: the quota, 1,000 new environments at once and 100 more each second.
Five such runs are made, at what the speed and the mean of tasks are at worst in 1, 3, 5, 7 and 9 of
ten cases; the least, the middle and the greatest of them are the band.

Where tasks are many, a smaller run stands for all, in this order: short tasks are taken together
(to half a second, as fanout groups them anyway); then a part of the fleet with its part of quota,
growth and tasks; then what is left of the work is added at the rate of what was simulated, its cold
starts aside: by then, all environments are there and busy.

Assumed: environments differ by 5 %, 1 in 200 is 1.5 to 2.5 times as slow (published: the 99th
percentile of CPU-bound invocations is 1.02 to 1.14 times the mean, cebert 2025; the slowest of 1000
was 1.07 times the median, in Lithops' own traces of 2022); 1 invocation in 1,000 dies; an
invocation takes 50 ms besides its tasks; a new environment takes 1.8 s in the middle (1.0 to 1.9 s
for an image with numpy and pandas, fourTheorem 2023), which is billed. None is warm at the start.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from fanout.cost.fleets import usage_of_data
from fanout.cost.machines import lambda_vcpus
from fanout.cost.prediction import (
    Band,
    Prediction,
    Setting,
    band_of,
    lucks,
    median_of,
    transfer_s,
)
from fanout.cost.usage import per_month, per_run, priced, runs, units
from fanout.fleet import FleetModel
from fanout.lambda_figures import LOG_BYTES
from fanout.simulator import Work, simulate

if TYPE_CHECKING:
    from collections.abc import Callable
    from decimal import Decimal
    from random import Random

    from fanout.cost.machines import Speed
    from fanout.cost.places import LambdaFunction
    from fanout.cost.workload import Workload
    from fanout.simulator import SimulatedRun

RUNS: Final = 5
# Of a simulated run; 40 ms each.
_MOST_TASKS: Final = 400
_LEAST_ENVIRONMENTS: Final = 50
_TOGETHER_S: Final = 0.5
# Assumed of new environments, seconds, and of slow ones; see above.
COLD_S: Final = 1.8
SLOW_SHARE: Final = 0.005
# A function reads and writes so much of S3, in bytes a second (Skyrise, arXiv 2501.07771).
_STORE_BYTES_PER_S: Final = 75 * 2**20
_STORED_FROM_BYTES: Final = 3 * 2**20


@dataclass(frozen=True, slots=True)
class _Found:
    """What a simulated run came to."""

    makespan_s: float
    gb_s: float
    attempts: float


def on_lambda(
    place: LambdaFunction,
    workload: Workload,
    setting: Setting,
    new_rng: Callable[[int], Random],
) -> Prediction:
    """On Lambda, with environments that are all cold at first.

    Args:
        place: The function.
        workload: What there is to do.
        setting: Prices, speeds, the quota.
        new_rng: A generator for a seed.
    """
    speed = setting.speeds.of_lambda(place.arch)
    what = f"Lambda {place.memory_mb:,} MB, {place.arch}"
    vcpus = min(workload.threads, lambda_vcpus(place.memory_mb))
    factor = setting.base.value / speed.value * workload.threads / vcpus
    stored = sum(
        size for size in (workload.bytes_in, workload.bytes_out) if size > _STORED_FROM_BYTES
    )
    extra_s = stored / _STORE_BYTES_PER_S
    if why_not := _why_not(place, workload, setting, factor, extra_s):
        return Prediction(place=place, what=what, why_not=why_not, task_s=_mean(workload, factor))
    fleet = _fleet(place, setting)
    found = [
        _simulated(
            workload,
            factor * luck,
            extra_s,
            fleet,
            new_rng(setting.seed * RUNS + number),
        )
        for number, luck in enumerate(lucks(workload, setting, speed, RUNS))
    ]
    return _priced(place, what, workload, setting, found, _mean(workload, factor) + extra_s, speed)


def _mean(workload: Workload, factor: float) -> float:
    return workload.times.mean_s * factor


def _why_not(
    place: LambdaFunction, workload: Workload, setting: Setting, factor: float, extra_s: float
) -> str:
    lacking = [
        item
        for item in (f"lambda.gb_s.{place.arch}", f"lambda.request.{place.arch}")
        if item not in setting.book
    ]
    if lacking:
        return f"no price of {lacking[0]} is known in {setting.book.region}"
    need = workload.memory_mb or 0
    if need > place.memory_mb:
        return f"a task needs {need:,} MB"
    most_s = setting.timeout_s
    times = workload.times
    longest_s = times.mean_s * factor + extra_s
    too_long = times.share_above((most_s - extra_s) / factor) * workload.tasks
    if longest_s > most_s:
        return f"a task takes {longest_s:,.0f} s, Lambda ends it after {most_s:,.0f} s"
    if too_long >= 0.5:
        some = f"{max(1, round(too_long)):,} of {workload.tasks:,} tasks"
        return f"{some} take more than {most_s:,.0f} s, and are ended"
    return ""


def _fleet(place: LambdaFunction, setting: Setting) -> FleetModel:
    return FleetModel(
        concurrency=setting.concurrency,
        memory_mb=place.memory_mb,
        timeout_s=setting.timeout_s,
        launches_per_s=1000.0,
        pace=(0.95, 1.05),
        cold_median_s=COLD_S,
        slow_share=SLOW_SHARE,
        slow_factor=(1.5, 2.5),
        transient_share=0.002,
        crash_share=0.001,
        overhead_s=0.05,
    )


def _simulated(
    workload: Workload, factor: float, extra_s: float, fleet: FleetModel, rng: Random
) -> _Found:
    """A run, or one that stands for it; see the top of this file."""
    times = workload.times
    mean_s = times.mean_s * factor + extra_s
    together = 1
    if workload.tasks > _MOST_TASKS:
        together = max(1, min(workload.tasks // _MOST_TASKS, int(_TOGETHER_S / mean_s)))
    count = workload.tasks / together
    sigma = math.sqrt(math.log1p(times.variation**2 / together))
    part = 1.0
    if count > _MOST_TASKS:
        part = max(1.0, min(count / _MOST_TASKS, fleet.concurrency / _LEAST_ENVIRONMENTS))
        fleet = _part_of(fleet, part)
    count /= part
    tasks = max(1, min(round(count), _MOST_TASKS))
    seconds = Work(tasks=tasks, mean_s=mean_s * together, kind="lognormal", spread=sigma).seconds(
        rng
    )
    if workload.tasks > _MOST_TASKS:  # by the law of large numbers
        right = mean_s * together * tasks / math.fsum(seconds)
        seconds = [one * right for one in seconds]
    done = simulate(Work(tasks=tasks, measured_s=seconds), fleet, rng=rng)
    return _all_of(done, math.fsum(seconds), fleet, count / tasks, part)


def _all_of(
    done: SimulatedRun, work_s: float, fleet: FleetModel, whole: float, part: float
) -> _Found:
    """The run of which a simulated one is the beginning, in a part of the fleet.

    Args:
        done: The simulated run.
        work_s: What its tasks take in environments of pace 1.
        fleet: The part of the fleet that it ran on.
        whole: How many times as much there is to do for this part.
        part: How many such parts there are.
    """
    gb = fleet.memory_mb / 1024
    busy_s = max(work_s, done.gb_s / gb - done.cold_starts * _mean_cold_s(fleet))
    more_s = (whole - 1) * busy_s
    return _Found(
        makespan_s=done.makespan_s + more_s / fleet.concurrency,
        gb_s=(done.gb_s + more_s * gb) * part,
        attempts=done.attempts * whole * part,
    )


def _mean_cold_s(fleet: FleetModel) -> float:
    tail_s = fleet.cold_tail_share * sum(fleet.cold_tail_s) / 2
    return fleet.cold_median_s * math.exp(fleet.cold_sigma**2 / 2) + tail_s


def _part_of(fleet: FleetModel, part: float) -> FleetModel:
    return replace(
        fleet,
        concurrency=max(1, round(fleet.concurrency / part)),
        burst=max(1, round(fleet.burst / part)),
        environments_per_s=fleet.environments_per_s / part,
        launches_per_s=fleet.launches_per_s / part,
    )


def _priced(
    place: LambdaFunction,
    what: str,
    workload: Workload,
    setting: Setting,
    found: list[_Found],
    task_s: float,
    speed: Speed,
) -> Prediction:
    data, notes = usage_of_data(workload, setting)
    usages = [{**_usage(place, one, setting), **data} for one in found]
    often = runs(workload.runs_per_month)
    bills = [priced(usage, setting.book, runs_per_month=often) for usage in usages]
    middle = median_of([per_run(items) for items in bills])
    if setting.is_free_tier:  # which may hide what differs: the middle is that without it
        bills = [
            priced(usage, setting.book, runs_per_month=often, is_free_tier=True) for usage in usages
        ]
    items = bills[middle]
    usd, total = band_of([per_run(items) for items in bills]), per_run(items)
    data_s = transfer_s(workload, setting)
    if "logs.ingested_gb" not in setting.book:
        notes.append(f"logs are left out: no price in {setting.book.region}")
    return Prediction(
        place=place,
        what=what,
        makespan_s=band_of([max(one.makespan_s, data_s) for one in found]),
        usd=Band(min(usd.low, total), total, max(usd.high, total)),
        usd_per_month=per_month(items),
        items=items,
        slots=min(setting.concurrency, workload.tasks),
        task_s=task_s,
        speed=speed,
        notes=tuple(notes),
        method=f"{RUNS} simulated runs of the scheduler",
    )


def _usage(place: LambdaFunction, found: _Found, setting: Setting) -> dict[str, Decimal]:
    # Durations are rounded up to the millisecond, each.
    rounding_gb_s = found.attempts * 0.0005 * place.memory_mb / 1024
    usage = {
        f"lambda.gb_s.{place.arch}": units(found.gb_s + rounding_gb_s),
        f"lambda.request.{place.arch}": units(round(found.attempts)),
    }
    if "logs.ingested_gb" in setting.book:
        usage["logs.ingested_gb"] = units(found.attempts * LOG_BYTES / 1e9)
    return usage
