"""A modelled fleet of Lambda environments: what it refuses, how slow it is, what goes wrong.

Pure. The limits are AWS's own (Lambda Developer Guide, "Scaling behavior", 2026-11): so many
invocations at once; ten times as many begun each second; and new environments from a token bucket,
1000 at once and 100 more each second. The noise (cold starts, slow environments, crashes) is
ASSUMED, not measured on AWS: a fleet as unkind as a real one might be, on which policies can be
compared. What comes out is no promise.

An invocation is decided as it is let in: how long it takes and how it ends. So whoever drives the
fleet needs a clock and a heap, and no cancellation; Lambda has none either.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Final

from fanout.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

_ABOVE_0: Final = frozenset(
    {"concurrency", "burst", "environments_per_s", "requests_per_s", "launches_per_s"}
    | {"memory_mb", "timeout_s", "busy_every_s"}
)
# Sums of floats: a time that is due to the nanosecond is due.
_EARLY_S: Final = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetModel:
    """Limits of a function and its client, and the noise of its environments.

    All of the noise is assumed. Factors multiply the time that tasks take; a range is uniform.

    Attributes:
        concurrency: Invocations at once, AWS's quota.
        burst: Environments that may be added at once.
        environments_per_s: Environments that may be added each second after that.
        requests_per_s: Invocations that may begin each second; None: ten for each of
            `concurrency`. As many may come at once.
        retry_after_s: What AWS says with a 429 for concurrency: to come again in so many seconds.
        refused_share: Share of requests that are refused so although there is room.
        refusal_s: From sending a request to having read that it is refused, seconds.
        launches_per_s: Requests that the client can send each second, one after the other.
        memory_mb: Of each environment, MB; counts for GB-seconds only.
        timeout_s: After so many seconds the service ends an invocation.
        cold_median_s: Median time until a new environment is ready, seconds; lognormal.
        cold_sigma: Of its logarithm.
        cold_tail_share: Share of new environments that take `cold_tail_s` more.
        cold_tail_s: So much more, seconds, from and to.
        pace: Factor of each environment, for its whole life, from and to.
        slow_share: Share of environments that are slower still, for life.
        slow_factor: By this factor, from and to.
        transient_share: Share of invocations that happen to be slow.
        transient_factor: By this factor, from and to.
        crash_share: Share of invocations under which the environment dies, at any time.
        crash_per_s: And besides, how often an environment dies in a second that tasks run.
        lost_share: Share of invocations whose answer is lost on its way; the work is done.
        hang_share: Share of invocations whose kernel hangs at one of their tasks, silent until
            `timeout_s`, or until the hard deadline that the client gave.
        overhead_s: What each invocation takes besides its tasks, seconds; billed.
        wire_s: What it takes on the way there and back, seconds; not billed.
        warm: Environments that are there, and idle, as the run begins.
        busy: How much of `concurrency` other work of the account takes; the client isn't told.
        busy_every_s: The other work is there for so many seconds, then away for as many; None: it
            is always there.
        idle_s: An environment that has been idle for so many seconds is gone.
    """

    concurrency: int = 1000
    burst: int = 1000
    environments_per_s: float = 100.0
    requests_per_s: float | None = None
    retry_after_s: float = 1.0
    refused_share: float = 0.0
    refusal_s: float = 0.05
    launches_per_s: float = 250.0
    memory_mb: int = 1769
    timeout_s: float = 300.0
    cold_median_s: float = 1.8
    cold_sigma: float = 0.35
    cold_tail_share: float = 0.015
    cold_tail_s: tuple[float, float] = (3.0, 12.0)
    pace: tuple[float, float] = (0.85, 1.15)
    slow_share: float = 0.03
    slow_factor: tuple[float, float] = (2.0, 3.0)
    transient_share: float = 0.005
    transient_factor: tuple[float, float] = (1.5, 3.0)
    crash_share: float = 0.005
    crash_per_s: float = 0.0
    lost_share: float = 0.0
    hang_share: float = 0.0
    overhead_s: float = 0.2
    wire_s: float = 0.0
    warm: int = 0
    busy: int = 0
    busy_every_s: float | None = None
    idle_s: float = 300.0

    def __post_init__(self) -> None:
        for part in fields(self):
            name, value = part.name, getattr(self, part.name)
            if isinstance(value, tuple):
                self._check(name, 0 < value[0] <= value[1] < math.inf, "two numbers > 0, in order")
            elif name.endswith("_share"):
                self._check(name, 0 <= value <= 1, "a share, from 0 to 1")
            elif name in _ABOVE_0:
                is_unset = value is None and part.default is None
                self._check(name, is_unset or 0 < value < math.inf, "a number above 0")
            else:
                self._check(name, 0 <= value < math.inf, "a number, 0 or more")
        if self.crash_share + self.lost_share + self.hang_share > 1:
            msg = "crash_share + lost_share + hang_share must not be above 1: lower one of them"
            raise UsageError(msg)

    def _check(self, name: str, is_right: bool, what: str) -> None:
        if not is_right:
            msg = f"FleetModel({name}={getattr(self, name)!r}) must be {what}"
            raise UsageError(msg)

    def quiet(self) -> FleetModel:
        """The same limits without noise: each environment as good as the median one."""
        return replace(
            self,
            cold_sigma=0.0,
            cold_tail_share=0.0,
            pace=(1.0, 1.0),
            slow_share=0.0,
            transient_share=0.0,
            refused_share=0.0,
            crash_share=0.0,
            crash_per_s=0.0,
            lost_share=0.0,
            hang_share=0.0,
        )

    def available(self, now_s: float) -> int:
        """How many invocations may run at once now, as others take the rest."""
        if not self.busy or (self.busy_every_s and now_s // self.busy_every_s % 2):
            return self.concurrency
        return max(0, self.concurrency - self.busy)


class Reason(enum.StrEnum):
    """Why a request is refused; the names are those of Lambda's API."""

    CONCURRENCY = "ConcurrentInvocationLimitExceeded"
    RATE = "FunctionInvocationRateLimitExceeded"


