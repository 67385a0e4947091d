"""Longest first, and what an executor remembers of a kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import fanout
from fanout.errors import UsageError
from fanout.events import Launch, Offered

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fanout.events import RunEvent


async def test_the_heaviest_chunks_of_a_list_go_first() -> None:
    events: list[RunEvent] = []
    chunks = [n % 50 for n in range(500)]
    async with fanout.Executor(fanout.Local(1)) as ex:
        results = await ex.map(
            lambda n: -n, chunks, weight=lambda n: n + 1, group=1, on_event=events.append
        )
    assert results == [-n for n in chunks]
    (offered,) = {event.count for event in events if isinstance(event, Offered)}
    assert offered == 500  # a list is looked at as a whole
    sent = [chunks[event.tasks[0]] for event in events if isinstance(event, Launch)]
    assert sent == sorted(chunks, reverse=True)


async def test_chunks_of_an_async_input_have_weights_too() -> None:
    async def given() -> AsyncIterator[str]:
        for text in ("a", "bbb", "cc"):
            yield text

    assert await fanout.map(len, given(), weight=len) == [1, 3, 2]


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf"), None, "heavy"])
async def test_a_weight_that_is_none_ends_the_run_and_names_the_chunk(weight: Any) -> None:
    def weighed(chunk: int) -> Any:
        return weight if chunk == 2 else 1

    with pytest.raises(UsageError, match=r"weight= gave .* for chunk 2: it must be a number above"):
        await fanout.map(abs, [0, 1, 2, 3], weight=weighed)


async def test_what_the_weight_raises_ends_the_run() -> None:
    with pytest.raises(ZeroDivisionError):
        await fanout.map(abs, [1, 0], weight=lambda n: 1 / n)


async def test_a_weight_that_is_no_function_is_refused() -> None:
    with pytest.raises(UsageError, match="weight=3 must be a function of one argument"):
        await fanout.map(abs, [1], weight=3)  # type: ignore[call-overload]


async def test_the_next_map_of_a_kernel_begins_with_what_the_last_one_has_learned() -> None:
    events: list[RunEvent] = []
    async with fanout.Executor(fanout.Local(1)) as ex:
        await ex.map(abs, range(2000))
        await ex.map(abs, range(2000), on_event=events.append)
        assert len(next(e.tasks for e in events if isinstance(e, Launch))) > 1
        events.clear()
        await ex.map(float, range(2000), on_event=events.append)  # another one
        assert len(next(e.tasks for e in events if isinstance(e, Launch))) == 1
