"""Failures and what follows from them: the one table, and the user's policy over it.

Pure. A backend says *what* happened (`Failure`), this module says whether another attempt may
follow and when, and what error the task ends with otherwise.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fanout.errors import (
    BackendError,
    ChunkError,
    OutOfMemoryError,
    TaskLostError,
    TaskTimeoutError,
    UsageError,
    WorkerCrashedError,
)

if TYPE_CHECKING:
    from random import Random

    from fanout.tasks import BilledTime


class FailureKind(enum.Enum):
    """What happened to an attempt, or to one task in it."""

    DID_NOT_RUN = "did not run"  # the worker was gone before it began: costs the task nothing
    THROTTLED = "throttled"  # the service takes no more now: costs the task nothing, but time
    UNREACHABLE = "unreachable"  # no connection to the service: likewise
    MAYBE_RAN = "maybe ran"  # lost on the way there or back: nobody's fault, up to max_lost times
    CRASHED = "crashed"  # the worker died under it
    OUT_OF_MEMORY = "out of memory"  # it was killed for the memory it took
    TIMED_OUT = "timed out"  # stopped after timeout_s, or by the service
    KERNEL_RAISED = "kernel raised"  # the kernel's own exception: its task's affair alone
    REFUSED = "refused"  # would fail again just so: can't be encoded, can't be loaded


# What never reached the function.
NEVER_RAN: Final = frozenset(
    {FailureKind.THROTTLED, FailureKind.UNREACHABLE, FailureKind.DID_NOT_RUN}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why an attempt, or one task in it, brought no value.

    Attributes:
        kind: Class of failure; decides what happens next.
        detail: For people, for example "killed by SIGKILL".
        error: The exception to end with, where there is one already.
        is_fatal: No task of the run can do better (the kernel can't be loaded, say): it ends.
        wait_s: When the service said when to come again: in so many seconds.
        reason: Which limit it says was reached, in its own words.
        allowed_s: Of an attempt that the service had to end: its timeout, seconds.
        timeout_s: Of a task that its worker had to end: what it was allowed, seconds.
        hard_s: Likewise, but by the run itself, so that it didn't hang for ever: what it had.
        billed: What the attempt is billed for nevertheless, where that is known.
    """

    kind: FailureKind
    detail: str = ""
    error: Exception | None = None
    is_fatal: bool = False
    wait_s: float | None = None
    reason: str | None = None
    allowed_s: float | None = None
    timeout_s: float | None = None
    hard_s: float | None = None
    billed: BilledTime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When a failed task is tried again.

    Attributes:
        max_attempts: Attempts per task, the first one included. 3: a crash that is the machine's
            fault rarely strikes the same task three times; one that is the task's fault does.
        on: Exceptions of the kernel that are worth another attempt. None by default: a kernel that
            raises on a chunk usually raises again. `on=(ConnectionError,)` is typical for kernels
            that fetch.
        retry_timeouts: Whether a task stopped after `timeout_s` is tried again. Not by default: a
            kernel that hangs on a chunk usually hangs again. (When an environment of Lambda is
            silent until the function's own timeout, that counts as a crash.)
        base_s: Back-off before retry n is uniform in [0, min(cap_s, base_s * 2**n)], "full
            jitter" (AWS Architecture Blog, 2015), seconds.
        cap_s: Longest back-off, seconds.
        max_lost: Attempts of a task that may be lost between here and the service (connection
            reset, error 500) before it is given up; they don't count as `max_attempts`. 8: with
            one in ten lost, a task in a hundred million is.
    """

    max_attempts: int = 3
    on: tuple[type[Exception], ...] = ()
    retry_timeouts: bool = False
    base_s: float = 0.05
    cap_s: float = 20.0
    max_lost: int = 8

    def __post_init__(self) -> None:
        for name in ("max_attempts", "max_lost"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                msg = f"RetryPolicy({name}={value!r}) must be a whole number, 1 or more"
                raise UsageError(msg)
        for name in ("base_s", "cap_s"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and 0 <= value < math.inf):
                msg = f"RetryPolicy({name}={value!r}) must be a number of seconds, 0 or more"
                raise UsageError(msg)
        if not isinstance(self.on, tuple) or not all(
            isinstance(kind, type) and issubclass(kind, Exception) for kind in self.on
        ):
            msg = f"RetryPolicy(on={self.on!r}) must be a tuple of exception classes"
            raise UsageError(msg)

    def allows(self, failure: Failure, attempts: int) -> bool:
        """Whether a task that failed so after `attempts` attempts gets another one."""
        if attempts >= self.max_attempts or failure.is_fatal:
            return False
        match failure.kind:
            case FailureKind.TIMED_OUT:
                # A worker tells of a kernel that takes too long. That the service had to end it
                # means that the worker was silent: possibly its environment hung, not the kernel.
                return self.retry_timeouts or failure.allowed_s is not None
            case FailureKind.KERNEL_RAISED:
                return isinstance(failure.error, self.on)
            case FailureKind.REFUSED:
                return False
            case _:
                return True

    def delay_s(self, attempts: int, rng: Random) -> float:
        """Seconds to wait after `attempts` failed attempts."""
        ceiling = min(self.cap_s, self.base_s * 2.0 ** min(attempts, 64))
        return rng.uniform(0.0, ceiling)


def error_of(failure: Failure, *, index: int, attempts: int, timeout_s: float | None) -> Exception:
    """The exception with which a task ends that failed so."""
    if failure.error is not None:
        return failure.error
    match failure.kind:
        case FailureKind.TIMED_OUT:
            return TaskTimeoutError(
                index,
                failure.allowed_s or failure.timeout_s or timeout_s or 0.0,
                attempts,
                is_service=failure.allowed_s is not None,
            )
        case FailureKind.OUT_OF_MEMORY:
            return OutOfMemoryError(index, failure.detail or "was killed", attempts)
        case FailureKind.MAYBE_RAN:
            return TaskLostError(index, failure.detail or failure.kind.value, attempts)
        case FailureKind.CRASHED:
            return WorkerCrashedError(index, failure.detail or "died", attempts)
        case FailureKind.REFUSED:
            return ChunkError(index, failure.detail or "its chunk was refused")
        case _:
            return BackendError(f"task {index}: {failure.detail or failure.kind.value}")
