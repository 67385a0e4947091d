"""How many tasks an attempt carries, so that nobody has to choose a chunk size.

Pure. An attempt has a fixed price (a round trip, on this machine some 100 microseconds); a group of
small tasks pays it once. The size follows the measured time per task: the group shall keep a worker
busy for `target_s`, long against that price, short against a run, so that groups end evenly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from fanout.errors import UsageError

# Weight of the newest attempt in the running means: old ones fade within about ten attempts, so a
# first task that read a file, or filled a cache, is soon forgotten.
_NEWEST = 0.3
# A group is at most this many times as large as the largest that has answered: the first
# measurements are few, and tasks may be unequal.
_GROWTH = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPolicy:
    """Bounds on the number of tasks in one attempt.

    Attributes:
        target_s: How long a group should keep a worker busy, seconds. A backend's attempts cost it
            time however small they are; 20 to 500 times that price is a good target.
        max_tasks: Most tasks in one attempt; bounds what a crash repeats and how long the
            client is busy with one answer.
        max_bytes: Most payload in one attempt, request and reply together, as far as the average
            so far can tell.
        max_ahead_bytes: Most payload to have pulled from the input beyond what is being worked on,
            as far as the average so far can tell.
        fixed: Use exactly this many instead (`group=`), fewer only at the end of the input.
    """

    target_s: float = 0.05
    max_tasks: int = 2048
    max_bytes: int = 4 * 2**20
    max_ahead_bytes: int = 256 * 2**20
    fixed: int | None = None

    def __post_init__(self) -> None:
        if self.fixed is not None and (type(self.fixed) is not int or self.fixed < 1):
            msg = f"group={self.fixed!r} must be a whole number of tasks, 1 or more"
            raise UsageError(msg)


class Grouping:
    """Learns the time and size of a task, and answers how many to send at once."""

    def __init__(self, policy: GroupPolicy, *, timeout_s: float | None = None) -> None:
        self._policy = policy
        self._timeout_s = timeout_s
        self._largest = 0
        self._task_s = 0.0
        self._task_bytes = 0.0

    def __repr__(self) -> str:
        return f"<Grouping of {self.size()}: {self._task_s:.3g} s, {self._task_bytes:.3g} B a task>"

    def observe(self, *, tasks: int, busy_s: float, payload_bytes: int) -> None:
        """Learn from an attempt of `tasks` tasks that kept its worker busy for `busy_s` seconds."""
        weight = _NEWEST if self._largest else 1.0
        self._task_s += weight * (busy_s / tasks - self._task_s)
        self._task_bytes += weight * (payload_bytes / tasks - self._task_bytes)
        self._largest = max(self._largest, tasks)

    def size(self, *, remaining: int | None = None, limit: int = 1) -> int:
        """Tasks to put into the next attempt.

        Args:
            remaining: Tasks not yet sent, where that is known: near the end, groups shrink so that
                each of the `limit` attempts in flight gets its share, twice over.
            limit: Attempts in flight at once.
        """
        if self._policy.fixed is not None:
            return self._policy.fixed
        if not self._largest:
            return 1
        seconds = self._policy.target_s
        if self._timeout_s is not None:
            # A timeout is for one task; a group must not come near it by its number alone.
            seconds = min(seconds, self._timeout_s / 4)
        most: float = min(self._policy.max_tasks, self._largest * _GROWTH)
        if self._task_s > 0:  # but possibly so little that the quotient is infinite
            most = min(most, seconds / self._task_s)
        if self._task_bytes > 0:
            most = min(most, self._policy.max_bytes / self._task_bytes)
        size = int(most)
        if remaining is not None:
            size = min(size, math.ceil(remaining / (2 * limit)))
        return max(size, 1)

    def window(self, limit: int) -> int:
        """Most tasks to pull from the input that are not yet consumed.

        Enough for each of the `limit` attempts in flight and for two more after it, unless the
        chunks are so large that a task for each attempt has to do.
        """
        size = self.size()
        most = limit * (2 * size + 1)
        if self._policy.fixed is None and self._task_bytes > 0:
            ahead = self._policy.max_ahead_bytes / self._task_bytes
            most = int(min(most, limit * size + ahead))
        return most
