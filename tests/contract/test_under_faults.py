"""The contract through our emulator while things go wrong, fault by fault.

For each: the whole of `test_contract` holds; then maps of many attempts, in groups as they come and
one by one, as a stream, with errors among the results, and of tasks that may not run twice. Every
result right, every task delivered once, and the fault has struck. (No connection at all, and every
single answer of Lambda: tests/test_lambda_backend.py, tests/test_invoke_answers.py.)
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest

import fanout
from fanout import RetryPolicy
from fanout.emulator import Emulator, Faults
from fanout.emulator.faults import Fault
from fanout.emulator.faulty import seeded
from fanout.events import Deliver
from tests.contract import kernels, stands, test_contract
from tests.lambda_fake import function_error, opened

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from fanout.events import RunEvent

    Check = Callable[[Any], Awaitable[None]]

# What only takes an executor: a test that comes to the contract is run under all faults, too.
CONTRACT: Final[list[Check]] = [
    test
    for name, test in vars(test_contract).items()
    if name.startswith("test_") and list(inspect.signature(test).parameters) == ["ex"]
]
# These load numba, for longer than what hangs is waited for.
SLOW_TO_LOAD: Final = {
    test_contract.test_a_mandelbrot_picture_is_the_same_to_the_last_count,
    test_contract.test_kernels_of_every_sort_run,
}
SHARE: Final = 0.15
# What hangs is charged to its task, since nobody knows better; else only patience is needed.
RETRY: Final = RetryPolicy(max_attempts=10, max_lost=20, base_s=0.01)
NEVER_RAN: Final = {Fault.THROTTLE, Fault.ERROR_502}
ENVIRONMENT_FAULTS: Final = {
    "slow_start": Faults(slow_start=0.5, start_delay_s=0.3, seed=2),
    "slow_environment": Faults(slow_environment=0.5, seed=2),
}


class Patient:
    """An executor whose maps have our patience, unless they say otherwise."""

    def __init__(self, ex: fanout.Executor) -> None:
        self._ex = ex

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._ex, name)

        def run(*arguments: Any, **options: Any) -> Any:
            return method(*arguments, **{"retry": RETRY, **options})

        return run


def emulator_of(**options: Any) -> Emulator:
    return Emulator(
        concurrency=4, requests_per_s=2 * stands.REQUESTS_PER_S, path=[stands.ROOT], **options
    )


@pytest.fixture(scope="module")
async def emulator(_nobodys_settings: None) -> AsyncIterator[Emulator]:
    """One for all faults of invocations, since its environments take long to start."""
    async with emulator_of() as running:
        yield running


@contextlib.asynccontextmanager
async def client_of(emulator: Emulator) -> AsyncIterator[Patient]:
    told = emulator.variables
    keys = (told["AWS_ACCESS_KEY_ID"], told["AWS_SECRET_ACCESS_KEY"])
    # Less than it has: what was lost runs on, and a duplicate needs a place.
    async with fanout.Executor(stands.lambda_at(emulator.url, keys, concurrency=2)) as ex:
        yield Patient(ex)
    while emulator.counts.running:  # what was given up
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def struck(
    emulator: Emulator, fault: str, *, share: float = SHARE, least: int = 5
) -> AsyncIterator[Patient]:
    """A client of the emulator while a fault strikes: so often at least."""
    assert emulator._running is not None
    api = emulator._running.api
    plan = Faults.parse(f"{fault}={share},retry_after_s=0,seed=3")
    before = emulator.counts.faults.get(fault, 0)
    calm, api._plan = api._plan, seeded(plan)
    try:
        async with client_of(emulator) as ex:
            yield ex
    finally:
        api._plan = calm
    assert emulator.counts.faults.get(fault, 0) - before >= least


# ---- kinds of maps ----


class Deliveries:
    """Counts how often each task is delivered."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()

    def __call__(self, event: RunEvent) -> None:
        if isinstance(event, Deliver):
            self.counts.update(outcome.index for outcome in event.outcomes)


async def check_groups(ex: Any) -> None:
    """In groups as they come, in groups of ten, and one by one."""
    for group, tasks in ((None, 2000), (10, 300), (1, 40)):
        seen = Deliveries()
        results = await ex.map(kernels.square, range(tasks), group=group, on_event=seen)
        assert results == [number**2 for number in range(tasks)]
        assert seen.counts == dict.fromkeys(range(tasks), 1)


async def check_errors_among_results(ex: Any) -> None:
    for group in (None, 1):
        chunks = [number % 5 for number in range(30)]
        seen = Deliveries()
        results = await ex.map(
            kernels.raises_on_three, chunks, group=group, return_exceptions=True, on_event=seen
        )
        assert [repr(chunk) if isinstance(chunk, int) else type(chunk) for chunk in results] == [
            ValueError if chunk == 3 else repr(chunk) for chunk in chunks
        ]
        assert seen.counts == dict.fromkeys(range(30), 1)


