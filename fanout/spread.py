"""How positive values are spread: quantiles by Kaplan and Meier, in bounded memory.

Pure. Values that are cut short (an attempt that was lost after so many seconds, or still runs) are
known to be at least so large, and count as that (JASA 53, 1958, 457).
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

# Width of a bin: a quantile is exact to 2 %, against thresholds of 30 % and more.
_BIN: Final = math.log(1.02)
_BIN_RANGE: Final = (1e-6, 1e6)  # so at most 1400 bins


class Spread:
    """How positive values are spread, in bins of equal ratio, so that its memory is bounded."""

    def __init__(self) -> None:
        self._over: Counter[int] = Counter()
        self._cut_short: Counter[int] = Counter()
        self.count = 0  # values that are not cut short

    @classmethod
    def of(cls, bins: Mapping[int, int]) -> Self:
        """One that has seen so many values in these bins; none of them cut short."""
        spread = cls()
        spread._over.update(bins)
        spread.count = spread._over.total()
        return spread

    def thinned(self, most: int) -> dict[int, int]:
        """At most so many values that lie as those do that are not cut short, by their bins."""
        if self.count <= most:
            return dict(sorted(self._over.items()))
        found: Counter[int] = Counter()
        passed = 0
        for at in sorted(self._over):
            before, passed = passed, passed + self._over[at]
            # Each stands for an equal part of them, and lies in its middle.
            first, last = (math.ceil(n * most / self.count - 0.5) for n in (before, passed))
            if last > first:
                found[at] = last - first
        return dict(found)

    @property
    def size(self) -> int:
        """How many bins there are."""
        return len(self._over) + len(self._cut_short)

    def add(self, value: float, *, is_over: bool = True) -> None:
        """Take note of a value, or if it is not over, that one is at least so large."""
        (self._over if is_over else self._cut_short)[bin_of(value)] += 1
        self.count += is_over

    def quantiles(self, running: Sequence[float], survivals: Sequence[float]) -> list[float]:
        """The least values that at most these shares exceed, by Kaplan and Meier.

        Args:
            running: Values that will be larger than that.
            survivals: Shares, from large to small.

        Returns:
            Upper edges of bins; infinity where that is not known yet.
        """
        cut_short = self._cut_short + Counter(map(bin_of, running))
        at_risk = self.count + cut_short.total()
        found: list[float] = []
        survival = 1.0
        for at in sorted(self._over.keys() | cut_short.keys()):
            if over := self._over[at]:
                survival *= 1.0 - over / at_risk
                while len(found) < len(survivals) and survival <= survivals[len(found)] + 1e-9:
                    found.append(math.exp(at * _BIN))
            at_risk -= over + cut_short[at]
        return found + [math.inf] * (len(survivals) - len(found))


def bin_of(value: float) -> int:
    """The bin of a value, by whose upper edge it is told."""
    least, most = _BIN_RANGE
    return math.ceil(math.log(min(max(value, least), most)) / _BIN)
