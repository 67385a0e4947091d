"""Large results on their way back, when a run is resumed: read as the caller takes them.

They are read in the order of the input, a few at a time, while other tasks run. What was read and
is not taken yet counts, so that a stream of a thousand of them needs the memory of a few.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fanout.journal.room import Room

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fanout.journal.about import Limits
    from fanout.journal.objects import Objects, Place
    from fanout.spilled import Spilled
    from fanout.tasks import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A result that lies in a place of its own.

    Attributes:
        outcome: All of it but the value.
        digest: Of its chunk.
        place: Where it lies.
        found: Its name there.
    """

    outcome: Outcome[Any]
    digest: bytes
    place: Place
    found: Spilled


class Downloads:
    """Those of one session.

    Args:
        places: Where they may lie.
        limits: How many are read at once, and how much may wait for the caller.
        is_safe: Whether pickle is refused.
    """

    def __init__(self, places: Mapping[Place, Objects], limits: Limits, *, is_safe: bool) -> None:
        self._places = places
        self._at_once = limits.at_once
        self._is_safe = is_safe
        self._waiting: deque[tuple[Stored, Callable[[Any, Exception | None], None]]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._room = Room(limits.waiting_bytes)

    def begin(self, *, is_consumed: bool) -> None:
        """Learn whether the caller says what it has taken."""
        self._room.is_consumed = is_consumed

    def add(self, stored: Stored, done: Callable[[Any, Exception | None], None]) -> None:
        """Read a result when it is its turn; `done` takes its value, or why there is none."""
        self._waiting.append((stored, done))
        self._go_on()

    def delivered(self, outcomes: Sequence[Outcome[Any]]) -> None:
        """These went to the caller, large or not."""
        self._room.delivered(outcomes)
        self._go_on()

    def taken(self, count: int) -> None:
        """The caller has taken so many of them."""
        self._room.taken(count)
        self._go_on()

    def _go_on(self) -> None:
        while self._waiting and len(self._tasks) < self._at_once:
            stored, done = self._waiting[0]
            if not self._room.admits(stored.found.nbytes):
                return
            self._waiting.popleft()
            self._room.enter(stored.outcome.index, stored.found.nbytes)
            task = asyncio.create_task(self._read(stored, done), name="fanout recall")
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._go_on()

    async def _read(self, stored: Stored, done: Callable[[Any, Exception | None], None]) -> None:
        value: Any = None
        why: Exception | None = None
        await asyncio.sleep(0)  # the scheduler hears of the task first, even if tasks start eagerly
        try:
            value = await self._places[stored.place].get(stored.found, is_safe=self._is_safe)
        except Exception as error:  # noqa: BLE001  # whatever it is, the task can be done again
            why = error
        if why is not None:
            self._room.drop(stored.outcome.index)
        done(value, why)

    def stop(self) -> None:
        """Read no more."""
        self._waiting.clear()
        for task in self._tasks:
            task.cancel()

    async def aclose(self) -> None:
        """Read no more, and wait for what is being given up."""
        self.stop()
        if self._tasks:
            await asyncio.wait({*self._tasks})
