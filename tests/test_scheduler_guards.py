"""What keeps an eye on attempts: covers for silent ones, storms, budgets."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import fanout
from fanout.budget import Billed, Budget
from fanout.capacity import Capacity
from fanout.emulator import Emulator, Faults
from fanout.errors import BackendError, BudgetExceededError, UsageError
from fanout.events import (
    AttemptAnswered,
    AttemptFailed,
    Deliver,
    Finish,
    Ignore,
    InputEnded,
    Launch,
    Offered,
    Ticked,
    WakeAt,
)
from fanout.grouping import Estimate, Grouping, GroupPolicy
from fanout.hedging import Hedging
from fanout.retry import Failure, FailureKind, RetryPolicy
from fanout.scheduler import Scheduler
from fanout.storm import StormGuard
from fanout.tasks import Outcome
from tests.scheduler_checks import delivered, guards_in, report_of

if TYPE_CHECKING:
    from fanout.events import Action, Event

ROOT = Path(__file__).parent.parent
CRASHED = Failure(kind=FailureKind.CRASHED, detail="died")


class Run:
    """A scheduler as on Lambda, fed by hand."""

    def __init__(self, *, limit: int = 100, group: int | None = None, **options: Any) -> None:
        estimate = Estimate(unit_s=options.pop("unit_s", 1.0))
        self.capacity = options["capacity"] = Capacity(limit, growth=None, rate=None)
        self.scheduler = Scheduler(
            limit=limit,
            grouping=Grouping(GroupPolicy(fixed=group), estimate=estimate),
            rng=random.Random(0),
            can_stop=False,
            guards=guards_in(options),
            **options,
        )
        self.story: list[Action] = []

    def feed(self, event: Event, now_s: float = 0.0) -> list[Action]:
        actions = self.scheduler.handle(event, now_s)
        self.story += actions
        return actions

    def offer(self, count: int) -> list[Launch]:
        return only(self.feed(Offered(0, count)) + self.feed(InputEnded()))

    def answer(self, attempt: int, now_s: float, *, values: str = "") -> list[Action]:
        tasks = self.scheduler._flight.tasks_of(attempt)
        outcomes = [Outcome(task, f"{task}{values}") for task in tasks]
        report = report_of(attempt, total_s=now_s, environment=f"e{attempt}")
        return self.feed(AttemptAnswered(attempt, outcomes, report), now_s)

    def until_cover(self, now_s: float, end_s: float) -> tuple[float, list[Launch]]:
        """Let time pass, wake-up by wake-up, until a cover is launched."""
        while now_s < end_s:
            wakes = [action.at_s for action in self.story if isinstance(action, WakeAt)]
            now_s = max(now_s, min(wakes[-1] if wakes else end_s, end_s))
            covers = [one for one in only(self.feed(Ticked(), now_s)) if one.covers is not None]
            if covers:
                return now_s, covers
        return now_s, []


def only(actions: list[Action]) -> list[Launch]:
    return [action for action in actions if isinstance(action, Launch)]


def silent_last(**options: Any) -> Run:
    """All but the last of 100 attempts of one second have answered in time."""
    run = Run(group=1, hedging=Hedging(), **options)
    run.offer(100)
    for attempt in range(99):
        run.answer(attempt, 1.0 + attempt / 1000)
    return run


def test_an_attempt_that_is_silent_gets_a_cover_and_the_first_answer_counts() -> None:
    run = silent_last()
    now_s, (cover,) = run.until_cover(1.1, 60.0)
    assert cover.covers == 99
    assert list(cover.tasks) == [99]
    assert 1.3 < now_s < 15.0
    run.answer(cover.attempt, now_s + 1.0, values=" of the cover")
    assert run.scheduler.is_finished
    assert [outcome.value for outcome in delivered(run.story)][-1] == "99 of the cover"
    assert len(delivered(run.story)) == 100


def test_the_loser_counts_as_in_flight_until_it_answers_and_changes_nothing() -> None:
    run = Run(group=1, hedging=Hedging())
    run.feed(Offered(0, 100))  # more may come
    for attempt in range(99):
        run.answer(attempt, 1.0)
    now_s, (cover,) = run.until_cover(1.1, 60.0)
    run.answer(cover.attempt, now_s + 1.0)
    assert run.scheduler.in_flight == run.capacity.in_flight == 1
    actions = run.answer(99, now_s + 5.0, values=" too late")
    assert not [action for action in actions if isinstance(action, Deliver)]
    assert run.scheduler.in_flight == run.capacity.in_flight == 0
    assert len(delivered(run.story)) == 100


def test_where_attempts_can_be_stopped_the_loser_is() -> None:
    run = silent_last()
    run.scheduler._can_stop = True
    run.scheduler._supply.has_ended = False  # the run goes on
    now_s, (cover,) = run.until_cover(1.1, 60.0)
    assert Ignore(99) in run.answer(cover.attempt, now_s + 1.0)


def test_when_one_of_two_fails_the_other_is_waited_for_and_nobody_is_charged() -> None:
    run = silent_last()
    now_s, (cover,) = run.until_cover(1.1, 60.0)
    run.feed(AttemptFailed(99, CRASHED), now_s + 0.1)
    assert not run.scheduler.is_finished
    assert run.scheduler.attempts_of(99) == 1
    run.answer(cover.attempt, now_s + 1.0)
    assert run.scheduler.is_finished
    assert delivered(run.story)[-1].attempts == 1


def test_when_both_fail_the_task_is_tried_again() -> None:
    run = silent_last(retry=RetryPolicy(base_s=0.0))
    now_s, (cover,) = run.until_cover(1.1, 60.0)
    (second,) = only(run.feed(AttemptFailed(cover.attempt, CRASHED), now_s + 0.1))
    assert second.covers == 99
    assert only(run.feed(AttemptFailed(99, CRASHED), now_s + 0.2)) == []
    (third,) = only(run.feed(AttemptFailed(second.attempt, CRASHED), now_s + 0.3))
    assert (list(third.tasks), third.covers) == ([99], None)
    assert run.scheduler.attempts_of(99) == 2


def test_what_may_not_run_twice_gets_no_cover() -> None:
    run = silent_last(is_idempotent=False)
    _, covers = run.until_cover(1.1, 1000.0)
    assert covers == []


def test_a_service_that_is_down_ends_the_run_before_all_tasks_were_tried() -> None:
    run = Run(group=1, storm=StormGuard(), retry=RetryPolicy(base_s=0.0))
    run.offer(10_000)
    failed, now_s = 0, 0.0
    while not run.scheduler.is_finished:
        now_s += 0.01
        run.feed(AttemptFailed(next(iter(run.scheduler._flight)), CRASHED), now_s)
        failed += 1
        assert failed < 2000
    (finish,) = [action for action in run.story if isinstance(action, Finish)]
    assert finish.failure is not None
    assert isinstance(finish.failure.error, BackendError)
    assert "failures outnumber answers" in str(finish.failure.error)


def test_a_budget_is_kept_even_if_every_attempt_takes_its_worst() -> None:
    run = Run(group=1, budget=Budget(100.0, 2.0), billed=Billed(gb=2.0, timeout_s=10.0))
    assert len(run.offer(50)) == 5  # of 20 GB-s each
    for attempt in range(5):
        run.answer(attempt, 10.0)
    (finish,) = [action for action in run.story if isinstance(action, Finish)]
    assert finish.failure is not None
    error = finish.failure.error
    assert isinstance(error, BudgetExceededError)
    assert (error.spent_gb_s, error.max_gb_s, error.worst_gb_s) == (100.0, 100.0, 20.0)
    assert len(delivered(run.story)) == 5


def test_what_an_attempt_did_not_take_is_there_for_others() -> None:
    run = Run(group=1, budget=Budget(100.0, 1.0), billed=Billed(gb=1.0, timeout_s=50.0))
    assert len(run.offer(6)) == 2
    now_s = 0.0
    while not run.scheduler.is_finished:
        now_s += 1.0
        run.answer(next(iter(run.scheduler._flight)), now_s)
    assert len(delivered(run.story)) == 6


async def test_a_map_that_may_cost_too_much_ends_with_what_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernel: Any = eval("lambda n: __import__('time').sleep(0.3) or n")
    async with Emulator(concurrency=1, path=[ROOT], timeout_s=1, memory_mb=1024) as emulator:
        for name, value in emulator.variables.items():
            monkeypatch.setenv(name, value)
        async with fanout.Executor() as ex:
            with pytest.raises(BudgetExceededError) as caught:
                await ex.map(kernel, range(100), group=1, max_gb_s=12.0)
            done = caught.value.run
            assert done is not None
            assert 0 < len(done.outcomes) < 50
            assert [outcome.value for outcome in done.outcomes] == [
                outcome.index for outcome in done.outcomes
            ]
            assert await ex.map(kernel, range(2), group=1, max_gb_s=1000.0) == [0, 1]


async def test_on_this_machine_there_is_nothing_to_limit() -> None:
    with pytest.raises(UsageError, match=r"max_gb_s=1\.0 is for Lambda"):
        await fanout.map(abs, [1], max_gb_s=1.0)


async def test_hung_invocations_do_not_hold_a_map_up(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel: Any = eval("lambda n: __import__('time').sleep(0.05) or n")
    faults = Faults(hang=0.02, seed=3)
    async with Emulator(concurrency=8, path=[ROOT], timeout_s=40, faults=faults) as emulator:
        for name, value in emulator.variables.items():
            monkeypatch.setenv(name, value)
        launches: list[Launch] = []

        def heard(event: Any) -> None:
            if isinstance(event, Launch):
                launches.append(event)

        async with fanout.Executor() as ex:
            run = await ex.run(kernel, range(200), group=1, on_event=heard)
        assert [outcome.value for outcome in run.outcomes] == [*range(200)]
        assert emulator.counts.faults["hang"] > 0
        assert any(launch.covers is not None for launch in launches)
        assert run.makespan_s < 40  # else it waited for the function's own timeout
        assert run.hedges.launched == sum(launch.covers is not None for launch in launches)
        assert run.hedges.won > 0
