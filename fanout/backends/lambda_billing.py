"""What one invocation is billed for, by its answer.

Pure. The REPORT line says so. Where there is none (a stand-in for Lambda that sends no log), the
worker's own time counts, and that of a cold one with all that its start can have taken; where there
is no reply either, the time until the answer came. These are marked, and never too short.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from fanout.invoke.report_line import TAIL_BYTES, log_bytes_of, report_line
from fanout.lambda_figures import INIT_S, LOG_BYTES
from fanout.tasks import BilledTime

# Of the names of both headers that are read here.
_NAME_BYTES: Final = 16

if TYPE_CHECKING:
    from fanout.invoke import Answer
    from fanout.invoke.answers import About
    from fanout.wire import Message


def billed_time(
    answer: Answer, about: About, elapsed_s: float, reply: Message | None
) -> BilledTime | None:
    """What an invocation is billed for; None if its answer doesn't tell that it ran.

    Args:
        answer: To it.
        about: The function.
        elapsed_s: From sending the request to the answer.
        reply: The worker's, if the answer holds one.
    """
    if answer.status != 200:
        return None
    log = request_id = b""
    for name, value in answer.raw_headers:
        if len(name) == _NAME_BYTES:  # one look at each for the two that are wanted
            match name.lower():
                case b"x-amz-log-result":
                    log = value
                case b"x-amzn-requestid":
                    request_id = value
    answer_bytes = sum(map(len, answer.parts))
    found = report_line(log, request_id) if log else None
    if found is None:
        billed_ms, init_ms = _by_time(elapsed_s, reply)
        log_bytes = log_bytes_of(log) if log else LOG_BYTES
        return BilledTime(
            billed_ms, init_ms, about.memory_mb, False, 1, 0, answer_bytes, log_bytes, False
        )
    log_bytes = log_bytes_of(log)
    is_whole = log_bytes < TAIL_BYTES
    init_ms = found.init_ms if found.init_duration_ms is not None else 0
    return BilledTime(
        found.billed_ms, init_ms, found.memory_mb, True, 1, 0, answer_bytes, log_bytes, is_whole
    )


def lost(about: About) -> BilledTime:
    """Of an invocation that may run, and of which nothing more will be heard."""
    return BilledTime(
        billed_ms=0,
        init_ms=0,
        memory_mb=about.memory_mb,
        is_reported=True,
        invocations=0,
        lost=1,
        is_log_whole=True,
    )


def _by_time(elapsed_s: float, reply: Message | None) -> tuple[int, int]:
    """Billed milliseconds and, of these, those of a start."""
    report = {} if reply is None else reply.head.get("report", {})
    ran_s = report.get("total_s") if isinstance(report, dict) else None
    if not isinstance(ran_s, int | float) or not 0 <= ran_s <= elapsed_s:
        return math.ceil(elapsed_s * 1000), 0
    init_s = min(elapsed_s - ran_s, INIT_S) if report.get("cold") else 0.0
    init_ms = math.ceil(init_s * 1000)
    return math.ceil(ran_s * 1000) + init_ms, init_ms
