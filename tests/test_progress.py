"""What is counted of a run, how it is said, and that showing it never disturbs anybody."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import textwrap
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from fanout.errors import TaskTimeoutError
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
from fanout.layout import _count, _duration, _left, _speed, blocks, plain, summary
from fanout.progress import Progress, _text
from fanout.retry import Failure, FailureKind
from fanout.tally import Tally, View
from fanout.tasks import Outcome
from tests.scheduler_checks import report_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fanout.events import RunEvent
    from fanout.layout import Part

CRASH = Failure(kind=FailureKind.CRASHED, detail="was killed by SIGKILL")


def started(total: int | None = None, *, concurrency: int = 2, kernel: str = "rows") -> RunStarted:
    return RunStarted(
        run="r", kernel=kernel, backend="local, 2 workers", concurrency=concurrency, total=total
    )


def ok(*indices: int) -> list[Outcome[Any]]:
    return [Outcome(index) for index in indices]


def bad(index: int, error: Exception) -> Deliver:
    return Deliver([Outcome(index, error=error)])


def tally(*events: RunEvent | float) -> Tally:
    """Events, with the time in seconds at which those behind it happen."""
    made = Tally()
    now_s = 0.0
    for event in events:
        if isinstance(event, int | float):
            now_s = event
        else:
            made.take(event, now_s)
    return made


def steady(per_s: float, tasks: int, *, total: int | None) -> Tally:
    """A run in which single tasks are done at a constant speed, the last one just now."""
    made = tally(started(total), Offered(0, tasks))
    for index in range(tasks):
        made.take(Launch(index, [index]), index / per_s)
        made.take(AttemptStarted(index), index / per_s)
        now_s = (index + 1) / per_s
        made.take(AttemptAnswered(index, ok(index), None), now_s)
        made.take(Deliver(ok(index)), now_s)
    return made


def text_of(lines: Iterable[Sequence[Part]]) -> list[str]:
    return ["".join(text for text, _ in line).rstrip() for line in lines]


def block(view: View, width: int = 80, *, is_ascii: bool = False) -> list[str]:
    return text_of(blocks([view], width, is_ascii=is_ascii)[0])


# ---- counting ----


def test_every_task_is_counted_where_it_is() -> None:
    view = tally(
        started(10),
        Offered(0, 8),
        Launch(0, [0, 1, 2]),
        AttemptStarted(0),
        Launch(1, [3, 4]),
        AttemptStarted(1),
        AttemptAnswered(0, ok(0, 1, 2), None),
        Deliver(ok(0, 1, 2)),
    ).view(1.0)
    assert (view.total, view.done, view.running, view.waiting, view.in_flight) == (10, 3, 2, 5, 1)


def test_an_attempt_that_no_worker_has_yet_is_not_in_flight() -> None:
    view = tally(started(5), Offered(0, 5), Launch(0, [0, 1])).view(1.0)
    assert (view.running, view.waiting, view.in_flight) == (0, 5, 0)


@pytest.mark.parametrize("end", [AttemptFailed(0, CRASH), Ignore(0), AttemptAnswered(0, [], None)])
def test_an_attempt_is_in_flight_until_it_ends_whatever_the_end(end: RunEvent) -> None:
    made = tally(started(5), Offered(0, 5), Launch(0, [0, 1]), AttemptStarted(0))
    assert made.view(1.0).in_flight == 1
    made.take(end, 1.0)
    made.take(AttemptStarted(0), 1.0)  # too late
    made.take(end, 1.0)
    assert (made.view(1.0).in_flight, made.view(1.0).running) == (0, 0)


def test_the_total_is_known_once_the_input_has_ended() -> None:
    made = tally(started(None), Offered(0, 7))
    assert made.view(1.0).total is None
    made.take(InputEnded(), 1.0)
    assert made.view(1.0).total == 7


@pytest.mark.parametrize(("announced", "given"), [(3, 7), (9, 7)])
def test_an_input_that_lies_about_its_length_is_counted_right(announced: int, given: int) -> None:
    made = tally(started(announced), Offered(0, given))
    assert made.view(1.0).total == max(announced, given)
    made.take(InputEnded(), 1.0)
    assert made.view(1.0).total == given


def test_retries_are_counted_by_task() -> None:
    view = tally(
        started(5), Retry((0, 1, 2), CRASH, 0.0), Retry((0,), CRASH, 0.5), bad(0, OSError("no"))
    ).view(1.0)
    assert (view.retried, view.failed, view.done) == (4, 1, 1)
    assert view.causes == ("4x crashed: was killed by SIGKILL",)
    assert view.errors == ("1x OSError: no",)


def test_a_run_is_complete_only_if_all_of_its_input_was_delivered() -> None:
    events: list[RunEvent] = [started(2), Offered(0, 2), Deliver(ok(0)), InputEnded()]
    assert not tally(*events, Finish(), RunEnded()).view(1.0).is_complete
    assert tally(*events, Deliver(ok(1)), Finish(), RunEnded()).view(1.0).is_complete


def test_time_stands_still_once_the_run_has_ended() -> None:
    made = tally(10.0, started(1), Offered(0, 1), 12.5, Deliver(ok(0)), RunEnded())
    assert made.view(99.0) == made.view(12.5)
    assert made.view(99.0).elapsed_s == 2.5


def test_a_tally_can_be_viewed_before_the_run() -> None:
    view = Tally().view(5.0)
    assert (view.elapsed_s, view.total, view.left_s) == (0.0, None, None)


# ---- speed and time left ----


def test_time_left_follows_from_the_speed() -> None:
    view = steady(10, 50, total=150).view(5.0)
    assert view.per_s == pytest.approx(10)
    assert view.left_s == pytest.approx(10)


def test_time_left_is_unknown_without_a_total_or_a_done_task() -> None:
    assert steady(10, 50, total=None).view(5.0).left_s is None
    assert tally(started(5), Offered(0, 5)).view(3.0).left_s is None


def test_speed_forgets_a_slow_start() -> None:
    """A kernel that compiles for a minute is as fast afterwards as it is then."""
    made = tally(0.0, started(None), Offered(0, 400), 60.0)
    for index in range(400):
        made.take(Deliver(ok(index)), 60.0 + (index + 1) / 20)
    assert made.view(80.0).per_s == pytest.approx(20, rel=0.1)


def test_speed_spans_rounds_of_long_tasks() -> None:
    """Two workers, a minute per task: the speed is not 0 in the 59 seconds between two answers."""
    made = tally(started(100), Offered(0, 100))
    for minute in range(1, 21):
        made.take(Deliver(ok(2 * minute, 2 * minute + 1)), 60.0 * minute)
    for now_s in (1200.0, 1230.0, 1259.0):
        assert made.view(now_s).per_s == pytest.approx(2 / 60, rel=0.2)


def test_speed_of_an_ended_run_is_that_of_all_of_it() -> None:
    made = tally(started(10), Offered(0, 10), 9.0, Deliver(ok(*range(10))), 20.0, RunEnded())
    assert made.view(50.0).per_s == pytest.approx(0.5)


def test_the_story_of_a_run_of_any_length_has_few_stretches() -> None:
    """Means over time are kept: an attempt in flight half of the time is half an attempt."""
    made = tally(started(None))
    for number in range(5000):
        made.take(Launch(number, [number]), 17.0 * number)
        made.take(AttemptStarted(number), 17.0 * number)
        made.take(AttemptFailed(number, CRASH), 17.0 * number + 8.5)
    levels = made.view(17.0 * 5000).levels
    assert 32 <= len(levels) <= 64
    assert sum(levels) / len(levels) == pytest.approx(0.5, rel=0.02)


def test_a_silent_day_is_one_step() -> None:
    made = tally(started(1), Launch(0, [0]), AttemptStarted(0))
    levels = made.view(86_400.0).levels
    assert 32 <= len(levels) <= 64
    assert set(levels) == {1.0}


# ---- errors ----


def test_errors_that_differ_only_in_numbers_are_one() -> None:
    made = tally(*(bad(n, ValueError(f"bad chunk {n} at 0x7f{n:x}")) for n in range(3)))
    assert made.view(1.0).errors == ("3x ValueError: bad chunk # at #",)


def test_an_error_keeps_its_numbers_if_they_never_differ() -> None:
    made = tally(bad(0, ValueError("needs 3 columns")), bad(1, ValueError("needs 3 columns")))
    assert made.view(1.0).errors == ("2x ValueError: needs 3 columns",)


def test_errors_of_tasks_are_shown_without_the_index() -> None:
    made = tally(*(bad(n, TaskTimeoutError(n, 5.0, 1)) for n in range(2)))
    (text,) = made.view(1.0).errors
    assert text.startswith("2x TaskTimeoutError: still running after 5 s")


def test_the_most_frequent_errors_come_first_and_are_three() -> None:
    errors = [KeyError("a"), *[OSError("b")] * 3, *[ValueError("c")] * 2, TypeError("d")]
    made = tally(*(bad(n, error) for n, error in enumerate(errors)))
    assert made.view(1.0).errors == ("3x OSError: b", "2x ValueError: c", "1x KeyError: 'a'")


def test_an_error_without_a_text_is_shown_by_its_name() -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    made = tally(bad(0, MuteError()), bad(1, ValueError()))
    assert set(made.view(1.0).errors) == {"1x MuteError", "1x ValueError"}


def test_an_error_is_one_short_line() -> None:
    made = tally(bad(0, ValueError("\x1b[31mfirst\x07\nsecond")), bad(1, OSError("x" * 10_000)))
    long, short = sorted(made.view(1.0).errors, key=len, reverse=True)
    assert short == "1x ValueError: first"
    assert len(long) < 250


def test_countless_kinds_of_errors_take_little_memory() -> None:
    names = (f"{chr(97 + n % 26)}{chr(97 + n // 26 % 26)}{chr(97 + n // 676)}" for n in range(3000))
    made = tally(*(bad(n, ValueError(name)) for n, name in enumerate(names)))
    assert made.view(1.0).failed == 3000
    assert len(made._errors._texts) == 1000


# ---- what kernels print ----


def printed(stdout: str = "", stderr: str = "", index: int = 17) -> list[str]:
    return tally(Deliver([Outcome(index, stdout=stdout, stderr=stderr)])).printed()


def test_what_a_kernel_prints_is_shown_with_its_task() -> None:
    assert printed("one\ntwo\n") == ["[17] one", "[17] two"]
    assert printed("", "careful\n") == ["[17] careful"]
    assert printed("out\n", "err\n") == ["[17] out", "[17] err"]
    assert printed("a\n\nb\n\n\n") == ["[17] a", "[17] ", "[17] b"]


def test_what_a_kernel_prints_can_not_move_the_cursor() -> None:
    assert printed("\x1b[2J\x1b[1;31mred\x1b[0m\x1b]0;title\x07\n") == ["[17] red"]
    assert printed("10%\r20%\r100%\r\n") == ["[17] 100%"]
    assert printed("a\tb\x08\x0c\x9b\n") == ["[17] a       b"]


def test_lines_are_given_away_once() -> None:
    made = tally(Deliver([Outcome(0, stdout="hello\n")]))
    assert made.printed() == ["[0] hello"]
    assert made.printed() == []


def test_a_thousand_lines_are_enough() -> None:
    flood = Deliver([Outcome(n, stdout="line\n" * 300) for n in range(9)])
    lines = tally(flood, flood).printed()
    assert len(lines) == 1001
    assert "more than 1000 lines" in lines[-1]
    assert "Outcome.stdout" in lines[-1]


# ---- words ----


@pytest.mark.parametrize(
    ("per_s", "text"),
    [
        (0, "0/s"),
        (12345.6, "12,346/s"),
        (412.3, "412/s"),
        (41.4, "41/s"),
        (9.96, "10/s"),
        (4.24, "4.2/s"),
        (0.5, "30/min"),
        (1 / 60, "1.0/min"),
        (1 / 120, "30/h"),
        (1 / 36000, "0.1/h"),
    ],
)
def test_a_speed_is_a_number_that_people_can_imagine(per_s: float, text: str) -> None:
    assert _speed(per_s) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.64, "0.6 s"),
        (9.97, "10 s"),
        (48.3, "48 s"),
        (59.7, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (3725, "1 h 2 min"),
        (90_000, "25 h"),
    ],
)
def test_a_duration_has_two_units_at_most(seconds: float, text: str) -> None:
    assert _duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "about 1 s left"),
        (8.5, "about 9 s left"),
        (36.2, "about 40 s left"),
        (75, "about 1 min 30 s left"),
        (700, "about 12 min left"),
        (4000, "about 1 h 10 min left"),
    ],
)
def test_an_estimate_does_not_pretend_to_be_precise(seconds: float, text: str) -> None:
    assert _left(seconds) == text


def test_large_numbers_have_commas() -> None:
    assert [_count(n) for n in (2000, 9999, 10_000, 1_234_567)] == [
        "2000",
        "9999",
        "10,000",
        "1,234,567",
    ]


def eventful() -> View:
    made = steady(40, 412, total=2000)
    for index in range(3):
        made.take(bad(500 + index, ValueError(f"bad chunk {index}")), 10.4)
    made.take(Retry(tuple(range(12)), Failure(kind=FailureKind.TIMED_OUT), 0.0), 10.4)
    for number in (901, 902):
        made.take(Launch(number, [number]), 10.4)
        made.take(AttemptStarted(number), 10.4)
    return made.view(10.5)


def test_a_line_of_a_log() -> None:
    assert plain(steady(41, 410, total=2000).view(10.0)) == (
        "fanout: rows on local, 2 workers: 410 of 2000 tasks, 41/s, about 40 s left"
    )
    assert plain(eventful()) == (
        "fanout: rows on local, 2 workers: 415 of 2000 tasks, 3 failed, 12 retried, 40/s, "
        "about 45 s left"
    )


def test_a_line_of_a_log_without_a_total() -> None:
    assert plain(steady(41, 410, total=None).view(10.0)) == (
        "fanout: rows on local, 2 workers: 410 tasks, 41/s"
    )


def test_a_run_that_is_being_stopped_says_so() -> None:
    made = steady(41, 410, total=2000)
    made.take(Cancelled(), 10.0)
    assert plain(made.view(10.0)).endswith(", 41/s, stopping")
    assert "stopping" in block(made.view(10.0))[2]


def test_the_last_line_of_a_run() -> None:
    made = steady(40, 400, total=400)
    made.take(InputEnded(), 10.0)
    made.take(RunEnded(), 10.0)
    assert text_of([summary(made.view(10.0))]) == [
        "rows on local, 2 workers: 400 tasks in 10 s, 40/s"
    ]


def test_the_last_line_of_a_run_that_was_stopped() -> None:
    made = tally(started(20), Offered(0, 9), Deliver(ok(0)), bad(1, OSError("full")), 4.0)
    made.take(RunEnded(KeyboardInterrupt()), 4.0)
    assert text_of([summary(made.view(4.0))]) == [
        "rows on local, 2 workers: stopped after 2 of 20 tasks in 4 s, 1 failed, 30/min, "
        "1x OSError: full"
    ]


def test_the_last_line_of_a_run_loses_its_end_first() -> None:
    view = eventful()
    for width in range(1, 120):
        (line,) = text_of([summary(view, width)])
        assert len(line) < max(width, 2)
        assert width < 60 or "3 failed" in line
    assert text_of([summary(view, 40)]) == ["stopped after 415 of 2000 tasks in 10 s"]


def test_a_kernel_goes_by_its_own_name() -> None:
    view = tally(started(1, kernel="main.<locals>.Model.<locals>.fit"), RunEnded()).view(1.0)
    assert text_of([summary(view)])[0].startswith("fit on local")


# ---- why nothing happens ----


def throttled(view_s: float) -> View:
    """A run that is throttled since its first second, as it stands then."""
    failure = Failure(kind=FailureKind.THROTTLED, reason="ConcurrentInvocationLimitExceeded")
    refused = (Launch(0, [0]), AttemptStarted(0), AttemptFailed(0, failure))
    return tally(started(5), Offered(0, 5), 1.0, *refused, Retry([0], failure, 9.0)).view(view_s)


def test_a_run_that_stalls_shows_the_first_cause_and_what_to_do() -> None:
    said = "\n".join(block(throttled(20.0), 120))
    assert "stalled: throttled, the account's concurrency is used up (5 tasks waiting" in said
    assert "see what else runs in this account and region" in said
    assert "stalled, throttled, the account's concurrency is used up" in plain(throttled(20.0))
    assert all(len(line) < 60 for line in block(throttled(20.0), 60))


def test_a_run_that_does_not_stall_shows_no_cause() -> None:
    assert "stalled" not in "\n".join(block(throttled(5.0))) + plain(throttled(5.0))
    ended = tally(started(5), Offered(0, 5), Launch(0, [0]), 99.0, RunEnded(ValueError()))
    assert ended.view(99.0).findings == ()


def test_causes_are_looked_for_once_a_second() -> None:
    made = tally(started(5), Offered(0, 5), Launch(0, [0]))
    findings = made.view(20.0).findings
    assert made.view(20.5).findings is findings
    assert made.view(21.5).findings != findings
    made.take(Deliver(ok(0)), 21.6)
    assert made.view(21.7).findings == ()


# ---- what numba compiled ----


def compiled(
    *compile_s: float, total: int = 20, is_compiled_there: bool = True, is_over: bool = False
) -> View:
    """A run in which each environment has answered once, and compiled so long."""
    begun = replace(started(total), is_compiled_there=is_compiled_there)
    made = tally(begun, Offered(0, total))
    for number, seconds in enumerate(compile_s):
        report = report_of(number, total_s=9.0, compile_s=seconds, environment=f"e{number}")
        made.take(Launch(number, [number]), 0.0)
        made.take(AttemptStarted(number), 0.0)
        made.take(AttemptAnswered(number, ok(number), report), 2.0)
        made.take(Deliver(ok(number)), 2.0)
    if is_over:
        made.take(InputEnded(), 2.0)
        made.take(RunEnded(), 2.0)
    return made.view(2.0)


def test_environments_that_compiled_are_counted_once_each() -> None:
    again = report_of(7, total_s=1.0, compile_s=0.25, environment="a")
    idle = report_of(8, total_s=1.0, environment="b")
    made = tally(started(9), *(AttemptAnswered(7, [], report) for report in (again, again, idle)))
    assert (made.view(1.0).compiled, made.view(1.0).compile_s) == (1, 0.5)


def test_how_long_they_compiled_is_what_one_of_them_took() -> None:
    assert compiled(1.2, 1.3, 30.0).compile_s == 1.3
    assert compiled(0.0).compile_s == 0.0


def test_that_a_kernel_will_be_compiled_is_told_until_the_first_answer() -> None:
    assert compiled().is_compiled_there
    assert not compiled(1.0).is_compiled_there
    assert not compiled(0.0).is_compiled_there
    assert not compiled(is_compiled_there=False).is_compiled_there


@pytest.mark.parametrize(
    ("view", "text"),
    [
        (compiled(), "numba compiles the kernel once in each environment"),
        (compiled(1.3), "numba compiled in 1 environment, 1.3 s"),
        (compiled(1.3, 1.3, 1.4, 0.0), "numba compiled in 3 environments, 1.3 s each"),
        (compiled(0.01, 0.01), None),
        (compiled(is_compiled_there=False), None),
    ],
)
def test_what_numba_does_has_a_line_of_its_own(view: View, text: str | None) -> None:
    lines = block(view)
    assert len(lines) == (3 if text is None else 4)
    assert text is None or lines[3].strip() == text
    assert plain(view).endswith(f", {text}" if text else (" tasks", " left")[view.done > 0])


def test_the_last_line_tells_what_numba_did_and_gives_up_the_backend_for_it() -> None:
    view = compiled(1.3, 1.3, total=2, is_over=True)
    assert text_of([summary(view), summary(view, 80), summary(view, 60)]) == [
        "rows on local, 2 workers: 2 tasks in 2 s, 1.0/s, "
        "numba compiled in 2 environments, 1.3 s each",
        "rows: 2 tasks in 2 s, 1.0/s, numba compiled in 2 environments, 1.3 s each",
        "rows on local, 2 workers: 2 tasks in 2 s, 1.0/s",
    ]


def test_a_run_that_was_stopped_before_it_began_does_not_tell_what_it_would_have_compiled() -> None:
    assert "numba" not in text_of([summary(compiled(is_over=True))])[0]


# ---- layout ----


def test_the_display_at_80_columns() -> None:
    assert block(eventful()) == [
        "rows      ━━━━━━━━━━───────────────────────────────────────   415 of 2000   20%",
        "40/s      ▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄         2 of 2 in flight",
        "0:10      about 45 s left, 3 failed, 12 retried, 2 running, 1583 waiting",
        "          3x ValueError: bad chunk #",
        "          12x timed out, retried",
    ]


def test_the_display_without_a_total() -> None:
    assert block(steady(40, 400, total=None).view(10.0)) == [
        "rows      ────────────────────────────────────────━━━━───────  400 done",
        "40/s      ▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄             0 of 2 in flight",
        "0:10      0 running",
    ]


def test_the_display_where_there_is_only_ascii() -> None:
    lines = block(eventful(), is_ascii=True)
    assert lines[0].startswith("rows      ==========----")
    assert "".join(lines).isascii()


@pytest.mark.parametrize("width", [200, 80, 60, 40, 24, 12, 5, 1])
@pytest.mark.parametrize("total", [None, 2000, 10_000_000])
def test_no_line_is_wider_than_the_terminal(width: int, total: int | None) -> None:
    made = steady(40, 400, total=total)
    made.take(bad(500, ValueError("long " * 50)), 10.0)
    made.take(Retry((1,), CRASH, 0.0), 10.0)
    lines = blocks([made.view(10.0)], width)[0]
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    for line in lines:
        assert sum(len(text) for text, _ in line) < max(width, 2)
        console.print(_text(line))
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().count("\n") == len(lines) == 5


@pytest.mark.parametrize("width", [60, 40])
def test_a_narrow_display_keeps_what_matters(width: int) -> None:
    lines = block(eventful(), width)
    assert "415 of 2000   20%" in lines[0]
    assert "2 of 2 in flight" in lines[1]
    assert "about 45 s left, 3 failed" in lines[2]
    assert not lines[2].endswith("...")


def test_columns_stay_where_they_are_during_a_run() -> None:
    made = tally(started(1000, concurrency=100), Offered(0, 1000))
    seen = set()
    for index in range(1000):
        made.take(Launch(index, [index]), index / 7)
        made.take(AttemptStarted(index), index / 7)
        made.take(AttemptAnswered(index, [], None), (index + 1) / 7)
        made.take(Deliver(ok(index)), (index + 1) / 7)
        view = made.view((index + 1) / 7)
        bar, history, _ = blocks([view], 80)[0]
        seen.add((len(bar[0][0]), len(bar[1][0] + bar[2][0]), len(history[1][0])))
    assert len(seen) == 1


def test_two_runs_have_the_same_columns() -> None:
    one = steady(40, 40, total=400).view(1.0)
    other = tally(started(1_000_000, kernel="accumulate_all"), Offered(0, 10)).view(1.0)
    first, second = blocks([one, other], 80)
    for column in range(3):  # the label, the bar's two halves
        ends = [sum(len(text) for text, _ in run[0][: column + 1]) for run in (first, second)]
        assert column == 1 or ends[0] == ends[1]


def test_the_history_shows_where_workers_were_idle() -> None:
    made = tally(started(9, concurrency=4))
    for number in range(4):
        made.take(Launch(number, [number]), 0.0)
        made.take(AttemptStarted(number), 0.0)
    for number in range(4):
        made.take(AttemptFailed(number, CRASH), 2.0 + number)
    history = block(made.view(8.0))[1]
    assert history.split()[1] == "████████▆▆▆▆▄▄▄▄▂▂▂▂"


# ---- showing it ----


def quick(**options: float) -> Progress:
    return Progress(**{"quiet_s": 0.0, "first_line_s": 0.0, **options})


def test_a_short_run_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress()
    for event in (started(1), Offered(0, 1), Deliver(ok(0)), InputEnded(), RunEnded()):
        progress(event)
    assert capsys.readouterr() == ("", "")


def test_what_a_short_run_prints_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress()
    for event in (started(1), Deliver([Outcome(3, stdout="hello\n")]), RunEnded()):
        progress(event)
    assert capsys.readouterr() == ("", "[3] hello\n")


def test_no_thread_is_left_behind() -> None:
    before = set(threading.enumerate())
    for error in (None, ValueError("no"), KeyboardInterrupt()):
        progress = quick()
        progress(started(1))
        progress(RunEnded(error))
    assert set(threading.enumerate()) == before


class Refusing(io.StringIO):
    """A stderr that nobody reads any more."""

    def write(self, text: str, /) -> int:
        raise BrokenPipeError

    def flush(self) -> None:
        raise BrokenPipeError

    def isatty(self) -> bool:
        raise ValueError("I/O operation on closed file")


@pytest.mark.parametrize("stderr", [None, Refusing()])
def test_a_stderr_that_can_not_be_written_to_disturbs_nobody(
    stderr: io.StringIO | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", stderr)
    for quiet_s in (0.0, 10.0):
        progress = quick(quiet_s=quiet_s)
        for event in (started(1), Deliver([Outcome(0, stdout="hello\n")]), RunEnded()):
            progress(event)
        assert progress.view().done == 1


SCRIPT = """
import asyncio, sys
import fanout
from fanout.progress import Progress

