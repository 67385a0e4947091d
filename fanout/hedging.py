"""When an attempt that is silent gets a cover: a second attempt at its tasks; first answer wins.

Pure. An invocation of Lambda tells nothing until it answers, and can't be cancelled; a cover that
loses is billed. So covers are for what is *silent* (hung, lost, a very late start), not for what is
merely large: in simulation covers of unequal tasks cost a third more and hardly ever win.

`lateness` tells after how long one is late, and hung. A late one is covered when no task waits
for a place, a hung one at any time; within a budget each. A late one with several tasks even waits
until there are warm environments for all pieces of its cover, as long as others are on their way
that will make room: cut in eight it is done in an eighth of the time (N=1000: 1.32 over ideal, not
1.42). No attempt has two covers at a time, and covers have none: the hard stop ends those, and
retries take it from there.

Laws, held by tests/test_hedging_laws.py:
  1. no attempt that is covered, settled or a cover itself is ever due;
  2. covers cost no more than their budget, except for the first `min_covers`;
  3. nothing is due before `next_s`, and something is at that time, if place and budget allow it;
  4. what waits for warm environments does so only while an attempt is in flight that is not late.

Work per event is O(log n), but when something was learnt: all in flight are watched anew then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fanout.hedge_policy import HedgePolicy
from fanout.lateness import START_S, Lateness
from fanout.watch import Live, Watch

if TYPE_CHECKING:
    from fanout.lateness import Starts
    from fanout.watch import Entry

# How many overdue attempts to look at that don't fit the budget. Costs grow with age, so the oldest
# fit least; this many younger ones are tried.
_MOST_MISFITS: Final = 16


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
        start_s: float = START_S,
        starts: Starts | None = None,
    ) -> None:
        self._policy = policy or HedgePolicy()
        self._gb = gb
        self._lateness = Lateness(self._policy, start_s=start_s, starts=starts)
        self._live: dict[int, Live] = {}
        self._late = Watch()
        self._hung = Watch()
        self._next_mark = 0

        self._due: dict[int, tuple[float, bool]] = {}  # by the last `due`: cost, and from where
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
        self._lateness.ended(live, wall_s, run_s=run_s, is_cold=is_cold)

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
        if self._lateness.learn(now_s, self._live):
            self._watch_anew()
        self._due = {}
        watch = self._late if is_queue_empty else self._hung
        planned = {False: 0.0, True: 0.0}
        looked_at: list[Entry] = []
        while free > len(self._due) and len(looked_at) < len(self._due) + _MOST_MISFITS:
            if (entry := watch.pop(now_s, self._live)) is None:
                break
            looked_at.append(entry)
            live = self._live[entry.attempt]
            is_hung = live.launched_s + self._lateness.after_s(live)[1] <= now_s  # as it is watched
            if not is_hung and self._waits(live, now_s, warm_idle):
                continue
            elapsed_s = now_s - live.launched_s
            # An opaque task may be as large as it is late, and cost as much again; a sliced attempt
            # that is hung would have answered long ago, so its silence says nothing about its work.
            cost_s = self._lateness.usual_s(live) or elapsed_s
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
        if self._lateness.learn(now_s, self._live):
            self._watch_anew()
        watch = self._late if is_queue_empty else self._hung
        next_s = watch.next_s(now_s, self._live)
        if self._live and (learns_s := self._lateness.learns_s) is not None:
            next_s = learns_s if next_s is None else min(next_s, learns_s)
        return next_s

    def pieces(self, *, tasks: int, warm_idle: int, free: int) -> int:
        """Into how many pieces to cut a cover of so many tasks.

        Over warm environments that have nothing to do; where there is none, it stays whole, since
        each piece would pay for a start.
        """
        return max(1, min(self._policy.split, warm_idle, free, tasks))

    # ---- inside ----

    def _waits(self, live: Live, now_s: float, warm_idle: int) -> bool:
        """Whether there will soon be more environments for the cover of a late one."""
        if live.tasks == 1 or warm_idle >= min(self._policy.split, live.tasks):
            return False
        return self._late.next_s(now_s, self._live) is not None

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
        late_s, hung_s = self._lateness.after_s(live)
        self._late.add(live.launched_s + late_s, attempt, self._live)
        self._hung.add(live.launched_s + hung_s, attempt, self._live)

    def _watch_anew(self) -> None:
        """Something was learnt: all may be late sooner, or not so soon."""
        for attempt, live in self._live.items():
            if live.is_coverable:
                self._watch(attempt, live)

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