async def check_streams(ex: Any) -> None:
    for is_ordered in (True, False):
        async with ex.stream(
            kernels.square, iter(range(120)), ordered=is_ordered, group=4
        ) as outcomes:
            seen = [(outcome.index, outcome.result()) async for outcome in outcomes]
        assert (seen if is_ordered else sorted(seen)) == [(n, n**2) for n in range(120)]


async def run_once(ex: Any, folder: Path, *, is_told: bool) -> fanout.Run[int]:
    """Tasks that may not run twice: of those that may have run, it `is_told`."""
    run: fanout.Run[int] = await ex.run(
        kernels.marked, [(str(folder), number) for number in range(60)], idempotent=False
    )
    may_have_run = (fanout.errors.TaskLostError, fanout.errors.TaskTimeoutError)
    assert all(isinstance(outcome.error, may_have_run) for outcome in run.failures)
    assert all(outcome.value == outcome.index for outcome in run.outcomes if outcome.is_ok)
    assert bool(run.failures) == is_told
    return run


def check_once(run: fanout.Run[int], folder: Path, *, most: int = 1) -> None:
    """None was sent again; look when nothing runs any more."""
    ran = {int(file.name): file.stat().st_size for file in folder.iterdir()}
    assert max(ran.values()) <= most
    assert ran.keys() >= {outcome.index for outcome in run.outcomes if outcome.is_ok}


# ---- the faults ----

in_front = pytest.mark.parametrize("fault", [fault for fault in Fault if fault is not Fault.HANG])


@in_front
async def test_no_fault_breaks_the_contract(fault: Fault, emulator: Emulator) -> None:
    async with struck(emulator, fault) as ex:
        for check in CONTRACT:
            await check(ex)


@in_front
async def test_no_fault_costs_a_result_or_gives_one_twice(fault: Fault, emulator: Emulator) -> None:
    async with struck(emulator, fault) as ex:
        await check_groups(ex)
        await check_errors_among_results(ex)
        await check_streams(ex)


@in_front
async def test_what_may_have_run_is_told_and_not_sent_again(
    fault: Fault, emulator: Emulator, tmp_path: Path
) -> None:
    is_told = fault not in {*NEVER_RAN, Fault.DUPLICATE}
    most = 2 if fault is Fault.DUPLICATE else 1  # that is the service's own doing
    async with struck(emulator, fault) as ex:
        run = await run_once(ex, tmp_path, is_told=is_told)
    check_once(run, tmp_path, most=most)


async def test_environments_that_hang_do_none_of_that(tmp_path: Path) -> None:
    async with emulator_of(timeout_s=0.5) as emulator:
        async with struck(emulator, Fault.HANG, share=0.05) as ex:
            for check in CONTRACT:
                if check not in SLOW_TO_LOAD:
                    await check(ex)
            await check_groups(ex)
        async with struck(emulator, Fault.HANG) as ex:
            run = await run_once(ex, tmp_path, is_told=True)
    check_once(run, tmp_path)


@pytest.mark.parametrize("fault", ENVIRONMENT_FAULTS)
async def test_environments_that_are_slow_do_none_of_that(fault: str, tmp_path: Path) -> None:
    async with emulator_of(faults=ENVIRONMENT_FAULTS[fault]) as emulator:
        async with client_of(emulator) as ex:
            await check_groups(ex)
            await check_errors_among_results(ex)
            await check_streams(ex)
            run = await run_once(ex, tmp_path, is_told=False)
        assert emulator.counts.faults[fault] >= 1
    check_once(run, tmp_path)


@pytest.mark.parametrize("group", [None, 10, 1])
async def test_environments_that_die_do_none_of_that(
    group: int | None, emulator: Emulator, tmp_path: Path
) -> None:
    """Each tenth task kills its process when it first runs; its neighbours have no part in it."""
    chunks = [(str(tmp_path), number) for number in range(40)]
    seen = Deliveries()
    async with client_of(emulator) as ex:
        run = await ex.run(kernels.dies_at_first, chunks, group=group, on_event=seen)
    assert run.results == list(range(40))
    assert seen.counts == dict.fromkeys(range(40), 1)
    assert set(os.listdir(tmp_path)) == {"3", "13", "23", "33"}  # those who died


async def test_a_function_error_that_is_damaged_ends_no_run() -> None:
    """Of a function that has answered as ours does, here once before."""
    damaged = function_error("Sandbox.Timedout", "Task timed out after 1.00 seconds")
    bits = {0: 0x01, damaged.body.index(b"timed"): 0x01}
    body = bytes(byte ^ bits.get(place, 0) for place, byte in enumerate(damaged.body))
    answer = replace(damaged, body=body)
    async with opened(lambda number, run: answer if number == 1 else run()) as (ex, _):
        assert await ex.map(kernels.square, range(6), group=1) == [0, 1, 4, 9, 16, 25]
