"""Facts about a run as a whole: rows of the table `meta`, written soon or at once."""

from __future__ import annotations

import json
import sqlite3
from typing import TYPE_CHECKING, Any

from fanout.journal.schema import PUT_META

if TYPE_CHECKING:
    from fanout.journal.writer import Writer


class Facts:
    """Those of one run.

    Args:
        database: The journal.
        writer: Writes what need not be there at once.
    """

    def __init__(self, database: sqlite3.Connection, writer: Writer) -> None:
        self._database = database
        self._writer = writer

    def put(self, **facts: Any) -> None:
        """Have them written soon."""
        for key, value in facts.items():
            self._writer.add(PUT_META, (key, json.dumps(value)))

    def put_now(self, **facts: Any) -> None:
        """Commit them before anything else happens; costs 40 us."""
        rows = [(key, json.dumps(value)) for key, value in facts.items()]
        try:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany(PUT_META, rows)
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            self._writer.give_up(error)
