"""What a worker tells of a failure, as the exception that the caller sees.

That is the kernel's own exception if this process can have it; `failure_report` is the far end.
What came may be damaged or made up: only exceptions are built, and nothing that building one may
raise gets out. Pure.
"""

from __future__ import annotations

import builtins
import reprlib
from typing import TYPE_CHECKING, Any, Final

from fanout.codec import Encoded, decode
from fanout.errors import (
    ChunkError,
    KernelError,
    KernelLoadError,
    ProtocolError,
    ResultError,
    StoreError,
    TaskTimeoutError,
)
from fanout.retry import Failure, FailureKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fanout.codec import Buffer

# An exception of one of these classes means something to whoever awaits the map; raised from there
# it would be mistaken for that.
_NOT_RAISED_HERE: Final = (StopIteration, StopAsyncIteration)
_CHUNK_REPR_CHARACTERS: Final = 120


def refusal(reason: Mapping[str, str]) -> Failure:
    """Why a worker can't run a request as a whole."""
    message = reason["message"]
    error: Exception
    if reason["kind"] == "store":  # another request may be luckier
        return Failure(kind=FailureKind.REFUSED, error=StoreError(message))
    if reason["kind"] == "protocol":
        error = ProtocolError(message)
    elif reason["kind"] == "stale":
        error = KernelLoadError(
            f"{message}: either the file changed after it was imported here (restart, or reload "
            "the module), or the worker's image has another version of it (deploy it again)"
        )
    else:
        error = KernelLoadError(f"{message}. Remote traceback:\n{reason['traceback']}")
    return Failure(kind=FailureKind.REFUSED, detail=message, error=error, is_fatal=True)


def task_failure(
    task: int,
    remote: Mapping[str, Any],
    buffers: list[Buffer],
    *,
    attempts: int,
    is_safe: bool,
) -> Failure:
    """Why a task failed.

    Args:
        task: Which.
        remote: What the reply says of it, as `failure_report` has described it.
        buffers: Of the reply.
        attempts: The number of its present attempt.
        is_safe: Whether pickle is refused.
    """
    message = remote["message"]
    if remote["kind"] == "timeout":
        late = TaskTimeoutError(
            task, remote["allowed_s"], attempts, is_service=remote["is_service"]
        )
        late.add_note(_where(task, remote))
        hard_s = remote["allowed_s"] if remote.get("is_hard") else None
        return Failure(kind=FailureKind.TIMED_OUT, error=late, hard_s=hard_s)
    if remote["kind"] == "result":
        error: Exception = ResultError(task, f"its result: {message}")
    elif remote["kind"] == "store":
        error = StoreError(message)
    elif remote["kind"] == "chunk":
        error = ChunkError(task, f"its chunk can't be decoded by the worker: {message}")
    else:
        raised = _rebuilt(remote, buffers, is_safe)
        error = KernelError(task, remote["type"], message) if raised is None else raised
        error.add_note(_where(task, remote))
        return Failure(kind=FailureKind.KERNEL_RAISED, error=error)
    return Failure(kind=FailureKind.REFUSED, error=error)


def unreadable(task: int, cause: Exception) -> Failure:
    """The failure of a task whose result came, and can't be decoded here."""
    error = ResultError(task, f"its result can't be decoded here: {cause}")
    error.__cause__ = cause
    return Failure(kind=FailureKind.REFUSED, error=error)


def describe_chunk(chunk: object) -> str:
    """A chunk in a line, whatever it is."""
    shortener = reprlib.Repr()
    shortener.maxother, shortener.maxstring = _CHUNK_REPR_CHARACTERS, 60
    try:
        shape = getattr(chunk, "shape", None)
        if shape is not None and hasattr(chunk, "dtype"):
            return f"{type(chunk).__name__} of shape {shape}, dtype {chunk.dtype}"
        return shortener.repr(chunk)[:_CHUNK_REPR_CHARACTERS]
    except Exception:  # noqa: BLE001  # a broken __repr__ must not hide the failure
        return f"a {type(chunk).__name__}"


def _where(task: int, remote: Mapping[str, Any]) -> str:
    return f"remote traceback of task {task}:\n{remote['traceback'].rstrip()}"


def _rebuilt(remote: Mapping[str, Any], buffers: list[Buffer], is_safe: bool) -> Exception | None:
    """The kernel's own exception, if this process can have it; foreign constructors may fail."""
    if "body" not in remote:
        return None
    encoded = Encoded(remote["body"].encode("ascii"), buffers[remote["buffers_from"] :])
    try:
        raised = decode(encoded, is_safe=is_safe)
        if "builtin" in remote:
            kind = getattr(builtins, remote["builtin"])
            if not issubclass(kind, Exception):  # eval is a built-in, too
                return None
            args, *state = raised
            raised = kind(*args)
            for attributes in state:
                raised.__setstate__(attributes)
    except (Exception, SystemExit):  # noqa: BLE001
        return None
    is_usable = (
        isinstance(raised, Exception)
        and not isinstance(raised, _NOT_RAISED_HERE)
        and isinstance(getattr(raised, "__notes__", []), list)  # more are to be added
    )
    return raised if is_usable else None
