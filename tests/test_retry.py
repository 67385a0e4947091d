"""The table of failures, and the user's policy over it."""

from __future__ import annotations

import math
import random

import hypothesis.strategies as st
import pytest
from hypothesis import given

from fanout.errors import (
    BackendError,
    ChunkError,
    FanoutError,
    OutOfMemoryError,
    TaskError,
    TaskLostError,
    TaskTimeoutError,
    UsageError,
    WorkerCrashedError,
)
from fanout.retry import Failure, FailureKind, RetryPolicy, error_of


class _TopologyError(Exception):
    pass


# ---- whether ----


IS_RETRIED = {
    FailureKind.DID_NOT_RUN: True,
    FailureKind.THROTTLED: True,
    FailureKind.UNREACHABLE: True,
    FailureKind.MAYBE_RAN: True,
    FailureKind.CRASHED: True,
    FailureKind.OUT_OF_MEMORY: True,
    FailureKind.TIMED_OUT: False,
    FailureKind.KERNEL_RAISED: False,
    FailureKind.REFUSED: False,
}


@pytest.mark.parametrize("kind", FailureKind)
def test_what_is_retried_by_default(kind: FailureKind) -> None:
    assert RetryPolicy().allows(Failure(kind=kind), 1) is IS_RETRIED[kind]
    assert RetryPolicy().allows(Failure(kind=kind, error=_TopologyError()), 1) is IS_RETRIED[kind]


def test_an_exception_is_retried_if_the_policy_names_its_class_or_a_base_of_it() -> None:
    policy = RetryPolicy(on=(OSError, _TopologyError))
    for error in [ConnectionResetError(), _TopologyError()]:
        assert policy.allows(Failure(kind=FailureKind.KERNEL_RAISED, error=error), 1)
    assert not policy.allows(Failure(kind=FailureKind.KERNEL_RAISED, error=ValueError()), 1)
    assert not policy.allows(Failure(kind=FailureKind.KERNEL_RAISED), 1)


def test_timeouts_are_retried_if_the_policy_says_so() -> None:
    failure = Failure(kind=FailureKind.TIMED_OUT)
    assert RetryPolicy(retry_timeouts=True).allows(failure, 1)


def test_a_timeout_of_the_service_is_retried_as_a_crash_is() -> None:
    """The worker was silent, so it may have been its environment that hung."""
    failure = Failure(kind=FailureKind.TIMED_OUT, allowed_s=60.0)
    assert RetryPolicy(max_attempts=2).allows(failure, 1)
    assert not RetryPolicy(max_attempts=2).allows(failure, 2)


def test_the_first_attempt_counts() -> None:
    crash = Failure(kind=FailureKind.CRASHED)
    assert RetryPolicy(max_attempts=3).allows(crash, 2)
    assert not RetryPolicy(max_attempts=3).allows(crash, 3)
    assert not RetryPolicy(max_attempts=1).allows(crash, 1)


@pytest.mark.parametrize("kind", FailureKind)
def test_what_is_fatal_is_never_retried(kind: FailureKind) -> None:
    policy = RetryPolicy(on=(Exception,), retry_timeouts=True)
    assert not policy.allows(Failure(kind=kind, error=ValueError(), is_fatal=True), 1)


# ---- when ----


@given(
    attempts=st.integers(1, 10_000),
    base_s=st.floats(0.0, 1e300),
    cap_s=st.floats(0.0, 1e6),
    seed=st.integers(),
)
def test_a_delay_is_between_zero_and_the_cap(
    attempts: int, base_s: float, cap_s: float, seed: int
) -> None:
    policy = RetryPolicy(base_s=base_s, cap_s=cap_s)
    delay_s = policy.delay_s(attempts, random.Random(seed))
    assert 0.0 <= delay_s <= cap_s
    if attempts < 10:
        assert delay_s <= base_s * 2**attempts


def test_delays_double_and_spread_over_the_whole_range() -> None:
    rng = random.Random(1)
    policy = RetryPolicy(base_s=0.1, cap_s=1.0)
    for attempts, ceiling_s in {1: 0.2, 2: 0.4, 3: 0.8, 4: 1.0, 50: 1.0}.items():
        delays = [policy.delay_s(attempts, rng) for _ in range(2000)]
        assert math.isclose(sum(delays) / 2000, ceiling_s / 2, rel_tol=0.05)
        assert max(delays) <= ceiling_s


def test_the_same_seed_gives_the_same_delays() -> None:
    policy = RetryPolicy()
    first, second = ([policy.delay_s(n, random.Random(n)) for n in range(1, 9)] for _ in range(2))
    assert first == second


# ---- the error a task ends with ----


def test_an_error_that_is_there_already_is_kept() -> None:
    error = _TopologyError("of the kernel")
    failure = Failure(kind=FailureKind.CRASHED, detail="no matter", error=error)
    assert error_of(failure, index=1, attempts=2, timeout_s=None) is error


def test_a_crash_becomes_a_worker_crashed_error() -> None:
    failure = Failure(kind=FailureKind.CRASHED, detail="was killed by SIGKILL")
    error = error_of(failure, index=17, attempts=3, timeout_s=None)
    assert isinstance(error, WorkerCrashedError)
    assert (error.index, error.how, error.attempts) == (17, "was killed by SIGKILL", 3)
    assert str(error).startswith("task 17: its worker was killed by SIGKILL (attempt 3): ")


