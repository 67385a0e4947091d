"""Whenever and however a run is cancelled: it ends so, tells the backend, and leaves nothing.

`opened` asserts after each block that no task of asyncio is left and that the backend is idle.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import TYPE_CHECKING, Any

import pytest

from fanout.events import Cancelled, Finish, Ignore, RunEnded, RunEvent
from tests import virtual_time
from tests.fakes import (
    PATIENT,
    FakeBackend,
    Fate,
    OwnError,
    always,
    chance,
    hang_on,
    opened,
    picky,
    square,
)
from tests.virtual_time import now_s

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from fanout import Executor


def long_backend(**options: Any) -> FakeBackend:
    """Attempts take 100 s each, and 3 s to stop."""
    return FakeBackend(2, plan=always(Fate(task_s=100.0)), stop_s=3.0, **options)


async def all_numbers() -> AsyncIterator[int]:
    for number in itertools.count():
        await asyncio.sleep(0.01)
        yield number


async def consume(ex: Executor, chunks: Any, **options: Any) -> None:
    async with ex.stream(square, chunks, **options) as outcomes:
        async for _ in outcomes:
            pass


# ---- the ways to cancel ----


def test_a_timeout_around_a_map_ends_it() -> None:
    async def main() -> None:
        backend = long_backend()
        async with opened(backend) as ex:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(50.0):
                    await ex.map(square, range(10))
            assert now_s() == 53.0
            assert backend.given_up == backend.stopped == 2
            assert await ex.map(square, []) == [], "the executor can still be used"

    virtual_time.run(main())


def test_a_map_in_a_task_group_ends_with_the_group() -> None:
    async def fail() -> None:
        await asyncio.sleep(50.0)
        raise OwnError

    async def main() -> None:
        backend = long_backend()
        async with opened(backend) as ex:
            with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012  # the block is the point
                async with asyncio.TaskGroup() as group:
                    run = group.create_task(ex.map(square, range(10)))
                    group.create_task(fail())
            assert run.cancelled()
            assert [type(error) for error in caught.value.exceptions] == [OwnError]
            assert backend.given_up == backend.stopped == 2

    virtual_time.run(main())


def test_cancelling_its_task_ends_a_map() -> None:
    async def main() -> None:
        backend = long_backend()
        async with opened(backend) as ex:
            run = asyncio.create_task(ex.map(square, range(10)))
            await asyncio.sleep(50.0)
            run.cancel("enough")
            with pytest.raises(asyncio.CancelledError, match="enough"):
                await run
            assert run.cancelled()
            assert backend.given_up == backend.stopped == 2

    virtual_time.run(main())


def test_cancelling_the_task_of_an_executor_closes_it() -> None:
    async def main() -> None:
        backend = long_backend()

        async def work() -> None:
            async with opened(backend) as ex:
                await ex.map(square, range(10))

        run = asyncio.create_task(work())
        await asyncio.sleep(50.0)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert not backend.is_open
        assert backend.is_idle
        assert backend.given_up == backend.stopped == 2

    virtual_time.run(main())


def test_cancelling_one_map_leaves_the_other_alone() -> None:
    async def main() -> None:
        backend = FakeBackend(2)
        async with opened(backend) as ex:
            first = asyncio.create_task(ex.map(square, range(10)))
            second = asyncio.create_task(ex.map(square, range(10)))
            await asyncio.sleep(3.5)
            first.cancel()
            assert await second == [x * x for x in range(10)]
            assert first.cancelled()

    virtual_time.run(main())


def test_everything_that_there_is_can_be_cancelled_at_once() -> None:
    """As some frameworks do to shut down."""

    async def main() -> None:
        backend = long_backend()
        async with opened(backend) as ex:
            run = asyncio.create_task(ex.map(square, all_numbers()))
            await asyncio.sleep(50.0)
            for task in virtual_time.others():
                task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run

    virtual_time.run(main())


# ---- the moments to cancel ----


def test_a_map_cancelled_before_it_began_does_nothing() -> None:
    async def main() -> None:
        backend = long_backend()
        async with opened(backend) as ex:
            run = asyncio.create_task(ex.map(square, range(10)))
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run
        assert backend.requests == []

    virtual_time.run(main())


def test_cancelled_while_it_waits_for_input() -> None:
    closed = []

    async def never() -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.sleep(10**9)
        finally:
            await asyncio.sleep(2.0)
            closed.append(now_s())

    async def main() -> None:
        async with opened(FakeBackend(2)) as ex:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(50.0):
                    await ex.map(square, never())
        assert closed == [52.0], "the input had the time to close"

    virtual_time.run(main())


def test_cancelled_between_two_slices_of_a_slow_generator() -> None:
    pulled = 0

    def slowly() -> Iterator[int]:
        nonlocal pulled
        loop = asyncio.get_running_loop()
        assert isinstance(loop, virtual_time.VirtualTimeLoop)
        for pulled in itertools.count():
            loop.now_s += 1.0
            yield pulled

    async def main() -> None:
        async with opened(FakeBackend(100)) as ex:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(5.0):
                    await ex.map(square, slowly())
        assert pulled < 10

    virtual_time.run(main())


def test_cancelled_while_tasks_back_off() -> None:
    from fanout import RetryPolicy

    def always_down(_: int) -> int:
        raise ConnectionError

    async def main() -> None:
        policy = RetryPolicy(max_attempts=100, on=(ConnectionError,), base_s=1e6, cap_s=1e6)
        async with opened(FakeBackend(2)) as ex:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(5.0):
                    await ex.map(always_down, range(3), retry=policy)
            assert now_s() == 5.0

    virtual_time.run(main())


def test_cancelled_while_the_consumer_is_busy() -> None:
    async def main() -> None:
        backend = long_backend()
        async with opened(backend) as ex:

            async def work() -> None:
                async with ex.stream(square, all_numbers()) as outcomes:
                    await anext(outcomes)
                    await asyncio.sleep(10**9)

            run = asyncio.create_task(work())
            await asyncio.sleep(150.0)
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run
            assert backend.given_up == backend.stopped == 2

    virtual_time.run(main())


def test_attempts_that_wait_for_a_place_are_given_up_too() -> None:
    async def main() -> None:
        backend = long_backend(queue=5)
        async with opened(backend) as ex:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(50.0):
                    await ex.map(square, range(100))
            assert backend.given_up == backend.stopped == 7

    virtual_time.run(main())


@pytest.mark.parametrize("is_async", [False, True])
def test_at_any_step_of_the_loop(is_async: bool) -> None:
    """Time stands still within a step, so no sleep could find all of these moments."""

    async def main(steps: int) -> bool:
        backend = FakeBackend(2, plan=chance(1, crash=0.1, hang=0.1), queue=2, stop_s=1.0)
        async with opened(backend) as ex:
            chunks: Any = all_numbers() if is_async else range(30)
            run = asyncio.create_task(consume(ex, chunks, timeout_s=20.0, retry=PATIENT))
            for _ in range(steps):
                await asyncio.sleep(0.0 if steps % 2 else 0.05)
            run.cancel()
            await asyncio.wait([run])
            assert backend.given_up == backend.stopped
            return run.cancelled()

    assert all(virtual_time.run(main(steps)) for steps in range(120))


# ---- at the end of the block ----


def test_cancelled_while_attempts_stop_it_waits_until_they_have() -> None:
    """The first failure ended the run at 1 s; its other attempt takes until 11 s to stop."""

    async def main() -> None:
        backend = FakeBackend(2, plan=hang_on(0), stop_s=10.0)
        async with opened(backend) as ex:
            run = asyncio.create_task(ex.map(picky, [0, 3], group=1))
            for when_s in (5.0, 7.0):
                await asyncio.sleep(when_s - now_s())
                run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run
            assert now_s() == 11.0
            assert backend.given_up == backend.stopped == 1, "the second cancel did not disturb it"

    virtual_time.run(main())


def test_cancelled_while_the_body_fails_it_ends_as_cancelled() -> None:
    """Otherwise whoever catches the body's error goes on in a task that was told to stop."""

    async def main() -> None:
        backend = long_backend()
        async with opened(backend) as ex:

            async def work() -> None:
                with contextlib.suppress(OwnError):
                    async with ex.stream(square, all_numbers()):
                        await asyncio.sleep(5.0)
                        raise OwnError("while attempts are in flight")
                await asyncio.sleep(10**9)

            run = asyncio.create_task(work())
            await asyncio.sleep(6.0)
            run.cancel()
            with pytest.raises(asyncio.CancelledError) as caught:
                await run
            assert isinstance(caught.value.__context__, OwnError), "it is not forgotten"
            assert now_s() == 8.0

    virtual_time.run(main())


