"""The journal of one run: what is done is written down, and not done again when it is resumed.

It records tasks, not attempts: an attempt that is lost just runs again. A result is written within
a tenth of a second after it came; a client that is killed in between has it computed once more, and
never less than once.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import math
import os
import sqlite3
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import filelock

from fanout._version import __version__
from fanout.codec import decode, encode
from fanout.errors import DecodeError, EncodeError, JournalError, RunChangedError, UsageError
from fanout.events import (
    AttemptAnswered,
    AttemptFailed,
    AttemptStarted,
    Deliver,
    Launch,
    RunStarted,
)
from fanout.journal.folder import Folder, lock_of, read_meta
from fanout.journal.recipe import packed_spec
from fanout.journal.schema import (
    DROP_FAILURE,
    PUT_ATTEMPT,
    PUT_CHUNK,
    PUT_FAILURE,
    PUT_KERNEL,
    PUT_META,
    PUT_OUTCOME,
    TABLES,
    VERSION,
)
from fanout.journal.writer import Writer
from fanout.retry import NEVER_RAN
from fanout.tasks import Outcome
from fanout.wire import Message, frame, unframe

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fanout.budget import Billed
    from fanout.events import RunEvent
    from fanout.kernel_spec import KernelSpec
    from fanout.options import OnChange

_LOG: Final = logging.getLogger("fanout")
# Larger chunks are not kept: then the run is resumed by the call that began it, and not from the
# command line. Larger results are not either, and are computed again.
_MOST_CHUNK_BYTES: Final = 2**20
_MOST_VALUE_BYTES: Final = 64 * 2**20


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
        recipe: What it takes to resume it without the call that began it.
    """

    run: str
    name: str | None
    spec: KernelSpec
    backend: str
    total: int | None
    is_safe: bool = False
    recipe: dict[str, Any] = field(default_factory=dict)


