"""What runs have measured, kept for those of later processes: times of tasks, starts, launches.

    ~/.local/state/fanout/knowledge.db      on Linux; FANOUT_HOME overrides

One SQLite file of three small tables, which only its owner may read. What is recalled is where a
run begins, no truth: it learns on from there, and no result depends on it. So nothing that befalls
the file is an error: what can't be read is not known, what can't be written is not kept, a file
that is damaged is begun anew, and the worst of it is a line in the log. Everything here may block,
for a second at most: call it in a thread.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import platform
import sqlite3
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from fanout.grouping import Estimate
from fanout.journal.folder import clear, home
from fanout.journal.sameness import content_digest
from fanout.journal.values import has_pickle

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from fanout.backends import Site
    from fanout.kernel_spec import KernelSpec

_LOG: Final = logging.getLogger("fanout")
# Of the tables; a file of another version is left alone.
VERSION: Final = 1
# What was measured so long ago is not known any more, seconds; and of each table no more is kept.
_KEPT_S: Final = 90 * 24 * 3600.0
_MOST_ROWS: Final = 10_000
# So many kernels of a site are recalled, those that were measured last: it takes 10 ms.
_MOST_RECALLED: Final = 1000
# For how long others may hold the file, seconds.
_BUSY_S: Final = 0.5
# A file with these errors is no use to anybody: not SQLite's, inconsistent, or without our tables.
_DAMAGED: Final = {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR}
# Larger kernels are not looked into.
_MOST_CODE_BYTES: Final = 2**20

_TABLES: Final = (
    "CREATE TABLE kernels (kernel TEXT, backend TEXT, memory_mb INTEGER, architecture TEXT,"
    " unit_s REAL, task_bytes REAL, tasks INTEGER, measured_epoch_s REAL,"
    " PRIMARY KEY (kernel, backend, memory_mb, architecture))",
    "CREATE TABLE starts (function TEXT, is_warm INTEGER, bins TEXT, answers INTEGER,"
    " measured_epoch_s REAL, PRIMARY KEY (function, is_warm))",
    "CREATE TABLE clients (client TEXT, backend TEXT, launches_per_s REAL, measured_epoch_s REAL,"
    " PRIMARY KEY (client, backend))",
    f"PRAGMA user_version = {VERSION}",
)
_KERNELS: Final = (
    "SELECT kernel, unit_s, task_bytes, tasks FROM kernels"
    " WHERE backend = ? AND memory_mb = ? AND architecture = ? AND measured_epoch_s > ?"
    " ORDER BY measured_epoch_s DESC LIMIT ?"
)
_STARTS: Final = (
    "SELECT is_warm, bins, answers FROM starts WHERE function = ? AND measured_epoch_s > ?"
)
_CLIENTS: Final = (
    "SELECT launches_per_s FROM clients WHERE client = ? AND backend = ? AND measured_epoch_s > ?"
)

_PUT_KERNEL: Final = "INSERT OR REPLACE INTO kernels VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_PUT_START: Final = "INSERT OR REPLACE INTO starts VALUES (?, ?, ?, ?, ?)"
_PUT_CLIENT: Final = "INSERT OR REPLACE INTO clients VALUES (?, ?, ?, ?)"
# A bin and the answers in it that a `Spread` may have here; anything else was not written by us.
_BINS: Final = range(-1000, 1000)
_ANSWERS: Final = range(1, 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskTime:
    """What the tasks of a kernel take.

    Attributes:
        estimate: What a run may begin with.
        tasks: Of how many it was measured.
    """

    estimate: Estimate
    tasks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StartTimes:
    """What answers take beyond the run of their kernel.

    Attributes:
        bins: Of a `Spread`, how many answers there are in each.
        answers: Of how many it was measured.
    """

    bins: Mapping[int, int]
    answers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of a site.

    Attributes:
        kernels: By `kernel_key`.
        starts: By whether environments were warm.
        launches_per_s: What this machine can do there; None if that was not measured.
    """

    kernels: Mapping[str, TaskTime] = field(default_factory=dict)
    starts: Mapping[bool, StartTimes] = field(default_factory=dict)
    launches_per_s: float | None = None


