"""The service of `test_scheduler_laws_lambda.py`: what is in flight, in which environments.

It keeps account from the actions alone, and knows nothing of what a scheduler or a capacity
believes: in flight is what it has not answered, environments are those that it has made, the bill
is what it ran.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fanout.retry import Failure, FailureKind
from tests.lambda_books import Attempt, Run
from tests.scheduler_checks import assert_windows_keep, report_of

if TYPE_CHECKING:
    from fanout.budget import Billed
    from fanout.events import Launch
    from fanout.tasks import AttemptReport
    from fanout.token_bucket import RateLimit

# Answers come so long before the last moment: differences of floats are none of whole milliseconds.
_MARGIN_S = 2e-3
# What never reached the function is told within this time.
_TOLD_S = 30.0


class Service:
    """Lambda, as far as it can be seen from outside.

    Args:
        limit: How many may be in flight, of all runs together.
        growth: How many environments are made in a time.
        rate: How many attempts are taken in a time.
        billed: What an attempt may cost.
        overruns: Whether workers fail to end themselves in time.

    Attributes:
        overruns: The same.
        runs: Whose attempts these are.
        places: How many may run at once, if others take the rest.
        is_reachable: Whether what is sent comes there.
        held_until_s: When it may be sent something again, seconds.
    """

    def __init__(
        self,
        limit: int,
        *,
        growth: RateLimit | None,
        rate: RateLimit | None,
        billed: Billed,
        overruns: bool,
    ) -> None:
        self._limit = limit
        self._growth = growth
        self._rate = rate
        self._billed = billed
        self.overruns = overruns
        self.runs: list[Run] = []
        self.places = limit
        self.is_reachable = True
        self.held_until_s = -math.inf
        self._idle: list[str] = []  # environments
        self._has_forgotten = False  # some that the client takes to be there still
        self._launches_s: list[float] = []
        self._made_s: list[float] = []

    # ---- what is in flight ----

    def flying(self) -> list[Attempt]:
        return [attempt for run in self.runs for attempt in run.flying.values()]

    def speaking(self) -> list[Attempt]:
        """Those that run, and may answer."""
        return [a for a in self.flying() if a.environment is not None and not a.is_silent]

    def refused(self) -> list[Attempt]:
        return [a for a in self.flying() if a.is_sent and a.environment is None]

    def unsent(self) -> list[Attempt]:
        return [attempt for attempt in self.flying() if not attempt.is_sent]

    def next_to_end(self, to_s: float) -> Attempt | None:
        """Whose time is over first, up to then."""
        due = [attempt for attempt in self.flying() if attempt.ends_s <= to_s]
        return min(due, key=lambda attempt: attempt.ends_s) if due else None

    def why_ended(self, attempt: Attempt) -> Failure:
        """What is told of an attempt whose time is over, whatever it did."""
        if not attempt.is_sent:
            return Failure(kind=FailureKind.UNREACHABLE)
        if attempt.environment is None:
            return Failure(kind=FailureKind.THROTTLED)
        ends_s = attempt.launch.ends_s
        if ends_s is not None and not self.overruns:
            return Failure(kind=FailureKind.TIMED_OUT, hard_s=ends_s)
        return Failure(kind=FailureKind.TIMED_OUT, allowed_s=self._billed.timeout_s)

    # ---- what happens ----

    def let_in(self, run: Run, launch: Launch, now_s: float) -> None:
        """It is sent an attempt, and has a place for it or not."""
        self._launches_s.append(now_s)
        if self._rate is not None:
            assert_windows_keep(self._launches_s, self._rate)
        running = sum(attempt.environment is not None for attempt in self.flying())
        environment, within_s = None, _TOLD_S
        if self.is_reachable and running < self.places:
            environment, init_s = self._taken(now_s)
            worst_s = self._billed_of(launch).worst_s(None if self.overruns else launch.ends_s)
            within_s = init_s - self._billed.init_s + worst_s
        run.flying[launch.attempt] = Attempt(
            run, launch, now_s, environment, self.is_reachable, now_s + within_s - _MARGIN_S
        )
        assert len(self.flying()) <= self._limit, "more in flight than the limit, all runs together"

    def answers(self, attempt: Attempt, now_s: float, *, reports: bool) -> AttemptReport | None:
        """An attempt is done: what its worker reports.

        With a budget it always does: without a report nothing ran there, as far as that can know.
        """
        assert attempt.environment is not None
        self._bill(attempt, now_s, is_known=True)
        if not reports and attempt.run.budget is None:
            self._has_forgotten = True  # as far as the client can know
            return None
        self._idle.append(attempt.environment)
        return report_of(
            attempt.launch.attempt,
            total_s=max(1e-3, min(1.0 * len(attempt.tasks), now_s - attempt.at_s)),
            payload_bytes=10,
            environment=attempt.environment,
        )

    def fails(self, attempt: Attempt, failure: Failure, now_s: float) -> None:
        """An attempt brings nothing back."""
        is_lost = failure.kind is FailureKind.MAYBE_RAN
        if attempt.environment is not None:
            self._bill(attempt, now_s, is_known=not is_lost)
            if is_lost:
                self._idle.append(attempt.environment)
        if failure.kind is FailureKind.THROTTLED:
            wait_s = max(0.05, failure.wait_s or 0.0)
            self.held_until_s = max(self.held_until_s, now_s + wait_s)

    def retire(self, choice: int) -> None:
        """Take an idle environment away, if there is one, and tell nobody."""
        if self._idle:
            self._idle.pop(choice % len(self._idle))
            self._has_forgotten = True

    @property
    def launched(self) -> int:
        """How many attempts it was sent."""
        return len(self._launches_s)

    def _taken(self, now_s: float) -> tuple[str, float]:
        """An environment for an attempt, and for how long its start is billed."""
        if self._idle:
            return self._idle.pop(), 0.0
        self._made_s.append(now_s)
        if self._growth is not None and not self._has_forgotten:
            assert_windows_keep(self._made_s, self._growth)
        return f"e{len(self._made_s)}", self._billed.init_s

    # ---- the bill ----

    def late_ms(self, attempt: Attempt, now_s: float) -> float:
        """For how long it has run beyond what it may."""
        if attempt.environment is None:
            return 0.0
        worst_s = self._billed_of(attempt.launch).worst_s(attempt.launch.ends_s)
        return max(0.0, now_s - attempt.at_s - worst_s)

    def worst_gb_s(self, attempt: Attempt) -> float:
        """What it costs if only the function's timeout ends it."""
        billed = self._billed_of(attempt.launch)
        return billed.gb * billed.worst_s()

    def _billed_of(self, launch: Launch) -> Billed:
        billed = self._billed.larger if launch.is_escalated else self._billed
        assert billed is not None
        return billed

    def _bill(self, attempt: Attempt, now_s: float, *, is_known: bool) -> None:
        """What is lost on its way may run for as long as it can."""
        run, launch = attempt.run, attempt.launch
        billed = self._billed_of(launch)
        worst_ms = math.ceil(1000 * billed.worst_s(launch.ends_s))
        ran_ms = math.ceil(1000 * (now_s - attempt.at_s))
        run.bill_ms += round(billed.gb * (ran_ms if is_known else worst_ms))
        if ran_ms > worst_ms:
            assert self.overruns
            run.overrun_gb_s += billed.gb * billed.worst_s()
