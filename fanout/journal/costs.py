"""What the attempts of a run were billed: rows of a table of their own, and the sum of them.

A row is written soon after an attempt is launched, with the worst that it may cost, and anew when
it has ended: so what was in flight when a client was killed is there, at its worst. What was
stored beside that is told at the end of each session.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from fanout.cost.run_usage import AttemptCost, Size, Usage, usage_of
from fanout.errors import JournalError
from fanout.journal.folder import record_of
from fanout.tasks import BilledTime

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fanout.cost.ledger import Ledger
    from fanout.journal.folder import RunRecord
    from fanout.journal.writer import Writer

_COLUMNS: Final = (
    *("session", "attempt", "covers", "region", "arch", "memory_mb", "disk_mb", "worst_ms"),
    *("ended", "is_kept"),
    # Of its invocations; null where nothing is known of any, or there was none.
    *("billed_ms", "init_ms", "billed_memory_mb", "is_reported", "invocations", "lost"),
    *("answer_bytes", "log_bytes", "is_log_whole"),
)
TABLE: Final = (
    f"CREATE TABLE IF NOT EXISTS costs ({', '.join(_COLUMNS)}, PRIMARY KEY (session, attempt)) "
    "WITHOUT ROWID"
)
_MARKS: Final = ", ".join("?" * len(_COLUMNS))
PUT_COST: Final = f"INSERT OR REPLACE INTO costs VALUES ({_MARKS})"  # noqa: S608  # all of it ours
# How long rows are gathered, seconds: to wake the writer costs 80 us, which many rows share.
_GATHER_S: Final = 0.25
_STORED: Final = "stored"  # the key of the other part, in `meta`
_ANSWERS: Final = "answer_bytes"  # of those, answers that came through the store
_NOTHING: Final = (None,) * len(BilledTime._fields)


class Costs:
    """Those of one session of a run.

    Args:
        database: The journal.
        session: The number of the session.
        writer: Writes rows.

    Attributes:
        before: What earlier sessions have used.
    """

    def __init__(self, database: sqlite3.Connection, session: int, writer: Writer) -> None:
        self._session = session
        self._writer = writer
        self._ledger: Ledger | None = None
        self._unwritten: dict[int, AttemptCost] = {}
        self._timer: asyncio.TimerHandle | None = None
        database.execute(TABLE)
        self.before, self._stored = _used(database) if session else (Usage(), [])

    def follow(self, ledger: Ledger) -> None:
        """Write down what it tells, and tell it what was before."""
        self._ledger = ledger
        ledger.before = self.before
        ledger.keep = self._keep

    def _keep(self, cost: AttemptCost) -> None:
        self._unwritten[cost.attempt] = cost
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_GATHER_S, self._write)

    def _write(self) -> None:
        self._timer = None
        unwritten, self._unwritten = self._unwritten, {}
        for cost in unwritten.values():
            facts = (self._session, cost.attempt, cost.covers, *cost.size, cost.worst_ms)
            billed = _NOTHING if cost.billed is None else cost.billed
            self._writer.add(PUT_COST, (*facts, cost.end, cost.is_kept, *billed))

    def end(self, put: Callable[..., None]) -> None:
        """Write down the rest."""
        if self._timer is not None:
            self._timer.cancel()
        self._write()
        if self._ledger is None:
            return
        own = self._ledger.stored
        rows = [[*key, count] for key, count in own.stored.items()]
        rows += [[region, _ANSWERS, is_m, n] for (region, is_m), n in own.answer_bytes.items()]
        if rows:
            put(**{_STORED: [*self._stored, *rows]})


def usage_of_run(path: Path) -> tuple[Usage, RunRecord]:
    """What all sessions of a run have used, by its journal, and what else is known of it.

    Raises:
        JournalError: It can't be read.
    """
    uri = f"{path.absolute().as_uri()}?mode=ro"
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as database:
            return _used(database)[0], record_of(path)
    except (sqlite3.Error, ValueError, TypeError) as error:
        raise JournalError(
            f"the journal {path} can't be read ({error}): `fanout runs` tells what is left of it"
        ) from error


def _used(database: sqlite3.Connection) -> tuple[Usage, list[Any]]:
    """What is in the journal, and of that what was stored, as it is written."""
    found = Usage()
    sessions: defaultdict[int, list[AttemptCost]] = defaultdict(list)
    if database.execute("SELECT 1 FROM sqlite_master WHERE name = 'costs'").fetchone():
        for row in database.execute("SELECT * FROM costs"):
            sessions[row[0]].append(_cost(row))
    for costs in sessions.values():
        found.take(usage_of(costs))
    told = database.execute("SELECT value FROM meta WHERE key = ?", (_STORED,)).fetchone()
    stored = json.loads(told[0]) if told else []
    for region, kind, is_measured, count in stored:
        if kind == _ANSWERS:
            found.answer_bytes[region, bool(is_measured)] += count
        else:
            found.stored[region, kind, bool(is_measured)] += count
    return found, stored


def _cost(row: tuple[Any, ...]) -> AttemptCost:
    _, attempt, covers, region, arch, memory_mb, disk_mb, worst_ms, end, is_kept, *rest = row
    billed = None
    if rest[0] is not None:
        ms, init_ms, mb, is_reported, invocations, lost, answer_bytes, log_bytes, is_whole = rest
        times = (ms, init_ms, mb, bool(is_reported), invocations, lost)
        billed = BilledTime(*times, answer_bytes, log_bytes, bool(is_whole))
    size = Size(region, arch, memory_mb, disk_mb)
    return AttemptCost(attempt, covers, size, worst_ms, end, bool(is_kept), billed)
