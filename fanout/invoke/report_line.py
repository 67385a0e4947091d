"""The REPORT line of an invocation: for how long Lambda bills it, in Lambda's own words.

Lambda sends the end of the function's log with each answer, if asked to, and its last line is this
one. Pure, and thrifty: of up to 4 KB the last half is rarely looked at. A kernel may print what
looks like a REPORT line, so that only the last one counts which has the invocation's own id.

Sources: Lambda developer guide, "Viewing logs" (text); "Telemetry API schema reference",
platform.report (functions whose log format is JSON); AWS Compute Blog of 2025-04, by which "Billed
Duration" includes Init since 2025-08-01.
"""

from __future__ import annotations

import json
import math
import re
from binascii import Error as BinasciiError
from binascii import a2b_base64
from typing import Any, Final, NamedTuple

# Where a REPORT line is longer than this, the whole log is looked at. In base64, so that it is a
# multiple of 4; a line takes 200 characters, with all there can be in it 360.
_END_CHARACTERS: Final = 400
# So much of the log comes back (Lambda API reference, Invoke, LogType, 2026-11).
TAIL_BYTES: Final = 4096
_LINE: Final = re.compile(
    rb"\tDuration: (\d{1,9}(?:\.\d{1,9})?) ms *\tBilled Duration: (\d{1,9}) ms *"
    rb"\tMemory Size: (\d{1,6}) MB *\tMax Memory Used: (\d{1,6}) MB\s*(.*)"
)
_FIELDS: Final = re.compile(rb"(Init Duration|Status): ([\w.]{1,20})")


class ReportLine(NamedTuple):
    """What it says.

    Attributes:
        duration_ms: For how long the handler ran, milliseconds.
        billed_ms: For how long the invocation is billed, its environment's start included.
        memory_mb: What the function has, MB.
        peak_mb: The most that the environment has used, MB.
        init_duration_ms: How long the environment took to start; None if it was there already.
        status: "timeout", "error" or the like; "" if all went well.
    """

    duration_ms: float
    billed_ms: int
    memory_mb: int
    peak_mb: int
    init_duration_ms: float | None = None
    status: str = ""

    @property
    def init_ms(self) -> int:
        """What of the billed time was the start of the environment: all but the handler's."""
        return max(0, self.billed_ms - math.ceil(self.duration_ms))


def report_line(log_result: bytes, request_id: bytes) -> ReportLine | None:
    """The REPORT line of an invocation; None if there is none.

    Args:
        log_result: The header X-Amz-Log-Result: the end of the log, in base64.
        request_id: The header x-amzn-RequestId.
    """
    if not request_id:
        return None
    start = b"\nREPORT RequestId: " + request_id
    try:
        # Groups of four characters are three bytes each, so that any of them may be the first.
        end = a2b_base64(log_result[-_END_CHARACTERS:])
        if (at := end.rfind(start)) < 0:
            end = b"\n" + a2b_base64(log_result)
            if (at := end.rfind(start)) < 0:
                return _json_line(end, request_id)
    except BinasciiError:
        return None
    if (line := _LINE.match(end, at + len(start))) is None:
        return None
    duration, billed, memory, peak, rest = line.groups()
    if not rest:  # most are warm, and go well
        return ReportLine(float(duration), int(billed), int(memory), int(peak))
    more = dict(_FIELDS.findall(rest))
    return ReportLine(
        float(duration),
        int(billed),
        int(memory),
        int(peak),
        _number(more.get(b"Init Duration")),
        more.get(b"Status", b"").decode("ascii", "replace"),
    )


def log_bytes_of(log_result: bytes) -> int:
    """How much of the log came back; `TAIL_BYTES` if there may be more."""
    return len(log_result) // 4 * 3 - log_result[-2:].count(b"=")


def _json_line(log: bytes, request_id: bytes) -> ReportLine | None:
    """The record platform.report, of a function whose log format is JSON."""
    if b"platform.report" not in log:
        return None
    for line in reversed(log.splitlines()):
        if b'"platform.report"' not in line or request_id not in line:
            continue
        try:
            told = json.loads(line)
            record = told["record"]
            is_own = record["requestId"].encode() == request_id
            if told["type"] == "platform.report" and is_own:
                return _of_record(record)
        except (ArithmeticError, ValueError, LookupError, TypeError, AttributeError):
            continue
    return None


def _of_record(record: dict[str, Any]) -> ReportLine:
    metrics = record["metrics"]
    init = metrics.get("initDurationMs")
    status = str(record.get("status", ""))
    return ReportLine(
        duration_ms=float(metrics["durationMs"]),
        billed_ms=math.ceil(metrics["billedDurationMs"]),
        memory_mb=int(metrics["memorySizeMB"]),
        peak_mb=int(metrics["maxMemoryUsedMB"]),
        init_duration_ms=None if init is None else float(init),
        status="" if status == "success" else status[:20],
    )


def _number(text: bytes | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
