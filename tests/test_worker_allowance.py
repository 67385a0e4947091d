"""A worker that has to see to its own limits: of time, and of room in its reply."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fanout.errors import ResultError, TaskTimeoutError
from fanout.events import AttemptAnswered
from fanout.kernel_spec import prepare
from fanout.lambda_wire import reply_body, reply_parts
from fanout.request import Request, build
from fanout.retry import FailureKind
from fanout.stopping import Allowance, StoppedError, Stopper
from fanout.worker import Worker
from tests.worker_checks import answer_of, journey, request_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fanout.wire import Message


def answered(
    kernel: Callable[[Any], Any],
    chunks: Sequence[Any],
    *,
    timeout_s: float | None = None,
    left_s: float = 60.0,
    reply_bytes: int = 2**20,
) -> AttemptAnswered:
    numbered = dict(enumerate(chunks))
    run = Request(kernel=prepare(kernel), timeout_s=timeout_s)
    request, sent, _ = build(run, list(numbered), numbered)
    allowance = Allowance(
        until_s=time.perf_counter() + left_s, service_s=left_s, reply_bytes=reply_bytes
    )
    reply = Worker().run(journey(request.message()), allowance)
    answer = answer_of(reply, len(sent))
    assert isinstance(answer, AttemptAnswered), answer
    return answer


def scripted(script: str, *, within_s: int) -> subprocess.CompletedProcess[str]:
    """What comes of a Python process that may be ended by its watchdog."""
    command = [sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, timeout=within_s, check=False)


def hang_on_three(chunk: int) -> int:
    while chunk == 3:
        time.sleep(0.001)
    return chunk


def stubborn(chunk: int) -> str:
    try:
        hang_on_three(3)
    except Exception:
        return "caught"
    return "never"


def zeros(count: int) -> np.ndarray[Any, Any]:
    return np.zeros(count, np.uint8)


def big_error(count: int) -> None:
    raise ValueError("x" * count)


def chatty(count: int) -> int:
    print("x" * count)
    return count


# ---- time ----


def test_a_task_past_its_time_is_stopped_and_the_others_are_not() -> None:
    answer = answered(hang_on_three, range(6), timeout_s=0.05)
    assert [outcome.value for outcome in answer.outcomes] == [0, 1, 2, None, 4, 5]
    late = answer.outcomes[3]
    assert isinstance(late.error, TaskTimeoutError)
    assert late.error.timeout_s == 0.05
    assert "raise timeout_s" in str(late.error)
    assert late.failure is not None
    assert late.failure.kind is FailureKind.TIMED_OUT
    assert not answer.left


def test_where_a_task_hung_is_in_its_traceback() -> None:
    (outcome,) = answered(hang_on_three, [3], timeout_s=0.05).outcomes
    assert outcome.error is not None
    (note,) = outcome.error.__notes__
    assert "in hang_on_three" in note
    assert "task_run" not in note.partition("hang_on_three")[0]


def test_except_exception_in_a_kernel_does_not_keep_it_running() -> None:
    (outcome,) = answered(stubborn, [3], timeout_s=0.05).outcomes
    assert isinstance(outcome.error, TaskTimeoutError)


def test_a_task_that_the_functions_own_timeout_ends_says_so() -> None:
    (outcome,) = answered(hang_on_three, [3], left_s=0.1).outcomes
    assert isinstance(outcome.error, TaskTimeoutError)
    assert "the function's own timeout: deploy it with a longer one" in str(outcome.error)


def test_a_task_that_began_too_late_in_its_group_is_left_with_all_after_it() -> None:
    answer = answered(hang_on_three, [1, 2, 3, 4], left_s=0.2, timeout_s=30.0)
    assert [outcome.value for outcome in answer.outcomes] == [1, 2]
    assert answer.left == range(2, 4)


def test_no_task_is_begun_for_which_there_is_no_time() -> None:
    answer = answered(slow, range(50), left_s=0.09)
    done = len(answer.outcomes)
    assert 1 <= done <= 4
    assert answer.left == range(done, 50)
    assert [outcome.value for outcome in answer.outcomes] == list(range(done))


def test_the_first_task_is_tried_however_little_time_there_is() -> None:
    assert [o.value for o in answered(hang_on_three, [1, 2], left_s=-1.0).outcomes] == [1]


def test_a_signal_that_comes_after_the_task_does_nothing() -> None:
    stopper = Stopper(time.perf_counter() + 60, 0.01)
    with stopper.watching():
        with stopper.task():
            pass
        stopper._ring(14, None)
        with pytest.raises(StoppedError), stopper.task():
            time.sleep(5)
        time.sleep(0.02)


def test_a_worker_in_a_thread_still_leaves_what_it_has_no_time_for() -> None:
    """Signals reach the main thread only."""
    answers: list[AttemptAnswered] = []

    def slow(chunk: int) -> int:
        time.sleep(0.1)
        return chunk

    thread = threading.Thread(target=lambda: answers.append(answered(slow, range(9), left_s=0.35)))
    thread.start()
    thread.join()
    assert 1 <= len(answers[0].outcomes) <= 4


def test_the_watchdog_ends_what_never_comes_back_to_python() -> None:
    """A kernel that holds the GIL for ever; the traceback on stderr says where."""
    script = """
