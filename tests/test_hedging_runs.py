"""What is covered in whole runs of opaque tasks, simulated: what hangs is, what differs is not."""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from fanout.hedge_policy import HedgePolicy
from fanout.hedging import HedgeCounts, Hedging

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass
class Fleet:
    """A run of equal opaque tasks of 10 s, simulated: what was covered, and when.

    Attributes:
        tasks: How many there are.
        places: How many attempts may be in flight at once, each in an environment of its own.
        wall_s: How long an attempt takes: of its number and its environment's.
        is_estimated: Whether it is known what to expect.
        covered: Tasks that were covered, with the age of the attempt then, seconds.
        makespan_s: When the last task was done, seconds.
    """

    tasks: int
    places: int
    wall_s: Callable[[int, int], float]
    is_estimated: bool = True
    hedging: Hedging = field(default_factory=lambda: Hedging(HedgePolicy()))
    covered: dict[int, float] = field(default_factory=dict)
    makespan_s: float = 0.0

    def run(self) -> Fleet:
        hedging, now_s, count, done = self.hedging, 0.0, 0, set[int]()
        idle = list(range(self.places))
        queue = list(range(self.tasks))[::-1]
        carries: dict[int, tuple[int, int, float]] = {}  # task, environment, launched
        events: list[tuple[float, int]] = []

        def launch(task: int, covers: int | None) -> None:
            nonlocal count
            count += 1
            environment = idle.pop()
            carries[count] = task, environment, now_s
            expected_s = 10.0 if self.is_estimated else None
            hedging.launched(count, now_s, tasks=1, expected_s=expected_s, covers=covers)
            heapq.heappush(events, (now_s + self.wall_s(count, environment), count))

        while len(done) < self.tasks:
            is_queue_empty = not queue
            for attempt in hedging.due(
                now_s,
                is_queue_empty=is_queue_empty,
                free=len(idle),
                warm_idle=len(idle),
                est_gb_s=10.0 * self.tasks,
            ):
                task, _, launched_s = carries[attempt]
                self.covered[task] = now_s - launched_s
                launch(task, attempt)
            while queue and idle:  # after the covers, which would find no place else
                launch(queue.pop(), None)
            if is_queue_empty != (not queue):
                continue
            next_s = hedging.next_s(now_s, is_queue_empty=is_queue_empty)
            if next_s is not None and next_s < events[0][0]:
                now_s = next_s
                continue
            now_s, attempt = heapq.heappop(events)
            assert now_s < math.inf, "what is silent is never covered"
            task, environment, launched_s = carries.pop(attempt)
            idle.append(environment)
            hedging.ended(attempt, now_s, run_s=now_s - launched_s, is_cold=False)
            done.add(task)
            for rival, (its, _, _) in carries.items():
                if its == task:
                    hedging.settled(rival)
        self.makespan_s = now_s
        return self


def noisy(rng: random.Random) -> float:
    """Ten seconds, in environments and moments that differ by 15 %."""
    return 10.0 * rng.uniform(0.85, 1.15)


@pytest.mark.parametrize("is_estimated", [True, False])
@pytest.mark.parametrize("places", [1000, 1050, 100, 10])
def test_equal_tasks_are_not_covered_at_all(places: int, is_estimated: bool) -> None:
    rng = random.Random(1)
    fleet = Fleet(1000, places, lambda attempt, environment: noisy(rng), is_estimated).run()
    assert fleet.covered == {}
    assert fleet.hedging.counts == HedgeCounts()


@pytest.mark.parametrize("is_estimated", [True, False])
@pytest.mark.parametrize("places", [1050, 100, 10])
def test_of_a_thousand_equal_tasks_the_one_that_hangs_is_covered_in_time(
    places: int, is_estimated: bool
) -> None:
    """At 2 medians if no task waits for a place, else at 4."""
    for hung in (1, 517, 990, 1000):
        rng = random.Random(2)

        def wall_s(
            attempt: int, environment: int, rng: random.Random = rng, hung: int = hung
        ) -> float:
            return math.inf if attempt == hung else noisy(rng)

        fleet = Fleet(1000, places, wall_s, is_estimated).run()
        assert fleet.covered.keys() == {hung - 1}
        assert 20.0 <= fleet.covered[hung - 1] <= 43.0
        assert fleet.hedging.counts.won == 1


def test_many_hangs_are_covered_as_far_as_the_reserve_goes_and_then_at_the_end() -> None:
    """One in a hundred, ten times as many as thought: 400 GB-s and then 1000 pay for 40 s each."""
    rng = random.Random(3)
    fleet = Fleet(
        1000, 100, lambda n, environment: math.inf if n % 100 == 50 and n < 1000 else noisy(rng)
    ).run()
    assert len(fleet.covered) == 10
    assert fleet.hedging.counts.won == 10
    assert max(fleet.covered.values()) <= 120.0


@pytest.mark.parametrize("is_estimated", [True, False])
@pytest.mark.parametrize("places", [1050, 200])
def test_only_what_runs_in_slow_environments_is_covered(places: int, is_estimated: bool) -> None:
    """Three in a hundred are two to three times as slow."""
    rng = random.Random(4)
    speeds = [rng.uniform(2, 3) if n % 33 == 5 else 1.0 for n in range(places)]
    slow: set[int] = set()

    def wall_s(attempt: int, environment: int) -> float:
        if speeds[environment] > 1:
            slow.add(attempt - 1)
        return noisy(rng) * speeds[environment]

    fleet = Fleet(1000, places, wall_s, is_estimated).run()
    assert fleet.covered
    assert fleet.covered.keys() <= slow
    assert min(fleet.covered.values()) >= 12.0


def test_a_run_of_two_tasks_is_saved_from_its_hang() -> None:
    rng = random.Random(5)
    for is_estimated in (True, False):
        fleet = Fleet(
            2, 3, lambda n, environment: math.inf if n == 1 else noisy(rng), is_estimated
        ).run()
        assert fleet.covered.keys() == {0}
        assert fleet.makespan_s <= 65.0


def test_unequal_tasks_waste_no_more_than_the_budget() -> None:
    """A copy of what is merely large wins nothing, and is billed."""
    rng = random.Random(6)
    sizes = [rng.lognormvariate(2.0, 1.0) for _ in range(1000)]
    attempts: dict[int, float] = {}

    def wall_s(attempt: int, environment: int) -> float:
        attempts[attempt] = sizes[attempt - 1] if attempt <= 1000 else 60.0
        return attempts[attempt]

    fleet = Fleet(1000, 1500, wall_s).run()
    assert fleet.hedging.counts.launched <= 150
    assert sum(fleet.covered.values()) <= 0.14 * 10_000
