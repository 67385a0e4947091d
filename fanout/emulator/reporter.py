"""What an environment prints and uses, collected for the log of each invocation."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from fanout.emulator.ends import Answer, End, TimedOut, answer
from fanout.emulator.log import Report, init_report, invocation_log, timeout_line

if TYPE_CHECKING:
    from fanout.emulator.function import Function
    from fanout.emulator.memory import Group
    from fanout.emulator.process import Process

# What one invocation has printed is kept up to here, the end of it.
_OUTPUT_BYTES: Final = 1024 * 1024
# The peak of memory is read after an invocation that took so long, or when so much time has passed:
# reading it would be a fifth of the emulator's work for a short one.
_PEAK_AFTER_S: Final = 0.003
_PEAK_EVERY_S: Final = 0.05


class Reporter:
    """The log and the peak of memory of one environment.

    Attributes:
        init_s: How long Init took, for the report of the first invocation.
    """

    def __init__(self, function: Function) -> None:
        self.init_s: float | None = None
        self._function = function
        self._output = bytearray()
        self._before = ""  # what was printed in Init
        self._peak_mb = 0
        self._peak_at_s = 0.0

    def printed(self, data: bytes) -> None:
        """Take what the process has printed."""
        self._output += data
        if len(self._output) > 2 * _OUTPUT_BYTES:
            del self._output[:-_OUTPUT_BYTES]

    def init_timed_out(self, took_s: float) -> None:
        """Init will begin anew."""
        self._before += self._take() + init_report(took_s, "timeout")

    def init_ended(self) -> None:
        """What is printed from now on belongs to invocations."""
        self._before += self._take()

    def report(self, request_id: str, end: End, duration_s: float) -> Answer:
        """What an invocation gave, with its log."""
        function = self._function
        result = answer(end, request_id, function.timeout_s)
        during = self._take()
        if isinstance(end, TimedOut):
            duration_s = function.timeout_s
            during += timeout_line(time.time(), request_id, function.timeout_s)
        report = Report(
            request_id=request_id,
            duration_s=duration_s,
            memory_mb=function.memory_mb,
            peak_mb=min(self._peak_mb, function.memory_mb),
            init_s=self.init_s,
            status=result.status,
            error_type=result.error_type if result.status == "error" else "",
        )
        log = invocation_log(report, before=self._before, during=during)
        self._before, self.init_s = "", None
        return replace(result, log=log)

    def measure(self, process: Process, group: Group | None, duration_s: float) -> None:
        """Look how much memory it has had, if it is time to."""
        now_s = time.perf_counter()
        if duration_s < _PEAK_AFTER_S and now_s - self._peak_at_s < _PEAK_EVERY_S:
            return
        self._peak_at_s = now_s
        found = process.peak_mb()
        if not found and group is not None:  # the process has ended, its group is still there
            found = group.peak_mb()
        self._peak_mb = max(self._peak_mb, found)

    def _take(self) -> str:
        text = self._output.decode("utf-8", "replace")
        self._output.clear()
        return text
