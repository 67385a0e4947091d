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
    from collections.abc import Callable, Iterator, Sequence
    from typing import Self

    from fanout.backends import Backend
    from fanout.events import RunEvent
    from fanout.kernel import KernelSpec
    from fanout.scheduler import Scheduler
    from fanout.tasks import Environment, Outcome

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
        drains: When the input raises, finish the tasks that it gave before, and deliver them.
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
        drains: bool = False,
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
        self._drains = drains
        self._observers = observers

        self._iterator: Iterator[Any] | None = None  # of an ordinary input, until it ends
        self._is_pulling = False
        self._pulled = 0
        self._chunks: dict[int, Any] = {}  # of unsettled tasks
        self._environments: dict[str, Environment] = {}
        self._attempts: dict[int, asyncio.Task[None]] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._wanted = asyncio.Event()
        self._finished = asyncio.Event()
        self._error: BaseException | None = None

    # ---- for the executor ----

    async def __aenter__(self) -> Self:
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
        if isinstance(self._input, AsyncIterable):
            self._spawn(self._pull_async(self._input), "input")
        else:
            self._iterator = iter(self._input)
            self._loop.call_soon(self._pull)
        return self

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._iterator = None
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
            self._pull()

    def _perform(self, action: Action) -> None:
        match action:
            case Launch(attempt=number, tasks=tasks):
                task = self._loop.create_task(self._attempt(number, tasks))
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

    def _pull(self) -> None:
        """Offer chunks of an ordinary iterator, as many as the scheduler wants."""
        if self._is_pulling or self._iterator is None:
            return
        self._is_pulling = True  # what is fed below comes back here
        try:
            while self._iterator is not None and (wanted := self._scheduler.wanted):
                if not self._pull_slice(self._iterator, wanted):
                    # The slice is over: finished work comes first, then the next one.
                    self._loop.call_soon(self._pull)
                    return
        except Exception as error:  # noqa: BLE001  # of the caller's own code
            self._input_failed(error)
        finally:
            self._is_pulling = False

    def _pull_slice(self, iterator: Iterator[Any], wanted: int) -> bool:
        """Pull up to `wanted` chunks; False if that took so long that others should have a turn."""
        until_s = self._loop.time() + _SLICE_S
        first, count = self._pulled, 0
        with _noted(first):
            for chunk in itertools.islice(iterator, wanted):
                self._chunks[first + count] = chunk
                count += 1
                if self._loop.time() >= until_s:
                    break
            else:
                if count < wanted:
                    self._iterator = None
        if count:
            self._pulled += count
            self._feed(Offered(first, count))
        if self._iterator is None:
            self._feed(InputEnded())
            return True
        return self._loop.time() < until_s

    async def _pull_async(self, source: AsyncIterable[Any]) -> None:
        """Offer chunks of an async iterator, as long as the scheduler wants some."""
        iterator = aiter(source)
        try:
            while True:
                while not self._scheduler.wanted:
                    self._wanted.clear()
                    await self._wanted.wait()
                try:
                    with _noted(self._pulled):
                        self._chunks[self._pulled] = await anext(iterator)
                except StopAsyncIteration:
                    break
                except Exception as error:  # noqa: BLE001  # of the caller's own code
                    self._input_failed(error)
                    return
                self._pulled += 1
                self._feed(Offered(self._pulled - 1, 1))
        finally:
            if (close := getattr(iterator, "aclose", None)) is not None:
                await close()
        self._feed(InputEnded())

    def _input_failed(self, error: Exception) -> None:
        if not self._drains:
            self._abort(error)
            return
        self._iterator = None
        self._error = error
        self._feed(InputEnded())

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
                    environments=self._environments,
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
