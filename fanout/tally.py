"""What is counted of a run for people: events in, one moment of the run out.

Pure: times are given, and nothing is shown here. `progress` shows it.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fanout.diagnosis import Diagnosis
from fanout.errors import TaskError
from fanout.events import (
    AttemptAnswered,
    AttemptFailed,
    AttemptStarted,
    Cancelled,
    Deliver,
    Finish,
    Ignore,
    InputEnded,
    Launch,
    Offered,
    Retry,
    RunEnded,
    RunStarted,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fanout.diagnosis import Finding
    from fanout.events import RunEvent
    from fanout.retry import Failure
    from fanout.tasks import AttemptReport, Outcome

MOST_ERRORS: Final = 3  # that are shown at once
_MOST_LINES: Final = 1000  # printed by kernels: a person reads no more, a log should not grow
_MOST_KINDS: Final = 1000  # of errors told apart: a bound on memory
_MOST_CHARACTERS: Final = 200  # of an error's message

_STRETCH_S: Final = 0.25  # of the timeline, at first
_STRETCHES: Final = 64
_DIAGNOSE_EVERY_S: Final = 1.0
# Speed is measured over at least so much time, so many tasks, and so many rounds of all workers.
_RECENT_S: Final = 10.0
_RECENT_TASKS: Final = 20
_RECENT_ROUNDS: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A run at one moment.

    Attributes:
        kernel: Name of the kernel.
        backend: Name of the backend.
        concurrency: Attempts that can run at once.
        total: Number of tasks; None while unknown.
        done: Tasks delivered, failed ones included.
        running: Tasks in attempts that a worker has.
        waiting: Tasks that are neither done nor running, as far as known.
        retried: How many times a task was sent again.
        failed: Tasks that failed for good.
        in_flight: Attempts that a worker has.
        per_s: Tasks per second lately; over the whole run once it has ended.
        elapsed_s: Since the run started.
        left_s: Estimated time left; None while unknown.
        levels: Attempts in flight over the run so far, as means over equal stretches of time.
        errors: The most frequent ones of failed tasks, each with its count.
        causes: The most frequent ones of attempts that were retried.
        compiled: Environments in which numba compiled, as far as they have answered.
        compile_s: How long it did so in one of them, the median.
        is_compiled_there: Whether nothing has come back yet, and it is known that numba compiles
            the kernel in each environment.
        is_over: Nothing more will be launched.
        is_complete: Every chunk of the input was delivered.
        findings: What the run waits for, if nothing has finished for too long.
        gb_s: What attempts have cost that have ended, GB-seconds; 0 where nothing is billed.
        usd: The same in US dollars, for time and requests; None if no prices are known.
    """

    kernel: str
    backend: str
    concurrency: int
    total: int | None
    done: int
    running: int
    waiting: int
    retried: int
    failed: int
    in_flight: int
    per_s: float
    elapsed_s: float
    left_s: float | None
    levels: tuple[float, ...]
    errors: tuple[str, ...]
    causes: tuple[str, ...]
    compiled: int
    compile_s: float
    is_compiled_there: bool
    is_over: bool
    is_complete: bool
    findings: tuple[Finding, ...] = ()
    gb_s: float = 0.0
    usd: float | None = None


