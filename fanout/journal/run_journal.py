"""The journal of one run: what is done is written down, and not done again when it is resumed.

It records tasks, not attempts: an attempt that is lost just runs again. A result is written within
a tenth of a second after it came; a client that is killed in between has it computed once more, and
never less than once. What attempts may cost is written before they are sent, if the run has a cap.
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
    Cancelled,
    Deliver,
    Finish,
    Ignore,
    InputEnded,
    Launch,
    RunStarted,
)
from fanout.journal.folder import Folder, clear, lock_of, read_meta, run_of
from fanout.journal.recipe import packed_spec, spec_in
from fanout.journal.sameness import content_digest, is_same
from fanout.journal.schema import (
    ADDED_LATER,
    DROP_FAILURE,
    PUT_ATTEMPT,
    PUT_CHUNK,
    PUT_FAILURE,
    PUT_KERNEL,
    PUT_META,
    PUT_OUTCOME,
    TABLES,
    VERSION,
    sealed,
    unsealed,
)
from fanout.journal.writer import Writer
from fanout.retry import NEVER_RAN, FailureKind
from fanout.tasks import Outcome
from fanout.wire import Message, frame, unframe

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fanout.budget import Billed, Budget
    from fanout.codec import Buffer, Encoded
    from fanout.events import RunEvent
    from fanout.kernel_spec import KernelSpec
    from fanout.options import OnChange

_LOG: Final = logging.getLogger("fanout")
# Larger chunks are not kept: then the run is resumed by the call that began it, and not from the
# command line. Larger results are not either, and are computed again.
_MOST_CHUNK_BYTES: Final = 2**20
_MOST_VALUE_BYTES: Final = 64 * 2**20
# All chunks of a run that are kept, and its whole journal if nobody asked for one.
_MOST_CHUNKS_BYTES: Final = 2**30
_MOST_UNASKED_BYTES: Final = 5 * 2**30
# How a pickle shows in a body: a quotation mark in a text of the user's stands behind a backslash.
_PICKLE: Final = b'"$":"pickle"'
# For how long a lock may be somebody's who only looks, seconds.
_LOOKED_AT_S: Final = 0.5
_SPENT: Final = ("spent_gb_s", "reserved_gb_s")


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
        budget: The books of this one, if it has a cap; set before it begins.
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
        self._escalated: set[int] = set()
        self._ended_gb_s = 0.0
        self.budget: Budget | None = None
        self._told_gb_s: tuple[float, float] | None = None  # spent, reserved
        self._pulled = 0
        self._chunks_bytes = 0
        self._is_finished = self._is_cancelled = False
        self._database = sqlite3.connect(path, isolation_level=None)
        try:
            self._open(self._database)
        except BaseException:
            self._database.close()
            raise
        self._began_s = time.monotonic()
        is_asked_for = about.name is not None
        self._writer = Writer(
            path,
            f"run {about.name or self.run}",
            most_bytes=None if is_asked_for else _MOST_UNASKED_BYTES,
        )

    def _open(self, database: sqlite3.Connection) -> None:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        about = self._about
        database.execute("BEGIN IMMEDIATE")
        is_new = not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone()
        for statement in TABLES.split(";"):
            database.execute(statement)
        for statement in () if is_new else ADDED_LATER:
            with contextlib.suppress(sqlite3.OperationalError):  # it is there
                database.execute(statement)
        meta = {} if is_new else read_meta(database)
        if (
            meta
            and self._on_change == "refuse"
            and meta["digest"] != about.spec.digest
            and not _is_same_kernel(spec_in(database), about.spec, is_safe=about.is_safe)
        ):
            what = f"the kernel {about.spec.name} is not as it was"
            raise RunChangedError(about.name or meta["run"], what)
        self.run: str = meta.get("run", run_of(self._path))
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
            "error": None,
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
        try:
            was = self._earlier(first, len(chunks)) if self._has_earlier else {}
            self._pulled = first + len(chunks)
            outcomes = [
                self._recalled_one(task, chunk, *was.get(task, (None, None)))
                for task, chunk in enumerate(chunks, first)
            ]
        except sqlite3.Error as error:
            raise _unreadable(self._about, self._path, error) from error
        known = [outcome for outcome in outcomes if outcome is not None]
        self._recalled.update(outcome.index for outcome in known)
        return known

    def _recalled_one(
        self, task: int, chunk: Any, before: bytes | None, done: tuple[Any, ...] | None
    ) -> Outcome[Any] | None:
        """Write one chunk down; its outcome if it is done already.

        Raises:
            RunChangedError: It is not as it was.
        """
        if self._about.is_own and before is not None:
            digest: bytes | None = before
            parts = None
        else:
            parts = self._parts(chunk)
            digest = None if parts is None else self._digest(chunk, parts)
            if before is not None and before != digest and self._is_as_kept(task, before, chunk):
                digest = before
        if before is not None and before != digest and self._on_change == "refuse":
            what = f"chunk {task} of the input is not as it was"
            raise RunChangedError(self._about.name or self.run, what)
        if digest is None:
            return None  # its task will fail, and say why
        if before == digest and done and (outcome := self._outcome(task, digest, done)):
            return outcome
        self._digests[task] = digest
        if before != digest:
            self._writer.add(PUT_CHUNK, (task, digest, self._kept_chunk(task, digest, parts)))
        return None

    def _kept_chunk(self, task: int, digest: bytes, parts: list[Buffer] | None) -> bytes | None:
        """A chunk as it is kept; None if it is too large."""
        if parts is None or _size_of(parts) > _MOST_CHUNK_BYTES:
            return None
        content = b"".join(parts)
        self._chunks_bytes += len(content)
        if self._chunks_bytes > _MOST_CHUNKS_BYTES:
            return None
        return sealed(content, task, digest)

    def _is_as_kept(self, task: int, digest: bytes, chunk: Any) -> bool:
        """Whether a chunk is the same as the one that is kept, though its bytes are not."""
        (content,) = self._database.execute(
            "SELECT frame FROM chunks WHERE task = ?", (task,)
        ).fetchone()
        if content is None:
            return False
        try:
            payload = unframe(unsealed(content, task, digest)).payload
            kept = decode(payload, is_safe=self._about.is_safe)
        except DecodeError:
            return False
        return is_same(kept, chunk, self._about.spec.local_modules)

    def _digest(self, chunk: Any, parts: list[Buffer]) -> bytes:
        digest = None
        # The body is in the first part, or in the fourth if there are buffers.
        if any(_PICKLE in part for part in parts[:4] if isinstance(part, bytes)):
            digest = content_digest(chunk, self._about.spec.local_modules)
        return digest or _digest_of(parts)

    def _parts(self, value: Any) -> list[Buffer] | None:
        """A value as it travels; None if it can't."""
        about = self._about
        try:
            return _framed(encode(value, is_safe=about.is_safe, by_value=about.spec.local_modules))
        except EncodeError:
            return None

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

    def _outcome(self, task: int, digest: bytes, row: tuple[Any, ...]) -> Outcome[Any] | None:
        value, attempts, kernel_s, stdout, stderr = row
        try:
            payload = unframe(unsealed(value, task, digest)).payload
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
            case Ignore(attempt=number):
                self._ended(number, [0, *[None] * 5, "ignored: its tasks are settled"])
            case InputEnded():
                self._writer.add(PUT_META, ("total", json.dumps(self._pulled)))
            case Cancelled():
                self._is_cancelled = True
            case Finish():
                self._is_finished = True
            case Launch(attempt=number, tasks=tasks, covers=covers):
                now_s = time.monotonic() - self._began_s
                self._live[number] = [self.session, number, len(tasks), covers, now_s]
                if event.is_escalated:
                    self._escalated.add(number)
                if self._billed is not None:
                    self._worst_gb_s[number] = _worst_gb_s(self._billed, event)
                    if self.budget is not None:
                        self._tell_spent()
            case AttemptStarted(attempt=number):
                if (row := self._live.get(number)) is not None and len(row) == 5:
                    row.append(time.monotonic() - self._began_s)
            case AttemptAnswered(attempt=number, outcomes=outcomes, report=report):
                # A stream hands them on when it is their turn, which may be much later.
                for outcome in outcomes:
                    if outcome.error is None:
                        self._keep(outcome, is_final=False)
                told: list[Any] = [None] * 5
                if report is not None:
                    told = [report.environment.id, report.is_cold, report.setup_s]
                    told += [report.compile_s, report.total_s]
                self._ended(number, [len(outcomes), *told, None])
            case AttemptFailed(attempt=number, failure=failure):
                why = f"{failure.kind.value}: {failure.reason or failure.detail}"
                self._ended(number, [0, *[None] * 5, _plain(why)], kind=failure.kind)
            case RunStarted():
                self._tell_spent()

    def _ended(self, number: int, rest: list[Any], *, kind: FailureKind | None = None) -> None:
        row = self._live.pop(number, None)
        if row is None:
            return
        now_s = time.monotonic() - self._began_s
        worst_gb_s = self._worst_gb_s.pop(number, 0.0)
        if self._billed is not None and kind not in NEVER_RAN:
            billed = self._billed
            size = (billed.larger or billed) if number in self._escalated else billed
            ran_gb_s = (now_s - row[4]) * size.gb
            # What is lost may run on.
            self._ended_gb_s += worst_gb_s if kind is FailureKind.MAYBE_RAN else ran_gb_s
        self._escalated.discard(number)
        self._writer.add(PUT_ATTEMPT, (*row[:5], *(row[5:] or [None]), now_s, *rest))

    def _keep(self, outcome: Outcome[Any], *, is_final: bool = True) -> None:
        task = outcome.index
        if task in self._recalled:
            if is_final:
                self._recalled.discard(task)
            return
        digest = self._digests.pop(task, None)
        if digest is None:
            return
        if outcome.error is not None:
            self._writer.add(PUT_FAILURE, (task, outcome.attempts, _told(outcome.error)))
            return
        value = self._parts(outcome.value)
        # None: it came out of a decoder, so that this is a class which is gone since.
        if value is None or _size_of(value) > _MOST_VALUE_BYTES:
            return
        content = sealed(b"".join(value), task, digest)
        row = (task, digest, content, outcome.attempts, outcome.kernel_s)
        whence = (self.session, outcome.report.attempt) if outcome.report else (None, None)
        told = (_plain(outcome.stdout), _plain(outcome.stderr))
        self._writer.add(PUT_OUTCOME, (*row, *told, *whence))
        if self._has_earlier:
            self._writer.add(DROP_FAILURE, (task,))

    def _tell_spent(self) -> None:
        """Write down what the run has cost; before more is spent, if it has a cap."""
        if self._billed is None:
            return
        told = (self.spent_gb_s + self._ended_gb_s, math.fsum(self._worst_gb_s.values()))
        if self.budget is not None:
            told = (self.budget.spent_gb_s, self.budget.reserved_gb_s)
        if told == self._told_gb_s or self._writer.is_broken:
            return
        self._told_gb_s = told
        rows = [(key, json.dumps(value)) for key, value in zip(_SPENT, told, strict=True)]
        if self.budget is None:
            for row in rows:
                self._writer.add(PUT_META, row)
            return
        try:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany(PUT_META, rows)
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            self._writer.give_up(error)

    async def aclose(self, error: BaseException | None) -> None:
        """Write down the rest, and how the run ended."""
        try:
            self._tell_spent()
            for row in self._live.values():
                self._writer.add(PUT_ATTEMPT, (*row, *[None] * (14 - len(row))))
            state = "done" if self._is_finished and not self._is_cancelled else "cancelled"
            if error is not None:
                state = "failed" if isinstance(error, Exception) else "cancelled"
                self._writer.add(PUT_META, ("error", json.dumps(_told(error))))
                self._writer.add(PUT_META, ("total", json.dumps(self._about.total)))
            self._writer.add(PUT_META, ("state", json.dumps(state)))
            await asyncio.to_thread(self._writer.close)
        finally:
            self._release()

    def abandon(self) -> None:
        """Let go of it: the run did not begin. A journal that is new goes away."""
        self._writer.add(PUT_META, ("state", json.dumps("failed")))
        self._writer.close()
        if not self._has_earlier:
            clear(self._path)
        self._release()

    def _release(self) -> None:
        try:
            self._database.close()
        finally:
            self._lock.release()


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
    return unframe(memoryview(bytearray(b"".join(_framed(code))))).payload


