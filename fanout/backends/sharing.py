"""Executors that share a backend: the first one starts it, the last one closes it.

lam = fanout.Lambda("fanout-worker")
a, b = await asyncio.gather(fanout.map(f, xs, backend=lam), fanout.map(g, ys, backend=lam))
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from fanout.errors import UsageError

if TYPE_CHECKING:
    from fanout.backends import Backend


class _Use:
    """How a backend is used: by so many, in a loop."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend  # so that no other one gets its id
        self.loop = asyncio.get_running_loop()
        self.lock = asyncio.Lock()  # nobody goes on before it has started
        self.count = 0
        self.is_started = False


_USES: Final[dict[int, _Use]] = {}  # by the backend's id


async def start(backend: Backend) -> None:
    """Start a backend, unless somebody has.

    Raises:
        UsageError: It is in use in another event loop.
        Exception: It can't be started.
    """
    use = _USES.get(id(backend))
    if use is None or use.loop.is_closed():
        use = _USES[id(backend)] = _Use(backend)
    if use.loop is not asyncio.get_running_loop():
        msg = f"{backend.name} is in use in another event loop: make a backend for each"
        raise UsageError(msg)
    use.count += 1
    try:
        async with use.lock:
            if not use.is_started:
                await backend.start()
                use.is_started = True
    except BaseException:
        use.count -= 1
        _forget(use)
        raise


async def close(backend: Backend) -> None:
    """Close a backend, unless somebody else uses it."""
    use = _USES[id(backend)]
    use.count -= 1
    async with use.lock:
        if use.count or not use.is_started:
            return
        use.is_started = False
        try:
            await backend.aclose()
        finally:
            _forget(use)


def _forget(use: _Use) -> None:
    if not use.count and _USES.get(id(use.backend)) is use:
        del _USES[id(use.backend)]
