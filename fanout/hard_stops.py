"""When the worker ends a task that still runs, and when the whole attempt.

Pure. For what is billed by time and can't be cancelled: without it a task that hangs is billed
until the function's own timeout, with everything that waits behind it in its group.

`hard_s` ends the task that runs then; the worker answers with what was done before it, and is left
warm. `ends_s` ends the process, since the request came: for a kernel that can't be interrupted, or
that takes for ever to load. It bounds what the attempt is billed for, its Init aside.

To be stopped so says nothing against a task, and costs it no attempt. What is stopped in a group is
sent again alone, where nothing stops it but what the caller or the service allows. Only when the
run has a budget, single tasks have deadlines, too, by what is known of others; each time one is
stopped it gets four times as much, so that little is spent in vain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanout.tasks import AttemptReport

# From the end of a task by its deadline to that of the process: for `finally` blocks of the kernel.
GRACE_S: Final = 2.0
# A group that runs four times as long as it should have been over hangs (as hedging has it).
_HANGS: Final = 4.0
_HANGS_LEAST_S: Final = 10.0
# With a budget what is reserved for it is missing elsewhere; a task that is cut off costs less.
_BOUNDED: Final = 1.25
_BOUNDED_LEAST_S: Final = 2.0
# What a single task gets with a budget: so many times what is expected, or so long at least; and
# while nothing is known.
_SINGLE: Final = 8.0
_SINGLE_LEAST_S: Final = 10.0
_UNKNOWN_S: Final = 30.0
_GROWTH: Final = 4.0
# To load a kernel and its modules: at first, and by so many times the longest of so many.
_SETUP_S: Final = 20.0
_SETUP_LEAST_S: Final = 1.0
_SETUP: Final = 4.0
_SEEN: Final = 20


class Stops(NamedTuple):
    """When an attempt is ended; None: when the service ends it.

    Attributes:
        hard_s: A task that still runs then is ended, seconds since the first one began.
        ends_s: The process is ended, seconds since it has the request.
    """

    hard_s: float | None = None
    ends_s: float | None = None


_NEVER: Final = Stops()


class HardStops:
    """Says when attempts are to be ended.

    Args:
        is_bounded: The run has a budget: each attempt has a worst case, and a near one.
        timeout_s: What the caller allows a task, seconds; the worker sees to that.
    """

    def __init__(self, *, is_bounded: bool = False, timeout_s: float | None = None) -> None:
        self._is_bounded = is_bounded
        self._timeout_s = timeout_s
        self._factors: dict[int, float] = {}  # of tasks that were stopped alone
        self._seen = 0
        self._setup_s = 0.0  # the longest
        self._compile_s = 0.0

    def __len__(self) -> int:
        return len(self._factors)

    def of(self, tasks: Sequence[int], *, expected_s: float | None, soft_s: float | None) -> Stops:
        """When to end an attempt that carries these.

        Args:
            tasks: What it carries.
            expected_s: How long it should run; None if nothing is known.
            soft_s: When its worker begins no further task.
        """
        if len(tasks) == 1:
            return self._of_one(tasks[0], expected_s) if self._is_bounded else _NEVER
        if soft_s is None:
            if not self._is_bounded:
                return _NEVER
            hard_s = _UNKNOWN_S
        elif self._is_bounded:
            hard_s = max(_BOUNDED * soft_s, soft_s + _BOUNDED_LEAST_S)
        else:
            hard_s = max(_HANGS * soft_s, soft_s + _HANGS_LEAST_S)
        hard_s += 2 * self._compile_s
        return Stops(hard_s, hard_s + GRACE_S + self._allowed_setup_s)

    def _of_one(self, task: int, expected_s: float | None) -> Stops:
        factor = self._factors.get(task, 1.0)
        hard_s = _UNKNOWN_S
        if expected_s is not None:
            hard_s = max(_SINGLE * expected_s, _SINGLE_LEAST_S) + 2 * self._compile_s
        hard_s *= factor
        ends_s = GRACE_S + factor * self._allowed_setup_s
        if self._timeout_s is not None and self._timeout_s <= hard_s:
            return Stops(None, self._timeout_s + ends_s)  # the caller's own is nearer
        return Stops(hard_s, hard_s + ends_s)

    @property
    def _allowed_setup_s(self) -> float:
        if not self._is_bounded or self._seen < _SEEN:
            return _SETUP_S
        return min(_SETUP_S, max(_SETUP_LEAST_S, _SETUP * self._setup_s))

    def observe(self, report: AttemptReport) -> None:
        """Learn from an attempt that has answered."""
        self._seen += 1
        self._setup_s = max(self._setup_s, report.setup_s)
        self._compile_s = max(self._compile_s, report.compile_s)

    def stopped(self, task: int) -> None:
        """A task was ended by its deadline, alone: it gets more time."""
        self._factors[task] = self._factors.get(task, 1.0) * _GROWTH

    def has_grown(self, tasks: Sequence[int]) -> bool:
        """Whether this is a task that was stopped, so that it may cost more than others."""
        return len(tasks) == 1 and tasks[0] in self._factors

    def forget(self, task: int) -> None:
        """It is settled."""
        if self._factors:
            self._factors.pop(task, None)