def _framed(value: Encoded) -> list[Buffer]:
    return frame(Message({}, value))


def _size_of(parts: list[Buffer]) -> int:
    return sum(memoryview(part).nbytes for part in parts)


def _digest_of(parts: list[Buffer]) -> bytes:
    sha = hashlib.blake2b(digest_size=16)
    for part in parts:
        sha.update(part)
    return sha.digest()


def _plain(text: str) -> str:
    """A text that a file can hold: one with halves of characters can't be written as UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def _told(error: BaseException) -> str:
    try:
        return _plain(f"{type(error).__name__}: {error}")
    except Exception:  # noqa: BLE001  # __str__ of a class of the user's
        return type(error).__name__


def _worst_gb_s(billed: Billed, launch: Launch) -> float:
    """What an attempt costs at worst, GB-seconds."""
    size = (billed.larger or billed) if launch.is_escalated else billed
    return size.worst_s(launch.ends_s) * size.gb


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
    path = _path_of(folder, about)
    lock = lock_of(path)
    try:
        folder.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock.acquire(timeout=_LOOKED_AT_S, poll_interval=0.02)
    except filelock.Timeout:
        msg = f"run {about.name or about.run} is being run already: wait until it ends"
        raise UsageError(msg) from None
    except OSError as error:
        if path.exists():
            raise _unreadable(about, path, error) from error
        _tell_none(about, error)
        return None
    path = _path_of(folder, about)  # somebody may have begun it meanwhile
    is_new = not path.exists()
    try:
        if is_new:
            folder.tidy()
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        elif on_change == "restart":
            clear(path)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        return RunJournal(path, about, lock, on_change=on_change, billed=billed)
    except BaseException as error:
        lock.release()
        is_disks = isinstance(error, sqlite3.Error | OSError)
        if is_new and is_disks:
            with contextlib.suppress(OSError):
                clear(path)
            _tell_none(about, error)
            return None
        if is_disks or isinstance(error, DecodeError | ValueError | TypeError | KeyError):
            raise _unreadable(about, path, error) from error
        raise


def _path_of(folder: Folder, about: About) -> Path:
    """The journal of the same name, or where a new one goes."""
    found = folder.find(about.name) if about.name else None
    return found or folder.path_of(about.run, about.name)


def _unreadable(about: About, path: Path, error: BaseException) -> JournalError:
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


def _tell_none(about: About, error: BaseException) -> None:
    _LOG.warning(
        "fanout: run %s has no journal, as none can be written (%s): it can't be resumed; "
        "FANOUT_HOME names another place",
        about.name or about.run,
        error,
    )
