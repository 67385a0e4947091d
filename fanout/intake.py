"""The input of a run: pulls chunks as the scheduler wants them, and keeps them until it is settled.

An ordinary iterator is pulled from on the event loop's thread, a slice at a time; an async one by a
task of its own. Either may be endless, slow, or raise: what it raises ends the run, at once or when
the tasks before it are done.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import numbers
from collections.abc import AsyncIterable, Iterable, Sized
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from fanout.errors import FanoutError, UsageError
from fanout.events import InputEnded, Offered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fanout.scheduler import Scheduler
    from fanout.tasks import Outcome

    Recall: TypeAlias = Callable[[int, Sequence[Any]], tuple[Sequence[Outcome[Any]], Sequence[int]]]

# How long input is pulled without letting the event loop breathe.
_SLICE_S: Final = 0.005
# What is looked up in a journal at once: a millisecond of work.
_RECALLED_AT_ONCE: Final = 128


class Intake:
    """Offers chunks to a scheduler.

    Args:
        source: Where they come from.
        scheduler: Says how many it wants.
        feed: Takes events.
        abort: Ends the run because of an error.
        drains: When the source raises, have the tasks before it finished and delivered first.
        weight: Tells how heavy a chunk is.
        recall: Tells which chunks were done in an earlier run, from the index of the first on: the
            outcomes of some, and the indices of those whose outcomes come later (`Recalled`).

    Attributes:
        chunks: Those that were offered, by index; whoever settles a task removes its chunk.
        total: Number of chunks; None if the source doesn't say.
        error: What the source raised, if it drains.
    """

    def __init__(
        self,
        source: Iterable[Any] | AsyncIterable[Any],
        *,
        scheduler: Scheduler,
        feed: Callable[[Offered | InputEnded], None],
        abort: Callable[[BaseException], None],
        drains: bool,
        weight: Callable[[Any], float] | None = None,
        recall: Recall | None = None,
    ) -> None:
        self.chunks: dict[int, Any] = {}
        self.total = len(source) if isinstance(source, Sized) else None
        self.error: Exception | None = None
        self._source: Iterable[Any] | AsyncIterable[Any] = source
        self._scheduler = scheduler
        self._feed = feed
        self._abort = abort
        self._drains = drains
        self._weight = weight
        self._recall = recall
        self._pulled = 0
        self._rest = 0  # of what was wanted the last time
        self._iterator: Iterator[Any] | None = None  # of an ordinary source, until it ends
        self._is_pulling = False
        self._is_to_pull = False
        self._task: asyncio.Task[None] | None = None  # of an async source
        self._is_closing = False
        self._wanted = asyncio.Event()

    def open(self) -> None:
        """Begin with the source; what `iter` raises is raised here."""
        self._loop = asyncio.get_running_loop()
        if not isinstance(self._source, AsyncIterable):
            self._iterator = iter(self._source)

    def start(self) -> None:
        """Pull from now on."""
        if isinstance(self._source, AsyncIterable):
            self._task = self._loop.create_task(self._pull_async(self._source), name="fanout input")
            self._task.add_done_callback(self._ended)
        else:
            self._loop.call_soon(self.pull)

    def stop(self) -> asyncio.Task[None] | None:
        """Pull no more; returns the task that has to end before all is over, if there is one."""
        self._iterator = None
        self._source = ()  # a generator that nobody else holds is closed by this
        task = self._task
        # What is cleaning up already shall not be disturbed.
        if task is not None and not task.cancelling() and not self._is_closing:
            task.cancel()
        return task

    def pull(self) -> None:
        """Offer chunks of an ordinary iterator, as many as the scheduler wants."""
        if self._task is not None:
            self._wanted.set()
        if self._is_pulling or self._is_to_pull:
            return
        self._is_pulling = True  # what is fed below comes back here
        try:
            while self._iterator is not None and (wanted := self._wanted_now()):
                before = self._pulled
                is_quick = self._pull_slice(self._iterator, wanted)
                self._rest = wanted - (self._pulled - before)
                if not is_quick:
                    # The slice is over: finished work comes first, then the next one.
                    self._is_to_pull = True
                    self._loop.call_soon(self._pull_on)
                    return
        finally:
            self._is_pulling = False

    def _wanted_now(self) -> int:
        """How many chunks to pull; with a journal all that were wanted, though slice by slice.

        The scheduler wants none while there is little room, and a journal should have them all.
        """
        if self._recall is not None and self._rest and not self._scheduler.is_finished:
            return self._rest
        return self._scheduler.wanted

    def _pull_on(self) -> None:
        self._is_to_pull = False
        self.pull()

    def _pull_slice(self, iterator: Iterator[Any], wanted: int) -> bool:
        """Pull up to `wanted` chunks; False if that took so long that others should have a turn."""
        until_s = self._loop.time() + _SLICE_S
        if self._recall is not None:
            wanted = min(wanted, _RECALLED_AT_ONCE)
        count, failed = 0, None
        weights: list[float] | None = None if self._weight is None else []
        try:
            for chunk in itertools.islice(iterator, wanted):
                if weights is not None:
                    weights.append(self._weighed(chunk, self._pulled + count))
                self.chunks[self._pulled + count] = chunk
                count += 1
                if self._loop.time() >= until_s:
                    break
            else:
                if count < wanted:
                    self._iterator = None
        except BaseException as error:  # noqa: BLE001  # of the caller's own code
            failed = error
        if failed is None or self._drains:
            self._offer(count, weights)
        if failed is not None:
            self._failed(failed, self._pulled if self._drains else self._pulled + count)
            return True
        if self._iterator is None:
            self._feed(InputEnded())
            return True
        return self._loop.time() < until_s

    async def _pull_async(self, source: AsyncIterable[Any]) -> None:
        """Offer chunks of an async iterator, as long as the scheduler wants some."""
        iterator = aiter(source)
        try:
            while not self._scheduler.is_finished:
                if not self._scheduler.wanted:
                    self._wanted.clear()
                    await self._wanted.wait()
                    continue
                try:
                    chunk = await anext(iterator)
                    weight = self._weighed(chunk, self._pulled)
                    self.chunks[self._pulled] = chunk
                except StopAsyncIteration:
                    break
                except BaseException as error:  # noqa: BLE001  # of the caller's own code
                    self._failed(error, self._pulled)
                    return
                self._offer(1, None if self._weight is None else [weight])
        finally:
            self._is_closing = True
            if (close := getattr(iterator, "aclose", None)) is not None:
                await close()
        self._feed(InputEnded())

    def _weighed(self, chunk: Any, index: int) -> float:
        """How heavy a chunk is, as the caller says.

        Raises:
            UsageError: What the caller says is no weight.
        """
        if self._weight is None:
            return 1.0
        weight = self._weight(chunk)
        if not (isinstance(weight, numbers.Real) and 0 < weight < math.inf):
            msg = f"weight= gave {weight!r} for chunk {index}: it must be a number above 0"
            raise UsageError(msg)
        return float(weight)

    def _offer(self, count: int, weights: list[float] | None) -> None:
        if count:
            first, self._pulled = self._pulled, self._pulled + count
            kept = None if weights is None else weights[:count]
            known: Sequence[Outcome[Any]] = ()
            later: Sequence[int] = ()
            if self._recall is not None:
                chunks = [self.chunks[index] for index in range(first, self._pulled)]
                try:
                    known, later = self._recall(first, chunks)
                except FanoutError as error:
                    self._iterator = None
                    self._abort(error)
                    return
            self._feed(Offered(first, count, kept, known, later))

    def _failed(self, error: BaseException, given: int) -> None:
        """End the run with what the source raised, at once or when the tasks so far are done."""
        self._iterator = None
        if isinstance(error, KeyboardInterrupt | SystemExit):
            self._abort(error)
            raise error  # asyncio ends the loop with these
        if self._scheduler.is_finished:
            return  # it was cancelled because the run is over
        where = f"after chunk {given - 1}" if given else "before its first chunk"
        error.add_note(f"raised by the input of fanout, {where}")
        if self._drains and isinstance(error, Exception):
            self.error = error
            self._feed(InputEnded())
        else:
            self._abort(error)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            if (error := task.exception()) is not None:
                if self._scheduler.is_finished:  # raised while it was closed: nobody waits for it
                    message = "fanout: the input raised when it was closed"
                    self._loop.call_exception_handler({"message": message, "exception": error})
                self._abort(error)
        elif not self._scheduler.is_finished:  # so it was not us
            self._abort(asyncio.CancelledError("something cancelled the input of fanout"))


def checked_input(chunks: object) -> Iterable[Any] | AsyncIterable[Any]:
    """The input, if it can be iterated over.

    Raises:
        UsageError: It can't, or it is a text: a map over its characters is never meant.
    """
    if isinstance(chunks, str | bytes):
        msg = (
            f"chunks is a {type(chunks).__name__}, and would be mapped over one character at a "
            "time: pass [chunks] for one task, or list(chunks) if that is what you want"
        )
        raise UsageError(msg)
    if not isinstance(chunks, Iterable | AsyncIterable):
        msg = (
            f"chunks is of type {type(chunks).__name__}, which can't be iterated over: "
            "pass a list, a generator or an async iterator"
        )
        raise UsageError(msg)
    return chunks
