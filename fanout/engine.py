"""One run: feeds the scheduler with what happens, does what it says, and nothing of its own mind.

The engine is the only thing that performs actions. It owns the tasks of asyncio that this takes (one
that pulls the input, one for each attempt) and leaves none behind. Its clock is the event loop's, so
that tests run it in virtual time.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterable, Iterable, Sized
from typing import TYPE_CHECKING, Any, Final

from fanout.backends import AttemptError
from fanout.envelope import build, describe_chunk, read
from fanout.errors import DecodeError, UsageError
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
    InputEnded,
    Launch,
    Offered,
    Retry,
    RunEnded,
    RunStarted,
    Ticked,
    WakeAt,
)
from fanout.retry import Failure, FailureKind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fanout.backends import Backend
    from fanout.events import RunEvent
    from fanout.kernel import KernelSpec
    from fanout.scheduler import Scheduler
    from fanout.tasks import Outcome

# How long input is pulled without letting the event loop breathe.
_SLICE_S: Final = 0.005


class Engine:
    """Runs one map.

    Args:
        run: Identifies the run.
        scheduler: Decides.
        backend: Runs attempts; already started.
        spec: The kernel.
        chunks: The input; pulled from as the scheduler wants.
        deliver: Takes final outcomes as they come, and an empty batch at the end.
        is_star: Each chunk is a tuple of arguments.
        is_safe: Refuse pickle.
        observers: Told everything, in order. What one raises ends the run.
    """

    def __init__(
        self,
        *,
        run: str,
        scheduler: Scheduler,
        backend: Backend,
        spec: KernelSpec,
        chunks: Iterable[Any] | AsyncIterable[Any],
        deliver: Callable[[Sequence[Outcome[Any]]], None],
        is_star: bool = False,
        is_safe: bool = False,
        observers: Sequence[Callable[[RunEvent], None]] = (),
    ) -> None:
        self._run = run
        self._scheduler = scheduler
        self._backend = backend
        self._spec = spec
        self._input = chunks
        self._deliver = deliver
        self._is_star = is_star
        self._is_safe = is_safe
        self._observers = observers

        self._chunks: dict[int, Any] = {}  # of unsettled tasks
        self._attempts: dict[int, asyncio.Task[None]] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._wanted = asyncio.Event()
        self._finished = asyncio.Event()
        self._error: BaseException | None = None

    # ---- for the executor ----

    async def __aenter__(self) -> Engine:
        self._loop = asyncio.get_running_loop()
        self._tell(
            RunStarted(
                run=self._run,
                kernel=self._spec.name,
                backend=self._backend.name,
                concurrency=self._backend.concurrency,
                total=len(self._input) if isinstance(self._input, Sized) else None,
            )
        )
        self._spawn(self._pull(), "input")
        return self

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._feed(Cancelled())
        if self._timer is not None:
            self._timer.cancel()
        tasks = [*self._background, *self._attempts.values()]
        for task in tasks:
            task.cancel()
        # Attempts that are given up stop their workers before they end, so this waits for them,
        # even when the caller is cancelled meanwhile.
        cancelled = await _join(tasks)
        self._chunks.clear()
        self._tell(RunEnded(self._error or error))
        if cancelled is not None and error is None:
            raise cancelled

    async def finished(self) -> None:
        """Wait for the end of the run.

        Raises:
            BaseException: What ended it, if it could not come to its end.
        """
        await self._finished.wait()
        if self._error is not None:
            raise self._error

    @property
    def kernel(self) -> str:
        """Name of the kernel."""
        return self._spec.name

    @property
    def is_finished(self) -> bool:
        """Whether all that will be delivered has been."""
        return self._finished.is_set()

    def consumed(self, count: int) -> None:
        """Say that the caller took `count` outcomes."""
        self._feed(Consumed(count))

    # ---- events in, actions out ----

    def _feed(self, event: Event) -> None:
        if self._scheduler.is_finished:
            return
        try:
            self._tell(event)
            for action in self._scheduler.handle(event, self._loop.time()):
                self._tell(action)
                self._perform(action)
        except Exception as error:  # noqa: BLE001  # an observer raised: the caller shall know
            self._abort(error)
        if self._scheduler.wanted:
            self._wanted.set()

    def _perform(self, action: Action) -> None:
        match action:
            case Launch(attempt=number, tasks=tasks):
                task = self._loop.create_task(
                    self._attempt(number, tasks), name=f"fanout attempt {number}"
                )
                self._attempts[number] = task
                task.add_done_callback(self._ended)
            case Deliver(outcomes=outcomes):
                for outcome in outcomes:
                    chunk = self._chunks.pop(outcome.index, None)
                    if outcome.error is not None:
                        outcome.error.add_note(
                            f"task {outcome.index}, chunk: {describe_chunk(chunk)}"
                        )
                self._deliver(outcomes)
            case Ignore(attempt=number):
                if (running := self._attempts.get(number)) is not None:
                    running.cancel()
            case WakeAt(at_s=at_s):
                if self._timer is not None:
                    self._timer.cancel()
                self._timer = self._loop.call_at(at_s, self._feed, Ticked())
            case Finish(failure=failure):
                if failure is not None and self._error is None:
                    self._error = failure.error
                self._finish()
            case Retry():
                pass

    def _tell(self, event: RunEvent) -> None:
        for observer in self._observers:
            observer(event)

    def _abort(self, error: BaseException) -> None:
        """End the run because of something that is not the affair of a task."""
        if self._error is None:
            self._error = error
        for action in self._scheduler.handle(Cancelled(), self._loop.time()):
            self._perform(action)
        self._finish()

    def _finish(self) -> None:
        if not self._finished.is_set():
            self._finished.set()
            self._deliver(())

    # ---- tasks of asyncio ----

    def _spawn(self, work: Any, name: str) -> None:
        task = self._loop.create_task(work, name=f"fanout {name}")
        self._background.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._abort(error)

    async def _pull(self) -> None:
        """Offer chunks as long as the scheduler wants some."""
        if isinstance(self._input, AsyncIterable):
            await self._pull_async(self._input)
        else:
            await self._pull_sync(self._input)
        self._feed(InputEnded())

    async def _pull_sync(self, source: Iterable[Any]) -> None:
        iterator = iter(source)
        first = 0
        is_ended = False
        while not is_ended:
            await self._room()
            # A slice at a time, so that a slow generator doesn't keep finished work waiting.
            until_s = self._loop.time() + _SLICE_S
            wanted = self._scheduler.wanted
            count = 0
            with _noted(first):
                for chunk in itertools.islice(iterator, wanted):
                    self._chunks[first + count] = chunk
                    count += 1
                    if self._loop.time() >= until_s:
                        break
                else:
                    is_ended = count < wanted
            if count:
                self._feed(Offered(first, count))
                first += count
            await asyncio.sleep(0)

    async def _pull_async(self, source: AsyncIterable[Any]) -> None:
        iterator = aiter(source)
        first = 0
        try:
            while True:
                await self._room()
                with _noted(first):
                    try:
                        self._chunks[first] = await anext(iterator)
                    except StopAsyncIteration:
                        return
                self._feed(Offered(first, 1))
                first += 1
        finally:
            if (close := getattr(iterator, "aclose", None)) is not None:
                await close()

    async def _room(self) -> None:
        while not self._scheduler.wanted:
            self._wanted.clear()
            await self._wanted.wait()

    async def _attempt(self, number: int, tasks: Sequence[int]) -> None:
        """Carry one attempt to the backend and its reply to the scheduler."""
        scheduler = self._scheduler
        try:
            request, sent, outcomes = build(
                self._spec, tasks, self._chunks, is_star=self._is_star, is_safe=self._is_safe
            )
            answer: AttemptAnswered | AttemptFailed = AttemptAnswered(number, outcomes, None)
            if sent:
                reply = await self._backend.invoke(
                    request, lambda: self._feed(AttemptStarted(number))
                )
                answer = read(
                    reply,
                    attempt=number,
                    tasks=sent,
                    is_safe=self._is_safe,
                    request_bytes=request.nbytes,
                    attempts_of=scheduler.attempts_of,
                )
                if outcomes and isinstance(answer, AttemptAnswered):
                    answer = AttemptAnswered(number, [*answer.outcomes, *outcomes], answer.report)
        except AttemptError as error:
            answer = AttemptFailed(number, error.failure)
        except DecodeError as error:
            detail = f"sent a reply that can't be read ({error})"
            answer = AttemptFailed(number, Failure(kind=FailureKind.CRASHED, detail=detail))
        finally:
            self._attempts.pop(number, None)
        self._feed(answer)


class _noted:  # noqa: N801  # reads as a word: with _noted(first)
    """Says of an exception of the caller's own iterator where it came from."""

    def __init__(self, first: int) -> None:
        self._first = first

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, Exception):
            error.add_note(
                f"raised by the input of fanout, after it gave chunk {self._first - 1} or later"
                if self._first
                else "raised by the input of fanout"
            )


async def _join(tasks: Sequence[asyncio.Task[None]]) -> asyncio.CancelledError | None:
    """Wait until all tasks have ended; a cancellation meanwhile is given back, not obeyed."""
    cancelled = None
    pending = {task for task in tasks if not task.done()}
    while pending:
        try:
            _, pending = await asyncio.wait(pending)
        except asyncio.CancelledError as error:
            cancelled = error
            pending = {task for task in pending if not task.done()}
    return cancelled


def checked_input(chunks: object) -> Iterable[Any] | AsyncIterable[Any]:
    """The input, if it can be iterated over.

    Raises:
        UsageError: It can't, or it is a text: a map over its characters is never meant.
    """
    if isinstance(chunks, str | bytes):
        msg = (
            f"chunks is a {type(chunks).__name__}, and would be mapped over one character at a time: "
            "pass [chunks] for one task, or list(chunks) if that is what you want"
        )
        raise UsageError(msg)
    if not isinstance(chunks, Iterable | AsyncIterable):
        msg = (
            f"chunks is of type {type(chunks).__name__}, which can't be iterated over: "
            "pass a list, a generator or an async iterator"
        )
        raise UsageError(msg)
    return chunks
