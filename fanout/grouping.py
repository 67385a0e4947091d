"""How many tasks an attempt carries, how many attempts there are, and how long one should take.

Pure. An attempt has a fixed price (a round trip: on this machine some 100 microseconds, on Lambda
some 25 ms and a place in the client's launches); a group of small tasks pays it once. The size
follows the measured time of a task: groups are long against that price, short against a run, and
get shorter towards its end, so that all workers end together.

With R seconds of work that no attempt has yet, P environments and r launches a second, a group
takes R/2P seconds, but at least as long as it takes the client to launch P of them (factoring:
Hummel et al. 1992).

P is the least of two, for a run of W seconds:
- sqrt(W r)/2: with sqrt(W r) the last environment would start when the first has ended; half of
  that costs no more than 5 % of time.
- W/5s, where s is what an environment's start is billed: with x W/s of them the run takes
  s + s/x and costs W + x W, so that beyond x = 1/5 one percent more money saves less than 5 % of
  time. 100 chunks of 10 s cost 4 % more than on 100 environments (they were 38 %, and 100 % with a
  fast client). A few environments may always be started: what they cost is nothing.

All that isn't arithmetic was found by simulation (`tests/bench/policies.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from fanout.errors import UsageError

# No deadline is nearer than this to what is expected: below it, the clock of the system and of the
# wire say more than the task.
_LEAST_SLACK_S: Final = 0.2
# Environments end within this factor of what was expected, unless they are slow or their tasks are
# unequal. Found by simulation: 1.1 sends too much again, 1.5 waits too long.
_SLACK: Final = 1.25
# One percent more money has to save so many percent of time; see above.
_WORTH: Final = 5.0
# So many environments are started for any run that could use them: at 1769 MB and 2 s of Init
# these cost a fifth of a cent.
_FEW: Final = 32
# A fleet stays as it is while it should be this much larger or smaller at most: the time of a task
# is never known exactly, and an environment that is started late hardly pays.
_STEADY: Final = 1.25
# The mean time of a task is one over half a fleet's answers at least. Environments answer in the
# order of their speed, so that the newest few tell of the quick ones, and then of the slow ones:
# with a memory of ten, groups were too small, then too large (N=10,000: 1.16 over ideal, not 1.05).
_MEMORY: Final = 0.5
# Groups are made anew when what is left would fill less than this part of those that were planned:
# what comes back of slow environments goes to all of them, not in one piece.
_VOID: Final = 0.25
# No client is taken to be slower than this part of what the policy assumes because of an earlier
# run: with few environments its rate would never be measured again.
_SLOWEST: Final = 0.1
# They are also made anew when a task takes so many times what they were made by: that came from a
# map that had other chunks, or ran elsewhere.
_WRONG: Final = 2.0
# What is sent a second time is cut up if it takes so many times the shortest group. Only where the
# time of a task was thought to be far shorter than it is, it does (1000 tasks of 10 s, thought to
# take 0.01 s: 83 s, not 384; 63 s if nothing is thought).
_LONG: Final = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPolicy:
    """Bounds on the number of tasks in one attempt; the defaults are for workers on this machine.

    Attributes:
        least_s: How long a group should keep a worker busy at least, seconds. A backend's attempts
            cost it time however small they are; 20 to 500 times that price is a good target.
        most_s: How long at most.
        tail_s: Near the end, when there isn't so much left for everybody: how short a group may be.
        tail_shares: Near the end each worker gets its share in so many groups.
        max_tasks: Most tasks in one attempt; bounds what a crash repeats and how long the
            client is busy with one answer.
        max_bytes: Most payload in one attempt, request and reply together, as far as the average
            so far can tell.
        max_ahead_bytes: Most payload to have pulled from the input beyond what is being worked on,
            as far as the average so far can tell.
        growth: A group is at most this many times as large as the largest that has answered: the
            first measurements are few, and tasks may be unequal.
        newest: Weight of the newest attempt in the running means, at most.
        probes: While nothing is known of a task, so many go ahead, each alone, and the others wait
            until half of them have answered; None: as many as may be in flight.
        launches_per_s: What the client can do, until it is measured.
        start_s: What the start of an environment is billed, seconds.
        fixed: Use exactly this many tasks instead (`group=`), fewer only at the end of the input.
    """

    least_s: float = 0.05
    most_s: float = 0.05
    tail_s: float = 0.0
    tail_shares: int = 2
    max_tasks: int = 2048
    max_bytes: int = 4 * 2**20
    max_ahead_bytes: int = 256 * 2**20
    growth: int = 4
    newest: float = 0.3
    probes: int | None = None
    launches_per_s: float = math.inf
    start_s: float = 0.0
    fixed: int | None = None

    def __post_init__(self) -> None:
        if self.fixed is not None and (type(self.fixed) is not int or self.fixed < 1):
            msg = f"group={self.fixed!r} must be a whole number of tasks, 1 or more"
            raise UsageError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What is known of a kernel's tasks from an earlier map.

    Attributes:
        unit_s: Time of a task, or of a unit of its weight, seconds.
        task_bytes: Payload of a task, request and reply together.
    """

    unit_s: float
    task_bytes: float = 0.0


