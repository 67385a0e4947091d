"""An executor's store: where `put` puts large objects, and messages go that can't be carried.

A store that the user named is told to every worker. Without one, a private folder serves workers on
this machine; they are told of it once something is in it.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from fanout.codec import encode
from fanout.errors import UsageError
from fanout.refs import Ref
from fanout.spilled import digest_of, size_of
from fanout.stores import DirectoryStore, RunObjects, store_of
from fanout.wire import Message, frame

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fanout.codec import Buffer
    from fanout.cost.run_usage import Usage
    from fanout.stores import Store


class LargeObjects:
    """Those of one executor.

    Args:
        store: What the user named; None: nothing.
        is_remote: Whether workers are elsewhere, and can't see a folder of this machine.

    Raises:
        UsageError: That names no store.
    """

    def __init__(self, store: Store | str | os.PathLike[str] | None, *, is_remote: bool) -> None:
        self._is_named = store is not None
        # As a person would name it; None: it was not named, or so that a file can't tell.
        self.named = str(store) if isinstance(store, str | os.PathLike) else None
        self._is_remote = is_remote
        self._has_some = False
        if store is None:
            store = DirectoryStore(None)
        elif isinstance(store, str | os.PathLike):
            store = store_of(os.fspath(store))
        self._store: Store = store

    async def start(self) -> None:
        """Get ready.

        Raises:
            UsageError: A setting makes no sense.
            StoreError: There are no credentials.
        """
        await self._store.start()

    async def aclose(self) -> None:
        """Let everything go; a private folder with all that is in it."""
        self._has_some = False
        await self._store.aclose()

    @property
    def locator(self) -> Mapping[str, Any] | None:
        """Where workers find them; None: there is nothing to find."""
        return self._store.locator if self._is_named or self._has_some else None

    @property
    def store(self) -> Store | None:
        """What the user named; None: nothing."""
        return self._store if self._is_named else None

    def of_run(self, run: str, usage: Usage | None = None) -> RunObjects | None:
        """Where the messages of a run may go; None: all that its backend can't carry is refused.

        What is paid for them is added to `usage`.
        """
        if not self._is_named or not self._is_remote:
            return None
        return RunObjects(self._store, run, usage)

    async def put(self, value: object) -> Ref:
        """Store an object; see `Executor.put`."""
        if self._is_remote and not self._is_named:
            raise UsageError(
                "workers on Lambda can't see a folder of this machine: name a bucket, as in "
                "fanout.Executor(backend, store='s3://bucket/prefix'), or by FANOUT_STORE"
            )
        parts, ref = await asyncio.to_thread(_content_of, value)
        await self._store.put(f"objects/{ref.digest}", parts)
        self._has_some = True
        return ref


def _content_of(value: object) -> tuple[list[Buffer], Ref]:
    """An object as it lies in a store, and its name."""
    parts = frame(Message({}, encode(value)))
    return parts, Ref(digest_of(parts), size_of(parts))
