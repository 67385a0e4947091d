"""Results that are too large for a journal, as objects: one place where they lie.

The place is a store: the one that the user named, or a folder beside the journal. An object is
named by its sha256, so that what is computed twice lies there once. It is there as a whole or not
at all; whoever reads it compares the digest with the one in the journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
from typing import TYPE_CHECKING, Any

from fanout.codec import decode
from fanout.spilled import Spilled, digest_of, size_of
from fanout.stores import DirectoryStore
from fanout.stores.run_objects import checked
from fanout.wire import unframe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from fanout.codec import Buffer
    from fanout.stores import Store


class Place(enum.StrEnum):
    """Where an object lies."""

    BESIDE = "beside"  # the journal
    STORE = "store"  # that the user named


class Objects:
    """The objects of one run in one place.

    Args:
        store: Which holds them.
        prefix: How their keys begin.
        place: Which it is.
    """

    def __init__(self, store: Store, prefix: str, place: Place) -> None:
        self._store = store
        self._prefix = prefix
        self._doubted: set[str] = set()  # that could not be read, and shall not stay
        self.place = place

    @property
    def locator(self) -> Mapping[str, str | None]:
        """Where the store is."""
        return self._store.locator

    async def put(self, parts: Sequence[Buffer]) -> Spilled:
        """Store a frame.

        Raises:
            StoreError: It can't be stored.
        """
        digest = await asyncio.to_thread(digest_of, parts)
        found = Spilled(key=f"{self._prefix}{digest}", nbytes=size_of(parts), digest=digest)
        if found.key in self._doubted:
            self._doubted.discard(found.key)
            await self._store.delete([found.key])  # or it would be taken for this one
        await self._store.put(found.key, parts)
        return found

    async def get(self, found: Spilled, *, is_safe: bool) -> Any:
        """The value in an object; it is checked and decoded in a thread.

        Raises:
            StoreError: It is not there, or damaged.
            DecodeError: It can't be read any more.
        """
        self._doubted.add(found.key)
        content = await self._store.get(found.key, found.nbytes)
        value = await asyncio.to_thread(_value_in, content, found, is_safe=is_safe)
        self._doubted.discard(found.key)
        return value


def _value_in(content: memoryview, found: Spilled, *, is_safe: bool) -> Any:
    return decode(unframe(checked(content, found)).payload, is_safe=is_safe)


class FolderStore(DirectoryStore):
    """The folder beside a journal, which only its user can read; made when something is put there.

    Args:
        path: The folder. What a killed client was writing there is removed.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._folder = path
        with contextlib.suppress(OSError):
            for partial in path.glob(".*"):
                partial.unlink()

    async def put(self, key: str, parts: Sequence[Buffer]) -> bool:
        """Write an object, unless it is there."""
        with contextlib.suppress(OSError):  # which writing tells
            self._folder.mkdir(mode=0o700, exist_ok=True)
        return await super().put(key, parts)
