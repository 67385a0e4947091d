"""What a run may cost, in GB-seconds or dollars: nothing is launched that might exceed it at worst.

Pure. An attempt reserves its worst case when it is launched and is settled at what it ran when it
has ended. An invocation of Lambda can't be cancelled, so an attempt that nobody wants any more
stays reserved until it answers, and one of which nothing was heard is settled at its worst case.

Laws, held by tests/test_budget.py:
  1. spent + reserved never exceed the limit;
  2. so the bill does not, as long as no attempt runs longer than its worst case. The worker sees to
     that, which ends it (`hard_stops`); where it can't, as its environment hangs, the timeout of
     the function does: what runs on meanwhile is reserved bit by bit, and may exceed the limit.
     For a container image the worst case includes Init, which is billed, too.

It counts in whole milliseconds of one memory size, and in invocations; a cap in dollars is on the
price of these two, as a fraction. So both laws hold exactly and not but for rounding. What else a
run costs (logs, objects, transfer) is not in the caps: nobody knows it before.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final, Literal, TypeAlias

from fanout.errors import UsageError

Architecture: TypeAlias = Literal["x86_64", "arm64"]

# Lambda bills durations in milliseconds, rounded up (aws.amazon.com/lambda/pricing, 2026-11).
_MS_PER_S: Final = 1000
# What each function has of disk at no charge, MB (aws.amazon.com/lambda/pricing, 2026-11).
FREE_DISK_MB: Final = 512
# Invocations of an attempt at most: a worker may ask for the kernel's code, and for its modules.
REQUESTS: Final = 3
# What runs on beyond its worst case is reserved for so much longer each time, seconds.
_MORE_S: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Billed:
    """What an attempt may cost.

    Attributes:
        gb: Memory of an environment, GB (1024 MB).
        timeout_s: When the service ends it, seconds.
        init_s: For how long its start is billed at worst, before that.
        larger: The same of the function for what is escalated; None if there is none.
        region: Where the function is, by whose prices it is billed; "" if that is nowhere.
        arch: Its architecture.
        disk_mb: Its ephemeral storage, MB.
    """

    gb: float
    timeout_s: float
    init_s: float = 0.0
    larger: Billed | None = None
    region: str = ""
    arch: Architecture = "x86_64"
    disk_mb: int = FREE_DISK_MB

    def worst_s(self, ends_s: float | None = None) -> float:
        """For how long it is billed at worst, if its process ends itself after so long."""
        within_s = self.timeout_s if ends_s is None else min(self.timeout_s, ends_s)
        return self.init_s + within_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What attempts cost, in US dollars.

    Attributes:
        usd_per_gb_s: For a GB-second.
        usd_per_request: For an invocation.
    """

    usd_per_gb_s: Fraction
    usd_per_request: Fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class Overdraft:
    """Why nothing more can be launched.

    Attributes:
        spent_gb_s: What was spent.
        max_gb_s: What may be; None if time isn't what is lacking.
        worst_gb_s: What the next attempt may cost.
        spent_usd: The same in US dollars; None if dollars aren't what is lacking.
        max_usd: Likewise.
        worst_usd: Likewise.
    """

    spent_gb_s: float
    max_gb_s: float | None
    worst_gb_s: float
    spent_usd: float | None = None
    max_usd: float | None = None
    worst_usd: float | None = None


def running_on(count: int, backend: str, billed: Billed | None) -> str:
    """What attempts cost that can't be stopped."""
    what = (
        f"{count} attempt{'' if count == 1 else 's'} in flight can't be stopped: on {backend} "
        f"{'it runs on and is' if count == 1 else 'they run on and are'} billed"
    )
    if billed is None:
        return what
    sizes = [billed] if billed.larger is None else [billed, billed.larger]
    most_s = max(size.timeout_s for size in sizes)
    gb_s = count * max(size.gb * size.worst_s() for size in sizes)
    return f"{what} for {most_s:g} s at most each, {math.ceil(gb_s):,} GB-seconds in all"


