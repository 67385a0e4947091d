"""What a journal is told of its run, how much it keeps, and what to do if it can't be read."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fanout.errors import JournalError

if TYPE_CHECKING:
    from pathlib import Path

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
        value_bytes: Larger results are objects of their own, in a store or beside the journal.
        waiting_bytes: Of such results, how much may be on its way there, and how much on its way
            back to the caller.
        at_once: How many objects are written at a time, and how many read.
        unasked_bytes: The whole journal, if nobody asked for one.
        patient_s: From when on it is told that the end of a run waits for them, seconds.
        failed_s: How long a run that failed waits for what is on its way, seconds.
        cancelled_s: The same for one that was cancelled.
    """

    chunk_bytes: int = 2**20
    chunks_bytes: int = 2**30
    value_bytes: int = 64 * 2**20
    waiting_bytes: int = 512 * 2**20
    at_once: int = 4
    unasked_bytes: int = 5 * 2**30
    patient_s: float = 5.0
    failed_s: float = 30.0
    cancelled_s: float = 2.0


def unreadable(about: About, path: Path, error: BaseException) -> JournalError:
    """What to do about a journal that can't be read or written."""
    run = about.name or about.run
    # "No such table" and the like are operational errors, too.
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if isinstance(error, OSError | sqlite3.OperationalError) and code != sqlite3.SQLITE_ERROR:
        return JournalError(
            f"the journal of run {run} can't be opened or written ({error}): see that there is "
            f"room where {path} lies, and that you may write there; or give the run another name"
        )
    return JournalError(
        f"the journal of run {run} can't be read ({error}): pass on_change='restart' to do all "
        f"again, remove it ({path}), or give the run another name"
    )
