"""One run: feeds the scheduler with what happens, does what it says, and nothing of its own mind.

The engine is the only thing that performs actions. It owns the tasks of asyncio that this takes
(one that pulls an async input, one for each attempt) and leaves none behind. Its clock is the event
loop's, so that tests run it in virtual time.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol

from fanout.budget import running_on
from fanout.carrier import Carrier
from fanout.errors import BackendError
from fanout.events import (
    Action,
    AttemptAnswered,
    AttemptFailed,
    AttemptStarted,
    Cancelled,
    Consumed,
    Deliver,
    Event,
    Finish,
    Ignore,
    Launch,
    Recalled,
    Retry,
    RunEnded,
    RunStarted,
    Ticked,
    WakeAt,
)
from fanout.intake import Intake
from fanout.interrupts import Hold
from fanout.remote_errors import describe_chunk
from fanout.retry import Failure, FailureKind

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Iterable, Sequence
    from typing import Self

    from fanout.backends import Backend
    from fanout.events import RunEvent
    from fanout.hedging import HedgeCounts
    from fanout.request import Request
    from fanout.scheduler import Scheduler
    from fanout.tasks import Outcome

_LOG: Final = logging.getLogger("fanout")


class Journal(Protocol):
    """What a run is written down in."""

    def __call__(self, event: RunEvent) -> None:
        """Take note of what happens."""

    def recall(
        self, first: int, chunks: Sequence[Any], *, feed: Callable[[Recalled], None]
    ) -> tuple[Sequence[Outcome[Any]], Sequence[int]]:
        """Take note of chunks; the outcomes of those that were done before.

        And the tasks whose outcomes are fed when they have been read.
        """

    async def prepare(self, answer: AttemptAnswered) -> None:
        """See to the outcomes of an attempt before anybody else has them."""

    def hurry(self) -> None:
        """Have `aclose` end soon, since the caller is cancelled."""

    async def aclose(self, error: BaseException | None) -> None:
        """Write down the rest."""


class Engine:
    """Runs one map.

    Args:
        run: Identifies the run.
        scheduler: Decides.
        backend: Runs attempts; already started.
        request: What all its requests have in common; its `spill` is closed with the run.
        chunks: The input; pulled from as the scheduler wants.
        deliver: Takes final outcomes as they come, and an empty batch at the end.
        weight: Tells how heavy a chunk is.
        drains: When the input raises, finish the tasks that it gave before, and deliver them.
        on_end: Called when all is over.
        journal: Told everything, and asked for outcomes of an earlier run; closed with this one.
        orphans: Takes what is in flight when the run ends, and can't be stopped; else it is given
            up.
        observers: Told everything, in order. What one raises ends the run.

    Attributes:
        ended_by: Why the scheduler ended the run before all was done.
    """

    def __init__(
        self,
        *,
        run: str,
        scheduler: Scheduler,
        backend: Backend,
        request: Request,
        chunks: Iterable[Any] | AsyncIterable[Any],
        deliver: Callable[[Sequence[Outcome[Any]]], None],
        weight: Callable[[Any], float] | None = None,
        drains: bool = False,
        on_end: Callable[[], None] | None = None,
        journal: Journal | None = None,
        orphans: set[asyncio.Task[None]] | None = None,
        observers: Sequence[Callable[[RunEvent], None]] = (),
    ) -> None:
        self._run = run
        self._scheduler = scheduler
        self._backend = backend
        self._request = request
        self._intake = Intake(
            chunks,
            scheduler=scheduler,
            feed=self._feed,
            abort=self._abort,
            drains=drains,
            weight=weight,
            recall=(
                None if journal is None else functools.partial(journal.recall, feed=self._feed)
            ),
        )
        self._is_consumed = drains
        self._journal = journal
        self._deliver = deliver
        self._on_end = on_end
        self._orphans = orphans
        self._observers: Sequence[Callable[[RunEvent], None]] = observers
        if journal is not None:
            self._observers = [journal, *observers]
        # Most runs have nobody to tell, and attempts may be many.
        self._hears_starts = bool(self._observers) or scheduler.hears_starts

        self._carrier = Carrier(backend, request, self._intake.chunks, scheduler.attempts_of)
        self._attempts: dict[int, asyncio.Task[None]] = {}  # those that the scheduler waits for
        self._sent: set[int] = set()  # of these, those that a worker may have
        self._given_up: set[asyncio.Task[None]] = set()  # that have not ended yet
        self._events: deque[Event] = deque()
        self._is_feeding = False
        self._timer: asyncio.TimerHandle | None = None
        self._finished = asyncio.Event()
        self._error: BaseException | None = None
        self.ended_by: BaseException | None = None
        self._hold = Hold(of_loop=True)

    # ---- for the executor ----

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        try:
            self._intake.open()
        except BaseException as error:
            await self._close_journal(error)
            raise
        if self._scheduler.seat is not None:
            self._scheduler.seat.wake = functools.partial(self._feed, Ticked())
        try:
            self._tell(
                RunStarted(
                    run=self._run,
                    kernel=self.kernel,
                    backend=self._backend.name,
                    concurrency=self._backend.concurrency,
                    total=self._intake.total,
                    is_compiled_there=self._request.kernel.is_compiled_there,
                    is_consumed=self._is_consumed,
                    max_gb_s=self._scheduler.max_gb_s,
                    max_usd=self._scheduler.max_usd,
                )
            )
        except BaseException as error:
            await self._close_journal(error)
            self._tell_end(error)
            raise
        self._intake.start()
        self._hold.begin()  # a second Ctrl-C, while what the first one cancelled is cleaning up
        return self

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        try:
            await self._close(error)
        finally:
            self._hold.end()

    async def _close(self, error: BaseException | None) -> None:
        pulling = self._intake.stop()
        is_cut_short = not self._scheduler.is_finished or self._error is not None
        self._feed(Cancelled())
        if self._timer is not None:
            self._timer.cancel()
        is_cancelled = isinstance(error, asyncio.CancelledError | KeyboardInterrupt)
        self._leave_orphans(is_cut_short=is_cut_short, is_cancelled=is_cancelled)
        tasks = [*self._given_up]
        tasks += [task for number, task in self._attempts.items() if not self._is_orphan(number)]
        for task in tasks:
            if not task.cancelling():  # what is cleaning up already shall not be disturbed
                task.cancel()
        if pulling is not None:
            tasks.append(pulling)
        # Attempts that are given up stop their workers before they end, so this waits for them,
        # even when the caller is cancelled meanwhile.
        cancelled = await _join(tasks)
        self._intake.chunks.clear()
        if self._on_end is not None:
            self._on_end()
        if (spill := self._request.spill) is not None:
            cancelled = await _join([self._loop.create_task(spill.aclose())]) or cancelled
        if self._journal is not None and cancelled is not None:
            self._journal.hurry()
        cancelled = await self._close_journal(error) or cancelled
        # Whoever cancels a task expects it to end so, whatever else went wrong in it.
        if cancelled is not None and (error is None or isinstance(error, Exception)):
            error = cancelled
        try:
            self._tell_end(error)
        finally:
            if isinstance(error, asyncio.CancelledError):
                raise error

    async def _close_journal(self, error: BaseException | None) -> asyncio.CancelledError | None:
        if self._journal is None:
            return None
        closing = self._journal.aclose(error or self._error or self._intake.error)
        return await _join([self._loop.create_task(closing)], self._journal.hurry)

    def _leave_orphans(self, *, is_cut_short: bool, is_cancelled: bool) -> None:
        """Attempts that can't be stopped go on, so that it is known for how long they do.

        Says so, and how a run goes on that was cancelled.
        """
        left = [task for number, task in self._attempts.items() if self._is_orphan(number)]
        parts = []
        if self._orphans is not None and left:
            billed = self._backend.billed
            parts.append(running_on(len(left), self._backend.name, billed))
            for task in left:
                self._orphans.add(task)
                task.add_done_callback(self._orphans.discard)
        if is_cut_short and is_cancelled and self._journal is not None:
            parts.append(f"`fanout resume {self._run}` does what is left of it")
        if parts:
            level = logging.WARNING if is_cut_short else logging.INFO
            _LOG.log(level, "fanout: run %s has ended; %s", self._run, "; ".join(parts))

    def _is_orphan(self, number: int) -> bool:
        """Whether an attempt can't be stopped."""
        return self._orphans is not None and number in self._sent

    async def finished(self) -> None:
        """Wait for the end of the run.

        Raises:
            BaseException: What ended it, if it could not come to its end.
        """
        await self._finished.wait()
        if (error := self._error or self._intake.error) is not None:
            raise error

    @property
    def kernel(self) -> str:
        """Name of the kernel."""
        return self._request.kernel.name

    @property
    def hedges(self) -> HedgeCounts:
        """What became of covers."""
        return self._scheduler.hedges

    @property
    def is_finished(self) -> bool:
        """Whether all that will be delivered has been."""
        return self._finished.is_set()

    def consumed(self, count: int) -> None:
        """Say that the caller took `count` outcomes."""
        self._feed(Consumed(count))

    # ---- events in, actions out ----

    def _feed(self, event: Event) -> None:
        self._events.append(event)
        if self._is_feeding:
            return  # an action led to this, as it can where tasks start eagerly: in its turn
        self._is_feeding = True
        try:
            while self._events:
                self._handle(self._events.popleft())
        finally:
            self._is_feeding = False
        if self._scheduler.wanted:
            self._intake.pull()
        seat = self._scheduler.turn(self._loop.time())
        if seat is not None and seat is not self._scheduler.seat and seat.wake is not None:
            self._loop.call_soon(seat.wake)

    def _handle(self, event: Event) -> None:
        if self._scheduler.is_finished:
            self._scheduler.handle(event, self._loop.time())  # nobody else needs to know
            return
        try:
            self._tell(event)
            for action in self._scheduler.handle(event, self._loop.time()):
                self._tell(action)
                self._perform(action)
        except Exception as error:  # noqa: BLE001  # an observer raised: the caller shall know
            self._error = self._error or error
            for action in self._scheduler.handle(Cancelled(), self._loop.time()):
                self._perform(action)
            self._finish()

    def _perform(self, action: Action) -> None:
        match action:
            case Launch(attempt=number):
                task = self._loop.create_task(self._attempt(action))
                self._attempts[number] = task
                task.add_done_callback(functools.partial(self._attempt_ended, number))
            case Deliver(outcomes=outcomes):
                for outcome in outcomes:
                    chunk = self._intake.chunks.pop(outcome.index, None)
                    if outcome.error is not None:
                        outcome.error.add_note(
                            f"task {outcome.index}, chunk: {describe_chunk(chunk)}"
                        )
                self._deliver(outcomes)
            case Ignore(attempt=number):
                self._sent.discard(number)
                if (running := self._attempts.pop(number, None)) is not None:
                    self._given_up.add(running)
                    running.cancel()
            case WakeAt(at_s=at_s):
                if self._timer is not None:
                    self._timer.cancel()
                self._timer = self._loop.call_at(at_s, self._feed, Ticked())
            case Finish(failure=failure):
                if failure is not None and self._error is None:
                    message = failure.detail or failure.kind.value
                    self.ended_by = self._error = failure.error or BackendError(message)
                self._finish()
            case Retry():
                pass

    def _tell(self, event: RunEvent) -> None:
        for observer in self._observers:
            observer(event)

    def _tell_end(self, error: BaseException | None) -> None:
        """Tell every observer, even when another one raises: it may have a display to close."""
        with contextlib.ExitStack() as stack:
            for observer in reversed(self._observers):
                stack.callback(observer, RunEnded(error))

    def _abort(self, error: BaseException) -> None:
        """End the run because of something that is not the affair of a task."""
        if not self._scheduler.is_finished:
            self._error = self._error or error
            self._feed(Cancelled())

    def _finish(self) -> None:
        if not self._finished.is_set():
            self._finished.set()
            self._deliver(())

    # ---- tasks of asyncio ----

    def _attempt_started(self, number: int) -> None:
        self._sent.add(number)
        if self._hears_starts:
            self._feed(AttemptStarted(number))

    def _attempt_ended(self, number: int, task: asyncio.Task[None]) -> None:
        self._given_up.discard(task)
        is_wanted = self._attempts.pop(number, None) is not None
        if not task.cancelled():
            self._check(task)
        elif is_wanted:  # so it was not us: the backend, or someone who cancels all there is
            detail = "was given up: its attempt was cancelled from outside"
            ran = number in self._sent
            kind = FailureKind.CRASHED if ran else FailureKind.DID_NOT_RUN
            self._sent.discard(number)
            self._feed(AttemptFailed(number, Failure(kind=kind, detail=detail)))

    def _check(self, task: asyncio.Task[None]) -> None:
        """End the run if a task ended with an error, which none should."""
        if (error := task.exception()) is None:
            return
        if self._scheduler.is_finished and self._error is None:
            message = "fanout: an error after the end of a run"
            self._loop.call_exception_handler({"message": message, "exception": error})
        self._abort(error)

    async def _attempt(self, launch: Launch) -> None:
        """Carry one attempt to the backend and its reply to the scheduler."""
        number = launch.attempt
        started = functools.partial(self._attempt_started, number)
        answer = await self._carrier.carry(launch, started)
        if self._journal is not None and isinstance(answer, AttemptAnswered):
            await self._journal.prepare(answer)
        self._attempts.pop(number, None)
        self._sent.discard(number)
        self._feed(answer)


async def _join(
    tasks: Sequence[asyncio.Task[None]], hurry: Callable[[], None] | None = None
) -> asyncio.CancelledError | None:
    """Wait until all tasks have ended; a cancellation meanwhile is given back, not obeyed.

    It is told to `hurry`.
    """
    cancelled = None
    pending = {task for task in tasks if not task.done()}
    while pending:
        try:
            _, pending = await asyncio.wait(pending)
        except asyncio.CancelledError as error:
            cancelled = error
            if hurry is not None:
                hurry()
            pending = {task for task in pending if not task.done()}
    return cancelled
