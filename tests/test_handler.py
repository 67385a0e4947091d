"""The entry of the image, called as AWS's runtime client calls it."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest

from fanout.errors import DecodeError, ProtocolError, ResultError, TaskTimeoutError
from fanout.events import AttemptAnswered, AttemptFailed
from fanout.handler import handle
from fanout.kernel_spec import prepare
from fanout.lambda_wire import LIMIT_BYTES, read_reply, request_body, request_parts
from fanout.reply import read
from fanout.request import Request, build
from fanout.wire import Message


class Context:
    """As much time as it is made with."""

    def __init__(self, left_s: float = 60.0) -> None:
        self._ends_s = time.monotonic() + left_s

    def get_remaining_time_in_millis(self) -> int:
        return max(0, int(1000 * (self._ends_s - time.monotonic())))


def invoked(
    kernel: Any,
    chunks: list[Any],
    *,
    accepts: Any = "bytes",
    left_s: float = 60.0,
    timeout_s: float | None = None,
) -> AttemptAnswered | AttemptFailed:
    numbered = dict(enumerate(chunks))
    run = Request(kernel=prepare(kernel), timeout_s=timeout_s)
    request, sent, _ = build(run, list(numbered), numbered)
    event = json.loads(b"".join(request_body(request_parts(request.message()), accepts=accepts)))
    returned = handle(event, Context(left_s))
    body = returned if isinstance(returned, bytes) else json.dumps(returned).encode()
    assert len(body) <= LIMIT_BYTES
    reply = read_reply([body])
    assert isinstance(reply, Message)
    return read(
        reply,
        attempt=0,
        tasks=sent,
        is_safe=False,
        attempts_of=lambda _: 1,
        environments={},
    )


@pytest.mark.parametrize("accepts", ["bytes", "json"])
def test_a_kernel_runs_on_each_chunk(accepts: Any) -> None:
    answer = invoked(math.sqrt, [1.0, 2.0, -1.0], accepts=accepts)
    assert isinstance(answer, AttemptAnswered)
    assert [outcome.value for outcome in answer.outcomes] == [1.0, math.sqrt(2.0), None]
    assert isinstance(answer.outcomes[2].error, ValueError)


def test_the_environment_is_cold_once_and_keeps_its_kernels() -> None:
    script = """
import json, math, sys
from tests.test_handler import invoked
first, second = invoked(math.sqrt, [1.0]), invoked(math.sqrt, [1.0])
from fanout.handler import _WORKER
print(json.dumps([first.report.is_cold, second.report.is_cold, len(_WORKER._kernels)]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert json.loads(done.stdout) == [True, False, 1]


def zeros(count: int) -> np.ndarray[Any, Any]:
    return np.zeros(count, np.uint8)


@pytest.mark.parametrize(("accepts", "fits"), [("bytes", 6_200_000), ("json", 4_600_000)])
def test_a_result_up_to_the_limit_comes_back_and_a_larger_one_says_what_to_do(
    accepts: Any, fits: int
) -> None:
    answer = invoked(zeros, [fits], accepts=accepts)
    assert isinstance(answer, AttemptAnswered)
    assert len(answer.outcomes[0].result()) == fits
    answer = invoked(zeros, [fits + 200_000], accepts=accepts)
    assert isinstance(answer, AttemptAnswered)
    assert isinstance(answer.outcomes[0].error, ResultError)
    assert "return less" in str(answer.outcomes[0].error)


def hang(chunk: float) -> float:
    time.sleep(chunk)
    return chunk


def test_a_task_that_lambda_would_kill_is_reported_before() -> None:
    answer = invoked(hang, [60.0], left_s=0.5)
    assert isinstance(answer, AttemptAnswered)
    assert isinstance(answer.outcomes[0].error, TaskTimeoutError)
    assert "the function's own timeout" in str(answer.outcomes[0].error)


def test_a_task_past_timeout_s_is_reported_long_before_the_function_ends() -> None:
    answer = invoked(hang, [0.0, 60.0, 0.0], timeout_s=0.1)
    assert isinstance(answer, AttemptAnswered)
    assert [outcome.is_ok for outcome in answer.outcomes] == [True, False, True]


def test_somebody_elses_event_is_refused() -> None:
    with pytest.raises(ProtocolError, match="got something else"):
        handle({"key1": "value1"}, Context())


def test_a_damaged_request_is_refused() -> None:
    with pytest.raises(DecodeError):
        handle({"fanout": 1, "frame": "AAAA"}, Context())


def test_another_protocol_is_refused() -> None:
    with pytest.raises(ProtocolError, match="install the same version"):
        handle({"fanout": 2, "frame": "AAAA"}, Context())


def test_its_import_loads_the_standard_library_and_numpy_only() -> None:
    """It is part of every cold start. pybase64 and isal are loaded where the image has them."""
    script = """
import sys
import numpy
before = {name.partition(".")[0] for name in sys.modules}
import fanout.handler
after = {name.partition(".")[0] for name in sys.modules}
print(*sorted(after - before - set(sys.stdlib_module_names) - {"fanout", "pybase64", "isal"}))
print(*sorted(name for name in sys.modules if name.startswith("fanout")))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, text=True
    )
    foreign, ours = done.stdout.splitlines()
    assert foreign == ""
    assert "fanout.scheduler" not in ours
    assert "fanout.backends" not in ours
    assert "asyncio" not in done.stdout
