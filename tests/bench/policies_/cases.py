"""What is run, how each policy does on it, and the two bounds that it is compared with."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from fanout.fleet import FleetModel, fork
from fanout.grouping import Estimate
from fanout.simulator import Work, lambda_grouping, simulate
from tests.bench.policies_.chunks import ChunkRun
from tests.bench.policies_.rules import RULES, Rule

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CHUNK_S: Final = 10.0
# How wrong the time of a task may be that an earlier map has found.
_KNOWN: Final = (0.9, 1.1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A workload on a fleet.

    Attributes:
        name: For readers.
        chunks: How many, of 10 s in the mean.
        kind: How their times are distributed, see `Work`.
        tasks: How many equal tasks each has; no attempt of the others divides them.
        fleet: Where.
    """

    name: str
    chunks: int
    kind: str = "constant"
    tasks: int = 20
    fleet: FleetModel


@dataclass(frozen=True, slots=True)
class Figures:
    """A run: its makespan over the two bounds, and what it is billed for, seconds."""

    over_ideal: float
    over_fluid: float
    billed_s: float


def cases(launches_per_s: float) -> Iterator[Case]:
    """All workloads, with a client that launches so fast."""
    fleet = FleetModel(launches_per_s=launches_per_s)
    yield Case(name="const 100", chunks=100, fleet=fleet)
    yield Case(name="const 1000", chunks=1000, fleet=fleet)
    yield Case(name="const 10000", chunks=10_000, fleet=fleet)
    yield Case(name="lognormal 1000", chunks=1000, kind="lognormal", fleet=fleet)
    yield Case(name="lognormal 10000", chunks=10_000, kind="lognormal", fleet=fleet)
    # Some of its chunks are longer than any function may run; nothing hangs, so nothing need end.
    endless = replace(fleet, timeout_s=1e6)
    yield Case(name="pareto 1000", chunks=1000, kind="pareto", fleet=endless)
    yield Case(name="hangs 1000", chunks=1000, fleet=replace(fleet, hang_share=0.001))
    yield Case(name="opaque 1000", chunks=1000, tasks=1, fleet=fleet)


def measure(case: Case, seed: int) -> dict[str, Figures]:
    """All policies on the same chunks and environments."""
    rng = random.Random(f"{case.name} {seed}")
    seconds = Work(tasks=case.chunks, mean_s=CHUNK_S, kind=case.kind).seconds(rng)
    quiet = ChunkRun(sorted(seconds, reverse=True), case.fleet.quiet(), fork(rng), Rule())
    fluid_s = fluid(seconds, case.fleet)
    known_s = CHUNK_S / case.tasks * rng.uniform(*_KNOWN)
    state = rng.getstate()
    found = {}
    for name, rule in RULES.items():
        rng.setstate(state)
        fork(rng)  # what the simulator draws work with, so that its fleet is the same
        run = ChunkRun(seconds, case.fleet, fork(rng), rule)
        found[name] = (run.makespan_s, run.billed_s)
    for name, fixed in (("ours_fixed", case.tasks), ("ours", None)):
        rng.setstate(state)
        found[name] = ours(case, seconds, rng, known_s=known_s, fixed=fixed)
    return {
        name: Figures(makespan_s / quiet.makespan_s, makespan_s / fluid_s, billed_s)
        for name, (makespan_s, billed_s) in found.items()
    }


def ours(
    case: Case,
    seconds: Sequence[float],
    rng: random.Random,
    *,
    known_s: float,
    fixed: int | None,
) -> tuple[float, float]:
    """Makespan and billed seconds of the scheduler that maps have."""
    tasks = [each / case.tasks for each in seconds for _ in range(case.tasks)]
    run = simulate(
        Work(tasks=len(tasks), measured_s=tasks),
        case.fleet,
        rng=rng,
        grouping=lambda_grouping(case.fleet, fixed=fixed),
        estimate=Estimate(unit_s=known_s),
    )
    assert not run.failure, run.failure
    return run.makespan_s, run.gb_s * 1024 / case.fleet.memory_mb


def fluid(seconds: Sequence[float], model: FleetModel) -> float:
    """The makespan if work could be divided at will, over as many environments as pay, no noise.

    Each environment has one attempt, for all it can do until the end.
    """
    begins_s: list[float] = []
    summed_s, total_s = 0.0, sum(seconds)
    ends_s = 0.0
    for number in range(model.concurrency):
        begin_s = (number + 1) / model.launches_per_s + model.cold_median_s + model.overhead_s
        late_s = max(0.0, number + 1 - model.burst) / model.environments_per_s
        begin_s = max(begin_s, late_s + model.cold_median_s + model.overhead_s)
        if begins_s and begin_s >= ends_s:
            break
        begins_s.append(begin_s)
        summed_s += begin_s
        ends_s = (total_s + summed_s) / len(begins_s)
    return ends_s
