"""How much has been read for the caller that it has not taken yet. Pure.

A map takes what is delivered; of a stream, outcomes are taken in the order in which they were
delivered, and it says how many.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from fanout.tasks import Outcome


class Room:
    """Room for large results.

    Args:
        most_bytes: How much there is; one that is larger alone gets in when nothing else is there.

    Attributes:
        is_consumed: Whether the caller says what it has taken.
        held_bytes: What is in there.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._nbytes: dict[int, int] = {}  # by task: not delivered yet
        self._untaken: deque[tuple[int, int]] = deque()  # place in the order of delivery, bytes
        self._delivered = self._taken = 0
        self.is_consumed = False
        self.held_bytes = 0

    def admits(self, nbytes: int) -> bool:
        """Whether there is room for so much more."""
        return not self.held_bytes or self.held_bytes + nbytes <= self._most_bytes

    def enter(self, task: int, nbytes: int) -> None:
        """The result of a task is read from now on."""
        self._nbytes[task] = nbytes
        self.held_bytes += nbytes

    def drop(self, task: int) -> None:
        """It could not be read."""
        self.held_bytes -= self._nbytes.pop(task)

    def delivered(self, outcomes: Sequence[Outcome[Any]]) -> None:
        """These went to the caller, large or not."""
        if self._nbytes:
            for place, outcome in enumerate(outcomes, self._delivered):
                if (nbytes := self._nbytes.pop(outcome.index, None)) is None:
                    continue
                if self.is_consumed:
                    self._untaken.append((place, nbytes))
                else:
                    self.held_bytes -= nbytes
        self._delivered += len(outcomes)

    def taken(self, count: int) -> None:
        """The caller has taken so many more outcomes."""
        self._taken += count
        while self._untaken and self._untaken[0][0] < self._taken:
            self.held_bytes -= self._untaken.popleft()[1]
