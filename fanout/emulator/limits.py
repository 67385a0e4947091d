"""Whether an invocation is let in: the limits of Lambda, without a clock or any I/O.

Three things refuse an invocation, asked in this order: the concurrency of the account or what is
reserved for the function; requests a second, ten for each unit of concurrency; and how fast
environments may be added, which matters only when none is idle. The last two are token buckets.
What is refused takes nothing from any of them.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

import fanout.emulator.quotas as quotas
from fanout.errors import UsageError


class Reason(enum.StrEnum):
    """Why a 429 was answered; the names are those of the API."""

    CONCURRENCY = "ConcurrentInvocationLimitExceeded"
    RESERVED_CONCURRENCY = "ReservedFunctionConcurrentInvocationLimitExceeded"
    RATE = "FunctionInvocationRateLimitExceeded"
    RESERVED_RATE = "ReservedFunctionInvocationRateLimitExceeded"
    # These two come from fault injection only.
    CALLER_RATE = "CallerRateLimitExceeded"
    SNAPSHOTS = "ConcurrentSnapshotCreateLimitExceeded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is allowed.

    Attributes:
        concurrency: Invocations at the same time in the account.
        reserved: Of these, what the function has for itself; 0 refuses everything, None shares.
        requests_per_s: Invocations a second; None is ten for each unit of concurrency.
        new_environments_per_s: How fast environments may be added after a burst.
        burst: How many may be added at once.
    """

    concurrency: int = quotas.ACCOUNT_CONCURRENCY
    reserved: int | None = None
    requests_per_s: float | None = None
    new_environments_per_s: float = quotas.NEW_ENVIRONMENTS_PER_S
    burst: int = quotas.NEW_ENVIRONMENTS_BURST

    def __post_init__(self) -> None:
        _check("concurrency", self.concurrency, at_least=1)
        _check("burst", self.burst, at_least=1)
        _check("new_environments_per_s", self.new_environments_per_s, above=0)
        if self.requests_per_s is not None:
            _check("requests_per_s", self.requests_per_s, above=0)
        if self.reserved is not None and not 0 <= self.reserved <= self.concurrency:
            msg = (
                f"reserved={self.reserved!r} must be between 0 and the account's "
                f"concurrency={self.concurrency}: lower it, or raise concurrency"
            )
            raise UsageError(msg)

    @property
    def allowed(self) -> int:
        """How many invocations may run at the same time."""
        return self.concurrency if self.reserved is None else self.reserved

    @property
    def allowed_per_s(self) -> float:
        """How many invocations may begin each second."""
        if self.requests_per_s is not None:
            return self.requests_per_s
        return float(self.allowed * quotas.REQUESTS_PER_S_PER_CONCURRENCY)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An invocation that is not let in, and when the next one might be."""

    reason: Reason
    retry_after_s: float


class TokenBucket:
    """Lets `burst` through at once and `per_s` each second; no window admits more than both."""

    def __init__(self, per_s: float, burst: float) -> None:
        self._per_s = per_s
        self._burst = burst
        self._level = burst
        self._at_s: float | None = None

    def wait_s(self, now_s: float) -> float:
        """How long until a token is there; 0 if one is."""
        if self._at_s is None or now_s > self._at_s:
            elapsed_s = 0.0 if self._at_s is None else now_s - self._at_s
            self._level = min(self._burst, self._level + elapsed_s * self._per_s)
            self._at_s = now_s
        if self._level >= 1:
            return 0.0
        return (1 - self._level) / self._per_s if self._per_s else math.inf

    def take(self) -> None:
        """Take the token that `wait_s` found."""
        self._level -= 1


# A slot is free when an invocation ends, which nobody can foresee; AWS says one second.
_SOON_S = 1.0


class Admission:
    """Lets invocations in, and counts those inside.

    Attributes:
        limits: What is allowed.
        running: How many are inside now.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.running = 0
        # A second's worth may come at once: the quota is per second, not per instant.
        self._requests = TokenBucket(limits.allowed_per_s, max(1.0, limits.allowed_per_s))
        self._environments = TokenBucket(limits.new_environments_per_s, limits.burst)

    def ask(self, now_s: float, *, is_cold: bool) -> Refusal | None:
        """Let an invocation in, or say why not; `is_cold` if it needs a new environment."""
        if self.running >= self.limits.allowed:
            return Refusal(self._either(Reason.CONCURRENCY, Reason.RESERVED_CONCURRENCY), _SOON_S)
        if wait_s := self._requests.wait_s(now_s):
            return Refusal(self._either(Reason.RATE, Reason.RESERVED_RATE), wait_s)
        if is_cold:
            if wait_s := self._environments.wait_s(now_s):
                return Refusal(Reason.RATE, wait_s)
            self._environments.take()
        self._requests.take()
        self.running += 1
        return None

    def leave(self) -> None:
        """An invocation that was let in has ended."""
        self.running -= 1

    def _either(self, shared: Reason, reserved: Reason) -> Reason:
        return shared if self.limits.reserved is None else reserved


def _check(
    name: str, value: float, *, at_least: float | None = None, above: float | None = None
) -> None:
    is_whole = at_least is None or isinstance(value, int)
    if is_whole and (value >= at_least if at_least is not None else value > (above or 0)):
        return
    what = f"a whole number from {at_least}" if at_least is not None else f"above {above}"
    msg = f"{name}={value!r} must be {what}"
    raise UsageError(msg)