class Ending(enum.Enum):
    """How an invocation ends."""

    ANSWERED = "answered"  # with what it has done
    CRASHED = "crashed"
    LOST = "lost"
    TIMED_OUT = "timed out"  # by the service


@dataclass(frozen=True, slots=True)
class Refusal:
    """A 429, and in how many seconds it says to come again."""

    reason: Reason
    wait_s: float


class Environment:
    """One execution environment: its number, from 0, and the factor on what tasks take there."""

    __slots__ = ("idle_since_s", "number", "pace")

    def __init__(self, number: int, pace: float) -> None:
        self.number = number
        self.pace = pace
        self.idle_since_s = 0.0


@dataclass(slots=True)
class Invocation:
    """What becomes of a request that was let in.

    Attributes:
        environment: Where it runs.
        ending: How it ends.
        done: How many of its tasks are done by then; they go in order.
        is_stopped: Whether a task was ended at the hard deadline.
        run_s: How long tasks ran, seconds.
        init_s: How long the environment took to be ready, seconds; 0 in a warm one.
        began_s: When it was let in.
        ends_s: When the client knows its end.
        is_last: Whether its environment ends with it.
    """

    environment: Environment
    ending: Ending
    done: int
    is_stopped: bool
    run_s: float
    init_s: float
    began_s: float
    ends_s: float
    is_last: bool


class _Bucket:
    """Lets `burst` through at once, and `per_s` each second."""

    __slots__ = ("at_s", "burst", "level", "per_s")

    def __init__(self, per_s: float, burst: float) -> None:
        self.per_s = per_s
        self.burst = self.level = burst
        self.at_s = 0.0

    def wait_s(self, now_s: float) -> float:
        """How long until there is a token; 0 if there is."""
        self.level = min(self.burst, self.level + (now_s - self.at_s) * self.per_s)
        self.at_s = now_s
        return 0.0 if self.level >= 1 - _EARLY_S else (1 - self.level) / self.per_s


