"""Simulated runs: the same for the same seed, every task delivered once, whatever goes wrong."""

from __future__ import annotations

import random
import statistics
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from fanout.errors import UsageError
from fanout.events import (
    AttemptAnswered,
    AttemptFailed,
    Deliver,
    Event,
    Finish,
    Ignore,
    InputEnded,
    Launch,
    Offered,
    WakeAt,
)
from fanout.fleet import Fleet, FleetModel
from fanout.grouping import Estimate
from fanout.retry import FailureKind, RetryPolicy
from fanout.simulator import SimulatedRun, Work, drive, lambda_grouping, simulate
from fanout.tasks import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanout.events import Action
    from fanout.scheduler import Scheduler

UNKIND = FleetModel(
    concurrency=20, crash_share=0.05, lost_share=0.05, hang_share=0.02, slow_share=0.1
)
PATIENT = RetryPolicy(max_attempts=50, max_lost=50)


def run(
    tasks: int,
    fleet: FleetModel,
    *,
    seed: int = 0,
    group: int | None = None,
    mean_s: float = 1.0,
    **options: Any,
) -> SimulatedRun:
    grouping = lambda_grouping(fleet, fixed=group)
    work = Work(tasks=tasks, mean_s=mean_s)
    return simulate(work, fleet, rng=random.Random(seed), grouping=grouping, **options)


# ---- whole runs ----


def test_the_same_seed_gives_the_same_run_and_another_one_another() -> None:
    one, same, other = (run(500, UNKIND, seed=seed, retry=PATIENT) for seed in (1, 1, 2))
    assert one == same
    assert one.makespan_s != other.makespan_s


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    tasks=st.integers(1, 300),
    group=st.sampled_from([None, 1, 7]),
    busy=st.sampled_from([0, 15]),
)
def test_every_task_is_delivered_once_whatever_goes_wrong(
    seed: int, tasks: int, group: int | None, busy: int
) -> None:
    """The simulator itself asserts it of every task; here it must come to that."""
    fleet = replace(UNKIND, busy=busy, busy_every_s=20.0)
    done = run(tasks, fleet, seed=seed, group=group, retry=PATIENT)
    assert (done.failure, done.failed_tasks) == ("", 0)
    assert done.most_in_flight <= fleet.concurrency
    assert done.samples[-1].delivered == tasks


def test_ten_thousand_tasks_on_a_thousand_environments() -> None:
    done = run(10_000, FleetModel(), estimate=Estimate(unit_s=1.0))
    assert done.samples[-1].delivered == 10_000
    assert 10_000 / 1000 < done.makespan_s < 10_000
    assert done.gb_s > 10_000 * 0.85 * 1769 / 1024


@pytest.mark.parametrize("factor", [0.001, 0.01, 0.1, 10.0, 100.0])
@pytest.mark.parametrize(("tasks", "mean_s"), [(1000, 1.0), (1000, 10.0), (10_000, 0.1)])
def test_an_estimate_that_is_wrong_does_no_lasting_harm(
    tasks: int, mean_s: float, factor: float
) -> None:
    """It may be of another input: all takes not much longer than if nothing were known."""
    fleet = FleetModel(launches_per_s=1000.0)
    unknown = run(tasks, fleet, mean_s=mean_s)
    wrong = run(tasks, fleet, mean_s=mean_s, estimate=Estimate(unit_s=factor * mean_s))
    most = 2.0 if factor < 0.1 else 1.5
    assert wrong.makespan_s < most * unknown.makespan_s
    if factor < 1:
        assert wrong.gb_s < 1.25 * unknown.gb_s
    else:  # more environments were started than were worth it
        assert wrong.gb_s < unknown.gb_s + 1.25 * wrong.cold_starts * 1769 / 1024 * 2.5


def test_a_storm_of_refusals_ends_and_shows_by_reason() -> None:
    """An account whose quota is 10, and a client that believes in 1000."""
    done = run(300, FleetModel(concurrency=10), group=1, mean_s=2.0, limit=1000)
    assert done.throttles["ConcurrentInvocationLimitExceeded"] > 0
    assert done.most_in_flight == 10
    assert done.launches == done.attempts + done.throttles.total()
    assert done.makespan_s > 300 * 2.0 * 0.85 / 10


def test_growth_above_the_burst_is_refused_and_asked_for_again() -> None:
    fleet = FleetModel(burst=5, environments_per_s=2.0).quiet()
    done = run(40, fleet, group=1, mean_s=20.0)
    assert done.cold_starts <= 5 + 2.0 * done.makespan_s
    assert done.failed_tasks == 0


