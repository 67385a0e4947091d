"""What a person sees of a run while it runs: on stderr, calm, and only if the run takes a while.

    events -> Tally (counts) -> View (one moment) -> lines of `Part`s -> terminal, notebook or log

Everything up to the lines is pure; below that is one class for each of the three places. Nothing
here may end or slow a run: an event costs some counting under a lock, all drawing is done by a
thread of the run's own, and a stderr that is closed, broken or missing is written to in vain.
Nothing is shown of a run that ends at once. rich, which no other module knows, is imported when a
terminal is drawn on and not before: most runs are short, or write to a log.
"""

from __future__ import annotations

import atexit
import contextlib
import html
import math
import os
import re
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TextIO, TypeAlias, cast

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
    from collections.abc import Iterable, Iterator, Sequence

    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    from fanout.events import RunEvent
    from fanout.retry import Failure
    from fanout.tasks import Outcome

Part: TypeAlias = tuple[str, str]
"""A piece of a line, and rich's name for its style."""

_QUIET_S: Final = 0.5  # a run that ends before is not worth a word
_FRAME_S: Final = 1 / 8  # of a terminal: smooth for counters, and 1 % of a core
_CELL_FRAME_S: Final = 0.5  # of a notebook: each frame is a message to a browser
_POLL_S: Final = 0.25  # of a log: how long what a kernel prints may wait
_FIRST_LINE_S: Final = 5.0
_PAUSES_S: Final = (10.0, 60.0)  # between lines of a log: at first, at last
_PAUSE_GROWTH: Final = 1.5
_MOST_LINES: Final = 1000  # printed by kernels: a person reads no more, a log should not grow
_MOST_ERRORS: Final = 3
_MOST_KINDS: Final = 1000  # of errors told apart: a bound on memory
_MOST_CHARACTERS: Final = 200  # of an error's message

_STRETCH_S: Final = 0.25  # of the timeline, at first
_STRETCHES: Final = 64
_RECENT_S: Final = 10.0  # time and tasks (at least two rounds of workers) to measure speed over
_RECENT_TASKS: Final = 10

_BLOCKS: Final = " ▁▂▃▄▅▆▇█"
_MOST_CELLS: Final = 60  # of the bar: wider tells no more
_FEWEST_CELLS: Final = 6
_NAME_CELLS: Final = 20
_CLOCK_CELLS: Final = 8
_NOTEBOOK_CELLS: Final = 90
# Set by xterm and GNU screen, which cut long lines off when they become narrower; others fold them.
_CUTTERS: Final = frozenset({"XTERM_VERSION", "STY"})
_CSS: Final = {
    "bold": "font-weight:bold",
    "bold red": "font-weight:bold;color:#c62828",
    "bright_black": "color:gray",
    "cyan": "color:#00838f",
    "red": "color:#c62828",
    "yellow": "color:#b26a00",
}


# ---- events -> Tally -> View ----


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
        is_over: Nothing more will be launched.
        is_complete: Every chunk of the input was delivered.
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
    is_over: bool
    is_complete: bool


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
        self._has_all_input = False
        self._is_over = False

    def take(self, event: RunEvent, now_s: float) -> None:
        """Count an event that happened at `now_s`, seconds of any clock."""
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
            case Deliver(outcomes=outcomes):
                self._deliver(outcomes)
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
            is_over=self._is_over,
            is_complete=self._has_all_input and self._done == self._offered,
        )

    def printed(self) -> list[str]:
        """The lines that kernels printed since this was last asked."""
        return self._printed.drain()

    def _deliver(self, outcomes: Sequence[Outcome[Any]]) -> None:
        self._done += len(outcomes)
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
        return self._timeline.per_s(
            elapsed_s, self._done, max(_RECENT_TASKS, 2 * self._start.concurrency)
        )


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
        self.levels = _means(self.levels, 2)
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
        most = self._counts.most_common(_MOST_ERRORS)
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
    message = _clean(message.strip().partition("\n")[0])[:_MOST_CHARACTERS]
    return f"{type(error).__name__}: {message}".rstrip(": ")


def _cause(failure: Failure) -> str:
    if failure.error is not None:
        return _describe(failure.error)
    return f"{failure.kind.value}: {_clean(failure.detail)[:_MOST_CHARACTERS]}".rstrip(": ")


def _clean(line: str) -> str:
    """A line without what moves a cursor; of a line written over itself, what stood there last."""
    line = re.sub(r"\x1b(\[[0-?]*[ -/]*[@-~]|\].*?(\x07|\x1b\\)|[@-Z\\^_])", "", line)
    line = line.rstrip("\r").rpartition("\r")[2].expandtabs()
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", "", line)


