"""Runs of the scheduler against a modelled fleet, in virtual time: what a policy would bring.

Pure. The very `Scheduler` that runs maps decides, `fleet.Fleet` is the service with its
environments, and a heap of what is due next is the clock. Launches wait for each other, since the
client sends one request at a time. It is checked that every task is delivered exactly once.

What it leaves out: what answers cost the client, payloads, compiling, and what kernels raise. The
fleet's noise is assumed, or fitted to a run that was (`fitting`).
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import fanout.events as events
from fanout.budget import Billed, Rates
from fanout.capacity import Capacity
from fanout.errors import UsageError
from fanout.fleet import Ending, Fleet, FleetModel, Invocation, Refusal, fork
from fanout.grouping import Estimate, Grouping
from fanout.guards import guards_of
from fanout.lambda_figures import GROUPING, INIT_S
from fanout.retry import Failure, FailureKind, RetryPolicy
from fanout.scheduler import Scheduler
from fanout.tasks import AttemptReport, Environment, Outcome
from fanout.token_bucket import RateLimit

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from fanout.events import Action, Event, Launch
    from fanout.grouping import GroupPolicy
    from fanout.guards import Guards

# What `spread` is if none is given. For pareto: a tail so heavy that it just has no variance.
_SPREADS: Final = {"constant": 0.0, "lognormal": 0.5, "pareto": 2.0, "drifting": 9.0}
# Samples of a run are thinned out when there are so many.
_MOST_SAMPLES: Final = 512
# Events per task after which a run is taken to go on for ever; refusals may be many.
_MOST_EVENTS_PER_TASK: Final = 1000
_FAILURES: Final = {
    Ending.CRASHED: Failure(kind=FailureKind.CRASHED, detail="the environment died"),
    Ending.LOST: Failure(kind=FailureKind.MAYBE_RAN, detail="the answer was lost"),
}
_REFUSALS: Final = frozenset({FailureKind.THROTTLED, FailureKind.UNREACHABLE})
_NEVER_SENT: Final = Failure(kind=FailureKind.DID_NOT_RUN, detail="ignored before it was sent")


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What there is to do: how long each task takes in an environment of pace 1.

    Attributes:
        tasks: How many.
        mean_s: Mean time of a task, seconds; without meaning if they are measured.
        kind: How times are distributed: constant, lognormal, pareto, or drifting, which is from the
            first task to the last in equal steps.
        spread: Of the distribution; None: a usual one. lognormal: sigma of the logarithm (0.5).
            pareto: the tail's exponent, above 1 (2). drifting: the last over the first (9).
        measured_s: Times that were measured, seconds; taken instead, in order and again.
    """

    tasks: int
    mean_s: float = 1.0
    kind: str = "constant"
    spread: float | None = None
    measured_s: Sequence[float] = ()

    def __post_init__(self) -> None:
        if self.tasks < 1:
            raise UsageError(f"Work(tasks={self.tasks!r}) must be 1 or more")
        if self.kind not in _SPREADS:
            raise UsageError(f"Work(kind={self.kind!r}) must be one of {', '.join(_SPREADS)}")
        if not 0 < self.mean_s < math.inf:
            raise UsageError(f"Work(mean_s={self.mean_s!r}) must be seconds, above 0")
        least = {"pareto": 1.0, "drifting": 0.0}.get(self.kind, -math.inf)
        if not least < self._spread < math.inf:
            raise UsageError(f"Work(spread={self.spread!r}) must be above {least:g}")
        if not all(0 <= seconds < math.inf for seconds in self.measured_s):
            raise UsageError("Work(measured_s=…) must all be seconds, 0 or more")

    @property
    def _spread(self) -> float:
        return _SPREADS[self.kind] if self.spread is None else self.spread

    def seconds(self, rng: Random) -> list[float]:
        """The time of each task."""
        count, spread = self.tasks, self._spread
        if self.measured_s:
            times = len(self.measured_s)
            return [self.measured_s[index % times] for index in range(count)]
        match self.kind:
            case "lognormal":
                mu = math.log(self.mean_s) - spread**2 / 2
                return [math.exp(rng.gauss(mu, spread)) for _ in range(count)]
            case "pareto":
                least_s = self.mean_s * (spread - 1) / spread
                return [least_s * rng.paretovariate(spread) for _ in range(count)]
            case "drifting":
                first_s = 2 * self.mean_s / (1 + spread)
                step_s = first_s * (spread - 1) / max(1, count - 1)
                return [first_s + index * step_s for index in range(count)]
            case _:
                return [self.mean_s] * count