def test_a_hang_is_waited_for_and_its_task_runs_again() -> None:
    fleet = FleetModel(hang_share=0.05, timeout_s=120.0)
    done = run(100, fleet, group=1, seed=3)
    assert done.retries > 0
    assert done.failed_tasks == 0


def test_a_run_that_would_cost_too_much_ends_and_says_so() -> None:
    done = run(1000, FleetModel(), mean_s=2.0, max_gb_s=1000.0)
    assert "max_gb_s=1000" in done.failure
    assert 0 < done.samples[-1].delivered < 1000
    assert 500 < done.gb_s <= 1000


def test_tasks_that_crash_each_time_fail() -> None:
    done = run(5, FleetModel(crash_share=1.0), group=1)
    assert (done.failed_tasks, done.failure) == (5, "")
    assert done.attempts == 15


def test_a_fleet_without_any_room_ends_the_run_with_a_reason() -> None:
    done = run(5, FleetModel(concurrency=5, busy=5))
    assert "throttled" in done.failure
    assert done.attempts == 0
    assert done.gb_s == 0


def test_a_quiet_run_takes_and_costs_what_can_be_added_up() -> None:
    fleet = FleetModel(memory_mb=2048, launches_per_s=100.0).quiet()
    done = run(1, fleet, group=1, mean_s=3.0)
    assert done.makespan_s == pytest.approx(0.01 + 1.8 + 0.2 + 3.0)
    assert done.gb_s == pytest.approx(2 * (1.8 + 0.2 + 3.0))


def test_the_client_sends_one_request_after_the_other() -> None:
    done = run(100, FleetModel(launches_per_s=10.0).quiet(), group=1, mean_s=0.001)
    assert done.makespan_s > 100 / 10.0


def test_samples_are_few_and_in_order() -> None:
    done = run(2000, FleetModel(concurrency=5), group=1)
    assert len(done.samples) <= 512
    assert done.samples == sorted(done.samples, key=lambda sample: sample.at_s)
    assert [sample.delivered for sample in done.samples] == sorted(
        sample.delivered for sample in done.samples
    )


# ---- what is done with each action ----


class Script:
    """In the place of a scheduler: launches what it is told, and keeps what it hears.

    Attributes:
        launches: These, once the input has ended.
        heard: All answers, with their times.
    """

    def __init__(self, *launches: Action, ends_s: float = 1000.0, deliveries: int = 1) -> None:
        self.launches = launches
        self.heard: list[tuple[float, Event]] = []
        self.is_finished = False
        self.wanted = 10
        self._ends_s = ends_s
        self._deliveries = deliveries
        self._offered = 0

    def handle(self, event: Event, now_s: float) -> Sequence[Action]:
        if isinstance(event, AttemptAnswered | AttemptFailed):
            self.heard.append((now_s, event))
        if isinstance(event, Offered):
            self._offered += event.count
        if isinstance(event, InputEnded):
            self.wanted = 0
            return [*self.launches, WakeAt(self._ends_s)]
        if now_s < self._ends_s:
            return []
        self.is_finished = True
        outcomes: list[Outcome[None]] = [Outcome(task) for task in range(self._offered)]
        return [*[Deliver(outcomes)] * self._deliveries, Finish()]


def driven(script: Script, *seconds: float, **changes: Any) -> tuple[SimulatedRun, Fleet]:
    fleet = Fleet(replace(FleetModel().quiet(), **changes), random.Random(0))
    return drive(cast("Scheduler", script), seconds, fleet), fleet


def test_what_a_worker_leaves_at_the_soft_deadline_comes_back() -> None:
    script = Script(Launch(0, [0, 1, 2], soft_s=1.5))
    done, _ = driven(script, 1.0, 1.0, 1.0)
    ((_, answer),) = script.heard
    assert isinstance(answer, AttemptAnswered)
    assert [outcome.index for outcome in answer.outcomes] == [0, 1]
    assert [*answer.left] == [2]
    assert done.lefts == 1


def test_a_group_leaves_the_task_that_was_ended_at_the_hard_deadline() -> None:
    script = Script(Launch(0, [0, 1, 2], hard_s=4.0))
    driven(script, 1.0, 9.0, 1.0)
    ((at_s, answer),) = script.heard
    assert isinstance(answer, AttemptAnswered)
    assert [*answer.left] == [1, 2]
    assert at_s == pytest.approx(1 / 250 + 1.8 + 0.2 + 4.0)


def test_a_task_on_its_own_times_out_at_the_hard_deadline() -> None:
    script = Script(Launch(0, [0], hard_s=4.0))
    driven(script, 9.0)
    ((_, answer),) = script.heard
    assert isinstance(answer, AttemptFailed)
    assert answer.failure.kind is FailureKind.TIMED_OUT
    assert answer.failure.allowed_s is None


