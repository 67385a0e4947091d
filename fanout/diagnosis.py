"""Why nothing has finished for a while: events in, causes out.

Pure. A run stalls when nothing has finished for longer than its own times explain: ten seconds, or
three times as long as its longest attempt ran. `diagnose` then says what it waits for, as far as
events tell, the most telling cause first; `story` says so of all stalls there were. Failures are
told apart by their kind and reason, never by their texts.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from fanout.causes import Cause, cause_of, told
from fanout.events import (
    AttemptAnswered,
    AttemptFailed,
    AttemptStarted,
    Cancelled,
    Consumed,
    Deliver,
    Finish,
    Ignore,
    InputEnded,
    Launch,
    Offered,
    Recalled,
    Retry,
    RunEnded,
    RunStarted,
)
from fanout.retry import FailureKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fanout.events import RunEvent
    from fanout.retry import Failure

_LEAST_S: Final = 10.0  # a pause that people begin to wonder at
_TIMES: Final = 3.0  # as long as the longest attempt: tasks differ
# A failure is still what holds the run up if tasks wait, or for so long after: more than it takes
# to try a connection (10 s) or to back off (20 s).
_FRESH_S: Final = 30.0
_DURATIONS_KEPT: Final = 1000
_SHARE: Final = 0.99  # of the attempts that were quicker than one that is called slow
_MOST_NAMED: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One cause of a stall.

    Attributes:
        cause: What it is.
        count: How many attempts or tasks it concerns; of the consumer, outcomes it has not taken.
        since_s: When it began, seconds since the run did.
        for_s: How long it lasted, or has lasted so far, seconds.
        what: In words.
        remedy: What to do.
    """

    cause: Cause
    count: int
    since_s: float
    for_s: float
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}: {self.remedy}"


@dataclass(slots=True)
class _Attempt:
    tasks: Sequence[int]
    launched_s: float
    started_s: float | None = None


@dataclass(slots=True)
class _Trouble:
    """Failures of one cause since something finished the last time."""

    count: int
    since_s: float
    last_s: float
    last: Failure


