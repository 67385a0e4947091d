"""One session of a run: its journal is begun, or gone on with.

A run is resumed in sessions, each a process or a call. What earlier ones have spent at worst counts
as spent: nobody knows for how long attempts ran whose client was killed.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fanout._version import __version__
from fanout.codec import decode
from fanout.errors import DecodeError, RunChangedError
from fanout.journal.folder import read_meta, run_of
from fanout.journal.recipe import packed_spec, spec_in
from fanout.journal.sameness import is_same
from fanout.journal.schema import PUT_KERNEL, PUT_META, TABLES, VERSION
from fanout.journal.values import framed
from fanout.wire import unframe

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

    from fanout.codec import Encoded
    from fanout.journal.about import About
    from fanout.journal.folder import Locator
    from fanout.kernel_spec import KernelSpec
    from fanout.options import OnChange


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What is known at its beginning.

    Attributes:
        run: Id of the run, which it keeps when it is resumed.
        number: How many there were before.
        spent_gb_s: What earlier ones cost at worst, GB-seconds.
        spent_requests: For how many invocations they paid at most.
        has_earlier: Whether there was one.
        stores: Where results of the run are besides, as earlier ones said.
    """

    run: str
    number: int
    spent_gb_s: float
    spent_requests: int
    has_earlier: bool
    stores: list[Locator]


def begin(database: sqlite3.Connection, path: Path, about: About, on_change: OnChange) -> Session:
    """Write down that a session begins.

    Raises:
        RunChangedError: The kernel is not as it was.
        JournalError: The journal is of another version.
        sqlite3.Error: It can't be read or written.
    """
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")
    database.execute("BEGIN IMMEDIATE")
    is_new = not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone()
    for statement in TABLES.split(";"):
        database.execute(statement)
    meta = {} if is_new else read_meta(database)
    if meta and on_change == "refuse":
        _check_kernel(database, meta, about)
    session = Session(
        run=meta.get("run", run_of(path)),
        number=meta.get("session", -1) + 1,
        spent_gb_s=meta.get("spent_gb_s", 0.0) + meta.get("reserved_gb_s", 0.0),
        spent_requests=meta.get("spent_requests", 0),
        has_earlier=bool(meta),
        stores=meta.get("stores", []),
    )
    meta |= {"name": meta.get("name", about.name), **_told(session, about)}
    meta.setdefault("began_epoch_s", time.time())
    database.executemany(PUT_META, [(key, json.dumps(value)) for key, value in meta.items()])
    database.execute("DELETE FROM kernel")
    database.execute(PUT_KERNEL, packed_spec(about.spec))
    database.execute("COMMIT")
    return session


def _told(session: Session, about: About) -> dict[str, Any]:
    return {
        "version": VERSION,
        "fanout": __version__,
        "run": session.run,
        "session": session.number,
        "kernel": about.spec.name,
        "digest": about.spec.digest,
        "backend": about.backend,
        "total": about.total,
        "error": None,
        "recipe": about.recipe,
        "state": "running",
        "pid": os.getpid(),
        "spent_gb_s": session.spent_gb_s,
        "reserved_gb_s": 0.0,
    }


def _check_kernel(database: sqlite3.Connection, meta: dict[str, Any], about: About) -> None:
    if meta["digest"] == about.spec.digest:
        return
    if not _is_same_kernel(spec_in(database), about.spec, is_safe=about.is_safe):
        what = f"the kernel {about.spec.name} is not as it was"
        raise RunChangedError(about.name or meta["run"], what)


def _is_same_kernel(one: KernelSpec, other: KernelSpec, *, is_safe: bool) -> bool:
    """Whether kernels are the same, though their bytes are not."""
    if (one.target, one.source) != (other.target, other.source):
        return False
    try:
        was = decode(_own(one.code), is_safe=is_safe)
        now = decode(_own(other.code), is_safe=is_safe)
    except DecodeError:
        return False
    return is_same(was, now, one.local_modules | other.local_modules)


def _own(code: Encoded) -> Encoded:
    """The same in memory of its own, so that decoding it gives nothing that others have."""
    return unframe(memoryview(bytearray(b"".join(framed(code))))).payload
