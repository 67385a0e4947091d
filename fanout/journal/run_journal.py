"""The journal of one run: what is done is written down, and not done again when it is resumed.

It records tasks, not attempts: an attempt that is lost just runs again. A result is written within
a tenth of a second after it came; a client that is killed in between has it computed once more, and
never less than once. What attempts may cost is written before they are sent, if the run has a cap.

This is the observer; which chunks are done is `recall`'s affair, what attempts cost `spending`'s,
and results that are too large for the file are in `large_results`.
"""

from __future__ import annotations

import asyncio
import functools
import sqlite3
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

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
    Recalled,
    RunStarted,
)
from fanout.journal.about import unreadable
from fanout.journal.costs import Costs
from fanout.journal.facts import Facts
from fanout.journal.folder import clear
from fanout.journal.large_results import LargeResults
from fanout.journal.recall import Recall
from fanout.journal.schema import (
    DROP_FAILURE,
    PUT_ATTEMPT,
    PUT_FAILURE,
    PUT_OUTCOME,
    sealed,
)
from fanout.journal.session import begin
from fanout.journal.spending import Spending
from fanout.journal.values import plain, told
from fanout.journal.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import filelock

    from fanout.budget import Billed, Budget
    from fanout.events import RunEvent
    from fanout.journal.about import About, Limits
    from fanout.journal.downloads import Stored
    from fanout.journal.folder import Locator
    from fanout.journal.large_results import Prepared
    from fanout.options import OnChange
    from fanout.retry import FailureKind
    from fanout.stores import Store
    from fanout.tasks import Outcome


