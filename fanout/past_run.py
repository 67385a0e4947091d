"""What a journal tells of a run that was: its attempts, its tasks, what it took and cost.

Pure: records, whoever reads them. Times are seconds since the session of an attempt began, by the
client's clock; `total_s`, `setup_s`, `compile_s` and `kernel_s` are by the worker's.
"""

from __future__ import annotations

import bisect
import statistics
from collections import Counter
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from fanout.retry import NEVER_RAN, FailureKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class PastAttempt(NamedTuple):
    """A row of a journal's `attempts`; the columns are those of the table, in its order."""

    session: int
    attempt: int
    tasks: int
    covers: int | None
    launched_s: float
    started_s: float | None = None
    ended_s: float | None = None
    done: int | None = None
    environment: str | None = None
    is_cold: int | None = None
    setup_s: float | None = None
    compile_s: float | None = None
    total_s: float | None = None
    failure: str | None = None

    @property
    def key(self) -> tuple[int, int]:
        """What names it within its run."""
        return self.session, self.attempt

    @property
    def is_answered(self) -> bool:
        """Whether its worker's report came."""
        return self.total_s is not None and self.ended_s is not None

    @property
    def kind(self) -> FailureKind | None:
        """How it failed; None if it did not, or nobody knows."""
        told = (self.failure or "").partition(":")[0]
        return next((kind for kind in FailureKind if kind.value == told), None)

    @property
    def has_run(self) -> bool:
        """Whether it reached a worker, as far as anybody knows."""
        return self.kind not in NEVER_RAN

    @property
    def is_beyond_quota(self) -> bool:
        """Whether it was refused since too many ran, as the service said."""
        is_said = "ConcurrentInvocationLimitExceeded" in (self.failure or "")
        return self.kind is FailureKind.THROTTLED and is_said

    @property
    def is_open(self) -> bool:
        """Whether it ran on after the client's last word of it."""
        return self.has_run and not self.is_answered and self.kind is None

    @property
    def sent_s(self) -> float:
        """When it was sent."""
        return self.launched_s if self.started_s is None else self.started_s

    @property
    def span_s(self) -> float:
        """From when it was sent to its end, as the client saw it; 0 if that never came."""
        return 0.0 if self.ended_s is None else max(0.0, self.ended_s - self.sent_s)


