"""Records of what happened: outcomes of tasks, and the attempts that carried them.

Pure data, shared by the scheduler, the worker's client side and the faces.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from fanout.retry import Failure

R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Where an attempt ran, as the worker itself reports it.

    Attributes:
        id: Chosen by the worker at its start; the same for all attempts it serves.
        pid: Its process id.
        machine: Processor architecture, for example `x86_64`.
        versions: Of python, fanout and numpy over there.
    """

    id: str
    pid: int
    machine: str
    versions: dict[str, str] = field(default_factory=dict)


class BilledTime(NamedTuple):
    """What the invocations of one attempt are billed for, as far as that is known.

    Attributes:
        billed_ms: For how long, milliseconds, each invocation rounded up; starts included.
        init_ms: Of these, the starts of environments.
        memory_mb: What the environment has, MB.
        is_reported: Whether Lambda says so, in the REPORT line of each; else it is what the worker
            measured, or how long the answer took.
        invocations: How many: more than one if the worker asked for code.
        lost: Of how many more nothing is known, as their answers never came.
        answer_bytes: Of the bodies that came back.
        log_bytes: What was written to the log, as far as it was seen.
        is_log_whole: Whether that is all of it.
    """

    billed_ms: int
    init_ms: int
    memory_mb: int
    is_reported: bool
    invocations: int = 1
    lost: int = 0
    answer_bytes: int = 0
    log_bytes: int = 0
    is_log_whole: bool = False

    def plus(self, other: BilledTime | None) -> BilledTime:
        """This and a later invocation of the same attempt."""
        if other is None:
            return self
        return BilledTime(
            billed_ms=self.billed_ms + other.billed_ms,
            init_ms=self.init_ms + other.init_ms,
            memory_mb=other.memory_mb,
            is_reported=self.is_reported and other.is_reported,
            invocations=self.invocations + other.invocations,
            lost=self.lost + other.lost,
            answer_bytes=self.answer_bytes + other.answer_bytes,
            log_bytes=self.log_bytes + other.log_bytes,
            is_log_whole=self.is_log_whole and other.is_log_whole,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptReport:
    """An attempt that answered, measured at the far end.

    Attributes:
        attempt: Number of the attempt within the run, from 0.
        environment: Where it ran.
        is_cold: Whether it was the first attempt of its environment.
        received_epoch_s: When the worker had read the request, by the worker's clock, Unix seconds.
        setup_s: Decoding the request and loading the kernel, seconds.
        kernel_s: Inside the kernel, summed over the tasks of the attempt, seconds.
        compile_s: How long numba compiled, within these two, seconds; 0 if it did not.
        total_s: From request read to reply ready, seconds; and what was compiled before, if the
            kernel was loaded by a request of its own.
        peak_memory_bytes: Largest resident size of the worker process so far; None if unknown.
        payload_bytes: Request and reply together.
        billed: What it is billed for; None where nothing is.
    """

    attempt: int
    environment: Environment
    is_cold: bool
    received_epoch_s: float
    setup_s: float
    kernel_s: float
    compile_s: float
    total_s: float
    peak_memory_bytes: int | None
    payload_bytes: int
    billed: BilledTime | None = None


@dataclass(frozen=True, slots=True)
class Outcome(Generic[R]):
    """What became of one task: a value or an error, with its measurements.

    Attributes:
        index: Position of the chunk in the input, from 0.
        value: What the kernel returned; None if the task failed.
        error: Why the task failed; None if it succeeded.
        attempts: How many attempts the task took; those that were not its fault are not counted.
        kernel_s: Time inside the kernel, seconds; 0 if unknown.
        report: The attempt that produced it; None if no attempt answered.
        stdout: What the kernel printed (Python's `sys.stdout`), at most 16 KiB.
        stderr: What it wrote to `sys.stderr`, at most 16 KiB.
        failure: How it failed, in the scheduler's terms; callers read `error`.
    """

    index: int
    value: R | None = None
    error: Exception | None = None
    attempts: int = 1
    kernel_s: float = 0.0
    report: AttemptReport | None = None
    stdout: str = ""
    stderr: str = ""
    failure: Failure | None = field(default=None, repr=False, compare=False)

    @property
    def is_ok(self) -> bool:
        """Whether the task succeeded."""
        return self.error is None

    def result(self) -> R:
        """Return the kernel's value.

        Raises:
            Exception: The task's error, if it failed.
        """
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]  # None only where the kernel returned None
