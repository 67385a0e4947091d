"""Ends a kernel that runs too long, in the process that runs it.

For environments which nobody can kill from outside: an invocation of Lambda can't be cancelled, and
is billed until the function's own timeout. Twice armed:

- a signal raises `StoppedError` in the kernel, so that the worker still answers, and the
  environment stays warm; that needs the kernel to come back to Python code now and then;
- a watchdog that needs neither Python nor the GIL writes a traceback of every thread to stderr and
  ends the process, should the first not have worked, or the whole attempt take too long.
"""

from __future__ import annotations

import contextlib
import faulthandler
import math
import signal
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fanout.hard_stops import GRACE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

_STDERR: Final = 2


class StoppedError(BaseException):
    """Raised in a kernel whose time is up; no `except Exception` takes it for its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What one attempt may take.

    Attributes:
        until_s: When its reply has to be ready, by `time.perf_counter`.
        service_s: The timeout of the service that stands behind that, seconds; for people.
        reply_bytes: Most for its results, errors and output.
    """

    until_s: float
    service_s: float
    reply_bytes: float


class Stopper:
    """Ends what runs too long, within one attempt.

    Args:
        until_s: When the attempt has to be over, by `time.perf_counter`.
        timeout_s: What one task may take, seconds; None: until then.
        ends_s: When the watchdog ends the process, as it was told by `end_process_after`.
    """

    def __init__(self, until_s: float, timeout_s: float | None, ends_s: float = math.inf) -> None:
        self._until_s = until_s
        self._last_s = ends_s
        self._timeout_s = math.inf if timeout_s is None else timeout_s
        self._is_running = False
        self._ends_s = -math.inf  # the process, by the watchdog
        self._has_signal = hasattr(signal, "setitimer") and (
            threading.current_thread() is threading.main_thread()
        )

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """For the time of the attempt."""
        if not self._has_signal:
            yield
            return
        before: Any = signal.signal(signal.SIGALRM, self._ring)
        try:
            yield
        finally:
            signal.signal(signal.SIGALRM, before)
            end_process_after(None)

    @contextlib.contextmanager
    def task(self) -> Iterator[None]:
        """For the time of one task.

        Raises:
            StoppedError: Within, when its time is up.
        """
        if not self._has_signal:
            yield
            return
        now_s = time.perf_counter()
        self._watch(now_s)
        self._is_running = True
        signal.setitimer(signal.ITIMER_REAL, max(min(self._timeout_s, self._until_s - now_s), 1e-3))
        try:
            yield
        finally:
            # First of all: from here on a signal that is under way does nothing.
            self._is_running = False
            signal.setitimer(signal.ITIMER_REAL, 0.0)

    def is_over(self, expected_s: float) -> bool:
        """Whether there is no time for a task that takes so long."""
        return time.perf_counter() + expected_s > self._until_s

    def was_short(self, began_s: float) -> bool:
        """Whether a task that began then had less time than a task may take."""
        return began_s + self._timeout_s > self._until_s

    def _ring(self, _signal: int, _frame: object) -> None:
        if self._is_running:
            self._is_running = False
            raise StoppedError

    def _watch(self, now_s: float) -> None:
        """Arm the watchdog, for long enough that it needn't be for every small task."""
        if math.isinf(self._timeout_s):
            return  # the process ends in any case
        least_s = self._timeout_s + GRACE_S
        if self._ends_s - now_s < least_s and self._ends_s < self._last_s:
            after_s = min(least_s + self._timeout_s, self._last_s - now_s)
            end_process_after(after_s)
            self._ends_s = now_s + after_s


def end_process_after(seconds: float | None) -> None:
    """Have the watchdog end this process after so long, and not when it was told before.

    None: not at all.
    """
    if seconds is None:
        faulthandler.cancel_dump_traceback_later()
    else:
        faulthandler.dump_traceback_later(max(seconds, 1e-3), exit=True, file=_STDERR)
