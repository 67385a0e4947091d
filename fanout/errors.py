"""What can go wrong, one class per remedy.

    FanoutError
    ├── UsageError                the call itself is wrong: change the call
    │   ├── KernelNotUsableError  this kernel can't travel to a worker
    │   ├── PriceMissingError     a price isn't known for the region
    │   └── RunChangedError       a named run has another kernel or input than before
    ├── CodecError
    │   ├── EncodeError           a value can't be sent
    │   └── DecodeError           bytes are damaged, foreign, or refused by codec="safe"
    ├── TaskError                 one task failed; .index says which
    │   ├── ChunkError            its chunk can't be sent
    │   ├── ResultError           its result can't be sent back
    │   ├── KernelError           the kernel raised what can't be raised here
    │   ├── TaskTimeoutError      it ran longer than it may
    │   ├── WorkerCrashedError    its worker died under it
    │   ├── OutOfMemoryError      its worker was killed for the memory it took
    │   └── TaskLostError         its attempts were lost between here and the service
    ├── StoreError                an object can't be put into the store, or had from it
    ├── BudgetExceededError       the run may not cost any more; .run has what was done
    ├── JournalError              what is kept of a run can't be read
    ├── PriceListError            AWS's price list can't be had or read
    ├── KernelLoadError           a worker can't load the kernel: no task can run
    ├── ProtocolError             client and worker don't speak the same version
    └── BackendError              the backend can't run anything at all

An ordinary exception raised by a kernel is raised here as it is, so that `except ValueError` works
as it does in a loop; notes on it name the task, its chunk and the remote traceback.

`may_retry` says whether another attempt can help. Nothing here imports more than the standard
library: the worker uses these classes too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from fanout.outcomes import Run


class FanoutError(Exception):
    """Base of every error that fanout itself raises."""

    may_retry: ClassVar[bool] = False

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as it is: constructors here take other arguments than the message."""
        return _restored, (type(self), self.args, self.__dict__)


def _restored(
    kind: type[FanoutError], args: tuple[object, ...], state: dict[str, object]
) -> FanoutError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class UsageError(FanoutError):
    """An argument is wrong; the message names it, its value and what to pass instead."""


class KernelNotUsableError(UsageError):
    """The kernel can't be sent to a worker.

    Attributes:
        kernel: How the kernel presents itself.
    """

    def __init__(self, kernel: str, why: str, hint: str) -> None:
        super().__init__(f"kernel {kernel} {why}: {hint}")
        self.kernel = kernel


class PriceMissingError(UsageError):
    """What something costs in a region is not known; another region's price never stands in.

    Attributes:
        region: The region.
        item: What has no price, for example "nat.hour".
    """

    def __init__(self, region: str, item: str) -> None:
        super().__init__(
            f"what {item} costs in {region} is not known: `fanout cost prices refresh --region "
            f"{region}` reads it from AWS's public price list, without an account"
        )
        self.region = region
        self.item = item


class RunChangedError(UsageError):
    """A run that is to be resumed has another kernel or input than it was begun with."""

    def __init__(self, run: str, what: str) -> None:
        super().__init__(
            f"run {run} can't be resumed: {what}. Pass on_change='reuse' to keep the results of "
            "chunks that are as they were, on_change='restart' to do all again, or another name"
        )


class CodecError(FanoutError):
    """A value could not be turned into bytes, or bytes into a value."""


class EncodeError(CodecError):
    """A value can't be encoded.

    Attributes:
        type_name: The type that stood in the way, as `module.qualname`.
    """

    def __init__(self, type_name: str, why: str, hint: str) -> None:
        super().__init__(f"a value of type {type_name} {why}: {hint}")
        self.type_name = type_name


class DecodeError(CodecError):
    """Bytes can't be decoded, or must not be."""


class TaskError(FanoutError):
    """One task failed.

    Attributes:
        index: Position of the task's chunk in the input, from 0.
    """

    def __init__(self, index: int, message: str) -> None:
        super().__init__(f"task {index}: {message}")
        self.index = index


class ChunkError(TaskError):
    """The chunk of a task can't be sent; the cause says why."""


class ResultError(TaskError):
    """The kernel returned something that can't be sent back."""


class KernelError(TaskError):
    """The kernel raised something that can't be raised here as it is.

    That is an exception whose class this process can't rebuild, or one that would end this
    process or its event loop (`SystemExit`, `KeyboardInterrupt`, `CancelledError`).

    Attributes:
        type_name: Class of the remote exception, as `module.qualname`.
        remote_message: Its text.
    """

    def __init__(self, index: int, type_name: str, remote_message: str) -> None:
        super().__init__(index, f"kernel raised {type_name}: {remote_message}")
        self.type_name = type_name
        self.remote_message = remote_message