class Tally:
    """Counts what happens in a run. Pure: times are given, nothing is shown."""

    def __init__(self) -> None:
        self._start = RunStarted(run="", kernel="", backend="", concurrency=1, total=None)
        self._started_s: float | None = None
        self._ended_s: float | None = None
        self._timeline = _Timeline(0.0)
        self._sizes: dict[int, int] = {}  # tasks of each attempt on its way or with a worker
        self._in_flight: set[int] = set()
        self._offered = 0
        self._running = 0
        self._done = 0
        self._retried = 0
        self._failed = 0
        self._errors = _Errors()
        self._causes = _Errors()
        self._printed = _Printed()
        self._diagnosis = Diagnosis()
        self._findings: tuple[Finding, ...] = ()
        self._diagnosed_s = -math.inf
        self._compile_s: dict[str, float] = {}  # of each environment that compiled
        self._has_answer = False
        self._has_all_input = False
        self._is_over = False

    def take(self, event: RunEvent, now_s: float) -> None:
        """Count an event that happened at `now_s`, seconds of any clock."""
        self._diagnosis.take(event, now_s)
        match event:
            case Launch(attempt=number, tasks=tasks):
                self._sizes[number] = len(tasks)
            case AttemptStarted(attempt=number):
                if number in self._sizes and number not in self._in_flight:
                    self._advance(now_s)
                    self._in_flight.add(number)
                    self._running += self._sizes[number]
            case AttemptAnswered() | AttemptFailed() | Ignore():
                self._advance(now_s)
                self._land(event.attempt)
                if isinstance(event, AttemptAnswered) and event.report is not None:
                    self._note(event.report)
            case Deliver(outcomes=outcomes):
                self._advance(now_s)
                self._done += len(outcomes)
                self._look_at(outcomes)
            case Offered(count=count):
                self._offered += count
            case Retry(tasks=tasks, failure=failure):
                self._retried += len(tasks)
                self._causes.add(_cause(failure), len(tasks))
            case InputEnded():
                self._has_all_input = True
            case Cancelled() | Finish():
                self._is_over = True
            case RunStarted():
                self._start = event
                self._started_s = now_s
                self._timeline = _Timeline(now_s)
            case RunEnded():
                self._advance(now_s)
                self._ended_s = now_s
                self._is_over = True

    def view(self, now_s: float) -> View:
        """The run as it stands at `now_s`."""
        self._advance(now_s)
        total = self._total()
        known = self._offered if total is None else total
        elapsed_s = self._elapsed_s(now_s)
        per_s = self._per_s(elapsed_s)
        left_s = None if total is None or not per_s else (total - self._done) / per_s
        return View(
            kernel=self._start.kernel,
            backend=self._start.backend,
            concurrency=self._start.concurrency,
            total=total,
            done=self._done,
            running=self._running,
            waiting=max(0, known - self._done - self._running),
            retried=self._retried,
            failed=self._failed,
            in_flight=len(self._in_flight),
            per_s=per_s,
            elapsed_s=elapsed_s,
            left_s=left_s,
            levels=tuple(self._timeline.levels),
            errors=self._errors.most_frequent(),
            causes=self._causes.most_frequent(),
            compiled=len(self._compile_s),
            compile_s=_median(self._compile_s.values()),
            is_compiled_there=self._start.is_compiled_there and not self._has_answer,
            is_over=self._is_over,
            is_complete=self._has_all_input and self._done == self._offered,
            findings=self._diagnosed(now_s),
        )

    def printed(self) -> list[str]:
        """The lines that kernels printed since this was last asked."""
        return self._printed.drain()

    def _diagnosed(self, now_s: float) -> tuple[Finding, ...]:
        """What the run waits for; thousands of attempts are not looked at for every frame."""
        if self._ended_s is not None:
            return ()
        if not self._diagnosis.is_stalled(now_s):
            self._findings, self._diagnosed_s = (), -math.inf
        elif now_s - self._diagnosed_s >= _DIAGNOSE_EVERY_S:
            self._findings = tuple(self._diagnosis.diagnose(now_s))
            self._diagnosed_s = now_s
        return self._findings

    def _note(self, report: AttemptReport) -> None:
        self._has_answer = True
        if report.compile_s:
            before_s = self._compile_s.get(report.environment.id, 0.0)
            self._compile_s[report.environment.id] = before_s + report.compile_s

    def _look_at(self, outcomes: Sequence[Outcome[Any]]) -> None:
        for outcome in outcomes:
            if outcome.error is not None:
                self._failed += 1
                self._errors.add(_describe(outcome.error), 1)
            if outcome.stdout or outcome.stderr:
                self._printed.add(outcome)

    def _land(self, number: int) -> None:
        size = self._sizes.pop(number, 0)
        if number in self._in_flight:
            self._in_flight.discard(number)
            self._running -= size

    def _advance(self, now_s: float) -> None:
        if self._ended_s is None:
            self._timeline.advance(now_s, len(self._in_flight), self._done)

    def _total(self) -> int | None:
        if self._has_all_input or self._start.total is None:
            return self._offered if self._has_all_input else None
        return max(self._start.total, self._offered)

    def _elapsed_s(self, now_s: float) -> float:
        if self._started_s is None:
            return 0.0
        return max(0.0, (now_s if self._ended_s is None else self._ended_s) - self._started_s)

    def _per_s(self, elapsed_s: float) -> float:
        if self._ended_s is not None:
            return self._done / elapsed_s if elapsed_s else 0.0
        enough = max(_RECENT_TASKS, _RECENT_ROUNDS * self._start.concurrency)
        return self._timeline.per_s(elapsed_s, self._done, enough)


