"""What a journal tells of its run to those who look back: its attempts, its tasks, where it ran."""

from __future__ import annotations

import math
import re
import sqlite3
from typing import TYPE_CHECKING, Any, Final

from fanout.errors import JournalError
from fanout.journal.folder import read_meta, reading
from fanout.past_run import PastAttempt, PastRun, PastTask

if TYPE_CHECKING:
    from pathlib import Path

# A journal may lack the columns that were added later.
_PLACED: Final = "task, kernel_s, session, attempt"
_UNPLACED: Final = "task, kernel_s"
_TASKS: Final = (
    "SELECT {columns} FROM outcomes JOIN chunks USING (task, digest) WHERE task < ? ORDER BY task"
)
_ATTEMPTS: Final = (
    "SELECT session, attempt, tasks, covers, launched_s, started_s, ended_s, done, environment, "
    "is_cold, setup_s, compile_s, total_s, failure FROM attempts ORDER BY session, attempt"
)
# How a backend on Lambda is called; see `Lambda.name`.
_MEMORY: Final = re.compile(r"^lambda, .* ([\d,]+) MB$")


def past_run(path: Path) -> tuple[dict[str, Any], PastRun]:
    """What was, and what the journal tells of the run as a whole.

    Raises:
        JournalError: It can't be read.
    """
    try:
        with reading(path) as database:
            meta = read_meta(database)
            ends = math.inf if meta.get("total") is None else meta["total"]
            attempts = [PastAttempt(*row) for row in database.execute(_ATTEMPTS)]
            known = {row[1] for row in database.execute("PRAGMA table_info(outcomes)")}
            columns = _PLACED if "attempt" in known else _UNPLACED
            rows = database.execute(_TASKS.format(columns=columns), (ends,))
            tasks = [PastTask(*row) for row in rows]
            knew = (meta.get("recipe") or {}).get("knew") or {}
            backend = str(meta.get("backend", ""))
            run = PastRun(
                attempts=attempts,
                tasks=tasks,
                total=meta.get("total"),
                is_local=not backend.startswith("lambda"),
                limit=knew.get("limit"),
                memory_mb=knew.get("memory_mb") or _memory_mb(backend),
                timeout_s=knew.get("timeout_s"),
                unit_s=knew.get("unit_s"),
                is_weighted=bool(knew.get("is_weighted")),
            )
    except (sqlite3.Error, ValueError, TypeError, AttributeError, KeyError) as error:
        msg = f"the journal {path} can't be read ({error}): there is nothing to learn from it"
        raise JournalError(msg) from error
    return meta, run


def _memory_mb(backend: str) -> int | None:
    found = _MEMORY.match(backend)
    return int(found[1].replace(",", "")) if found else None
