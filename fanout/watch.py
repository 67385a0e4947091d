"""Attempts in flight that may become silent: which is due, the oldest first.

Pure; for `hedging`. Heaps whose entries are not removed when they become void, but passed over.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# What is expected is a measurement: less than a millisecond is none, and no unit of anything.
_SHORTEST_S: Final = 1e-3


@dataclass(slots=True)
class Live:
    """An attempt in flight.

    Attributes:
        launched_s: When, seconds.
        expected_s: How long it should run, seconds; None if not known.
        soft_s: After how long its worker begins no further task, seconds; None: never.
        tasks: How many it carries.
        covers: The attempt of which it is a cover, or a piece of one.
        is_warm: There was an idle environment to have it.
        cost_gb_s: What it took out of a budget, if it is a cover ...
        is_reserve: ... and whether that was the reserve for hung attempts.
        copies: Which part of the covered attempt's tasks it carries.
        pieces: Of its own cover: how many are in flight.
        is_settled: Others have done all its tasks.
        mark: Entries in heaps with another mark are not valid any more.
    """

    launched_s: float
    expected_s: float | None
    soft_s: float | None
    tasks: int
    covers: int | None
    is_warm: bool = False
    cost_gb_s: float = 0.0
    is_reserve: bool = False
    copies: float = 0.0
    pieces: int = 0
    is_settled: bool = False
    mark: int = 0

    @property
    def is_sliced(self) -> bool:
        """Whether its worker gives back what it has not begun in time."""
        return self.soft_s is not None and self.tasks > 1

    @property
    def is_coverable(self) -> bool:
        """Whether it may get a cover."""
        return self.covers is None and not self.pieces and not self.is_settled

    @property
    def unit_s(self) -> float:
        """What an opaque attempt's time is measured in, seconds."""
        return max(self.expected_s, _SHORTEST_S) if self.expected_s else 1.0


class Entry(NamedTuple):
    """An attempt in a heap."""

    key_s: float
    attempt: int
    mark: int


class Watch:
    """Attempts by the time at which they become due, and those that are by their age."""

    def __init__(self) -> None:
        self._coming: list[Entry] = []  # a heap by that time
        self._overdue: list[Entry] = []  # a heap by launch

    def add(self, at_s: float, attempt: int, lives: Mapping[int, Live]) -> None:
        """Watch an attempt that becomes due then."""
        if at_s < math.inf:
            heapq.heappush(self._coming, Entry(at_s, attempt, lives[attempt].mark))
        if len(self._coming) + len(self._overdue) > 4 * len(lives) + 64:
            self._tidy(lives)

    def pop(self, now_s: float, lives: Mapping[int, Live]) -> Entry | None:
        """Take out the oldest attempt that is due; None if there is none."""
        self._advance(now_s, lives)
        while self._overdue:
            entry = heapq.heappop(self._overdue)
            if _is_valid(entry, lives):
                return entry
        return None

    def put_back(self, entries: Sequence[Entry]) -> None:
        """Have what was taken out due again."""
        for entry in entries:
            heapq.heappush(self._overdue, entry)

    def next_s(self, now_s: float, lives: Mapping[int, Live]) -> float | None:
        """When the next attempt becomes due, after now."""
        self._advance(now_s, lives)
        while self._coming and not _is_valid(self._coming[0], lives):
            heapq.heappop(self._coming)
        return self._coming[0].key_s if self._coming else None

    def _tidy(self, lives: Mapping[int, Live]) -> None:
        """Drop what is not valid any more, since that is most of it."""
        for entries in (self._coming, self._overdue):
            entries[:] = [entry for entry in entries if _is_valid(entry, lives)]
            heapq.heapify(entries)

    def _advance(self, now_s: float, lives: Mapping[int, Live]) -> None:
        while self._coming and self._coming[0].key_s <= now_s:
            entry = heapq.heappop(self._coming)
            if _is_valid(entry, lives):
                launched_s = lives[entry.attempt].launched_s
                heapq.heappush(self._overdue, entry._replace(key_s=launched_s))


def _is_valid(entry: Entry, lives: Mapping[int, Live]) -> bool:
    live = lives.get(entry.attempt)
    return live is not None and live.mark == entry.mark and live.is_coverable
