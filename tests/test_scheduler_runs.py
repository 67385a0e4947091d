"""Whole runs of the scheduler, with a backend that is unkind, but not for ever: they end.

No event loop: a heap of what is due next is the backend, and the clock jumps along it.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from fanout.events import (
    AttemptAnswered,
    AttemptFailed,
    AttemptStarted,
    Consumed,
    Deliver,
    Event,
    Finish,
    InputEnded,
    Launch,
    Offered,
    Ticked,
    WakeAt,
)
from fanout.grouping import Grouping, GroupPolicy
from fanout.retry import Failure, FailureKind, RetryPolicy
from fanout.scheduler import Scheduler
from fanout.tasks import Outcome
from tests.scheduler_checks import held_by, report_of

if TYPE_CHECKING:
    from collections.abc import Sequence

# What becomes of an attempt that brings nothing back.
_FAILURES = [
    FailureKind.CRASHED,
    FailureKind.OUT_OF_MEMORY,
    FailureKind.DID_NOT_RUN,
    FailureKind.THROTTLED,
    FailureKind.UNREACHABLE,
    FailureKind.MAYBE_RAN,
]
# By how much asyncio may run a timer before its time: the resolution of the clock.
_EARLY_S = 1e-9


@dataclass
class _Backend:
    """Serves one run to its end, on a clock of its own; unkind by chance, as `rng` has it.

    Attributes:
        unkindness: Probability of a failed attempt, of a kernel's error, and of tasks that are
            left.
        hangs: Probability of no answer.
        hangs_first: The first attempt never answers.
    """

    scheduler: Scheduler
    rng: random.Random
    tasks: int
    unkindness: float = 0.0
    hangs: float = 0.0
    hangs_first: bool = False
    now_s: float = 0.0
    timer_s: float | None = None
    most_held: int = 0
    delivered: Counter[int] = field(default_factory=Counter)
    finish: Finish | None = None
    _due: list[tuple[float, int, Event]] = field(default_factory=list)
    _tie: int = 0
    _offered: int = 0
    _untaken: int = 0
    _in_flight: dict[int, Sequence[int]] = field(default_factory=dict)

    def run(self, *, events_at_most: int = 200_000) -> None:
        """Until the run is over; every event is followed by what the input wants to give."""
        for _ in range(events_at_most):
            if self.finish is not None:
                return
            self._feed(self._next())
            self.most_held = max(self.most_held, held_by(self.scheduler))
        raise AssertionError(f"it goes on and on: {self.scheduler!r}")

    def _next(self) -> Event:
        wanted = min(self.scheduler.wanted, self.tasks - self._offered)
        if wanted:
            self._offered += wanted
            return Offered(self._offered - wanted, wanted)
        if self.scheduler.wanted:
            self.tasks = self._offered
            return InputEnded()
        if self._untaken and self.rng.random() < 0.5:
            taken, self._untaken = self._untaken, 0
            return Consumed(taken)
        if self.timer_s is not None and (not self._due or self.timer_s <= self._due[0][0]):
            self.now_s = max(self.now_s, self.timer_s - self.rng.choice([0.0, _EARLY_S]))
            self.timer_s = None
            return Ticked()
        if not self._due:
            assert self._untaken, f"stuck: {self.scheduler!r}"
            taken, self._untaken = self._untaken, 0
            return Consumed(taken)
        self.now_s, _, happens = heapq.heappop(self._due)
        return happens

    def _feed(self, happens: Event) -> None:
        for action in self.scheduler.handle(happens, self.now_s):
            match action:
                case Launch(attempt=number, tasks=tasks):
                    self._in_flight[number] = tasks
                    self._serve(number, tasks)
                case Deliver(outcomes=outcomes):
                    self.delivered.update(outcome.index for outcome in outcomes)
                    self._untaken += len(outcomes) if self.scheduler._delivery._is_consumed else 0
                case WakeAt(at_s=at_s):
                    self.timer_s = at_s
                case Finish():
                    self.finish = action
                case _:
                    pass

    def _serve(self, number: int, tasks: Sequence[int]) -> None:
        started_s = self.now_s + self.rng.expovariate(10.0)
        ended_s = started_s + self.rng.expovariate(1.0) * len(tasks) * 1e-3
        self._later(started_s, AttemptStarted(number))
        if self.rng.random() < self.hangs or (self.hangs_first and number == 0):
            return
        if self.rng.random() < self.unkindness:
            kind, wait_s = self.rng.choice(_FAILURES), self.rng.choice([None, 0.1])
            self._later(ended_s, AttemptFailed(number, Failure(kind=kind, wait_s=wait_s)))
        else:
            done = len(tasks)
            if self.rng.random() < self.unkindness:
                done = self.rng.randint(1, len(tasks))
            outcomes = [self._outcome(task) for task in tasks[:done]]
            report = report_of(number, total_s=ended_s - started_s, payload_bytes=10 * len(tasks))
            self._later(ended_s, AttemptAnswered(number, outcomes, report, tasks[done:]))

    def _outcome(self, task: int) -> Outcome[int]:
        if self.rng.random() < self.unkindness:
            return Outcome(task, error=ConnectionError(task))
        return Outcome(task, task)

    def _later(self, at_s: float, happens: Event) -> None:
        self._tie += 1
        heapq.heappush(self._due, (at_s, self._tie, happens))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    limit=st.integers(1, 8),
    tasks=st.integers(0, 300),
    unkindness=st.sampled_from([0.0, 0.1, 0.4]),
    timeout_s=st.sampled_from([None, 5.0]),
    ordered=st.booleans(),
    consumed=st.booleans(),
)
def test_a_run_ends_with_every_task_delivered_once(
    seed: int,
    limit: int,
    tasks: int,
    unkindness: float,
    timeout_s: float | None,
    ordered: bool,
    consumed: bool,
) -> None:
    rng = random.Random(seed)
    scheduler = Scheduler(
        limit=limit,
        grouping=Grouping(GroupPolicy(max_tasks=16), timeout_s=timeout_s),
        rng=rng,
        retry=RetryPolicy(on=(ConnectionError,), retry_timeouts=bool(seed % 2)),
        timeout_s=timeout_s,
        is_ordered=ordered,
        is_consumed=consumed,
    )
    hangs = 0.05 if timeout_s is not None else 0.0
    backend = _Backend(scheduler, rng, tasks, unkindness, hangs)
    backend.run()
    assert backend.finish == Finish(None)
    assert backend.delivered == Counter(range(tasks))
    assert held_by(scheduler) == 0, "something is left of a task that is settled"


@pytest.mark.parametrize("ordered", [False, True])
def test_memory_is_that_of_the_window_however_long_the_run(ordered: bool) -> None:
    """The first attempt hangs until the end, so that whatever queues up behind it would show."""
    window = 4 * (2 * 8 + 1)
    rng = random.Random(7)
    scheduler = Scheduler(
        limit=4,
        grouping=Grouping(GroupPolicy(fixed=8)),
        rng=rng,
        retry=RetryPolicy(on=(ConnectionError,)),
        timeout_s=1e6,
        is_ordered=ordered,
    )
    backend = _Backend(scheduler, rng, 20_000, unkindness=0.05, hangs_first=True)
    backend.run()
    assert backend.delivered == Counter(range(20_000))
    assert held_by(scheduler) == 0
    # An unsettled task has an entry in at most four containers.
    assert backend.most_held < 4 * window