class RunJournal:
    """Keeps the journal of a run; an observer of it.

    Args:
        path: Of the file.
        about: The run.
        lock: On it, taken.
        on_change: What to do when kernel or input are not as they were.
        billed: What an attempt may cost; None: nothing.

    Attributes:
        run: Id of the run, which it keeps when it is resumed.
        spent_gb_s: What earlier sessions cost at worst, GB-seconds.
    """

    def __init__(
        self,
        path: Path,
        about: About,
        lock: filelock.FileLock,
        *,
        on_change: OnChange = "refuse",
        billed: Billed | None = None,
    ) -> None:
        self._about = about
        self._path = path
        self._lock = lock
        self._on_change = on_change
        self._digests: dict[int, bytes] = {}  # of chunks whose tasks are not done
        self._recalled: set[int] = set()
        self._billed = billed
        self._live: dict[int, list[Any]] = {}  # attempts in flight, as rows
        self._worst_gb_s: dict[int, float] = {}  # of these, if they cost something
        self._ended_gb_s = 0.0
        self._database = sqlite3.connect(path, isolation_level=None)
        try:
            self._open(self._database)
        except BaseException:
            self._database.close()
            raise
        self._began_s = time.monotonic()
        self._writer = Writer(path, f"run {about.name or self.run}")

    def _open(self, database: sqlite3.Connection) -> None:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        about = self._about
        database.execute("BEGIN IMMEDIATE")
        is_new = not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone()
        for statement in TABLES.split(";"):
            database.execute(statement)
        meta = {} if is_new else read_meta(database)
        if meta and meta["digest"] != about.spec.digest and self._on_change == "refuse":
            what = f"the kernel {about.spec.name} is not as it was"
            raise RunChangedError(about.name or meta["run"], what)
        self.run: str = meta.get("run", about.run)
        self.session: int = meta.get("session", -1) + 1
        self.spent_gb_s: float = meta.get("spent_gb_s", 0.0) + meta.get("reserved_gb_s", 0.0)
        self._has_earlier = bool(meta)
        meta |= {
            "version": VERSION,
            "fanout": __version__,
            "run": self.run,
            "name": meta.get("name", about.name),
            "session": self.session,
            "kernel": about.spec.name,
            "digest": about.spec.digest,
            "backend": about.backend,
            "total": about.total,
            "recipe": about.recipe,
            "state": "running",
            "pid": os.getpid(),
            "spent_gb_s": self.spent_gb_s,
            "reserved_gb_s": 0.0,
        }
        meta.setdefault("began_epoch_s", time.time())
        database.executemany(PUT_META, [(key, json.dumps(value)) for key, value in meta.items()])
        database.execute("DELETE FROM kernel")
        database.execute(PUT_KERNEL, packed_spec(about.spec))
        database.execute("COMMIT")

    # ---- the input ----

    def recall(self, first: int, chunks: Sequence[Any]) -> list[Outcome[Any]]:
        """Write chunks down, and return the outcomes of those that are done already.

        Raises:
            RunChangedError: A chunk is not as it was.
        """
        frames = [self._framed(chunk) for chunk in chunks]
        digests = [None if part is None else _digest(part) for part in frames]
        was = self._earlier(first, len(chunks)) if self._has_earlier else {}
        known = []
        for task, digest in enumerate(digests, first):
            before, done = was.get(task, (None, None))
            if before is not None and before != digest and self._on_change == "refuse":
                what = f"chunk {task} of the input is not as it was"
                raise RunChangedError(self._about.name or self.run, what)
            if digest is None:
                continue
            outcome = self._outcome(task, done) if before == digest and done else None
            if outcome is not None:
                known.append(outcome)
                self._recalled.add(task)
                continue
            self._digests[task] = digest
            if before != digest:
                content = frames[task - first]
                is_kept = content is not None and len(content) <= _MOST_CHUNK_BYTES
                self._writer.add(PUT_CHUNK, (task, digest, content if is_kept else None))
        return known

    def _framed(self, chunk: Any) -> bytes | None:
        try:
            return self._encoded(chunk)
        except EncodeError:  # its task will fail, and say why
            return None

    def _encoded(self, value: Any) -> bytes:
        about = self._about
        encoded = encode(value, is_safe=about.is_safe, by_value=about.spec.local_modules)
        return b"".join(frame(Message({}, encoded)))

    def _earlier(self, first: int, count: int) -> dict[int, tuple[bytes, tuple[Any, ...] | None]]:
        """Digests of these chunks in earlier sessions, and rows of what is done."""
        rows = self._database.execute(
            "SELECT c.task, c.digest, o.digest, o.value, o.attempts, o.kernel_s, o.stdout, "
            "o.stderr FROM chunks c "
            "LEFT JOIN outcomes o ON o.task = c.task AND o.digest = c.digest "
            "WHERE c.task BETWEEN ? AND ?",
            (first, first + count - 1),
        )
        return {row[0]: (row[1], row[3:] if row[2] is not None else None) for row in rows}

    def _outcome(self, task: int, row: tuple[Any, ...]) -> Outcome[Any] | None:
        value, attempts, kernel_s, stdout, stderr = row
        try:
            payload = unframe(memoryview(bytearray(value))).payload
            result = decode(payload, is_safe=self._about.is_safe)
        except DecodeError as error:
            _LOG.warning(
                "fanout: the result of task %d in the journal of run %s can't be read (%s): it is "
                "computed again",
                task,
                self.run,
                error,
            )
            return None
        return Outcome(task, result, None, attempts, kernel_s, None, stdout, stderr)

    # ---- the run ----

    def __call__(self, event: RunEvent) -> None:
        """Take note of what happens."""
        match event:
            case Deliver(outcomes=outcomes):
                for outcome in outcomes:
                    self._keep(outcome)
                self._tell_spent()
            case Launch(attempt=number, tasks=tasks, covers=covers):
                now_s = time.monotonic() - self._began_s
                self._live[number] = [self.session, number, len(tasks), covers, now_s]
                if self._billed is not None:
                    self._worst_gb_s[number] = _worst_gb_s(self._billed, event)
            case AttemptStarted(attempt=number):
                if (row := self._live.get(number)) is not None and len(row) == 5:
                    row.append(time.monotonic() - self._began_s)
            case AttemptAnswered(attempt=number, outcomes=outcomes, report=report):
                told: list[Any] = [None] * 5
                if report is not None:
                    told = [report.environment.id, report.is_cold, report.setup_s]
                    told += [report.compile_s, report.total_s]
                self._ended(number, [len(outcomes), *told, None])
            case AttemptFailed(attempt=number, failure=failure):
                why = f"{failure.kind.value}: {failure.reason or failure.detail}"
                self._ended(number, [0, *[None] * 5, why], ran=failure.kind not in NEVER_RAN)
            case RunStarted():
                self._tell_spent()

    def _ended(self, number: int, rest: list[Any], *, ran: bool = True) -> None:
        row = self._live.pop(number, None)
        if row is None:
            return
        now_s = time.monotonic() - self._began_s
        self._worst_gb_s.pop(number, None)
        if ran and self._billed is not None:
            self._ended_gb_s += (now_s - row[4]) * self._billed.gb
        self._writer.add(PUT_ATTEMPT, (*row[:5], *(row[5:] or [None]), now_s, *rest))

    def _keep(self, outcome: Outcome[Any]) -> None:
        task = outcome.index
        if task in self._recalled:
            self._recalled.discard(task)
            return
        digest = self._digests.pop(task, None)
        if digest is None:
            return
        if outcome.error is not None:
            text = f"{type(outcome.error).__name__}: {outcome.error}"
            self._writer.add(PUT_FAILURE, (task, outcome.attempts, text))
            return
        try:
            value = self._encoded(outcome.value)
        except EncodeError:
            return  # it came out of a decoder, so that this is a class which is gone since
        if len(value) > _MOST_VALUE_BYTES:
            return
        row = (task, digest, value, outcome.attempts, outcome.kernel_s)
        self._writer.add(PUT_OUTCOME, (*row, outcome.stdout, outcome.stderr))
        if self._has_earlier:
            self._writer.add(DROP_FAILURE, (task,))

    def _tell_spent(self) -> None:
        if self._billed is not None:
            spent_gb_s = self.spent_gb_s + self._ended_gb_s
            self._writer.add(PUT_META, ("spent_gb_s", json.dumps(spent_gb_s)))
            reserved_gb_s = math.fsum(self._worst_gb_s.values())
            self._writer.add(PUT_META, ("reserved_gb_s", json.dumps(reserved_gb_s)))

    async def aclose(self, error: BaseException | None) -> None:
        """Write down the rest, and how the run ended."""
        self._tell_spent()
        for row in self._live.values():
            padded = (*row, *[None] * (14 - len(row)))
            self._writer.add(PUT_ATTEMPT, padded)
        state = "done"
        if error is not None:
            state = "failed" if isinstance(error, Exception) else "cancelled"
            self._writer.add(PUT_META, ("error", json.dumps(f"{type(error).__name__}: {error}")))
        self._writer.add(PUT_META, ("state", json.dumps(state)))
        await asyncio.to_thread(self._writer.close)
        self._database.close()
        self._lock.release()


