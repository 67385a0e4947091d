"""What one attempt asks of a worker: its kernel, its chunks, and how to run them.

A request's head names the kernel (with or without its code), its body is the list of chunks; each
backend carries it in its own way. `worker` reads it, and `reply` reads what comes back. Pure.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fanout._version import __version__
from fanout.codec import Encoded, ListEncoder
from fanout.errors import ChunkError, EncodeError
from fanout.retry import Failure, FailureKind
from fanout.tasks import Outcome
from fanout.wire import PROTOCOL, Message, python_minor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fanout.codec import Buffer
    from fanout.kernel_spec import KernelSpec
    from fanout.project import Top
    from fanout.spilled import Spill, Spilled


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
        ends_s: After how long its process ends, since it has the request; None: likewise.
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
    ends_s: float | None = None
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
            "ends_s": self.ends_s,
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
            failed.append(_unsent(task, error))
    if failed:  # rare: encode again without them
        errors = {outcome.index for outcome in failed}
        left = [task for task in tasks if task not in errors]
        request, kept, more = build(run, left, chunks, **changes)
        return request, kept, failed + more
    return dataclasses.replace(run, chunks=encoder.finish(), **changes), list(tasks), failed


def _unsent(task: int, cause: EncodeError) -> Outcome[Any]:
    """The outcome of a task that would fail again just so."""
    error = ChunkError(task, f"its chunk: {cause}")
    error.__cause__ = cause
    return Outcome(task, error=error, failure=Failure(kind=FailureKind.REFUSED, error=error))
