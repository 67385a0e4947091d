"""The books of one run: what each of its attempts is billed, as it becomes known.

An observer of the run's events, and pure. An attempt is added up and forgotten when it has failed,
or an outcome of it was kept; so beside what is in flight only those stay that brought nothing new,
which are few. Whoever writes journals is told of each attempt when it is launched and when it has
ended, and can make the same sums of that later (`usage_of`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from fanout.cost.run_usage import AttemptCost, Size, Usage
from fanout.events import AttemptAnswered, AttemptFailed, Deliver, Launch, RunStarted
from fanout.retry import NEVER_RAN, FailureKind
from fanout.tasks import BilledTime

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from fanout.budget import Billed
    from fanout.cost.run_usage import End
    from fanout.events import RunEvent
    from fanout.retry import Failure
    from fanout.tasks import AttemptReport, Outcome


class SoFar(NamedTuple):
    """What attempts have cost that have ended, of one size of environment.

    Attributes:
        size: Of the environment.
        billed_ms: Billed time, milliseconds.
        requests: Invocations.
    """

    size: Size
    billed_ms: int
    requests: int


class Ledger:
    """Keeps the books of one run, or of one session of it.

    Args:
        billed: What its attempts may cost; None: nothing, and the books stay empty.

    Attributes:
        run: Id of the run, once it has begun.
        before: What earlier sessions of the run used.
        stored: What was stored, and is not an attempt's; added to.
        keep: Told of each attempt when something is known of it that was not.
    """

    def __init__(self, billed: Billed | None) -> None:
        self.run = ""
        self.before = Usage()
        self.stored = Usage()
        self.keep: Callable[[AttemptCost], None] | None = None
        self._billed = billed
        self._size = None if billed is None else Size.of(billed)
        larger = None if billed is None else billed.larger
        self._larger_size = None if larger is None else Size.of(larger)
        self._open: dict[int, AttemptCost] = {}  # those of which no outcome was kept so far
        self._covered: set[int] = set()
        self._kept = Usage()
        self._so_far: dict[Size, SoFar] = {}

    def __repr__(self) -> str:
        return f"<Ledger: {len(self._open)} attempts open>"

    def __call__(self, event: RunEvent) -> None:
        """Take note of what happens."""
        if self._size is None:
            return
        match event:
            case Deliver(outcomes=outcomes):
                self._delivered(outcomes)
            case AttemptAnswered(attempt=number, report=report):
                self._answered(number, report)
            case Launch():
                self._launched(event)
            case RunStarted(run=run):
                self.run = run
            case AttemptFailed(attempt=number, failure=failure):
                self._failed(number, failure)

    @property
    def usage(self) -> Usage:
        """What was used in this session; attempts in flight at their worst."""
        found = self._kept + self.stored
        for number, cost in list(self._open.items()):
            found.add(cost, is_hedge=cost.covers is not None or number in self._covered)
        return found

    @property
    def run_usage(self) -> Usage:
        """What the run used, in all of its sessions."""
        return self.before + self.usage

    @property
    def so_far(self) -> list[SoFar]:
        """What attempts have cost that have ended, by the size of their environments."""
        return list(self._so_far.values())

    def _launched(self, launch: Launch) -> None:
        billed, size = self._billed, self._size
        assert billed is not None
        assert size is not None
        if launch.is_escalated and billed.larger is not None and self._larger_size is not None:
            billed, size = billed.larger, self._larger_size
        worst_ms = math.ceil(billed.worst_s(launch.ends_s) * 1000)
        if launch.covers is not None:
            self._covered.add(launch.covers)
        self._note(AttemptCost(launch.attempt, launch.covers, size, worst_ms))

    def _answered(self, number: int, report: AttemptReport | None) -> None:
        cost = self._open.get(number)
        if cost is None:
            return
        if report is None:  # its chunks could not be encoded: nothing was sent
            self._end(cost, "never ran", None)
            return
        billed = report.billed
        if billed is None:  # all that is known is what the worker says
            billed = BilledTime(
                billed_ms=math.ceil(report.total_s * 1000),
                init_ms=0,
                memory_mb=cost.size.memory_mb,
                is_reported=False,
                answer_bytes=report.payload_bytes,
            )
        self._end(cost, "answered", billed)

    def _failed(self, number: int, failure: Failure) -> None:
        cost = self._open.get(number)
        if cost is None:
            return
        never_ran = failure.kind in NEVER_RAN or failure.kind is FailureKind.REFUSED
        is_nothing = never_ran and failure.billed is None
        self._end(cost, "never ran" if is_nothing else "failed", failure.billed)

    def _end(self, cost: AttemptCost, end: End, billed: BilledTime | None) -> None:
        cost = cost._replace(end=end, billed=billed)
        self._note(cost)
        if end != "answered":  # no outcome of it will be kept
            del self._open[cost.attempt]
            self._kept.add(cost, is_hedge=cost.covers is not None)
        if end == "never ran":
            return
        size, ms, requests = cost.size, 0, 0
        if billed is not None:
            size = size._replace(memory_mb=billed.memory_mb)
            ms, requests = billed.billed_ms, billed.invocations
        if lost := 1 if billed is None else billed.lost:
            ms, requests = ms + lost * cost.worst_ms, requests + lost
        before = self._so_far.get(size, SoFar(size, 0, 0))
        self._so_far[size] = SoFar(size, before.billed_ms + ms, before.requests + requests)

    def _delivered(self, outcomes: Sequence[Outcome[Any]]) -> None:
        last: AttemptReport | None = None
        for outcome in outcomes:
            report = outcome.report
            if report is last or report is None:
                continue
            last = report
            cost = self._open.pop(report.attempt, None)
            if cost is not None:
                cost = cost._replace(is_kept=True)
                self._kept.add(cost, is_hedge=False)
                if self.keep is not None:
                    self.keep(cost)

    def _note(self, cost: AttemptCost) -> None:
        self._open[cost.attempt] = cost
        if self.keep is not None:
            self.keep(cost)