class RunJournal:
    """Keeps the journal of a run; an observer of it.

    Args:
        path: Of the file.
        about: The run.
        lock: On it, taken.
        on_change: What to do when kernel or input are not as they were.
        billed: What an attempt may cost; None: nothing.
        limits: How much is kept.
        store: For results that are too large for the file; None: they lie beside it.
        stores: Where results of the run are already, if that is not in the file.

    Attributes:
        run: Id of the run, which it keeps when it is resumed.
        spent_gb_s: What earlier sessions cost at worst, GB-seconds.
        spent_requests: For how many invocations they paid at most.
        budget: The books of this one, if it has a cap; set before it begins.
        costs: What attempts are billed.
    """

    def __init__(
        self,
        path: Path,
        about: About,
        lock: filelock.FileLock,
        *,
        on_change: OnChange,
        billed: Billed | None,
        limits: Limits,
        store: Store | None = None,
        stores: Sequence[Locator] = (),
    ) -> None:
        self._about = about
        self._path = path
        self._lock = lock
        self._is_finished = self._is_cancelled = False
        self._told: tuple[float, float, int] | None = None  # spent, reserved, requests
        self.budget: Budget | None = None
        self._database = sqlite3.connect(path, isolation_level=None)
        try:
            session = begin(self._database, path, about, on_change)
        except BaseException:
            self._database.close()
            raise
        self._session = session
        self.run = session.run
        self.spent_gb_s = session.spent_gb_s
        self.spent_requests = session.spent_requests
        self._spending = Spending(
            session.number,
            billed,
            before_gb_s=session.spent_gb_s,
            before_requests=session.spent_requests,
        )
        self._began_s = time.monotonic()
        what = f"run {about.name or self.run}"
        most_bytes = None if about.name is not None else limits.unasked_bytes
        self._writer = Writer(path, what, most_bytes=most_bytes)
        self._facts = Facts(self._database, self._writer)
        self.costs = Costs(self._database, session.number, self._writer)
        self._large = LargeResults(path, self.run, store, limits, about)
        self._stores = [*session.stores, *stores]
        self._recall = Recall(
            self._database,
            self._writer,
            about,
            session,
            on_change=on_change,
            limits=limits,
            large=self._large,
        )
        if stores:
            self._facts.put_now(stores=self._stores)

    def recall(
        self, first: int, chunks: Sequence[Any], *, feed: Callable[[Recalled], None]
    ) -> tuple[list[Outcome[Any]], list[int]]:
        """Write chunks down, and return the outcomes of those that are done already.

        And the tasks whose outcomes have to be read first, and are fed then.

        Raises:
            RunChangedError: A chunk is not as it was.
            JournalError: The journal can't be read.
        """
        try:
            known, stored = self._recall.recall(first, chunks)
        except sqlite3.Error as error:
            raise unreadable(self._about, self._path, error) from error
        for one in stored:
            self._large.downloads.add(one, functools.partial(self._recalled, one, feed))
        return known, [one.outcome.index for one in stored]

    def _recalled(
        self,
        stored: Stored,
        feed: Callable[[Recalled], None],
        value: Any,
        why: Exception | None,
    ) -> None:
        """A large result of an earlier session has been read, or can't be."""
        if why is None:
            feed(Recalled([self._recall.read(stored, value)]))
        else:
            self._recall.lost(stored, why)
            feed(Recalled([], [stored.outcome.index]))

    async def prepare(self, answer: AttemptAnswered) -> None:
        """See to large results before anybody else has them."""
        await self._large.prepare(answer)

    def __call__(self, event: RunEvent) -> None:
        """Take note of what happens."""
        self._large(event)
        match event:
            case Deliver(outcomes=outcomes):
                for outcome in outcomes:
                    self._keep(outcome)
                self._tell_spent()
            case AttemptAnswered():
                self._answered(event)
            case Launch():
                self._spending.launched(event, self._now_s())
                if self.budget is not None:
                    self._tell_spent()
            case AttemptStarted(attempt=number):
                self._spending.started(number, self._now_s())
            case AttemptFailed(attempt=number, failure=failure):
                why = f"{failure.kind.value}: {failure.reason or failure.detail}"
                self._ended(number, [0, *[None] * 5, plain(why)], kind=failure.kind)
            case Ignore(attempt=number):
                self._ended(number, [0, *[None] * 5, "ignored: its tasks are settled"])
            case InputEnded():
                self._facts.put(total=self._recall.pulled)
            case Cancelled():
                self._is_cancelled = True
            case Finish():
                self._is_finished = True
            case RunStarted():
                self._tell_spent()

    def _now_s(self) -> float:
        return time.monotonic() - self._began_s

    def _answered(self, event: AttemptAnswered) -> None:
        ready = self._large.prepared(event.attempt)
        # A stream hands outcomes on when it is their turn, which may be much later.
        for outcome in event.outcomes:
            if outcome.error is None:
                self._keep(outcome, ready.get(outcome.index), is_final=False)
        self._large.release(ready.values())
        facts: list[Any] = [None] * 5
        if (report := event.report) is not None:
            facts = [report.environment.id, report.is_cold, report.setup_s]
            facts += [report.compile_s, report.total_s]
        self._ended(event.attempt, [len(event.outcomes), *facts, None])

    def _ended(self, number: int, rest: list[Any], *, kind: FailureKind | None = None) -> None:
        row = self._spending.ended(number, self._now_s(), rest, kind=kind)
        if row is not None:
            self._writer.add(PUT_ATTEMPT, row)

    def _keep(
        self, outcome: Outcome[Any], ready: Prepared | None = None, *, is_final: bool = True
    ) -> None:
        task = outcome.index
        digest = self._recall.to_keep(task, is_final=is_final)
        if digest is None:
            return
        if outcome.error is not None:
            self._writer.add(PUT_FAILURE, (task, outcome.attempts, told(outcome.error)))
            return
        value = ready or self._large.encoded(outcome.value)
        if value.parts is None:
            return  # no room; or it came out of a decoder, and is of a class that is gone since
        if not self._large.is_large(value):
            self._put(outcome, digest, sealed(b"".join(value.parts), task, digest), None)
        elif self._may_be_large(value.reserved_bytes):
            facts = replace(outcome, value=None)
            self._large.keep(
                value,
                lambda found: self._put(facts, digest, *self._large.sealed(found, task, digest)),
            )

    def _put(self, outcome: Outcome[Any], digest: bytes, content: bytes, place: str | None) -> None:
        row = (outcome.index, digest, content, outcome.attempts, outcome.kernel_s)
        texts = (plain(outcome.stdout), plain(outcome.stderr))
        whence = (self._session.number, outcome.report.attempt) if outcome.report else (None, None)
        self._writer.add(PUT_OUTCOME, (*row, *texts, place, *whence))
        if self._session.has_earlier:
            self._writer.add(DROP_FAILURE, (outcome.index,))

    def _may_be_large(self, nbytes: int) -> bool:
        """Whether a result may be kept outside of the file; where that is is written down first."""
        if (locator := self._large.locator) is None:
            return self._writer.takes(nbytes)
        if locator not in self._stores:
            self._stores.append(dict(locator))
            self._facts.put_now(stores=self._stores)
        return not self._writer.is_broken

    def _tell_spent(self) -> None:
        """Write down what the run has cost; before more is spent, if it has a cap."""
        if not self._spending.is_billed:
            return
        told = (*self._spending.told_gb_s, self._spending.requests)
        if (budget := self.budget) is not None:
            told = (budget.spent_gb_s, budget.reserved_gb_s, budget.requests)
        if told == self._told or self._writer.is_broken:
            return
        self._told = told
        spent_gb_s, reserved_gb_s, requests = told
        put = self._facts.put if budget is None else self._facts.put_now
        put(spent_gb_s=spent_gb_s, reserved_gb_s=reserved_gb_s, spent_requests=requests)

    def hurry(self) -> None:
        """Have `aclose` end soon, since the caller is cancelled."""
        self._large.hurry()

    async def aclose(self, error: BaseException | None) -> None:
        """Write down the rest, and how the run ended."""
        try:
            self._tell_spent()
            is_cut_short = self._is_cancelled or not self._is_finished or error is not None
            await self._large.aclose(error, is_cut_short=is_cut_short)
            for row in self._spending.rows():
                self._writer.add(PUT_ATTEMPT, row)
            self.costs.end(self._facts.put)
            state = "cancelled" if is_cut_short else "done"
            if error is not None:
                state = "failed" if isinstance(error, Exception) else "cancelled"
                self._facts.put(error=told(error), total=self._about.total)
            self._facts.put(state=state)
            await asyncio.to_thread(self._writer.close)
        finally:
            self._release()

    def abandon(self) -> None:
        """Let go of it: the run did not begin. A journal that is new goes away."""
        self._facts.put(state="failed")
        self._writer.close()
        if not self._session.has_earlier:
            clear(self._path)
        self._release()

    def _release(self) -> None:
        try:
            self._database.close()
        finally:
            self._lock.release()
