"""The client's half of the wire: builds requests, reads replies. `worker` is the other half.

A request's head names the kernel (with or without its code), its body is the list of chunks. A
reply's head is the worker's report and what failed, its body the list of values; or the worker
refused the request as a whole. Pure.
"""

from __future__ import annotations

import builtins
import dataclasses
import reprlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fanout._version import __version__
from fanout.codec import Encoded, ListEncoder, decode, decode_each
from fanout.errors import (
    ChunkError,
    DecodeError,
    EncodeError,
    KernelError,
    KernelLoadError,
    ProtocolError,
    ResultError,
    StoreError,
    TaskTimeoutError,
)
from fanout.events import AttemptAnswered, AttemptFailed
from fanout.retry import Failure, FailureKind
from fanout.tasks import AttemptReport, Environment, Outcome
from fanout.wire import PROTOCOL, Message, python_minor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fanout.codec import Buffer
    from fanout.kernel_spec import KernelSpec
    from fanout.project import Top
    from fanout.spilled import Spill, Spilled

# An exception of one of these classes means something to whoever awaits the map; raised from there
# it would be mistaken for that.
_NOT_RAISED_HERE = (StopIteration, StopAsyncIteration)
_CHUNK_REPR_CHARACTERS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One attempt, ready for a backend.

    Attributes:
        kernel: What to run.
        chunks: The encoded list of chunks.
        is_star: Whether each chunk is a tuple of arguments.
        is_safe: Whether pickle is refused on both sides.
        timeout_s: What a task may take, where the worker is to see to that; None: for ever, or the
            client does.
        soft_s: After how long the worker begins no further task; None: it runs them all.
        hard_s: After how long it ends the task that runs; None: whenever the service makes it.
        store: Locator of the store in which its refs are; None if there is none.
        spill: Where it and its reply may go if they are too large to be carried.
        is_idempotent: Whether it may run twice.
        is_escalated: Whether it goes to the larger function.
    """

    kernel: KernelSpec
    chunks: Encoded = field(default_factory=lambda: Encoded(b"[]"))
    is_star: bool = False
    is_safe: bool = False
    timeout_s: float | None = None
    soft_s: float | None = None
    hard_s: float | None = None
    store: Mapping[str, Any] | None = None
    spill: Spill | None = None
    is_idempotent: bool = True
    is_escalated: bool = False

    @property
    def nbytes(self) -> int:
        """Size of the chunks, bytes."""
        return self.chunks.nbytes

    def loading(self) -> Message:
        """A message that has a worker load the kernel, and run nothing."""
        return dataclasses.replace(self, chunks=Encoded(b"[]")).message()

    def message(
        self,
        *,
        with_code: bool = True,
        project: Sequence[Top] = (),
        with_project: bool = False,
        stored: Spilled | None = None,
    ) -> Message:
        """The message for a worker.

        Args:
            with_code: Whether to send the kernel's code, which the worker may have already.
            project: The user's modules that it needs, for a worker that may lack them.
            with_project: Whether to send these modules, too, and not their digests alone.
            stored: Where `code_message` is, instead of both.
        """
        spec = self.kernel
        kernel: dict[str, Any] = {"name": spec.name, "digest": spec.digest}
        buffers = list(self.chunks.buffers)
        if project:
            kernel["project"] = {top.name: top.digest for top in project}
        if stored is not None:
            kernel["stored"] = stored.told()
        elif with_code:
            kernel |= _code(spec, project if with_project else (), buffers)
        head = {
            "fanout": PROTOCOL,
            "version": __version__,
            "python": python_minor(),
            "kernel": kernel,
            "star": self.is_star,
            "safe": self.is_safe,
            "local_modules": sorted(spec.local_modules),
            "timeout_s": self.timeout_s,
            "soft_s": self.soft_s,
            "hard_s": self.hard_s,
            "store": self.store,
            "spill": self.spill.prefix if self.spill is not None else None,
        }
        return Message(head, Encoded(self.chunks.body, buffers))


def code_message(spec: KernelSpec, project: Sequence[Top]) -> Message:
    """The code of a kernel, and modules that it needs, on their own: for what is stored once."""
    buffers: list[Buffer] = []
    head = _code(spec, project, buffers)
    return Message(head, Encoded(b"null", buffers))


def _code(spec: KernelSpec, project: Sequence[Top], buffers: list[Buffer]) -> dict[str, Any]:
    """What is told of the code, whose bytes are added to the buffers."""
    told: dict[str, Any] = {}
    if project:
        told["bundle"] = {top.name: len(buffers) + at for at, top in enumerate(project)}
        buffers += [top.bundle for top in project]
    told |= {
        "target": spec.target,
        "source": spec.source,
        "code": spec.code.body.decode("ascii"),
        "buffers_from": len(buffers),
    }
    buffers += spec.code.buffers
    return told


def build(
    run: Request, tasks: Sequence[int], chunks: Mapping[int, object], **changes: Any
) -> tuple[Request, list[int], list[Outcome[Any]]]:
    """Encode the chunks of an attempt.

    Args:
        run: What all requests of the run have in common.
        tasks: Those that it carries.
        chunks: Of these tasks, and possibly others.
        **changes: Attributes in which this one differs from `run`.

    Returns:
        The request, the tasks that are in it, and an outcome for each task whose chunk can't be
        encoded.
    """
    encoder = ListEncoder(is_safe=run.is_safe, by_value=run.kernel.local_modules, copies=False)
    failed: list[Outcome[Any]] = []
    for task in tasks:
        try:
            encoder.add(chunks[task])
        except EncodeError as error:
            failed.append(refused(task, _caused(ChunkError(task, f"its chunk: {error}"), error)))
    if failed:  # rare: encode again without them
        errors = {outcome.index for outcome in failed}
        left = [task for task in tasks if task not in errors]
        request, kept, more = build(run, left, chunks, **changes)
        return request, kept, failed + more
    return dataclasses.replace(run, chunks=encoder.finish(), **changes), list(tasks), failed


def refused(task: int, error: Exception) -> Outcome[Any]:
    """The outcome of a task that would fail again just so."""
    failure = Failure(kind=FailureKind.REFUSED, error=error)
    return Outcome(task, error=error, failure=failure)


def read(
    reply: Message,
    *,
    attempt: int,
    tasks: Sequence[int],
    is_safe: bool,
    request_bytes: int = 0,
    attempts_of: Callable[[int], int],
    environments: dict[str, Environment],
) -> AttemptAnswered | AttemptFailed:
    """Turn a worker's reply into what the scheduler wants to hear.

    Args:
        reply: What the worker sent.
        attempt: Number of the attempt.
        tasks: The tasks that were in the request, in order.
        is_safe: Whether pickle is refused.
        request_bytes: Size of the request.
        attempts_of: The number of a task's present attempt.
        environments: Those met so far, by id; new ones are added.

    Raises:
        DecodeError: The reply is not one, or not to this request.
    """
    try:
        # First of all, and the same in every protocol: a worker of another one answers so.
        if "refused" in reply.head:
            return AttemptFailed(attempt, _refusal(reply.head["refused"]))
        if reply.head.get("fanout") != PROTOCOL:
            raise DecodeError(f"a reply in protocol {reply.head.get('fanout')}, not {PROTOCOL}")
        payload_bytes = request_bytes + reply.payload.nbytes
        report = _report(reply.head["report"], attempt, payload_bytes, environments)
        done = len(tasks) - reply.head.get("left", 0)
        outcomes = _outcomes(reply, tasks[:done], report, attempts_of, is_safe)
    except (LookupError, TypeError, ValueError) as error:
        raise DecodeError(f"a reply that is damaged ({type(error).__name__}: {error})") from error
    return AttemptAnswered(attempt, outcomes, report, tasks[done:])


def _report(
    told: Mapping[str, Any], attempt: int, payload_bytes: int, environments: dict[str, Environment]
) -> AttemptReport:
    return AttemptReport(
        attempt=attempt,
        environment=_environment(told["environment"], environments),
        is_cold=told["cold"],
        received_epoch_s=told["received_epoch_s"],
        setup_s=told["setup_s"],
        kernel_s=told["kernel_s"],
        compile_s=told["compile_s"],
        total_s=told["total_s"],
        peak_memory_bytes=told["peak_memory_bytes"],
        payload_bytes=payload_bytes,
    )


def _outcomes(
    reply: Message,
    tasks: Sequence[int],
    report: AttemptReport,
    attempts_of: Callable[[int], int],
    is_safe: bool,
) -> list[Outcome[Any]]:
    values, undecoded = decode_each(reply.payload, is_safe=is_safe)
    if len(values) != len(tasks):
        raise DecodeError(f"a reply with {len(values)} results for {len(tasks)} tasks")
    outcomes = [
        Outcome(task, value, None, attempts_of(task), ns * 1e-9, report)
        for task, value, ns in zip(tasks, values, reply.head["ns"], strict=True)
    ]
    printed = {position: (out, err) for position, out, err in reply.head["printed"]}
    failures = {position: Failure(kind=FailureKind.REFUSED, error=_unreadable(tasks[position], e))
                for position, e in undecoded.items()}  # fmt: skip
    for position, remote in reply.head["failed"]:
        failures[position] = _task_failure(tasks[position], remote, reply, is_safe, attempts_of)
    for position in {*printed, *failures}:
        plain, failure = outcomes[position], failures.get(position)
        out, err = printed.get(position, ("", ""))
        outcomes[position] = Outcome(
            plain.index,
            plain.value if failure is None else None,
            failure.error if failure else None,
            plain.attempts,
            plain.kernel_s,
            report,
            out,
            err,
            failure,
        )
    return outcomes


def is_unknown_kernel(reply: Message) -> bool:
    """Whether the worker asks for the kernel's code."""
    return bool(reply.head.get("refused", {}).get("kind") == "unknown kernel")


