"""The same for code without an event loop, and for code that must not await inside one.

    results = fanout.sync.map(kernel, chunks)

    with fanout.sync.Executor() as ex:
        with ex.stream(kernel, chunks) as outcomes:
            for outcome in outcomes: ...

An event loop in a thread of its own does the work, so this also runs where a loop is running
already, such as a notebook; the caller is blocked meanwhile. Ctrl-C ends the run, not only the
wait.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Literal, TypeVar, TypeVarTuple, overload

from anyio.from_thread import BlockingPortal, start_blocking_portal

from fanout import executor
from fanout.errors import UsageError
from fanout.interrupts import Hold, kept_back, let_through

if TYPE_CHECKING:
    from collections.abc import (
        AsyncIterable,
        Awaitable,
        Callable,
        Iterable,
        Iterator,
    )
    from concurrent.futures import Future
    from types import TracebackType
    from typing import Self, Unpack

    from fanout.backends import Backend
    from fanout.cost.bill import Bill
    from fanout.options import MapOptions
    from fanout.outcomes import OutcomeStream, Run
    from fanout.tasks import Outcome

T = TypeVar("T")
R = TypeVar("R")
Ts = TypeVarTuple("Ts")
W = TypeVar("W")


class Executor:
    """Runs maps on one backend, which stays open between them; see `fanout.Executor`."""

    def __init__(self, backend: Backend | None = None) -> None:
        self._executor = executor.Executor(backend)
        self._stack = contextlib.ExitStack()
        self._portal: BlockingPortal | None = None

    def __enter__(self) -> Self:
        """Start the event loop and open the backend."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(Hold())
            with kept_back():
                self._portal = stack.enter_context(start_blocking_portal("asyncio"))
                with let_through():
                    stack.enter_context(self._portal.wrap_async_context_manager(self._executor))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the backend and end the event loop."""
        with kept_back():
            self._portal = None
            self._stack.__exit__(kind, error, trace)

    @property
    def bill(self) -> Bill:
        """What its runs have cost so far."""
        return self._executor.bill

    @overload
    def map(
        self,
        kernel: Callable[[T], R],
        chunks: Iterable[T] | AsyncIterable[T],
        *,
        return_exceptions: Literal[False] = False,
        **options: Unpack[MapOptions],
    ) -> list[R]: ...
    @overload
    def map(
        self,
        kernel: Callable[[T], R],
        chunks: Iterable[T] | AsyncIterable[T],
        *,
        return_exceptions: bool,
        **options: Unpack[MapOptions],
    ) -> list[R | Exception]: ...
    def map(
        self,
        kernel: Callable[[T], R],
        chunks: Iterable[T] | AsyncIterable[T],
        *,
        return_exceptions: bool = False,
        **options: Unpack[MapOptions],
    ) -> list[R] | list[R | Exception]:
        """Run the kernel on every chunk; see `fanout.Executor.map`."""
        return self._wait(
            lambda: self._executor.map(
                kernel, chunks, return_exceptions=return_exceptions, **options
            )
        )

    @overload
    def starmap(
        self,
        kernel: Callable[[Unpack[Ts]], R],
        chunks: Iterable[tuple[*Ts]] | AsyncIterable[tuple[*Ts]],
        *,
        return_exceptions: Literal[False] = False,
        **options: Unpack[MapOptions],
    ) -> list[R]: ...
    @overload
    def starmap(
        self,
        kernel: Callable[[Unpack[Ts]], R],
        chunks: Iterable[tuple[*Ts]] | AsyncIterable[tuple[*Ts]],
        *,
        return_exceptions: bool,
        **options: Unpack[MapOptions],
    ) -> list[R | Exception]: ...
    def starmap(
        self,
        kernel: Callable[[Unpack[Ts]], R],
        chunks: Iterable[tuple[*Ts]] | AsyncIterable[tuple[*Ts]],
        *,
        return_exceptions: bool = False,
        **options: Unpack[MapOptions],
    ) -> list[R] | list[R | Exception]:
        """Like `map`, for chunks that are tuples of arguments: `kernel(*chunk)`."""
        return self._wait(
            lambda: self._executor.starmap(
                kernel, chunks, return_exceptions=return_exceptions, **options
            )
        )

    def run(
        self,
        kernel: Callable[[T], R],
        chunks: Iterable[T] | AsyncIterable[T],
        **options: Unpack[MapOptions],
    ) -> Run[R]:
        """Like `map`, and return all that is known about the run; see `fanout.Executor.run`."""
        return self._wait(lambda: self._executor.run(kernel, chunks, **options))

    @contextlib.contextmanager
    def stream(
        self,
        kernel: Callable[[T], R],
        chunks: Iterable[T] | AsyncIterable[T],
        *,
        ordered: bool = False,
        **options: Unpack[MapOptions],
    ) -> Iterator[Iterator[Outcome[R]]]:
        """Give the outcomes as they come; see `fanout.Executor.stream`."""
        stream = self._executor.stream(kernel, chunks, ordered=ordered, **options)
        with contextlib.ExitStack() as stack:
            with kept_back():
                outcomes = stack.enter_context(self._opened().wrap_async_context_manager(stream))
            yield self._each(outcomes)

    def _each(self, outcomes: OutcomeStream[R]) -> Iterator[Outcome[R]]:
        # One crossing between the threads brings all that has come by then.
        while batch := self._wait(outcomes.batch):
            yield from batch

    def _opened(self) -> BlockingPortal:
        if self._portal is None:
            raise UsageError(
                "this executor is not open: use it as `with fanout.sync.Executor() as ex:`"
            )
        return self._portal

    def _wait(self, work: Callable[[], Awaitable[W]]) -> W:
        """Have the loop's thread do it, and cancel it if the wait is interrupted."""
        with kept_back():
            return _result(self._opened().start_task_soon(work))


