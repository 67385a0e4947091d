"""The log of a function: what is written around an invocation, and the last lines of it all.

Pure: what a line says is an argument. The formats are CloudWatch's.
"""

from __future__ import annotations

import base64
import math
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import fanout.emulator.quotas as quotas

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(slots=True, kw_only=True)
class Report:
    """What the REPORT line says of an invocation.

    Attributes:
        duration_s: From the delivery of the request to the answer.
        init_s: How long the environment took to start, if it was started for this one.
        memory_mb: What the function has.
        peak_mb: The most that its environment has had so far.
        status: "timeout", or "error" with the type of the error; empty when all went well.
        error_type: Of an error.
    """

    request_id: str
    duration_s: float
    memory_mb: int
    peak_mb: int
    init_s: float | None = None
    status: str = ""
    error_type: str = ""

    def line(self) -> str:
        """The line, with its tabs."""
        duration_ms = self.duration_s * 1000
        # Init is billed, with images as ever, with all functions since 2025-08-01.
        init_ms = 0.0 if self.init_s is None else self.init_s * 1000
        line = (
            f"REPORT RequestId: {self.request_id}\tDuration: {duration_ms:.2f} ms\t"
            f"Billed Duration: {math.ceil(duration_ms + init_ms)} ms\t"
            f"Memory Size: {self.memory_mb} MB\tMax Memory Used: {self.peak_mb} MB"
        )
        if self.init_s is not None:
            line += f"\tInit Duration: {init_ms:.2f} ms"
        if self.status:
            line += f"\tStatus: {self.status}"
        if self.error_type:
            line += f"\tError Type: {self.error_type}"
        return line


def invocation_log(report: Report, *, before: str, during: str) -> str:
    """The log of one invocation; `before` was written while its environment started."""
    request_id = report.request_id
    return (
        f"{_ended(before)}START RequestId: {request_id} Version: $LATEST\n{_ended(during)}"
        f"END RequestId: {request_id}\n{report.line()}\n"
    )


def init_report(init_s: float, status: str, error_type: str = "") -> str:
    """The line about an Init phase that went wrong."""
    more = f"\tError Type: {error_type}" if error_type else ""
    return (
        f"INIT_REPORT Init Duration: {init_s * 1000:.2f} ms\tPhase: init\tStatus: {status}{more}\n"
    )


def timeout_line(at_s: float, request_id: str, timeout_s: float) -> str:
    """The line about a timeout; `at_s` is Unix time."""
    at = datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds")
    at = at.replace("+00:00", "Z")
    return f"{at} {request_id} Task timed out after {timeout_s:.2f} seconds\n\n"


def log_result(log: str) -> str:
    """The header X-Amz-Log-Result: the end of the log, in base64."""
    tail = log.encode("utf-8", "replace")[-quotas.LOG_TAIL_BYTES :]
    return base64.b64encode(tail).decode("ascii")


class LogKeeper:
    """Keeps the last lines of all invocations, in the order in which these ended."""

    def __init__(self, max_lines: int, listener: Callable[[str], None] | None = None) -> None:
        self._lines: deque[str] = deque(maxlen=max_lines)
        self._listener = listener

    def add(self, log: str) -> None:
        """Append what an invocation has written."""
        # The runtime parts the lines of a traceback by "\r", so that CloudWatch keeps them as one.
        text = log.replace("\r", "\n")
        if self._listener is not None:
            self._listener(text)
        self._lines.extend(text.removesuffix("\n").split("\n"))

    @property
    def lines(self) -> list[str]:
        """Oldest first."""
        return list(self._lines)


def _ended(text: str) -> str:
    return text if not text or text.endswith("\n") else f"{text}\n"
