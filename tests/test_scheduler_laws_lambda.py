"""The laws of runs as on Lambda: several schedulers on one capacity, with all that guards them.

`LambdaLaws` is a state machine of Hypothesis, the sister of the one in `test_scheduler_laws.py`. It
plays the service, the inputs, the consumers and the clock. What must be true it has from books of
its own, kept from the actions alone: `lambda_service.py` on what is in flight, on environments and
the bill, `lambda_books.py` on what must become of each task. No attempt can be stopped; one that
nobody wants runs on. Twins of the schedulers, on a capacity of their own, are fed the same events.

At the end the service turns kind: every run must come to its end, and leave nothing behind.
"""

from __future__ import annotations

import math
import random
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
from hypothesis import Phase, event, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fanout.budget import Billed, Budget
from fanout.capacity import Capacity
from fanout.errors import BudgetExceededError, ChunkError
from fanout.events import (
    AttemptAnswered,
    AttemptFailed,
    AttemptStarted,
    Cancelled,
    Consumed,
    Deliver,
    Event,
    Finish,
    InputEnded,
    Launch,
    Offered,
    Retry,
    Ticked,
    WakeAt,
)
from fanout.grouping import Estimate, Grouping, GroupPolicy
from fanout.guards import Guards
from fanout.hard_stops import HardStops
from fanout.hedge_policy import HedgePolicy
from fanout.hedging import Hedging
from fanout.retry import Failure, FailureKind, RetryPolicy
from fanout.scheduler import Scheduler
from fanout.storm import StormGuard
from fanout.tasks import Outcome
from fanout.throttle import PATIENCE_S
from fanout.token_bucket import RateLimit
from tests.lambda_books import Attempt, Run
from tests.lambda_service import Service
from tests.scheduler_checks import (
    comparable,
    held_by,
    invariants,
    left_by,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# By how much asyncio may run a timer before its time: the resolution of the clock.
_EARLY_S = 1e-9
# Drawn rarely: Hypothesis likes the ends of a range.
_RARE = 7
# Once the service is kind and answers at once, and no rate is limited, runs wait for no more than
# pauses, back-off and probes, seconds.
_KIND_S = 60.0

_REASONS = st.sampled_from(
    [
        "ConcurrentInvocationLimitExceeded",
        "ReservedFunctionConcurrentInvocationLimitExceeded",
        "FunctionInvocationRateLimitExceeded",
        "CallerRateLimitExceeded",
        None,
    ]
)
_WAITS_S = st.sampled_from([None, None, 0.0, 0.3, 5.0])
_FATES = st.sampled_from(
    ["ok", "ok", "ok", "raised", "worth a retry", "no memory", "too long", "refused", "missing"]
)
_KINDS = st.sampled_from(
    [
        FailureKind.CRASHED,
        FailureKind.OUT_OF_MEMORY,
        FailureKind.TIMED_OUT,
        FailureKind.MAYBE_RAN,
        FailureKind.REFUSED,
    ]
)
_NEVER_SENT = st.sampled_from([FailureKind.UNREACHABLE, FailureKind.DID_NOT_RUN])
_RATES = st.sampled_from([None, None, RateLimit(per_s=2.0, burst=3), RateLimit(per_s=0.7, burst=1)])
_CHOICE = st.integers(0, 47)
_OPTIONS = st.fixed_dictionaries(
    {
        "fixed": st.sampled_from([None, 1, 3]),
        "probes": st.sampled_from([None, None, 4]),
        "unit_s": st.sampled_from([None, 0.5, 0.5, 3.0]),
        "max_attempts": st.integers(1, 3),
        "max_lost": st.integers(1, 3),
        "retry_timeouts": st.booleans(),
        "base_s": st.sampled_from([0.0, 0.05, 1.0]),
        "is_idempotent": st.sampled_from([True, True, True, True, False]),
        "can_escalate": st.booleans(),
        "share": st.sampled_from([None, 0.0, 0.1, 1.0, 1.0]),
        "start_s": st.sampled_from([0.5, 0.5, 8.0]),
        "max_gb_s": st.sampled_from([None, None, None, 90.0, 250.0, 1000.0]),
        "task_s": st.sampled_from([None, None, 5.0]),
        "total": st.sampled_from([None, 7, 1000]),
        "ordered": st.booleans(),
        "consumed": st.booleans(),
        "fails_fast": st.sampled_from([False, False, False, True]),
        "weighted": st.sampled_from([False, False, True]),
    }
)


class _WorthARetryError(Exception):
    """What a kernel raises when another attempt may help."""


class LambdaLaws(RuleBasedStateMachine):
    """The service, inputs, consumers and the clock around some schedulers."""

    @initialize(
        limit=st.sampled_from([1, 2, 3, 5, 8, 12]),
        growth=_RATES,
        rate=_RATES,
        options=st.lists(_OPTIONS, min_size=1, max_size=3),
        timeout_s=st.sampled_from([40.0, 900.0]),
        init_s=st.sampled_from([0.0, 10.0]),
        overruns=st.sampled_from([False, False, False, True]),
        seed=st.integers(0, 2**32),
        offers=st.integers(0, 9),
    )
    def begin(
        self,
        limit: int,
        growth: RateLimit | None,
        rate: RateLimit | None,
        options: list[dict[str, Any]],
        timeout_s: float,
        init_s: float,
        overruns: bool,
        seed: int,
        offers: int,
    ) -> None:
        self.limit, self.growth, self.rate = limit, growth, rate
        larger = Billed(gb=3.0, timeout_s=timeout_s, init_s=init_s)
        self.billed = Billed(gb=1.0, timeout_s=timeout_s, init_s=init_s, larger=larger)
        self.capacity, self.twin_capacity = (
            Capacity(limit, growth=growth, rate=rate) for _ in range(2)
        )
        self.service = Service(
            limit, growth=growth, rate=rate, billed=self.billed, overruns=overruns
        )
        self.now_s = 50.0
        self.runs = self.service.runs = [
            self._joined(seed + n, chosen) for n, chosen in enumerate(options)
        ]
        self.seen: set[str] = set()  # what happened, for statistics
        self.is_broken = False
        if offers != _RARE:  # Hypothesis leaves out rules: without this one nothing would happen
            for run in self.runs:
                self._offer(run, 1.0)

    def _joined(self, seed: int, options: dict[str, Any]) -> Run:
        retry = RetryPolicy(
            max_attempts=options["max_attempts"],
            on=(_WorthARetryError,),
            retry_timeouts=options["retry_timeouts"],
            base_s=options["base_s"],
            cap_s=1.5,
            max_lost=options["max_lost"],
        )
        policy = GroupPolicy(
            fixed=options["fixed"],
            least_s=2.0,
            most_s=20.0,
            max_tasks=6,
            probes=options["probes"],
            launches_per_s=1000.0,
        )
        unit_s = options["unit_s"]
        estimate = Estimate(unit_s=unit_s) if unit_s is not None else None
        has_budget = options["max_gb_s"] is not None

        def hedging() -> Hedging | None:
            share = options["share"]
            if share is None:
                return None
            hedge = HedgePolicy(share=share, hang_share=share)
            return Hedging(hedge, gb=self.billed.gb, start_s=options["start_s"])

        def make(capacity: Capacity) -> tuple[Scheduler, Hedging | None, Budget | None]:
            hedges = hedging()
            budget = Budget(options["max_gb_s"], self.billed.gb) if has_budget else None
            stops = HardStops(is_bounded=has_budget, timeout_s=options["task_s"])
            scheduler = Scheduler(
                limit=self.limit,
                grouping=Grouping(policy, estimate=estimate),
                rng=random.Random(seed),
                retry=retry,
                is_idempotent=options["is_idempotent"],
                can_escalate=options["can_escalate"],
                can_stop=False,
                guards=Guards(
                    capacity=capacity,
                    hedging=hedges,
                    storm=StormGuard(),
                    stops=stops if options["is_idempotent"] else None,
                    budget=budget,
                    billed=self.billed,
                ),
                total=options["total"],
                is_ordered=options["ordered"],
                is_consumed=options["consumed"],
                stops_on_failure=options["fails_fast"],
            )
            return scheduler, hedges, budget

        twin, *_ = make(self.twin_capacity)
        scheduler, hedges, budget = make(self.capacity)
        run = Run(options, scheduler, twin, hedges, budget, retry, self.limit)
        run.most_ever_allowed = scheduler.window
        return run

    # ---- what may happen ----

    # None has a precondition: what can't happen does nothing, and Hypothesis need not search.

    @rule(choice=_CHOICE, share=st.floats(0.0, 1.0))
    def offer(self, choice: int, share: float) -> None:
        self._offer(self.runs[choice % len(self.runs)], share)

    def _offer(self, run: Run, share: float) -> None:
        if not run.scheduler.wanted:
            return
        count = max(1, round(share * run.scheduler.wanted))
        first, run.offered = run.offered, run.offered + count
        weights = None
        if run.options["weighted"]:
            weights = [1.0 + task % 3 for task in range(first, run.offered)]
        self._feed(run, Offered(first, count, weights))

    @rule(choice=_CHOICE, luck=st.integers(0, 9))
    def end_input(self, choice: int, luck: int) -> None:
        run = self.runs[choice % len(self.runs)]
        if run.offered > 2 * luck and not run.is_ended:
            run.is_ended = True
            self._feed(run, InputEnded())

    @rule(choice=_CHOICE)
    def start(self, choice: int) -> None:
        if (attempt := self._of(choice, self.service.flying())) is not None:
            self._feed(attempt.run, AttemptStarted(attempt.launch.attempt))

    @rule(
        choice=_CHOICE,
        fates=st.lists(_FATES, min_size=1, max_size=3),
        left=st.sampled_from([None, None, 0, 1, 2, 9]),
        reports=st.booleans(),
        extra=st.integers(0, 9),
    )
    def answer(
        self, choice: int, fates: list[str], left: int | None, reports: bool, extra: int
    ) -> None:
        """Any answer, also one that contradicts itself."""
        attempt = self._of(choice, self.service.speaking())
        if attempt is None:
            return
        tasks = attempt.tasks
        remains = tasks if left is None else tasks[:left]
        outcomes = [
            outcome
            for place, task in enumerate(remains)
            if (outcome := self._outcome(attempt, task, fates[place % len(fates)])) is not None
        ]
        if extra == _RARE:
            outcomes += [Outcome(outcome.index, "duplicate") for outcome in outcomes]
        if extra == 1:
            outcomes.insert(0, Outcome(attempt.run.offered + 3, "foreign"))
        self._answer(attempt, outcomes, tasks[len(remains) :], reports=reports)

    @rule(choice=_CHOICE, count=st.integers(1, 12), after_s=st.sampled_from([0.0, 0.5, 1.0]))
    def answer_well(self, choice: int, count: int, after_s: float) -> None:
        """So that runs get anywhere at all."""
        self._pass(after_s)
        for _ in range(count):
            if (attempt := self._of(choice, self.service.speaking())) is None:
                return
            self._answer_well(attempt)

    @rule(choice=_CHOICE, done=st.integers(0, 3), is_process=st.booleans())
    def stop_hard(self, choice: int, done: int, is_process: bool) -> None:
        """A task runs into the hard deadline of its group, or of its own."""
        attempt = self._of(
            choice, [a for a in self.service.speaking() if a.launch.hard_s is not None]
        )
        if attempt is None:
            return
        launch = attempt.launch
        assert launch.hard_s is not None
        if attempt.at_s + launch.hard_s >= attempt.ends_s:
            return  # the service is faster
        self._pass_to(max(self.now_s, attempt.at_s + launch.hard_s))
        if launch.attempt not in attempt.run.flying:
            return
        self.seen.add("hard stop")
        if is_process:
            failure = Failure(kind=FailureKind.TIMED_OUT, hard_s=launch.ends_s)
            self._fail(attempt, failure)
            return
        tasks = attempt.tasks
        done = min(done, len(tasks) - 1)
        outcomes = [Outcome(task, (task, launch.attempt)) for task in tasks[:done]]
        if done or len(tasks) == 1:
            late = Failure(kind=FailureKind.TIMED_OUT, hard_s=launch.hard_s)
            outcomes.append(Outcome(tasks[done], error=TimeoutError("hard"), failure=late))
            self._answer(attempt, outcomes, tasks[done + 1 :], reports=True)
        else:
            self._answer(attempt, [], tasks, reports=True)

    @rule(
        choice=_CHOICE,
        kind=_KINDS,
        times=st.sampled_from([1, 1, 1, 1, 4, 400]),
        is_service=st.booleans(),
        with_error=st.booleans(),
    )
    def fail(
        self, choice: int, kind: FailureKind, times: int, is_service: bool, with_error: bool
    ) -> None:
        """Of an environment; or of all, one after the other."""
        for _ in range(times):
            if times > 1 and not self.service.speaking():
                self.service.places, self.service.is_reachable = self.limit, True
                for run in self.runs:
                    if run.finish is None:
                        self._offer(run, 1.0)
                self.fire_timer(is_early=False, times=1)
            failing = self._of(choice, self.service.speaking())
            if failing is None:
                return
            failure = Failure(
                kind=kind,
                detail="by the test",
                error=_WorthARetryError("of the attempt") if with_error else None,
                allowed_s=self.billed.timeout_s if is_service else None,
            )
            self._fail(failing, failure)

    @rule(choice=_CHOICE, kind=_KINDS, luck=st.integers(0, 14))
    def fail_fatally(self, choice: int, kind: FailureKind, luck: int) -> None:
        attempt = self._of(choice, self.service.speaking())
        if luck == _RARE and attempt is not None:
            self._fail(attempt, Failure(kind=kind, error=ChunkError(0, "fatal"), is_fatal=True))

    @rule(choice=_CHOICE, reason=_REASONS, wait_s=_WAITS_S, times=st.integers(1, 12))
    def refuse(self, choice: int, reason: str | None, wait_s: float | None, times: int) -> None:
        """The service tells of those that it has no place for, as others take some."""
        if choice % 2 and not self.service.refused():
            self.service.places = choice % self.limit
            for speaking in self.service.speaking()[:1]:
                self._answer_well(speaking)
            self.fire_timer(is_early=False, times=1)
        for _ in range(times):
            if (attempt := self._of(choice, self.service.refused())) is None:
                return
            self.seen.add("throttle")
            self._fail(attempt, Failure(kind=FailureKind.THROTTLED, reason=reason, wait_s=wait_s))

    @rule(choice=_CHOICE, kind=_NEVER_SENT, wait_s=_WAITS_S, times=st.integers(1, 40))
    def never_reach(self, choice: int, kind: FailureKind, wait_s: float | None, times: int) -> None:
        for _ in range(times):
            if times > 20 and not self.service.unsent():
                self.fire_timer(is_early=False, times=1)
            if (attempt := self._of(choice, self.service.unsent())) is None:
                return
            self._fail(attempt, Failure(kind=kind, detail="by the test", wait_s=wait_s))

    @rule(others=st.integers(0, 12), luck=st.integers(0, 3))
    def others_come_and_go(self, others: int, luck: int) -> None:
        """Other work of the account."""
        self.service.places = self.limit if luck else max(0, self.limit - others)

    @rule(is_reachable=st.sampled_from([True, True, False]))
    def connect(self, is_reachable: bool) -> None:
        self.service.is_reachable = is_reachable

    @rule(choice=_CHOICE, luck=st.integers(0, 9))
    def retire(self, choice: int, luck: int) -> None:
        """The service takes an idle environment away, and tells nobody."""
        if luck == _RARE:
            self.service.retire(choice)

    @rule(choice=_CHOICE)
    def hush(self, choice: int) -> None:
        """An environment hangs."""
        if (attempt := self._of(choice, self.service.speaking())) is not None:
            attempt.is_silent = True

    @rule(choice=_CHOICE)
    def hush_but_cover(self, choice: int) -> None:
        """An environment hangs, and others answer, as long as it takes to have it covered."""
        run = self.runs[choice % len(self.runs)]
        if run.hedging is None or not run.options["is_idempotent"] or not run.flying:
            return
        silent = self._of(choice, [a for a in self.service.speaking() if a.run is run])
        if silent is None:
            return
        silent.is_silent = True
        for _ in range(20):
            if run.covers or run.finish is not None:
                return
            for attempt in self.service.speaking():
                if attempt.launch.attempt in attempt.run.flying:
                    self._answer_well(attempt)
            self.fire_timer(is_early=False, times=1)

    @rule(choice=_CHOICE, is_answer=st.booleans(), kind=st.sampled_from(FailureKind))
    def speak_up_late(self, choice: int, is_answer: bool, kind: FailureKind) -> None:
        """A duplicate answer, a failure after an answer: all count for nothing."""
        gone = [attempt for run in self.runs for attempt in run.gone.values()]
        if (attempt := self._of(choice, gone)) is None:
            return
        number = attempt.launch.attempt
        if is_answer:
            outcomes = [Outcome(task, "too late") for task in attempt.tasks]
            self._feed(attempt.run, AttemptAnswered(number, outcomes, None))
        else:
            failure = Failure(kind=kind, is_fatal=True, wait_s=50.0)
            self._feed(attempt.run, AttemptFailed(number, failure))

    @rule(dt_s=st.sampled_from([0.0, 1e-3, 0.05, 0.5, 2.0, 15.0, 60.0]))
    def let_time_pass(self, dt_s: float) -> None:
        """Timers may be late: other events are handled before them."""
        self._pass(dt_s)

    @rule(is_early=st.booleans(), times=st.integers(1, 8))
    def fire_timer(self, is_early: bool, times: int) -> None:
        """As asyncio does: once each, and possibly a moment before its time."""
        for _ in range(times):
            armed = [run for run in self.runs if run.timer_s is not None and run.finish is None]
            if not armed:
                return
            run = min(armed, key=lambda run: run.timer_s or 0.0)
            assert run.timer_s is not None
            due_s = run.timer_s
            self._pass_to(max(self.now_s, due_s - _EARLY_S * is_early))
            if run.timer_s == due_s:  # else something came before
                run.timer_s = None
                self._feed(run, Ticked())

    @rule(choice=_CHOICE, share=st.floats(0.0, 1.0))
    def consume(self, choice: int, share: float) -> None:
        run = self.runs[choice % len(self.runs)]
        if run.unconsumed:
            count = max(1, round(share * run.unconsumed))
            run.unconsumed -= count
            self._feed(run, Consumed(count))

    @rule(choice=_CHOICE, luck=st.integers(0, 29))
    def cancel(self, choice: int, luck: int) -> None:
        run = self.runs[choice % len(self.runs)]
        if luck == _RARE and run.finish is None:
            run.is_cancelled = True
            run.may_end.add("cancelled")
            self._feed(run, Cancelled())

    # ---- the service ----

    def _of(self, choice: int, attempts: list[Attempt]) -> Attempt | None:
        return attempts[choice % len(attempts)] if attempts else None

    def _pass(self, dt_s: float) -> None:
        self._pass_to(self.now_s + dt_s)

    def _pass_to(self, to_s: float) -> None:
        """Let time pass, with the ends of attempts that come before that."""
        while (attempt := self.service.next_to_end(to_s)) is not None:
            self.now_s = max(self.now_s, attempt.ends_s)
            self._end(attempt)
        self.now_s = max(self.now_s, to_s)

    def _end(self, attempt: Attempt) -> None:
        self._fail(attempt, self.service.why_ended(attempt))

    def _outcome(self, attempt: Attempt, task: int, fate: str) -> Outcome[Any] | None:
        match fate:
            case "ok":
                return Outcome(task, (task, attempt.launch.attempt))
            case "raised":
                return Outcome(task, error=ValueError(task))
            case "worth a retry":
                return Outcome(task, error=_WorthARetryError(task))
            case "no memory":
                return Outcome(task, error=MemoryError(task))
            case "too long":
                late = Failure(kind=FailureKind.TIMED_OUT, timeout_s=5.0)
                return Outcome(task, error=TimeoutError(task), failure=late)
            case "refused":
                error = ChunkError(task, "refused by the test")
                failure = Failure(kind=FailureKind.REFUSED, error=error)
                return Outcome(task, error=error, failure=failure)
            case _:
                return None

    def _answer_well(self, attempt: Attempt) -> None:
        outcomes = [Outcome(task, (task, attempt.launch.attempt)) for task in attempt.tasks]
        self._answer(attempt, outcomes, (), reports=True)

    def _answer(
        self,
        attempt: Attempt,
        outcomes: Sequence[Outcome[Any]],
        left: Sequence[int],
        *,
        reports: bool,
    ) -> None:
        report = self.service.answers(attempt, self.now_s, reports=reports)
        attempt.run.foretell_answer(attempt, outcomes, left)
        happens = AttemptAnswered(attempt.launch.attempt, outcomes, report, left)
        self._feed(attempt.run, happens)

    def _fail(self, attempt: Attempt, failure: Failure) -> None:
        self.service.fails(attempt, failure, self.now_s)
        attempt.run.foretell_failure(attempt, failure, self.now_s)
        self._feed(attempt.run, AttemptFailed(attempt.launch.attempt, failure))

    # ---- what does follow: checked ----

    def _feed(self, run: Run, happens: Event) -> None:
        self.is_broken = True
        self._handle(run, happens)
        # As `Engine._feed` does, and `call_soon` then.
        for _ in range(50 + 3 * self.limit):
            seat, twins = run.scheduler.turn(self.now_s), run.twin.turn(self.now_s)
            following = next((r for r in self.runs if seat and r.scheduler.seat is seat), None)
            twin = next((r for r in self.runs if twins and r.twin.seat is twins), None)
            assert following is twin, "same seed, same turn"
            if following is run and not isinstance(happens, AttemptStarted | Consumed):
                assert not self.capacity._is_open(self.now_s), "it has its turn for nothing"
            if following is None or following is run:
                self.is_broken = False
                return
            run, happens = following, Ticked()
            self._handle(run, happens)
        raise AssertionError("runs wake each other for ever")

    def _handle(self, run: Run, happens: Event) -> None:
        window = run.scheduler.window
        actions = run.scheduler.handle(happens, self.now_s)
        twins = run.twin.handle(happens, self.now_s)
        assert [*map(comparable, actions)] == [*map(comparable, twins)], "same seed, same schedule"
        run.most_ever_allowed = max(run.most_ever_allowed, window, run.scheduler.window)
        if run.finish is not None:
            assert actions == [], "nothing follows the end"
            return
        for action in actions:
            assert run.finish is None, "nothing follows the end"
            match action:
                case Launch():
                    self._check_launch(run, action)
                case Deliver(outcomes=outcomes):
                    self._check_delivery(run, outcomes)
                case Retry(tasks=tasks, failure=failure, delay_s=delay_s):
                    if failure.kind not in PATIENCE_S:
                        assert 0.0 <= delay_s <= 5.0 * run.retry.cap_s
                        at_s = self.now_s + delay_s
                        run.backing_off.update(dict.fromkeys(tasks, at_s))
                case WakeAt(at_s=at_s):
                    assert at_s > self.now_s, "a wake-up for now would never end"
                    run.timer_s = at_s
                case Finish():
                    self._check_end(run, action)
                case _:
                    raise AssertionError(f"{action} can't be done here")
        if run.finish is None:
            kept_back = set(run.deliverable())
            assert not kept_back, "an outcome was kept back"
            assert not run.may_end - {"storm"}, f"the run should have ended: {run.may_end}"
            assert not (run.is_ended and len(run.settled) == run.offered), "it is over"
        invariants(run.scheduler)

    def _check_launch(self, run: Run, launch: Launch) -> None:
        number, tasks = launch.attempt, tuple(launch.tasks)
        assert self.now_s >= self.service.held_until_s, "launched although the service said to wait"
        assert self.now_s >= run.paused_until_s, "launched although nothing can be reached"
        assert number not in run.flying
        assert number not in run.gone, "an attempt's number is used once"
        assert len(set(tasks)) == len(tasks) >= 1
        assert all(task < run.offered for task in tasks)
        assert not set(tasks) & run.settled.keys(), "launched after its end"
        assert not set(tasks) & run.may_not_run, "what may have run was sent again"
        assert len(tasks) <= (run.options["fixed"] or 6)
        assert len(tasks) == 1 or not run.goes_alone & set(tasks), "a suspect travels with others"
        assert launch.is_escalated == (len(tasks) == 1 and tasks[0] in run.escalated)
        self._check_deadlines(run, launch)
        if launch.covers is None:
            assert not any(map(run.has, tasks)), "a task is sent twice, and not as a cover"
            late = [task for task in tasks if run.backing_off.pop(task, 0.0) > self.now_s]
            assert not late, "launched too early"
        else:
            self._check_cover(run, launch)
        self.service.let_in(run, launch, self.now_s)

    def _check_deadlines(self, run: Run, launch: Launch) -> None:
        assert launch.soft_s is None or len(launch.tasks) > 1
        if run.budget is not None and run.options["is_idempotent"]:
            assert launch.ends_s is not None, "with a budget everything ends"
        if launch.hard_s is not None:
            assert launch.ends_s is not None
            assert launch.ends_s > launch.hard_s > (launch.soft_s or 0.0)

    def _check_cover(self, run: Run, launch: Launch) -> None:
        self.seen.add("cover")
        assert run.options["is_idempotent"], "a cover of what may not run twice"
        assert run.hedging is not None
        assert launch.covers in run.flying, "a cover of nothing"
        covered = run.flying[launch.covers]
        assert covered.launch.covers is None, "a cover of a cover"
        assert set(launch.tasks) <= set(covered.tasks)
        assert self.now_s - covered.at_s >= 0.1, "it had no time to be silent"
        for other in run.flying.values():
            if other is not covered:
                assert not set(other.tasks) & set(launch.tasks), "two covers at a time"
        run.covers += 1
        run.copies += len(launch.tasks) / len(covered.tasks)
        if run.options["share"] == 0.0:
            assert run.copies <= HedgePolicy().min_covers + 1e-6, "more covers than were allowed"

    def _check_delivery(self, run: Run, outcomes: Sequence[Outcome[Any]]) -> None:
        assert outcomes, "an empty delivery"
        for outcome in outcomes:
            task = outcome.index
            assert task not in run.delivered, "delivered twice"
            assert task in run.settled, "delivered, and not settled"
            if run.options["ordered"]:
                assert task == len(run.delivered), "out of order"
            run.delivered.add(task)
            expected = run.settled[task]
            if expected is None:
                assert outcome.error is not None
            else:
                assert outcome is expected, "the first success counts, and no other"
        if run.options["consumed"]:
            run.unconsumed += len(outcomes)
        if run.options["fails_fast"] and any(o.error is not None for o in outcomes):
            run.may_end.add("failed fast")

    def _check_end(self, run: Run, action: Finish) -> None:
        run.finish = action
        failure = action.failure
        if failure is None:
            is_complete = run.is_ended and len(run.settled) == run.offered
            assert is_complete or run.may_end & {"cancelled", "failed fast"}
            self.seen.add("ended by itself" if is_complete else "ended early")
        elif isinstance(failure.error, BudgetExceededError):
            assert run.budget is not None
            assert not run.flying, "ended, though what is in flight may cost less"
            assert run.waits()
            self.seen.add("budget end")
        elif "failures outnumber" in failure.detail:
            assert run.failures >= 100 - self.limit
            self.seen.add("storm")
        else:
            assert run.may_end & {"fatal", "barren", "patience"}, failure
            self.seen.add("gave up")
        if run.flying:
            self.seen.add("abandoned")

    # ---- between all events ----

    @invariant()
    def books_agree(self) -> None:
        if not hasattr(self, "runs"):
            return
        assert self.capacity.in_flight == len(self.service.flying())
        for run in self.runs:
            assert run.scheduler.in_flight == len(run.flying)
            assert run.scheduler.is_finished == (run.finish is not None)
            if run.finish is None:
                for task in range(run.offered):
                    if task not in run.settled:
                        assert run.scheduler.attempts_of(task) == run.charged[task] + 1

    @invariant()
    def attempts_are_bounded(self) -> None:
        for run in getattr(self, "runs", ()):
            assert max(run.charged.values(), default=0) < run.retry.max_attempts
            assert max(run.lost.values(), default=0) <= run.retry.max_lost
            assert max(run.blamed_in_groups.values(), default=0) <= 1

    @invariant()
    def budgets_are_kept(self) -> None:
        for run in getattr(self, "runs", ()):
            if run.budget is None:
                continue
            late_ms = max(
                (self.service.late_ms(a, self.now_s) for a in run.flying.values()), default=0
            )
            most_gb_s = run.budget.max_gb_s + run.overrun_gb_s
            if self.service.overruns:
                most_gb_s += sum(self.service.worst_gb_s(a) for a in run.flying.values())
            else:
                assert late_ms == 0
            assert Fraction(run.bill_ms, 1000) <= most_gb_s, "the bill is above the limit"
            assert run.budget.spent_gb_s >= run.bill_ms / 1000 - 1e-6, "the books hide something"
            held_gb_s = run.budget.spent_gb_s + run.budget.reserved_gb_s
            assert held_gb_s <= most_gb_s + 1e-9, "more than there is was spent and reserved"

    @invariant()
    def windows_are_kept(self) -> None:
        for run in getattr(self, "runs", ()):
            outstanding = run.offered - len(run.delivered) + run.unconsumed
            assert outstanding <= run.most_ever_allowed

    @invariant()
    def nobody_is_stuck(self) -> None:
        for run in getattr(self, "runs", ()):
            if run.finish is not None or run.flying or run.timer_s is not None:
                continue
            if run.scheduler.wanted or run.unconsumed:
                continue
            seat = run.scheduler.seat
            assert seat is not None
            assert seat.waiting < math.inf, "it waits for nothing"
            others = [other for other in self.runs if other.finish is None and other is not run]
            assert self.service.flying() or any(
                other.timer_s is not None and other.scheduler.seat in self.capacity._line
                for other in others
            ), "it waits for room, and nothing will make some"

    # ---- the end ----

    def teardown(self) -> None:
        if not hasattr(self, "runs") or self.is_broken:
            return
        self._drain()
        self._check_what_is_left()
        for name in sorted(self.seen):
            event(name)
        if self.service.launched > 50:
            event("launched > 50")
        event(f"runs: {len(self.runs)}")

    def _drain(self) -> None:
        """The service is kind from now on: all runs come to their end."""
        self.service.places, self.service.is_reachable = self.limit, True
        since_s = self.now_s
        for run in self.runs:
            if not run.is_ended:
                run.is_ended = True
                self._feed(run, InputEnded())
        for _ in range(4000):
            for run in self.runs:
                if run.unconsumed:
                    count, run.unconsumed = run.unconsumed, 0
                    self._feed(run, Consumed(count))
            flying = self.service.flying()
            for attempt in flying:
                if attempt.environment is not None:
                    self._answer_well(attempt)
                else:
                    self._end(attempt)
            if flying:
                continue
            if all(run.finish is not None for run in self.runs):
                break
            assert any(run.timer_s is not None for run in self.runs if run.finish is None), (
                f"stuck: {self.runs}"
            )
            self.fire_timer(is_early=False, times=1)
        else:
            raise AssertionError(f"it goes on and on: {self.runs}")
        if self.rate is None and self.growth is None:
            assert self.now_s - since_s < _KIND_S, "somebody slept too long"

    def _check_what_is_left(self) -> None:
        assert self.capacity.in_flight == 0
        assert self.capacity.turn(self.now_s) is None
        for run in self.runs:
            assert run.finish is not None
            assert left_by(run.scheduler) == 0, "something is left of what was in flight"
            is_complete = run.finish.failure is None and len(run.settled) == run.offered
            if is_complete:
                assert run.delivered == set(range(run.offered)) or run.options["fails_fast"]
                if run.delivered == set(range(run.offered)):
                    assert held_by(run.scheduler) == 0, "something is left of what is settled"


TestLambdaLaws: Callable[[], Any] = LambdaLaws.TestCase
TestLambdaLaws.settings = settings(  # type: ignore[attr-defined]
    max_examples=500,
    stateful_step_count=60,
    deadline=None,
    # Not Phase.explain: before Python 3.12 it takes minutes to say what shrinking shows in seconds.
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)
