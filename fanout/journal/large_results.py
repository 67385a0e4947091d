"""The results of a run that are too large for its journal: kept as objects, and had from there.

They go into the store that the user named, else into a folder beside the journal. The journal holds
their names, sealed, and written only when the object is there.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from fanout.errors import DecodeError
from fanout.events import Cancelled, Consumed, Deliver, Finish, RunStarted
from fanout.journal.downloads import Downloads
from fanout.journal.folder import results_of, values_of
from fanout.journal.objects import FolderStore, Objects, Place
from fanout.journal.schema import sealed, unsealed
from fanout.journal.uploads import Uploads
from fanout.spilled import Spilled, size_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fanout.codec import Buffer
    from fanout.events import RunEvent
    from fanout.journal.about import Limits
    from fanout.journal.folder import Locator
    from fanout.stores import Store


class LargeResults:
    """Those of one session.

    Args:
        path: Of the journal.
        run: Id of the run.
        store: What the user named; None: nothing.
        limits: How much is kept, and on its way.
        is_safe: Whether pickle is refused.
        what: Names the run in messages.

    Attributes:
        downloads: Results of earlier sessions.
    """

    def __init__(
        self,
        path: Path,
        run: str,
        store: Store | None,
        limits: Limits,
        *,
        is_safe: bool,
        what: str,
    ) -> None:
        self._most_bytes = limits.value_bytes
        self._beside = FolderStore(values_of(path))
        self._places = {Place.BESIDE: Objects(self._beside, "", Place.BESIDE)}
        if store is not None:
            self._places[Place.STORE] = Objects(store, results_of(run), Place.STORE)
        self._target = self._places[Place.BESIDE if store is None else Place.STORE]
        self._uploads = Uploads(self._target, limits, what)
        self.downloads = Downloads(self._places, limits, is_safe=is_safe)
        self._is_streamed = False
        self._limits = limits

    def __call__(self, event: RunEvent) -> None:
        """Take note of what the caller has."""
        match event:
            case Deliver(outcomes=outcomes):
                self.downloads.delivered(outcomes)
            case Consumed(count=count):
                self.downloads.taken(count)
            case RunStarted(is_consumed=is_consumed):
                self._is_streamed = is_consumed
                self.downloads.begin(is_consumed=is_consumed)
            case Cancelled() | Finish():
                self.downloads.stop()

    @property
    def locator(self) -> Locator | None:
        """The store that they go to; None: they lie beside the journal."""
        return None if self._target.place is Place.BESIDE else self._target.locator

    def has(self, parts: list[Buffer]) -> bool:
        """Whether a result is one of them."""
        return size_of(parts) > self._most_bytes

    def has_room(self, parts: list[Buffer]) -> bool:
        """Whether another one can be stored now; if not, that is told."""
        return self._uploads.has_room(size_of(parts))

    def keep(self, parts: list[Buffer], done: Callable[[Spilled], None]) -> None:
        """Store a result, for which there is room; `done` is told its name when it is there."""
        # The caller of a map gets the result when this has ended, that of a stream at once: it may
        # change it.
        self._uploads.add([b"".join(parts)] if self._is_streamed else parts, done)

    def sealed(self, found: Spilled, task: int, digest: bytes) -> tuple[bytes, str]:
        """A name as it stands in the journal, and where it holds."""
        place = self._target.place.value
        return sealed(json.dumps(found.told()).encode(), task, digest, place), place

    def unsealed(self, blob: bytes, task: int, digest: bytes, text: str) -> tuple[Spilled, Place]:
        """The name that was sealed, and where it holds.

        Raises:
            DecodeError: It is damaged, or the place is not known in this session.
        """
        told = bytes(unsealed(blob, task, digest, text))
        place = Place(text)
        if place not in self._places:
            raise DecodeError("it lies in a store, and there is none now: name it with store=")
        return Spilled.read(json.loads(told)), place

    def hurry(self) -> None:
        """Have `aclose` end soon."""
        self._uploads.hurry()

    async def aclose(self, error: BaseException | None, *, is_cut_short: bool) -> None:
        """Wait for what is on its way; not for long if the run did not come to its end."""
        await self.downloads.aclose()
        within_s = self._limits.failed_s if is_cut_short else None
        if error is not None and not isinstance(error, Exception):
            within_s = self._limits.cancelled_s
        await self._uploads.aclose(within_s)
        await self._beside.aclose()
