"""Lets a few environments start at a time, as this machine has but a few cores.

On Lambda each environment starts on a core of its own; here a hundred interpreters that start at
once would each take a hundred times as long, and exceed the time for Init. One that waits for
something other than a core gives its place up soon.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# More than one for each core, so that none idles while another one reads files.
_STARTS_PER_CORE: Final = 2
# An interpreter with numpy starts in 0.2 s; what takes longer shall not hold up the others.
_PLACE_S: Final = 0.25


class Starts:
    """A few places for environments that start."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(_STARTS_PER_CORE * (os.cpu_count() or 1))

    @contextlib.asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Wait for a place, and have it for a while."""
        await self._places.acquire()
        is_held = True

        def give_up() -> None:
            nonlocal is_held
            if is_held:
                is_held = False
                self._places.release()

        timer = asyncio.get_running_loop().call_later(_PLACE_S, give_up)
        try:
            yield
        finally:
            timer.cancel()
            give_up()