class Sample(NamedTuple):
    """How a run stood at a time."""

    at_s: float
    in_flight: int
    environments: int
    delivered: int


@dataclass(slots=True, kw_only=True)
class SimulatedRun:
    """What a simulated run took and cost.

    Attributes:
        tasks: How many there were.
        failed_tasks: How many of them ended with an error.
        makespan_s: From the first launch to the last outcome, seconds.
        billed_ms: Milliseconds billed, to the ends of attempts that nobody wanted any more.
        gb_s: The same in GB-seconds.
        usd: The same with its requests in US dollars; None unless somebody has priced it.
        attempts: Attempts that ran.
        launches: Requests that were sent, refused ones included.
        throttles: 429s by their reason.
        retries: Times that tasks were sent again after a failure other than a refusal.
        hedges: Attempts launched while another one had the same task.
        ignored: Attempts that nobody waited for any more when they answered, or at the end.
        lefts: Answers that left tasks.
        cold_starts: Environments that were started.
        most_in_flight: Most invocations at once, as the service counts.
        failure: Why the run ended before every task was settled; empty if it did not.
        samples: How it went, at equal distances of time.
    """

    tasks: int
    failed_tasks: int = 0
    makespan_s: float = 0.0
    billed_ms: int = 0
    gb_s: float = 0.0
    usd: float | None = None
    attempts: int = 0
    launches: int = 0
    throttles: Counter[str] = field(default_factory=Counter)
    retries: int = 0
    hedges: int = 0
    ignored: int = 0
    lefts: int = 0
    cold_starts: int = 0
    most_in_flight: int = 0
    failure: str = ""
    samples: list[Sample] = field(default_factory=list)


def lambda_grouping(fleet: FleetModel, *, fixed: int | None = None) -> GroupPolicy:
    """How a map on Lambda groups its tasks, unless there are `fixed` so many in each attempt."""
    return replace(
        GROUPING,
        most_s=min(GROUPING.most_s, fleet.timeout_s / 4),
        launches_per_s=fleet.launches_per_s,
        fixed=fixed,
    )


def lambda_guards(fleet: FleetModel, limit: int, **options: Any) -> Guards:
    """What keeps an eye on a map on Lambda, that knows how fast the fleet may grow.

    Args:
        fleet: Where it runs.
        limit: What it takes for the quota.
        **options: Of `guards_of`.
    """
    return guards_of(
        Billed(gb=fleet.memory_mb / 1024, timeout_s=fleet.timeout_s, init_s=INIT_S),
        Capacity(
            limit,
            growth=RateLimit(per_s=fleet.environments_per_s, burst=fleet.burst),
            rate=RateLimit(per_s=10.0 * limit, burst=10 * limit),
        ),
        **options,
    )


def simulate(
    work: Work,
    fleet: FleetModel,
    *,
    rng: Random,
    grouping: GroupPolicy | None = None,
    estimate: Estimate | None = None,
    retry: RetryPolicy | None = None,
    limit: int | None = None,
    hedge: bool = True,
    max_gb_s: float | None = None,
    max_usd: float | None = None,
    rates: Rates | None = None,
) -> SimulatedRun:
    """Run the scheduler on this work and fleet.

    Args:
        work: What there is to do.
        fleet: Where.
        rng: Source of all chance. The same state gives the same run; the same work and the same
            environments, whatever the other arguments.
        grouping: Bounds of groups; None: those of a map on Lambda.
        estimate: What an earlier map has found of a task; None: nothing is known.
        retry: When a failed task is tried again.
        limit: What the client takes for the quota; None: it knows.
        hedge: Whether silent attempts get covers.
        max_gb_s: What the run may cost, GB-seconds; None: whatever it takes.
        max_usd: What it may cost, US dollars.
        rates: What dollars are counted by.
    """
    limit = limit or fleet.concurrency
    seconds = work.seconds(fork(rng))
    service = Fleet(fleet, fork(rng))
    scheduler = Scheduler(
        limit=limit,
        grouping=Grouping(grouping or lambda_grouping(fleet), estimate=estimate),
        rng=fork(rng),
        retry=retry,
        can_stop=False,
        guards=lambda_guards(
            fleet, limit, hedges=hedge, max_gb_s=max_gb_s, max_usd=max_usd, rates=rates
        ),
        total=len(seconds),
    )
    return drive(scheduler, seconds, service)