import time, ctypes
from fanout.stopping import Stopper
import fanout.stopping
fanout.stopping.GRACE_S = 0.1
stopper = Stopper(time.perf_counter() + 600, 0.1)
def kernel():
    ctypes.PyDLL(None).usleep(60_000_000)  # PyDLL keeps the GIL
with stopper.watching(), stopper.task():
    kernel()
"""
    done = scripted(script, within_s=60)
    assert done.returncode == 1
    assert "in kernel" in done.stderr


def test_the_watchdog_is_called_off_when_the_attempt_ends() -> None:
    script = """
import time
import fanout.stopping
from fanout.stopping import Stopper
fanout.stopping.GRACE_S = 0.05
stopper = Stopper(time.perf_counter() + 600, 0.05)
with stopper.watching(), stopper.task():
    pass
time.sleep(0.4)
print("alive")
"""
    done = scripted(script, within_s=60)
    assert done.stdout == "alive\n", done.stderr


# ---- room ----


def test_results_that_do_not_fit_any_more_are_left_for_another_attempt() -> None:
    answer = answered(zeros, [400_000] * 5, reply_bytes=10**6)
    assert [len(outcome.result()) for outcome in answer.outcomes] == [400_000] * 2
    assert answer.left == range(2, 5)


def test_a_result_that_fits_no_reply_fails_its_task_and_says_what_to_do() -> None:
    answer = answered(zeros, [2_000_000, 10], reply_bytes=10**6)
    first, second = answer.outcomes
    assert isinstance(first.error, ResultError)
    assert "2.0 MB encoded, and an answer of Lambda holds 1.0 MB: return less" in str(first.error)
    assert len(second.result()) == 10
    assert not answer.left


def test_a_task_too_large_behind_others_is_tried_alone_before_it_fails() -> None:
    answer = answered(zeros, [10, 2_000_000, 10], reply_bytes=10**6)
    assert len(answer.outcomes) == 1
    assert answer.left == range(1, 3)


def test_an_error_counts_as_much_as_a_result() -> None:
    answer = answered(big_error, [16_000] * 100, reply_bytes=200_000)
    assert 1 < len(answer.outcomes) < 10
    assert all(isinstance(outcome.error, ValueError) for outcome in answer.outcomes)
    assert len(answer.left) + len(answer.outcomes) == 100


def test_output_that_does_not_fit_is_dropped_and_the_result_is_not() -> None:
    answer = answered(chatty, [10_000] * 20, reply_bytes=200_000)
    assert [outcome.value for outcome in answer.outcomes] == [10_000] * 20
    printed = [bool(outcome.stdout) for outcome in answer.outcomes]
    assert printed == sorted(printed, reverse=True)
    assert 1 <= sum(printed) < 20


@pytest.mark.parametrize("kernel", [zeros, big_error, chatty])
@pytest.mark.parametrize("room", [50_000, 300_000])
def test_a_reply_never_exceeds_its_room(kernel: Callable[[int], Any], room: int) -> None:
    """But for its head, for which the handler keeps some back."""
    spec = prepare(kernel)
    for size in (0, 100, 900, 1_100, 5_000, 70_000):
        chunks = dict(enumerate([size] * 300))
        request, _, _ = build(Request(kernel=spec), list(chunks), chunks)
        allowance = Allowance(until_s=time.perf_counter() + 60, service_s=60.0, reply_bytes=room)
        reply = Worker().run(journey(request.message()), allowance)
        assert len(reply_body(reply_parts(reply), "bytes")) <= room + 16 * 1024


# ---- deadlines of the client ----


def within(
    kernel: Callable[[Any], Any], chunks: Sequence[Any], **deadlines: float
) -> AttemptAnswered:
    """As a worker on this machine runs it: nothing is allowed or forbidden but by the client."""
    request = request_of(prepare(kernel), chunks)
    request.head.update(deadlines)
    answer = answer_of(Worker().run(request), len(chunks))
    assert isinstance(answer, AttemptAnswered), answer
    return answer


def slow(chunk: int) -> int:
    time.sleep(0.02)
    return chunk


def test_past_the_soft_deadline_no_task_is_begun() -> None:
    answer = within(slow, range(50), soft_s=0.05)
    assert 1 <= len(answer.outcomes) < 50
    assert list(answer.left) == list(range(len(answer.outcomes), 50))
    assert all(outcome.value is not None for outcome in answer.outcomes)


def test_however_short_the_soft_deadline_one_task_is_done() -> None:
    answer = within(slow, [1, 2, 3], soft_s=0.0)
    assert [outcome.value for outcome in answer.outcomes] == [1]
    assert list(answer.left) == [1, 2]


def test_a_task_that_runs_into_the_hard_deadline_is_left_with_those_after_it() -> None:
    answer = within(hang_on_three, [1, 2, 3, 4], hard_s=0.2)
    assert [outcome.value for outcome in answer.outcomes] == [1, 2]
    assert list(answer.left) == [2, 3]


def test_a_group_whose_first_task_runs_into_the_hard_deadline_is_left_as_a_whole() -> None:
    answer = within(hang_on_three, [3, 4], hard_s=0.1)
    assert not answer.outcomes
    assert list(answer.left) == [0, 1]


def test_alone_a_task_that_runs_into_the_hard_deadline_has_timed_out() -> None:
    (outcome,) = within(hang_on_three, [3], hard_s=0.1).outcomes
    assert isinstance(outcome.error, TaskTimeoutError)
    assert "0.1 s" in str(outcome.error)


def test_the_worker_ends_its_process_when_an_attempt_takes_too_long_to_begin() -> None:
    """As a kernel may take for ever to load."""
    script = """
