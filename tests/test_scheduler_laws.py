"""The laws of the scheduler, under any interleaving of answers, failures, losses and late replies.

`Laws` is a state machine of Hypothesis. It plays the backend, the input, the consumer and the
clock, and keeps books of its own from the actions alone: what is in flight is what this backend was
told to run, not what the scheduler believes. A second scheduler with the same seed is fed the same
events.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
from hypothesis import Phase, event, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fanout import scheduler as scheduler_module
from fanout.errors import (
    BackendError,
    ChunkError,
    OutOfMemoryError,
    TaskLostError,
    TaskTimeoutError,
    WorkerCrashedError,
)
from fanout.events import (
    Action,
    AttemptAnswered,
    AttemptFailed,
    AttemptStarted,
    Cancelled,
    Consumed,
    Deliver,
    Event,
    Finish,
    Ignore,
    InputEnded,
    Launch,
    Offered,
    Recalled,
    Retry,
    Ticked,
    WakeAt,
)
from fanout.grouping import Grouping, GroupPolicy
from fanout.retry import Failure, FailureKind, RetryPolicy
from fanout.scheduler import Scheduler
from fanout.tasks import Outcome
from fanout.throttle import PATIENCE_S
from tests.scheduler_checks import comparable, invariants, report_of

if TYPE_CHECKING:
    from collections.abc import Sequence

# By how much asyncio may run a timer before its time: the resolution of the clock.
_EARLY_S = 1e-9
# Drawn rarely: Hypothesis likes the ends of a range.
_RARE = 7
# What a service that refuses may ask for.
_WAITS_S = st.sampled_from([None, None, 0.0, 0.3, 5.0])


class _WorthARetryError(Exception):
    """What a kernel raises when another attempt may help."""


@dataclass
class _Step:
    """What one event must lead to, foretold from the server's books."""

    settled: dict[int, object] = field(default_factory=dict)  # the outcome, or the error's class
    # Those that wait together, why, and after how many failures.
    backs_off: dict[tuple[int, ...], tuple[Failure, int]] = field(default_factory=dict)
    sent_again: list[tuple[int, ...]] = field(default_factory=list)  # at no charge
    # Likewise, after a pause that ends between these times.
    refused: dict[tuple[int, ...], tuple[float, float]] = field(default_factory=dict)
    times_out: list[int] = field(default_factory=list)
    ends: Finish | None = None


