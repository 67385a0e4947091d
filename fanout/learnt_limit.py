"""How many attempts may be in flight at once, as refusals teach it.

Pure. A 429 for concurrency says: what runs now is all there is. Then the usable limit is probed
upward after 2 s, by 1, 4, 16, ... every 0.1 s while it is reached and nothing is refused. By
simulation that is as fast as the best of those who ask all the time, with a thirtieth to a
hundredth of their refusals (tests/bench/throttle.py). Steps that double every 0.25 s take 2.5 %
longer where others come and go.

One lesson for each wave. Refusals of attempts that were under way when the first one came are the
same lesson, more exactly told: each says that one fewer was running than it seemed. So what counts
is the most that seemed to run since the refused one was launched, less those that did not. Attempts
that have ended meanwhile did run, and lower nothing.
"""

from __future__ import annotations

import bisect
import math
from typing import Final

# When to try more than was learnt, seconds. Sooner finds nothing more: what others leave is taken
# by what ends meanwhile.
_PROBE_AFTER_S: Final = 2.0
# How often then, seconds: as often as refusals have had time to come twice over, within these.
_PROBE_EVERY_S: Final = 0.1
_PROBE_SELDOM_S: Final = 1.0
_REFUSALS: Final = 2
_GROWTH: Final = 4
# A limit that falls is followed in steps of no more than a twentieth of it: each place that is
# left empty for nothing costs time, each refusal only a request.
_RETREAT: Final = 20


class LearntLimit:
    """The usable part of a limit.

    Attributes:
        most: The limit that was told, which is never exceeded.
        usable: How many may be in flight, as far as was learnt; from 1 to `most`.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.usable = most
        self._peaks = _Peaks()
        self._lesson_s = -math.inf  # the first refusal of the last wave
        self._running = 0  # how many ran then, as far as its refusals tell
        self._retreat = 0
        self._step = 1
        self._probe_s = -math.inf
        self._every_s = _PROBE_EVERY_S

    def __repr__(self) -> str:
        return f"<LearntLimit: {self.usable} of {self.most}>"

    def due_s(self, in_flight: int) -> float | None:
        """From when on there is room for one more; None while only an end makes some."""
        if in_flight < self.usable:
            return -math.inf
        return self._probe_s if in_flight < self.most else None

    def launched(self, now_s: float, in_flight: int) -> None:
        """Take note of a launch, with which so many are in flight."""
        if in_flight > self.usable:  # so it is a probe
            self.usable = min(self.most, self.usable + self._step)
            self._step *= _GROWTH
            self._probe_s = now_s + self._every_s
        self._peaks.add(now_s, in_flight)

    def refused(self, now_s: float, in_flight: int, launched_s: float) -> None:
        """Learn from a refusal.

        Args:
            now_s: When it came.
            in_flight: What is in flight without it.
            launched_s: When the attempt was launched.
        """
        if launched_s <= self._lesson_s:
            self._running -= 1
        else:
            # Refused below what was learnt a moment ago: the limit falls, or was taken for too
            # high. Going down by one at a time would be refused for each attempt that ends.
            is_falling = now_s < self._lesson_s + _PROBE_AFTER_S
            self._running = max(in_flight, self._peaks.since(launched_s) - 1)
            retreat = max(1, 2 * self._retreat) if is_falling else 0
            self._retreat = min(retreat, self._running // _RETREAT)
            self._lesson_s = now_s
            self._every_s = _PROBE_EVERY_S
        took_s = now_s - launched_s
        self._every_s = min(_PROBE_SELDOM_S, max(self._every_s, _REFUSALS * took_s))
        self.usable = max(1, min(self.usable, self._running - self._retreat))
        self._step = 1
        self._probe_s = now_s + _PROBE_AFTER_S


class _Peaks:
    """The most that was in flight since any moment; as long as it was high at most."""

    def __init__(self) -> None:
        self._times_s: list[float] = []
        self._counts: list[int] = []  # falling: what came before a higher one is forgotten

    def add(self, now_s: float, count: int) -> None:
        """So many are in flight from now on."""
        while self._counts and self._counts[-1] <= count:
            self._counts.pop()
            self._times_s.pop()
        self._counts.append(count)
        self._times_s.append(now_s)

    def since(self, when_s: float) -> int:
        """The highest count at that moment or later; 0 if none was added."""
        place = bisect.bisect_left(self._times_s, when_s)
        return self._counts[place] if place < len(self._counts) else 0
