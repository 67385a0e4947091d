"""What one Lambda function takes: how many attempts at once, how many a second, and whose turn.

Pure. One `Capacity` stands for a function, or for any other backend; all runs on it share it, so
that maps at the same time don't fight. Each has a `Seat`. It knows no tasks and no attempts: it is
told when one is launched, ends, or is refused.

A launch is admitted when all of these hold:
  1. fewer are in flight than the usable limit, or it is time to try one more;
  2. `rate` has a token: AWS admits ten requests a second for each unit of concurrency;
  3. an environment is idle, or `growth` has a token: AWS adds 1,000 environments at once, then 100
     a second ("Lambda scaling behavior", 2026-10), but a warm one costs it nothing;
  4. no refusal holds everything: for as long as the service said, and 50 ms at least;
  5. no other run waits that has less in flight, or as much and for longer.

The first is learnt from refusals for concurrency (`learnt_limit.py`); those for a rate empty its
bucket.

Laws, held by tests/test_capacity_laws.py:
  1. never more in flight than `limit`, attempts of runs that have left included;
  2. no window sees more launches, or more environments, than their buckets allow;
  3. never stuck: something is in flight, or a time is due, or a launch is admitted;
  4. a run that waits and has nothing in flight is next, but for those that wait so for longer.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from fanout.errors import UsageError
from fanout.learnt_limit import LearntLimit
from fanout.token_bucket import TokenBucket

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.token_bucket import RateLimit

# Reasons of a 429 that speak of a rate (Lambda API reference, TooManyRequestsException, 2026-11),
# and whether it may be that of new environments, besides that of requests.
_RATE_REASONS: Final = {
    "FunctionInvocationRateLimitExceeded": True,
    "ReservedFunctionInvocationRateLimitExceeded": False,  # ten times what is reserved
    "CallerRateLimitExceeded": False,
}
# The shortest pause after a refusal, and the longest that fanout makes by itself, seconds. Waves of
# refusals without an answer between them pause for twice as long each time.
_LEAST_HOLD_S: Final = 0.05
_MOST_HOLD_S: Final = 2.0
# After how long a run looks again whether one whose turn it was has launched something, seconds.
_LOOK_AGAIN_S: Final = 0.05
# How long an idle environment is counted on, seconds. AWS doesn't say how long it keeps one; people
# report 5 to 10 minutes. One that is forgotten too early costs a token, no more.
_KEPT_S: Final = 300.0


class Seat:
    """A run's place at a `Capacity`, which alone changes it, but for `wake`.

    Attributes:
        in_flight: The run's attempts in flight.
        wake: What to call when it is the run's turn; whoever drives the run sets it.
    """

    __slots__ = ("asks_s", "has_left", "in_flight", "waiting", "wake")

    def __init__(self) -> None:
        self.in_flight = 0
        self.wake: Callable[[], None] | None = None
        self.has_left = False
        self.waiting = math.inf  # its number in the line; those who don't wait are behind all
        self.asks_s = math.inf  # when it will ask again of its own accord, if it waits

    def __repr__(self) -> str:
        waits = f", waits as {self.waiting}" if self.waiting < math.inf else ""
        return f"<Seat: {self.in_flight} in flight{waits}{', has left' if self.has_left else ''}>"

    @property
    def order(self) -> tuple[int, float]:
        """Who is next: the least of these."""
        return self.in_flight, self.waiting


class Capacity:
    """Admits launches, and learns from refusals how many.

    Whoever calls it asks `turn` after every call that may make room, and when `due_s` has come, and
    wakes the run on that seat: it asks `admits` then, and launches, or says `rest`.

    Args:
        limit: Most attempts in flight at once.
        growth: How fast new environments may be added; None: as one likes.
        rate: How many may be launched a second; None: as many as one likes.
    """

    def __init__(self, limit: int, *, growth: RateLimit | None, rate: RateLimit | None) -> None:
        if type(limit) is not int or limit < 1:
            msg = (
                f"Capacity(limit={limit!r}) must be a whole number of attempts, 1 or more: pass "
                "the concurrency that the function may use"
            )
            raise UsageError(msg)
        self._growth = TokenBucket(growth) if growth is not None else None
        self._rate = TokenBucket(rate) if rate is not None else None
        self._in_flight = 0
        self._line: list[Seat] = []  # those that wait
        self._numbers = 0

        self._seen: OrderedDict[str, float] = OrderedDict()  # environments, when they answered
        self._lost: OrderedDict[str, None] = OrderedDict()  # that are taken for dead
        self._unheard = 0  # environments that should be there, by what was launched

        self._learnt = LearntLimit(limit)
        self._rate_lesson_s = -math.inf
        self._wave_s = -math.inf  # when the first refusal of the last wave came
        self._waves = 0  # since the last answer
        self._hold_s = -math.inf

    def __repr__(self) -> str:
        return (
            f"<Capacity: {self._in_flight} in flight of {self.usable}, "
            f"at most {self._learnt.most}; {len(self._seen)} environments seen; "
            f"{len(self._line)} runs wait>"
        )

    @property
    def in_flight(self) -> int:
        """Attempts in flight, those of runs that have left included."""
        return self._in_flight

    @property
    def usable(self) -> int:
        """How many may be in flight at once, as far as was learnt."""
        return self._learnt.usable

    def environments(self, now_s: float) -> int:
        """How many environments there should be, idle ones included."""
        while len(self._seen) + self._unheard > self._in_flight and self._seen:
            oldest, seen_s = next(iter(self._seen.items()))
            if now_s - seen_s <= _KEPT_S:
                break
            del self._seen[oldest]
        return len(self._seen) + self._unheard

    # ---- whose turn ----

    def seat(self) -> Seat:
        """A place for one more run."""
        return Seat()

    def leave(self, seat: Seat) -> None:
        """The run is over. What it has in flight counts until it is told to have ended."""
        self.rest(seat)
        seat.has_left = True

    def rest(self, seat: Seat) -> None:
        """The run has nothing to launch now, so that the others needn't leave it room."""
        if seat.waiting < math.inf:
            self._line.remove(seat)
            seat.waiting = math.inf

    def turn(self, now_s: float) -> Seat | None:
        """The seat to be asked now, as it waits and may launch, or doesn't know yet when it may.

        The latter since it was told that only an event can change that, and one has.
        """
        open_s = self._open_s(now_s) if self._line else None
        if open_s is None:
            return None
        first = min(self._line, key=lambda seat: seat.order)
        return first if open_s <= now_s or open_s < first.asks_s else None

    def admits(self, seat: Seat, now_s: float) -> bool:
        """Whether the run may launch an attempt now; if not, it waits from now on.

        If it does wait, it keeps its place until it launches, or rests.
        """
        assert not seat.has_left, "a run that has left launches nothing"
        order = seat.order
        is_next = all(order <= other.order for other in self._line)
        if is_next and self._is_open(now_s):
            return True
        if seat.waiting == math.inf:
            self._numbers += 1
            seat.waiting = self._numbers
            self._line.append(seat)
        due_s = self.due_s(now_s)
        seat.asks_s = math.inf if due_s is None else due_s
        return False

    def due_s(self, now_s: float) -> float | None:
        """When a run that was not admitted should ask again, if nothing happens; after `now_s`.

        None if only an event can change it: an end, a refusal, or a launch of another run.
        """
        open_s = self._open_s(now_s)
        if open_s is None or open_s > now_s:
            return open_s
        # Another's turn. Should that run have no need of it, and say so, nothing else happens.
        return now_s + _LOOK_AGAIN_S

    def _is_open(self, now_s: float) -> bool:
        """Whether somebody may launch."""
        open_s = self._open_s(now_s)
        return open_s is not None and open_s <= now_s

    def _open_s(self, now_s: float) -> float | None:
        """From when on somebody may launch, if nothing happens; None: not before something does."""
        open_s = self._learnt.due_s(self._in_flight)
        if open_s is None:
            return None
        open_s = max(open_s, self._hold_s)
        if self._rate is not None:
            open_s = max(open_s, self._rate.due_s(now_s))
        if self._growth is not None and self._needs_growth(now_s):
            open_s = max(open_s, self._growth.due_s(now_s))
        return open_s

    def _needs_growth(self, now_s: float) -> bool:
        return self._in_flight >= self.environments(now_s)

    # ---- what happens ----

    def launched(self, seat: Seat, now_s: float) -> None:
        """An attempt that was admitted is on its way."""
        self.rest(seat)
        if self._rate is not None:
            self._rate.take(now_s)
        if self._needs_growth(now_s):
            self._unheard += 1
            if self._growth is not None:
                self._growth.take(now_s)
        seat.in_flight += 1
        self._in_flight += 1
        self._learnt.launched(now_s, self._in_flight)

    def ended(self, seat: Seat, now_s: float, environment: str | None) -> None:
        """An attempt answered, or failed in another way than by a refusal.

        Args:
            seat: Whose it was.
            now_s: When.
            environment: The id of the environment that answered; None if none did. Then one is
                taken for dead; should it live, another one is, when it answers.
        """
        self._leave_flight(seat)
        self._waves = 0
        if environment is None:
            if self._unheard <= self._in_flight:
                self._lose_one()
        else:
            if environment in self._lost:
                del self._lost[environment]
                self._lose_one()  # so it was another one
            elif environment not in self._seen:
                self._unheard = max(0, self._unheard - 1)
            self._seen[environment] = now_s
            self._seen.move_to_end(environment)
        self._unheard = min(self._unheard, self._in_flight)

    def _lose_one(self) -> None:
        """An environment died, and is taken for the one that was not heard of for longest."""
        if self._seen:
            environment, _ = self._seen.popitem(last=False)
            self._lost[environment] = None
            if len(self._lost) > self._learnt.most:
                self._lost.popitem(last=False)
        else:
            self._unheard = max(0, self._unheard - 1)

    def unsent(self, seat: Seat) -> None:
        """An attempt never reached the service, or nobody will hear of it any more."""
        self._leave_flight(seat)
        self._unheard = min(max(0, self._unheard - 1), self._in_flight)

    def refused(
        self,
        seat: Seat,
        reason: str | None,
        wait_s: float | None,
        now_s: float,
        *,
        launched_s: float,
    ) -> None:
        """An attempt was refused (429), and did not run.

        A reason that isn't known, or none, counts as concurrency: then nothing is launched beyond
        what runs until a probe passes. Were it a rate, that costs seconds; the other way round, it
        would be refused again and again.

        Args:
            seat: Whose it was.
            reason: The answer's `Reason`.
            wait_s: Its `Retry-After`.
            now_s: When it came.
            launched_s: When the attempt was launched.
        """
        self._leave_flight(seat)
        self._unheard = min(max(0, self._unheard - 1), self._in_flight)
        if launched_s > self._wave_s:  # the first of a wave
            self._wave_s = now_s
            self._waves += 1
            pause_s = min(_MOST_HOLD_S, _LEAST_HOLD_S * 2.0 ** min(self._waves - 1, 64))
            self._hold_s = max(self._hold_s, now_s + pause_s)
        self._hold_s = max(self._hold_s, now_s + max(_LEAST_HOLD_S, wait_s or 0.0))
        is_growth = _RATE_REASONS.get(reason or "")
        if is_growth is None:
            self._learnt.refused(now_s, self._in_flight, launched_s)
        elif launched_s > self._rate_lesson_s:
            self._rate_lesson_s = now_s
            if self._rate is not None:
                self._rate.empty(now_s)
            if is_growth and self._growth is not None:
                self._growth.empty(now_s)

    def _leave_flight(self, seat: Seat) -> None:
        assert seat.in_flight > 0, "an attempt ends once"
        seat.in_flight -= 1
        self._in_flight -= 1
