"""What must be true inside a `Scheduler` between any two events, and a bench to try one on.

Kept out of the product: it looks at every container, which a run of a million tasks can't afford.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import fields
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from fanout.events import (
    Action,
    AttemptAnswered,
    AttemptFailed,
    Deliver,
    Event,
    Finish,
    InputEnded,
    Launch,
    Offered,
)
from fanout.grouping import Grouping, GroupPolicy
from fanout.guards import Guards
from fanout.retry import Failure, RetryPolicy
from fanout.scheduler import Scheduler
from fanout.tasks import AttemptReport, Environment, Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanout.token_bucket import RateLimit

AT_ONCE = RetryPolicy(base_s=0.0, on=(ConnectionError,))


def invariants(scheduler: Scheduler) -> None:
    """Assert that the scheduler's books agree with each other."""
    assert not scheduler._delivery._ready, "outcomes are delivered in the step in which they come"
    assert not scheduler._actions, "actions are returned in the step in which they arise"
    if scheduler.is_finished:
        assert not scheduler._flight or not scheduler._can_stop
        return
    backing_off = [task for _, tasks in scheduler._backing_off for task in tasks]
    in_attempts = Counter(
        task for number in scheduler._flight for task in scheduler._flight.tasks_of(number)
    )
    if scheduler._flight._hedging is not None:  # then others may have done what an attempt carries
        in_attempts = Counter({t: n for t, n in in_attempts.items() if t in scheduler._unsettled})
    most = 1 if scheduler._flight._hedging is None else 2
    assert all(times <= most for times in in_attempts.values()), "a task has two covers"
    waiting = list(scheduler._supply)
    places = Counter([*waiting, *backing_off, *in_attempts, *scheduler._recalling])
    assert all(times == 1 for times in places.values()), f"a task is in two places: {places}"
    assert set(places) == scheduler._unsettled, "a task is lost, or was settled and kept"
    assert all(task < scheduler._supply.offered for task in places)
    assert not scheduler._delivery._held.keys() & scheduler._unsettled
    assert all(task > scheduler._delivery._next_in_order for task in scheduler._delivery._held)
    assert len(scheduler._flight) <= scheduler._limit
    failures = scheduler._failures
    assert failures._charged.keys() <= scheduler._unsettled
    assert all(0 < n < scheduler._retry.max_attempts for n in failures._charged.values())
    assert failures._lost.keys() <= scheduler._unsettled
    assert all(0 < n < scheduler._retry.max_lost for n in failures._lost.values())
    assert failures._escalated <= scheduler._unsettled
    assert all(tasks for _, tasks in scheduler._backing_off), "nobody backs off"
    assert set(scheduler._deadlines) <= set(scheduler._flight), "a deadline of nothing"
    assert list(scheduler._deadlines.values()) == sorted(scheduler._deadlines.values())
    assert scheduler._delivery._unconsumed == 0 or scheduler._delivery._is_consumed
    due_s = [when_s for when_s, _ in scheduler._backing_off] + [*scheduler._deadlines.values()]
    if due_s:
        assert scheduler._armed_s is not None, "something is due, and no wake-up is"
        assert scheduler._armed_s <= min(due_s)
    has_budget = scheduler._flight._budget is not None  # then they may wait for an answer
    if waiting and not has_budget and len(scheduler._flight) < scheduler._supply.fleet():
        seat = scheduler.seat
        if seat is not None and seat.waiting < math.inf:
            return  # it is woken when it is its turn
        assert scheduler._armed_s is not None, "tasks wait out a pause, and no wake-up ends it"
        until_s = max(
            scheduler._flight._throttle.until_s, scheduler._supply._probing_until_s or -math.inf
        )
        assert scheduler._armed_s <= until_s, "tasks wait, and there is room"


def held_by(scheduler: Scheduler) -> int:
    """How many entries all of the scheduler's containers have together: its memory."""
    # Those that back off together are one entry of a list, but keep a number for each task.
    together = sum(len(tasks) - 1 for _, tasks in scheduler._backing_off)
    parts = [
        vars(scheduler),
        vars(scheduler._supply),
        vars(scheduler._flight),
        vars(scheduler._delivery),
    ]
    return together + sum(_entries(value) for part in parts for value in part.values())


