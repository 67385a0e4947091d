"""Ways to decide when to launch: those that people use, and ours."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, Protocol

from botocore.exceptions import CapacityNotAvailableError
from botocore.retries.adaptive import ClientRateLimiter, RateClocker
from botocore.retries.bucket import TokenBucket as BotocoreBucket
from botocore.retries.throttling import CubicCalculator

import fanout.emulator.quotas as quotas
from fanout.capacity import Capacity
from fanout.token_bucket import RateLimit, TokenBucket

if TYPE_CHECKING:
    from random import Random

    from tests.bench.throttling.service import Workload

# What every contender but the naive one waits for after a refusal, where it has no rule of its own.
_HOLD_S: Final = 0.05
# Launches reach Lambda by up to some 20 ms closer to each other than they were sent. So much is
# left of a burst that this, too, meets no refusal.
_GROWTH: Final = RateLimit(
    per_s=quotas.NEW_ENVIRONMENTS_PER_S, burst=quotas.NEW_ENVIRONMENTS_BURST - 10
)


class Policy(Protocol):
    """Decides when to launch; in flight is what it was told of."""

    def admits(self, now_s: float) -> bool:
        """Whether to launch an attempt now."""

    def launched(self, now_s: float) -> None:
        """An attempt is on its way."""

    def ended(self, now_s: float, environment: str) -> None:
        """An attempt answered."""

    def refused(self, now_s: float, reason: str, launched_s: float) -> None:
        """An attempt was refused."""

    def due_s(self, now_s: float) -> float | None:
        """When to ask again, if nothing happens."""

    def delay_s(self, refusals: int, rng: Random) -> float:
        """How long a task waits that was refused so often."""


class Naive:
    """Launches everything; each task waits for itself, with full jitter from 1 s to 20 s."""

    def __init__(self, workload: Workload) -> None:
        pass

    def admits(self, now_s: float) -> bool:
        return True

    def launched(self, now_s: float) -> None:
        pass

    def ended(self, now_s: float, environment: str) -> None:
        pass

    def refused(self, now_s: float, reason: str, launched_s: float) -> None:
        pass

    def due_s(self, now_s: float) -> float | None:
        return None

    def delay_s(self, refusals: int, rng: Random) -> float:
        return rng.uniform(0.0, min(20.0, 2.0 ** min(refusals - 1, 10)))


class Limited(Naive):
    """No more in flight than a limit; after a refusal nothing for 50 ms, then the same again."""

    def __init__(self, workload: Workload) -> None:
        self.limit: float = workload.believed
        self.in_flight = 0
        self.hold_s = -math.inf

    def admits(self, now_s: float) -> bool:
        return self.in_flight < self.limit and now_s >= self.hold_s

    def launched(self, now_s: float) -> None:
        self.in_flight += 1

    def ended(self, now_s: float, environment: str) -> None:
        self.in_flight -= 1

    def refused(self, now_s: float, reason: str, launched_s: float) -> None:
        self.in_flight -= 1
        self.hold_s = now_s + _HOLD_S

    def due_s(self, now_s: float) -> float | None:
        return self.hold_s if self.in_flight < self.limit and now_s < self.hold_s else None

    def delay_s(self, refusals: int, rng: Random) -> float:
        return 0.0


class Fixed(Limited):
    """A bucket of so many launches a second."""

    def __init__(self, workload: Workload, per_s: float) -> None:
        super().__init__(workload)
        self.bucket = TokenBucket(RateLimit(per_s=per_s, burst=1))

    def admits(self, now_s: float) -> bool:
        return super().admits(now_s) and self.bucket.due_s(now_s) <= now_s

    def launched(self, now_s: float) -> None:
        super().launched(now_s)
        self.bucket.take(now_s)

    def due_s(self, now_s: float) -> float | None:
        if self.in_flight >= self.limit:
            return None
        due_s = max(self.hold_s, self.bucket.due_s(now_s))
        return due_s if due_s > now_s else None


class Law(Limited):
    """The published law, and nothing learnt: a bucket for environments beyond those seen."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        self.growth = TokenBucket(_GROWTH)
        self.environments = 0

    def admits(self, now_s: float) -> bool:
        if not super().admits(now_s):
            return False
        return self.in_flight < self.environments or self.growth.due_s(now_s) <= now_s

    def launched(self, now_s: float) -> None:
        if self.in_flight >= self.environments:
            self.growth.take(now_s)
            self.environments += 1
        super().launched(now_s)

    def due_s(self, now_s: float) -> float | None:
        if self.in_flight >= self.limit:
            return None
        due_s = self.hold_s
        if self.in_flight >= self.environments:
            due_s = max(due_s, self.growth.due_s(now_s))
        return due_s if due_s > now_s else None