class Knowledge:
    """The file.

    Args:
        path: Where; by default in `home()`.
        client: Names this machine.
        most_rows: So much of each table is kept.
        busy_s: For how long others may hold it, seconds.
        now_s: Tells the time, Unix seconds.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        client: str | None = None,
        most_rows: int = _MOST_ROWS,
        busy_s: float = _BUSY_S,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self.path = path or home() / "knowledge.db"
        self._client = client or platform.node()
        self._most_rows = most_rows
        self._busy_s = busy_s
        self._now_s = now_s
        self._is_damaged = self._has_told = False

    def recall(self, site: Site) -> Known:
        """What is known of a site: nothing, if it can't be read."""
        try:
            if not self.path.exists():
                return Known()
            uri = f"{self.path.as_uri()}?mode=ro"
            with contextlib.closing(
                sqlite3.connect(uri, uri=True, timeout=self._busy_s)
            ) as database:
                if _version_of(database) != VERSION:
                    self._tell("it is of another version")
                    return Known()
                return self._read(database, site)
        except (sqlite3.Error, OSError, ValueError) as error:
            self._is_damaged = is_damage(error)
            self._tell(error)
            return Known()

    def keep(self, site: Site, found: Known) -> None:
        """Add what was measured, in place of what was known of the same; nothing, if it can't be.

        Args:
            site: Where.
            found: What was measured since.
        """
        try:
            if self._is_damaged:
                clear(self.path)
                self._is_damaged = False
            try:
                self._write(site, found)
            except sqlite3.Error as error:
                if not is_damage(error):
                    raise
                clear(self.path)
                self._write(site, found)
        except (sqlite3.Error, OSError, ValueError) as error:
            self._tell(error)

    # ---- inside ----

    def _read(self, database: sqlite3.Connection, site: Site) -> Known:
        oldest_s = self._now_s() - _KEPT_S
        where = (site.kind, site.memory_mb, site.architecture, oldest_s, _MOST_RECALLED)
        kernels = {
            str(kernel): TaskTime(
                estimate=Estimate(unit_s=unit_s, task_bytes=task_bytes), tasks=tasks
            )
            for kernel, unit_s, task_bytes, tasks in database.execute(_KERNELS, where)
            if _are_amounts(unit_s, task_bytes)
        }
        starts = {}
        for is_warm, text, answers in database.execute(_STARTS, (site.function, oldest_s)):
            if (bins := bins_in(text)) is not None:
                starts[bool(is_warm)] = StartTimes(bins=bins, answers=answers)
        rate = database.execute(_CLIENTS, (self._client, site.kind, oldest_s)).fetchone()
        is_rate = rate is not None and _are_amounts(*rate) and rate[0] > 0
        return Known(kernels=kernels, starts=starts, launches_per_s=rate[0] if is_rate else None)

    def _write(self, site: Site, found: Known) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        with contextlib.closing(
            sqlite3.connect(self.path, isolation_level=None, timeout=self._busy_s)
        ) as database:
            # Not worth waiting for the disk: what a power failure damages is begun anew.
            database.execute("PRAGMA synchronous = OFF")
            database.execute("BEGIN IMMEDIATE")
            try:
                is_ours = self._is_prepared(database)
                if is_ours:
                    self._put(database, site, found)
                    self._tidy(database)
                database.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    database.execute("ROLLBACK")
                raise
        if not is_ours:
            self._tell("it is of another version")

    def _is_prepared(self, database: sqlite3.Connection) -> bool:
        """Whether the file has our tables; one that is empty gets them."""
        version = _version_of(database)
        if version == 0 and not database.execute("SELECT 1 FROM sqlite_master").fetchone():
            for statement in _TABLES:
                database.execute(statement)
            return True
        return version == VERSION

    def _put(self, database: sqlite3.Connection, site: Site, found: Known) -> None:
        now_s = self._now_s()
        place = (site.kind, site.memory_mb, site.architecture)
        database.executemany(
            _PUT_KERNEL,
            [
                (kernel, *place, time.estimate.unit_s, time.estimate.task_bytes, time.tasks, now_s)
                for kernel, time in found.kernels.items()
            ],
        )
        database.executemany(
            _PUT_START,
            [
                (site.function, is_warm, json.dumps([*start.bins.items()]), start.answers, now_s)
                for is_warm, start in found.starts.items()
            ],
        )
        if found.launches_per_s is not None:
            row = (self._client, site.kind, found.launches_per_s, now_s)
            database.execute(_PUT_CLIENT, row)

    def _tidy(self, database: sqlite3.Connection) -> None:
        """Remove what is too old, and the oldest of what is too much."""
        for table in ("kernels", "starts", "clients"):
            database.execute(
                f"DELETE FROM {table} WHERE measured_epoch_s <= ? OR rowid IN (SELECT rowid"  # noqa: S608  # names of ours
                f" FROM {table} ORDER BY measured_epoch_s DESC LIMIT -1 OFFSET ?)",
                (self._now_s() - _KEPT_S, self._most_rows),
            )

    def _tell(self, why: object) -> None:
        if not self._has_told:
            self._has_told = True
            _LOG.info("fanout: what is measured is not kept in %s (%s)", self.path, why)


def kernel_key(spec: KernelSpec, kernel: object) -> str:
    """Names a kernel, the same in each process as long as its code is the same.

    Args:
        spec: As it travels.
        kernel: As the caller passed it.
    """
    code = spec.code
    size = sum(memoryview(part).nbytes for part in (code.body, *code.buffers))
    if kernel is spec or size > _MOST_CODE_BYTES or not has_pickle(bytes(code.body)):
        return spec.digest
    digest = content_digest((spec.target, spec.source, kernel), spec.local_modules)
    return spec.digest if digest is None else digest.hex()


def is_damage(error: Exception) -> bool:
    """Whether a file with this error is no use any more."""
    return (getattr(error, "sqlite_errorcode", -1) & 0xFF) in _DAMAGED


def bins_in(text: Any) -> dict[int, int] | None:
    """The bins in a cell; None if it holds something else."""
    try:
        bins = dict(json.loads(text))
    except (TypeError, ValueError):
        return None
    is_ours = all(at in _BINS and count in _ANSWERS for at, count in bins.items())
    return {int(at): int(count) for at, count in bins.items()} if is_ours else None


def _are_amounts(*values: object) -> bool:
    return all(isinstance(value, int | float) and 0 <= value < math.inf for value in values)


def _version_of(database: sqlite3.Connection) -> int:
    (version,) = database.execute("PRAGMA user_version").fetchone()
    return int(version)