class Budget:
    """Keeps the books of what a run has cost and may still cost.

    Args:
        max_gb_s: What the run may cost, GB-seconds; None: any amount.
        gb: Memory of an environment, GB (1024 MB).
        spent_gb_s: What it has cost before, GB-seconds.
        max_usd: What it may cost, US dollars; None: any amount.
        rates: What dollars are counted by.
        spent_requests: Invocations that it has had before.
    """

    def __init__(
        self,
        max_gb_s: float | None,
        gb: float,
        *,
        spent_gb_s: float = 0.0,
        max_usd: float | None = None,
        rates: Rates | None = None,
        spent_requests: int = 0,
    ) -> None:
        check_cap("gb", gb)
        if max_gb_s is not None or max_usd is None:
            check_cap("max_gb_s", max_gb_s)
        if max_usd is not None:
            check_cap("max_usd", max_usd)
        assert max_usd is None or rates is not None, "dollars are counted by prices"
        self.max_gb_s = max_gb_s
        self.max_usd = max_usd
        self._gb_s_per_ms = Fraction(gb) / _MS_PER_S
        self._max_ms = None if max_gb_s is None else int(Fraction(max_gb_s) / self._gb_s_per_ms)
        # Dollars in whole ticks, of which each millisecond and each request takes so many.
        per_ms = Fraction(0) if rates is None else rates.usd_per_gb_s * self._gb_s_per_ms
        per_request = Fraction(0) if rates is None else rates.usd_per_request
        self._usd_per_tick = Fraction(1, math.lcm(per_ms.denominator, per_request.denominator))
        self._ticks_per_ms = int(per_ms / self._usd_per_tick)
        self._ticks_per_request = int(per_request / self._usd_per_tick)
        self._max_ticks = (
            None if max_usd is None else int(Fraction(str(max_usd)) / self._usd_per_tick)
        )
        self._spent_ms = math.ceil(Fraction(spent_gb_s) / self._gb_s_per_ms)
        self._reserved_ms = 0
        self._spent_requests = spent_requests
        self._reservations: dict[int, int] = {}  # by attempt, milliseconds
        # When attempts should have ended: (when, attempt, the most that it may take).
        self._ends: list[tuple[float, int, int]] = []

    def __repr__(self) -> str:
        caps = [] if self.max_gb_s is None else [f"{self.max_gb_s:g} GB-s"]
        caps += [] if self.max_usd is None else [f"{self.max_usd:g} USD"]
        return (
            f"<Budget of {' and '.join(caps)}: {self.spent_gb_s:g} spent, "
            f"{self.reserved_gb_s:g} reserved for {len(self._reservations)} attempts>"
        )

    @property
    def spent_gb_s(self) -> float:
        """What attempts that have ended cost, GB-seconds."""
        return self._gb_s(self._spent_ms)

    @property
    def reserved_gb_s(self) -> float:
        """What those in flight cost at worst, GB-seconds."""
        return self._gb_s(self._reserved_ms)

    @property
    def requests(self) -> int:
        """Invocations that are paid for, and that those in flight may take."""
        return self._spent_requests + REQUESTS * len(self._reservations)

    @property
    def left_gb_s(self) -> float:
        """What may still be reserved of `max_gb_s`, GB-seconds."""
        left_ms = self._left_ms
        return math.inf if left_ms is None else self._gb_s(left_ms)

    @property
    def spent_usd(self) -> float:
        """What attempts that have ended cost, US dollars; 0 without prices."""
        return self._usd(self._spent_ms, self._spent_requests)

    @property
    def left_usd(self) -> float:
        """What may still be reserved of `max_usd`, US dollars."""
        if self._max_ticks is None:
            return math.inf
        taken = self._ticks(self._spent_ms + self._reserved_ms, self.requests)
        return float((self._max_ticks - taken) * self._usd_per_tick)

    def gb_s(self, seconds: float) -> float:
        """What so many seconds of an environment are billed as, GB-seconds."""
        return self._gb_s(_billed_ms(seconds))

    def admits(self, worst_s: float) -> bool:
        """Whether an attempt that is billed for `worst_s` seconds at worst may be launched now."""
        return self._fits(worst_s, self._spent_ms + self._reserved_ms, self.requests)

    def is_hopeless(self, worst_s: float) -> bool:
        """Whether such an attempt will not be admitted, however little those in flight cost.

        Then nothing is left to wait for but their answers. While nothing is in flight, this is the
        opposite of `admits`.
        """
        return not self._fits(worst_s, self._spent_ms, self._spent_requests)

    def overdraft(self, worst_s: float) -> Overdraft:
        """What is lacking for an attempt that is hopeless."""
        worst_ms = _billed_ms(worst_s)
        figures = Overdraft(
            spent_gb_s=self.spent_gb_s, max_gb_s=self.max_gb_s, worst_gb_s=self._gb_s(worst_ms)
        )
        if self._max_ms is not None and self._spent_ms + worst_ms > self._max_ms:
            return figures
        return replace(
            figures,
            max_gb_s=None,
            spent_usd=self.spent_usd,
            max_usd=self.max_usd,
            worst_usd=self._usd(worst_ms, REQUESTS),
        )

    def _fits(self, worst_s: float, taken_ms: int, requests: int) -> bool:
        """Whether there is enough beside what is taken."""
        ms = taken_ms + _billed_ms(worst_s)
        if self._max_ms is not None and ms > self._max_ms:
            return False
        return self._max_ticks is None or self._ticks(ms, requests + REQUESTS) <= self._max_ticks

    def _ticks(self, ms: int, requests: int) -> int:
        return ms * self._ticks_per_ms + requests * self._ticks_per_request

    def _usd(self, ms: int, requests: int) -> float:
        return float(self._ticks(ms, requests) * self._usd_per_tick)

    def reserve(
        self, attempt: int, worst_s: float, *, now_s: float = 0.0, most_s: float | None = None
    ) -> None:
        """Launch an attempt that is admitted.

        Args:
            attempt: Its number.
            worst_s: For how long it is billed at worst, seconds.
            now_s: When.
            most_s: For how long if it does not end itself; None: that can't be.
        """
        assert attempt not in self._reservations, "an attempt is launched once"
        assert self.admits(worst_s), "what is not admitted is not launched"
        self._reservations[attempt] = _billed_ms(worst_s)
        self._reserved_ms += _billed_ms(worst_s)
        if most_s is not None and most_s > worst_s:
            heapq.heappush(self._ends, (now_s + worst_s, attempt, _billed_ms(most_s)))
            if len(self._ends) > 2 * len(self._reservations) + 64:
                self._ends = [end for end in self._ends if end[1] in self._reservations]
                heapq.heapify(self._ends)

    def tick(self, now_s: float) -> None:
        """Reserve more for what should have ended, and has not."""
        while self._ends and self._ends[0][0] <= now_s:
            ends_s, attempt, most_ms = heapq.heappop(self._ends)
            reserved_ms = self._reservations.get(attempt)
            if reserved_ms is None:
                continue
            more_ms = min(most_ms - reserved_ms, _billed_ms(_MORE_S))
            self._reservations[attempt] += more_ms
            self._reserved_ms += more_ms
            if reserved_ms + more_ms < most_ms:
                heapq.heappush(self._ends, (ends_s + _MORE_S, attempt, most_ms))

    def settle(
        self, attempt: int, ran_s: float | Fraction | None, *, requests: int | None = None
    ) -> None:
        """End an attempt.

        Args:
            attempt: Its number; one that holds no reservation is not ours, and costs nothing.
            ran_s: What it is billed for, seconds; 0 if it never ran; None if that is not known, so
                that the worst is assumed.
            requests: How many invocations it took; None: the most that it may, unless it never ran.
        """
        reserved_ms = self._reservations.pop(attempt, None)
        if reserved_ms is None:
            return
        self._reserved_ms -= reserved_ms
        self._spent_ms += reserved_ms if ran_s is None else _billed_ms(ran_s)
        if requests is None:
            requests = 0 if ran_s == 0 else REQUESTS
        self._spent_requests += requests

    @property
    def _left_ms(self) -> int | None:
        return None if self._max_ms is None else self._max_ms - self._spent_ms - self._reserved_ms

    def _gb_s(self, ms: int) -> float:
        return float(ms * self._gb_s_per_ms)


def check_cap(name: str, value: object) -> None:
    """Refuse what can't be a cap."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"{name}={value!r} must be a number")
    if not 0 < value < math.inf:
        raise UsageError(f"{name}={value!r} must be more than 0, and finite")


def _billed_ms(seconds: float | Fraction) -> int:
    return math.ceil(seconds * _MS_PER_S)