class _Timeline:
    """Attempts in flight and tasks done, over equal stretches of time from the start of the run.

    When there are too many stretches, each two become one: the run's whole story always fits, and a
    picture of it stands still between two such moments.
    """

    def __init__(self, start_s: float) -> None:
        self.levels: list[float] = []
        self._marks: list[int] = []  # tasks done by the end of each stretch
        self._start_s = start_s
        self._at_s = start_s
        self._stretch_s = _STRETCH_S
        self._end_s = start_s + _STRETCH_S  # of the stretch that goes on
        self._area = 0.0  # attempt-seconds since the last stretch ended

    def advance(self, now_s: float, level: int, done: int) -> None:
        """Note that there were `level` attempts in flight, and `done` tasks, until `now_s`."""
        while now_s >= self._end_s:
            self.levels.append((self._area + level * (self._end_s - self._at_s)) / self._stretch_s)
            self._marks.append(done)
            self._area = 0.0
            self._at_s = self._end_s
            if len(self.levels) == _STRETCHES:
                self._halve()
            self._end_s = self._start_s + (len(self.levels) + 1) * self._stretch_s
        self._area += level * (now_s - self._at_s)
        self._at_s = now_s

    def per_s(self, elapsed_s: float, done: int, enough: int) -> float:
        """Speed over the shortest time until now that is long enough and has `enough` tasks."""
        for number in range(len(self._marks), 0, -1):
            age_s = elapsed_s - number * self._stretch_s
            tasks = done - self._marks[number - 1]
            if age_s >= _RECENT_S and tasks >= enough:
                return tasks / age_s
        return done / elapsed_s if elapsed_s > 0 else 0.0

    def _halve(self) -> None:
        self.levels = means(self.levels, 2)
        self._marks = self._marks[1::2]
        self._stretch_s *= 2


class _Errors:
    """Counts errors that are alike: those of which only the numbers in the message differ."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._texts: dict[str, str] = {}

    def add(self, text: str, count: int) -> None:
        """Count an error `count` times."""
        pattern = re.sub(r"0x[0-9a-fA-F]+|\d+", "#", text)
        if pattern not in self._texts:
            if len(self._texts) == _MOST_KINDS:
                return
            self._texts[pattern] = text
        elif self._texts[pattern] != text:
            self._texts[pattern] = pattern
        self._counts[pattern] += count

    def most_frequent(self) -> tuple[str, ...]:
        """As many as are ever shown, each with its count."""
        most = self._counts.most_common(MOST_ERRORS)
        return tuple(f"{count}x {self._texts[pattern]}" for pattern, count in most)


class _Printed:
    """The lines that kernels printed, as many as a person may want to see."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._left = _MOST_LINES

    def add(self, outcome: Outcome[Any]) -> None:
        """Keep what a task printed."""
        if self._left < 0:
            return
        for line in f"{outcome.stdout.rstrip()}\n{outcome.stderr.rstrip()}".strip("\n").split("\n"):
            self._left -= 1
            if self._left < 0:
                self._lines.append(
                    f"fanout: tasks printed more than {_MOST_LINES} lines; what follows is not "
                    "shown, Outcome.stdout and .stderr have it"
                )
                return
            self._lines.append(f"[{outcome.index}] {_clean(line)}")

    def drain(self) -> list[str]:
        """Give the lines away."""
        lines, self._lines = self._lines, []
        return lines


def _describe(error: BaseException) -> str:
    try:
        message = str(error)
    except Exception:  # noqa: BLE001  # a user's exception may not even have a text
        message = ""
    if isinstance(error, TaskError):  # which begins with the task's index
        message = message.partition(": ")[2]
    return f"{type(error).__name__}: {_first_line(message)}".rstrip(": ")


def _cause(failure: Failure) -> str:
    if failure.error is not None:
        return _describe(failure.error)
    return f"{failure.kind.value}: {_first_line(failure.detail)}".rstrip(": ")


def _first_line(message: str) -> str:
    return _clean(message[: 2 * _MOST_CHARACTERS].strip().partition("\n")[0])[:_MOST_CHARACTERS]


def _clean(line: str) -> str:
    """A line without what moves a cursor; of a line written over itself, what stood there last."""
    line = re.sub(r"\x1b(\[[0-?]*[ -/]*[@-~]|\].*?(\x07|\x1b\\)|[@-Z\\^_])", "", line)
    line = line.rstrip("\r").rpartition("\r")[2].expandtabs()
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", "", line)


def _median(values: Iterable[float]) -> float:
    """The middle one; 0 of none. The module `statistics` is slow to import."""
    in_order = sorted(values)
    return in_order[len(in_order) // 2] if in_order else 0.0


def means(values: Sequence[float], size: int) -> list[float]:
    """Means of `size` values each, and of what is left at the end."""
    groups = [values[at : at + size] for at in range(0, len(values), size)]
    return [math.fsum(group) / len(group) for group in groups]
