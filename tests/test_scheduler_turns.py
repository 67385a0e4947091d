"""Whose turn it is, of runs that share a function: no turn is lost, and none taken for nothing."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from fanout.budget import Billed, Budget
from fanout.capacity import Capacity
from fanout.events import AttemptAnswered, InputEnded, Launch, Offered, Ticked, WakeAt
from fanout.grouping import Estimate, Grouping, GroupPolicy
from fanout.hard_stops import HardStops
from fanout.hedging import Hedging
from fanout.retry import Failure, FailureKind
from fanout.scheduler import Scheduler
from fanout.tasks import Outcome
from fanout.token_bucket import RateLimit
from tests.scheduler_checks import guards_in, launched, report_of

if TYPE_CHECKING:
    from fanout.events import Action


def run_on(capacity: Capacity, *, unit_s: float | None = 1.0, **options: Any) -> Scheduler:
    estimate = None if unit_s is None else Estimate(unit_s=unit_s)
    options["capacity"] = capacity
    return Scheduler(
        limit=10,
        grouping=Grouping(GroupPolicy(fixed=1), estimate=estimate),
        rng=random.Random(0),
        can_stop=False,
        guards=guards_in(options),
        **options,
    )


def bounded(capacity: Capacity, max_gb_s: float, **options: Any) -> Scheduler:
    return run_on(
        capacity,
        stops=HardStops(is_bounded=True),
        budget=Budget(max_gb_s, gb=1.0),
        billed=Billed(gb=1.0, timeout_s=900.0),
        **options,
    )


def answer(run: Scheduler, attempt: int, now_s: float) -> list[Action]:
    outcomes = [Outcome(task, task) for task in run._flight.tasks_of(attempt)]
    return run.handle(AttemptAnswered(attempt, outcomes, report_of(attempt, total_s=0.1)), now_s)


def refuse_all(capacity: Capacity, now_s: float, wait_s: float) -> None:
    """An attempt of somebody else is refused, and holds everybody."""
    other = capacity.seat()
    capacity.launched(other, now_s)
    capacity.refused(other, "CallerRateLimitExceeded", wait_s, now_s, launched_s=now_s)
    capacity.leave(other)


def test_who_waits_learns_when_it_may_launch_though_all_others_have_ended() -> None:
    """It was told that only an event could change anything; this is the event, and the last."""
    capacity = Capacity(1, growth=None, rate=RateLimit(per_s=1.0, burst=1))
    one, two = run_on(capacity), run_on(capacity)
    assert len(launched(one.handle(Offered(0, 1), 0.0) + one.handle(InputEnded(), 0.0))) == 1
    assert two.handle(Offered(0, 1), 0.0) == []
    answer(one, 0, 0.5)
    assert one.is_finished
    assert capacity.turn(0.5) is two.seat
    (wake,) = two.handle(Ticked(), 0.5)
    assert isinstance(wake, WakeAt)
    assert wake.at_s == pytest.approx(1.0)
    assert capacity.turn(0.5) is None, "it knows now"


def test_a_cover_that_is_held_keeps_its_place_in_the_line() -> None:
    capacity = Capacity(3, growth=None, rate=None)
    one, two = run_on(capacity, hedging=Hedging()), run_on(capacity)
    one.handle(Offered(0, 1), 0.0)
    two.handle(Offered(0, 20), 0.0)
    assert (one.in_flight, two.in_flight) == (1, 2)
    assert launched(one.handle(Ticked(), 30.0)) == []
    answer(two, 0, 31.0)
    answer(two, 1, 31.0)
    assert capacity.turn(31.0) is one.seat
    (cover,) = [a for a in one.handle(Ticked(), 31.0) if isinstance(a, Launch)]
    assert cover.covers == 0


def test_a_run_does_not_end_for_what_it_could_not_afford_once() -> None:
    """What attempts may cost falls with what is learnt; nobody asked since, as all were held."""
    capacity = Capacity(10, growth=None, rate=None)
    run = bounded(capacity, 60.0, unit_s=None)
    assert len(launched(run.handle(Offered(0, 2), 0.0))) == 1  # 52 s at worst
    refuse_all(capacity, 9.0, wait_s=5.0)
    answer(run, 0, 10.0)
    assert not run.is_finished
    assert launched(run.handle(Ticked(), 14.0)) == [[1]]


def test_runs_don_t_lose_their_turn_over_a_task_that_is_too_dear() -> None:
    """Else two of them give the turn to each other for ever."""
    capacity = Capacity(20, growth=None, rate=None)
    runs = [bounded(capacity, 106.0), bounded(capacity, 106.0)]
    for run in runs:
        assert len(launched(run.handle(Offered(0, 3), 0.0))) == 3  # 32 GB-s each at worst
    refuse_all(capacity, 9.0, wait_s=5.0)
    for run in runs:
        stop = Failure(kind=FailureKind.TIMED_OUT, hard_s=10.0)
        late: Outcome[Any] = Outcome(0, error=TimeoutError(), failure=stop)
        run.handle(AttemptAnswered(0, [late], report_of(0, total_s=10.0)), 10.0)  # 122 now
        assert launched(run.handle(Offered(3, 1), 10.0)) == []
    took_turns = []
    for _ in range(4):
        seat = capacity.turn(14.0)
        for run in runs:
            if seat is not None and run.seat is seat:
                took_turns += launched(run.handle(Ticked(), 14.0))
    assert took_turns == [[3], [3]]
    assert capacity.turn(14.0) is None
