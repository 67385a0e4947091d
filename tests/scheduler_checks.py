"""What must be true inside a `Scheduler` between any two events.

Kept out of the product: it looks at every container, which a run of a million tasks can't afford.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from fanout.tasks import AttemptReport, Environment

if TYPE_CHECKING:
    from fanout.scheduler import Scheduler


def invariants(scheduler: Scheduler) -> None:
    """Assert that the scheduler's books agree with each other."""
    assert not scheduler._ready, "outcomes are delivered in the step in which they come"
    assert not scheduler._actions, "actions are returned in the step in which they arise"
    if scheduler.is_finished:
        assert not scheduler._attempts
        return
    backing_off = [task for _, task in scheduler._backing_off]
    in_attempts = [task for tasks in scheduler._attempts.values() for task in tasks]
    places = Counter([*scheduler._queue, *scheduler._alone, *backing_off, *in_attempts])
    assert all(times == 1 for times in places.values()), f"a task is in two places: {places}"
    assert set(places) == scheduler._unsettled, "a task is lost, or was settled and kept"
    assert all(task < scheduler._offered for task in places)
    assert not scheduler._held.keys() & scheduler._unsettled
    assert all(task > scheduler._next_in_order for task in scheduler._held)
    assert len(scheduler._attempts) <= scheduler._limit
    assert scheduler._charged.keys() <= scheduler._unsettled
    assert all(0 < n < scheduler._retry.max_attempts for n in scheduler._charged.values())
    assert set(scheduler._deadlines) <= scheduler._attempts.keys(), "a deadline of nothing"
    assert list(scheduler._deadlines.values()) == sorted(scheduler._deadlines.values())
    assert scheduler._unconsumed == 0 or scheduler._is_consumed
    due_s = [when_s for when_s, _ in scheduler._backing_off] + [*scheduler._deadlines.values()]
    if due_s:
        assert scheduler._armed_s is not None, "something is due, and no wake-up is"
        assert scheduler._armed_s <= min(due_s)


def held_by(scheduler: Scheduler) -> int:
    """How many entries all of the scheduler's containers have together: its memory."""
    return sum(_entries(value) for value in vars(scheduler).values())


def _entries(value: Any) -> int:
    if isinstance(value, dict):
        return sum(1 + _entries(inner) for inner in value.values())
    if isinstance(value, str | bytes) or not hasattr(value, "__len__"):
        return 0
    return len(value)


def report_of(attempt: int, *, total_s: float, payload_bytes: int = 0) -> AttemptReport:
    """The report of an attempt that took so long and was so large."""
    return AttemptReport(
        attempt=attempt,
        environment=Environment(id="e", pid=1, machine="test"),
        is_cold=False,
        received_epoch_s=0.0,
        setup_s=0.0,
        kernel_s=total_s,
        total_s=total_s,
        peak_memory_bytes=None,
        payload_bytes=payload_bytes,
    )
