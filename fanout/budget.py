"""What a run may cost, in GB-seconds: nothing is launched whose worst case might exceed it.

Pure. An attempt reserves its worst case when it is launched and is settled at what it ran when it
has ended. An invocation of Lambda can't be cancelled, so an attempt that nobody wants any more
stays reserved until it answers, and one of which nothing was heard is settled at its worst case.

Laws, held by tests/test_budget.py:
  1. spent + reserved never exceed the limit;
  2. so the bill does not, as long as no attempt runs longer than its worst case. The worker sees to
     that, which ends it (`hard_stops`); where it can't, as its environment hangs, the timeout of
     the function does: what runs on meanwhile is reserved bit by bit, and may exceed the limit.
     For a container image the worst case includes Init, which is billed, too.

It counts in whole milliseconds of one memory size, so both laws hold exactly and not but for
rounding.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from fanout.errors import UsageError

# Lambda bills durations in milliseconds, rounded up (aws.amazon.com/lambda/pricing, 2026-11).
_MS_PER_S: Final = 1000
# What runs on beyond its worst case is reserved for so much longer each time, seconds.
_MORE_S: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Billed:
    """What an attempt may cost.

    Attributes:
        gb: Memory of an environment, GB (1024 MB).
        timeout_s: When the service ends it, seconds.
        init_s: For how long its start is billed at worst, before that.
        larger: The same of the function for what is escalated; None if there is none.
    """

    gb: float
    timeout_s: float
    init_s: float = 0.0
    larger: Billed | None = None

    def worst_s(self, ends_s: float | None = None) -> float:
        """For how long it is billed at worst, if its process ends itself after so long."""
        within_s = self.timeout_s if ends_s is None else min(self.timeout_s, ends_s)
        return self.init_s + within_s


class Budget:
    """Keeps the books of what a run has cost and may still cost.

    Args:
        max_gb_s: What the run may cost, GB-seconds.
        gb: Memory of an environment, GB (1024 MB).
        spent_gb_s: What it has cost before, GB-seconds.
    """

    def __init__(self, max_gb_s: float, gb: float, *, spent_gb_s: float = 0.0) -> None:
        for name, value in (("max_gb_s", max_gb_s), ("gb", gb)):
            if isinstance(value, bool) or not isinstance(value, int | float):
                msg = f"{name}={value!r} must be a number"
                raise UsageError(msg)
            if not 0 < value < math.inf:
                msg = f"{name}={value!r} must be more than 0, and finite"
                raise UsageError(msg)
        self.max_gb_s = max_gb_s
        self._gb_s_per_ms = Fraction(gb) / _MS_PER_S
        self._max_ms = int(Fraction(max_gb_s) / self._gb_s_per_ms)
        self._spent_ms = math.ceil(Fraction(spent_gb_s) / self._gb_s_per_ms)
        self._reserved_ms = 0
        self._reservations: dict[int, int] = {}  # by attempt, milliseconds
        # When attempts should have ended: (when, attempt, the most that it may take).
        self._ends: list[tuple[float, int, int]] = []

    def __repr__(self) -> str:
        return (
            f"<Budget of {self.max_gb_s:g} GB-s: {self.spent_gb_s:g} spent, "
            f"{self.reserved_gb_s:g} reserved for {len(self._reservations)} attempts>"
        )

    @property
    def spent_gb_s(self) -> float:
        """What attempts that have ended cost, GB-seconds."""
        return self._gb_s(self._spent_ms)

    @property
    def reserved_gb_s(self) -> float:
        """What those in flight cost at worst, GB-seconds."""
        return self._gb_s(self._reserved_ms)

    @property
    def left_gb_s(self) -> float:
        """What may still be reserved, GB-seconds."""
        return self._gb_s(self._left_ms)

    def gb_s(self, seconds: float) -> float:
        """What so many seconds of an environment are billed as, GB-seconds."""
        return self._gb_s(_billed_ms(seconds))

    def admits(self, worst_s: float) -> bool:
        """Whether an attempt that is billed for `worst_s` seconds at worst may be launched now."""
        return _billed_ms(worst_s) <= self._left_ms

    def is_hopeless(self, worst_s: float) -> bool:
        """Whether such an attempt will not be admitted, however little those in flight cost.

        Then nothing is left to wait for but their answers. While nothing is in flight, this is the
        opposite of `admits`.
        """
        return self._spent_ms + _billed_ms(worst_s) > self._max_ms

    def reserve(
        self, attempt: int, worst_s: float, *, now_s: float = 0.0, most_s: float | None = None
    ) -> None:
        """Launch an attempt that is admitted.

        Args:
            attempt: Its number.
            worst_s: For how long it is billed at worst, seconds.
            now_s: When.
            most_s: For how long if it does not end itself; None: that can't be.
        """
        assert attempt not in self._reservations, "an attempt is launched once"
        assert self.admits(worst_s), "what is not admitted is not launched"
        self._reservations[attempt] = _billed_ms(worst_s)
        self._reserved_ms += _billed_ms(worst_s)
        if most_s is not None and most_s > worst_s:
            heapq.heappush(self._ends, (now_s + worst_s, attempt, _billed_ms(most_s)))
            if len(self._ends) > 2 * len(self._reservations) + 64:
                self._ends = [end for end in self._ends if end[1] in self._reservations]
                heapq.heapify(self._ends)

    def tick(self, now_s: float) -> None:
        """Reserve more for what should have ended, and has not."""
        while self._ends and self._ends[0][0] <= now_s:
            ends_s, attempt, most_ms = heapq.heappop(self._ends)
            reserved_ms = self._reservations.get(attempt)
            if reserved_ms is None:
                continue
            more_ms = min(most_ms - reserved_ms, _billed_ms(_MORE_S))
            self._reservations[attempt] += more_ms
            self._reserved_ms += more_ms
            if reserved_ms + more_ms < most_ms:
                heapq.heappush(self._ends, (ends_s + _MORE_S, attempt, most_ms))

    def settle(self, attempt: int, ran_s: float | None) -> None:
        """End an attempt.

        Args:
            attempt: Its number; one that holds no reservation is not ours, and costs nothing.
            ran_s: What it is billed for, seconds; 0 if it never ran; None if that is not known, so
                that the worst is assumed.
        """
        reserved_ms = self._reservations.pop(attempt, None)
        if reserved_ms is None:
            return
        self._reserved_ms -= reserved_ms
        self._spent_ms += reserved_ms if ran_s is None else _billed_ms(ran_s)

    @property
    def _left_ms(self) -> int:
        return self._max_ms - self._spent_ms - self._reserved_ms

    def _gb_s(self, ms: int) -> float:
        return float(ms * self._gb_s_per_ms)


def _billed_ms(seconds: float) -> int:
    return math.ceil(seconds * _MS_PER_S)
