"""Outcomes on their way to the caller: in which order, and how many it has not taken yet.

Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fanout.tasks import Outcome


class Delivery:
    """What is settled and not delivered, or delivered and not consumed.

    Args:
        is_ordered: Outcomes go in the order of the input, not as they come.
        is_consumed: The caller takes them one by one, and says so.
    """

    def __init__(self, *, is_ordered: bool = False, is_consumed: bool = False) -> None:
        self._is_ordered = is_ordered
        self._is_consumed = is_consumed
        self._ready: list[Outcome[Any]] = []
        self._held: dict[int, Outcome[Any]] = {}  # they wait for a predecessor
        self._next_in_order = 0
        self._unconsumed = 0

    def __repr__(self) -> str:
        return f"<Delivery: {len(self._held)} held, {self._unconsumed} unconsumed>"

    @property
    def outstanding(self) -> int:
        """Outcomes that the caller has not taken, and that it shall not have too many of."""
        return len(self._held) + self._unconsumed

    def settle(self, outcome: Outcome[Any]) -> None:
        """A task has its outcome."""
        if self._is_ordered:
            self._held[outcome.index] = outcome
        else:
            self._ready.append(outcome)

    def batch(self) -> list[Outcome[Any]]:
        """What can be delivered now; that is done."""
        while self._held and (outcome := self._held.pop(self._next_in_order, None)) is not None:
            self._ready.append(outcome)
            self._next_in_order += 1
        outcomes, self._ready = self._ready, []
        if self._is_consumed:
            self._unconsumed += len(outcomes)
        return outcomes

    def consumed(self, count: int) -> None:
        """The caller has taken so many."""
        self._unconsumed = max(0, self._unconsumed - count)
