"""What a journal is told of its run, and how much it keeps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fanout.kernel_spec import KernelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What the journal has to know of a run.

    Attributes:
        run: Its id, if it is new.
        name: As the caller named it.
        spec: The kernel.
        backend: Name of the backend.
        total: Number of tasks, where known.
        is_safe: Whether pickle is refused.
        is_own: Whether the input comes out of the journal itself.
        recipe: What it takes to resume it without the call that began it.
    """

    run: str
    name: str | None
    spec: KernelSpec
    backend: str
    total: int | None
    is_safe: bool = False
    is_own: bool = False
    recipe: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much is kept.

    Attributes:
        chunk_bytes: Larger chunks are not kept: then the run is resumed by the call that began it,
            and not from the command line.
        chunks_bytes: All chunks of a run that are kept.
        value_bytes: Larger results are not kept, and are computed again.
        unasked_bytes: The whole journal, if nobody asked for one.
    """

    chunk_bytes: int = 2**20
    chunks_bytes: int = 2**30
    value_bytes: int = 64 * 2**20
    unasked_bytes: int = 5 * 2**30
