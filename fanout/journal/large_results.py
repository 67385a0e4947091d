"""The results of a run that are too large for its journal: kept as objects, and had from there.

They go into the store that the user named, else into a folder beside the journal. The journal holds
their names, sealed, and written only when the object is there.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fanout.errors import DecodeError
from fanout.events import Cancelled, Consumed, Deliver, Finish, RunStarted
from fanout.journal.downloads import Downloads
from fanout.journal.folder import results_of, values_of
from fanout.journal.objects import FolderStore, Objects, Place
from fanout.journal.schema import sealed, unsealed
from fanout.journal.uploads import Uploads
from fanout.journal.values import copied, parts_of
from fanout.spilled import Spilled, size_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from fanout.codec import Buffer
    from fanout.events import AttemptAnswered, RunEvent
    from fanout.journal.about import About, Limits
    from fanout.journal.folder import Locator
    from fanout.stores import Store


@dataclass(slots=True)
class Prepared:
    """A result on its way to where it is kept.

    Attributes:
        parts: Its frame; None: it can't be kept.
        reserved_bytes: The room that it has among what is on its way.
    """

    parts: list[Buffer] | None
    reserved_bytes: int = 0


class LargeResults:
    """Those of one session.

    Args:
        path: Of the journal.
        run: Id of the run.
        store: What the user named; None: nothing.
        limits: How much is kept, and on its way.
        about: The run.

    Attributes:
        downloads: Results of earlier sessions.
    """

    def __init__(
        self,
        path: Path,
        run: str,
        store: Store | None,
        limits: Limits,
        about: About,
    ) -> None:
        self._about = about
        self._ready: dict[int, dict[int, Prepared]] = {}  # by attempt and task
        self._beside = FolderStore(values_of(path))
        self._places = {Place.BESIDE: Objects(self._beside, "", Place.BESIDE)}
        if store is not None:
            self._places[Place.STORE] = Objects(store, results_of(run), Place.STORE)
        self._target = self._places[Place.BESIDE if store is None else Place.STORE]
        self._uploads = Uploads(self._target, limits, f"run {about.name or run}")
        self.downloads = Downloads(self._places, limits, is_safe=about.is_safe)
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

    async def prepare(self, answer: AttemptAnswered) -> None:
        """Encode the results of a large answer, and make room for those that are large themselves.

        Nobody else has them yet. The caller of a stream will have them at once, and may change
        them, so that they are copied; that of a map has them when all is stored.
        """
        report = answer.report
        if report is None or report.payload_bytes <= self._limits.value_bytes:
            return
        ready = self._ready.setdefault(answer.attempt, {})
        try:
            for outcome in answer.outcomes:
                if outcome.error is None:
                    one = Prepared(await asyncio.to_thread(parts_of, outcome.value, self._about))
                    ready[outcome.index] = one
                    if self.is_large(one) and self._reserve(one) and self._is_streamed:
                        one.parts = await asyncio.to_thread(copied, one.parts or [])
        except MemoryError as error:
            self.release(ready.values())
            ready.clear()
            self._uploads.tell(error)
        except BaseException:
            self.release(self._ready.pop(answer.attempt).values())
            raise

    def prepared(self, attempt: int) -> dict[int, Prepared]:
        """What `prepare` has made of an attempt, by task; to be given back to `release`."""
        return self._ready.pop(attempt, {})

    def encoded(self, value: object) -> Prepared:
        """The same for a result of which it has made nothing."""
        one = Prepared(parts_of(value, self._about))
        if self.is_large(one) and self._reserve(one) and self._is_streamed:
            one.parts = copied(one.parts or [])
        return one

    def is_large(self, one: Prepared) -> bool:
        """Whether a result is too large for the journal."""
        return one.parts is not None and size_of(one.parts) > self._limits.value_bytes

    def keep(self, one: Prepared, done: Callable[[Spilled], None]) -> None:
        """Store a large result; `done` is told its name when it is there."""
        one.reserved_bytes = 0  # that is the upload's now
        self._uploads.add(one.parts or [], done)

    def release(self, ready: Iterable[Prepared]) -> None:
        """Give up the room of what is not kept."""
        for one in ready:
            self._uploads.release(one.reserved_bytes)
            one.reserved_bytes = 0

    def _reserve(self, one: Prepared) -> bool:
        """Make room for a large result; without any it is none."""
        nbytes = size_of(one.parts or [])
        if self._uploads.reserve(nbytes):
            one.reserved_bytes = nbytes
        else:
            one.parts = None
        return one.parts is not None

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
