"""An event loop of asyncio on which nothing ever waits: time jumps to whatever is due next.

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(main())  # sleeps of an hour cost nothing

The production path runs on it unchanged, as it asks the loop for the time. It only works where
nothing waits for a socket or a thread, so the backend must be made of sleeps (`fakes.FakeBackend`).
Where nothing is due and nothing can happen any more, a real loop would hang: this one raises.
"""

from __future__ import annotations

import asyncio
import functools
import selectors
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")


class StuckError(Exception):
    """Everybody waits, and nothing is due: the program would hang."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A loop with a clock of its own, which starts at 0 and never runs by itself.

    Args:
        resolution_s: By how much timers run early, as they do where the clock is coarse.

    Attributes:
        now_s: The time.
        complaints: What was reported to the loop's exception handler.
    """

    def __init__(self, *, resolution_s: float = 0.0) -> None:
        self.now_s = 0.0
        self.complaints: list[dict[str, Any]] = []
        super().__init__(_Jumping(self, resolution_s))
        if resolution_s:  # asyncio's own otherwise, which is never 0
            self._clock_resolution = resolution_s

    def time(self) -> float:
        return self.now_s

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.complaints.append(context)


class _Jumping(selectors.DefaultSelector):
    """Never sleeps: sets the loop's clock forward instead."""

    def __init__(self, loop: VirtualTimeLoop, resolution_s: float) -> None:
        super().__init__()
        self._loop = loop
        self._resolution_s = resolution_s

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready: list[tuple[selectors.SelectorKey, int]] = super().select(0)
        if not ready and timeout is None:
            raise StuckError("everybody waits, and nothing is due")
        if not ready and timeout is not None:
            # Less than the resolution: asyncio runs what is due before now + resolution.
            early_s = self._resolution_s / 2 if timeout > self._resolution_s else 0.0
            self._loop.now_s += max(timeout - early_s, 0.0)
        return ready


def run(work: Coroutine[Any, Any, T], *, resolution_s: float = 0.0) -> T:
    """Run a coroutine to its end in virtual time; assert that it leaves nothing behind."""
    factory = functools.partial(VirtualTimeLoop, resolution_s=resolution_s)
    with asyncio.Runner(loop_factory=factory) as runner:
        result = runner.run(_leaving_nothing(work))
        loop = runner.get_loop()
        assert isinstance(loop, VirtualTimeLoop)
        assert not loop.complaints, loop.complaints
    return result


async def _leaving_nothing(work: Coroutine[Any, Any, T]) -> T:
    try:
        return await work
    finally:
        assert others() == set(), "tasks of asyncio are left"


def others() -> set[asyncio.Task[Any]]:
    """All tasks of asyncio but the one that asks."""
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}


def now_s() -> float:
    """The time, seconds since the loop began."""
    return asyncio.get_running_loop().time()