def _result(future: Future[W]) -> W:
    """Wait for what the loop's thread does; Ctrl-C ends the wait, and cancels it."""
    try:
        with let_through():
            return future.result()
    except BaseException:
        future.cancel()
        raise


@overload
def map(
    kernel: Callable[[T], R],
    chunks: Iterable[T] | AsyncIterable[T],
    *,
    backend: Backend | None = None,
    return_exceptions: Literal[False] = False,
    **options: Unpack[MapOptions],
) -> list[R]: ...
@overload
def map(
    kernel: Callable[[T], R],
    chunks: Iterable[T] | AsyncIterable[T],
    *,
    backend: Backend | None = None,
    return_exceptions: bool,
    **options: Unpack[MapOptions],
) -> list[R | Exception]: ...
def map(
    kernel: Callable[[T], R],
    chunks: Iterable[T] | AsyncIterable[T],
    *,
    backend: Backend | None = None,
    return_exceptions: bool = False,
    **options: Unpack[MapOptions],
) -> list[R] | list[R | Exception]:
    """Run the kernel on every chunk; see `fanout.map`."""
    with Executor(backend) as ex:
        return ex.map(kernel, chunks, return_exceptions=return_exceptions, **options)


@overload
def starmap(
    kernel: Callable[[Unpack[Ts]], R],
    chunks: Iterable[tuple[*Ts]] | AsyncIterable[tuple[*Ts]],
    *,
    backend: Backend | None = None,
    return_exceptions: Literal[False] = False,
    **options: Unpack[MapOptions],
) -> list[R]: ...
@overload
def starmap(
    kernel: Callable[[Unpack[Ts]], R],
    chunks: Iterable[tuple[*Ts]] | AsyncIterable[tuple[*Ts]],
    *,
    backend: Backend | None = None,
    return_exceptions: bool,
    **options: Unpack[MapOptions],
) -> list[R | Exception]: ...
def starmap(
    kernel: Callable[[Unpack[Ts]], R],
    chunks: Iterable[tuple[*Ts]] | AsyncIterable[tuple[*Ts]],
    *,
    backend: Backend | None = None,
    return_exceptions: bool = False,
    **options: Unpack[MapOptions],
) -> list[R] | list[R | Exception]:
    """Like `map`, for chunks that are tuples of arguments: `kernel(*chunk)`."""
    with Executor(backend) as ex:
        return ex.starmap(kernel, chunks, return_exceptions=return_exceptions, **options)


def run(
    kernel: Callable[[T], R],
    chunks: Iterable[T] | AsyncIterable[T],
    *,
    backend: Backend | None = None,
    **options: Unpack[MapOptions],
) -> Run[R]:
    """Like `map`, and return all that is known about the run; see `fanout.Executor.run`."""
    with Executor(backend) as ex:
        return ex.run(kernel, chunks, **options)


def resume(run: str, *, progress: bool | None = None) -> Run[Any]:
    """Go on with a run that did not end; see `fanout.resume`."""
    with Hold(), kept_back(), start_blocking_portal("asyncio") as portal:
        return _result(portal.start_task_soon(lambda: executor.resume(run, progress=progress)))


@contextlib.contextmanager
def stream(
    kernel: Callable[[T], R],
    chunks: Iterable[T] | AsyncIterable[T],
    *,
    backend: Backend | None = None,
    ordered: bool = False,
    **options: Unpack[MapOptions],
) -> Iterator[Iterator[Outcome[R]]]:
    """Give the outcomes as they come; see `fanout.Executor.stream`."""
    with Executor(backend) as ex, ex.stream(kernel, chunks, ordered=ordered, **options) as outcomes:
        yield outcomes
