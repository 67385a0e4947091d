"""The tasks that wait to be sent, and what the next attempt carries of them.

Pure. A task waits in one of three places:

    queue       in the order of the input, or the heaviest first: cut into groups as they are sent
    cut         groups that go as they are: a task that has to be alone, a piece of what was left
    probes      the first tasks of a kernel of which nothing is known, one in each attempt

How large a group is, `grouping` says; this knows how much waits, how much will, and when to ask.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from fanout.task_queue import TaskQueue

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from fanout.grouping import Grouping
    from fanout.tasks import AttemptReport

# Probes that take longer than this are no small tasks: a cold start (2 s) and some.
_PROBING_S: Final = 3.0
# So many times as many tasks as there are probes are no reason to wait for what they say.
_FEW: Final = 4
# So many attempts launched at once show how fast the client is.
_BURST: Final = 32


class Supply:
    """What waits to be sent.

    Args:
        grouping: How many tasks to put into an attempt.
        limit: Most attempts in flight at once.
        total: Number of tasks, where known beforehand.
        least_window: So many chunks may be pulled ahead in any case.

    Attributes:
        waiting: How many tasks wait.
        offered: How many there were so far.
        has_ended: No more will come.
        window: Most chunks that may be pulled from the input and not yet be consumed.
    """

    def __init__(
        self, grouping: Grouping, *, limit: int, total: int | None = None, least_window: int = 0
    ) -> None:
        self._grouping = grouping
        self._limit = limit
        self._total = total
        self._least_window = least_window
        self._queue = TaskQueue()
        self._cut: deque[list[int]] = deque()
        self._probes: deque[int] = deque()
        self._probed = 0
        self._probing_until_s: float | None = None
        self._bursting: tuple[int, int, float] | None = None  # last attempt, how many, since when
        self._compiled: set[str] = set()  # environments in which numba compiled
        self._offered_amount = 0.0
        self.waiting = 0
        self.offered = 0
        self.has_ended = False
        self.window = max(least_window, grouping.window(limit, total))

    def __iter__(self) -> Iterator[int]:
        yield from self._queue
        for tasks in self._cut:
            yield from tasks
        yield from self._probes

    # ---- what comes ----

    def offer(
        self,
        first: int,
        count: int,
        weights: Sequence[float] | None,
        known: Collection[int] = (),
    ) -> Sequence[int]:
        """Chunks came from the input; returns their tasks, but for those that are known."""
        assert first == self.offered, "chunks are offered in order, each once"
        tasks: Sequence[int] = range(first, first + count)
        self.offered += count
        if known:
            tasks = [task for task in tasks if task not in known]
            weights = None if weights is None else [weights[task - first] for task in tasks]
        self.waiting += len(tasks)
        self._offered_amount += len(tasks) if weights is None else sum(weights)
        self._queue.add(tasks, weights)
        return tasks

    def offer_late(self, tasks: Sequence[int]) -> None:
        """These were thought to be known, and are not: they wait, too."""
        self._offered_amount += self._queue.weight_of(tasks)
        self.put_back(tasks, first=False)

    def put_back(self, tasks: Sequence[int], *, first: bool = True) -> None:
        """Send these again, before all others or not; one on its own stays so.

        It may be on its own because of a crash.
        """
        self.waiting += len(tasks)
        if len(tasks) > 1:
            self._queue.put_back(tasks, first=first)
        elif first:
            self._cut.extendleft([task] for task in tasks)
        else:
            self._cut.extend([task] for task in tasks)

    def put_back_cut(self, tasks: Sequence[int], pieces: int) -> None:
        """Send these again next, in so many groups."""
        self.waiting += len(tasks)
        for start in range(min(pieces, len(tasks))):
            self._cut.append(list(tasks[start::pieces]))

    def put_back_alone(self, tasks: Sequence[int]) -> None:
        """Send each of these again, on its own."""
        self.waiting += len(tasks)
        self._cut.extend([task] for task in tasks)

    def forget(self, task: int) -> None:
        """It is settled."""
        self._queue.forget(task)

    def weight_of(self, tasks: Sequence[int]) -> float:
        """The weight of tasks, whether they wait or not."""
        return self._queue.weight_of(tasks)

    # ---- what goes ----

    def next_group(self, fleet: int, now_s: float) -> list[int]:
        """What the next attempt carries; nothing while it is for the probes to say.

        Args:
            fleet: How many attempts there are to be in flight.
            now_s: When.
        """
        tasks = self._next_group(fleet, now_s)
        self.waiting -= len(tasks)
        return tasks

    def _next_group(self, fleet: int, now_s: float) -> list[int]:
        if self._cut:
            return self._cut.popleft()
        if self._is_probing(now_s):
            if self._probing_until_s is None:
                self._probing_until_s = now_s + _PROBING_S
            if not self._probes and self._probed < self._grouping.probes and self._queue:
                self._probes.extend(self._queue.take_strided(self._grouping.probes - self._probed))
                self._probed += len(self._probes)
            return [self._probes.popleft()] if self._probes else []
        remaining = None if self._grouping.is_fixed else self._remaining()
        size = self._grouping.size(remaining=remaining, fleet=fleet)
        return self._queue.take(size, self._grouping.most_tasks) if self._queue else []

    def fleet(self, warm: int = 0) -> int:
        """How many attempts to have in flight, with so many warm environments for them."""
        if not self._grouping.hears_starts:
            return self._limit  # launches cost next to nothing
        return self._grouping.fleet(self._amount(), self._limit, warm=warm)

    @property
    def amount(self) -> float:
        """The weight of the whole run, or of what came so far."""
        return self._amount() or self._offered_amount

    def due_s(self, now_s: float) -> float | None:
        """When probes that have not answered are not waited for any longer."""
        until_s = self._probing_until_s
        return until_s if self._queue and until_s is not None and now_s < until_s else None

    # ---- what is learnt ----

    def observe(self, done: Sequence[int], report: AttemptReport) -> None:
        """An attempt has done these."""
        self._grouping.observe(
            tasks=len(done),
            amount=self._queue.weight_of(done),
            busy_s=self._busy_s(report),
            payload_bytes=report.payload_bytes,
        )
        if not self._grouping.is_fixed:  # else it stays as it is
            window = self._grouping.window(self._limit, self._remaining())
            self.window = max(self._least_window, window)

    def launched(self, last: int, count: int, now_s: float) -> None:
        """So many attempts were launched at once; the client's rate is how long it takes."""
        if count >= _BURST and self._bursting is None:
            self._bursting = (last, count, now_s)

    def started(self, number: int, now_s: float) -> None:
        """An attempt was sent, or begun."""
        if self._bursting is not None and number >= self._bursting[0]:
            _, count, since_s = self._bursting
            self._bursting = None
            self._grouping.launched(count, now_s - since_s)

    # ---- inside ----

    def _is_probing(self, now_s: float) -> bool:
        """Whether single tasks go ahead, to see how long they take."""
        if not self._grouping.is_probing:
            is_over = True
        elif self._probing_until_s is not None:
            # What takes so long goes alone in any case.
            is_over = now_s >= self._probing_until_s
        else:
            remaining = self._remaining()
            is_over = remaining is not None and remaining <= _FEW * self._grouping.probes
        if is_over and self._probes:
            self._queue.put_back(self._probes)
            self._probes.clear()
        return not is_over

    def _busy_s(self, report: AttemptReport) -> float:
        """How long the attempt kept its worker busy, without what happens once in an environment.

        A kernel may also compile something in each task: what compiles again counts.
        """
        if not report.compile_s or report.environment.id in self._compiled:
            return report.total_s
        self._compiled.add(report.environment.id)
        return max(0.0, report.total_s - report.compile_s)

    def _amount(self) -> float | None:
        """The weight of the whole run, where that can be known."""
        if self.has_ended:
            return self._offered_amount
        if self._total is not None:
            return self._offered_amount + self._not_offered()
        return None

    def _remaining(self) -> float | None:
        """The weight of all that is not sent yet, where that can be known."""
        if self.has_ended:
            return self._queue.amount
        if self._total is not None:
            return self._queue.amount + self._not_offered()
        return None

    def _not_offered(self) -> float:
        """The weight of what the input still has, if it is like what it gave."""
        assert self._total is not None
        mean = self._offered_amount / self.offered if self.offered else 1.0
        return max(0, self._total - self.offered) * mean