def _worst_gb_s(billed: Billed, launch: Launch) -> float:
    """What an attempt costs at worst, GB-seconds."""
    size = (billed.larger or billed) if launch.is_escalated else billed
    return size.worst_s(launch.ends_s) * size.gb


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def journal_of(
    about: About,
    *,
    folder: Folder | None = None,
    on_change: OnChange = "refuse",
    billed: Billed | None = None,
) -> RunJournal | None:
    """Open the journal of a run, or continue that of the same name.

    Returns:
        None if there can't be one; that is told.

    Raises:
        UsageError: Somebody else runs it now.
        RunChangedError: Its kernel is not as it was.
        JournalError: It is damaged, or of another version.
    """
    folder = folder or Folder()
    path = folder.find(about.name) if about.name else None
    is_new = path is None
    path = path or folder.path_of(about.run, about.name)
    try:
        folder.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        if is_new:
            folder.tidy()
        lock = lock_of(path)
        lock.acquire()
    except filelock.Timeout:
        msg = f"run {about.name or about.run} is being run by another process: wait until it ends"
        raise UsageError(msg) from None
    except OSError as error:
        _tell_none(about, error)
        return None
    try:
        if on_change == "restart" and not is_new:
            for file in path.parent.glob(f"{path.name}*"):
                if not file.name.endswith(".lock"):
                    file.unlink(missing_ok=True)
        return RunJournal(path, about, lock, on_change=on_change, billed=billed)
    except BaseException as error:
        lock.release()
        if isinstance(error, sqlite3.DatabaseError) and not is_new:
            msg = (
                f"the journal of run {about.name or about.run} can't be read ({error}): remove it "
                f"({path}), or give the run another name"
            )
            raise JournalError(msg) from error
        if isinstance(error, sqlite3.Error | OSError):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            _tell_none(about, error)
            return None
        raise


def _tell_none(about: About, error: Exception) -> None:
    _LOG.warning(
        "fanout: run %s has no journal, as none can be written (%s): it can't be resumed; "
        "FANOUT_HOME names another place",
        about.name or about.run,
        error,
    )