class Laws(RuleBasedStateMachine):
    """Backend, input, consumer and clock around a scheduler."""

    @initialize(
        limit=st.integers(1, 5),
        fixed=st.sampled_from([None, 1, 2, 3, 5]),
        max_tasks=st.integers(1, 8),
        max_attempts=st.integers(1, 4),
        max_lost=st.integers(1, 4),
        retries_timeouts=st.booleans(),
        base_s=st.sampled_from([0.0, 0.05, 1.0]),
        timeout_s=st.sampled_from([None, 0.5, 3.0]),
        total=st.sampled_from([None, 0, 7, 1000]),
        ordered=st.booleans(),
        consumed=st.booleans(),
        stops=st.sampled_from([False, False, True]),
        offers=st.integers(0, 9),
        seed=st.integers(0, 2**32),
    )
    def begin(
        self,
        limit: int,
        fixed: int | None,
        max_tasks: int,
        max_attempts: int,
        max_lost: int,
        retries_timeouts: bool,
        base_s: float,
        timeout_s: float | None,
        total: int | None,
        ordered: bool,
        consumed: bool,
        stops: bool,
        offers: int,
        seed: int,
    ) -> None:
        self.limit = limit
        self.timeout_s = timeout_s
        self.ordered = ordered
        self.consumed_by_caller = consumed
        self.stops = stops
        self.policy = GroupPolicy(fixed=fixed, max_tasks=max_tasks, max_bytes=1000)
        self.retry = RetryPolicy(
            max_attempts=max_attempts,
            on=(_WorthARetryError,),
            retry_timeouts=retries_timeouts,
            base_s=base_s,
            cap_s=1.5,
            max_lost=max_lost,
        )

        def make() -> Scheduler:
            return Scheduler(
                limit=limit,
                grouping=Grouping(self.policy, timeout_s=timeout_s),
                rng=random.Random(seed),
                retry=self.retry,
                timeout_s=timeout_s,
                total=total,
                is_ordered=ordered,
                is_consumed=consumed,
                stops_on_failure=stops,
            )

        self.scheduler, self.twin = make(), make()
        self.now_s = 0.0
        self.handled_s = 0.0  # when it last had the opportunity to launch
        self.timer_s: float | None = None
        self.offered = 0
        self.is_ended = False
        self.in_flight: dict[int, tuple[int, ...]] = {}
        self.gone: dict[int, tuple[int, ...]] = {}  # ended attempts, which may still speak up
        self.deadlines: dict[int, float] = {}
        self.backing_off: dict[int, float] = {}
        self.waiting: set[int] = set()
        self.recalling: set[int] = set()
        self.settled: dict[int, object] = {}
        self.delivered: set[int] = set()
        self.unconsumed = 0
        self.barren = 0
        self.paused_until_s = -math.inf
        self.waves = 0  # of refusals, since the last sign of life
        self.refusing_since_s: dict[FailureKind, float] = {}
        self.blamed: Counter[int] = Counter()
        self.blamed_in_groups: Counter[int] = Counter()
        self.lost: Counter[int] = Counter()
        self.goes_alone: set[int] = set()
        self.came_alone: set[int] = set()  # may go on so, though nobody suspects them
        self.came_cut: set[int] = set()  # left at the end, and cut into pieces
        self.launched = 0
        self.most_ever_allowed = self.scheduler.window
        self.finish: Finish | None = None
        if offers != _RARE:  # Hypothesis leaves out rules: without this one nothing would happen
            self.offer(1.0)

    # ---- what may happen ----

    # None has a precondition: what can't happen does nothing, and Hypothesis need not search.

    @rule(share=st.floats(0.0, 1.0), every=st.sampled_from([0, 0, 0, 1, 3]))
    def offer(self, share: float, every: int = 0) -> None:
        """Of every so many chunks, one was done in an earlier run; another has to be read first."""
        if not self.scheduler.wanted:
            return
        count = max(1, round(share * self.scheduler.wanted))
        tasks = range(self.offered, self.offered + count)
        known = [Outcome(task, "known") for task in tasks if every and task % every == 0]
        later = [task for task in tasks if every and task % every == 1]
        step = _Step(settled={outcome.index: outcome for outcome in known})
        self.recalling.update(later)
        self.waiting.update(set(tasks) - step.settled.keys() - self.recalling)
        self.offered += count
        self._feed(Offered(self.offered - count, count, known=known, later=later), step)

    @rule(data=st.data(), is_lost=st.booleans())
    def recall(self, data: st.DataObject, is_lost: bool) -> None:
        """What was done in an earlier run has been read, or can't be."""
        if not self.recalling:
            return
        task = data.draw(st.sampled_from(sorted(self.recalling)))
        self.recalling.remove(task)
        if is_lost:
            self._send_again((task,))
            self._feed(Recalled([], [task]), _Step())
        else:
            outcome = Outcome(task, "read")
            self._feed(Recalled([outcome]), _Step(settled={task: outcome}))

    @rule(luck=st.integers(0, 9))
    def end_input(self, luck: int) -> None:
        if self.offered > 2 * luck and not self.is_ended:
            self.is_ended = True
            self._feed(InputEnded(), _Step())

    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        """Also of an attempt that has started before: the first time counts."""
        if self.in_flight:
            self._start(self._attempt(data))

    @rule()
    def start_all(self) -> None:
        for number in sorted(self.in_flight):
            self._start(number)

    @rule(
        data=st.data(),
        total_s=st.sampled_from([None, 0.0, 1e-6, 0.01, 1.0]),
        payload_bytes=st.integers(0, 300),
    )
    def answer(self, data: st.DataObject, total_s: float | None, payload_bytes: int) -> None:
        if not self.in_flight:
            return
        number = self._attempt(data)
        tasks = self.in_flight[number]
        left = self._left(data, tasks)
        outcomes = [
            outcome
            for task in tasks
            if task not in left or data.draw(st.integers(0, 9)) == _RARE  # it contradicts itself
            if (outcome := self._outcome(task, number, data.draw(_FATES))) is not None
        ]
        outcomes += [  # a second opinion on a task that has an outcome already
            Outcome(outcome.index, "duplicate")
            for outcome in outcomes
            if data.draw(st.integers(0, 9)) == 0
        ]
        if data.draw(st.integers(0, 4)) == 0:
            foreign = data.draw(st.integers(0, self.offered + 3))
            if foreign not in tasks:
                outcomes.insert(0, Outcome(foreign, "foreign"))
        report = None
        if total_s is not None:
            report = report_of(number, total_s=total_s, payload_bytes=payload_bytes)
        step = self._foretell(number, outcomes, left)
        self._feed(AttemptAnswered(number, outcomes, report, left), step)

    @rule(data=st.data(), total_s=st.sampled_from([None, 0.01]))
    def answer_in_part(self, data: st.DataObject, total_s: float | None) -> None:
        """As a worker does that has no more time, or no more room in its reply."""
        if not self.in_flight:
            return
        number = self._attempt(data)
        tasks = self.in_flight[number]
        done = data.draw(st.integers(0, len(tasks)))
        outcomes = [Outcome(task, (task, number)) for task in tasks[:done]]
        report = None if total_s is None else report_of(number, total_s=total_s, payload_bytes=9)
        step = self._foretell(number, outcomes, tasks[done:])
        self._feed(AttemptAnswered(number, outcomes, report, tasks[done:]), step)

    @rule(data=st.data())
    def answer_well(self, data: st.DataObject) -> None:
        """So that runs get anywhere at all."""
        for number in sorted(self.in_flight)[: data.draw(st.integers(1, 5))]:
            if number in self.in_flight:
                outcomes = [Outcome(task, (task, number)) for task in self.in_flight[number]]
                report = report_of(number, total_s=1e-3, payload_bytes=10)
                step = self._foretell(number, outcomes)
                self._feed(AttemptAnswered(number, outcomes, report), step)

    @rule(data=st.data(), late_s=st.sampled_from([0.0, 1e-9, 1.0]))
    def answer_overdue(self, data: st.DataObject, late_s: float) -> None:
        """The answer and the end of its time are there at once: the answer counts."""
        running = [number for number in self.deadlines if self.deadlines[number] > self.now_s]
        if running:
            number = data.draw(st.sampled_from(sorted(running)))
            self.now_s = self.deadlines[number] + late_s
            outcomes = [Outcome(task, (task, number)) for task in self.in_flight[number]]
            step = self._foretell(number, outcomes)
            self._feed(AttemptAnswered(number, outcomes, None), step)

    @rule(
        data=st.data(),
        kind=st.sampled_from(FailureKind),
        with_error=st.booleans(),
        wait_s=_WAITS_S,
        allowed_s=st.sampled_from([None, 60.0]),
    )
    def fail(
        self,
        data: st.DataObject,
        kind: FailureKind,
        with_error: bool,
        wait_s: float | None,
        allowed_s: float | None,
    ) -> None:
        if not self.in_flight:
            return
        error = _WorthARetryError("of the attempt") if with_error else None
        failure = Failure(
            kind=kind, detail="by the test", error=error, wait_s=wait_s, allowed_s=allowed_s
        )
        number = self._attempt(data)
        self._feed(AttemptFailed(number, failure), self._foretell_failure(number, failure))

    @rule(data=st.data(), kind=st.sampled_from(FailureKind), luck=st.integers(0, 9))
    def fail_fatally(self, data: st.DataObject, kind: FailureKind, luck: int) -> None:
        if luck != _RARE or not self.in_flight:
            return
        failure = Failure(kind=kind, error=BackendError("fatal"), is_fatal=True)
        number = self._attempt(data)
        self._feed(AttemptFailed(number, failure), self._foretell_failure(number, failure))

    @rule(times=st.integers(1, 15), data=st.data())
    def fail_to_run(self, times: int, data: st.DataObject) -> None:
        """A fleet without workers: attempt after attempt doesn't run."""
        failure = Failure(kind=FailureKind.DID_NOT_RUN, detail="by the test")
        for _ in range(times):
            if self.in_flight:
                number = self._attempt(data)
                self._feed(AttemptFailed(number, failure), self._foretell_failure(number, failure))

    @rule(
        data=st.data(),
        kinds=st.lists(st.sampled_from([*PATIENCE_S]), min_size=1, max_size=12)
        | st.builds(lambda kind, n: [kind] * n, st.sampled_from([*PATIENCE_S]), st.integers(1, 9)),
        apart_s=st.sampled_from([0.0, 0.2, 15.0, 130.0, 300.0]),
        wait_s=_WAITS_S,
    )
    def refuse(
        self, data: st.DataObject, kinds: list[FailureKind], apart_s: float, wait_s: float | None
    ) -> None:
        """A service that takes nothing more, for a moment or for good."""
        for kind in kinds:
            self.now_s += apart_s
            if not self.in_flight:
                self.fire_timer(is_early=False)
            if self.in_flight:
                failure = Failure(kind=kind, detail="by the test", wait_s=wait_s)
                number = self._attempt(data)
                self._feed(AttemptFailed(number, failure), self._foretell_failure(number, failure))

    @rule(times=st.integers(1, 8), data=st.data())
    def lose(self, times: int, data: st.DataObject) -> None:
        """A bad connection: attempt after attempt is lost."""
        failure = Failure(kind=FailureKind.MAYBE_RAN, detail="by the test")
        for _ in range(times):
            if not self.in_flight:
                self.fire_timer(is_early=False)
            if self.in_flight:
                number = self._attempt(data)
                self._feed(AttemptFailed(number, failure), self._foretell_failure(number, failure))

    @rule(data=st.data(), is_answer=st.booleans(), kind=st.sampled_from(FailureKind))
    def speak_up_late(self, data: st.DataObject, is_answer: bool, kind: FailureKind) -> None:
        """A late answer, a duplicate answer, a failure after an answer: all count for nothing."""
        if not self.gone:
            return
        number = data.draw(st.sampled_from(sorted(self.gone)))
        if is_answer:
            outcomes = [Outcome(task, "too late") for task in self.gone[number]]
            left = self._left(data, self.gone[number])
            self._feed(AttemptAnswered(number, outcomes, None, left), _Step())
        else:
            failure = Failure(kind=kind, is_fatal=data.draw(st.booleans()), wait_s=50.0)
            self._feed(AttemptFailed(number, failure), _Step())

    @rule(data=st.data())
    def start_late(self, data: st.DataObject) -> None:
        if self.gone:
            self._feed(AttemptStarted(data.draw(st.sampled_from(sorted(self.gone)))), _Step())

    @rule(dt_s=st.sampled_from([0.0, 1e-3, 0.1, 0.5, 2.0]), ticks=st.booleans())
    def let_time_pass(self, dt_s: float, ticks: bool) -> None:
        """The timer may be late: other events can be handled before it."""
        self.now_s += dt_s
        if ticks:
            self._feed(Ticked(), _Step())

    @rule(is_early=st.booleans())
    def fire_timer(self, is_early: bool) -> None:
        """As asyncio does: once, and possibly a moment before its time."""
        if self.timer_s is None:
            return
        self.now_s = max(self.now_s, self.timer_s - _EARLY_S * is_early)
        self.timer_s = None
        self._feed(Ticked(), _Step())

    @rule(share=st.floats(0.0, 1.0))
    def consume(self, share: float) -> None:
        if not self.unconsumed:
            return
        count = max(1, round(share * self.unconsumed))
        self.unconsumed -= count
        self._feed(Consumed(count), _Step())

    @rule(luck=st.integers(0, 19))
    def cancel(self, luck: int) -> None:
        if luck == _RARE:
            self._feed(Cancelled(), _Step(ends=Finish(None)))

    # ---- what must follow: foretold ----

    def _attempt(self, data: st.DataObject) -> int:
        number: int = data.draw(st.sampled_from(sorted(self.in_flight)))
        return number

    def _start(self, number: int) -> None:
        if number in self.in_flight:
            if self.timeout_s is not None:
                self.deadlines.setdefault(number, self.now_s + self.timeout_s)
            self._feed(AttemptStarted(number), _Step())

    def _left(self, data: st.DataObject, tasks: Sequence[int]) -> list[int]:
        """Mostly none; or any of them, and now and then one that the attempt never had."""
        if data.draw(st.integers(0, 3)):
            return []
        foreign = [self.offered + 3] if data.draw(st.booleans()) else []
        return [*foreign, *(task for task in tasks if data.draw(st.booleans()))]

    def _outcome(self, task: int, number: int, fate: str) -> Outcome[Any] | None:
        attempts = self.blamed[task] + 1
        match fate:
            case "ok":
                return Outcome(task, (task, number), None, attempts)
            case "raised":
                return Outcome(task, error=ValueError(task), attempts=attempts)
            case "worth a retry":
                return Outcome(task, error=_WorthARetryError(task), attempts=attempts)
            case "refused":
                error = ChunkError(task, "refused by the test")
                failure = Failure(kind=FailureKind.REFUSED, error=error)
                return Outcome(task, error=error, attempts=attempts, failure=failure)
            case _:
                return None

    def _foretell(
        self, number: int, outcomes: Sequence[Outcome[Any]], left: Sequence[int] = ()
    ) -> _Step:
        step = _Step()
        owed = list(self._take(number))
        self._live()
        if not outcomes and len(owed) > 1 and not set(owed) - set(left):
            self._blame(step, tuple(owed), Failure(kind=FailureKind.TIMED_OUT))
            return step
        if outcomes and set(owed) - set(left):  # else it got nowhere, and would so for ever
            again = tuple(task for task in owed if task in left)
            self._send_again(again)
            if self.is_ended:
                self.came_cut.update(again)
            owed = [task for task in owed if task not in left]
        for outcome in outcomes:
            if outcome.index not in owed:
                continue
            owed.remove(outcome.index)
            if outcome.error is None:
                step.settled[outcome.index] = outcome
                continue
            failure = outcome.failure or Failure(
                kind=FailureKind.KERNEL_RAISED, error=outcome.error
            )
            self._charge(step, outcome.index, failure, outcome)
        for task in owed:
            missing = Failure(kind=FailureKind.CRASHED)
            self._charge(step, task, missing, WorkerCrashedError)
        return step

    def _foretell_failure(self, number: int, failure: Failure) -> _Step:
        step = _Step()
        tasks = self._take(number)
        if failure.is_fatal:
            step.ends = Finish(failure)
        elif failure.kind is FailureKind.DID_NOT_RUN:
            self.barren += 1
            if self.barren > scheduler_module._MOST_BARREN_ATTEMPTS + self.limit:
                step.ends = Finish(failure)
            else:
                step.sent_again.append(tasks)
                self._send_again(tasks)
        elif failure.kind in {FailureKind.THROTTLED, FailureKind.UNREACHABLE}:
            self._refuse(step, tasks, failure)
        elif failure.kind is FailureKind.MAYBE_RAN:
            self._lose(step, tasks, failure)
        else:
            self._live()
            self._blame(step, tasks, failure)
        return step

    def _live(self) -> None:
        """A worker was reached, whatever became of the attempt."""
        self.barren = 0
        self.waves = 0
        self.refusing_since_s.clear()

    def _refuse(self, step: _Step, tasks: tuple[int, ...], failure: Failure) -> None:
        if failure.kind is FailureKind.THROTTLED:  # by a service that is there
            self.refusing_since_s.pop(FailureKind.UNREACHABLE, None)
        since_s = self.refusing_since_s.setdefault(failure.kind, self.now_s)
        if self.now_s - since_s > PATIENCE_S[failure.kind]:
            step.ends = Finish(failure)
        step.refused[tasks] = self._pause(failure)
        self._send_again(tasks)

    def _pause(self, failure: Failure) -> tuple[float, float]:
        """The first of a wave decides; the others of it say nothing new, but by their `wait_s`."""
        asked_s = self.now_s + (failure.wait_s or 0.0)
        if self.now_s < self.paused_until_s:
            until_s = max(asked_s, self.paused_until_s)
            return until_s, until_s
        self.waves += 1
        return asked_s, max(asked_s, self.now_s + self._ceiling_s(self.waves))

    def _lose(self, step: _Step, tasks: tuple[int, ...], failure: Failure) -> None:
        self.lost.update(tasks)
        kept = tuple(task for task in tasks if self.lost[task] < self.retry.max_lost)
        for task in tasks:
            if task not in kept:
                step.settled[task] = failure.error or TaskLostError
        if kept:
            step.backs_off[kept] = failure, max(self.lost[task] for task in kept)
        if len(kept) == 1:
            self.came_alone.update(kept)

    def _send_again(self, tasks: tuple[int, ...]) -> None:
        self.waiting.update(tasks)
        if len(tasks) == 1:
            self.came_alone.update(tasks)

    def _foretell_timeouts(self, step: _Step) -> None:
        for number, deadline_s in sorted(self.deadlines.items()):
            if deadline_s <= self.now_s:
                self._live()
                step.times_out.append(number)
                self._blame(step, self._take(number), Failure(kind=FailureKind.TIMED_OUT))

    def _blame(self, step: _Step, tasks: tuple[int, ...], failure: Failure) -> None:
        if len(tasks) == 1:
            ends_as: object = failure.error or _ERRORS[failure.kind]
            self._charge(step, tasks[0], failure, ends_as)
        else:
            self.blamed_in_groups.update(tasks)
            self.goes_alone.update(tasks)
            self.waiting.update(tasks)
            step.sent_again.append(tasks)

    def _charge(self, step: _Step, task: int, failure: Failure, ends_as: object) -> None:
        self.blamed[task] += 1
        if self.retry.allows(failure, self.blamed[task]):
            self.goes_alone.add(task)
            step.backs_off[task,] = failure, self.blamed[task]
        else:
            step.settled[task] = ends_as

    def _take(self, number: int) -> tuple[int, ...]:
        tasks = self.in_flight.pop(number)
        self.gone[number] = tasks
        self.deadlines.pop(number, None)
        return tasks

    # ---- what does follow: checked ----

    def _feed(self, happens: Event, step: _Step) -> None:
        window = self.scheduler.window
        actions = self.scheduler.handle(happens, self.now_s)
        twins = self.twin.handle(happens, self.now_s)
        assert [*map(comparable, actions)] == [*map(comparable, twins)], "same seed, same run"
        self.most_ever_allowed = max(self.most_ever_allowed, window, self.scheduler.window)
        if self.finish is not None:
            assert actions == [], "nothing follows the end"
            return
        if not isinstance(happens, AttemptStarted | Consumed):  # which launch nothing
            self.handled_s = self.now_s
        if step.ends is None and not isinstance(happens, Consumed):
            self._foretell_timeouts(step)
        self.settled.update(step.settled)
        deliverable = self._deliverable() if step.ends is None else []
        fails_fast = self.stops and any(map(self._is_error, deliverable))
        is_complete = self.is_ended and len(self.settled) == self.offered
        if step.ends is None and (fails_fast or is_complete):
            step.ends = Finish(None)
        self._check(actions, step, deliverable)

    def _deliverable(self) -> list[int]:
        if not self.ordered:
            return [task for task in self.settled if task not in self.delivered]
        found: list[int] = []
        while len(self.delivered) + len(found) in self.settled:
            found.append(len(self.delivered) + len(found))
        return found

    def _is_error(self, task: int) -> bool:
        expected = self.settled[task]
        return not isinstance(expected, Outcome) or expected.error is not None

    def _check(self, actions: Sequence[Action], step: _Step, deliverable: list[int]) -> None:
        for action in actions:
            assert self.finish is None, "nothing follows the end"
            match action:
                case Launch(attempt=number, tasks=tasks):
                    self._check_launch(number, tuple(tasks))
                case Deliver(outcomes=outcomes):
                    self._check_delivery(outcomes, deliverable)
                case Retry(tasks=tasks, failure=failure, delay_s=delay_s):
                    self._check_retry(tuple(tasks), failure, delay_s, step)
                case Ignore(attempt=number):
                    if number in step.times_out:
                        step.times_out.remove(number)
                    else:
                        assert step.ends is not None, "an attempt was ignored for no reason"
                        self._take(number)
                case WakeAt(at_s=at_s):
                    assert at_s > self.now_s, "a wake-up for now would never end"
                    self.timer_s = at_s
                case Finish():
                    self._check_end(action, step)
        assert not step.times_out, "a timeout was missed"
        assert set(deliverable) <= self.delivered, "an outcome was kept back"
        assert (self.finish is None) == (step.ends is None)
        if self.finish is None:
            assert not step.backs_off, "a task was not retried"
            assert not step.sent_again, "a task was not sent again"
            assert not step.refused, "a refused task was not sent again"

    def _check_launch(self, number: int, tasks: tuple[int, ...]) -> None:
        self.launched += 1
        assert self.now_s >= self.paused_until_s, "launched during a pause"
        assert number not in self.in_flight
        assert number not in self.gone, "an attempt's number is used once"
        assert len(set(tasks)) == len(tasks) >= 1
        due = {task for task, due_s in self.backing_off.items() if due_s <= self.now_s}
        assert set(tasks) <= self.waiting | due, "launched twice, too early, or after its end"
        if self.goes_alone.intersection(tasks):
            assert len(tasks) == 1, "a suspect travels with others"
        assert len(tasks) <= (self.policy.fixed or self.policy.max_tasks)
        go_alone = self.goes_alone | self.came_alone | self.came_cut
        if self.policy.fixed and len(tasks) < self.policy.fixed and not go_alone & set(tasks):
            others = (self.waiting | due) - go_alone - set(tasks)
            assert not others, "a group was split"
        self.waiting.difference_update(tasks)
        for task in tasks:
            self.backing_off.pop(task, None)
        self.in_flight[number] = tasks
        assert len(self.in_flight) <= self.limit, "law 2"

    def _check_delivery(self, outcomes: Sequence[Outcome[Any]], deliverable: list[int]) -> None:
        assert outcomes, "an empty delivery"
        for outcome in outcomes:
            assert outcome.index not in self.delivered, "law 1: twice"
            assert outcome.index in deliverable, "law 1: not settled, or out of order"
            self.delivered.add(outcome.index)
            expected = self.settled[outcome.index]
            if expected is TaskLostError:
                assert isinstance(outcome.error, TaskLostError)
                assert outcome.error.attempts == self.retry.max_lost
                assert outcome.attempts == self.blamed[outcome.index] + 1
            elif isinstance(expected, type):
                assert isinstance(outcome.error, expected)
                assert outcome.attempts == self.blamed[outcome.index]
            elif isinstance(expected, Exception):
                assert outcome.error is expected
            else:
                assert outcome is expected
        if self.ordered:
            assert [o.index for o in outcomes] == sorted(o.index for o in outcomes)
            assert self.delivered == set(range(len(self.delivered)))
        if self.consumed_by_caller:
            self.unconsumed += len(outcomes)

    def _check_retry(
        self, tasks: tuple[int, ...], failure: Failure, delay_s: float, step: _Step
    ) -> None:
        if tasks in step.sent_again:
            step.sent_again.remove(tasks)
            assert delay_s == 0.0
        elif tasks in step.refused:
            earliest_s, latest_s = step.refused.pop(tasks)
            self.paused_until_s = self.scheduler._flight._throttle.until_s
            assert earliest_s <= self.paused_until_s <= latest_s
            assert math.isclose(delay_s, self.paused_until_s - self.now_s)
        else:
            why, failures = step.backs_off.pop(tasks)
            assert why.kind is failure.kind
            assert 0.0 <= delay_s <= self._ceiling_s(failures)
            self.backing_off.update(dict.fromkeys(tasks, self.now_s + delay_s))

    def _ceiling_s(self, failures: int) -> float:
        return min(self.retry.cap_s, self.retry.base_s * 2.0**failures)

    def _check_end(self, action: Finish, step: _Step) -> None:
        assert step.ends is not None, "the run ended for no reason"
        self.finish = action
        assert not self.in_flight, "an attempt was left running"
        if step.ends.failure is None:
            assert action.failure is None
        else:
            assert action.failure is not None
            assert action.failure.kind is step.ends.failure.kind
            assert action.failure.error is not None

    @invariant()
    def books_agree(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        invariants(self.scheduler)
        assert self.scheduler.is_finished == (self.finish is not None)
        assert self.scheduler.in_flight == len(self.in_flight)
        if self.finish is None:
            assert self.scheduler._flight._throttle.until_s == self.paused_until_s, (
                "paused for no reason"
            )
            for task in set(range(self.offered)) - self.settled.keys():
                assert self.scheduler.attempts_of(task) == self.blamed[task] + 1, "wrongly charged"

    @invariant()
    def attempts_are_bounded(self) -> None:
        """Law 3, and a crash among others is forgiven once only."""
        if hasattr(self, "scheduler"):
            assert max(self.blamed.values(), default=0) <= self.retry.max_attempts
            assert max(self.blamed_in_groups.values(), default=0) <= 1
            assert max(self.lost.values(), default=0) <= self.retry.max_lost

    @invariant()
    def window_is_kept(self) -> None:
        """Law 4."""
        if not hasattr(self, "scheduler"):
            return
        outstanding = self.offered - len(self.delivered) + self.unconsumed
        assert outstanding <= self.most_ever_allowed
        if self.is_ended or self.finish is not None:
            assert self.scheduler.wanted == 0
        else:
            room = max(0, self.scheduler.window - outstanding)
            # A few at once, never one by one: but never none while nothing else would happen.
            assert self.scheduler.wanted == (room if room >= self.scheduler.window // 4 else 0)

    @invariant()
    def is_not_stuck(self) -> None:
        """Law 5, and no place is left empty while a task waits for one, but during a pause."""
        if not hasattr(self, "scheduler") or self.finish is not None:
            return
        waits = self.waiting | {t for t, s in self.backing_off.items() if s <= self.handled_s}
        if waits and len(self.in_flight) < self.limit:
            assert self.handled_s < self.paused_until_s, "a place is empty for no reason"
            assert self.timer_s is not None, "nobody will end the pause"
            assert self.timer_s <= self.paused_until_s, "the pause will end too late"
        due_s = [at_s for at_s in self.backing_off.values() if at_s > self.now_s]
        due_s += [at_s for at_s in self.deadlines.values() if at_s > self.now_s]
        if due_s:
            assert self.timer_s is not None, "nobody will wake it"
            assert self.timer_s <= min(due_s), "it will be woken too late"
        is_waiting = self.unconsumed or self.recalling  # for others to do something
        assert self.in_flight or self.timer_s is not None or self.scheduler.wanted or is_waiting

    def teardown(self) -> None:
        finish = getattr(self, "finish", None)
        event(f"{finish and (finish.failure.kind if finish.failure else 'ended')}")
        event(f"launched > 20: {getattr(self, 'launched', 0) > 20}")


_FATES = st.sampled_from(["ok", "ok", "ok", "raised", "worth a retry", "refused", "missing"])
_ERRORS: dict[FailureKind, type[Exception]] = {
    FailureKind.CRASHED: WorkerCrashedError,
    FailureKind.OUT_OF_MEMORY: OutOfMemoryError,
    FailureKind.TIMED_OUT: TaskTimeoutError,
    FailureKind.REFUSED: ChunkError,
    FailureKind.KERNEL_RAISED: BackendError,
    FailureKind.DID_NOT_RUN: BackendError,
}

TestLaws = Laws.TestCase
TestLaws.settings = settings(
    max_examples=500,
    stateful_step_count=80,
    deadline=None,
    # Not Phase.explain: before Python 3.12 it takes minutes to say what shrinking shows in seconds.
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)