def left_by(scheduler: Scheduler) -> int:
    """How many entries there are of attempts in flight, in all that keeps an eye on them."""
    flight = scheduler._flight
    count = sum(_entries(value) for value in vars(flight._attempts).values() if value is not None)
    count -= len(scheduler._unsettled)  # which is not its own
    count += len(flight._escalated)
    if flight.seat is not None:
        count += flight.seat.in_flight + (flight.seat.waiting < math.inf)
    if flight._hedging is not None:
        count += len(flight._hedging._live)
    if flight._budget is not None:
        count += len(flight._budget._reservations) + (flight._budget.reserved_gb_s > 0)
    if flight._storm is not None:
        count += sum(block.in_flight for block in flight._storm._blocks.values())
    return count


def comparable(action: Action) -> object:
    """The action with its exceptions as texts, since two equal exceptions are not equal."""
    match action:
        case Deliver(outcomes=outcomes):
            return ("Deliver", [(o.index, o.value, repr(o.error), o.attempts) for o in outcomes])
        case Finish(failure=failure):
            return ("Finish", failure and (failure.kind, failure.detail, repr(failure.error)))
        case _:
            return action


def assert_windows_keep(times: Sequence[float], limit: RateLimit) -> None:
    """No window up to now sees more than the bucket allows; compared as fractions."""
    exact = [Fraction(time_s) for time_s in times]
    for first in range(len(exact)):
        allowed = limit.burst + Fraction(limit.per_s) * (exact[-1] - exact[first])
        assert len(exact) - first <= allowed


def _entries(value: Any) -> int:
    if isinstance(value, dict):
        return sum(1 + _entries(inner) for inner in value.values())
    if isinstance(value, str | bytes) or not hasattr(value, "__len__"):
        return 0
    return len(value)


def report_of(
    attempt: int,
    *,
    total_s: float,
    payload_bytes: int = 0,
    setup_s: float = 0.0,
    compile_s: float = 0.0,
    environment: str = "e",
) -> AttemptReport:
    """The report of an attempt that took so long and was so large."""
    return AttemptReport(
        attempt=attempt,
        environment=Environment(id=environment, pid=1, machine="test"),
        is_cold=False,
        received_epoch_s=0.0,
        setup_s=setup_s,
        kernel_s=total_s,
        compile_s=compile_s,
        total_s=total_s,
        peak_memory_bytes=None,
        payload_bytes=payload_bytes,
    )


def guards_in(options: dict[str, Any]) -> Guards:
    """Those among the options, which are taken out of there."""
    names = [field.name for field in fields(Guards) if field.name in options]
    return Guards(**{name: options.pop(name) for name in names})


class Bench:
    """A scheduler to experiment with: feeds events, checks the books, keeps what came out."""

    def __init__(self, *, limit: int = 2, group: int | None = 1, **options: Any) -> None:
        options.setdefault("retry", AT_ONCE)
        self.scheduler = Scheduler(
            limit=limit,
            grouping=Grouping(GroupPolicy(fixed=group)),
            rng=random.Random(0),
            guards=guards_in(options),
            **options,
        )
        self.story: list[Action] = []

    def feed(self, event: Event, now_s: float = 0.0) -> list[Action]:
        actions = self.scheduler.handle(event, now_s)
        invariants(self.scheduler)
        self.story += actions
        return actions

    def offer(self, count: int, *, ends: bool = True) -> list[Action]:
        actions = self.feed(Offered(self.scheduler._supply.offered, count))
        return actions + self.feed(InputEnded()) if ends else actions

    def answer(
        self, attempt: int, *outcomes: Outcome[Any], left: Sequence[int] = (), now_s: float = 0.0
    ) -> list[Action]:
        """Answer with these outcomes; without any, with the value `10 * task` for each not left."""
        if not outcomes:
            tasks = self.scheduler._flight.tasks_of(attempt)
            outcomes = tuple(Outcome(task, 10 * task) for task in tasks if task not in left)
        return self.feed(AttemptAnswered(attempt, outcomes, None, left), now_s)

    def fail(self, attempt: int, failure: Failure, now_s: float = 0.0) -> list[Action]:
        return self.feed(AttemptFailed(attempt, failure), now_s)

    @property
    def outcomes(self) -> list[Outcome[Any]]:
        return delivered(self.story)

    @property
    def groups(self) -> list[list[int]]:
        """The tasks of every attempt launched so far."""
        return launched(self.story)


def launched(actions: Sequence[Action]) -> list[list[int]]:
    return [[*action.tasks] for action in actions if isinstance(action, Launch)]


def delivered(actions: Sequence[Action]) -> list[Outcome[Any]]:
    return [o for action in actions if isinstance(action, Deliver) for o in action.outcomes]
