"""A model of the fleet on which a run was, from what its journal tells.

Pure. What can be told is measured or fitted, what can't stays as `FleetModel` assumes it, and each
quantity says which. How an attempt's time is parted, with its tasks' time by the worker's clock:

    sent -- wire_s/2 -- [cold start] -- overhead_s -- tasks -- wire_s/2 -- ended, as the client saw

An attempt in a warm environment gives `overhead_s` (the worker's total less its tasks) and `wire_s`
(the client's time less the worker's total); what a cold one takes beyond these is its start, with
imports, loading the kernel, and compiling.

A share of which nothing was seen is 0 only if what is assumed would have shown: of n cases none is
seen with a probability of 5 % if the share is 3/n. By how much a kernel's times vary from one call
to the next is in the times of the tasks: the model adds no noise of its own there. Crashes are
counted by the second, since after one the tasks go alone, and attempts are of unequal length.

What it does not tell: tasks that crash each time they run, or by themselves, look like environments
that die; an attempt that nobody waited for has no end, and if it was covered it counts as hung; of
tasks that failed no time is known, they are left out.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from fanout.errors import UsageError
from fanout.fleet import FleetModel
from fanout.paces import paces_of
from fanout.past_run import (
    busy_seconds,
    in_flight_at_refusals,
    kernel_seconds,
    median_span_s,
    observed,
)
from fanout.retry import FailureKind
from fanout.simulator import Work

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanout.past_run import Observed, PastAttempt, PastRun

Source = Literal["measured", "fitted", "assumed"]

# Fewer cold starts don't tell how they are spread.
_LEAST_STARTS: Final = 5
# A start is in the tail if it takes a second longer than the median, and is this far out.
_TAIL_S: Final = 1.0
_TAIL_SIGMAS: Final = 3.5
# What is launched within this time of the first is one burst; fewer than so many tell no rate.
_BURST_S: Final = 0.05
_LEAST_BURST: Final = 10
# With this many cases and none seen, a share of 3/n would have shown with 95 %.
_OF_THREE: Final = 3.0
# A request that was refused while fewer than this part of the most ran met no quota of ours.
_FULL: Final = 0.9
_LOST: Final = frozenset({FailureKind.MAYBE_RAN})
_CRASHED: Final = frozenset({FailureKind.CRASHED, FailureKind.OUT_OF_MEMORY})
_HUNG: Final = frozenset({FailureKind.TIMED_OUT})


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """Something of the model, and where it comes from.

    Attributes:
        name: Of the argument of `FleetModel`, or `tasks`.
        value: For people.
        source: How it is known.
        why: By what, or why not.
    """

    name: str
    value: str
    source: Source
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A model of a run.

    Attributes:
        work: Its tasks.
        fleet: Where it was.
        limit: What the client took for the quota; None: it knew.
        unit_s: What an earlier map had found that a task takes; None: nothing was known.
        quantities: How each is known.
        observed: What the run took and cost.
        gb_s: What it cost, GB-seconds; None on this machine.
    """

    work: Work
    fleet: FleetModel
    limit: int | None
    unit_s: float | None
    quantities: Sequence[Quantity]
    observed: Observed
    gb_s: float | None


def fit(run: PastRun, *, assumed: FleetModel | None = None) -> Fit:
    """Fit the model to a run.

    Args:
        run: What was.
        assumed: What stays where nothing can be told; None: what `FleetModel` has.

    Raises:
        UsageError: Nothing of it is done.
    """
    if not run.tasks:
        raise UsageError("nothing of the run is done: there is nothing to fit a model to")
    fitting = _Fitting(run, assumed or FleetModel())
    if not run.is_local:
        fitting.all()
    tasks = fitting.tasks()
    seen = observed(run, wire_s=fitting.fleet.wire_s if not run.is_local else 0.0)
    return Fit(
        work=Work(tasks=len(run.tasks), measured_s=fitting.seconds),
        fleet=fitting.fleet,
        limit=None if run.is_local else run.limit,
        unit_s=None if run.is_local else run.unit_s,
        quantities=[tasks, *fitting.quantities],
        observed=seen,
        gb_s=None if run.is_local else seen.billed_s * fitting.fleet.memory_mb / 1024,
    )


