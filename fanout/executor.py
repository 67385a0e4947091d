"""The public face of running things: `Executor`, and what it gives back.

An executor keeps one backend open for several maps. `fanout.map` and the like are an executor used
once; `fanout.sync` is the same for code without an event loop.
"""

from __future__ import annotations

import contextlib
import random
import secrets
import time
from collections.abc import AsyncIterator, Sized
from typing import TYPE_CHECKING, Any, Literal, TypeVar, TypeVarTuple, overload

from fanout import config
from fanout.backends.local import Local
from fanout.engine import Engine
from fanout.errors import UsageError
from fanout.grouping import Grouping, GroupPolicy
from fanout.intake import checked_input
from fanout.kernel_spec import prepare
from fanout.options import MapOptions, check
from fanout.outcomes import Meter, OutcomeStream, Run
from fanout.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Iterable, Sequence
    from types import TracebackType
    from typing import Self, Unpack

    from fanout.backends import Backend
    from fanout.events import RunEvent
    from fanout.tasks import Outcome

T = TypeVar("T")
R = TypeVar("R")
Ts = TypeVarTuple("Ts")


class Executor:
    """Runs maps on one backend, which stays open between them.

        async with fanout.Executor() as ex:
            coarse = await ex.map(simulate, coarse_grid)
            fine = await ex.map(simulate, refine(coarse))

    Maps may run at the same time; they share the backend's workers.

    Args:
        backend: Where to run; by default what `FANOUT_BACKEND` says, and that is this machine.

    Raises:
        UsageError: A setting makes no sense.
    """

    def __init__(self, backend: Backend | None = None) -> None:
        self._settings = config.load()
        self._backend: Backend = (
            Local(workers=self._settings.workers) if backend is None else backend
        )
        self._is_open = False

    def __repr__(self) -> str:
        return f"<Executor on {self._backend!r}{'' if self._is_open else ', not open'}>"

    @property
    def backend(self) -> Backend:
        """The backend."""
        return self._backend

    async def __aenter__(self) -> Self:
        """Open the backend."""
        await self._backend.start()
        self._is_open = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the backend; leaves no process behind."""
        self._is_open = False
        await self._backend.aclose()

    @overload
    async def map(
        self,
        kernel: Callable[[T], R],
        chunks: Iterable[T] | AsyncIterable[T],
        *,
        return_exceptions: Literal[False] = False,
        **options: Unpack[MapOptions],
    ) -> list[R]: ...
    @overload
    async def map(
        self,
        kernel: Callable[[T], R],
        chunks: Iterable[T] | AsyncIterable[T],
        *,
        return_exceptions: bool,
        **options: Unpack[MapOptions],
    ) -> list[R | Exception]: ...
    async def map(
        self,
        kernel: Callable[[T], R],
        chunks: Iterable[T] | AsyncIterable[T],
        *,
        return_exceptions: bool = False,
        **options: Unpack[MapOptions],
    ) -> list[R] | list[R | Exception]:
        """Run the kernel on every chunk; return the results in the order of the input.

        Args:
            kernel: Any function of one argument: of a module, typed into a notebook, a lambda, a
                closure, compiled by numba, or a `functools.partial` of one of these.
            chunks: What to call it with: a list, a generator, an async iterator, of any length.
            return_exceptions: Put the exceptions of failed tasks into the list. Otherwise the first
                failure ends the run and is raised.
            **options: See `MapOptions`.

        Raises:
            UsageError: An argument is wrong.
            FanoutError: A task could not be run; see `fanout.errors`.
            Exception: What the kernel raised, with notes that name the task and its chunk.
        """
        return await self._map(kernel, chunks, False, return_exceptions, options)

    @overload
    async def starmap(
        self,
        kernel: Callable[[Unpack[Ts]], R],
        chunks: Iterable[tuple[*Ts]] | AsyncIterable[tuple[*Ts]],
        *,
        return_exceptions: Literal[False] = False,
        **options: Unpack[MapOptions],
    ) -> list[R]: ...
    @overload
    async def starmap(
        self,
        kernel: Callable[[Unpack[Ts]], R],
        chunks: Iterable[tuple[*Ts]] | AsyncIterable[tuple[*Ts]],
        *,
        return_exceptions: bool,
        **options: Unpack[MapOptions],
    ) -> list[R | Exception]: ...
    async def starmap(
        self,
        kernel: Callable[[Unpack[Ts]], R],
        chunks: Iterable[tuple[*Ts]] | AsyncIterable[tuple[*Ts]],
        *,
        return_exceptions: bool = False,
        **options: Unpack[MapOptions],
    ) -> list[R] | list[R | Exception]:
        """Like `map`, for chunks that are tuples of arguments: `kernel(*chunk)`."""
        return await self._map(kernel, chunks, True, return_exceptions, options)

    async def run(
        self,
        kernel: Callable[[T], R],
        chunks: Iterable[T] | AsyncIterable[T],
        **options: Unpack[MapOptions],
    ) -> Run[R]:
        """Like `map`, and return all that is known about the run.

        Failed tasks don't end it; they are in `Run.failures`.
        """
        outcomes: dict[int, Outcome[R]] = {}

        def keep(batch: Sequence[Outcome[R]]) -> None:
            outcomes.update((outcome.index, outcome) for outcome in batch)

        meter = Meter()
        engine, run = self._engine(kernel, chunks, keep, options, observers=[meter])
        async with engine:
            await engine.finished()
        return Run(
            id=run,
            kernel=engine.kernel,
            backend=self._backend.name,
            outcomes=[outcomes[index] for index in range(len(outcomes))],
            attempts=meter.attempts,
            retries=meter.retries,
            makespan_s=meter.makespan_s,
        )

    @contextlib.asynccontextmanager
    async def stream(
        self,
        kernel: Callable[[T], R],
        chunks: Iterable[T] | AsyncIterable[T],
        *,
        ordered: bool = False,
        **options: Unpack[MapOptions],
    ) -> AsyncIterator[OutcomeStream[R]]:
        """Run the kernel on every chunk, and give the outcomes as they come.

            async with ex.stream(kernel, chunks) as outcomes:
                async for outcome in outcomes:
                    print(outcome.index, outcome.result())

        The input may be endless: only as many chunks are pulled ahead of what you have taken as the
        workers need to stay busy. Failed tasks are outcomes, too, and don't end the run. Leaving
        the block ends it.

        Args:
            kernel: As for `map`.
            chunks: As for `map`.
            ordered: Give the outcomes in the order of the input.
            **options: See `MapOptions`.
        """
        outcomes: OutcomeStream[R] = OutcomeStream()
        engine, _ = self._engine(
            kernel, chunks, outcomes._put, options, is_ordered=ordered, is_consumed=True
        )
        outcomes._engine = engine
        async with engine:
            yield outcomes

    async def _map(
        self,
        kernel: Callable[..., Any],
        chunks: Iterable[Any] | AsyncIterable[Any],
        is_star: bool,
        return_exceptions: bool,
        options: MapOptions,
    ) -> list[Any]:
        results: dict[int, Any] = {}
        failed: list[Exception] = []

        def keep(batch: Sequence[Outcome[Any]]) -> None:
            for outcome in batch:
                error = outcome.error
                results[outcome.index] = outcome.value if error is None else error
                if error is not None:
                    failed.append(error)

        engine, _ = self._engine(
            kernel, chunks, keep, options, is_star=is_star, stops_on_failure=not return_exceptions
        )
        async with engine:
            await engine.finished()
            if failed and not return_exceptions:
                raise failed[0]
        return [results[index] for index in range(len(results))]

    def _engine(
        self,
        kernel: Callable[..., Any],
        chunks: Iterable[Any] | AsyncIterable[Any],
        deliver: Callable[[Sequence[Outcome[Any]]], None],
        options: MapOptions,
        *,
        is_star: bool = False,
        is_ordered: bool = False,
        is_consumed: bool = False,
        stops_on_failure: bool = False,
        observers: Sequence[Callable[[RunEvent], None]] = (),
    ) -> tuple[Engine, str]:
        if not self._is_open:
            raise UsageError(
                "this executor is not open: use it as `async with fanout.Executor() as ex:`"
            )
        check(options)
        source = checked_input(chunks)
        is_safe = options.get("codec", "auto") == "safe"
        run = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        timeout_s = options.get("timeout_s")
        grouping = Grouping(GroupPolicy(fixed=options.get("group")), timeout_s=timeout_s)
        scheduler = Scheduler(
            limit=self._backend.limit,
            grouping=grouping,
            rng=random.Random(run),  # noqa: S311  # jitter, not secrets; the same if run again
            retry=options.get("retry"),
            timeout_s=timeout_s,
            total=len(source) if isinstance(source, Sized) else None,
            is_ordered=is_ordered,
            is_consumed=is_consumed,
            stops_on_failure=stops_on_failure,
        )
        engine = Engine(
            run=run,
            scheduler=scheduler,
            backend=self._backend,
            spec=prepare(kernel, is_safe=is_safe),
            chunks=source,
            deliver=deliver,
            is_star=is_star,
            is_safe=is_safe,
            drains=is_consumed,
            observers=[*observers, *self._observers(options)],
        )
        return engine, run

    def _observers(self, options: MapOptions) -> list[Callable[[RunEvent], None]]:
        shown = options.get("progress")
        observers: list[Callable[[RunEvent], None]] = []
        if self._settings.progress if shown is None else shown:
            from fanout.progress import Progress

            observers.append(Progress())
        if (on_event := options.get("on_event")) is not None:
            observers.append(on_event)
        return observers
