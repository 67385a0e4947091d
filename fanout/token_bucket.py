"""A token bucket: so many at once, then so many a second.

Pure. It holds exactly, whatever the roundings of floats: in every window of w seconds, both ends
included, no more than `burst + per_s * w` tokens are taken. Nor does rounding hold anybody up:
at the time that `due_s` names, there is a token.

Levels that are added up would drift. So it counts the tokens taken since it was full the last time,
and compares them with the time that has passed since then: one subtraction and one product, whose
roundings have a known bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from fanout.errors import UsageError

# A subtraction, a product and this product: less than 4 roundings of 2**-53 each, IEEE 754. A
# bucket counts as full only when it surely is, ...
_SURELY_FULL: Final = 1 - 2.0**-50
# ... so it may hold up to 12 * 2**-53 too much where it is not said to be full: what is taken must
# have come with more certainty than that.
_SURELY_THERE: Final = 1 - 2.0**-48
_LONGER: Final = 1 + 2.0**-50


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """How many may be launched at once, and how many a second after that.

    Attributes:
        per_s: Launches a second in the long run.
        burst: Launches at once, when there were none for a while; 1 spaces them evenly.
    """

    per_s: float
    burst: int

    def __post_init__(self) -> None:
        if type(self.per_s) is bool or not isinstance(self.per_s, int | float):
            self._refuse_rate()
        if not 0 < self.per_s < math.inf:
            self._refuse_rate()
        if type(self.burst) is not int or self.burst < 1:
            msg = (
                f"RateLimit(burst={self.burst!r}) must be a whole number of launches, 1 or more: "
                "pass burst=1 to space them evenly"
            )
            raise UsageError(msg)

    def _refuse_rate(self) -> None:
        msg = (
            f"RateLimit(per_s={self.per_s!r}) must be a number of launches a second, above 0 and "
            "finite: pass rate=None for no limit"
        )
        raise UsageError(msg)


class TokenBucket:
    """Holds `burst` tokens at first, and gets `per_s` of them each second, continuously."""

    def __init__(self, limit: RateLimit) -> None:
        self._per_s = float(limit.per_s)
        self._burst = limit.burst
        self._full_s = -math.inf  # when it was full
        self._taken = 0  # since then

    def __repr__(self) -> str:
        return (
            f"<TokenBucket: {self._burst} at once, {self._per_s:g} a second, "
            f"{self._taken} taken since it was full at {self._full_s:.3f} s>"
        )

    def level(self, now_s: float) -> float:
        """Tokens there are now, from 0 to `burst`."""
        return min(float(self._burst), max(0.0, self._burst - self._taken + self._earned(now_s)))

    def take(self, now_s: float) -> bool:
        """Take a token, if there is one."""
        if not self._is_there(now_s):
            return False
        if self._is_full(now_s):
            self._full_s, self._taken = now_s, 0
        self._taken += 1
        return True

    def due_s(self, now_s: float) -> float:
        """When there is a token: now, or the moment from which `take` succeeds."""
        if self._is_there(now_s):
            return now_s
        wait_s = (self._taken + 1 - self._burst) / self._per_s
        due_s = self._full_s + wait_s
        while not self._is_there(due_s):  # by a rounding; a few steps at most
            wait_s *= _LONGER
            due_s = max(math.nextafter(due_s, math.inf), self._full_s + wait_s)
        return due_s

    def empty(self, now_s: float) -> None:
        """Throw all tokens away: whoever is asked has given them to others."""
        self._full_s, self._taken = now_s, self._burst

    def _earned(self, now_s: float) -> float:
        return self._per_s * max(0.0, now_s - self._full_s)

    def _is_full(self, now_s: float) -> bool:
        return self._taken == 0 or self._earned(now_s) * _SURELY_FULL >= self._taken

    def _is_there(self, now_s: float) -> bool:
        missing = self._taken + 1 - self._burst
        return missing <= 0 or self._earned(now_s) * _SURELY_THERE >= missing