def rows(n):
    import time
    time.sleep(0.05)
    if n % 10 == 7:
        raise ValueError(f"bad chunk {n}")
    if n == 3:
        print("hello")
    return n

async def main(count, **options):
    return await fanout.map(
        rows, range(count), backend=fanout.Local(2), return_exceptions=True, **options
    )
"""


def run_script(code: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT + textwrap.dedent(code)],
        timeout=30,
        check=False,
        text=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )


def test_a_log_gets_whole_lines_now_and_then() -> None:
    done = run_script("""
        progress = Progress(quiet_s=0.1, first_line_s=0.4)
        print(len(asyncio.run(main(40, progress=False, on_event=progress))))
    """)
    assert (done.returncode, done.stdout) == (0, "40\n")
    *going, last = done.stderr.splitlines()
    going.remove("[3] hello")
    assert going
    assert all(line.startswith("fanout: rows on local, 2 workers: ") for line in going)
    assert all(" of 40 tasks" in line for line in going)
    assert last.startswith("fanout: rows on local, 2 workers: 40 tasks in ")
    assert ", 4 failed, " in last
    assert last.endswith(", 4x ValueError: bad chunk #")


def test_a_short_run_costs_no_import_of_rich() -> None:
    done = run_script("""
        asyncio.run(main(4, progress=True))
        sys.exit("rich" in sys.modules)
    """)
    assert (done.returncode, done.stderr) == (0, "[3] hello\n")


def test_a_log_costs_no_import_of_rich() -> None:
    done = run_script("""
        asyncio.run(main(10, progress=False, on_event=Progress(quiet_s=0, first_line_s=0)))
        sys.exit("rich" in sys.modules)
    """)
    assert done.returncode == 0
    assert " tasks in " in done.stderr


def test_a_reader_of_stderr_who_left_does_not_end_the_run() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = run_script(
        """
        progress = Progress(quiet_s=0.1, first_line_s=0)
        print(len(asyncio.run(main(10, progress=False, on_event=progress))))
        """,
        stderr=writing,
    )
    os.close(writing)
    assert (done.returncode, done.stdout) == (0, "10\n")


def test_a_closed_stderr_does_not_end_the_run() -> None:
    done = run_script("""
        sys.stderr.close()
        progress = Progress(quiet_s=0.1, first_line_s=0)
        print(len(asyncio.run(main(10, progress=False, on_event=progress))))
    """)
    assert (done.returncode, done.stdout) == (0, "10\n")