class Fleet:
    """A function's environments in one run of the model.

    The n-th environment is the same for the same generator, whatever the policy does: it has a
    generator of its own, as have the invocations.

    Attributes:
        in_flight: Invocations that run.
        most_in_flight: The most that ran at once.
        billed_ms: What all invocations that were let in are billed for, to their ends, each rounded
            up as Lambda does, milliseconds.
    """

    def __init__(self, model: FleetModel, rng: Random) -> None:
        self.model = model
        self._calls = fork(rng)
        self._births = fork(rng)
        self._born = 0
        # Used last at the end.
        self._idle: list[Environment] = [self._start()[0] for _ in range(model.warm)]
        self._growth = _Bucket(model.environments_per_s, model.burst)
        per_s = model.requests_per_s or 10.0 * model.concurrency
        self._requests = _Bucket(per_s, max(1.0, per_s))
        self.in_flight = 0
        self.most_in_flight = 0
        self.billed_ms = 0

    def __repr__(self) -> str:
        return (
            f"<Fleet: {self.in_flight} in flight, {len(self._idle)} idle, {self.started} started>"
        )

    @property
    def started(self) -> int:
        """How many were started since the run began."""
        return self._born - self.model.warm

    @property
    def billed_s(self) -> float:
        """The same in seconds."""
        return self.billed_ms / 1000

    @property
    def environments(self) -> int:
        """How many there are now, busy or idle."""
        return self.in_flight + len(self._idle)

    def invoke(
        self,
        now_s: float,
        seconds: Sequence[float],
        soft_s: float | None = None,
        hard_s: float | None = None,
    ) -> Invocation | Refusal:
        """Let a request in, or refuse it; times of calls must not go back.

        Args:
            now_s: When it arrives.
            seconds: What each of its tasks takes in an environment of pace 1.
            soft_s: No further task is begun once tasks have run so long.
            hard_s: A task that still runs then is ended.
        """
        model = self.model
        if self._idle and self._idle[-1].idle_since_s + model.idle_s < now_s:
            self._idle.clear()  # the one used last is the last to go
        is_refused = model.refused_share > 0 and self._calls.random() < model.refused_share
        if is_refused or self.in_flight >= model.available(now_s):
            return Refusal(Reason.CONCURRENCY, model.retry_after_s)
        if wait_s := self._requests.wait_s(now_s):
            return Refusal(Reason.RATE, wait_s)
        init_s = 0.0
        if not self._idle:
            if wait_s := self._growth.wait_s(now_s):
                return Refusal(Reason.RATE, wait_s)
            self._growth.level -= 1
            environment, init_s = self._start()
        else:
            environment = self._idle.pop()
        self._requests.level -= 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        invocation = self._decide(environment, seconds, soft_s, hard_s)
        invocation.init_s, invocation.began_s = init_s, now_s
        billed_s = init_s + model.overhead_s + invocation.run_s
        invocation.ends_s = now_s + billed_s + model.wire_s
        self.billed_ms += math.ceil(billed_s * 1000)
        return invocation

    def ended(self, invocation: Invocation) -> None:
        """Take note of the end of an invocation, when its time has come."""
        self.in_flight -= 1
        if not invocation.is_last:
            invocation.environment.idle_since_s = invocation.ends_s
            self._idle.append(invocation.environment)

    def _start(self) -> tuple[Environment, float]:
        """A new environment, and how long it takes to be ready."""
        model, rng = self.model, self._births
        pace = rng.uniform(*model.pace)
        if rng.random() < model.slow_share:
            pace *= rng.uniform(*model.slow_factor)
        init_s = model.cold_median_s * math.exp(rng.gauss(0.0, model.cold_sigma))
        if rng.random() < model.cold_tail_share:
            init_s += rng.uniform(*model.cold_tail_s)
        self._born += 1
        return Environment(self._born - 1, pace), init_s

    def _decide(
        self,
        environment: Environment,
        seconds: Sequence[float],
        soft_s: float | None,
        hard_s: float | None,
    ) -> Invocation:
        model, rng = self.model, self._calls
        fate, where, slow = rng.random(), rng.random(), rng.random()
        pace = environment.pace
        if slow < model.transient_share:
            pace *= rng.uniform(*model.transient_factor)
        fate -= model.crash_share
        is_crashed = fate < 0
        is_lost = 0 <= fate < model.lost_share
        fate -= model.lost_share
        hangs_at = int(where * len(seconds)) if 0 <= fate < model.hang_share else -1
        most_s = model.timeout_s - model.overhead_s
        run_s, done, is_stopped = 0.0, 0, False
        for task_s in seconds:
            if soft_s is not None and done and run_s >= soft_s:
                break
            after_s = math.inf if done == hangs_at else run_s + task_s * pace
            if hard_s is not None and after_s > hard_s:
                run_s, is_stopped = max(run_s, hard_s), True
                break
            run_s = after_s
            if run_s > most_s:
                break
            done += 1
        ending = Ending.LOST if is_lost else Ending.ANSWERED
        if run_s > most_s:
            run_s, ending = most_s, Ending.TIMED_OUT
        if is_crashed:
            run_s, ending = run_s * where, Ending.CRASHED
        elif model.crash_per_s and (dies_s := rng.expovariate(model.crash_per_s)) < run_s:
            run_s, ending, is_stopped = dies_s, Ending.CRASHED, False
        is_last = ending in {Ending.CRASHED, Ending.TIMED_OUT} or (is_stopped and hangs_at >= 0)
        return Invocation(environment, ending, done, is_stopped, run_s, 0.0, 0.0, 0.0, is_last)


def fork(rng: Random) -> Random:
    """A generator of its own, so that what one part draws doesn't change what others do."""
    return type(rng)(rng.getrandbits(64))