class Aimd(Limited):
    """Netflix's concurrency-limits: one more for each success while it is used, x 0.9 on a drop."""

    def __init__(self, workload: Workload, first: int | None = None) -> None:
        super().__init__(workload)
        self.most = workload.believed
        self.limit = min(first or self.most, self.most)

    def ended(self, now_s: float, environment: str) -> None:
        if 2 * self.in_flight >= self.limit:
            self.limit = min(self.most, self.limit + 1)
        super().ended(now_s, environment)

    def refused(self, now_s: float, reason: str, launched_s: float) -> None:
        self.in_flight -= 1
        self.limit = max(1.0, self.limit * 0.9)


class _Clock:
    """What botocore asks for the time."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def current_time(self) -> float:
        return self.now_s


class _Detector:
    """What botocore asks whether an answer is a refusal."""

    def is_throttling_error(self, *, is_refusal: bool) -> bool:
        return is_refusal


class BotocoreAdaptive(Limited):
    """botocore's own objects of retry mode "adaptive" (CUBIC on the rate), with a clock of ours."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        self.clock = _Clock()
        self.bucket = BotocoreBucket(max_rate=1, clock=self.clock)
        self.limiter = ClientRateLimiter(
            rate_adjustor=CubicCalculator(starting_max_rate=0, start_time=0.0),
            rate_clocker=RateClocker(self.clock),
            token_bucket=self.bucket,
            throttling_detector=_Detector(),
            clock=self.clock,
        )

    def admits(self, now_s: float) -> bool:
        self.clock.now_s = now_s
        if self.in_flight >= self.limit:
            return False
        if not self.limiter._enabled:
            return True
        try:
            self.bucket.acquire(block=False)
        except CapacityNotAvailableError:
            return False
        return True

    def ended(self, now_s: float, environment: str) -> None:
        super().ended(now_s, environment)
        self.clock.now_s = now_s
        self.limiter.on_receiving_response(is_refusal=False)

    def refused(self, now_s: float, reason: str, launched_s: float) -> None:
        self.in_flight -= 1
        self.clock.now_s = now_s
        self.limiter.on_receiving_response(is_refusal=True)

    def due_s(self, now_s: float) -> float | None:
        if self.in_flight >= self.limit:
            return None
        return now_s + max(1e-3, float(self.bucket._sleep_amount(1)))

    def delay_s(self, refusals: int, rng: Random) -> float:
        return rng.uniform(0.0, min(20.0, 2.0 ** min(refusals - 1, 10)))


class Ours(Naive):
    """The very `Capacity` that fanout uses."""

    def __init__(self, workload: Workload) -> None:
        per_s = quotas.REQUESTS_PER_S_PER_CONCURRENCY * workload.believed
        self.capacity = Capacity(
            workload.believed,
            growth=_GROWTH,
            rate=RateLimit(per_s=per_s, burst=max(1, per_s // 2)),
        )
        self.seat = self.capacity.seat()

    def admits(self, now_s: float) -> bool:
        return self.capacity.admits(self.seat, now_s)

    def launched(self, now_s: float) -> None:
        self.capacity.launched(self.seat, now_s)

    def ended(self, now_s: float, environment: str) -> None:
        self.capacity.ended(self.seat, now_s, environment)

    def refused(self, now_s: float, reason: str, launched_s: float) -> None:
        self.capacity.refused(self.seat, reason, None, now_s, launched_s=launched_s)

    def due_s(self, now_s: float) -> float | None:
        return self.capacity.due_s(now_s)

    def delay_s(self, refusals: int, rng: Random) -> float:
        return 0.0