def test_a_refusal_says_why_and_when_to_come_again() -> None:
    script = Script(Launch(0, [0]), Launch(1, [1]))
    done, _ = driven(script, 5.0, 5.0, concurrency=1, retry_after_s=2.5, refusal_s=0.1)
    at_s, refusal = script.heard[0]
    assert isinstance(refusal, AttemptFailed)
    assert (refusal.attempt, refusal.failure.kind) == (1, FailureKind.THROTTLED)
    assert (refusal.failure.reason, refusal.failure.wait_s) == (
        "ConcurrentInvocationLimitExceeded",
        2.5,
    )
    assert at_s == pytest.approx(2 / 250 + 0.1)
    assert (done.launches, done.attempts) == (2, 1)


def test_an_attempt_that_is_ignored_runs_on_and_is_billed() -> None:
    class Impatient(Script):
        def handle(self, event: Event, now_s: float) -> Sequence[Action]:
            actions = super().handle(event, now_s)
            # It has been sent by now.
            return [Ignore(0), *actions] if now_s == 1 / 250 else actions

    script = Impatient(Launch(0, [0]))
    done, fleet = driven(script, 5.0)
    assert done.ignored == 1
    assert fleet.billed_s == pytest.approx(7.0)
    ((at_s, _),) = script.heard
    assert at_s == pytest.approx(7.0 + 1 / 250)
    assert fleet.in_flight == 0


def test_an_attempt_that_is_ignored_before_it_is_sent_does_not_run() -> None:
    script = Script(Launch(0, [0]), Ignore(0))
    done, fleet = driven(script, 5.0)
    ((_, answer),) = script.heard
    assert isinstance(answer, AttemptFailed)
    assert answer.failure.kind is FailureKind.DID_NOT_RUN
    assert (done.attempts, done.ignored, fleet.billed_s) == (0, 1, 0.0)


def test_a_launch_of_what_still_runs_is_a_hedge_and_both_are_billed() -> None:
    done, fleet = driven(Script(Launch(0, [0, 1]), Launch(1, [1]), Launch(2, [2])), 5.0, 5.0, 5.0)
    assert (done.attempts, done.hedges) == (3, 1)
    assert fleet.billed_s == pytest.approx(12.0 + 7.0 + 7.0)


def test_a_scheduler_that_delivers_twice_is_found_out() -> None:
    with pytest.raises(AssertionError, match="0: delivered twice"):
        driven(Script(Launch(0, [0]), deliveries=2), 1.0)


def test_a_scheduler_that_forgets_a_task_is_found_out() -> None:
    with pytest.raises(AssertionError, match="a task was not delivered"):
        driven(Script(Launch(0, [0]), deliveries=0), 1.0)


def test_a_scheduler_that_waits_for_nothing_is_found_out() -> None:
    class Stuck(Script):
        def handle(self, event: Event, now_s: float) -> Sequence[Action]:
            super().handle(event, now_s)
            return []

    with pytest.raises(AssertionError, match="stuck"):
        driven(Stuck(), 1.0)


# ---- work ----


@pytest.mark.parametrize("kind", ["constant", "lognormal", "pareto", "drifting"])
def test_times_have_the_mean_that_was_asked_for(kind: str) -> None:
    spread = 3.0 if kind == "pareto" else None  # with 2 the mean of a sample is anybody's guess
    work = Work(tasks=50_000, mean_s=4.0, kind=kind, spread=spread)
    seconds = work.seconds(random.Random(5))
    assert len(seconds) == 50_000
    assert statistics.fmean(seconds) == pytest.approx(4.0, rel=0.03)
    assert min(seconds) > 0


def test_drifting_times_go_from_the_first_to_the_last_in_equal_steps() -> None:
    work = Work(tasks=5, mean_s=5.0, kind="drifting")
    assert work.seconds(random.Random(0)) == pytest.approx([1.0, 3.0, 5.0, 7.0, 9.0])


def test_measured_times_are_taken_in_order_and_again() -> None:
    work = Work(tasks=5, measured_s=[1.0, 2.0])
    assert work.seconds(random.Random(0)) == [1.0, 2.0, 1.0, 2.0, 1.0]


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ({"tasks": 0}, "tasks=0"),
        ({"mean_s": 0.0}, "mean_s=0.0.* must be seconds, above 0"),
        ({"kind": "gauss"}, "must be one of constant, lognormal, pareto, drifting"),
        ({"kind": "pareto", "spread": 1.0}, "must be above 1"),
        ({"measured_s": [1.0, -1.0]}, "must all be seconds"),
    ],
)
def test_work_that_makes_no_sense_is_refused(wrong: dict[str, Any], hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        Work(**{"tasks": 1, **wrong})
