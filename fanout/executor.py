"""The public face of running things: `Executor`.

An executor keeps one backend open for several maps; how each is set up is `run_setup`'s affair, and
what comes of it is in `outcomes`. `fanout.map` and the like are an executor used
once; `fanout.sync` is the same for code without an event loop.
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any, Literal, TypeVar, TypeVarTuple, overload

from fanout import config
from fanout.accounts import Accounts, bill_for
from fanout.backends import sharing
from fanout.backends.chosen import chosen
from fanout.errors import BudgetExceededError, UsageError
from fanout.interrupts import Hold
from fanout.large_objects import LargeObjects
from fanout.outcomes import Arrivals, Meter, OutcomeStream, Run
from fanout.retry import RetryPolicy
from fanout.run_setup import RunSetup

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
    from types import TracebackType
    from typing import Self, Unpack

    from fanout.backends import Backend
    from fanout.cost.bill import Bill
    from fanout.engine import Engine
    from fanout.kernel_spec import KernelSpec
    from fanout.options import MapOptions
    from fanout.stores import Store
    from fanout.tasks import Outcome

T = TypeVar("T")
R = TypeVar("R")
Ts = TypeVarTuple("Ts")


class Executor:
    """Runs maps on one backend, which stays open between them.

        async with fanout.Executor() as ex:
            coarse = await ex.map(simulate, coarse_grid)
            fine = await ex.map(simulate, refine(coarse))

    Maps may run at the same time; they share the backend's workers. So do executors that are given
    the same backend, or the same function of Lambda.

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
        settings = config.load()
        self._backend: Backend = chosen(settings) if backend is None else backend
        self._objects = LargeObjects(
            settings.store if store is None else store, is_remote=self._backend.is_remote
        )
        self._setup = RunSetup(self._backend, self._objects, shows_progress=settings.progress)
        self._is_open = False
        self._accounts = Accounts()

    def __repr__(self) -> str:
        return f"<Executor on {self._backend!r}{'' if self._is_open else ', not open'}>"

    @property
    def backend(self) -> Backend:
        """The backend."""
        return self._backend

    @property
    def bill(self) -> Bill:
        """What its runs have cost so far, those that go on included; also of `map`.

        What is in flight counts at its worst. Empty where nothing is billed.
        """
        return bill_for(self._accounts.usage)

    async def __aenter__(self) -> Self:
        """Open the backend."""
        await sharing.start(self._backend)
        try:
            await self._setup.start()
            await self._objects.start()
        except BaseException:
            await sharing.close(self._backend)
            raise
        self._is_open = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the backend, unless another executor has it; leaves no process behind."""
        self._is_open = False
        with Hold(of_loop=True):
            try:
                try:
                    await self._setup.aclose()
                finally:
                    await sharing.close(self._backend)
            finally:
                await self._objects.aclose()

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
        return await self._objects.put(value)

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
        return await self._run(kernel, chunks, options)

    async def _run(
        self,
        kernel: Callable[..., Any] | KernelSpec,
        chunks: Iterable[Any] | AsyncIterable[Any],
        options: MapOptions,
        *,
        is_star: bool = False,
        is_own: bool = False,
    ) -> Run[Any]:
        outcomes: dict[int, Outcome[Any]] = {}

        def keep(batch: Sequence[Outcome[Any]]) -> None:
            outcomes.update((outcome.index, outcome) for outcome in batch)

        self._check_open()
        meter = Meter()
        with self._accounts.booked(self._backend.billed) as ledger:
            engine = self._setup.engine(
                kernel,
                chunks,
                keep,
                options,
                is_star=is_star,
                is_own=is_own,
                ledger=ledger,
                observers=[meter],
            )

            def told() -> Run[Any]:
                return meter.run(outcomes, engine.hedges, ledger.run_usage)

            async with _ended(engine, told):
                pass
            return told()

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
        self._check_open()
        arrivals: Arrivals[R] = Arrivals()
        with self._accounts.booked(self._backend.billed) as ledger:
            engine = self._setup.engine(
                kernel,
                chunks,
                arrivals.put,
                options,
                is_ordered=ordered,
                is_consumed=True,
                ledger=ledger,
            )
            async with engine:
                yield OutcomeStream(engine, arrivals, ledger)

    async def _map(
        self,
        kernel: Callable[..., Any],
        chunks: Iterable[Any] | AsyncIterable[Any],
        is_star: bool,
        return_exceptions: bool,
        options: MapOptions,
    ) -> list[Any]:
        self._check_open()
        results: dict[int, Any] = {}
        failed: list[Exception] = []
        # What is done when a budget is exceeded is not lost; else nobody will ask for outcomes.
        has_budget = any(options.get(cap) is not None for cap in ("max_gb_s", "max_usd"))
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

        with self._accounts.booked(self._backend.billed) as ledger:
            engine = self._setup.engine(
                kernel,
                chunks,
                keep,
                options,
                is_star=is_star,
                stops_on_failure=not return_exceptions,
                ledger=ledger,
                observers=[meter] if has_budget else [],
            )
            async with _ended(engine, lambda: meter.run(outcomes, engine.hedges, ledger.run_usage)):
                if failed and not return_exceptions:
                    raise failed[0]
        return [results[index] for index in range(len(results))]

    def _check_open(self) -> None:
        if not self._is_open:
            raise UsageError(
                "this executor is not open: use it as `async with fanout.Executor() as ex:`"
            )


@contextlib.asynccontextmanager
async def _ended(engine: Engine, told: Callable[[], Run[Any]]) -> AsyncIterator[None]:
    """Run to the end; what a budget that is exceeded raises has what was done."""
    try:
        async with engine:
            await engine.finished()
            yield
    except BudgetExceededError as error:
        if error is not engine.ended_by:
            raise  # of a kernel or an input that runs a map of its own
        raise error.with_run(told()) from None


async def resume(run: str, *, progress: bool | None = None) -> Run[Any]:
    """Go on with a run whose client was killed, closed or cancelled, and return all of it.

    It runs where it did, with the options that it had; what is done is not done again. To get the
    results in the program that began it, make the same call again, with the same name.

    Args:
        run: Its id or its name; `fanout runs` lists them.
        progress: As for a map.

    Raises:
        UsageError: There is no such run, or another process runs it.
        JournalError: Its journal doesn't hold all that it takes.
    """
    from fanout.backends.chosen import made
    from fanout.journal import Folder
    from fanout.journal.recipe import Chunks, recipe_in

    folder = Folder()
    path = folder.find(run)
    if path is None:
        raise folder.unknown(run)
    recipe = recipe_in(path)
    sys.path[:0] = [place for place in recipe.folders if place not in sys.path]
    options: Any = {**recipe.options, "name": recipe.run, "progress": progress}
    if "retry" in options:
        options["retry"] = RetryPolicy(**options["retry"])
    chunks = Chunks(path, recipe.total, is_safe=options.get("codec") == "safe")
    async with Executor(made(recipe.backend), store=recipe.store) as ex:
        return await ex._run(recipe.spec, chunks, options, is_star=recipe.is_star, is_own=True)
