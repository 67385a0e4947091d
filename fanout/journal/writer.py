"""Writes rows to a journal in a thread of its own, many in one transaction.

What is added is on disk (with the operating system, which outlives a killed client) within a tenth
of a second. When the disk is full, the file can't be written any more, or the disk can't keep up,
that is told once, and the rest is dropped: a run is worth more than its journal.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import sqlite3
import threading
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_LOG: Final = logging.getLogger("fanout")
# How long rows are gathered, seconds, and how many at most: a transaction costs some 100 us.
_GATHER_S: Final = 0.1
_MOST_ROWS: Final = 10_000
_MOST_BYTES: Final = 16 * 2**20
# What may wait, and for how long whoever adds more then waits, at most.
_MOST_WAITING_BYTES: Final = 128 * 2**20
_MOST_WAIT_S: Final = 5.0

Row = tuple[str, tuple[Any, ...]]


class Writer:
    """A thread that writes.

    Args:
        path: Of the journal, whose tables are there.
        what: Names it in messages.
        most_bytes: How much may be written in all; None: any amount.
        most_wait_s: How long adding a row may take when the disk is slow, seconds.
    """

    def __init__(
        self,
        path: Path,
        what: str,
        *,
        most_bytes: int | None = None,
        most_wait_s: float = _MOST_WAIT_S,
    ) -> None:
        self._path = path
        self._what = what
        self._left_bytes = most_bytes
        self._most_wait_s = most_wait_s
        self._rows: queue.SimpleQueue[Row | None] = queue.SimpleQueue()
        self._room = threading.Condition()
        self._waiting_bytes = 0
        self._thread = threading.Thread(target=self._run, name="fanout journal", daemon=True)
        self.is_broken = False
        self._thread.start()

    def add(self, statement: str, row: tuple[Any, ...]) -> None:
        """Have a row written soon; waits a moment if too much is waiting already."""
        if self.is_broken:
            return
        size = _size(row)
        with self._room:
            if not self._room.wait_for(self._has_room, self._most_wait_s):
                self.give_up("the disk is too slow")
                return
            self._waiting_bytes += size
        if self.takes(size):
            self._rows.put((statement, row))

    def takes(self, nbytes: int) -> bool:
        """Whether so much more may be kept, here or beside the journal; then it counts."""
        if self._left_bytes is not None:
            self._left_bytes -= nbytes
            if self._left_bytes < 0:
                self.give_up("it is too large; a run that has a name may have a larger one")
        return not self.is_broken

    def close(self) -> None:
        """Write what there is, and end; blocks for that long."""
        self._rows.put(None)
        self._thread.join()

    def _has_room(self) -> bool:
        return self.is_broken or self._waiting_bytes < _MOST_WAITING_BYTES

    def give_up(self, why: object) -> None:
        """Write no more, and say why."""
        if self.is_broken:
            return
        self.is_broken = True
        _LOG.warning(
            "fanout: %s goes on without its journal, which can't be written any more (%s): "
            "what is done from now on would be done again if the run is resumed; look whether "
            "the disk is full (FANOUT_HOME names another place)",
            self._what,
            why,
        )

    def _run(self) -> None:
        try:
            with contextlib.closing(sqlite3.connect(self._path, isolation_level=None)) as database:
                database.execute("PRAGMA synchronous = NORMAL")
                goes_on = True
                while goes_on:
                    goes_on = self._write(database)
        except Exception as error:  # noqa: BLE001  # whatever it is, the run shall go on
            with self._room:
                self.give_up(error)
                self._room.notify_all()

    def _write(self, database: sqlite3.Connection) -> bool:
        """Write what comes within a moment; whether there may be more."""
        rows, goes_on = self._gathered()
        if rows:
            database.execute("BEGIN IMMEDIATE")
            try:
                for statement, group in _grouped(rows):
                    database.executemany(statement, group)
                database.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    database.execute("ROLLBACK")
                raise
            with self._room:
                self._waiting_bytes -= sum(_size(row) for _, row in rows)
                self._room.notify_all()
        return goes_on and not self.is_broken

    def _gathered(self) -> tuple[list[Row], bool]:
        first = self._rows.get()
        if first is None:
            return [], False
        rows, until_s = [first], time.monotonic() + _GATHER_S
        nbytes = _size(first[1])
        while len(rows) < _MOST_ROWS and nbytes < _MOST_BYTES:
            try:
                row = self._rows.get(timeout=max(0.0, until_s - time.monotonic()))
            except queue.Empty:
                break
            if row is None:
                return rows, False
            rows.append(row)
            nbytes += _size(row[1])
        return rows, True


def _size(row: tuple[Any, ...]) -> int:
    """About what a row takes, bytes."""
    return 64 + sum(len(cell) for cell in row if isinstance(cell, bytes | str))


def _grouped(rows: Sequence[Row]) -> list[tuple[str, list[tuple[Any, ...]]]]:
    """Rows that follow each other with the same statement, together."""
    groups: list[tuple[str, list[tuple[Any, ...]]]] = []
    for statement, row in rows:
        if not groups or groups[-1][0] != statement:
            groups.append((statement, []))
        groups[-1][1].append(row)
    return groups
