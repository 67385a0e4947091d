"""Streams: outcomes as they come, in order, and no more input than is consumed.

The production path of asyncio, in virtual time.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests import virtual_time
from tests.fakes import (
    PATIENT,
    FakeBackend,
    Fate,
    OwnError,
    async_numbers_then,
    chance,
    numbers_then,
    opened,
    square,
)
from tests.virtual_time import now_s

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("ordered", [False, True])
def test_an_endless_input_stops_at_the_window_when_the_consumer_stops(
    is_async: bool, ordered: bool
) -> None:
    pulled = itertools.count()
    so_far = 0

    def numbers() -> Iterator[int]:
        nonlocal so_far
        for number in pulled:
            so_far = number + 1
            yield number

    async def async_numbers() -> AsyncIterator[int]:
        for number in numbers():
            yield number

    async def main() -> None:
        backend = FakeBackend(4, plan=chance(3), queue=4)
        window = backend.limit * (2 * 5 + 1)
        source = async_numbers() if is_async else numbers()
        async with (
            opened(backend) as ex,
            ex.stream(square, source, ordered=ordered, group=5) as outcomes,
        ):
            for taken in range(1, 500):
                await anext(outcomes)
                assert so_far <= taken + window
                if taken % 100 == 0:
                    await asyncio.sleep(10_000.0)  # all that can be done is done
                    assert so_far <= taken + window
                    assert backend.is_idle
                    assert len(outcomes._ready) >= window // 2, "workers did not wait either"

    virtual_time.run(main())


def test_a_consumer_may_leave_a_stream_when_it_has_enough() -> None:
    async def main() -> None:
        backend = FakeBackend(4, plan=chance(2), stop_s=2.0)
        async with opened(backend) as ex:
            async with ex.stream(square, itertools.count()) as outcomes:
                async for outcome in outcomes:
                    if outcome.value == 100:
                        break
            assert virtual_time.others() == set()
            assert backend.given_up == backend.stopped > 0

    virtual_time.run(main())


def test_a_stream_ends_for_good_when_its_block_is_left() -> None:
    async def main() -> None:
        async with opened(FakeBackend(2)) as ex:
            async with ex.stream(square, itertools.count()) as outcomes:
                await anext(outcomes)
            rest = [outcome async for outcome in outcomes]
            assert len(rest) <= 2, "what had come already"
            with pytest.raises(StopAsyncIteration):
                await anext(outcomes)

    virtual_time.run(main())


def test_an_error_in_the_body_of_a_stream_is_the_callers_own() -> None:
    async def main() -> None:
        backend = FakeBackend(2)
        async with opened(backend) as ex:
            with pytest.raises(OwnError, match="mine"):  # noqa: PT012  # the block is the point
                async with ex.stream(square, itertools.count()) as outcomes:
                    await anext(outcomes)
                    raise OwnError("mine")

    virtual_time.run(main())


def test_a_stream_gives_what_came_before_it_raises() -> None:
    async def main() -> None:
        async with (
            opened(FakeBackend(2)) as ex,
            ex.stream(square, async_numbers_then(50, OwnError())) as outcomes,
        ):
            assert (await anext(outcomes)).index == 0
            await asyncio.sleep(1000.0)  # by now the run has failed, with outcomes untaken
            assert (await anext(outcomes)).index == 1
            with pytest.raises(OwnError):
                [outcome async for outcome in outcomes]

    virtual_time.run(main())


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("count", [0, 1, 5, 100])
def test_a_stream_finishes_what_the_input_gave_before_it_raised(
    is_async: bool, ordered: bool, count: int
) -> None:
    error = OwnError("the file ends here")

    async def main() -> None:
        seen: list[int] = []
        source = (async_numbers_then if is_async else numbers_then)(count, error)
        backend = FakeBackend(2, plan=chance(4, crash=0.1))
        async with (
            opened(backend) as ex,
            ex.stream(square, source, ordered=ordered, retry=PATIENT) as outcomes,
        ):
            while len(seen) < count:
                seen.append((await anext(outcomes)).index)
            with pytest.raises(OwnError) as caught:
                await anext(outcomes)
            assert caught.value is error
        assert sorted(seen) == list(range(count))
        assert backend.given_up == 0
        where = f"after chunk {count - 1}" if count else "before its first chunk"
        assert error.__notes__[-1] == f"raised by the input of fanout, {where}"

    virtual_time.run(main())


def test_an_ordered_stream_holds_back_what_is_ahead() -> None:
    def plan(_: int, chunks: Sequence[Any]) -> Fate:
        return Fate(task_s=100.0 if 0 in chunks else 1.0)

    async def main() -> None:
        async with (
            opened(FakeBackend(4, plan=plan)) as ex,
            ex.stream(square, range(9), ordered=True, group=1) as outcomes,
        ):
            order = [(outcome.index, now_s()) async for outcome in outcomes]
        assert [index for index, _ in order] == list(range(9))
        assert order[0][1] == order[1][1] == 100.0

    virtual_time.run(main())


def test_two_consumers_may_share_a_stream() -> None:
    async def main() -> None:
        seen: Counter[int] = Counter()

        async with (
            opened(FakeBackend(3)) as ex,
            ex.stream(square, range(100)) as outcomes,
        ):

            async def consume() -> None:
                async for outcome in outcomes:
                    seen[outcome.index] += 1
                    await asyncio.sleep(0.3)

            async with asyncio.TaskGroup() as consumers:
                consumers.create_task(consume())
                consumers.create_task(consume())
        assert seen == Counter(range(100))

    virtual_time.run(main())
