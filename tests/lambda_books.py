"""The books on runs as on Lambda, kept from what happens alone: what must become of each task.

For `test_scheduler_laws_lambda.py`, which compares them with what schedulers do. `Run.foretell...`
is told of every answer and failure before the scheduler is.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fanout import scheduler as scheduler_module
from fanout.retry import Failure, FailureKind
from fanout.throttle import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanout.budget import Budget
    from fanout.events import Finish, Launch
    from fanout.hedging import Hedging
    from fanout.retry import RetryPolicy
    from fanout.scheduler import Scheduler
    from fanout.tasks import Outcome

_MAYBE_RAN = {
    FailureKind.MAYBE_RAN,
    FailureKind.CRASHED,
    FailureKind.OUT_OF_MEMORY,
    FailureKind.TIMED_OUT,
}


@dataclass(eq=False)
class Attempt:
    """What the service was sent.

    Attributes:
        run: Whose it is.
        launch: What it carries.
        at_s: When.
        environment: Which runs it; None if it is refused, or never comes there.
        is_sent: Whether it came there at all.
        ends_s: When the service, or its worker, ends it at the latest.
        is_silent: It says nothing before that.
    """

    run: Run
    launch: Launch
    at_s: float
    environment: str | None
    is_sent: bool
    ends_s: float
    is_silent: bool = False

    @property
    def tasks(self) -> tuple[int, ...]:
        return tuple(self.launch.tasks)


@dataclass(eq=False)
class Run:
    """One run, and the books on it."""

    options: dict[str, Any]
    scheduler: Scheduler
    twin: Scheduler
    hedging: Hedging | None
    budget: Budget | None
    retry: RetryPolicy
    limit: int  # of all that is in flight, of all runs together
    offered: int = 0
    is_ended: bool = False
    finish: Finish | None = None
    timer_s: float | None = None
    flying: dict[int, Attempt] = field(default_factory=dict)
    gone: dict[int, Attempt] = field(default_factory=dict)  # which may still speak up
    settled: dict[int, Outcome[Any] | None] = field(default_factory=dict)  # None: with an error
    delivered: set[int] = field(default_factory=set)
    unconsumed: int = 0
    most_ever_allowed: int = 0
    charged: Counter[int] = field(default_factory=Counter)
    lost: Counter[int] = field(default_factory=Counter)
    blamed_in_groups: Counter[int] = field(default_factory=Counter)
    escalated: set[int] = field(default_factory=set)
    goes_alone: set[int] = field(default_factory=set)
    may_not_run: set[int] = field(default_factory=set)  # not idempotent, and may have run
    backing_off: dict[int, float] = field(default_factory=dict)
    paused_until_s: float = -math.inf
    refusing_since_s: dict[FailureKind, float] = field(default_factory=dict)
    barren: int = 0
    failures: int = 0
    may_end: set[str] = field(default_factory=set)  # why, in this step
    copies: float = 0.0  # of attempts, by covers that were let in
    covers: int = 0
    bill_ms: int = 0
    overrun_gb_s: float = 0.0
    is_cancelled: bool = False

    def __repr__(self) -> str:
        return f"<Run {self.scheduler!r}>"

    def unsettled(self, tasks: Sequence[int]) -> list[int]:
        return [task for task in tasks if task not in self.settled]

    def has(self, task: int) -> bool:
        """Whether an attempt in flight has it."""
        return any(task in attempt.tasks for attempt in self.flying.values())

    def waits(self) -> set[int]:
        """What is neither settled nor in flight."""
        return {
            task for task in range(self.offered) if task not in self.settled and not self.has(task)
        }

    def deliverable(self) -> list[int]:
        """What is settled, not delivered, and next if the order counts."""
        if not self.options["ordered"]:
            return [task for task in self.settled if task not in self.delivered]
        found: list[int] = []
        while len(self.delivered) + len(found) in self.settled:
            found.append(len(self.delivered) + len(found))
        return found

    # ---- what must follow: foretold ----

    def foretell_answer(
        self, attempt: Attempt, outcomes: Sequence[Outcome[Any]], left: Sequence[int]
    ) -> None:
        """An attempt is about to answer."""
        own = self._leaves(attempt)
        if self.finish is not None:
            return
        self._reached()
        if not outcomes and len(attempt.tasks) > 1 and set(left) >= set(attempt.tasks):
            self._blame(attempt.tasks, own, Failure(kind=FailureKind.TIMED_OUT))
            return
        if not outcomes or set(left) >= set(attempt.tasks):
            left = ()  # it got nowhere, and would so for ever
        told = set(left)
        for outcome in outcomes:
            task = outcome.index
            if task in told or task not in attempt.tasks or task in self.settled:
                continue
            told.add(task)
            if outcome.error is None:
                self._settles(task, outcome)
            elif task in own:
                failure = outcome.failure or Failure(
                    kind=FailureKind.KERNEL_RAISED, error=outcome.error
                )
                if failure.hard_s is not None:
                    self.goes_alone.add(task)
                else:
                    self._charge(task, failure, outcome)
        for task in own:
            if task not in told:
                self._charge(task, Failure(kind=FailureKind.CRASHED))

    def foretell_failure(self, attempt: Attempt, failure: Failure, now_s: float) -> None:
        """An attempt is about to fail."""
        own = self._leaves(attempt)
        if attempt.environment is None and attempt.launch.covers is not None:
            self.copies -= self._part(attempt)
        if failure.kind in _MAYBE_RAN | {FailureKind.REFUSED}:
            self.failures += 1
        if self.finish is not None:
            return
        if failure.is_fatal:
            self.may_end.add("fatal")
        elif failure.kind in PATIENCE_S:
            self._is_refused(failure, now_s)
        elif failure.kind is FailureKind.DID_NOT_RUN:
            self.barren += 1
            if self.barren > scheduler_module._MOST_BARREN_ATTEMPTS + self.limit:
                self.may_end.add("barren")
        elif failure.kind is FailureKind.MAYBE_RAN:
            self._lose(own)
        else:
            self._reached()
            self._blame(attempt.tasks, own, failure)

    def _leaves(self, attempt: Attempt) -> list[int]:
        """An attempt ends; those of its unsettled tasks that no other one has."""
        del self.flying[attempt.launch.attempt]
        self.gone[attempt.launch.attempt] = attempt
        return [task for task in self.unsettled(attempt.tasks) if not self.has(task)]

    def _part(self, attempt: Attempt) -> float:
        """Which part of an attempt this cover is."""
        covers = attempt.launch.covers
        assert covers is not None
        covered = self.flying.get(covers) or self.gone[covers]
        return len(attempt.tasks) / len(covered.tasks)

    def _reached(self) -> None:
        """A worker was reached, whatever became of the attempt."""
        self.barren = 0
        self.refusing_since_s.clear()

    def _is_refused(self, failure: Failure, now_s: float) -> None:
        if failure.kind is FailureKind.THROTTLED:  # by a service that is there
            self.refusing_since_s.pop(FailureKind.UNREACHABLE, None)
        else:
            asked_s = now_s + (failure.wait_s or 0.0)
            self.paused_until_s = max(self.paused_until_s, asked_s)
        since_s = self.refusing_since_s.setdefault(failure.kind, now_s)
        if now_s - since_s > PATIENCE_S[failure.kind]:
            self.may_end.add("patience")

    def _lose(self, own: Sequence[int]) -> None:
        for task in own:
            self.lost[task] += 1
            if not self.options["is_idempotent"]:
                self._settles(task)
                self.may_not_run.add(task)
            elif self.lost[task] >= self.retry.max_lost:
                self._settles(task)

    def _blame(self, sent: Sequence[int], own: Sequence[int], failure: Failure) -> None:
        if failure.hard_s is not None and len(sent) == 1:
            self.goes_alone.update(own)
        elif len(sent) > 1 and (self.options["is_idempotent"] or failure.kind not in _MAYBE_RAN):
            self.blamed_in_groups.update(own)
            self.goes_alone.update(own)
        else:
            for task in own:
                self._charge(task, failure)

    def _charge(self, task: int, failure: Failure, outcome: Outcome[Any] | None = None) -> None:
        if failure.kind in _MAYBE_RAN and not self.options["is_idempotent"]:
            self.may_not_run.add(task)
            self._settles(task, outcome)
        elif self._escalates(task, failure):
            self.escalated.add(task)
            self.goes_alone.add(task)
        elif self.retry.allows(failure, self.charged[task] + 1):
            self.charged[task] += 1
            self.goes_alone.add(task)
        else:
            self._settles(task, outcome)

    def _escalates(self, task: int, failure: Failure) -> bool:
        if not self.options["can_escalate"] or task in self.escalated:
            return False
        return (
            failure.kind is FailureKind.OUT_OF_MEMORY
            or (
                failure.kind is FailureKind.KERNEL_RAISED and isinstance(failure.error, MemoryError)
            )
            or (failure.kind is FailureKind.TIMED_OUT and failure.allowed_s is not None)
        )

    def _settles(self, task: int, outcome: Outcome[Any] | None = None) -> None:
        assert task not in self.settled
        self.settled[task] = outcome
