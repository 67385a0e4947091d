"""Runs that share a function: within its limits together, and each gets its share."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import fanout
from fanout.capacity import Capacity
from fanout.emulator import Emulator
from fanout.events import AttemptAnswered, AttemptFailed, InputEnded, Launch, Offered, Ticked
from fanout.grouping import Estimate, Grouping, GroupPolicy
from fanout.guards import Guards
from fanout.retry import Failure, FailureKind
from fanout.scheduler import Scheduler
from fanout.tasks import Outcome
from fanout.token_bucket import RateLimit
from tests.scheduler_checks import launched, report_of

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator

    from fanout.events import Action

ROOT = Path(__file__).parent.parent


def scheduler(capacity: Capacity, *, limit: int = 10) -> Scheduler:
    import random

    grouping = Grouping(GroupPolicy(fixed=1), estimate=Estimate(unit_s=1.0))
    rng: random.Random = random.Random(0)
    return Scheduler(
        limit=limit, grouping=grouping, rng=rng, can_stop=False, guards=Guards(capacity=capacity)
    )


def offered(one: Scheduler, count: int, now_s: float = 0.0) -> list[Action]:
    return one.handle(Offered(0, count), now_s) + one.handle(InputEnded(), now_s)


def answer(one: Scheduler, attempt: int, now_s: float) -> list[Action]:
    outcomes = [Outcome(task, task) for task in one._flight.tasks_of(attempt)]
    return one.handle(AttemptAnswered(attempt, outcomes, report_of(attempt, total_s=1.0)), now_s)


def test_two_runs_have_no_more_in_flight_than_one_may() -> None:
    capacity = Capacity(10, growth=None, rate=None)
    one, two = scheduler(capacity), scheduler(capacity)
    assert len(launched(offered(one, 50))) == 10
    assert launched(offered(two, 50)) == []
    assert capacity.in_flight == 10


def test_who_comes_later_gets_what_is_free_until_both_have_the_same() -> None:
    capacity = Capacity(10, growth=None, rate=None)
    one, two = scheduler(capacity), scheduler(capacity)
    offered(one, 50)
    offered(two, 50)
    for attempt in range(5):
        assert launched(answer(one, attempt, 1.0)) == []
        assert capacity.turn(1.0) is two.seat
        assert len(launched(two.handle(Ticked(), 1.0))) == 1
    assert (one.in_flight, two.in_flight) == (5, 5)


def test_a_run_that_has_ended_leaves_its_room_to_the_other() -> None:
    capacity = Capacity(4, growth=None, rate=None)
    one, two = scheduler(capacity), scheduler(capacity)
    offered(one, 4)
    offered(two, 50)
    for attempt in range(4):
        answer(one, attempt, 1.0)
    assert one.is_finished
    assert capacity.turn(1.0) is two.seat
    assert len(launched(two.handle(Ticked(), 1.0))) == 4


def test_launches_keep_to_the_rate_and_a_wake_up_is_due_for_the_next() -> None:
    capacity = Capacity(100, growth=None, rate=RateLimit(per_s=10.0, burst=5))
    one = scheduler(capacity, limit=100)
    actions = offered(one, 50)
    assert len(launched(actions)) == 5
    assert one._armed_s == pytest.approx(0.1)
    assert len(launched(one.handle(Ticked(), 0.1001))) == 1


def test_a_refusal_for_concurrency_teaches_how_much_may_be_in_flight() -> None:
    capacity = Capacity(100, growth=None, rate=None)
    one = scheduler(capacity, limit=100)
    launches = [a for a in offered(one, 500) if isinstance(a, Launch)]
    throttled = Failure(
        kind=FailureKind.THROTTLED, reason="ConcurrentInvocationLimitExceeded", wait_s=0.5
    )
    for launch in launches[70:]:
        one.handle(AttemptFailed(launch.attempt, throttled), 0.1)
    assert one.in_flight == 70
    assert capacity.usable == 70
    assert launched(one.handle(Ticked(), 5.0)) != []  # in time it is tried again


@contextlib.asynccontextmanager
async def emulated(monkeypatch: pytest.MonkeyPatch, **options: Any) -> AsyncIterator[Emulator]:
    settings: dict[str, Any] = {"path": [ROOT], **options}
    async with Emulator(**settings) as emulator:
        for name, value in emulator.variables.items():
            monkeypatch.setenv(name, value)
        yield emulator


async def test_maps_at_the_same_time_are_not_throttled_by_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernel: Any = eval("lambda n: __import__('time').sleep(0.05) or n")
    async with emulated(monkeypatch, concurrency=3) as emulator, fanout.Executor() as ex:
        results = await asyncio.gather(
            *(ex.map(kernel, range(start, start + 12), group=1) for start in (0, 100, 200))
        )
        assert results == [[*range(start, start + 12)] for start in (0, 100, 200)]
        assert emulator.counts.throttles == {}


async def test_a_rate_of_ones_own_is_kept_to(monkeypatch: pytest.MonkeyPatch) -> None:
    async with emulated(monkeypatch, concurrency=2):
        backend = fanout.Lambda("fanout-worker", rate=fanout.RateLimit(per_s=5.0, burst=1))
        began_s = time.monotonic()
        async with fanout.Executor(backend) as ex:
            assert await ex.map(abs, range(6), group=1) == [*range(6)]
        assert time.monotonic() - began_s >= 1.0  # it can't be less: five pauses of 0.2 s
