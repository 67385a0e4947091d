"""Where the chunks come from: generators and async iterators, endless, slow or broken.

The production path of asyncio, in virtual time.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import TYPE_CHECKING, Any

import pytest

from fanout import Executor
from fanout.errors import (
    UsageError,
)
from tests import virtual_time
from tests.fakes import (
    FakeBackend,
    OwnError,
    async_numbers_then,
    map_squares,
    numbers_then,
    opened,
    picky,
    square,
)
from tests.virtual_time import now_s

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("count", [0, 1, 5, 50])
def test_what_the_input_raises_reaches_the_caller(is_async: bool, count: int) -> None:
    async def main() -> None:
        error = OwnError("the file ends here")
        source = (async_numbers_then if is_async else numbers_then)(count, error)
        backend = FakeBackend(2, stop_s=3.0)
        async with opened(backend) as ex:
            with pytest.raises(OwnError) as caught:
                await ex.map(square, source, return_exceptions=True)
        assert caught.value is error
        where = f"after chunk {count - 1}" if count else "before its first chunk"
        assert error.__notes__ == [f"raised by the input of fanout, {where}"]
        assert backend.stopped == backend.given_up, "each was given the time to stop"

    virtual_time.run(main())


@pytest.mark.parametrize("is_async", [False, True])
def test_an_input_that_raises_cancelled_error_does_not_hang_the_run(is_async: bool) -> None:
    """As `yield task.result()` does of a task that was cancelled."""

    async def main() -> None:
        error = asyncio.CancelledError("of someone else")
        source = (async_numbers_then if is_async else numbers_then)(5, error)
        async with opened(FakeBackend(2)) as ex:
            with pytest.raises(asyncio.CancelledError, match="of someone else"):
                await ex.map(square, source)

    virtual_time.run(main())


def test_an_input_that_someone_else_cancels_does_not_hang_the_run() -> None:
    async def main() -> None:
        async with opened(FakeBackend(2)) as ex:
            run = asyncio.create_task(ex.map(square, async_numbers_then(10**6, OwnError())))
            await asyncio.sleep(10.0)
            (source,) = [t for t in asyncio.all_tasks() if t.get_name() == "fanout input"]
            source.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run

    virtual_time.run(main())


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_ctrl_c_in_the_input_ends_everything(is_async: bool, kind: type[BaseException]) -> None:
    async def main() -> None:
        source = (async_numbers_then if is_async else numbers_then)(5, kind())
        async with Executor(FakeBackend(2)) as ex:
            await ex.map(square, source)

    with pytest.raises(kind):
        virtual_time.run(main())


def test_an_async_input_is_closed_at_its_end_and_at_the_runs_end() -> None:
    closed = []

    async def numbers(count: int) -> AsyncIterator[int]:
        try:
            for number in range(count):
                yield number
        finally:
            await asyncio.sleep(1.0)
            closed.append(count)

    async def main() -> None:
        async with opened(FakeBackend(2)) as ex:
            await ex.map(square, numbers(5))
            async with ex.stream(square, numbers(10**9)) as outcomes:
                await anext(outcomes)
            with pytest.raises(ValueError, match="not to my taste"):
                await ex.map(picky, numbers(10**6))
        assert closed == [5, 10**9, 10**6]

    virtual_time.run(main())


def test_an_ordinary_generator_is_closed_when_the_run_ends() -> None:
    closed = []

    def numbers() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            closed.append(True)

    async def main() -> None:
        async with opened(FakeBackend(2)) as ex, ex.stream(square, numbers()) as outcomes:
            await anext(outcomes)
        assert closed

    virtual_time.run(main())


def test_an_error_in_closing_the_input_reaches_the_caller() -> None:
    async def numbers() -> AsyncIterator[int]:
        yield 1

    class Source:
        def __init__(self) -> None:
            self._numbers = numbers()

        def __aiter__(self) -> Source:
            return self

        async def __anext__(self) -> int:
            return await anext(self._numbers)

        async def aclose(self) -> None:
            raise OwnError("can't close")

    async def main() -> None:
        async with opened(FakeBackend(2)) as ex:
            with pytest.raises(OwnError, match="can't close"):
                await ex.map(square, Source())

    virtual_time.run(main())


def test_an_async_input_that_never_yields_can_be_left() -> None:
    async def never() -> AsyncIterator[int]:
        await asyncio.sleep(10**9)
        yield 1

    async def main() -> None:
        async with opened(FakeBackend(2)) as ex:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(5.0):
                    await ex.map(square, never())
        assert now_s() == 5.0

    virtual_time.run(main())


def test_an_async_input_that_swallows_its_cancellation_is_left_all_the_same() -> None:
    async def stubborn() -> AsyncIterator[int]:
        for number in itertools.count():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(10.0)
            yield number

    async def main() -> None:
        async with opened(FakeBackend(2)) as ex, ex.stream(square, stubborn()) as outcomes:
            assert (await anext(outcomes)).index == 0
        assert now_s() < 100.0, "leaving waited for the input"

    virtual_time.run(main())


def test_a_slow_async_input_does_not_keep_outcomes_waiting() -> None:
    async def slowly() -> AsyncIterator[int]:
        for number in range(3):
            yield number
            await asyncio.sleep(100.0)

    async def main() -> None:
        async with opened(FakeBackend(2)) as ex, ex.stream(square, slowly()) as outcomes:
            times = [now_s() async for _ in outcomes]
        assert times == [1.0, 101.0, 201.0]

    virtual_time.run(main())


def test_a_slow_generator_does_not_keep_outcomes_waiting() -> None:
    """It blocks the loop while it works, so it is pulled in slices."""

    def slowly() -> Iterator[int]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, virtual_time.VirtualTimeLoop)
        for number in range(100):
            loop.now_s += 0.5  # as a generator that computes would
            yield number

    async def main() -> None:
        async with opened(FakeBackend(50)) as ex, ex.stream(square, slowly()) as outcomes:
            await anext(outcomes)
            assert now_s() <= 4.0

    virtual_time.run(main())


def test_the_input_is_not_pulled_before_the_loop_has_a_turn_nor_all_at_once() -> None:
    pulled = []

    def numbers() -> Iterator[int]:
        for number in range(10**6):
            pulled.append(number)
            yield number

    async def main() -> None:
        async with opened(FakeBackend(2)) as ex, ex.stream(square, numbers(), group=1) as outcomes:
            assert pulled == []
            await anext(outcomes)
            assert len(pulled) <= 1 + 3 * 2

    virtual_time.run(main())


@pytest.mark.parametrize("method", ["__iter__", "__aiter__"])
def test_an_input_that_can_not_even_begin_reaches_the_caller(method: str) -> None:
    def fail(_: object) -> object:
        raise OwnError("no such file")

    source = type("Source", (), {method: fail})()
    with pytest.raises(OwnError, match="no such file"):
        virtual_time.run(map_squares(FakeBackend(), source))


@pytest.mark.parametrize("chunks", ["abc", b"abc"])
def test_a_text_as_input_is_refused(chunks: Any) -> None:
    with pytest.raises(UsageError, match=r"one character at a time: pass \[chunks\] for one task"):
        virtual_time.run(map_squares(FakeBackend(), chunks))


@pytest.mark.parametrize("chunks", [5, None, 2.5, square])
def test_an_input_that_can_not_be_iterated_over_is_refused(chunks: Any) -> None:
    with pytest.raises(UsageError, match="pass a list, a generator or an async iterator") as caught:
        virtual_time.run(map_squares(FakeBackend(), chunks))
    assert type(chunks).__name__ in str(caught.value)