class Grouping:
    """Learns the time and size of a task, and answers how many to send at once.

    Amounts are in units of weight: a task has one, unless the caller says otherwise (`weight=`).

    Args:
        policy: Bounds.
        timeout_s: What a task may take.
        estimate: What an earlier map has found.
        launches_per_s: What the client could do then; None if that was not measured.

    Attributes:
        measured_tasks: How many tasks it has learnt from, its estimate aside.
        measured_launches_per_s: What the client can do, if it was measured since.
    """

    def __init__(
        self,
        policy: GroupPolicy,
        *,
        timeout_s: float | None = None,
        estimate: Estimate | None = None,
        launches_per_s: float | None = None,
    ) -> None:
        self._policy = policy
        self._timeout_s = timeout_s
        self._answers = 0
        self._largest = 0.0
        self._unit_s = 0.0
        self._task_bytes = 0.0
        self._launches_per_s = policy.launches_per_s
        if launches_per_s is not None:
            self._launches_per_s *= min(max(launches_per_s / policy.launches_per_s, _SLOWEST), 1.0)
        self.measured_tasks = 0
        self.measured_launches_per_s: float | None = None
        self._wanted = 0  # the fleet, when last asked
        self._fleet = 1  # attempts in flight at once, when last told
        self._batch = 0  # groups to come that are as large as the one before
        self._batch_amount = 0.0
        self._batch_unit_s = 0.0  # by which it was made
        if estimate is not None:
            self._answers, self._largest = 1, math.inf
            self._unit_s, self._task_bytes = estimate.unit_s, estimate.task_bytes

    def __repr__(self) -> str:
        return f"<Grouping: {self._unit_s:.3g} s, {self._task_bytes:.3g} B a task>"

    @property
    def probes(self) -> int:
        """How many tasks go ahead alone."""
        return self._policy.probes or 0

    @property
    def most_tasks(self) -> int:
        """Most tasks in one attempt."""
        return self._policy.max_tasks if self._policy.fixed is None else self._policy.fixed

    @property
    def is_fixed(self) -> bool:
        """Whether the caller says how many tasks go together."""
        return self._policy.fixed is not None

    @property
    def hears_starts(self) -> bool:
        """Whether it wants to know when attempts start, to measure the client's rate."""
        return math.isfinite(self._policy.launches_per_s)

    @property
    def is_probing(self) -> bool:
        """Whether too little is known to send more than single tasks."""
        if self._policy.fixed is not None or self._policy.probes is None:
            return False
        return self._largest == 0 or (
            math.isfinite(self._largest) and self._answers < self._policy.probes // 2
        )

    @property
    def estimate(self) -> Estimate | None:
        """What a later map of the same kernel may begin with."""
        if not self._answers:
            return None
        return Estimate(unit_s=self._unit_s, task_bytes=self._task_bytes)

    def observe(
        self, *, tasks: int, busy_s: float, payload_bytes: int, amount: float | None = None
    ) -> None:
        """Learn from an attempt that kept its worker busy for `busy_s` seconds.

        Args:
            tasks: How many it has done.
            busy_s: For how long.
            payload_bytes: Request and reply together.
            amount: The weight of these tasks, if it is not 1 for each.
        """
        done = tasks if amount is None else amount
        newest = min(self._policy.newest, 1 / (_MEMORY * self._fleet))
        weight = max(newest, 1 / (self._answers + 1))
        self._unit_s += weight * (busy_s / done - self._unit_s)
        self._task_bytes += weight * (payload_bytes / tasks - self._task_bytes)
        self._largest = max(self._largest, done)
        self._answers += 1
        self.measured_tasks += tasks

    def launched(self, count: int, took_s: float) -> None:
        """Learn the client's rate from so many launches in a row."""
        if took_s > 0:
            self._launches_per_s = min(count / took_s, self._policy.launches_per_s)
            self.measured_launches_per_s = self._launches_per_s

    def fleet(self, amount: float | None, limit: int, *, warm: int = 0) -> int:
        """How many environments a run should use at once.

        Args:
            amount: Of the whole run; None while it is not known.
            limit: Most that there can be.
            warm: How many there are, which cost no start.
        """
        if amount is None or not self._answers or math.isinf(self._launches_per_s):
            return limit
        work_s = self._unit_s * amount
        wanted = math.sqrt(work_s * self._launches_per_s) / 2
        if self._policy.start_s > 0:
            wanted = min(wanted, max(_FEW, warm, work_s / (_WORTH * self._policy.start_s)))
        fleet = max(1, min(limit, math.ceil(min(wanted, limit))))
        if amount > fleet and self._unit_s >= self._policy.least_s:
            # Tasks go one by one, and none shall go round once more for a few: 1000 of them on 800
            # environments take as long as on 500 (opaque, N=1000: 1.95 over ideal, not 2.09).
            fleet = math.ceil(amount / max(math.ceil(amount / limit), int(amount / fleet)))
        if not fleet / _STEADY <= self._wanted <= min(fleet * _STEADY, limit):
            self._wanted = fleet
        return self._wanted

    def size(self, *, remaining: float | None = None, fleet: int = 1) -> float:
        """How much to put into the next attempt; at least one task goes in any case.

        Groups go in batches of equal ones: each batch takes half of what is left, the last one all
        of it, so that all end together. They are equal in amount, not in time: what is known of the
        time changes while a batch goes out.

        Args:
            remaining: Not yet sent, where that is known.
            fleet: Attempts in flight at once.
        """
        self._fleet = fleet
        if self._policy.fixed is not None:
            return self._policy.fixed
        if not self._answers or self.is_probing:
            return 1
        planned = _VOID * self._batch * self._batch_amount
        is_void = remaining is not None and remaining < planned
        if self._batch <= 0 or is_void or self._unit_s > _WRONG * self._batch_unit_s:
            self._batch, self._batch_amount = self._next_batch(remaining, fleet)
            self._batch_unit_s = self._unit_s
        self._batch -= 1
        return max(min(self._most, self._batch_amount), 1)

    @property
    def _most(self) -> float:
        """The largest group for reasons other than time."""
        most: float = min(self._policy.max_tasks, self._largest * self._policy.growth)
        if self._task_bytes > 0:
            most = min(most, self._policy.max_bytes / self._task_bytes)
        return most

    def _next_batch(self, remaining: float | None, fleet: int) -> tuple[int, float]:
        """How many groups are to be equal, and how much to put into each."""
        policy = self._policy
        most_s = policy.most_s
        if self._timeout_s is not None:
            # A timeout is for one task; a group must not come near it by its number alone.
            most_s = min(most_s, self._timeout_s / 4)
        least = self._amount(min(max(policy.least_s, fleet / self._launches_per_s), most_s))
        if remaining is None:
            return 1, least
        most = self._amount(most_s)
        shares = policy.tail_shares * fleet
        if remaining >= shares * least:
            return fleet, min(max(remaining / (2 * fleet), least), most)
        share: float = math.ceil(remaining / shares)
        if self._unit_s > 0:
            share = max(share, self._amount(policy.tail_s))
        return shares, min(share, most)

    def _amount(self, seconds: float) -> float:
        """How much takes so long; infinity where that is too much to count."""
        return seconds / self._unit_s if self._unit_s > 0 else math.inf

    def expected_s(self, amount: float) -> float | None:
        """How long a worker should be busy with so much; None if nothing is known."""
        return self._unit_s * amount if self._answers and not self.is_probing else None

    def parts(self, amount: float) -> int:
        """Into how many to cut what is sent a second time: it was sized when less was known.

        One, unless it takes far longer than was thought.
        """
        least = self._amount(self._policy.least_s)
        if self.is_fixed or amount <= max(1.0, _LONG * least):
            return 1
        return math.ceil(amount / least)

    def soft_s(self, amount: float) -> float | None:
        """After how long it should rather give back what is left; None if nothing is known."""
        expected_s = self.expected_s(amount)
        if expected_s is None:
            return None
        return max(_SLACK * expected_s, expected_s + _LEAST_SLACK_S)

    def window(self, limit: int, remaining: float | None = None) -> int:
        """Most tasks to pull from the input that are not yet consumed.

        Enough for each of the `limit` attempts in flight and for two more after it, unless the
        chunks are so large that a task for each attempt has to do.

        Args:
            limit: Most attempts in flight at once.
            remaining: The amount that is not sent yet, where that is known: groups are as large.
        """
        size = 1
        if self._policy.fixed is not None:
            size = self._policy.fixed
        elif self._answers and not self.is_probing:
            _, amount = self._next_batch(remaining, limit)
            size = int(max(1, min(self._most, amount)))
        most = limit * (2 * size + 1)
        if self._policy.fixed is None and self._task_bytes > 0:
            ahead = self._policy.max_ahead_bytes / self._task_bytes
            most = int(min(most, limit * size + ahead))
        return most
