"""`fanout.map` and its kin: an executor, used once."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Literal, TypeVar, TypeVarTuple, overload

from fanout.executor import Executor

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
    from typing import Unpack

    from fanout.backends import Backend
    from fanout.options import MapOptions
    from fanout.outcomes import OutcomeStream, Run

T = TypeVar("T")
R = TypeVar("R")
Ts = TypeVarTuple("Ts")


@overload
async def map(
    kernel: Callable[[T], R],
    chunks: Iterable[T] | AsyncIterable[T],
    *,
    backend: Backend | None = None,
    return_exceptions: Literal[False] = False,
    **options: Unpack[MapOptions],
) -> list[R]: ...
@overload
async def map(
    kernel: Callable[[T], R],
    chunks: Iterable[T] | AsyncIterable[T],
    *,
    backend: Backend | None = None,
    return_exceptions: bool,
    **options: Unpack[MapOptions],
) -> list[R | Exception]: ...
async def map(
    kernel: Callable[[T], R],
    chunks: Iterable[T] | AsyncIterable[T],
    *,
    backend: Backend | None = None,
    return_exceptions: bool = False,
    **options: Unpack[MapOptions],
) -> list[R] | list[R | Exception]:
    """Run the kernel on every chunk; return the results in the order of the input.

    See `Executor.map` for the arguments, and use an `Executor` for several maps: it keeps its
    workers.
    """
    async with Executor(backend) as ex:
        return await ex.map(kernel, chunks, return_exceptions=return_exceptions, **options)


@overload
async def starmap(
    kernel: Callable[[Unpack[Ts]], R],
    chunks: Iterable[tuple[*Ts]] | AsyncIterable[tuple[*Ts]],
    *,
    backend: Backend | None = None,
    return_exceptions: Literal[False] = False,
    **options: Unpack[MapOptions],
) -> list[R]: ...
@overload
async def starmap(
    kernel: Callable[[Unpack[Ts]], R],
    chunks: Iterable[tuple[*Ts]] | AsyncIterable[tuple[*Ts]],
    *,
    backend: Backend | None = None,
    return_exceptions: bool,
    **options: Unpack[MapOptions],
) -> list[R | Exception]: ...
async def starmap(
    kernel: Callable[[Unpack[Ts]], R],
    chunks: Iterable[tuple[*Ts]] | AsyncIterable[tuple[*Ts]],
    *,
    backend: Backend | None = None,
    return_exceptions: bool = False,
    **options: Unpack[MapOptions],
) -> list[R] | list[R | Exception]:
    """Like `map`, for chunks that are tuples of arguments: `kernel(*chunk)`."""
    async with Executor(backend) as ex:
        return await ex.starmap(kernel, chunks, return_exceptions=return_exceptions, **options)


async def run(
    kernel: Callable[[T], R],
    chunks: Iterable[T] | AsyncIterable[T],
    *,
    backend: Backend | None = None,
    **options: Unpack[MapOptions],
) -> Run[R]:
    """Like `map`, and return all that is known about the run; see `Executor.run`."""
    async with Executor(backend) as ex:
        return await ex.run(kernel, chunks, **options)


@contextlib.asynccontextmanager
async def stream(
    kernel: Callable[[T], R],
    chunks: Iterable[T] | AsyncIterable[T],
    *,
    backend: Backend | None = None,
    ordered: bool = False,
    **options: Unpack[MapOptions],
) -> AsyncIterator[OutcomeStream[R]]:
    """Run the kernel on every chunk, and give the outcomes as they come; see `Executor.stream`."""
    async with (
        Executor(backend) as ex,
        ex.stream(kernel, chunks, ordered=ordered, **options) as outcomes,
    ):
        yield outcomes
