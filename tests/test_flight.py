"""What those that keep an eye on attempts are told of them: each mistake here shows late."""

from __future__ import annotations

import random
from typing import Any

import pytest

from fanout.budget import Billed, Budget
from fanout.capacity import Capacity
from fanout.events import (
    AttemptAnswered,
    AttemptFailed,
    Event,
    InputEnded,
    Launch,
    Offered,
    Ticked,
)
from fanout.grouping import Estimate, Grouping, GroupPolicy
from fanout.hedge_policy import HedgePolicy
from fanout.hedging import Hedging
from fanout.retry import Failure, FailureKind, RetryPolicy
from fanout.scheduler import Scheduler
from fanout.storm import StormGuard
from fanout.tasks import Outcome
from tests.scheduler_checks import guards_in, report_of

CRASHED = Failure(kind=FailureKind.CRASHED, detail="died")
THROTTLED = Failure(kind=FailureKind.THROTTLED, reason="CallerRateLimitExceeded")


class Run:
    """A scheduler as on Lambda, with one task in each attempt."""

    def __init__(self, *, limit: int = 10, **options: Any) -> None:
        options["capacity"] = Capacity(limit, growth=None, rate=None)
        self.scheduler = Scheduler(
            limit=limit,
            grouping=Grouping(GroupPolicy(fixed=1), estimate=Estimate(unit_s=1.0)),
            rng=random.Random(0),
            retry=RetryPolicy(max_attempts=1),
            can_stop=False,
            guards=guards_in(options),
            **options,
        )

    def feed(self, event: Event, now_s: float = 0.0) -> list[Launch]:
        return [a for a in self.scheduler.handle(event, now_s) if isinstance(a, Launch)]

    def offer(self, count: int) -> list[Launch]:
        return self.feed(Offered(0, count)) + self.feed(InputEnded())

    def answer(self, launch: Launch, now_s: float) -> list[Launch]:
        outcomes = [Outcome(task, task) for task in launch.tasks]
        report = report_of(launch.attempt, total_s=1.0)
        return self.feed(AttemptAnswered(launch.attempt, outcomes, report), now_s)


def test_a_cover_that_was_refused_is_not_paid_for() -> None:
    policy = HedgePolicy(share=0.0, hang_share=0.0, min_covers=1)
    run = Run(hedging=Hedging(policy))
    run.offer(1)
    (cover,) = run.feed(Ticked(), 30.0)
    assert cover.covers == 0
    run.feed(AttemptFailed(cover.attempt, THROTTLED), 30.1)
    (again,) = run.feed(Ticked(), 31.0)
    assert again.covers == 0
    run.feed(AttemptFailed(again.attempt, CRASHED), 32.0)
    assert run.feed(Ticked(), 60.0) == [], "one that ran is paid for"


def test_answers_make_up_for_failures() -> None:
    run = Run(limit=2, storm=StormGuard())
    flying = run.offer(1000)
    for number in range(400):
        launch = flying.pop(0)
        if number % 2:
            flying += run.feed(AttemptFailed(launch.attempt, CRASHED), number)
        else:
            flying += run.answer(launch, number)
    assert not run.scheduler.is_finished


@pytest.mark.parametrize("is_watched", [False, True])
def test_nothing_is_covered_while_failures_look_like_a_storm(is_watched: bool) -> None:
    run = Run(limit=3, storm=StormGuard() if is_watched else None, hedging=Hedging())
    hung, *flying = run.offer(71)
    for _ in range(70):
        flying += run.feed(AttemptFailed(flying.pop(0).attempt, CRASHED), 0.1)
    assert [cover.covers for cover in run.feed(Ticked(), 30.0)] == [hung.attempt] * (not is_watched)


def test_what_ran_in_the_larger_function_is_billed_as_that() -> None:
    billed = Billed(gb=1.0, timeout_s=40.0, larger=Billed(gb=3.0, timeout_s=40.0))
    budget = Budget(500.0, gb=1.0)
    run = Run(billed=billed, budget=budget, can_escalate=True)
    (launch,) = run.offer(1)
    no_memory = Failure(kind=FailureKind.OUT_OF_MEMORY)
    run.feed(AttemptFailed(launch.attempt, no_memory), 10.0)
    (larger,) = run.feed(Ticked(), 20.0)
    assert larger.is_escalated
    assert (budget.spent_gb_s, budget.reserved_gb_s) == (10.0, 120.0)
    run.answer(larger, 25.0)
    assert (budget.spent_gb_s, budget.reserved_gb_s) == (25.0, 0.0)


def test_an_attempt_whose_cover_was_lost_is_covered_again() -> None:
    run = Run(hedging=Hedging())
    (hung,) = run.offer(1)
    (cover,) = run.feed(Ticked(), 30.0)
    assert run.feed(Ticked(), 31.0) == []  # one at a time
    (again,) = run.feed(AttemptFailed(cover.attempt, CRASHED), 32.0)
    assert again.covers == hung.attempt
