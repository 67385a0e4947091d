"""The objects of one run in a store: messages that were too large to be carried.

They are of no use to anybody once they have been read, so they go in the course of the run, and
whatever is left at its end. A client that is killed can't see to that: the next one that spills
into the same store removes what is older than a week, and in a bucket a lifecycle rule should.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fanout.errors import StoreError
from fanout.spilled import Spilled, digest_of, size_of
from fanout.stores.run_costs import RunCosts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from fanout.codec import Buffer
    from fanout.cost.run_usage import Usage
    from fanout.stores import Store

_LOG: Final = logging.getLogger("fanout")
# Nothing of it can be in use any more: Lambda runs for 15 minutes, and runs for days at most.
_STALE_S: Final = 7 * 24 * 3600.0
# So much is read before it is deleted: few requests, and little space.
_DELETED_AT_ONCE: Final = 500
_DELETED_BYTES: Final = 2**30
# To remove what is left the folder of the run is listed, and that of all runs.
_LISTS: Final = 2
# The end of a run doesn't wait longer for a store.
_END_S: Final = 30.0
# From here on hashed and copied in a thread.
_LARGE_BYTES: Final = 256 * 2**10


class RunObjects:
    """What one run spills; the `spilled.Spill` of the client.

    Args:
        store: Where to.
        run: Identifies the run.
        usage: Told of what is paid for.
    """

    def __init__(self, store: Store, run: str, usage: Usage | None = None) -> None:
        self._costs = None if usage is None else RunCosts(store.locator, usage)
        self._store = store
        # With what nobody else has, since all of it will be deleted.
        self._prefix = f"runs/{int(time.time())}-{run}-{secrets.token_hex(8)}/"
        self._is_used = False
        self._holds_some = False
        self._read: list[Spilled] = []
        self._deleting: asyncio.Task[None] | None = None

    @property
    def locator(self) -> Mapping[str, Any]:
        """Where the store is, for the worker."""
        return self._store.locator

    @property
    def prefix(self) -> str:
        """With which all keys of the run begin."""
        return self._prefix

    async def put(self, parts: Sequence[Buffer]) -> Spilled:
        """Store a message."""
        self._is_used = True
        spilled = Spilled(
            key=f"{self._prefix}{secrets.token_hex(16)}",
            nbytes=size_of(parts),
            digest=await asyncio.to_thread(digest_of, parts),
        )
        await self._store.put(spilled.key, parts)
        self._holds_some = True
        if self._costs is not None:
            self._costs.put(spilled.nbytes)
        return spilled

    async def get(self, spilled: Spilled) -> memoryview:
        """Have a message that a worker has stored, checked; memory of its own."""
        self._is_used = True
        if not spilled.key.startswith(self._prefix):
            msg = f"a worker says that its reply is {spilled.key}, which isn't of this run"
            raise StoreError(msg)
        self._holds_some = True
        content = await self._store.get(spilled.key, spilled.nbytes)
        if self._costs is not None:
            self._costs.got(spilled.nbytes)
        if spilled.nbytes < _LARGE_BYTES:
            return checked(content, spilled)
        return await asyncio.to_thread(checked, content, spilled)

    def done(self, spilled: Iterable[Spilled]) -> None:
        """Say that nobody will read these any more."""
        self._read += spilled
        is_enough = (
            len(self._read) >= _DELETED_AT_ONCE
            or sum(one.nbytes for one in self._read) >= _DELETED_BYTES
        )
        if is_enough and (self._deleting is None or self._deleting.done()):
            keys = [one.key for one in self._read]
            self._read.clear()
            self._deleting = asyncio.create_task(self._told(self._store.delete(keys)))

    async def aclose(self) -> None:
        """Remove what is left, and what others have left long ago."""
        if self._deleting is not None:
            await self._deleting
        if self._is_used:
            await self._told(self._remove())
            if self._costs is not None:
                self._costs.end(_LISTS)

    async def _remove(self) -> None:
        async with asyncio.timeout(_END_S):
            await self._store.delete_prefix(self._prefix)
            before_s = time.time() - _STALE_S
            for folder in await self._store.folders("runs/"):
                began = re.match(r"runs/(\d+)-", folder)
                if began is not None and int(began[1]) < before_s:
                    await self._store.delete_prefix(folder)

    async def _told(self, deleting: Any) -> None:
        """Results don't depend on it, so a failure is told and no more."""
        try:
            await deleting
        except (StoreError, TimeoutError) as error:
            # Where nothing could be put, that was told, and most likely nothing is left.
            _LOG.log(
                logging.WARNING if self._holds_some else logging.DEBUG,
                "fanout: objects of this run are left in the store, under %s (%s); a lifecycle "
                "rule for runs/, or a run after a week, removes them",
                self._prefix,
                str(error) or "it took too long to delete them",
            )


def checked(content: memoryview, spilled: Spilled) -> memoryview:
    """An object in memory of its own.

    Raises:
        StoreError: It is not what was stored.
    """
    spilled.check(content)
    if not content.readonly:
        return content
    memory = np.empty(spilled.nbytes, np.uint8)
    np.copyto(memory, np.frombuffer(content, np.uint8))  # which lets other threads go on
    return memory.data
