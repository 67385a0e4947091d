"""The public face of running things: `Executor`, and what it gives back.

An executor keeps one backend open for several maps. `fanout.map` and the like are an executor used
once; `fanout.sync` is the same for code without an event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import random
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence, Sized
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, TypeVarTuple, overload

from fanout import config
from fanout.backends.chosen import chosen
from fanout.budget import Budget
from fanout.codec import encode
from fanout.engine import Engine
from fanout.errors import BudgetExceededError, UsageError
from fanout.grouping import Grouping
from fanout.hedging import Hedging
from fanout.intake import checked_input
from fanout.kernel_spec import prepare
from fanout.options import MapOptions, check
from fanout.outcomes import Meter, OutcomeStream, Run
from fanout.refs import Ref
from fanout.request import Request
from fanout.scheduler import Scheduler
from fanout.spilled import digest_of, size_of
from fanout.storm import StormGuard
from fanout.wire import Message, frame

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Iterable
    from types import TracebackType
    from typing import Self, Unpack

    from fanout.backends import Backend
    from fanout.capacity import Seat
    from fanout.codec import Buffer
    from fanout.events import RunEvent
    from fanout.grouping import Estimate
    from fanout.stores import RunObjects, Store
    from fanout.tasks import Outcome

# Kernels of which it is remembered how long their tasks take.
_ESTIMATES_KEPT: Final = 256

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
        store: Where `put` puts large objects, and where chunks and results go that are larger than
            an invocation of Lambda takes (6.3 MB): "s3://bucket/prefix", a folder, or a store of
            `fanout.stores`; by default what `FANOUT_STORE` says. Without that, a private folder
            serves `put` for workers on this machine, and goes away with the executor.

    Raises:
        UsageError: A setting makes no sense.
    """

    def __init__(
        self,
        backend: Backend | None = None,
        *,
        store: Store | str | os.PathLike[str] | None = None,
    ) -> None:
        self._settings = config.load()
        store = self._settings.store if store is None else store
        self._is_store_given = store is not None
        self._store = _store_of(store)
        self._backend: Backend = chosen(self._settings) if backend is None else backend
        self._is_open = False
        self._has_put = False
        self._engines: dict[Seat, Engine] = {}  # that run now
        self._estimates: OrderedDict[str, Estimate] = OrderedDict()  # by backend and kernel

    def __repr__(self) -> str:
        return f"<Executor on {self._backend!r}{'' if self._is_open else ', not open'}>"

    @property
    def backend(self) -> Backend:
        """The backend."""
        return self._backend

    async def __aenter__(self) -> Self:
        """Open the backend."""
        await self._backend.start()
        try:
            await self._store.start()
        except BaseException:
            await self._backend.aclose()
            raise
        self._is_open = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the backend; leaves no process behind."""
        self._is_open = self._has_put = False
        try:
            await self._backend.aclose()
        finally:
            await self._store.aclose()

    async def put(self, value: object) -> Any:
        """Put a large object where every worker can have it, once; use the `Ref` in chunks.

            data = await ex.put(array)
            results = await ex.map(train, [(data, seed) for seed in range(512)])

        The kernel gets the object itself. Each environment fetches it once; arrays in it can't be
        written to there. The same object put twice is stored once.

        Returns:
            A `Ref`; for type checkers anything, since it stands where the kernel wants the object.

        Raises:
            UsageError: The workers are elsewhere, and no store was named that they can reach.
            EncodeError: It has no encoding.
            StoreError: It can't be stored.
        """
        self._check_open()
        if not self._is_store_given and self._backend.is_remote:
            raise UsageError(
                "workers on Lambda can't see a folder of this machine: name a bucket, as in "
                "fanout.Executor(backend, store='s3://bucket/prefix'), or by FANOUT_STORE"
            )
        parts, ref = await asyncio.to_thread(_content_of, value)
        await self._store.put(f"objects/{ref.digest}", parts)
        self._has_put = True
        return ref

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

        try:
            async with engine:
                await engine.finished()
        except BudgetExceededError as error:
            raise error.with_run(self._run_of(run, engine, outcomes, meter)) from None
        return self._run_of(run, engine, outcomes, meter)

    def _run_of(
        self, run: str, engine: Engine, outcomes: dict[int, Outcome[R]], meter: Meter
    ) -> Run[R]:
        return Run(
            id=run,
            kernel=engine.kernel,
            backend=self._backend.name,
            outcomes=[outcomes[index] for index in sorted(outcomes)],
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
        # What is done when a budget is exceeded is not lost; else nobody will ask for outcomes.
        has_budget = options.get("max_gb_s") is not None
        outcomes: dict[int, Outcome[Any]] = {}
        meter = Meter()

        def keep(batch: Sequence[Outcome[Any]]) -> None:
            if has_budget:
                outcomes.update((outcome.index, outcome) for outcome in batch)
            for outcome in batch:
                error = outcome.error
                results[outcome.index] = outcome.value if error is None else error
                if error is not None:
                    failed.append(error)

        engine, run = self._engine(
            kernel,
            chunks,
            keep,
            options,
            is_star=is_star,
            stops_on_failure=not return_exceptions,
            observers=[meter] if has_budget else [],
        )
        try:
            async with engine:
                await engine.finished()
                if failed and not return_exceptions:
                    raise failed[0]
        except BudgetExceededError as error:
            raise error.with_run(self._run_of(run, engine, outcomes, meter)) from None
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
        self._check_open()
        check(options)
        source = checked_input(chunks)
        is_safe = options.get("codec", "auto") == "safe"
        run = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        timeout_s = options.get("timeout_s")
        spec = prepare(kernel, is_safe=is_safe)
        weight = options.get("weight")
        is_idempotent = options.get("idempotent", True)
        group = options.get("group")
        if group is None and not is_idempotent:
            group = 1  # of a group that is lost, nobody knows which of its tasks ran
        policy = replace(self._backend.grouping, fixed=group)
        # Weights may be in another unit the next time.
        known = f"{self._backend.name} {spec.digest}" if weight is None else None
        grouping = Grouping(
            policy, timeout_s=timeout_s, estimate=self._estimates.get(known) if known else None
        )
        stops_tasks = self._backend.stops_tasks
        scheduler = Scheduler(
            limit=self._backend.limit,
            grouping=grouping,
            rng=random.Random(run),  # noqa: S311  # jitter, not secrets; the same if run again
            retry=options.get("retry"),
            timeout_s=None if stops_tasks else timeout_s,
            is_idempotent=is_idempotent,
            can_escalate=self._backend.can_escalate,
            can_stop=not stops_tasks,
            **self._guards(options),
            total=len(source) if isinstance(source, Sized) else None,
            least_window=len(source) if weight and isinstance(source, Sequence) else 0,
            is_ordered=is_ordered,
            is_consumed=is_consumed,
            stops_on_failure=stops_on_failure,
        )
        engine = Engine(
            run=run,
            scheduler=scheduler,
            backend=self._backend,
            request=Request(
                kernel=spec,
                is_star=is_star,
                is_safe=is_safe,
                timeout_s=timeout_s if stops_tasks else None,
                store=self._store.locator if self._has_put or self._is_store_given else None,
                spill=self._spill(run),
                is_idempotent=is_idempotent,
            ),
            chunks=source,
            deliver=deliver,
            weight=weight,
            drains=is_consumed,
            peers=self._engines,
            on_end=functools.partial(self._remember, known, grouping) if known else None,
            observers=[*observers, *self._observers(options)],
        )
        return engine, run

    def _guards(self, options: MapOptions) -> dict[str, Any]:
        """What keeps an eye on attempts that are billed."""
        billed, max_gb_s = self._backend.billed, options.get("max_gb_s")
        if billed is None:
            if max_gb_s is not None:
                msg = f"max_gb_s={max_gb_s!r} is for Lambda: {self._backend.name} costs nothing"
                raise UsageError(msg)
            return {}
        return {
            "capacity": self._backend.capacity,
            "hedging": Hedging(gb=billed.gb) if options.get("hedge", True) else None,
            "storm": StormGuard(),
            "budget": Budget(max_gb_s, billed.gb) if max_gb_s is not None else None,
            "worst_s": billed.worst_s,
            "gb": billed.gb,
        }

    def _remember(self, kernel: str, grouping: Grouping) -> None:
        """Have the next map of the same kernel begin with what this one has learned."""
        if grouping.estimate is not None:
            self._estimates[kernel] = grouping.estimate
            self._estimates.move_to_end(kernel)
            if len(self._estimates) > _ESTIMATES_KEPT:
                self._estimates.popitem(last=False)

    def _spill(self, run: str) -> RunObjects | None:
        """Where messages go that the backend can't carry."""
        if not (self._is_store_given and self._backend.is_remote):
            return None
        from fanout.stores import RunObjects

        return RunObjects(self._store, run)

    def _check_open(self) -> None:
        if not self._is_open:
            raise UsageError(
                "this executor is not open: use it as `async with fanout.Executor() as ex:`"
            )

    def _observers(self, options: MapOptions) -> list[Callable[[RunEvent], None]]:
        shown = options.get("progress")
        observers: list[Callable[[RunEvent], None]] = []
        if self._settings.progress if shown is None else shown:
            from fanout.progress import Progress

            observers.append(Progress())
        if (on_event := options.get("on_event")) is not None:
            observers.append(on_event)
        return observers


def _store_of(given: Store | str | os.PathLike[str] | None) -> Store:
    from fanout.stores import DirectoryStore, store_of

    if given is None:
        return DirectoryStore(None)
    return store_of(os.fspath(given)) if isinstance(given, str | os.PathLike) else given


def _content_of(value: object) -> tuple[list[Buffer], Ref]:
    """An object as it lies in a store, and its name."""
    parts = frame(Message({}, encode(value)))
    return parts, Ref(digest_of(parts), size_of(parts))