def test_a_timeout_becomes_a_task_timeout_error() -> None:
    error = error_of(Failure(kind=FailureKind.TIMED_OUT), index=4, attempts=1, timeout_s=2.5)
    assert isinstance(error, TaskTimeoutError)
    assert (error.index, error.timeout_s, error.attempts) == (4, 2.5, 1)


def test_a_timeout_of_the_service_says_what_the_service_allowed() -> None:
    failure = Failure(kind=FailureKind.TIMED_OUT, allowed_s=60.0)
    for timeout_s in (None, 1000.0):
        error = error_of(failure, index=4, attempts=1, timeout_s=timeout_s)
        assert isinstance(error, TaskTimeoutError)
        assert error.timeout_s == 60.0
        assert "the function's own timeout" in str(error)


def test_a_timeout_of_ours_asks_for_a_longer_one_of_ours() -> None:
    error = error_of(Failure(kind=FailureKind.TIMED_OUT), index=4, attempts=1, timeout_s=2.5)
    assert "raise timeout_s" in str(error)
    assert "the function's own timeout" not in str(error)


def test_want_of_memory_becomes_an_out_of_memory_error() -> None:
    how = "was killed by Lambda with 512 MB"
    failure = Failure(kind=FailureKind.OUT_OF_MEMORY, detail=how)
    error = error_of(failure, index=17, attempts=3, timeout_s=None)
    assert isinstance(error, OutOfMemoryError)
    assert (error.index, error.how, error.attempts) == (17, how, 3)


def test_a_loss_becomes_a_task_lost_error() -> None:
    failure = Failure(kind=FailureKind.MAYBE_RAN, detail="connection reset")
    error = error_of(failure, index=17, attempts=8, timeout_s=None)
    assert isinstance(error, TaskLostError)
    assert (error.index, error.how, error.attempts) == (17, "connection reset", 8)


def test_a_refusal_becomes_a_chunk_error() -> None:
    failure = Failure(kind=FailureKind.REFUSED, detail="9 MiB encoded, the limit is 6 MiB")
    error = error_of(failure, index=4, attempts=1, timeout_s=None)
    assert isinstance(error, ChunkError)
    assert str(error) == "task 4: 9 MiB encoded, the limit is 6 MiB"


@pytest.mark.parametrize(
    "kind", [FailureKind.DID_NOT_RUN, FailureKind.THROTTLED, FailureKind.UNREACHABLE]
)
def test_anything_else_is_the_backends(kind: FailureKind) -> None:
    failure = Failure(kind=kind, detail="no capacity")
    error = error_of(failure, index=4, attempts=1, timeout_s=None)
    assert isinstance(error, BackendError)
    assert str(error) == "task 4: no capacity"


@pytest.mark.parametrize("kind", FailureKind)
def test_a_failure_without_details_still_makes_a_sentence(kind: FailureKind) -> None:
    error = error_of(Failure(kind=kind), index=4, attempts=1, timeout_s=1.0)
    assert isinstance(error, FanoutError)
    if isinstance(error, TaskError):
        assert error.index == 4
    message = str(error)
    assert message.startswith("task 4: ")
    assert len(message) > len("task 4: ")
    assert " :" not in message


# ---- the record ----


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"max_attempts": 0}, "max_attempts=0) must be a whole number, 1 or more"),
        ({"max_attempts": 2.5}, "max_attempts=2.5) must be a whole number, 1 or more"),
        ({"max_attempts": True}, "max_attempts=True) must be a whole number, 1 or more"),
        ({"max_lost": 0}, "max_lost=0) must be a whole number, 1 or more"),
        ({"max_lost": math.inf}, "max_lost=inf) must be a whole number, 1 or more"),
        ({"max_lost": True}, "max_lost=True) must be a whole number, 1 or more"),
        ({"base_s": -1.0}, "base_s=-1.0) must be a number of seconds, 0 or more"),
        ({"cap_s": math.inf}, "cap_s=inf) must be a number of seconds, 0 or more"),
        ({"cap_s": math.nan}, "cap_s=nan) must be a number of seconds, 0 or more"),
        ({"base_s": "1"}, "base_s='1') must be a number of seconds, 0 or more"),
        ({"on": ValueError}, "must be a tuple of exception classes"),
        ({"on": [ValueError]}, "must be a tuple of exception classes"),
        ({"on": (KeyboardInterrupt,)}, "must be a tuple of exception classes"),
        ({"on": ("ValueError",)}, "on=('ValueError',)) must be a tuple of exception classes"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(options: dict[str, object], hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        RetryPolicy(**options)  # type: ignore[arg-type]  # what the test is about
    assert hint in str(caught.value)


def test_a_policy_can_switch_back_off_off() -> None:
    assert RetryPolicy(base_s=0).delay_s(5, random.Random(0)) == 0.0


def test_a_task_may_be_lost_eight_times_by_default() -> None:
    assert RetryPolicy().max_lost == 8


def test_a_failure_is_not_fatal_and_sets_no_times_by_default() -> None:
    failure = Failure(kind=FailureKind.CRASHED)
    assert (failure.is_fatal, failure.wait_s, failure.allowed_s) == (False, None, None)