import time, fanout
from tests.test_worker_allowance import told
class Slow:
    def __reduce__(self):
        return time.sleep, (60,)
    def __call__(self, _):
        pass
told(Slow(), ends_s=0.2)
"""
    done = scripted(script, within_s=50)
    assert done.returncode == 1
    assert "Timeout" in done.stderr


def test_the_watchdog_keeps_to_the_end_of_the_attempt_when_tasks_have_a_timeout() -> None:
    script = """
import ctypes
from tests.test_worker_allowance import told
def kernel(_):
    ctypes.PyDLL(None).usleep(60_000_000)  # PyDLL keeps the GIL
told(kernel, ends_s=0.5, timeout_s=30.0)
"""
    done = scripted(script, within_s=25)
    assert done.returncode == 1
    assert "in kernel" in done.stderr


def test_an_attempt_that_ends_in_time_leaves_no_watchdog() -> None:
    script = """
import time
from tests.test_worker_allowance import told
told(abs, ends_s=0.3)
time.sleep(0.6)
print("alive")
"""
    done = scripted(script, within_s=60)
    assert done.stdout == "alive\n", done.stderr


def told(kernel: Any, **deadlines: float) -> Message:
    """Run a kernel as on Lambda, with these deadlines."""
    request = request_of(prepare(kernel), [1])
    request.head.update(deadlines)
    allowance = Allowance(until_s=time.perf_counter() + 60, service_s=60.0, reply_bytes=1000)
    return Worker().run(request, allowance)
