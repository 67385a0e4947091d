"""Large results on their way to where they are kept: a few at a time, and never too many.

Nothing waits for them but the end of the run. What can't be stored, or comes faster than it can be
stored, is not kept: that is told once, and the run goes on.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from fanout.errors import StoreError
from fanout.spilled import size_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fanout.codec import Buffer
    from fanout.journal.about import Limits
    from fanout.journal.objects import Objects
    from fanout.spilled import Spilled

_LOG: Final = logging.getLogger("fanout")


class Uploads:
    """Those of one session.

    Args:
        objects: Where to.
        limits: How many at once, and how much may wait.
        what: Names the run in messages.
    """

    def __init__(self, objects: Objects, limits: Limits, what: str) -> None:
        self._objects = objects
        self._limits = limits
        self._what = what
        self._places = asyncio.Semaphore(limits.at_once)
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting_bytes = 0
        self._has_told = False
        self._is_hurried = asyncio.Event()

    def reserve(self, nbytes: int) -> bool:
        """Make room for so much more; if there is none, that is told."""
        if self._waiting_bytes + nbytes <= self._limits.waiting_bytes:
            self._waiting_bytes += nbytes
            return True
        most = _in_words(self._limits.waiting_bytes)
        self.tell(f"they come faster than they can be stored, and {most} may wait for that")
        return False

    def release(self, nbytes: int) -> None:
        """It won't come."""
        self._waiting_bytes -= nbytes

    def add(self, parts: Sequence[Buffer], done: Callable[[Spilled], None]) -> None:
        """Store a frame, for which room is reserved; `done` is told its name when it is there.

        Nobody may change it meanwhile.
        """
        nbytes = size_of(parts)
        task = asyncio.create_task(self._upload(parts, nbytes, done), name="fanout result")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _upload(
        self, parts: Sequence[Buffer], nbytes: int, done: Callable[[Spilled], None]
    ) -> None:
        try:
            async with self._places:
                done(await self._objects.put(parts))
        except Exception as error:  # noqa: BLE001  # whatever it is, the run shall go on
            self.tell(error if isinstance(error, StoreError) else repr(error))
        finally:
            self.release(nbytes)

    def hurry(self) -> None:
        """Whoever waits for the end wants no more than a moment of it."""
        self._is_hurried.set()

    async def aclose(self, within_s: float | None) -> None:
        """Wait for what is on its way, and give up what takes longer; None: as long as it takes."""
        hurried = asyncio.create_task(self._is_hurried.wait())
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self._limits.patient_s, self._tell_waiting)
        try:
            async with asyncio.timeout(within_s):
                while self._tasks and not hurried.done():
                    await asyncio.wait({*self._tasks, hurried}, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            pass
        finally:
            timer.cancel()
            hurried.cancel()
            await asyncio.wait({hurried})
        if self._tasks and self._is_hurried.is_set():
            await asyncio.wait(self._tasks, timeout=self._limits.cancelled_s)
        if left := [*self._tasks]:
            for task in left:
                task.cancel()
            await asyncio.wait(left)
            self.tell(f"{len(left)} were still on their way when it ended")

    def _tell_waiting(self) -> None:
        _LOG.warning(
            "fanout: %s is over, but for %d large results of %s that are being stored; a run that "
            "is cancelled does not wait for them",
            self._what,
            len(self._tasks),
            _in_words(self._waiting_bytes),
        )

    def tell(self, why: object) -> None:
        """Say once that not everything is kept, and why."""
        if self._has_told:
            return
        self._has_told = True
        _LOG.warning(
            "fanout: %s goes on, but not all of its results above %s are kept (%s): those would be "
            "computed again if it is resumed",
            self._what,
            _in_words(self._limits.value_bytes),
            why,
        )


def _in_words(nbytes: int) -> str:
    return f"{nbytes / 2**20:,.0f} MiB" if nbytes >= 2**20 else f"{nbytes:,} bytes"
