"""When an attempt that is silent gets a cover: a second attempt at its tasks; first answer wins.

Pure. An invocation of Lambda tells nothing until it answers, and can't be cancelled; a cover that
loses is billed. So covers are for what is *silent* (hung, lost, a very late start), not for what is
merely large: in simulation covers of unequal tasks cost a third more and hardly ever win.

Two kinds of attempts:
- *Sliced*: several tasks under a soft deadline. The worker stops between two of them, so the answer
  is due once start, soft deadline and one more task have passed. Then it is late; it is hung at
  three soft deadlines more. To a start goes what starts take, if there was no idle environment to
  have it, else only what warm ones take on the way: near the end, where all are warm, hangs show
  3 s earlier (N=1000, 0.1 % hangs: 1.33 over ideal, not 1.55).
- *Opaque*: one task, or no soft deadline. It is late beyond what nearly all others took, in units
  of what was expected of it (or in seconds, where nothing was); it is hung at four times the
  median. Quantiles are Kaplan and Meier's (JASA 53, 1958, 457), over attempts that have answered
  and those that still run: the first to answer are the quick ones, and say little about the rest.

A late attempt is covered when no task waits for a place, a hung one at any time; within a budget
each. A late one with several tasks even waits until there are warm environments for all pieces of
its cover, as long as others are on their way that will make room: cut in eight it is done in an
eighth of the time (N=1000: 1.32 over ideal, not 1.42). No attempt has two covers at a time, and
covers have none: the hard stop ends those, and retries take it from there.

Laws, held by tests/test_hedging.py:
  1. no attempt that is covered, settled or a cover itself is ever due;
  2. covers cost no more than their budget, except for the first `min_covers`;
  3. nothing is due before `next_s`, and something is at that time, if place and budget allow it;
  4. what waits for warm environments does so only while an attempt is in flight that is not late.

Work per event is O(log n), but for `_refresh`, which goes through all in flight. It is put off
until each answer bears a few steps of it, but by no more than a tenth of an attempt's time.

Longer than most files here: `Watch` and `Spread` are of no use without the rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fanout.errors import UsageError
from fanout.spread import Spread
from fanout.watch import Live, Watch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanout.watch import Entry

# The soft deadline with a margin for reply and network (found by simulation).
_SOFT_MARGIN: Final = 1.05
# What an environment's first answer takes beyond its run: 8 s until 20 were seen, then their 90th
# percentile and 0.3 s (found by simulation).
_START_S: Final = 8.0
_START_SURVIVAL: Final = 0.1
_START_MARGIN_S: Final = 0.3
# Below 20 answers, a 95th percentile is the largest of them.
_FEWEST: Final = 20
# Where the 99th percentile lies within 1.5 medians, spread is noise: what is late by a third will
# answer long before a cover could, and covers are off, but for what is beyond all noise.
_CALM_SPREAD: Final = 1.5
_CALM_FACTOR: Final = 2.0
# Nothing is late before, whatever the others took, seconds (Spark's floor, TaskSetManager).
_SOONEST_S: Final = 0.1
# `_refresh` at every answer up to so many steps; else once each answer bears so many of them, or
# after so large a part of an attempt's usual time.
_STEPS_AT_ONCE: Final = 32
_STEPS_PER_ANSWER: Final = 2
_LAG: Final = 0.1
# How many overdue attempts to look at that don't fit the budget. Costs grow with age, so the oldest
# fit least; this many younger ones are tried.
_MOST_MISFITS: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class HedgePolicy:
    """When to cover, and what covers may cost.

    Attributes:
        quantile: An opaque attempt is late beyond this quantile of what others took ...
        factor: ... and beyond this many medians. 1.3: 3 % of environments are 2 to 3 times slow,
            others vary by 15 %.
        hang_factor: An opaque attempt is hung at this many medians.
        hang_slices: A sliced attempt is hung this many soft deadlines after it is late.
        share: What covers may cost of what the run is estimated to cost. 0.1: what silent attempts
            need is less than 0.04, what unequal tasks would waste is 0.35.
        hang_share: What covers of hung attempts may cost beyond that, or while tasks wait.
        min_covers: So many covers are in the budget whatever they cost: a tenth of a small run is
            not one attempt.
        split: Pieces to cut a cover into, at most; each goes to a warm environment.
    """

    quantile: float = 0.95
    factor: float = 1.3
    hang_factor: float = 4.0
    hang_slices: float = 3.0
    share: float = 0.10
    hang_share: float = 0.04
    min_covers: int = 2
    split: int = 8

    def __post_init__(self) -> None:
        bounds = {
            "quantile": (0.5, 0.999),
            "factor": (1.0, math.inf),
            "hang_factor": (1.0, math.inf),
            "hang_slices": (0.0, math.inf),
            "share": (0.0, 1.0),
            "hang_share": (0.0, 1.0),
        }
        for name, (least, most) in bounds.items():
            value = getattr(self, name)
            if type(value) not in {int, float} or not least <= value <= most:
                msg = f"HedgePolicy({name}={value!r}) must be a number from {least:g} to {most:g}"
                raise UsageError(msg)
        for name, fewest in (("min_covers", 0), ("split", 1)):
            value = getattr(self, name)
            if type(value) is not int or value < fewest:
                msg = f"HedgePolicy({name}={value!r}) must be a whole number, {fewest} or more"
                raise UsageError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class HedgeCounts:
    """What became of covers so far, for reports.

    Attributes:
        launched: Attempts launched as covers, each piece of a cover being one.
        won: Those that answered while their tasks were still wanted.
        lost_gb_s: What attempts cost that were beaten by another, covers or not, GB-seconds.
    """

    launched: int = 0
    won: int = 0
    lost_gb_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Limits:
    """When opaque attempts are late and hung, in their units; `median` is infinite if unknown."""

    late: float = math.inf
    hung: float = math.inf
    median: float = math.inf


class Starts:
    """What answers take beyond the run of their kernel, by whether their environment was warm.

    Every run has one; those on the same function may share it, so that later ones know.
    """

    def __init__(self) -> None:
        self._spreads = {False: Spread(), True: Spread()}

    def add(self, seconds: float, *, is_warm: bool) -> None:
        """Take note of an answer."""
        self._spreads[is_warm].add(seconds)

    def allowance_s(self, first_s: float, *, is_warm: bool) -> float:
        """What nearly all take; `first_s` while too few were seen."""
        spread = self._spreads[is_warm]
        if spread.count < _FEWEST:
            return first_s
        return spread.quantiles((), (_START_SURVIVAL,))[0] + _START_MARGIN_S


class Hedging:
    """Watches attempts in flight and answers which of them to cover.

    Args:
        policy: When, and at what cost.
        gb: Memory of an environment, GB.
        start_s: The start allowance while nothing is known, seconds.
        starts: What is known of starts; it learns more.
    """

    def __init__(
        self,
        policy: HedgePolicy | None = None,
        *,
        gb: float = 1.0,
        start_s: float = _START_S,
        starts: Starts | None = None,
    ) -> None:
        self._policy = policy or HedgePolicy()
        self._gb = gb
        self._first_start_s = start_s
        self._starts = starts or Starts()
        # From a launch to the kernel, in a new environment and in a warm one, seconds.
        self.start_s, self.warm_s = self._allowances_s()

        self._live: dict[int, Live] = {}
        self._late = Watch()
        self._hung = Watch()
        self._next_mark = 0
        self._due: dict[int, tuple[float, bool]] = {}  # by the last `due`: cost, and from where

        # Of opaque attempts: wall time in units of what was expected, and in seconds.
        self._spreads = {True: Spread(), False: Spread()}
        self._limits = {True: _Limits(), False: _Limits()}
        self._unseen = 0  # values that were added to these since the last refresh
        self._refreshed_s = -math.inf
        self._usual_s = 0.0  # running mean of what attempts take, seconds

        self._copies = 0.0
        self._spent_gb_s = {False: 0.0, True: 0.0}  # by whether it is the reserve
        self._launched = 0
        self._won = 0
        self._lost_gb_s = 0.0

    def __repr__(self) -> str:
        return (
            f"<Hedging: {len(self._live)} in flight, {self._launched} covers launched, "
            f"{self._won} won, {self._lost_gb_s:.3g} GB-s lost>"
        )

    @property
    def counts(self) -> HedgeCounts:
        """What became of covers so far."""
        return HedgeCounts(launched=self._launched, won=self._won, lost_gb_s=self._lost_gb_s)

    # ---- what happened ----

    def launched(
        self,
        attempt: int,
        now_s: float,
        *,
        tasks: int,
        expected_s: float | None = None,
        soft_s: float | None = None,
        covers: int | None = None,
        is_warm: bool = False,
    ) -> None:
        """Take note of a launch.

        Args:
            attempt: Its number.
            now_s: The time, seconds.
            tasks: How many it carries.
            expected_s: How long it should run, seconds, without its start; None if not known.
            soft_s: After how many seconds its worker begins no further task; None: never.
            covers: Of which attempt it is a cover, or a piece of one: one that was due just now.
            is_warm: There was an idle environment to have it.
        """
        live = Live(now_s, expected_s, soft_s, tasks, covers, is_warm)
        self._live[attempt] = live
        if covers is None:
            self._watch(attempt, live)
            return
        covered = self._live[covers]
        cost_gb_s, live.is_reserve = self._due[covers]
        live.copies = min(1.0, tasks / covered.tasks)
        live.cost_gb_s = cost_gb_s * live.copies
        covered.pieces += 1
        self._copies += live.copies
        self._spent_gb_s[live.is_reserve] += live.cost_gb_s
        self._launched += 1

    def settled(self, attempt: int) -> None:
        """Others have done all of its tasks: whatever it still does is for nothing."""
        if (live := self._live.get(attempt)) is not None:
            live.is_settled = True

    def ended(
        self, attempt: int, now_s: float, *, run_s: float | None, is_cold: bool | None = None
    ) -> None:
        """Take note of an end. Tell what it has `settled` after that.

        Args:
            attempt: Its number.
            now_s: The time, seconds.
            run_s: How long it ran, as its worker reports, seconds; None if it brought nothing back.
            is_cold: Whether it was its environment's first.
        """
        if (live := self._take(attempt)) is None:
            return
        wall_s = now_s - live.launched_s
        if live.is_settled:
            self._lost_gb_s += self._gb * (wall_s if run_s is None else run_s)
        elif live.covers is not None and run_s is not None:
            self._won += 1
        if not live.is_sliced:
            spread = self._spreads[bool(live.expected_s)]
            spread.add(wall_s / live.unit_s, is_over=run_s is not None)
            self._unseen += 1
        if run_s is not None:
            self._usual_s += (wall_s - self._usual_s) * (0.1 if self._usual_s else 1.0)
            if is_cold is not None:
                self._starts.add(max(0.0, wall_s - run_s), is_warm=not is_cold)
                self._unseen += 1

    def refused(self, attempt: int) -> None:
        """It never ran: forget it, and what it would have cost."""
        if (live := self._take(attempt)) is not None and live.covers is not None:
            self._copies -= live.copies
            self._spent_gb_s[live.is_reserve] -= live.cost_gb_s
            self._launched -= 1

    # ---- what to do ----

    def due(
        self,
        now_s: float,
        *,
        is_queue_empty: bool,
        free: int,
        warm_idle: int,
        est_gb_s: float,
    ) -> list[int]:
        """Attempts to cover now, the oldest first.

        Ask before places are given to tasks that wait, else hung attempts get none. The covers are
        launched at this time and before asking again, or not at all.

        Args:
            now_s: The time, seconds.
            is_queue_empty: No task waits for a place.
            free: Places there are.
            warm_idle: Environments that have nothing to do.
            est_gb_s: What the whole run is estimated to cost, GB-seconds.
        """
        self._refresh(now_s)
        self._due = {}
        watch = self._late if is_queue_empty else self._hung
        planned = {False: 0.0, True: 0.0}
        looked_at: list[Entry] = []
        while free > len(self._due) and len(looked_at) < len(self._due) + _MOST_MISFITS:
            if (entry := watch.pop(now_s, self._live)) is None:
                break
            looked_at.append(entry)
            live = self._live[entry.attempt]
            if self._waits(live, now_s, warm_idle):
                continue
            elapsed_s = now_s - live.launched_s
            # An opaque task may be as large as it is late, and cost as much again; a sliced attempt
            # that is hung would have answered long ago, so its silence says nothing about its work.
            is_hung = live.launched_s + self._after_s(live)[1] <= now_s  # as it is watched
            cost_s = live.expected_s or elapsed_s
            if not (live.is_sliced and is_hung):
                cost_s = max(cost_s, elapsed_s)
            cost_gb_s = self._gb * cost_s
            pool = self._pool(cost_gb_s, planned, est_gb_s, is_hung, is_queue_empty)
            if pool is not None:
                planned[pool] += cost_gb_s
                self._due[entry.attempt] = cost_gb_s, pool
                warm_idle -= min(self._policy.split, live.tasks)
        watch.put_back(looked_at)  # a cover may come of it, or not
        return list(self._due)

    def next_s(self, now_s: float, *, is_queue_empty: bool) -> float | None:
        """When to ask again, if nothing else happens before, seconds; None: not at all.

        What is due already, and waits for place or budget, waits for something to happen.
        """
        self._refresh(now_s)
        watch = self._late if is_queue_empty else self._hung
        next_s = watch.next_s(now_s, self._live)
        if self._unseen and self._live:
            lag_s = self._refreshed_s + _LAG * self._usual_s
            next_s = lag_s if next_s is None else min(next_s, lag_s)
        return next_s

    def pieces(self, *, tasks: int, warm_idle: int, free: int) -> int:
        """Into how many pieces to cut a cover of so many tasks.

        Over warm environments that have nothing to do; where there is none, it stays whole, since
        each piece would pay for a start.
        """
        return max(1, min(self._policy.split, warm_idle, free, tasks))

    # ---- inside ----

    def _waits(self, live: Live, now_s: float, warm_idle: int) -> bool:
        """Whether there will soon be more environments for its cover."""
        if live.tasks == 1 or warm_idle >= min(self._policy.split, live.tasks):
            return False
        is_hung = live.launched_s + self._after_s(live)[1] <= now_s
        return not is_hung and self._late.next_s(now_s, self._live) is not None

    def _take(self, attempt: int) -> Live | None:
        live = self._live.pop(attempt, None)
        if live is not None and live.covers is not None:
            covered = self._live.get(live.covers)
            if covered is not None:
                covered.pieces -= 1
                if covered.is_coverable:
                    self._watch(live.covers, covered)
        return live

    def _watch(self, attempt: int, live: Live) -> None:
        self._next_mark += 1
        live.mark = self._next_mark
        late_s, hung_s = self._after_s(live)
        self._late.add(live.launched_s + late_s, attempt, live)
        self._hung.add(live.launched_s + hung_s, attempt, live)
        for watch in (self._late, self._hung):
            watch.tidy(self._live)

    def _after_s(self, live: Live) -> tuple[float, float]:
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

    def _pool(
        self,
        cost_gb_s: float,
        planned: dict[bool, float],
        est_gb_s: float,
        is_hung: bool,
        is_queue_empty: bool,
    ) -> bool | None:
        """From where to pay for a cover: the budget (False), the reserve (True), or not at all."""
        policy = self._policy
        # Pieces add up to whole covers only up to rounding.
        if self._copies + len(self._due) + 1 <= policy.min_covers + 1e-6:
            return not is_queue_empty
        for pool, share in ((False, policy.share), (True, policy.hang_share)):
            if not (is_hung if pool else is_queue_empty):
                continue
            if self._spent_gb_s[pool] + planned[pool] + cost_gb_s <= share * est_gb_s:
                return pool
        return None

    def _refresh(self, now_s: float) -> None:
        """Learn from what has ended, if enough has, or some time ago."""
        if not self._unseen:
            return
        if now_s < self._refreshed_s + _LAG * self._usual_s:
            most = max(_STEPS_AT_ONCE, _STEPS_PER_ANSWER * self._unseen)
            if len(self._live) > most or len(self._live) + self._size > most:
                return
        self._unseen = 0
        self._refreshed_s = now_s
        running: dict[bool, list[float]] = {True: [], False: []}
        for live in self._live.values():
            if not live.is_sliced:
                running[bool(live.expected_s)].append((now_s - live.launched_s) / live.unit_s)
        limits = {kind: self._learn(self._spreads[kind], running[kind]) for kind in running}
        start_s, warm_s = self._allowances_s()
        if limits != self._limits or start_s != self.start_s or warm_s != self.warm_s:
            self._limits, self.start_s, self.warm_s = limits, start_s, warm_s
            for attempt, live in self._live.items():
                if live.is_coverable:
                    self._watch(attempt, live)

    @property
    def _size(self) -> int:
        return sum(spread.size for spread in self._spreads.values())

    def _allowances_s(self) -> tuple[float, float]:
        start_s = self._starts.allowance_s(self._first_start_s, is_warm=False)
        return start_s, min(start_s, self._starts.allowance_s(self._first_start_s, is_warm=True))

    def _learn(self, spread: Spread, running: Sequence[float]) -> _Limits:
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