class _Fitting:
    """The fit of one run, quantity by quantity."""

    def __init__(self, run: PastRun, assumed: FleetModel) -> None:
        self._run = run
        self.fleet = assumed
        self.quantities: list[Quantity] = []
        self._ran = [attempt for attempt in run.attempts if attempt.has_run]
        self._answered = [attempt for attempt in self._ran if attempt.is_answered]
        self._busy_s = busy_seconds(run)
        self.seconds = kernel_seconds(run)
        self._is_paced = False

    def all(self) -> None:
        """Everything but the tasks."""
        self._function()
        self._paces()
        self._invocations()
        self._starts()
        self._client()
        self._failures()
        self._assume("idle_s", "environments_per_s", "burst", why="AWS's own")

    def tasks(self) -> Quantity:
        """Put the tasks into the order in which they went; what is known of them."""
        run, seconds = self._run, self.seconds
        if run.is_weighted:
            launched_s = {a.key: a.launched_s for a in run.attempts}
            went = [
                (task.session or 0, launched_s.get((task.session or 0, task.attempt or 0), 0.0), at)
                for at, task in enumerate(run.tasks)
            ]
            self.seconds = [seconds[at] for *_, at in sorted(went)]
        of = f" of {run.total:,}" if run.total not in {None, len(seconds)} else ""
        return Quantity(
            name="tasks",
            value=f"{len(seconds):,}{of}",
            source="measured",
            why=f"median {statistics.median(seconds):.3g} s, longest {max(seconds):.3g} s"
            + (", at pace 1" if self._is_paced else ""),
        )

    # ---- the function ----

    def _function(self) -> None:
        run = self._run
        for name, value in (("memory_mb", run.memory_mb), ("timeout_s", run.timeout_s)):
            if value is None:
                self._assume(name, why="the journal does not say")
            else:
                self._set("measured", "the function's", **{name: value})
        self._quota()
        refused = [a for a in run.attempts if a.kind is FailureKind.THROTTLED]
        if (refusal_s := median_span_s(refused)) is not None:
            self._set("measured", _of(len(refused), "refusal"), refusal_s=refusal_s)

    def _quota(self) -> None:
        """How many ran at once, and what was refused below that."""
        run = self._run
        seen = observed(run, wire_s=0.0).most_in_flight
        at_refusals = in_flight_at_refusals(run)
        full = _FULL * seen
        if not run.limit and seen:
            self._set("measured", "most in flight; it may be more", concurrency=seen)
        elif run.limit and seen < _FULL * run.limit and any(c >= full for c in at_refusals):
            told = _of(sum(count >= full for count in at_refusals), "refusal")
            self._set("measured", f"most in flight, with {told}", concurrency=seen)
        elif run.limit:
            full = run.limit  # that many are let in, so what was refused below that had room
            why = f"as the client found; {seen:,} were used at once"
            self._set("measured", why, concurrency=run.limit)
        if roomy := sum(count < full for count in at_refusals):
            self._share("refused_share", roomy, len(run.attempts), "request")

    def _paces(self) -> None:
        """How environments differ; what can't be told of it is in the times of the tasks."""
        run = self._run
        where = {attempt.key: attempt.environment for attempt in self._answered}
        environments = [
            None if t.session is None or t.attempt is None else where.get((t.session, t.attempt))
            for t in run.tasks
        ]
        self._set("measured", "in the times of the tasks", transient_share=0.0)
        paces = paces_of(self.seconds, environments)
        if paces is None:
            why = "too few environments: it is in the times of the tasks"
            self._set("measured", why, pace=(1.0, 1.0))
            self._set("measured", why, slow_share=0.0)
            return
        self.seconds = [
            seconds if environment is None else seconds / paces.of.get(environment, 1.0)
            for seconds, environment in zip(self.seconds, environments, strict=True)
        ]
        self._is_paced = True
        half = min(0.9, math.sqrt(3.0) * paces.spread)  # of a uniform distribution as wide
        count = len(paces.of)
        told = f"medians of the tasks of {_of(count, 'environment')}"
        self._set("fitted", told, pace=(1 - half, 1 + half))
        self._share("slow_share", len(paces.slow), count, "environment")
        if paces.slow:
            self._set("fitted", told, slow_factor=(min(paces.slow), max(paces.slow)))

    # ---- attempts ----

    def _invocations(self) -> None:
        """What an attempt takes besides its tasks, in a warm environment."""
        warm = [a for a in self._answered if not a.is_cold and a.key in self._busy_s]
        if not warm:
            why = "no attempt in a warm environment answered"
            self._assume("overhead_s", why=why)
            return
        beside = [(a.total_s or 0.0) - self._busy_s[a.key] for a in warm]
        wires = [a.span_s - (a.total_s or 0.0) for a in warm]
        told = _of(len(warm), "warm attempt")
        self._set("fitted", told, overhead_s=max(0.0, statistics.fmean(beside)))
        self._set("fitted", told, wire_s=max(0.0, statistics.median(wires)))

    def _starts(self) -> None:
        """How long environments took to start."""
        fleet = self.fleet
        cold = [a for a in self._answered if a.is_cold and a.key in self._busy_s]
        warm = _warm_at_first(self._run, self._ran)
        self._set("measured", "environments that had served before", warm=warm)
        beside_s = fleet.overhead_s + fleet.wire_s
        starts = [max(1e-3, a.span_s - self._busy_s[a.key] - beside_s) for a in cold]
        told = _of(len(starts), "cold start")
        if not starts:
            why = "no cold start was seen"
            self._assume("cold_median_s", "cold_sigma", "cold_tail_share", why=why)
            return
        median_s = statistics.median(starts)
        self._set("fitted", told, cold_median_s=median_s)
        if len(starts) < _LEAST_STARTS:
            self._assume("cold_sigma", "cold_tail_share", why=f"only {told}")
            return
        logs = [math.log(start / median_s) for start in starts]
        sigma = 1.4826 * statistics.median(abs(value) for value in logs)
        far = [
            start - median_s
            for start, value in zip(starts, logs, strict=True)
            if value > _TAIL_SIGMAS * sigma and start > median_s + _TAIL_S
        ]
        self._set("fitted", told, cold_sigma=sigma)
        self._share("cold_tail_share", len(far), len(starts), "cold start")
        if far:
            self._set("fitted", _of(len(far), "late one"), cold_tail_s=(min(far), max(far)))

    def _client(self) -> None:
        """How many launches a second the client made, in its largest burst."""
        burst = _largest_burst(self._run.attempts)
        took_s = 0.0
        if burst:
            took_s = max(a.sent_s for a in burst) - min(a.launched_s for a in burst)
        if len(burst) < _LEAST_BURST or took_s <= 0:
            why = f"no {_LEAST_BURST} launches at once were seen"
            self._assume("launches_per_s", why=why)
            return
        told = f"the largest burst, of {len(burst):,}"
        self._set("fitted", told, launches_per_s=(len(burst) - 1) / took_s)

    def _failures(self) -> None:
        """Which share of attempts ended badly, and how."""
        crashes = sum(a.kind in _CRASHED for a in self._ran)
        if crashes:
            # Attempts are of very different lengths: after a crash tasks go one by one.
            ran_s = sum(self._busy_s.values()) + sum(
                a.span_s for a in self._ran if not a.is_answered
            )
            told = f"{crashes:,} died in {ran_s:,.0f} s of tasks"
            self._set("fitted", told, crash_share=0.0, crash_per_s=crashes / ran_s)
        else:
            self._share("crash_share", 0, len(self._ran), "attempt")
        covered = {(a.session, a.covers) for a in self._run.attempts if a.covers is not None}
        silent = sum(a.is_open and a.key in covered for a in self._ran)
        for name, kinds, more in (
            ("lost_share", _LOST, 0),
            ("hang_share", _HUNG, silent),
        ):
            count = more + sum(a.kind in kinds for a in self._ran)
            self._share(name, count, len(self._ran), "attempt")

    # ---- how it is told ----

    def _share(self, name: str, count: int, cases: int, what: str) -> None:
        """A share of cases, if so many tell it."""
        before: float = getattr(self.fleet, name)
        if count or before >= _OF_THREE / max(1, cases):
            told = f"{count:,} of {_of(cases, what)}"
            self._set("fitted", told, **{name: count / max(1, cases)})
        else:
            why = f"none of {_of(cases, what)}" + (", too few to rule it out" if before else "")
            self._assume(name, why=why)

    def _set(self, source: Source, why: str, **values: Any) -> None:
        self.fleet = replace(self.fleet, **values)
        self.quantities += [
            Quantity(name=name, value=_shown(value), source=source, why=why)
            for name, value in values.items()
        ]

    def _assume(self, *names: str, why: str) -> None:
        self.quantities += [
            Quantity(name=name, value=_shown(getattr(self.fleet, name)), source="assumed", why=why)
            for name in names
        ]


def _largest_burst(attempts: Sequence[PastAttempt]) -> list[PastAttempt]:
    """The most attempts that were launched at the same time, as good as."""
    sent = [a for a in attempts if a.started_s is not None]
    best: list[PastAttempt] = []
    burst: list[PastAttempt] = []
    for attempt in sorted(sent, key=lambda a: (a.session, a.launched_s)):
        is_same = burst and attempt.session == burst[0].session
        if not (is_same and attempt.launched_s - burst[0].launched_s <= _BURST_S):
            burst = []
        burst.append(attempt)
        if len(burst) > len(best):
            best = [*burst]
    return best


def _warm_at_first(run: PastRun, ran: Sequence[PastAttempt]) -> int:
    """How many environments were there before the run.

    One whose first attempt did not answer looks as if: as many may be such.
    """
    first = min((attempt.session for attempt in ran), default=0)
    cold = {a.environment for a in run.attempts if a.is_cold}
    seen = {a.environment for a in ran if a.session == first and a.environment is not None}
    unanswered = sum(not a.is_answered for a in ran)
    return max(0, len(seen - cold) - unanswered)


def _of(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return " to ".join(_shown(part) for part in value)
    if isinstance(value, int) or value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
