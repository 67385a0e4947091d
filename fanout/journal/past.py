"""What a journal tells of its run to those who look back: its attempts, its tasks, where it ran."""

from __future__ import annotations

import math
import sqlite3
from typing import TYPE_CHECKING, Any, Final

from fanout.errors import JournalError
from fanout.journal.folder import read_meta, reading
from fanout.past_run import PastAttempt, PastRun, PastTask

if TYPE_CHECKING:
    from pathlib import Path

_TASKS: Final = (
    "SELECT task, kernel_s, session, attempt FROM outcomes JOIN chunks USING (task, digest) "
    "WHERE task < ? ORDER BY task"
)
_ATTEMPTS: Final = (
    "SELECT session, attempt, tasks, covers, launched_s, started_s, ended_s, done, environment, "
    "is_cold, setup_s, compile_s, total_s, failure FROM attempts ORDER BY session, attempt"
)


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
            tasks = [PastTask(*row) for row in database.execute(_TASKS, (ends,))]
            knew = (meta.get("recipe") or {}).get("knew") or {}
            backend = str(meta.get("backend", ""))
            run = PastRun(
                attempts=attempts,
                tasks=tasks,
                total=meta.get("total"),
                is_local=not backend.startswith("lambda"),
                limit=knew.get("limit"),
                memory_mb=knew.get("memory_mb"),
                timeout_s=knew.get("timeout_s"),
                unit_s=knew.get("unit_s"),
                is_weighted=bool(knew.get("is_weighted")),
            )
    except (sqlite3.Error, ValueError, TypeError, AttributeError, KeyError) as error:
        msg = f"the journal {path} can't be read ({error}): there is nothing to learn from it"
        raise JournalError(msg) from error
    return meta, run