def drive(scheduler: Scheduler, seconds: Sequence[float], fleet: Fleet) -> SimulatedRun:
    """Run a scheduler that is new to its end, with these times of tasks, on a fleet that is."""
    return _Drive(scheduler, seconds, fleet).to_the_end()


class _Drive:
    """The engine's part: performs actions, and feeds what comes of them."""

    def __init__(self, scheduler: Scheduler, seconds: Sequence[float], fleet: Fleet) -> None:
        self._scheduler = scheduler
        self._seconds = seconds
        self._fleet = fleet
        self._run = SimulatedRun(tasks=len(seconds))
        # (when, tie, launch, None) reaches the service; (…, what it came to) reaches the client.
        self._due: list[tuple[float, int, Launch, Invocation | Refusal | None]] = []
        self._tie = 0
        self._now_s = 0.0
        self._timer_s = math.inf
        self._client_free_s = 0.0
        self._offered = 0
        self._wanted: dict[int, Launch] = {}  # attempts that the scheduler waits for
        self._copies = [0] * len(seconds)  # how many of these have a task
        self._delivered = bytearray(len(seconds))
        self._deliveries = 0
        self._sample_every_s = 0.05
        self._sampled_s = -math.inf

    def to_the_end(self) -> SimulatedRun:
        """Until the scheduler says `Finish`."""
        run, tasks = self._run, len(self._seconds)
        self._feed(events.Ticked())
        for _ in range(_MOST_EVENTS_PER_TASK * (tasks + 1000)):
            if self._scheduler.is_finished:
                break
            self._step()
            if self._now_s - self._sampled_s >= self._sample_every_s:
                self._sample()
        else:
            raise AssertionError(f"the run goes on and on: {self._scheduler!r}")
        assert run.failure or self._deliveries == tasks, "a task was not delivered"
        self._sample()
        run.makespan_s = self._now_s
        run.billed_ms = self._fleet.billed_ms
        run.gb_s = run.billed_ms * self._fleet.model.memory_mb / (1024 * 1000)
        run.cold_starts = self._fleet.started
        run.most_in_flight = self._fleet.most_in_flight
        return run

    def _step(self) -> None:
        due = self._due
        if not due or self._timer_s <= due[0][0]:
            assert self._timer_s < math.inf, f"the run is stuck: {self._scheduler!r}"
            self._now_s = max(self._now_s, self._timer_s)
            self._timer_s = math.inf
            self._feed(events.Ticked())
            return
        self._now_s, _, launch, what = heapq.heappop(due)
        if what is None:
            self._arrive(launch)
        elif isinstance(what, Refusal):
            failure = Failure(
                kind=FailureKind.THROTTLED, reason=what.reason.value, wait_s=what.wait_s
            )
            self._end(launch, events.AttemptFailed(launch.attempt, failure))
        else:
            self._fleet.ended(what)
            self._end(launch, self._answer(launch, what))

    def _feed(self, event: Event) -> None:
        for action in self._scheduler.handle(event, self._now_s):
            self._perform(action)
        if wanted := self._scheduler.wanted:
            first, count = self._offered, min(wanted, len(self._seconds) - self._offered)
            self._offered += count
            self._feed(events.Offered(first, count) if count else events.InputEnded())

    def _perform(self, action: Action) -> None:
        match action:
            case events.Launch():
                self._launch(action)
            case events.Deliver(outcomes=outcomes):
                for outcome in outcomes:
                    assert not self._delivered[outcome.index], f"{outcome.index}: delivered twice"
                    self._delivered[outcome.index] = 1
                    self._run.failed_tasks += outcome.error is not None
                self._deliveries += len(outcomes)
            case events.WakeAt(at_s=at_s):
                self._timer_s = at_s
            case events.Ignore(attempt=number):
                self._run.ignored += self._forget(number)
            case events.Retry(failure=failure):
                self._run.retries += failure.kind not in _REFUSALS
            case events.Finish(failure=failure) if failure is not None:
                self._run.failure = failure.detail or str(failure.error or failure.kind.value)

    def _launch(self, launch: Launch) -> None:
        self._wanted[launch.attempt] = launch
        self._run.hedges += self._copies[launch.tasks[0]] > 0
        for task in launch.tasks:
            self._copies[task] += 1
        began_s = max(self._client_free_s, self._now_s)
        self._client_free_s = began_s + 1 / self._fleet.model.launches_per_s
        self._later(self._client_free_s, launch, None)

    def _forget(self, number: int) -> bool:
        """Nobody waits for an attempt any more; whether somebody did."""
        launch = self._wanted.pop(number, None)
        if launch is None:
            return False
        for task in launch.tasks:
            self._copies[task] -= 1
        return True

    def _later(self, at_s: float, launch: Launch, what: Invocation | Refusal | None) -> None:
        self._tie += 1
        heapq.heappush(self._due, (at_s, self._tie, launch, what))

    def _arrive(self, launch: Launch) -> None:
        """A request reaches the service, unless nobody wants it any more."""
        if launch.attempt not in self._wanted:
            self._end(launch, events.AttemptFailed(launch.attempt, _NEVER_SENT))
            return
        self._run.launches += 1
        seconds = [self._seconds[task] for task in launch.tasks]
        what = self._fleet.invoke(self._now_s, seconds, launch.soft_s, launch.hard_s)
        if isinstance(what, Refusal):
            self._run.throttles[what.reason.value] += 1
            self._later(self._now_s + self._fleet.model.refusal_s, launch, what)
        else:
            self._run.attempts += 1
            self._later(what.ends_s, launch, what)
        self._feed(events.AttemptStarted(launch.attempt))  # on Lambda: that it was sent

    def _end(self, launch: Launch, event: Event) -> None:
        is_wanted = not all(self._delivered[task] for task in launch.tasks)
        self._run.ignored += self._forget(launch.attempt) and not is_wanted
        self._feed(event)

    def _answer(self, launch: Launch, what: Invocation) -> Event:
        """What the client learns of an invocation that has ended."""
        tasks, number = launch.tasks, launch.attempt
        if what.ending in _FAILURES:
            return events.AttemptFailed(number, _FAILURES[what.ending])
        if what.ending is Ending.TIMED_OUT:
            allowed_s = self._fleet.model.timeout_s
            failure = Failure(kind=FailureKind.TIMED_OUT, allowed_s=allowed_s)
            return events.AttemptFailed(number, failure)
        if what.is_stopped and len(tasks) == 1:
            failure = Failure(kind=FailureKind.TIMED_OUT, hard_s=launch.hard_s)
            return events.AttemptFailed(number, failure)
        report = _report(number, what)
        done, left = tasks[: what.done], tasks[what.done :]
        outcomes: list[Outcome[None]] = [Outcome(task, report=report) for task in done]
        self._run.lefts += bool(left)
        return events.AttemptAnswered(number, outcomes, report, left)

    def _sample(self) -> None:
        self._sampled_s = self._now_s
        fleet, samples = self._fleet, self._run.samples
        samples.append(Sample(self._now_s, fleet.in_flight, fleet.environments, self._deliveries))
        if len(samples) >= _MOST_SAMPLES:
            del samples[1::2]
            self._sample_every_s *= 2


def _report(number: int, what: Invocation) -> AttemptReport:
    return AttemptReport(
        attempt=number,
        environment=Environment(id=str(what.environment.number), pid=1, machine="model"),
        is_cold=what.init_s > 0,
        received_epoch_s=what.began_s + what.init_s,
        setup_s=0.0,
        kernel_s=what.run_s,
        compile_s=0.0,
        total_s=what.run_s,
        peak_memory_bytes=None,
        payload_bytes=0,
    )