def test_a_timeout_that_fires_while_attempts_stop_is_a_timeout() -> None:
    async def main() -> None:
        backend = long_backend()
        async with opened(backend) as ex:
            with pytest.raises(TimeoutError):  # noqa: PT012  # the block is the point
                async with asyncio.timeout(6.0):
                    async with ex.stream(square, range(10)):
                        await asyncio.sleep(5.0)
            assert now_s() == 8.0
            assert backend.stopped == 2

    virtual_time.run(main())


# ---- what it is not ----


def test_a_timeout_of_the_consumers_own_does_not_end_the_stream() -> None:
    async def main() -> None:
        seen: list[int] = []
        timeouts = 0
        async with opened(FakeBackend(2)) as ex, ex.stream(square, range(20)) as outcomes:
            while len(seen) < 20:
                try:
                    async with asyncio.timeout(0.3):
                        seen.append((await anext(outcomes)).index)
                except TimeoutError:
                    timeouts += 1
        assert sorted(seen) == list(range(20))
        assert timeouts > 10

    virtual_time.run(main())


def test_observers_see_a_cancelled_run_end() -> None:
    story: list[RunEvent] = []

    async def main() -> None:
        backend = long_backend()
        async with opened(backend) as ex:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(50.0):
                    await ex.map(square, range(10), on_event=story.append)

    virtual_time.run(main())
    assert story[-5:-1] == [Cancelled(), Ignore(0), Ignore(1), Finish(None)]
    ended = story[-1]
    assert isinstance(ended, RunEnded)
    assert isinstance(ended.error, asyncio.CancelledError)


def test_an_observer_that_raises_at_the_end_does_not_undo_the_cancellation() -> None:
    def fussy(event: RunEvent) -> None:
        if isinstance(event, RunEnded | Cancelled):
            raise OwnError

    async def main() -> None:
        backend = long_backend()
        async with opened(backend) as ex:
            run = asyncio.create_task(ex.map(square, range(10), on_event=fussy))
            await asyncio.sleep(50.0)
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run
            assert backend.given_up == backend.stopped == 2

    virtual_time.run(main())
