"""How Lambda admits invocations, in virtual time.

It uses the emulator's buckets, not ours, so that a mistake in one of them shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import fanout.emulator.quotas as quotas
from fanout.emulator.limits import Reason, TokenBucket

if TYPE_CHECKING:
    from random import Random

# Of container images: assumed to be lognormal around 1.8 s.
_COLD_S: Final = 1.8
_COLD_SIGMA: Final = 0.35


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What is to be done, and how much Lambda takes.

    Attributes:
        tasks: How many; each is an attempt.
        task_s: How long one takes, give or take a tenth.
        concurrency: What the account may run at once.
        believed: What the client believes that it may.
        busy: How much of it others use.
        period_s: They come and go after so long each; None: they stay.
        launches_per_s: What the client can do.
    """

    tasks: int
    task_s: float
    concurrency: int
    believed: int
    busy: int = 0
    period_s: float | None = None
    launches_per_s: float = 1000.0

    def busy_at(self, now_s: float) -> int:
        """How much others use at this moment."""
        is_away = self.period_s is not None and int(now_s / self.period_s) % 2 == 1
        return 0 if is_away else self.busy


class Service:
    """Runs invocations, or refuses them for concurrency, rate, or growth, in this order."""

    def __init__(self, workload: Workload, rng: Random) -> None:
        self._workload = workload
        self._rng = rng
        self._running = 0
        per_s = float(quotas.REQUESTS_PER_S_PER_CONCURRENCY * workload.concurrency)
        self._requests = TokenBucket(per_s, per_s)
        self._growth = TokenBucket(quotas.NEW_ENVIRONMENTS_PER_S, quotas.NEW_ENVIRONMENTS_BURST)
        self._idle: list[int] = []  # the one that was used last is used next
        self._environments = 0

    def begin(self, now_s: float) -> tuple[int, float] | Reason:
        """The environment that takes the invocation and for how long, or why none does."""
        workload = self._workload
        if self._running + workload.busy_at(now_s) >= workload.concurrency:
            return Reason.CONCURRENCY
        if self._requests.wait_s(now_s):
            return Reason.RATE
        cold_s = 0.0
        if self._idle:
            environment = self._idle.pop()
        elif self._growth.wait_s(now_s):
            return Reason.RATE
        else:
            self._growth.take()
            self._environments += 1
            environment = self._environments
            cold_s = _COLD_S * self._rng.lognormvariate(0.0, _COLD_SIGMA)
        self._requests.take()
        self._running += 1
        return environment, cold_s + workload.task_s * self._rng.uniform(0.9, 1.1)

    def end(self, environment: int) -> None:
        """The invocation in this environment is over."""
        self._running -= 1
        self._idle.append(environment)
