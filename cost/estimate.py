"""How long and how much, in all places: predictions, what they start from, and advice.

Pure; the generators that the simulator takes are made by whoever calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fanout.cost.advice import advice, front
from fanout.cost.fleets import BOOT_S, on_fargate, on_instances, on_this_machine
from fanout.cost.lambda_runs import COLD_S, SLOW_SHARE, on_lambda
from fanout.cost.machines import SMT_GAIN
from fanout.cost.places import FargateTasks, Instances, LambdaFunction, Local
from fanout.cost.wording import digits, duration, rate
from fanout.cost.workload import Basis

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Sequence
    from random import Random

    from fanout.cost.book import Price
    from fanout.cost.places import Place
    from fanout.cost.prediction import Prediction, Setting
    from fanout.cost.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """What an estimate starts from.

    Attributes:
        what: What it is of.
        value: As text.
        basis: Where it is from.
        source: In words.
    """

    what: str
    value: str
    basis: Basis
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """An answer.

    Attributes:
        workload: What there is to do.
        setting: Prices, speeds, limits.
        predictions: Of all places that were asked for.
        front: Those than which none is both faster and cheaper, the fastest first.
        advice: Sentences.
        inputs: What it starts from.
    """

    workload: Workload
    setting: Setting
    predictions: tuple[Prediction, ...]
    front: tuple[Prediction, ...]
    advice: tuple[str, ...]
    inputs: tuple[Input, ...]


def estimated(
    workload: Workload,
    setting: Setting,
    places: Sequence[Place],
    new_rng: Callable[[int], Random],
) -> Estimate:
    """Predict a run in each of these places."""
    found = [predicted(place, workload, setting, new_rng) for place in places]

    def again(one: Prediction, other: Workload) -> Prediction:
        return predicted(one.place, other, setting, new_rng)

    return Estimate(
        workload=workload,
        setting=setting,
        predictions=tuple(found),
        front=tuple(front(found)),
        advice=tuple(advice(workload, setting, found, again)),
        inputs=tuple(inputs_of(workload, setting, found)),
    )


def predicted(
    place: Place, workload: Workload, setting: Setting, new_rng: Callable[[int], Random]
) -> Prediction:
    """Predict a run in a place."""
    match place:
        case Local():
            return on_this_machine(workload, setting)
        case LambdaFunction():
            return on_lambda(place, workload, setting, new_rng)
        case Instances():
            return on_instances(place, workload, setting)
        case FargateTasks():
            return on_fargate(place, workload, setting)


_FLEET: Final = Input(
    what="cold starts, slow environments",
    value=f"{COLD_S:g} s; 1 in {1 / SLOW_SHARE:.0f}",
    basis=Basis.ASSUMED,
    source="of the same size as published ones; see docs/cost.md",
)


def inputs_of(workload: Workload, setting: Setting, found: Sequence[Prediction]) -> list[Input]:
    """What the estimate starts from, and where each figure is from."""
    times = workload.times
    spread = f" +- {times.variation:.0%}" if times.sigma else ""
    told = [
        Input(
            what="time of a task",
            value=f"{duration(times.mean_s)}{spread}",
            basis=times.basis,
            source=times.source,
        ),
        Input(
            what="runs",
            value=rate(workload.runs_per_month),
            basis=Basis.GIVEN,
            source="--runs",
        ),
    ]
    if workload.memory_mb:
        told.append(
            Input(
                what="memory of a task",
                value=f"{workload.memory_mb:,} MB",
                basis=workload.memory_basis,
                source="the worker's largest size and a fifth"
                if workload.memory_basis is Basis.MEASURED
                else "--task-memory",
            )
        )
    told += _speeds(found)
    kinds = {type(one.place) for one in found if one.is_possible}
    if LambdaFunction in kinds:
        told.append(_FLEET)
    if kinds & {Instances, FargateTasks}:
        told.append(
            Input(
                what="boot",
                value=f"{BOOT_S[0]:.0f} to {BOOT_S[1]:.0f} s",
                basis=Basis.ASSUMED,
                source="26 to 40 s were measured in 2021 to 2024, without an image's pull",
            )
        )
    if any(isinstance(one.place, Instances) and one.place.is_spot for one in found):
        told.append(
            Input(
                what="spot",
                value=f"{setting.spot_discount:.0%} less, {setting.interruptions_per_h:g} "
                "interruptions an hour",
                basis=Basis.ASSUMED,
                source="c8g was 37 to 77 % less (SkyPilot catalog v9, 2026)",
            )
        )
    if workload.bytes_in or workload.bytes_out:
        told.append(
            Input(
                what="uplink",
                value=f"{setting.uplink_mbit:g} Mbit/s",
                basis=Basis.ASSUMED,
                source="--uplink changes it",
            )
        )
    return told


def _speeds(found: Sequence[Prediction]) -> list[Input]:
    """The speed of each kind of processor that is compared, over that of the core of the times."""
    told: dict[str, Input] = {}
    for one in found:
        if not (one.is_possible and one.speed):
            continue
        match one.place:
            case Local():
                what = "a core here"
            case LambdaFunction(arch=arch):
                what = f"a vCPU of Lambda, {arch}"
            case FargateTasks():
                what = "a vCPU of Fargate"
            case Instances(type=name):
                what = f"a vCPU of {name.partition('.')[0]}"
        told[what] = Input(
            what=f"speed of {what}",
            value=f"{digits(one.speed.value)} +- {one.speed.sigma:.0%}"
            if one.speed.sigma
            else digits(one.speed.value),
            basis=one.speed.basis,
            source=one.speed.source,
        )
    if any(one.basis is Basis.ASSUMED for one in told.values()):
        told["two threads of a core"] = Input(
            what="two threads of a core",
            value=f"{SMT_GAIN:g} times one",
            basis=Basis.ASSUMED,
            source="1.1 to 1.4 is usual",
        )
    return list(told.values())


def price_dates(estimate: Estimate) -> list[tuple[str, dt.date]]:
    """When the prices that were used were published, the oldest first; by item."""
    found = [(name, price.published) for name, price in _prices(estimate).items()]
    return sorted(found, key=lambda one: (one[1], one[0]))


def price_notes(estimate: Estimate) -> list[str]:
    """What must be known of the prices that were used, each with its items."""
    found: dict[str, list[str]] = {}
    for name, price in _prices(estimate).items():
        if price.note:
            found.setdefault(price.note, []).append(name)
    return [f"{', '.join(names)}: {note}" for note, names in found.items()]


def _prices(estimate: Estimate) -> dict[str, Price]:
    book = estimate.setting.book
    names = sorted({item.name for one in estimate.predictions for item in one.items})
    types = {name: name.partition(":")[2] for name in names}
    return {
        name: book.instance(types[name]).usd_per_hour if types[name] else book[name]
        for name in names
    }
