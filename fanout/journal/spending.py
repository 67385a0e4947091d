"""What attempts were, and what they cost: those in flight, and the sum of the others. Pure.

Times are seconds since the session began. What an attempt cost is not what was billed, which only
the service knows, but what it can have cost at worst.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from fanout.budget import REQUESTS
from fanout.retry import NEVER_RAN, FailureKind

if TYPE_CHECKING:
    from fanout.budget import Billed
    from fanout.events import Launch

# Columns of the table of attempts up to `launched_s`, and all of them.
_LAUNCHED: Final = 5
_ALL: Final = 14


class Spending:
    """The attempts of one session.

    Args:
        session: Its number.
        billed: What an attempt may cost; None: nothing.
        before_gb_s: What earlier sessions cost.
        before_requests: For how many invocations they paid at most.

    Attributes:
        requests: For how many invocations is paid at most, by now.
    """

    def __init__(
        self,
        session: int,
        billed: Billed | None,
        *,
        before_gb_s: float = 0.0,
        before_requests: int = 0,
    ) -> None:
        self.requests = before_requests
        self._session = session
        self._billed = billed
        self._live: dict[int, list[Any]] = {}  # attempts in flight, as rows
        self._worst_gb_s: dict[int, float] = {}  # of these, if they cost something
        self._escalated: set[int] = set()
        self._ended_gb_s = before_gb_s

    @property
    def is_billed(self) -> bool:
        """Whether attempts cost anything."""
        return self._billed is not None

    @property
    def told_gb_s(self) -> tuple[float, float]:
        """What those cost at worst that have ended, and what those may that have not."""
        return self._ended_gb_s, math.fsum(self._worst_gb_s.values())

    def launched(self, launch: Launch, now_s: float) -> None:
        """An attempt is sent."""
        number = launch.attempt
        self._live[number] = [self._session, number, len(launch.tasks), launch.covers, now_s]
        if launch.is_escalated:
            self._escalated.add(number)
        if self._billed is not None:
            self.requests += REQUESTS
            self._worst_gb_s[number] = _worst_gb_s(self._billed, launch)

    def started(self, number: int, now_s: float) -> None:
        """A worker has it."""
        if (row := self._live.get(number)) is not None and len(row) == _LAUNCHED:
            row.append(now_s)

    def ended(
        self, number: int, now_s: float, rest: list[Any], *, kind: FailureKind | None = None
    ) -> tuple[Any, ...] | None:
        """It has ended; returns its row, unless it had ended before."""
        row = self._live.pop(number, None)
        if row is None:
            return None
        worst_gb_s = self._worst_gb_s.pop(number, 0.0)
        if self._billed is not None and kind in NEVER_RAN:
            self.requests -= REQUESTS
        elif self._billed is not None:
            billed = self._billed
            size = (billed.larger or billed) if number in self._escalated else billed
            ran_gb_s = (now_s - row[_LAUNCHED - 1]) * size.gb
            # What is lost may run on.
            self._ended_gb_s += worst_gb_s if kind is FailureKind.MAYBE_RAN else ran_gb_s
        self._escalated.discard(number)
        return (*row[:_LAUNCHED], *(row[_LAUNCHED:] or [None]), now_s, *rest)

    def rows(self) -> list[tuple[Any, ...]]:
        """Of those that have not ended."""
        return [(*row, *[None] * (_ALL - len(row))) for row in self._live.values()]


def _worst_gb_s(billed: Billed, launch: Launch) -> float:
    """What an attempt costs at worst, GB-seconds."""
    size = (billed.larger or billed) if launch.is_escalated else billed
    return size.worst_s(launch.ends_s) * size.gb
