"""Tasks that wait to be sent: in the order of the input, or the heaviest first.

Pure. A task that comes back is next: it has waited before.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Sums of weights are floats: an amount that is a whole number of tasks shall hold them all.
_ROUNDING: Final = 1 + 1e-9


class TaskQueue:
    """Waiting tasks, each with a weight; 1 unless one is given."""

    def __init__(self) -> None:
        self._returned: deque[int] = deque()
        self._plain: deque[int] = deque()
        self._weighted: list[tuple[float, int]] = []
        self._weights: dict[int, float] = {}  # of all tasks that have one, until they are forgotten
        self._amount = 0.0  # of what waits, if tasks have weights

    def __len__(self) -> int:
        return len(self._returned) + len(self._plain) + len(self._weighted)

    def __bool__(self) -> bool:
        return bool(self._plain or self._returned or self._weighted)

    @property
    def amount(self) -> float:
        """The weight of all that waits."""
        return self._amount if self._weights else float(len(self))

    def weight_of(self, tasks: Sequence[int]) -> float:
        """The weight of tasks, whether they wait or not."""
        if not self._weights:
            return float(len(tasks))
        return sum(self._weights.get(task, 1.0) for task in tasks)

    def add(self, tasks: Sequence[int], weights: Sequence[float] | None = None) -> None:
        """Add new tasks at the end."""
        if weights is None:
            self._plain.extend(tasks)
            return
        for task, weight in zip(tasks, weights, strict=True):
            self._weights[task] = weight
            heapq.heappush(self._weighted, (-weight, task))
            self._amount += weight

    def put_back(self, tasks: Sequence[int], *, first: bool = True) -> None:
        """Have tasks that were taken wait again.

        Args:
            tasks: These.
            first: Before all others, or after those that have come back, too.
        """
        self._amount += self.weight_of(tasks)
        if first:
            self._returned.extendleft(reversed(tasks))
        else:
            self._returned.extend(tasks)

    def take(self, amount: float, most: int) -> list[int]:
        """The next tasks, one at least, of no more than this weight together otherwise.

        Args:
            amount: In units of weight.
            most: Number of tasks.
        """
        if not self._weights:
            count = max(1, min(int(min(amount, most) * _ROUNDING), most, len(self)))
            return [self._pop() for _ in range(count)]
        taken = [self._pop()]
        room = amount * _ROUNDING - self._weights.get(taken[0], 1.0)
        while len(taken) < most and len(self) and self._weights.get(self._peek(), 1.0) <= room:
            taken.append(self._pop())
            room -= self._weights.get(taken[-1], 1.0)
        self._amount = max(0.0, self._amount - self.weight_of(taken)) if len(self) else 0.0
        return taken

    def take_strided(self, count: int) -> list[int]:
        """So many tasks from all over the queue, or all."""
        if self._weighted or self._returned or not self._plain:
            return [task for _ in range(min(count, len(self))) for task in self.take(0.0, 1)]
        waiting = list(self._plain)
        stride = max(1, len(waiting) // count)
        taken = waiting[::stride][:count]
        gone = set(taken)
        self._plain = deque(task for task in waiting if task not in gone)
        return taken

    def forget(self, task: int) -> None:
        """A task is settled: its weight is of no more interest."""
        if self._weights:
            self._weights.pop(task, None)

    def __iter__(self) -> Iterator[int]:
        yield from self._returned
        yield from self._plain
        yield from (task for _, task in self._weighted)

    def _pop(self) -> int:
        if self._returned:
            return self._returned.popleft()
        if self._plain:
            return self._plain.popleft()
        return heapq.heappop(self._weighted)[1]

    def _peek(self) -> int:
        if self._returned:
            return self._returned[0]
        if self._plain:
            return self._plain[0]
        return self._weighted[0][1]
