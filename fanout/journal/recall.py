"""The input's side of a journal: what chunks were, and which of their tasks are done.

A chunk is compared with what it was by its digest, and by its content where bytes don't decide.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from fanout.errors import DecodeError, RunChangedError
from fanout.journal.downloads import Stored
from fanout.journal.sameness import is_same
from fanout.journal.schema import PUT_CHUNK, sealed
from fanout.journal.values import chunk_digest, parts_of, value_in
from fanout.spilled import size_of
from fanout.tasks import Outcome

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from fanout.codec import Buffer
    from fanout.journal.about import About, Limits
    from fanout.journal.large_results import LargeResults
    from fanout.journal.session import Session
    from fanout.journal.writer import Writer
    from fanout.options import OnChange

_LOG: Final = logging.getLogger("fanout")


class Recall:
    """Goes through the chunks of one session.

    Args:
        database: What earlier sessions have left.
        writer: Writes down what is new.
        about: The run.
        session: This one.
        on_change: What to do when a chunk is not as it was.
        limits: How much is kept.
        large: Results that are not in the database.

    Attributes:
        pulled: How many chunks there were.
    """

    def __init__(
        self,
        database: sqlite3.Connection,
        writer: Writer,
        about: About,
        session: Session,
        *,
        on_change: OnChange,
        limits: Limits,
        large: LargeResults,
    ) -> None:
        self._database = database
        self._writer = writer
        self._about = about
        self._session = session
        self._on_change = on_change
        self._limits = limits
        self._large = large
        self._digests: dict[int, bytes] = {}  # of chunks whose tasks are not done
        self._recalled: set[int] = set()
        self._chunks_bytes = 0
        self.pulled = 0

    def recall(self, first: int, chunks: Sequence[Any]) -> tuple[list[Outcome[Any]], list[Stored]]:
        """Write chunks down, and return the outcomes of those that are done already.

        And those whose result has to be read first: `read` or `lost` says what became of it.

        Raises:
            RunChangedError: A chunk is not as it was.
            sqlite3.Error: The journal can't be read.
        """
        was = self._earlier(first, len(chunks)) if self._session.has_earlier else {}
        self.pulled = first + len(chunks)
        outcomes = [
            self._recalled_one(task, chunk, *was.get(task, (None, None)))
            for task, chunk in enumerate(chunks, first)
        ]
        known = [outcome for outcome in outcomes if isinstance(outcome, Outcome)]
        self._recalled.update(outcome.index for outcome in known)
        return known, [stored for stored in outcomes if isinstance(stored, Stored)]

    def read(self, stored: Stored, value: Any) -> Outcome[Any]:
        """The outcome of a result that has been read."""
        self._recalled.add(stored.outcome.index)
        return replace(stored.outcome, value=value)

    def lost(self, stored: Stored, why: object) -> None:
        """It can't be read: its task is to be done."""
        task = stored.outcome.index
        self._tell_lost(task, why)
        self._digests[task] = stored.digest

    def to_keep(self, task: int, *, is_final: bool) -> bytes | None:
        """The digest of a task's chunk, once, if its outcome is to be kept.

        Args:
            task: It has an outcome.
            is_final: It is delivered with that.
        """
        if task in self._recalled:
            if is_final:
                self._recalled.discard(task)
            return None
        return self._digests.pop(task, None)

    def _recalled_one(
        self, task: int, chunk: Any, before: bytes | None, done: tuple[Any, ...] | None
    ) -> Outcome[Any] | Stored | None:
        """Write one chunk down; its outcome, or where that is, if it is done already.

        Raises:
            RunChangedError: It is not as it was.
        """
        if self._about.is_own and before is not None:
            digest: bytes | None = before
            parts = None
        else:
            parts = parts_of(chunk, self._about)
            digest = None if parts is None else chunk_digest(chunk, parts, self._about)
            if before is not None and before != digest and self._is_as_kept(task, before, chunk):
                digest = before
        if before is not None and before != digest and self._on_change == "refuse":
            what = f"chunk {task} of the input is not as it was"
            raise RunChangedError(self._about.name or self._session.run, what)
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
        if parts is None or size_of(parts) > self._limits.chunk_bytes:
            return None
        content = b"".join(parts)
        self._chunks_bytes += len(content)
        if self._chunks_bytes > self._limits.chunks_bytes:
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
            kept = value_in(content, task, digest, is_safe=self._about.is_safe)
        except DecodeError:
            return False
        return is_same(kept, chunk, self._about.spec.local_modules)

    def _earlier(self, first: int, count: int) -> dict[int, tuple[bytes, tuple[Any, ...] | None]]:
        """Digests of these chunks in earlier sessions, and rows of what is done."""
        rows = self._database.execute(
            "SELECT c.task, c.digest, o.digest, o.value, o.attempts, o.kernel_s, o.stdout, "
            "o.stderr, o.place FROM chunks c "
            "LEFT JOIN outcomes o ON o.task = c.task AND o.digest = c.digest "
            "WHERE c.task BETWEEN ? AND ?",
            (first, first + count - 1),
        )
        return {row[0]: (row[1], row[3:] if row[2] is not None else None) for row in rows}

    def _outcome(
        self, task: int, digest: bytes, row: tuple[Any, ...]
    ) -> Outcome[Any] | Stored | None:
        value, attempts, kernel_s, stdout, stderr, text = row
        outcome: Outcome[Any] = Outcome(task, None, None, attempts, kernel_s, None, stdout, stderr)
        try:
            if text is None:
                result = value_in(value, task, digest, is_safe=self._about.is_safe)
                return replace(outcome, value=result)
            found, place = self._large.unsealed(value, task, digest, text)
            return Stored(outcome=outcome, digest=digest, place=place, found=found)
        except DecodeError as error:
            self._tell_lost(task, error)
            return None

    def _tell_lost(self, task: int, why: object) -> None:
        _LOG.warning(
            "fanout: the result of task %d in the journal of run %s can't be read (%s): it is "
            "computed again",
            task,
            self._session.run,
            why,
        )