class TaskTimeoutError(TaskError):
    """The task ran longer than it may.

    Attributes:
        timeout_s: What it was allowed, seconds.
        attempts: How often it was tried.
    """

    def __init__(
        self, index: int, timeout_s: float, attempts: int, *, is_service: bool = False
    ) -> None:
        remedy = (
            "that is the function's own timeout: deploy it with a longer one (Lambda allows 900 s)"
            if is_service
            else "raise timeout_s"
        )
        super().__init__(
            index,
            f"still running after {timeout_s:g} s, so its worker was stopped"
            f"{_after(attempts)}: {remedy}, or make the chunk smaller",
        )
        self.timeout_s = timeout_s
        self.attempts = attempts


class WorkerCrashedError(TaskError):
    """The worker died while it ran the task.

    Attributes:
        how: How it died, for example "killed by SIGKILL".
        attempts: How often the task was tried.
    """

    may_retry = True

    def __init__(self, index: int, how: str, attempts: int) -> None:
        super().__init__(
            index,
            f"its worker {how}{_after(attempts)}: if memory ran out, use smaller chunks or fewer "
            "workers; otherwise run the kernel on this chunk alone to see why",
        )
        self.how = how
        self.attempts = attempts


class OutOfMemoryError(TaskError):
    """The worker was killed while it ran the task, since it took more memory than there is.

    Attributes:
        how: How it ended, for example "was killed by Lambda with 512 MB".
        attempts: How often the task was tried.
    """

    may_retry = True

    def __init__(self, index: int, how: str, attempts: int) -> None:
        super().__init__(
            index,
            f"its worker {how}, most likely because memory ran out{_after(attempts)}: use smaller "
            "chunks, or deploy the function with more memory",
        )
        self.how = how
        self.attempts = attempts


class TaskLostError(TaskError):
    """Every attempt of the task was lost on the way to the service or back.

    Whether any of them ran is not known.

    Attributes:
        how: How the last one was lost, for example "connection reset".
        attempts: How often the task was tried.
    """

    may_retry = True

    def __init__(self, index: int, how: str, attempts: int) -> None:
        super().__init__(
            index,
            f"its attempts were lost, the last of {attempts}: {how}; it may have run: check the "
            "connection and the service's health, then run it again",
        )
        self.how = how
        self.attempts = attempts


class StoreError(FanoutError):
    """An object can't be put into the store or had from it; the message says what to do."""


class BudgetExceededError(FanoutError):
    """The run ended before all tasks were done, since it might have cost more than it may.

    Attributes:
        spent_gb_s: What it cost, GB-seconds.
        max_gb_s: What it may cost, GB-seconds; None if `max_usd` ended it.
        worst_gb_s: What its next attempt might have cost, GB-seconds.
        run: What was done until then; None if there is no record of it.
        spent_usd: What its time and its requests cost, US dollars; None if `max_gb_s` ended it.
        max_usd: What they may cost.
        worst_usd: What those of its next attempt might have cost.
    """

    def __init__(
        self,
        spent_gb_s: float,
        max_gb_s: float | None,
        worst_gb_s: float,
        run: Run[Any] | None = None,
        *,
        spent_usd: float | None = None,
        max_usd: float | None = None,
        worst_usd: float | None = None,
    ) -> None:
        if max_usd is None:
            told = (
                f"the run has cost {spent_gb_s:.6g} GB-seconds and may cost max_gb_s={max_gb_s:.6g}"
                f", which leaves too little for an attempt that takes {worst_gb_s:.6g} at worst: "
                "raise max_gb_s, or use a function with less memory"
            )
        else:
            told = (
                f"the run has cost {spent_usd:.6g} USD ({spent_gb_s:.6g} GB-seconds and its "
                f"requests) and may cost max_usd={max_usd:.6g}, which leaves too little for an "
                f"attempt that takes {worst_usd:.6g} at worst; logs, objects and transfer are not "
                "counted: raise max_usd, or use a function with less memory"
            )
        kept = "; what is done is in .run of this error" if run is not None else ""
        super().__init__(f"{told}{kept}")
        self.spent_gb_s = spent_gb_s
        self.max_gb_s = max_gb_s
        self.worst_gb_s = worst_gb_s
        self.run = run
        self.spent_usd = spent_usd
        self.max_usd = max_usd
        self.worst_usd = worst_usd

    def with_run(self, run: Run[Any]) -> BudgetExceededError:
        """The same, with what was done."""
        return BudgetExceededError(
            self.spent_gb_s,
            self.max_gb_s,
            self.worst_gb_s,
            run,
            spent_usd=self.spent_usd,
            max_usd=self.max_usd,
            worst_usd=self.worst_usd,
        )


class JournalError(FanoutError):
    """What is kept of a run can't be read; the message says what to do."""


class PriceListError(FanoutError):
    """AWS's price list can't be had or read; prices stay as they are."""


class KernelLoadError(FanoutError):
    """A worker can't load the kernel, so no task can run."""


class ProtocolError(FanoutError):
    """Client and worker run versions that don't understand each other."""


class BackendError(FanoutError):
    """The backend can't run anything, whatever the task."""


def _after(attempts: int) -> str:
    return f" (attempt {attempts})" if attempts > 1 else ""