class Diagnosis:
    """Watches a run, and says what it waits for. Times are seconds of any clock."""

    def __init__(self) -> None:
        self._start = RunStarted(run="", kernel="", backend="", concurrency=1, total=None)
        self._began_s = 0.0
        self._finished_s = 0.0  # when something did, the last time
        self._longest_s = 0.0  # that an attempt ran, as its worker measured it
        self._open: set[int] = set()  # tasks that have no result
        self._recalling: set[int] = set()  # those whose result is being read
        self._untaken = 0
        self._attempts: dict[int, _Attempt] = {}
        self._durations_s: deque[float] = deque(maxlen=_DURATIONS_KEPT)
        self._troubles: dict[Cause, _Trouble] = {}
        self._launched_s = 0.0
        self._has_answer = False
        self._has_all_input = False
        self._is_over = False
        self._past: dict[Cause, Finding] = {}

    def take(self, event: RunEvent, now_s: float) -> None:
        """Take note of an event that happened at `now_s`."""
        match event:
            case Launch(attempt=number, tasks=tasks):
                self._attempts[number] = _Attempt(tasks, now_s)
                self._launched_s = now_s
            case AttemptStarted(attempt=number):
                attempt = self._attempts.get(number)
                if attempt is not None and attempt.started_s is None:
                    attempt.started_s = now_s
            case AttemptAnswered():
                self._answered(event, now_s)
            case AttemptFailed(attempt=number, failure=failure):
                self._attempts.pop(number, None)
                self._note(failure, 1, now_s)
            case Retry(tasks=tasks, failure=failure):
                if failure.kind is FailureKind.KERNEL_RAISED:  # else its attempt has failed, too
                    self._note(failure, len(tasks), now_s)
            case Deliver(outcomes=outcomes):
                self._finish(now_s)
                self._open.difference_update([outcome.index for outcome in outcomes])
                self._untaken += len(outcomes) if self._start.is_consumed else 0
            case Ignore(attempt=number):
                self._attempts.pop(number, None)
            case Offered(first=first, count=count, later=later):
                if not self._open and not self._attempts:
                    self._finish(now_s)  # what was waited for is there
                self._open.update(range(first, first + count))
                self._open.difference_update(later)
                self._recalling.update(later)
            case Recalled(outcomes=outcomes, lost=lost):
                self._recalling.difference_update([outcome.index for outcome in outcomes], lost)
                self._open.update(lost)
            case Consumed(count=count):
                if not self._open:
                    self._finish(now_s)
                self._untaken -= count
            case InputEnded():
                self._has_all_input = True
            case RunStarted():
                self._start = event
                self._began_s = self._finished_s = now_s
            case Cancelled() | Finish() | RunEnded():
                self._end(event, now_s)

    def diagnose(self, now_s: float) -> list[Finding]:
        """What the run waits for, if it waits for longer than its own times explain."""
        return self._causes(now_s) if self.is_stalled(now_s) else []

    def story(self, now_s: float) -> list[Finding]:
        """What it waited for whenever it did, each cause at its longest."""
        found = dict(self._past)
        for finding in self.diagnose(now_s):
            found[finding.cause] = _longer(finding, found.get(finding.cause))
        order = list(Cause)
        return sorted(found.values(), key=lambda finding: order.index(finding.cause))

    # ---- what happens ----

    def _answered(self, event: AttemptAnswered, now_s: float) -> None:
        attempt = self._attempts.get(event.attempt)
        report = event.report
        if report is not None and not self._has_answer:
            self._longest_s = report.total_s  # so long it took, and no cold start: no stall
        done = [outcome.index for outcome in event.outcomes if outcome.error is None]
        if done:
            self._finish(now_s)
        self._attempts.pop(event.attempt, None)
        if report is not None:
            self._has_answer = True
            self._longest_s = max(self._longest_s, report.total_s)
            if attempt is not None:
                started_s = attempt.launched_s if attempt.started_s is None else attempt.started_s
                self._durations_s.append(now_s - started_s)
        self._open.difference_update(done)

    def _note(self, failure: Failure, count: int, now_s: float) -> None:
        cause = cause_of(failure)
        trouble = self._troubles.get(cause)
        if trouble is None:
            self._troubles[cause] = _Trouble(count, now_s, now_s, failure)
        else:
            trouble.count += count
            trouble.last_s, trouble.last = now_s, failure

    def _finish(self, now_s: float) -> None:
        """Something finished: if that was a stall, it is over."""
        if now_s - self._finished_s > _LEAST_S:
            self._remember(self.diagnose(now_s))
        self._finished_s = now_s
        self._troubles.clear()

    def _end(self, event: Cancelled | Finish | RunEnded, now_s: float) -> None:
        if self._is_over:
            return
        self._remember(self.diagnose(now_s))
        if isinstance(event, Finish) and event.failure is not None:
            self._remember(list(self._failing(now_s)))
        self._is_over = True

    def _remember(self, findings: list[Finding]) -> None:
        for finding in findings:
            self._past[finding.cause] = _longer(finding, self._past.get(finding.cause))

    # ---- what that means ----

    def is_stalled(self, now_s: float) -> bool:
        """Whether nothing has finished for longer than its own times explain."""
        if self._is_over or (self._has_all_input and not self._open and not self._untaken):
            return False
        return now_s - self._finished_s > max(_LEAST_S, _TIMES * self._longest_s)

    def _causes(self, now_s: float) -> list[Finding]:
        failing = list(self._failing(now_s))
        found = [*failing, *self._in_flight(now_s)]
        waiting = len(self._waiting())
        if not failing and waiting and len(self._attempts) < self._start.concurrency:
            found.append(self._held(waiting, now_s))
        if not self._open and not self._attempts and (self._untaken or not self._recalling):
            found.append(self._outside(now_s))
        return found

    def _waiting(self) -> set[int]:
        """Tasks that are in no attempt."""
        return self._open.difference(*(attempt.tasks for attempt in self._attempts.values()))

    def _failing(self, now_s: float) -> Iterator[Finding]:
        waiting = len(self._waiting()) if self._troubles else 0
        for cause in Cause:
            trouble = self._troubles.get(cause)
            if trouble is None or not (waiting or now_s - trouble.last_s <= _FRESH_S):
                continue
            what, remedy = told(cause, trouble.last)
            tasks = f"{waiting:,} {_plural(waiting, 'task')} waiting, " if waiting else ""
            times = f"{trouble.count:,} {_plural(trouble.count, 'time')}"
            what = f"{what} ({tasks}failed {times})"
            yield self._finding(cause, trouble.count, trouble.since_s, now_s, what, remedy)

    def _in_flight(self, now_s: float) -> Iterator[Finding]:
        running = {
            number: attempt.started_s
            for number, attempt in self._attempts.items()
            if attempt.started_s is not None
        }
        sent_s = min((attempt.launched_s for attempt in self._attempts.values()), default=now_s)
        if now_s - sent_s <= _LEAST_S:
            return  # that is no reason yet
        if running and self._has_answer:
            yield from self._slow(running, now_s)
        elif running:
            since_s = min(running.values())
            what = (
                f"none of {len(running):,} {_plural(len(running), 'attempt')} has answered yet, "
                f"the first was sent {_span(now_s - since_s)} ago"
            )
            remedy = (
                "environments start for the first time, which takes longer the larger the image "
                "is, or the first tasks take that long"
            )
            yield self._finding(Cause.NO_ANSWER, len(running), since_s, now_s, what, remedy)
        elif self._attempts:
            count = len(self._attempts)
            what = (
                f"{count:,} {_plural(count, 'attempt')} launched up to {_span(now_s - sent_s)} ago"
                f", and no worker has taken {'it' if count == 1 else 'one'}"
            )
            remedy = "workers are starting, or others use them: look at the load of this machine"
            yield self._finding(Cause.NOT_STARTED, count, sent_s, now_s, what, remedy)

    def _slow(self, running: dict[int, float], now_s: float) -> Iterator[Finding]:
        """Those in flight for longer than 99 of 100 others were."""
        if not self._durations_s:
            return
        in_order = sorted(self._durations_s)
        usual_s = in_order[math.ceil(_SHARE * len(in_order)) - 1]
        least_s = max(usual_s, _LEAST_S)
        slow = {number: at_s for number, at_s in running.items() if now_s - at_s > least_s}
        if not slow:
            return
        first = sorted(slow, key=slow.__getitem__)[:_MOST_NAMED]
        named = ", ".join(f"{number} for {_span(now_s - slow[number])}" for number in first)
        named += ", ..." if len(slow) > len(first) else ""
        count = len(slow)
        what = (
            f"{count:,} {_plural(count, 'attempt')} in flight for longer than 99 % of the others "
            f"took ({_span(usual_s)}): {_plural(count, 'number')} {named}"
        )
        remedy = "their tasks are large, or hang: timeout_s= ends what takes too long"
        yield self._finding(Cause.SLOW, count, slow[first[0]], now_s, what, remedy)

    def _held(self, waiting: int, now_s: float) -> Finding:
        """Tasks wait, there are places, and nothing failed."""
        tasks = f"{waiting:,} {_plural(waiting, 'task')} waiting"
        most_gb_s = self._start.max_gb_s
        if most_gb_s is not None and self._attempts:
            cause = Cause.BUDGET
            count = len(self._attempts)
            what = (
                f"the budget of {most_gb_s:g} GB-seconds is reserved for what is in flight "
                f"({count:,} {_plural(count, 'attempt')}; {tasks})"
            )
            remedy = "they go on when these have ended for less; a larger max_gb_s= lets more run"
        else:
            cause = Cause.NO_ROOM
            what = f"{tasks} for room at the backend"
            remedy = (
                "what is in flight is all that the service takes, other runs of this program use "
                "it, or a rate= holds them back"
            )
        return self._finding(cause, waiting, self._launched_s, now_s, what, remedy)

    def _outside(self, now_s: float) -> Finding:
        """All that was given is done: somebody else is to do something."""
        if self._untaken > 0:
            count = self._untaken
            cause = Cause.CONSUMER
            what = f"{count:,} {_plural(count, 'outcome')} of the stream not taken"
            remedy = "the run goes on when the loop over it does"
        else:
            cause, count = Cause.INPUT, 0
            what = "the input gives no more chunks, and has not ended"
            remedy = "all that it gave is done; see what its generator waits for"
        return self._finding(cause, count, self._finished_s, now_s, what, remedy)

    def _finding(
        self, cause: Cause, count: int, since_s: float, now_s: float, what: str, remedy: str
    ) -> Finding:
        return Finding(
            cause=cause,
            count=count,
            since_s=since_s - self._began_s,
            for_s=now_s - since_s,
            what=what,
            remedy=remedy,
        )


def _longer(new: Finding, old: Finding | None) -> Finding:
    if old is None:
        return new
    longer = new if new.for_s >= old.for_s else old
    return replace(longer, count=max(new.count, old.count), since_s=min(new.since_s, old.since_s))


def _plural(count: int, word: str) -> str:
    return word if count == 1 else f"{word}s"


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min"