# ---- View -> lines ----


def blocks(views: Sequence[View], width: int, *, is_ascii: bool = False) -> list[list[list[Part]]]:
    """Each run in a few lines, all narrower than `width`: for terminals and notebooks.

    Three columns: name, speed and clock; the bar over the history of attempts in flight; numbers
    that belong to these. All runs have the same columns, and keep their widths, so that nothing
    jumps.
    """
    left = max((_CLOCK_CELLS, *(len(_name(view)) for view in views)))
    left = min(left, _NAME_CELLS, max(_CLOCK_CELLS, width // 4))
    right = max((0, *(_numbers_width(view) for view in views)))
    cells = min(_MOST_CELLS, width - left - right - 5)
    if cells < _FEWEST_CELLS:
        cells = 0
    return [_block(view, left, cells, width - left - 3, is_ascii) for view in views]


def _block(view: View, left: int, cells: int, room: int, is_ascii: bool) -> list[list[Part]]:
    share = _share(view)
    if len(share) > room and view.total is not None:
        share = f"{_percent(view)}%"
    bar: list[Part] = []
    history: list[Part] = []
    if cells:
        bar = [*_bar(view, cells, is_ascii), ("  ", "")]
        history = [(" " * cells if is_ascii else _sparkline(view, cells), "cyan"), ("  ", "")]
    errors = [(text, "red") for text in view.errors]
    errors += [(f"{text}, retried", "yellow") for text in view.causes]
    rows: list[tuple[Part, list[Part]]] = [
        ((_name(view), "bold"), [*bar, (share, "")]),
        ((_speed(view.per_s), ""), [*history, (_flight(view), "")]),
        ((_clock(view.elapsed_s), ""), _fitting(_status(view), room)),
        *((("", ""), [error]) for error in errors[:_MOST_ERRORS]),
    ]
    return [
        [(_short(label, left).ljust(left + 2), style), *_cut(parts, room)]
        for (label, style), parts in rows
    ]


def summary(view: View, width: int | None = None) -> list[Part]:
    """A run that has ended, in one line, narrower than `width`."""
    tasks = f"{_tasks(view)} in {_duration(view.elapsed_s)}"
    parts = [(tasks if view.is_complete else f"stopped after {tasks}", "bold")]
    if view.failed:
        parts.append((f"{_count(view.failed)} failed", "bold red"))
    if view.retried:
        parts.append((f"{_count(view.retried)} retried", "yellow"))
    if view.done:
        parts.append((_speed(view.per_s), ""))
    if view.failed:
        parts.append((view.errors[0], "red"))
    if width is None:
        return [(f"{_title(view)}: ", ""), *_joined(parts)]
    for title in (f"{_title(view)}: ", f"{_name(view)}: ", ""):
        if len(title) + len(parts[0][0]) < width:
            break
    return [(title, ""), *_fitting(parts, width - 1 - len(title))]


def plain(view: View) -> str:
    """A run that goes on, in one line of a log."""
    parts = [_tasks(view)]
    if view.failed:
        parts.append(f"{_count(view.failed)} failed")
    if view.retried:
        parts.append(f"{_count(view.retried)} retried")
    if view.done:
        parts.append(_speed(view.per_s))
    if view.is_over:
        parts.append("stopping")
    elif view.left_s is not None:
        parts.append(_left(view.left_s))
    return f"fanout: {_title(view)}: {', '.join(parts)}"


def _status(view: View) -> list[Part]:
    """What is told of the tasks, the most important first: narrow lines lose their end."""
    parts: list[Part] = []
    if view.is_over:
        parts.append(("stopping", ""))
    elif view.left_s is not None:
        parts.append((_left(view.left_s), ""))
    if view.failed:
        parts.append((f"{_count(view.failed)} failed", "bold red"))
    if view.retried:
        parts.append((f"{_count(view.retried)} retried", "yellow"))
    parts.append((f"{_count(view.running)} running", ""))
    if view.waiting:
        parts.append((f"{_count(view.waiting)} waiting", ""))
    return parts


def _bar(view: View, cells: int, is_ascii: bool) -> list[Part]:
    """The bar: thick where tasks are done, thin elsewhere, so that it needs no colour."""
    thick, half, thin = "=--" if is_ascii else "━╾─"
    if view.total is None:  # a wave that wanders
        at = int(view.elapsed_s * 4) % (cells + 4) - 4
        wave = range(max(at, 0), min(at + 4, cells))
        return [
            (thin * wave.start, "bright_black"),
            (thick * len(wave), "cyan"),
            (thin * (cells - wave.stop), "bright_black"),
        ]
    halves = 2 * cells * view.done // view.total if view.total else 2 * cells
    full, rest = divmod(halves, 2)
    return [
        (thick * full + half * rest, "cyan"),
        (thin * (cells - full - rest), "bright_black"),
    ]


def _sparkline(view: View, cells: int) -> str:
    levels = list(view.levels)
    while len(levels) > cells:
        levels = _means(levels, 2)
    top = len(_BLOCKS) - 1
    heights = [min(top, math.ceil(top * level / view.concurrency)) for level in levels]
    return "".join(_BLOCKS[height] for height in heights).ljust(cells)


def _share(view: View) -> str:
    if view.total is None:
        return f"{_count(view.done)} done"
    total = _count(view.total)
    return f"{_count(view.done):>{len(total)}} of {total}  {_percent(view):>3}%"


def _flight(view: View) -> str:
    return f"{_count(view.in_flight)} of {_count(view.concurrency)} in flight"


def _numbers_width(view: View) -> int:
    """The most that the numbers beside the bar will take."""
    flight = len(_flight(view)) - len(_count(view.in_flight)) + len(_count(view.concurrency))
    return max(flight, len(_share(view)))


def _percent(view: View) -> int:
    return 100 * view.done // view.total if view.total else 100


def _tasks(view: View) -> str:
    if view.total is None or view.done == view.total:
        return f"{_count(view.done)} task{'' if view.done == 1 else 's'}"
    return f"{_count(view.done)} of {_count(view.total)} tasks"


def _title(view: View) -> str:
    return f"{_name(view)} on {view.backend}"


def _name(view: View) -> str:
    """The kernel's name, without the function that it was defined in."""
    return view.kernel.replace("<locals>.", "\0").rpartition("\0")[2]


def _count(number: int) -> str:
    return f"{number:,}" if number >= 10_000 else str(number)


def _speed(per_s: float) -> str:
    """A speed in the unit in which it is a number people can imagine."""
    for unit, seconds in (("s", 1), ("min", 60), ("h", 3600)):
        speed = per_s * seconds
        if speed >= 9.95:
            return f"{_count(round(speed))}/{unit}"
        if speed >= 1:
            return f"{speed:.1f}/{unit}"
    return f"{per_s * 3600:.1g}/h" if per_s else "0/s"


def _clock(seconds: float) -> str:
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def _left(seconds: float) -> str:
    return f"about {_duration(_rounded(seconds))} left"


def _rounded(seconds: float) -> float:
    """Rounded up to what an estimate can know: it shall not fidget."""
    for limit_s, step_s in ((10, 1), (60, 5), (600, 30), (3600, 60), (math.inf, 600)):
        if seconds <= limit_s:
            return math.ceil(seconds / step_s) * step_s
    return seconds


def _duration(seconds: float) -> str:
    if seconds < 9.95:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    minutes, second = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {second} s".removeprefix("0 min ").removesuffix(" 0 s")
    hours, minute = divmod(minutes, 60)
    return f"{hours} h {minute} min".removesuffix(" 0 min")


def _means(values: Sequence[float], size: int) -> list[float]:
    groups = [values[at : at + size] for at in range(0, len(values), size)]
    return [math.fsum(group) / len(group) for group in groups]


def _joined(parts: Iterable[Part]) -> list[Part]:
    joined = [piece for part in parts for piece in (part, (", ", ""))]
    return joined[:-1]


def _fitting(parts: list[Part], width: int) -> list[Part]:
    """The parts in one line, without the last ones if it would be too long."""
    while len(parts) > 1 and sum(len(text) + 2 for text, _ in parts) - 2 > width:
        parts = parts[:-1]
    return _cut(_joined(parts), width)


def _cut(parts: Iterable[Part], width: int) -> list[Part]:
    kept: list[Part] = []
    for text, style in parts:
        kept.append((_short(text, width), style))
        width -= len(kept[-1][0])
    return kept


def _short(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    return f"{text[: max(0, width - 3)]}..."[: max(0, width)]


# ---- lines -> terminal, notebook or log ----


class Progress:
    """Shows a run on stderr while it goes on; an observer of its events.

    Args:
        quiet_s: Nothing is shown of a run that ends before, seconds.
        first_line_s: Where stderr is no terminal: when to write the first line, seconds.
    """

    def __init__(self, *, quiet_s: float = _QUIET_S, first_line_s: float = _FIRST_LINE_S) -> None:
        self._quiet_s = quiet_s
        self._first_line_s = first_line_s
        self.began_s = 0.0
        self._tally = Tally()
        self._lock = threading.Lock()  # of the tally
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __call__(self, event: RunEvent) -> None:
        """Take note of an event."""
        with self._lock:
            self._tally.take(event, time.monotonic())
        kind = type(event)
        if kind is RunStarted:
            self._start()
        elif kind is RunEnded:
            self._end()

    def view(self) -> View:
        """The run as it stands."""
        with self._lock:
            return self._tally.view(time.monotonic())

    def printed(self) -> list[str]:
        """The lines that kernels printed since this was last asked."""
        with self._lock:
            return self._tally.printed()

    def _start(self) -> None:
        self.began_s = time.monotonic()
        thread = threading.Thread(target=self._show, name="fanout progress", daemon=True)
        # Without a thread (the system has no more) nothing is shown.
        with contextlib.suppress(RuntimeError):
            thread.start()
            self._thread = thread

    def _end(self) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _show(self) -> None:
        """Show the run until it ends; the thread's body."""
        stderr = sys.stderr
        if stderr is None:  # pythonw.exe
            return
        file = _SafeFile(stderr)
        if self._ended.wait(self._quiet_s):
            file.lines(self.printed())
        elif _in_notebook():
            self._show_in_notebook(file)
        elif not _is_lively(file) or not _TERMINAL.attach(self, file):
            self._show_as_lines(file)
        else:
            try:
                while not self._ended.wait(_FRAME_S):
                    _TERMINAL.draw(self)
            finally:
                _TERMINAL.detach(self)

    def _show_in_notebook(self, file: _SafeFile) -> None:
        cell = _Cell()
        is_ended = False
        while not is_ended:
            file.lines(self.printed())
            cell.draw(blocks([self.view()], _NOTEBOOK_CELLS)[0])
            is_ended = self._ended.wait(_CELL_FRAME_S)
        file.lines(self.printed())
        cell.draw([summary(self.view())])

    def _show_as_lines(self, file: _SafeFile) -> None:
        due_s = self._first_line_s
        pause_s, longest_s = _PAUSES_S
        is_shown = False
        while not self._ended.wait(_POLL_S):
            file.lines(self.printed())
            view = self.view()
            if view.elapsed_s >= due_s:
                file.lines([plain(view)])
                is_shown = True
                due_s = view.elapsed_s + pause_s
                pause_s = min(longest_s, pause_s * _PAUSE_GROWTH)
        file.lines(self.printed())
        if is_shown:
            file.lines(["fanout: " + "".join(text for text, _ in summary(self.view()))])


class _SafeFile:
    """A file of which writing always succeeds: who closed stderr does not wait for us."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    @property
    def encoding(self) -> str:
        return getattr(self._file, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            self._file.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self._file.flush()

    def isatty(self) -> bool:
        try:
            return self._file.isatty()
        except (OSError, ValueError, AttributeError):
            return False

    def fileno(self) -> int:
        return self._file.fileno()

    def lines(self, lines: Sequence[str]) -> None:
        """Write whole lines, all at once."""
        if lines:
            self.write("".join(f"{line}\n" for line in lines))
            self.flush()


class _Terminal:
    """The terminal, shared by all runs that are shown on it at a time.

    Runs stand one above the other; the first one draws for all. What kernels print, and the last
    line of each run, goes above them and stays. A frame is one write, with the cursor hidden only
    meanwhile and left on an empty line of its own: whatever kills the process, at whatever moment,
    the terminal is sane and the prompt has its line.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: list[Progress] = []
        self._live: Live | None = None
        self._lengths: list[int] = []  # of the lines on the screen
        self._redirected: dict[str, tuple[TextIO, TextIO]] = {}

    def attach(self, run: Progress, file: _SafeFile) -> bool:
        """Show a run; False if somebody else's live display has the terminal."""
        with self._lock:
            if self._live is None:
                if any(hasattr(stream, "rich_proxied_file") for stream in (sys.stdout, sys.stderr)):
                    return False  # the program draws by rich itself
                self._open(file)
            self._runs.append(run)
            self._runs.sort(key=lambda run: run.began_s)
            return True

    def draw(self, run: Progress) -> None:
        """Show what is new."""
        lines = _printed(run)
        with self._lock:
            if self._live is not None and (lines or run is self._runs[0]):
                with self._frame(self._live):
                    self._print(self._live, lines)

    def detach(self, run: Progress) -> None:
        """Leave the run's last line, and nothing else of it."""
        lines = _printed(run)
        view = run.view()
        with self._lock:
            self._runs.remove(run)
            if self._live is None:
                return
            with self._frame(self._live):
                self._print(self._live, [*lines, summary(view, self._live.console.width)])
                if not self._runs:
                    self._close()

    def _open(self, file: _SafeFile) -> None:
        from rich.console import Console
        from rich.live import Live

        console = Console(
            file=cast("TextIO", file),
            force_terminal=True,
            force_interactive=True,
            force_jupyter=False,
            soft_wrap=True,
            markup=False,
            highlight=False,
            emoji=False,
        )
        live = Live(
            console=console,
            get_renderable=lambda: self._picture(console),
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        with console:
            live.start()
            console.show_cursor(True)
        self._live = live
        self._redirect(console)
        atexit.register(self._exit)

    def _close(self) -> None:
        if self._live is not None:
            self._restore()
            live, self._live = self._live, None
            live.stop()
            atexit.unregister(self._exit)

    def _redirect(self, console: Console) -> None:
        """Lead what this process prints above the runs.

        rich can do that, too, but it also redirects a stdout that is a file, and undoes what the
        program itself has redirected meanwhile.
        """
        from rich.file_proxy import FileProxy

        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is not None and _SafeFile(stream).isatty():
                proxy = cast("TextIO", FileProxy(console, stream))
                self._redirected[name] = (stream, proxy)
                setattr(sys, name, proxy)

    def _restore(self) -> None:
        for name, (stream, proxy) in self._redirected.items():
            proxy.flush()  # a line that was begun
            if getattr(sys, name) is proxy:
                setattr(sys, name, stream)
        self._redirected.clear()

    def _exit(self) -> None:
        """The process ends while a run still goes on."""
        with self._lock:
            self._close()

    @contextlib.contextmanager
    def _frame(self, live: Live) -> Iterator[None]:
        with live.console as console:
            console.show_cursor(False)
            self._unfold(console)
            yield
            console.show_cursor(True)

    def _unfold(self, console: Console) -> None:
        """Erase rows that rich doesn't know of: narrowed, a terminal folds the lines it shows."""
        from rich.control import Control
        from rich.segment import ControlType

        width = max(1, console.width)
        folds = sum((length - 1) // width for length in self._lengths if length)
        if folds and not _CUTTERS & os.environ.keys():
            erase = (ControlType.ERASE_IN_LINE, 2)
            console.control(Control(erase, *((ControlType.CURSOR_UP, 1), erase) * folds))

    def _print(self, live: Live, lines: Sequence[list[Part]]) -> None:
        """Redraw the runs, and put lines above them."""
        from rich.text import Text

        live.refresh()
        if lines:
            live.console.print(Text("\n").join(_text(line) for line in lines))

    def _picture(self, console: Console) -> Group:
        from rich.console import Group
        from rich.text import Text

        width, height = console.size
        is_ascii = console.options.ascii_only
        shown = blocks([run.view() for run in self._runs], width, is_ascii=is_ascii)
        if sum(len(lines) for lines in shown) > height - 2:
            shown = [lines[:1] for lines in shown]
        lines = [line for lines in shown for line in lines][: max(1, height - 2)]
        self._lengths = [sum(len(text) for text, _ in line) for line in lines]
        return Group(*(_text(line) for line in lines), Text())


# A process has one terminal, so this, alone here, is shared by all runs of the process.
_TERMINAL: Final = _Terminal()


class _Cell:
    """A place in a notebook, drawn over through IPython: rich's Live would need ipywidgets."""

    def __init__(self) -> None:
        self._handle: Any = None

    def draw(self, lines: Sequence[list[Part]]) -> None:
        """Show these lines and no others."""
        from IPython.display import display

        text = "\n".join("".join(text for text, _ in line) for line in lines)
        page = "\n".join("".join(_html(part) for part in line) for line in lines)
        data = {"text/plain": text, "text/html": f'<pre style="line-height:1.2">{page}</pre>'}
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(data, raw=True)


def _printed(run: Progress) -> list[list[Part]]:
    words = [line.partition(" ") for line in run.printed()]  # the first one is the task's index
    return [[(first + space, "dim"), (rest, "")] for first, space, rest in words]


def _text(line: Iterable[Part]) -> Text:
    from rich.text import Text

    return Text.assemble(*line, no_wrap=True, overflow="ellipsis")


def _html(part: Part) -> str:
    text, style = part
    return f'<span style="{_CSS[style]}">{html.escape(text)}</span>' if style else html.escape(text)


def _is_lively(file: _SafeFile) -> bool:
    """Whether what was written to it can be written over."""
    return file.isatty() and os.environ.get("TERM", "").lower() not in {"dumb", "unknown"}


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None
