"""After how long an attempt that is silent is late, and hung; learnt from those that have ended.

Pure; for `hedging`. Two kinds of attempts:
- *Sliced*: several tasks under a soft deadline. The worker stops between two of them, so the answer
  is due once start, soft deadline and one more task have passed. Then it is late; it is hung at
  three soft deadlines more. To a start goes what starts take, if there was no idle environment to
  have it, else only what warm ones take on the way: near the end, where all are warm, hangs show
  3 s earlier (N=1000, 0.1 % hangs: 1.33 over ideal, not 1.55).
- *Opaque*: one task, or no soft deadline. It is late beyond what nearly all others took, in units
  of what was expected of it (or in seconds, where nothing was); it is hung at four times the
  median. Quantiles are Kaplan and Meier's (JASA 53, 1958, 457), over attempts that have answered
  and those that still run: the first to answer are the quick ones, and say little about the rest.

To learn takes a look at all in flight, so it is put off until each answer bears a few steps of it,
but by no more than a tenth of an attempt's time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fanout.spread import Spread

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fanout.hedge_policy import HedgePolicy
    from fanout.watch import Live

# What an environment's first answer takes beyond its run: 8 s until 20 were seen, then their 90th
# percentile and 0.3 s (found by simulation).
START_S: Final = 8.0
_START_SURVIVAL: Final = 0.1
_START_MARGIN_S: Final = 0.3
# The soft deadline with a margin for reply and network (found by simulation).
_SOFT_MARGIN: Final = 1.05
# So many answers stand for all of an earlier process, of each kind: once a function starts more
# slowly, five new ones show it.
_KEPT: Final = 40
# Below 20 answers, a 95th percentile is the largest of them.
_FEWEST: Final = 20
# Where the 99th percentile lies within 1.5 medians, spread is noise: what is late by a third will
# answer long before a cover could, and covers are off, but for what is beyond all noise.
_CALM_SPREAD: Final = 1.5
_CALM_FACTOR: Final = 2.0
# Nothing is late before, whatever the others took, seconds (Spark's floor, TaskSetManager).
_SOONEST_S: Final = 0.1
# `learn` does so at every answer up to so many steps; else once each answer bears so many of them,
# or after so large a part of an attempt's usual time.
_STEPS_AT_ONCE: Final = 32
_STEPS_PER_ANSWER: Final = 2
_LAG: Final = 0.1


@dataclass(frozen=True, slots=True)
class _Limits:
    """When opaque attempts are late and hung, in their units; `median` is infinite if unknown."""

    late: float = math.inf
    hung: float = math.inf
    median: float = math.inf


class Starts:
    """What answers take beyond the run of their kernel, by whether their environment was warm.

    Every run has one; those on the same function may share it, so that later ones know.

    Args:
        cold: Answers of environments that were new, as bins of a `Spread`, seen before.
        warm: The others.

    Attributes:
        seen: How many answers it has seen itself.
    """

    def __init__(
        self, cold: Mapping[int, int] | None = None, warm: Mapping[int, int] | None = None
    ) -> None:
        self._spreads = {False: Spread.of(cold or {}), True: Spread.of(warm or {})}
        self.seen = 0

    def add(self, seconds: float, *, is_warm: bool) -> None:
        """Take note of an answer."""
        self._spreads[is_warm].add(seconds)
        self.seen += 1

    def thinned(self, *, is_warm: bool) -> dict[int, int]:
        """What a later process may begin with: few, so that what it sees itself soon counts."""
        return self._spreads[is_warm].thinned(_KEPT)

    def allowance_s(self, first_s: float, *, is_warm: bool) -> float:
        """What nearly all take; `first_s` while too few were seen."""
        spread = self._spreads[is_warm]
        if spread.count < _FEWEST:
            return first_s
        return spread.quantiles((), (_START_SURVIVAL,))[0] + _START_MARGIN_S


class Lateness:
    """Tells after how long an attempt is late, and hung.

    Args:
        policy: How far beyond what others took that is.
        start_s: The start allowance while nothing is known, seconds.
        starts: What is known of starts; it learns more.

    Attributes:
        start_s: From a launch to the kernel in a new environment, seconds.
        warm_s: The same in a warm one.
    """

    def __init__(
        self, policy: HedgePolicy, *, start_s: float = START_S, starts: Starts | None = None
    ) -> None:
        self._policy = policy
        self._first_start_s = start_s
        self._starts = starts or Starts()
        self.start_s, self.warm_s = self._allowances_s()
        # Of opaque attempts: wall time in units of what was expected, and in seconds.
        self._spreads = {True: Spread(), False: Spread()}
        self._limits = {True: _Limits(), False: _Limits()}
        self._unseen = 0  # values that were added to these since it learnt from them
        self._learnt_s = -math.inf  # when that was
        self._usual_s = 0.0  # running mean of what attempts take, seconds

    def after_s(self, live: Live) -> tuple[float, float]:
        """After how many seconds an attempt is late, and hung: never before it is late."""
        if live.is_sliced:
            assert live.soft_s is not None, "what is sliced has a soft deadline"
            task_s = (live.expected_s or live.soft_s) / live.tasks  # it may just have begun one
            start_s = self.warm_s if live.is_warm else self.start_s
            late_s = _SOFT_MARGIN * live.soft_s + task_s + start_s
            return late_s, late_s + self._policy.hang_slices * live.soft_s
        limits, unit_s = self._limits[bool(live.expected_s)], live.unit_s
        if limits.median < math.inf:
            # A start that takes its time is no hang, however short the tasks are.
            hung_s = max(limits.hung * unit_s, limits.median * unit_s + self.start_s)
        elif live.expected_s:
            hung_s = self._policy.hang_factor * unit_s + self.start_s
        else:
            hung_s = math.inf
        return min(max(limits.late * unit_s, _SOONEST_S), hung_s), hung_s

    def usual_s(self, live: Live) -> float | None:
        """How long it should take: what was expected, or less if that was far too much."""
        if not live.expected_s:
            return None
        return live.expected_s * min(1.0, self._limits[True].median)

    def ended(
        self, live: Live, wall_s: float, *, run_s: float | None, is_cold: bool | None
    ) -> None:
        """Take note of an end, to learn from it later.

        Args:
            live: The attempt.
            wall_s: The time since its launch, seconds.
            run_s: How long it ran, as its worker reports, seconds; None if it brought nothing back.
            is_cold: Whether it was its environment's first.
        """
        if not live.is_sliced:
            spread = self._spreads[bool(live.expected_s)]
            spread.add(wall_s / live.unit_s, is_over=run_s is not None)
            self._unseen += 1
        if run_s is not None:
            self._usual_s += (wall_s - self._usual_s) * (0.1 if self._usual_s else 1.0)
            if is_cold is not None:
                self._starts.add(max(0.0, wall_s - run_s), is_warm=not is_cold)
                self._unseen += 1

    @property
    def learns_s(self) -> float | None:
        """When it will learn from what has ended, at the latest; None if it has."""
        return self._learnt_s + _LAG * self._usual_s if self._unseen else None

    def learn(self, now_s: float, lives: Mapping[int, Live]) -> bool:
        """Learn from what has ended, if enough has, or some time ago.

        Args:
            now_s: The time, seconds.
            lives: All attempts in flight.

        Returns:
            Whether `after_s` tells anything else since.
        """
        if not self._unseen:
            return False
        if now_s < self._learnt_s + _LAG * self._usual_s:
            most = max(_STEPS_AT_ONCE, _STEPS_PER_ANSWER * self._unseen)
            if len(lives) > most or len(lives) + self._size > most:
                return False
        self._unseen = 0
        self._learnt_s = now_s
        running: dict[bool, list[float]] = {True: [], False: []}
        for live in lives.values():
            if not live.is_sliced:
                running[bool(live.expected_s)].append((now_s - live.launched_s) / live.unit_s)
        limits = {kind: self._limits_of(self._spreads[kind], running[kind]) for kind in running}
        start_s, warm_s = self._allowances_s()
        if limits == self._limits and start_s == self.start_s and warm_s == self.warm_s:
            return False
        self._limits, self.start_s, self.warm_s = limits, start_s, warm_s
        return True

    # ---- inside ----

    @property
    def _size(self) -> int:
        return sum(spread.size for spread in self._spreads.values())

    def _allowances_s(self) -> tuple[float, float]:
        start_s = self._starts.allowance_s(self._first_start_s, is_warm=False)
        return start_s, min(start_s, self._starts.allowance_s(self._first_start_s, is_warm=True))

    def _limits_of(self, spread: Spread, running: Sequence[float]) -> _Limits:
        policy = self._policy
        if not spread.count:
            return _Limits()
        median, high, q99 = spread.quantiles(running, (0.5, 1.0 - policy.quantile, 0.01))
        late = math.inf
        if spread.count >= _FEWEST:
            is_calm = q99 <= _CALM_SPREAD * median
            factor = max(policy.factor, _CALM_FACTOR) if is_calm else policy.factor
            late = max(high, factor * median)
        hung = policy.hang_factor * median
        if q99 < math.inf:  # what one in a hundred takes is not hung
            hung = max(hung, q99)
        return _Limits(late, hung, median)
