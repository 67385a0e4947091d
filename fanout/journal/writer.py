"""Writes rows to a journal in a thread of its own, many in one transaction.

What is added is on disk (with the operating system, which outlives a killed client) within a tenth
of a second. When the disk is full or the file can't be written any more, that is told once, and the
rest is dropped: a run is worth more than its journal.
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

Row = tuple[str, tuple[Any, ...]]


class Writer:
    """A thread that writes.

    Args:
        path: Of the journal, whose tables are there.
        what: Names it in messages.
    """

    def __init__(self, path: Path, what: str) -> None:
        self._path = path
        self._what = what
        self._rows: queue.SimpleQueue[Row | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="fanout journal", daemon=True)
        self.is_broken = False
        self._thread.start()

    def add(self, statement: str, row: tuple[Any, ...]) -> None:
        """Have a row written soon."""
        if not self.is_broken:
            self._rows.put((statement, row))

    def close(self) -> None:
        """Write what there is, and end; blocks for that long."""
        self._rows.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            with contextlib.closing(sqlite3.connect(self._path, isolation_level=None)) as database:
                database.execute("PRAGMA synchronous = NORMAL")
                goes_on = True
                while goes_on:
                    goes_on = self._write(database)
        except (sqlite3.Error, OSError) as error:
            self.is_broken = True
            _LOG.warning(
                "fanout: %s goes on without its journal, which can't be written any more (%s): "
                "what is done from now on would be done again if the run is resumed; look whether "
                "the disk is full (FANOUT_HOME names another place)",
                self._what,
                error,
            )

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
        return goes_on

    def _gathered(self) -> tuple[list[Row], bool]:
        first = self._rows.get()
        if first is None:
            return [], False
        rows, until_s = [first], time.monotonic() + _GATHER_S
        while len(rows) < _MOST_ROWS:
            try:
                row = self._rows.get(timeout=max(0.0, until_s - time.monotonic()))
            except queue.Empty:
                break
            if row is None:
                return rows, False
            rows.append(row)
        return rows, True


def _grouped(rows: Sequence[Row]) -> list[tuple[str, list[tuple[Any, ...]]]]:
    """Rows that follow each other with the same statement, together."""
    groups: list[tuple[str, list[tuple[Any, ...]]]] = []
    for statement, row in rows:
        if not groups or groups[-1][0] != statement:
            groups.append((statement, []))
        groups[-1][1].append(row)
    return groups
