"""What failed tasks have had so far, and so what follows when one fails again.

Pure. Only tasks that failed before and are not settled take any memory here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fanout.retry import Failure, FailureKind, RetryPolicy, error_of

if TYPE_CHECKING:
    from collections.abc import Sequence

# What may have run, in part or as a whole: nobody has heard that it has not.
_MAYBE_RAN: Final = frozenset(
    {
        FailureKind.MAYBE_RAN,
        FailureKind.CRASHED,
        FailureKind.OUT_OF_MEMORY,
        FailureKind.TIMED_OUT,
    }
)


class TaskFailures:
    """The failures of tasks that are not settled.

    Args:
        retry: When a failed task is tried again.
        timeout_s: What a task may take, for messages.
        is_idempotent: A task may run twice. If not, what may have run is never tried again.
        can_escalate: There is a larger function, for what ran out of memory or time.
    """

    def __init__(
        self,
        retry: RetryPolicy,
        *,
        timeout_s: float | None = None,
        is_idempotent: bool = True,
        can_escalate: bool = False,
    ) -> None:
        self._retry = retry
        self._timeout_s = timeout_s
        self._is_idempotent = is_idempotent
        self._can_escalate = can_escalate
        self._charged: dict[int, int] = {}  # attempts that were their fault
        self._lost: dict[int, int] = {}  # attempts that were nobody's
        self._escalated: set[int] = set()

    def __len__(self) -> int:
        return len(self._charged) + len(self._lost) + len(self._escalated)

    def attempts_of(self, task: int) -> int:
        """Number of the task's present attempt, from 1; attempts that were not its fault aside."""
        return self._charged.get(task, 0) + 1

    def has_failed(self, task: int) -> bool:
        """Whether it failed before, alone, or was lost."""
        return task in self._charged or task in self._lost

    def is_escalated(self, task: int) -> bool:
        """Whether it goes to the larger function from now on."""
        return task in self._escalated

    def forget(self, task: int) -> None:
        """It is settled."""
        if len(self):
            self._charged.pop(task, None)
            self._lost.pop(task, None)
            self._escalated.discard(task)

    def may_go_again(self, failure: Failure) -> bool:
        """Whether tasks of an attempt that failed so may run again at all."""
        return self._is_idempotent or failure.kind not in _MAYBE_RAN

    def charge(self, task: int, failure: Failure) -> bool:
        """Charge a failure to a task; whether it gets another attempt."""
        if not self.may_go_again(failure):
            return False
        if self._escalates(task, failure):
            self._escalated.add(task)
            return True
        attempts = self.attempts_of(task)
        if not self._retry.allows(failure, attempts):
            return False
        self._charged[task] = attempts
        return True

    def lose(self, tasks: Sequence[int], failure: Failure) -> tuple[list[int], int]:
        """Tasks were lost on the way, at nobody's fault.

        Returns:
            Those that get another attempt, and how often the unluckiest of them was lost.
        """
        if not self.may_go_again(failure):
            return [], 0
        for task in tasks:
            self._lost[task] = self._lost.get(task, 0) + 1
        kept = [task for task in tasks if self._lost[task] < self._retry.max_lost]
        return kept, max((self._lost[task] for task in kept), default=0)

    def error(self, task: int, failure: Failure) -> Exception:
        """With what a task ends that gets no other attempt."""
        attempts = self.attempts_of(task)
        if failure.kind is FailureKind.MAYBE_RAN:
            attempts = max(1, self._lost.get(task, 0))
        return error_of(failure, index=task, attempts=attempts, timeout_s=self._timeout_s)

    def _escalates(self, task: int, failure: Failure) -> bool:
        """Whether a larger function may do it: once for each task."""
        if not self._can_escalate or task in self._escalated:
            return False
        match failure.kind:
            case FailureKind.OUT_OF_MEMORY:
                return True
            case FailureKind.KERNEL_RAISED:
                return isinstance(failure.error, MemoryError)
            case FailureKind.TIMED_OUT:
                # What the caller allows a task is no more there; the service's own limit may be.
                return failure.allowed_s is not None
            case _:
                return False