class PastTask(NamedTuple):
    """A task that is done, and the attempt that did it, if it is known."""

    task: int
    kernel_s: float
    session: int | None = None
    attempt: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PastRun:
    """A run that was.

    Attributes:
        attempts: Those of all its sessions, in order.
        tasks: Those that are done, in the order of the input.
        total: Of the input; None if that is not known.
        is_local: Whether it ran on the client's own machine.
        limit: Attempts that the client launched at once at most.
        memory_mb: Of the function.
        timeout_s: Of the function.
        unit_s: What an earlier map had found that a task takes.
        is_weighted: Whether the caller said how heavy chunks are: the heaviest went first.
    """

    attempts: Sequence[PastAttempt]
    tasks: Sequence[PastTask]
    total: int | None = None
    is_local: bool = False
    limit: int | None = None
    memory_mb: int | None = None
    timeout_s: float | None = None
    unit_s: float | None = None
    is_weighted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What a run took and cost, its sessions added up.

    Attributes:
        sessions: In how many of them something was launched.
        makespan_s: From the first launch of a session to its last answer, seconds.
        billed_s: For how long environments ran, as far as a client can tell: the worker's own time
            of attempts that answered, with the start if it was cold; the time until it was known of
            those that failed.
        open_attempts: Attempts of which the end was not waited for. They are in `billed_s` until
            the last word of them, and were billed for longer.
        attempts: That ran.
        throttles: Requests that were refused.
        hedges: Attempts that covered another.
        cold_starts: Environments whose first attempt answered.
        most_in_flight: Most attempts that ran at once.
    """

    sessions: int
    makespan_s: float
    billed_s: float
    open_attempts: int
    attempts: int
    throttles: int
    hedges: int
    cold_starts: int
    most_in_flight: int


def observed(run: PastRun, *, wire_s: float) -> Observed:
    """What a run took and cost.

    Args:
        run: Which.
        wire_s: How long an attempt is on its way there and back; that is not billed.
    """
    sessions = {attempt.session for attempt in run.attempts}
    ran = [attempt for attempt in run.attempts if attempt.has_run]
    return Observed(
        sessions=len(sessions),
        makespan_s=sum(_makespan_s(run, session) for session in sessions),
        billed_s=sum(billed_s(attempt, wire_s) for attempt in ran),
        open_attempts=sum(attempt.is_open for attempt in ran),
        attempts=len(ran),
        throttles=sum(attempt.kind is FailureKind.THROTTLED for attempt in run.attempts),
        hedges=sum(attempt.covers is not None for attempt in ran),
        cold_starts=sum(bool(attempt.is_cold) for attempt in ran),
        most_in_flight=max((_most_at_once(ran, session) for session in sessions), default=0),
    )


def billed_s(attempt: PastAttempt, wire_s: float) -> float:
    """For how long an attempt that ran was billed, as far as the client can tell, seconds."""
    if attempt.total_s is None:
        return attempt.span_s
    if not attempt.is_cold:
        return attempt.total_s
    return max(attempt.total_s, attempt.span_s - wire_s)


def _makespan_s(run: PastRun, session: int) -> float:
    """From the first launch of a session to the last answer that brought anything."""
    own = [attempt for attempt in run.attempts if attempt.session == session]
    ends = [a.ended_s for a in own if a.ended_s is not None and a.is_answered]
    return max(0.0, max(ends) - min(a.launched_s for a in own)) if ends else 0.0


def _most_at_once(ran: Iterable[PastAttempt], session: int) -> int:
    return max(accumulate(change for _, change in _changes(ran, session)), default=0)


def _changes(ran: Iterable[PastAttempt], session: int) -> list[tuple[float, int]]:
    """When there was one more in flight, and one less; ends come first."""
    own = [attempt for attempt in ran if attempt.session == session]
    begun = [(attempt.sent_s, 1) for attempt in own]
    return sorted([*begun, *((a.ended_s, -1) for a in own if a.ended_s is not None)])


def in_flight_at_refusals(run: PastRun) -> list[int]:
    """How many attempts ran whenever one was refused as there were too many."""
    found = []
    for session in {attempt.session for attempt in run.attempts}:
        changes = _changes((a for a in run.attempts if a.has_run), session)
        times = [at_s for at_s, _ in changes]
        counts = [0, *accumulate(change for _, change in changes)]
        found += [
            counts[bisect.bisect_right(times, attempt.sent_s)]
            for attempt in run.attempts
            if attempt.session == session and attempt.is_beyond_quota
        ]
    return found


def kernel_seconds(run: PastRun) -> list[float]:
    """What each task took, seconds, without what numba compiled first: that is a start's affair."""
    compiled = {a.key: a.compile_s for a in run.attempts if a.compile_s}
    seconds = [task.kernel_s for task in run.tasks]
    slowest: dict[tuple[int | None, int | None], int] = {}
    for index, task in enumerate(run.tasks):
        key = (task.session, task.attempt)
        if key in compiled and seconds[index] > seconds[slowest.setdefault(key, index)]:
            slowest[key] = index
    for (session, attempt), index in slowest.items():
        if session is not None and attempt is not None:
            seconds[index] = max(0.0, seconds[index] - compiled[session, attempt])
    return seconds


def busy_seconds(run: PastRun) -> dict[tuple[int, int], float]:
    """How long the tasks of attempts ran, of those whose tasks are all known, seconds.

    What numba compiled is not in it.
    """
    busy_s: Counter[tuple[int, int]] = Counter()
    known: Counter[tuple[int, int]] = Counter()
    for task, seconds in zip(run.tasks, kernel_seconds(run), strict=True):
        if task.session is not None and task.attempt is not None:
            busy_s[task.session, task.attempt] += seconds  # type: ignore[assignment]
            known[task.session, task.attempt] += 1
    return {
        attempt.key: busy_s[attempt.key]
        for attempt in run.attempts
        if attempt.is_answered and attempt.done and known[attempt.key] == attempt.done
    }


def median_span_s(attempts: Iterable[PastAttempt]) -> float | None:
    """The median time from sending to the end; None of none."""
    spans = [attempt.span_s for attempt in attempts if attempt.ended_s is not None]
    return statistics.median(spans) if spans else None