def is_refused(reply: Message) -> bool:
    """Whether the worker can't run the request as a whole."""
    return "refused" in reply.head


def lacks_code(reply: Message) -> bool:
    """Whether the worker asks for modules of the user's project."""
    return bool(reply.head.get("refused", {}).get("kind") == "lacks code")


def is_stale(reply: Message) -> bool:
    """Whether the worker holds an older version of the kernel's module."""
    return bool(reply.head.get("refused", {}).get("kind") == "stale")


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


def _environment(told: Mapping[str, Any], known: dict[str, Environment]) -> Environment:
    environment = known.get(told["id"])
    if environment is None:
        environment = known[told["id"]] = Environment(**told)
    return environment


def _refusal(reason: Mapping[str, str]) -> Failure:
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


def _unreadable(task: int, cause: Exception) -> Exception:
    return _caused(ResultError(task, f"its result can't be decoded here: {cause}"), cause)


def _task_failure(
    task: int,
    remote: Mapping[str, Any],
    reply: Message,
    is_safe: bool,
    attempts_of: Callable[[int], int],
) -> Failure:
    message = remote["message"]
    if remote["kind"] == "timeout":
        late = TaskTimeoutError(
            task, remote["allowed_s"], attempts_of(task), is_service=remote["is_service"]
        )
        late.add_note(_where(task, remote))
        return Failure(kind=FailureKind.TIMED_OUT, error=late)
    if remote["kind"] == "result":
        error: Exception = ResultError(task, f"its result: {message}")
    elif remote["kind"] == "store":
        error = StoreError(message)
    elif remote["kind"] == "chunk":
        error = ChunkError(task, f"its chunk can't be decoded by the worker: {message}")
    else:
        raised = _rebuilt(remote, reply, is_safe)
        error = KernelError(task, remote["type"], message) if raised is None else raised
        error.add_note(_where(task, remote))
        return Failure(kind=FailureKind.KERNEL_RAISED, error=error)
    return Failure(kind=FailureKind.REFUSED, error=error)


def _where(task: int, remote: Mapping[str, Any]) -> str:
    return f"remote traceback of task {task}:\n{remote['traceback'].rstrip()}"


def _rebuilt(remote: Mapping[str, Any], reply: Message, is_safe: bool) -> Exception | None:
    """The kernel's own exception, if this process can have it; foreign constructors may fail."""
    if "body" not in remote:
        return None
    encoded = Encoded(
        remote["body"].encode("ascii"), reply.payload.buffers[remote["buffers_from"] :]
    )
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


def _caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error
