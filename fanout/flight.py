"""Attempts in flight, and all that keeps an eye on them.

Pure. The scheduler says what is launched, answered, failed; this tells everybody whom it concerns:
what the service takes (`capacity`), which attempts are silent (`hedging`), whether failures are
those of a service that is down (`storm`), what it all may cost (`budget`), and when to launch
nothing (`throttle`). A backend on this machine needs the last of them only.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING

from fanout.attempts import Attempts
from fanout.hedging import HedgeCounts
from fanout.retry import NEVER_RAN, Failure, FailureKind
from fanout.throttle import PATIENCE_S, Throttle

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from random import Random

    from fanout.budget import Billed, Budget, Overdraft
    from fanout.capacity import Seat
    from fanout.guards import Guards
    from fanout.retry import RetryPolicy
    from fanout.tasks import AttemptReport, BilledTime


class Flight:
    """What is in flight.

    Args:
        unsettled: The tasks that are not settled; somebody else keeps it.
        retry: How long to pause after a refusal.
        rng: Source of jitter.
        guards: All that keeps an eye on them.

    Attributes:
        seat: The run's place at the capacity.
        carried: What each attempt in flight was sent with; to be read only.
    """

    def __init__(
        self,
        unsettled: set[int],
        retry: RetryPolicy,
        rng: Random,
        guards: Guards,
    ) -> None:
        self._attempts = Attempts(unsettled)
        self.carried = self._attempts.carried
        self._throttle = Throttle(retry, rng)
        self._capacity = capacity = guards.capacity
        self._hedging = guards.hedging
        self._storm = guards.storm
        self._budget = guards.budget
        self._billed = guards.billed
        self._escalated: set[int] = set()
        self._too_dear_s = 0.0  # what was not afforded the last time
        self.seat: Seat | None = None if capacity is None else capacity.seat()

    def __len__(self) -> int:
        return len(self._attempts)

    def __contains__(self, number: int) -> bool:
        return number in self._attempts

    def __iter__(self) -> Iterator[int]:
        return iter(self._attempts)

    def tasks_of(self, number: int) -> Sequence[int]:
        """What an attempt was sent with; nothing if it is not in flight."""
        return self._attempts.tasks_of(number)

    # ---- whether to launch ----

    def admits(self, now_s: float) -> bool:
        """Whether one more may be launched now, unless all is paused."""
        if self._capacity is None or self.seat is None:
            return True
        return self._capacity.admits(self.seat, now_s)

    def affords(self, now_s: float, ends_s: float | None, *, is_escalated: bool) -> bool:
        """Whether the budget has enough for an attempt whose process ends itself after so long."""
        if self._budget is None:
            return True
        self._budget.tick(now_s)
        worst_s = self._worst_s(ends_s, is_escalated=is_escalated)
        if self._budget.admits(worst_s):
            return True
        self._too_dear_s = worst_s
        return False

    def rest(self) -> None:
        """There is nothing to launch: others needn't leave room."""
        if self._capacity is not None and self.seat is not None:
            self._capacity.rest(self.seat)

    def turn(self, now_s: float) -> Seat | None:
        """Whose turn it is, of all runs that share the capacity."""
        return None if self._capacity is None else self._capacity.turn(now_s)

    def idle(self, now_s: float, limit: int) -> int:
        """How many environments there are that have nothing to do.

        Args:
            now_s: When.
            limit: How many there may be, where nothing else is known.
        """
        if self._capacity is None:
            return max(0, limit - len(self._attempts))
        return max(0, self._capacity.environments(now_s) - self._capacity.in_flight)

    def warm(self, now_s: float) -> int:
        """How many environments this run may use that need no start."""
        return len(self._attempts) + self.idle(now_s, 0)

    def is_paused(self, now_s: float) -> bool:
        """Whether nothing at all is to be launched now."""
        return now_s < self._throttle.until_s

    def opens_s(self, now_s: float) -> float | None:
        """When one more may be launched, if nothing happens before."""
        if now_s < self._throttle.until_s:
            return self._throttle.until_s
        return None if self._capacity is None else self._capacity.due_s(now_s)

    def pause_s(self, now_s: float) -> float:
        """For how long nothing will be launched, as far as is known."""
        return max(0.0, (self.opens_s(now_s) or now_s) - now_s)

    def loses_patience(self, failure: Failure, now_s: float) -> str | None:
        """Why the run is to end, if nothing but such refusals came for too long."""
        if not self._throttle.is_hopeless(failure.kind, now_s):
            return None
        return self._throttle.why(failure)

    @property
    def slowdown(self) -> float:
        """What to multiply the delay of a retry with."""
        return 1.0 if self._storm is None else self._storm.slowdown

    def gives_up(self, failure: Failure) -> str | None:
        """Why the run is to end with this failure, if it is."""
        if self._storm is None or not self._storm.is_over:
            return None
        return self._storm.why(failure)

    @property
    def overdraft(self) -> Overdraft | None:
        """What was spent, what may be, and what the next attempt may cost, if that is too much."""
        budget = self._budget
        if budget is None or not budget.is_hopeless(self._too_dear_s):
            return None
        return budget.overdraft(self._too_dear_s)

    # ---- what happens ----

    def launch(
        self,
        number: int,
        tasks: Sequence[int],
        now_s: float,
        *,
        expected_s: float | None = None,
        soft_s: float | None = None,
        ends_s: float | None = None,
        is_escalated: bool = False,
        covers: int | None = None,
    ) -> None:
        """An attempt is launched that is admitted, and afforded.

        Args:
            number: Of it; they rise.
            tasks: What it carries.
            now_s: When.
            expected_s: How long it should run.
            soft_s: After how long its worker begins no further task.
            ends_s: After how long its process ends itself.
            is_escalated: It goes to the larger function.
            covers: The attempt that has these tasks already.
        """
        self._attempts.add(number, tasks, now_s, covers=covers)
        is_warm = self.idle(now_s, 0) > 0
        if self._capacity is not None and self.seat is not None:
            self._capacity.launched(self.seat, now_s)
        if self._storm is not None:
            self._storm.launched(number)
        if self._budget is not None:
            if is_escalated:
                self._escalated.add(number)
            self._budget.reserve(
                number,
                self._worst_s(ends_s, is_escalated=is_escalated),
                now_s=now_s,
                most_s=self._worst_s(None, is_escalated=is_escalated),
            )
        if self._hedging is not None:
            self._hedging.launched(
                number,
                now_s,
                tasks=len(tasks),
                expected_s=expected_s,
                soft_s=soft_s,
                covers=covers,
                is_warm=is_warm,
            )

    def answered(
        self, number: int, now_s: float, report: AttemptReport | None
    ) -> tuple[Sequence[int], Sequence[int]]:
        """An attempt has answered; what it owes, and what of that no other has (`Attempts.end`)."""
        if self._capacity is not None and self.seat is not None:
            environment = None if report is None else report.environment.id
            self._capacity.ended(self.seat, now_s, environment)
        if self._storm is not None:
            self._storm.answered(number)
        if self._budget is not None:
            # Without a report nothing ran there: its chunks could not be encoded.
            if report is None:
                self._settle(self._budget, number, 0.0)
            else:
                ran_s = self._ran_s(number, now_s)
                self._settle(self._budget, number, ran_s, report.billed)
        if self._hedging is not None:
            run_s = None if report is None else report.total_s
            is_cold = None if report is None else report.is_cold
            self._hedging.ended(number, now_s, run_s=run_s, is_cold=is_cold)
        return self._attempts.end(number)

    def failed(
        self, number: int, now_s: float, failure: Failure, *, is_repeat: bool
    ) -> tuple[Sequence[int], Sequence[int]]:
        """An attempt brought nothing back."""
        never_ran = failure.kind in NEVER_RAN
        if failure.kind in PATIENCE_S:
            # A capacity makes pauses of its own when it is refused.
            is_paced = failure.kind is FailureKind.THROTTLED and self._capacity is not None
            self._throttle.refused(failure, now_s, pauses=not is_paced)
        if self._capacity is not None and self.seat is not None:
            if failure.kind is FailureKind.THROTTLED:
                self._capacity.refused(
                    self.seat,
                    failure.reason,
                    failure.wait_s,
                    now_s,
                    launched_s=self._attempts.launched_s(number),
                )
            elif never_ran:
                self._capacity.unsent(self.seat)
            else:
                self._capacity.ended(self.seat, now_s, None)
        if self._storm is not None:
            if never_ran:
                self._storm.withdrawn(number)
            else:
                tasks = len(self._attempts.tasks_of(number))
                self._storm.failed(number, failure, tasks=tasks, is_repeat=is_repeat)
        if self._budget is not None:
            is_lost = failure.kind is FailureKind.MAYBE_RAN  # it may run on
            ran_s = None if is_lost else self._ran_s(number, now_s)
            is_free = never_ran and failure.billed is None
            self._settle(self._budget, number, 0.0 if is_free else ran_s, failure.billed)
        if self._hedging is not None:
            if never_ran:
                self._hedging.refused(number)
            else:
                self._hedging.ended(number, now_s, run_s=None)
        return self._attempts.end(number)

    def reached(self) -> None:
        """A worker had an attempt, whatever became of it."""
        self._throttle.answered()

    def stopped(self, number: int, now_s: float) -> tuple[Sequence[int], Sequence[int]]:
        """An attempt was stopped by us."""
        if self._capacity is not None and self.seat is not None:
            self._capacity.ended(self.seat, now_s, None)
        if self._storm is not None:
            self._storm.withdrawn(number)
        if self._budget is not None:
            self._settle(self._budget, number, self._ran_s(number, now_s))
        if self._hedging is not None:
            self._hedging.ended(number, now_s, run_s=None)
        return self._attempts.end(number)

    def settled(self, task: int) -> list[int]:
        """A task is settled; which attempts are thereby for nothing."""
        idle = self._attempts.settled(task)
        if self._hedging is not None:
            for number in idle:
                self._hedging.settled(number)
        return idle

    def end(self, *, is_stopped: bool) -> None:
        """The run is over.

        Args:
            is_stopped: What is in flight is stopped, too. Else it counts until it has ended.
        """
        if self._capacity is not None and self.seat is not None:
            if is_stopped:
                for _ in self._attempts:
                    self._capacity.unsent(self.seat)
            self._capacity.leave(self.seat)
        if is_stopped:
            self._attempts.clear()

    def _worst_s(self, ends_s: float | None, *, is_escalated: bool) -> float:
        """For how long an attempt is billed at worst, in seconds of the usual memory."""
        billed = self._billed
        if billed is None:
            return 0.0
        if not is_escalated or billed.larger is None:
            return billed.worst_s(ends_s)
        return _of_larger(billed.larger.worst_s(ends_s), billed)

    def _ran_s(self, number: int, now_s: float) -> float:
        """At most: from its launch to its answer, the way there and back included."""
        return now_s - self._attempts.launched_s(number)

    def _settle(
        self,
        budget: Budget,
        number: int,
        ran_s: float | Fraction | None,
        billed: BilledTime | None = None,
    ) -> None:
        """An attempt has ended, and is billed for so long, or for its worst case.

        Where Lambda says for how long, that counts.
        """
        requests = None
        if billed is not None and not billed.lost:
            requests = billed.invocations
            if billed.is_reported:
                ran_s = Fraction(billed.billed_ms, 1000)
        if number in self._escalated:
            self._escalated.discard(number)
            if ran_s is not None and self._billed is not None:
                ran_s = _of_larger(ran_s, self._billed)
        budget.settle(number, ran_s, requests=requests)

    # ---- covers ----

    def silent(
        self, now_s: float, *, is_queue_empty: bool, free: int, est_gb_s: float
    ) -> list[tuple[int, list[list[int]]]]:
        """Attempts that get a cover now, and the pieces in which their tasks are sent again.

        Args:
            now_s: When.
            is_queue_empty: No task waits.
            free: How many more may be in flight.
            est_gb_s: What the run should cost.
        """
        if self._hedging is None or (self._storm is not None and not self._storm.is_calm):
            return []
        warm = self.idle(now_s, 0)
        due = self._hedging.due(
            now_s,
            is_queue_empty=is_queue_empty,
            free=free,
            warm_idle=warm,
            est_gb_s=est_gb_s,
        )
        covers = []
        for number in due:
            tasks = self._attempts.unsettled_of(number)
            count = self._hedging.pieces(tasks=len(tasks), warm_idle=warm, free=free)
            pieces = [tasks[start::count] for start in range(count)]
            covers.append((number, [piece for piece in pieces if piece]))
            warm, free = warm - count, free - count
        return covers

    @property
    def hedges(self) -> HedgeCounts:
        """What became of covers so far."""
        return HedgeCounts() if self._hedging is None else self._hedging.counts

    @property
    def is_watched(self) -> bool:
        """Whether covers may become due."""
        return self._hedging is not None and len(self._attempts) > 0

    def silent_s(self, now_s: float, *, is_queue_empty: bool) -> float | None:
        """When to ask for silent ones again."""
        if self._hedging is None:
            return None
        return self._hedging.next_s(now_s, is_queue_empty=is_queue_empty)


def _of_larger(seconds: float | Fraction, billed: Billed) -> float:
    """As many seconds of the usual memory as the larger function is billed for these."""
    assert billed.larger is not None, "what is escalated has somewhere to go"
    return math.ceil(seconds * 1000) / 1000 * billed.larger.gb / billed.gb
