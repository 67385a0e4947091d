"""What to make of an estimate, in sentences.

Pure. Nothing is said to be cheaper or faster that might as well be the other way round: one place
is said to be better only if it is so in 9 of 10 cases, by what isn't known of the two speeds. What
isn't known of the tasks is the same for both, and does not count.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from fanout.cost.break_even import break_even, kept_on
from fanout.cost.money import usd_text
from fanout.cost.places import Instances, LambdaFunction, Local
from fanout.cost.prediction import transfer_s
from fanout.cost.wording import HOURS_PER_MONTH, digits, duration, percent, rate, rate_band, some
from fanout.lambda_figures import GROUPING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fanout.cost.break_even import BreakEven
    from fanout.cost.prediction import Band, Prediction, Setting
    from fanout.cost.workload import Workload

# Of a normal distribution, one in ten is above: so sure we want to be.
_SURE: Final = 1.2816
_LITTLE: Final = 0.02  # what differs by less is called the same
_CLOSE_TO_TIMEOUT: Final = 0.5
_MANY_TIMES: Final = 1.5
# An environment is kept for some minutes after its last invocation: five, about.
_WARM_RUNS: Final = HOURS_PER_MONTH * 12


def front(predictions: Sequence[Prediction]) -> list[Prediction]:
    """Those than which none is both faster and cheaper, the fastest first.

    By the medians; what is cheaper and less than 2 % slower counts as as fast.
    """
    found: list[Prediction] = []
    possible = [one for one in predictions if one.is_possible]
    for one in sorted(possible, key=lambda one: (one.makespan_s.median, one.usd.median)):
        if found and one.usd.median >= found[-1].usd.median:
            continue
        while found and one.makespan_s.median <= found[-1].makespan_s.median * (1 + _LITTLE):
            found.pop()
        found.append(one)
    return found


def best_function(predictions: Sequence[Prediction]) -> Prediction | None:
    """The function with the least product of time and money: neither a bit faster nor cheaper."""
    functions = [
        one for one in predictions if one.is_possible and isinstance(one.place, LambdaFunction)
    ]
    if not functions:
        return None
    return min(functions, key=lambda one: one.makespan_s.median * float(one.usd.median))


def is_surely_less(
    this: float, other: float, one: Prediction, another: Prediction, base_sigma: float = 0.0
) -> bool:
    """Whether a number of one place is below that of another in 9 of 10 cases."""
    sigma = math.hypot(*(place.speed.sigma if place.speed else 0.0 for place in (one, another)))
    if any(isinstance(place.place, Local) for place in (one, another)):
        sigma = math.hypot(sigma, base_sigma)
    return this * math.exp(_SURE * sigma) < other * (1 - _LITTLE)


def advice(
    workload: Workload,
    setting: Setting,
    predictions: Sequence[Prediction],
    predict: Callable[[Prediction, Workload], Prediction],
) -> list[str]:
    """Sentences, the most useful first.

    Args:
        workload: What there is to do.
        setting: What the predictions started from.
        predictions: Of all places.
        predict: Predicts the same place for other work.
    """
    said = [*_here(predictions)]
    function = best_function(predictions)
    machine = kept_on(predictions, setting)
    if function:
        said += _on_lambda(function, workload, setting, predictions)
    else:
        said += _not_on_lambda(predictions)
    said += _machines(function, predictions)
    if function and machine:
        even = break_even(function, machine, workload, setting)
        said.append(break_even_text(even))
        said += _twice(even, workload, setting, predict)
    if function:
        said += _chunks(function, workload, setting)
    return said


def _band(band: Band[float]) -> str:
    low, high = duration(band.low), duration(band.high)
    median = duration(band.median)
    return median if low == high == median else f"{median} ({low} to {high})"


def _usd_band(one: Prediction) -> str:
    low, median, high = (usd_text(usd) for usd in (one.usd.low, one.usd.median, one.usd.high))
    return median if low == high else f"{median} ({low} to {high})"


def _here(predictions: Sequence[Prediction]) -> list[str]:
    here = next((one for one in predictions if isinstance(one.place, Local)), None)
    if here is None:
        return []
    if not here.is_possible:
        return [f"It can't run on this machine: {here.why_not}."]
    return [f"Here ({here.what}) it takes {_band(here.makespan_s)} and costs nothing."]


def _on_lambda(
    function: Prediction, workload: Workload, setting: Setting, predictions: Sequence[Prediction]
) -> list[str]:
    said = [
        f"On Lambda it takes {_band(function.makespan_s)} for {_usd_band(function)}, with "
        f"{function.what.removeprefix('Lambda ')} (the least product of time and money)."
    ]
    here = next(
        (one for one in predictions if isinstance(one.place, Local) and one.is_possible), None
    )
    if here is None:
        return said
    ours, theirs = here.makespan_s.median, function.makespan_s.median
    if is_surely_less(theirs, ours, function, here, setting.base.sigma):
        if ours / theirs >= _MANY_TIMES:
            said.append(f"That is about {digits(ours / theirs)} times as fast as here.")
    elif is_surely_less(ours, theirs, here, function, setting.base.sigma):
        said.append(f"Here it is done sooner: {_why_sooner_here(function, workload, setting)}.")
    else:
        said.append("Whether that is faster than here is not certain.")
    return said


def _why_sooner_here(function: Prediction, workload: Workload, setting: Setting) -> str:
    data_s = transfer_s(workload, setting)
    if data_s > function.makespan_s.median / 2:
        return f"chunks and results take {duration(data_s)} between here and AWS"
    if workload.tasks * function.task_s > function.makespan_s.median * setting.concurrency / 2:
        return "there are more cores here than the quota allows there"
    return "starting environments takes longer than the work"


def _not_on_lambda(predictions: Sequence[Prediction]) -> list[str]:
    functions = [one for one in predictions if isinstance(one.place, LambdaFunction)]
    if not functions:
        return []
    largest = max(functions, key=lambda one: getattr(one.place, "memory_mb", 0))
    return [
        f"Lambda is not possible: {largest.why_not} ({largest.what}). Smaller chunks may be a way."
    ]


def _machines(function: Prediction | None, predictions: Sequence[Prediction]) -> list[str]:
    """The cheapest machine that is started for each run, if it is worth it."""
    machines = [
        one
        for one in predictions
        if one.is_possible and isinstance(one.place, Instances) and not one.place.is_spot
    ]
    if not machines:
        return []
    cheapest = min(machines, key=lambda one: one.usd.median)
    text = (
        f"{cheapest.what} on demand, started for each run, takes {_band(cheapest.makespan_s)} for "
        f"{_usd_band(cheapest)}"
    )
    if function is None:
        return [f"{text}."]
    ours, theirs = float(cheapest.usd.median), float(function.usd.median)
    if is_surely_less(ours, theirs, cheapest, function):
        less = 1 - ours / theirs
        return [f"{text}: {percent(less)} less than Lambda, if you can wait."]
    if is_surely_less(theirs, ours, function, cheapest):
        return [f"{text}: Lambda costs less, and nothing has to be started and stopped."]
    return [f"{text}: which of the two costs less is not certain."]


def break_even_text(even: BreakEven) -> str:
    """The break-even in a sentence."""
    type_name, kept = even.machine.what, usd_text(even.usd_per_month)
    if not even.is_reached:
        return (
            f"Lambda costs less than one {type_name} kept on ({kept} a month) however often it "
            f"runs: that can do {rate(even.most_runs)} at most, and pays from "
            f"{rate(even.runs_per_month)} on."
        )
    band = ""
    if even.low < even.runs_per_month * (1 - _LITTLE):
        band = f" ({rate_band(even.low, even.runs_per_month, even.high)})"
    warm = ""
    if even.runs_per_month > _WARM_RUNS:
        warm = (
            " Each run is taken to begin with cold environments; that often, they stay warm, and "
            "Lambda costs less than this."
        )
    return (
        f"Lambda costs less below {rate(even.runs_per_month)}{band}; above, one {type_name} kept "
        f"on ({kept} a month) does: it is busy {percent(even.utilisation)} of the time then.{warm}"
    )


def _twice(
    even: BreakEven,
    workload: Workload,
    setting: Setting,
    predict: Callable[[Prediction, Workload], Prediction],
) -> list[str]:
    """What changes if tasks take twice as long."""
    times = workload.times
    longer = replace(workload, times=replace(times, mean_s=times.mean_s * 2))
    function = predict(even.function, longer)
    if not function.is_possible:
        return [f"If tasks take twice as long, it can't run there: {function.why_not}."]
    machine = predict(even.machine, longer)
    then = break_even(function, machine, longer, setting)
    text = (
        f"If tasks take twice as long: {duration(function.makespan_s.median)} and "
        f"{usd_text(function.usd.median)} on Lambda"
    )
    if then.is_reached:
        return [f"{text}, break-even at {rate(then.runs_per_month)}."]
    return [f"{text}."]


def _chunks(function: Prediction, workload: Workload, setting: Setting) -> list[str]:
    """Grouping, the quota, and how near the timeout is."""
    said = []
    if function.task_s < GROUPING.least_s:
        group = math.ceil(GROUPING.least_s / function.task_s)
        said.append(
            f"Tasks are short there ({duration(function.task_s)}): fanout sends about "
            f"{some(group, 'task')} in an invocation, so that requests don't cost more than work."
        )
    if function.task_s > setting.timeout_s * _CLOSE_TO_TIMEOUT:
        said.append(
            f"A task takes {duration(function.task_s)} of the {duration(setting.timeout_s)} that "
            "a function may run: smaller chunks are safer."
        )
    quota = setting.concurrency
    if workload.tasks < quota and function.task_s >= GROUPING.least_s:
        said.append(
            f"No more than {workload.tasks:,} of {quota:,} environments are used: with smaller "
            "chunks it would be done sooner."
        )
    elif workload.tasks > 4 * quota and function.task_s * workload.tasks / quota > 60:
        said.append(
            f"The quota of {quota:,} is what limits it: each environment does "
            f"{some(round(workload.tasks / quota), 'task')}; AWS raises it on request."
        )
    month_s = HOURS_PER_MONTH * 3600
    if function.makespan_s.median * workload.runs_per_month > month_s:
        said.append(
            f"{rate(workload.runs_per_month)} don't fit into a month on Lambda, one after the "
            "other: they would share the quota."
        )
    return said
