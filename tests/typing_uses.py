"""Uses of the public interface that must type-check; mypy reads this file, nothing runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_type

import numpy as np
from numpy.typing import NDArray

import fanout

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


def length(chunk: str) -> int:
    return len(chunk)


def scaled(array: NDArray[np.float64], factor: float) -> NDArray[np.float64]:
    return array * factor


async def texts() -> AsyncIterator[str]:
    yield "a"


def generated() -> Iterator[tuple[NDArray[np.float64], float]]:
    yield np.zeros(3), 2.0


async def uses() -> None:
    assert_type(await fanout.map(length, ["a", "bb"]), list[int])
    assert_type(await fanout.map(length, texts(), timeout_s=3.0), list[int])
    assert_type(
        await fanout.map(length, ["a"], return_exceptions=True, progress=False),
        list[int | Exception],
    )
    assert_type(await fanout.starmap(scaled, generated()), list[NDArray[np.float64]])
    assert_type(fanout.sync.map(length, ["a"]), list[int])
    async with fanout.Executor(fanout.Local(workers=2)) as ex:
        run = await ex.run(length, ["a"], retry=fanout.RetryPolicy(max_attempts=5))
        assert_type(run, fanout.Run[int])
        assert_type(run.results, list[int])
        assert_type(run.bill, fanout.Bill)
        assert_type(ex.bill, fanout.Bill)
        async with ex.stream(length, texts(), ordered=True) as outcomes:
            async for outcome in outcomes:
                assert_type(outcome, fanout.Outcome[int])
                assert_type(outcome.result(), int)
    async with (
        fanout.emulator.Emulator(faults=fanout.emulator.Faults(throttle=0.1)) as emulator,
        fanout.Executor(fanout.Lambda("f", endpoint_url=emulator.url, concurrency=8)) as ex,
    ):
        assert_type(await ex.map(length, ["a"]), list[int])
        data = await ex.put(np.zeros(3))
        scales = await ex.starmap(scaled, [(data, 2.0), (data, 3.0)])
        assert_type(scales, list[NDArray[np.float64]])
    with fanout.sync.stream(length, ["a"]) as found:
        for one in found:
            assert_type(one.value, int | None)


async def misuses() -> None:
    await fanout.map(length, [1, 2])  # type: ignore[arg-type]
    await fanout.map(length, ["a"], timeout=3)  # type: ignore[call-overload]
