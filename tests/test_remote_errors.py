"""What a worker tells of a failure, as the exception that the caller sees."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fanout.errors import (
    ChunkError,
    DecodeError,
    KernelError,
    KernelLoadError,
    ProtocolError,
    ResultError,
    StoreError,
    TaskTimeoutError,
)
from fanout.remote_errors import describe_chunk, refusal, task_failure, unreadable
from fanout.retry import Failure, FailureKind


def told(kind: str, **more: Any) -> dict[str, Any]:
    """What a reply says of a task that failed."""
    return {"kind": kind, "type": "some.Error", "message": "odd", "traceback": "line 1\n", **more}


def failure_of(remote: dict[str, Any], *, is_safe: bool = False) -> Failure:
    return task_failure(7, remote, [], attempts=2, is_safe=is_safe)


@pytest.mark.parametrize(
    ("kind", "error", "text"),
    [
        ("result", ResultError, "task 7: its result: odd"),
        ("chunk", ChunkError, "its chunk can't be decoded by the worker: odd"),
        ("store", StoreError, "odd"),
    ],
)
def test_what_would_fail_again_just_so_is_a_refusal(
    kind: str, error: type[Exception], text: str
) -> None:
    failure = failure_of(told(kind))
    assert failure.kind is FailureKind.REFUSED
    assert type(failure.error) is error
    assert text in str(failure.error)


def test_a_task_that_ran_too_long_says_where_it_was() -> None:
    failure = failure_of(told("timeout", allowed_s=3.0, is_service=False))
    assert failure.kind is FailureKind.TIMED_OUT
    assert isinstance(failure.error, TaskTimeoutError)
    assert failure.error.__notes__ == ["remote traceback of task 7:\nline 1"]


def test_a_kernels_exception_that_did_not_come_along_is_told() -> None:
    failure = failure_of(told("kernel"))
    assert failure.kind is FailureKind.KERNEL_RAISED
    assert type(failure.error) is KernelError
    assert failure.error.type_name == "some.Error"


@pytest.mark.parametrize(
    "more",
    [
        {"body": "[", "buffers_from": 0},  # damaged
        {"body": "[[]]", "buffers_from": 0},  # no exception
        {"body": '[["touch it"]]', "buffers_from": 0, "builtin": "eval"},
        {"body": "[[3]]", "buffers_from": 0, "builtin": "SystemExit"},
        {"body": "[[3]]", "buffers_from": 0, "builtin": "StopIteration"},
        {"body": "[[3]]", "buffers_from": 0, "builtin": "no_such"},
    ],
)
def test_whatever_came_instead_of_an_exception_is_not_raised(more: dict[str, Any]) -> None:
    failure = failure_of(told("kernel", **more), is_safe=True)
    assert type(failure.error) is KernelError


def test_a_builtin_exception_is_built_from_its_arguments() -> None:
    more = {"body": '[["odd",3]]', "buffers_from": 0, "builtin": "ValueError"}
    error = failure_of(told("kernel", **more), is_safe=True).error
    assert type(error) is ValueError
    assert error.args == ("odd", 3)


def test_a_result_that_can_not_be_decoded_here_says_why() -> None:
    cause = DecodeError("damaged")
    error = unreadable(7, cause).error
    assert isinstance(error, ResultError)
    assert "task 7: its result can't be decoded here: damaged" in str(error)
    assert error.__cause__ is cause


@pytest.mark.parametrize(
    ("kind", "error", "is_fatal"),
    [
        ("protocol", ProtocolError, True),
        ("stale", KernelLoadError, True),
        ("kernel", KernelLoadError, True),
        ("store", StoreError, False),  # another request may be luckier
    ],
)
def test_a_refusal_ends_the_run_unless_another_request_may_be_luckier(
    kind: str, error: type[Exception], is_fatal: bool
) -> None:
    failure = refusal({"kind": kind, "message": "odd", "traceback": "line 1"})
    assert type(failure.error) is error
    assert failure.is_fatal is is_fatal


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


class Shapeless:
    @property
    def shape(self) -> object:
        raise RuntimeError("no shape")


@pytest.mark.parametrize(
    ("chunk", "text"),
    [
        (3, "3"),
        (np.zeros((2, 3)), "ndarray of shape (2, 3), dtype float64"),
        ([0] * 1000, "[0, 0, 0, 0, 0, 0, ...]"),
        (Unprintable(), "<Unprintable instance at"),
        (Shapeless(), "a Shapeless"),
    ],
)
def test_a_chunk_is_described_in_a_line_whatever_it_is(chunk: object, text: str) -> None:
    described = describe_chunk(chunk)
    assert described.startswith(text)
    assert len(described) <= 120
    assert "\n" not in described
