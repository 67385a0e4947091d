"""The state machine that decides everything about a run, and does nothing.

    handle(event, now_s) -> list[Action]

It has no clock, no randomness of its own, no I/O and no event loop: time and the random generator
are arguments, so that the executor, a simulation and a test drive the very same object.

A task is, at any moment, in exactly one place:

    offered -> waiting --> in an attempt ----> settled (delivered once, forgotten)
                  ^              |
                  |              | failed, and the policy allows another attempt
                  |              v
                  +--------- backing off          (charged: costs the task an attempt)
                  +--------- attempt did not run, was refused or lost, or left it (not charged)

How those that wait are put together is `Supply`'s affair; what is in flight, and who has to know
of it, is `Flight`'s; in which order outcomes go, `Delivery`'s.

Groups and blame. A crash or a timeout of an attempt that carried several tasks blames none of them:
each is sent again *alone*, at no charge, and the guilty one convicts itself. So it is with one that
leaves all its tasks, as its first one ran into the hard deadline. What a kernel raises
belongs to its task and never touches its neighbours. What is lost on the way stays together: that
is nobody's fault, and happens to a task at most `retry.max_lost` times.

Refusals. When the service throttles or can't be reached, nothing more is launched for a while: at
least as long as it asked for, and longer each time, until a worker is reached. When none is for too
long, the run ends (`throttle.PATIENCE_S`).

Laws, held by tests/test_scheduler_laws.py, and by test_scheduler_laws_lambda.py for runs that share
a capacity, under any interleaving of answers, failures, losses and late replies:
  1. every task offered is delivered exactly once, unless the run is cancelled or ends by failure;
  2. attempts in flight never exceed `limit`;
  3. no task takes more than `retry.max_attempts` charged attempts, or loses more than
     `retry.max_lost`;
  4. chunks that are offered but not yet consumed never exceed `window` by more than was allowed
     when they were asked for;
  5. it is never stuck: while a task is unsettled, an attempt is in flight, a wake-up is due, or
     outcomes wait for the consumer.

What is admitted is decided in one place, `_launch`: limits on rate and cost belong there.

Longer than other files: what an event leads to is told in one place, and the parts that can do
without the others (`Supply`, `Flight`, `Delivery`, `TaskFailures`) have files of their own.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from fanout.delivery import Delivery
from fanout.errors import BackendError, BudgetExceededError
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
from fanout.flight import Flight
from fanout.guards import Guards
from fanout.retry import Failure, FailureKind, RetryPolicy
from fanout.supply import Supply
from fanout.task_failures import TaskFailures
from fanout.tasks import Outcome
from fanout.throttle import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from random import Random

    from fanout.capacity import Seat
    from fanout.grouping import Grouping
    from fanout.hedging import HedgeCounts

# Attempts in a row that never reached a worker before the run is given up, beyond one for each
# place in flight: more than a pool that is being refilled ever shows, fewer than a minute of a
# machine on which workers can't start.
_MOST_BARREN_ATTEMPTS = 20
# Into how many pieces to cut what a worker left, at most (found by simulation).
_PIECES = 8
_NONE: Final = Guards()


class Scheduler:
    """Decides what a run does next.

    Args:
        limit: Most attempts in flight at once.
        grouping: How many tasks to put into an attempt.
        rng: Source of jitter.
        retry: When a failed task is tried again.
        timeout_s: How long an attempt may take once a worker has it; None for ever.
        is_idempotent: A task may run twice; if not, what may have run is not sent again.
        can_escalate: The backend has a larger function, for what ran out of memory or time.
        can_stop: The backend can stop an attempt that nobody waits for any more. If not, it counts
            as in flight until it answers, even when the run is over: tell it of that, too.
        guards: What keeps an eye on attempts that are billed.
        total: Number of tasks, where known beforehand.
        least_window: So many chunks may be pulled ahead in any case.
        is_ordered: Deliver outcomes in the order of the input, not as completed.
        is_consumed: The caller takes outcomes one by one and says so (`Consumed`); what it has not
            taken counts against `window`.
        stops_on_failure: End the run with the first task that fails for good.
    """

    def __init__(
        self,
        *,
        limit: int,
        grouping: Grouping,
        rng: Random,
        retry: RetryPolicy | None = None,
        timeout_s: float | None = None,
        is_idempotent: bool = True,
        can_escalate: bool = False,
        can_stop: bool = True,
        guards: Guards = _NONE,
        total: int | None = None,
        least_window: int = 0,
        is_ordered: bool = False,
        is_consumed: bool = False,
        stops_on_failure: bool = False,
    ) -> None:
        self._limit = limit
        self._grouping = grouping
        self._rng = rng
        self._retry = retry or RetryPolicy()
        self._timeout_s = timeout_s
        self._can_stop = can_stop
        if guards.hedging is not None and not is_idempotent:
            guards = replace(guards, hedging=None)
        self._gb = guards.billed.gb if guards.billed is not None else 1.0
        self._stops = guards.stops
        self.max_gb_s = None if guards.budget is None else guards.budget.max_gb_s
        self.max_usd = None if guards.budget is None else guards.budget.max_usd
        self._hedges = guards.hedging is not None
        self._stops_on_failure = stops_on_failure

        self._unsettled: set[int] = set()
        self._recalling: set[int] = set()  # of these, those whose outcome is being read
        self._supply = Supply(grouping, limit=limit, total=total, least_window=least_window)
        self._backing_off: list[tuple[float, tuple[int, ...]]] = []
        self._flight = Flight(
            self._unsettled,
            self._retry,
            rng,
            guards,
        )
        self._carried = self._flight.carried
        # Of attempts that have started. All timeouts are equal, so they expire in the order of the
        # starts. Ordered, since dict is slow at giving up its first key.
        self._deadlines: OrderedDict[int, float] = OrderedDict()
        self._failures = TaskFailures(
            self._retry,
            timeout_s=timeout_s,
            is_idempotent=is_idempotent,
            can_escalate=can_escalate,
        )
        self._next_attempt = 0
        self._delivery = Delivery(is_ordered=is_ordered, is_consumed=is_consumed)
        self._barren = 0
        self._is_cover_held = False  # a cover is due that the service doesn't take yet
        self._armed_s: float | None = None
        self._actions: list[Action] = []
        self.is_finished = False

    def __repr__(self) -> str:
        return (
            f"<Scheduler: {self._supply.offered} offered, {len(self._unsettled)} unsettled, "
            f"{len(self._flight)} attempts in flight, {len(self._backing_off)} backing off, "
            f"{self._delivery.outstanding} to deliver"
            f"{', finished' if self.is_finished else ''}>"
        )

    @property
    def in_flight(self) -> int:
        """Attempts in flight."""
        return len(self._carried)

    @property
    def timeout_s(self) -> float | None:
        """How long an attempt may take once a worker has it; None for ever."""
        return self._timeout_s

    @property
    def hears_starts(self) -> bool:
        """Whether it wants to know when attempts start."""
        return self._timeout_s is not None or self._grouping.hears_starts

    @property
    def window(self) -> int:
        """Most chunks that may be pulled from the input and not yet be consumed."""
        return self._supply.window

    @property
    def wanted(self) -> int:
        """How many chunks to pull from the input now; several at once, or none yet."""
        if self._supply.has_ended or self.is_finished:
            return 0
        window = self._supply.window
        room = window - len(self._unsettled) - self._delivery.outstanding
        return room if room >= window // 4 else 0

    def turn(self, now_s: float) -> Seat | None:
        """Which run may launch something now that waits for it, of all that share the capacity."""
        return self._flight.turn(now_s)

    @property
    def seat(self) -> Seat | None:
        """The run's place at the capacity."""
        return self._flight.seat

    @property
    def hedges(self) -> HedgeCounts:
        """What became of covers so far."""
        return self._flight.hedges

    def attempts_of(self, task: int) -> int:
        """Number of the task's present attempt, from 1; attempts that were not its fault aside."""
        return self._failures.attempts_of(task)

    def handle(self, event: Event, now_s: float) -> list[Action]:
        """Take note of an event and return what is to be done, in order."""
        if self.is_finished:
            self._on_late(event, now_s)
            return []
        match event:
            case AttemptAnswered():
                self._on_answered(event, now_s)
            case Offered():
                self._on_offered(event)
            case Recalled():
                self._on_recalled(event)
            case AttemptStarted(attempt=number):
                self._on_started(number, now_s)
                if self._timeout_s is None:
                    return []
            case Consumed(count=count):  # which only `wanted` has to do with
                self._delivery.consumed(count)
                return []
            case AttemptFailed(attempt=number, failure=failure):
                self._on_failed(number, failure, now_s)
            case InputEnded():
                self._supply.has_ended = True
            case Ticked():
                # Timers may run a moment early (asyncio: by the clock's resolution). What is still
                # due then needs another one.
                self._armed_s = None
            case Cancelled():
                self._end(None)
        if not self.is_finished:
            self._expire(now_s)
            self._deliver()
            self._resume(now_s)
            self._launch(now_s)
            self._settle_or_wake(now_s)
        actions, self._actions = self._actions, []
        return actions

    # ---- events ----

    def _on_offered(self, event: Offered) -> None:
        known = {outcome.index for outcome in event.known}.union(event.later)
        tasks = self._supply.offer(event.first, event.count, event.weights, known)
        self._unsettled.update(tasks, event.later)
        self._recalling.update(event.later)
        for outcome in event.known:
            self._delivery.settle(outcome)

    def _on_recalled(self, event: Recalled) -> None:
        for outcome in event.outcomes:
            self._recalling.discard(outcome.index)
            self._unsettled.discard(outcome.index)
            self._delivery.settle(outcome)
        self._recalling.difference_update(event.lost)
        if event.lost:
            self._supply.offer_late(event.lost)

    def _on_started(self, number: int, now_s: float) -> None:
        if number in self._flight and self._timeout_s is not None:
            self._deadlines.setdefault(number, now_s + self._timeout_s)  # the first start counts
        self._supply.started(number, now_s)

    def _on_answered(self, event: AttemptAnswered, now_s: float) -> None:
        number = event.attempt
        if (sent := self._carried.get(number)) is None:
            return  # ignored before it answered
        self._deadlines.pop(number, None)
        tasks, own = self._flight.answered(number, now_s, event.report)
        self._reached()
        left = frozenset(event.left)
        if not event.outcomes and len(sent) > 1 and left.issuperset(sent):
            # It ended the first of them at the hard deadline: on its own it has none.
            detail = "a task took longer than its group was given"
            self._blame(sent, own, Failure(kind=FailureKind.TIMED_OUT, detail=detail), now_s)
            return
        if not event.outcomes or left.issuperset(sent):
            left = frozenset()  # it made no progress, and would so for ever
        if event.report is not None and not _is_stopped(event.outcomes):
            done = sent
            if len(event.outcomes) < len(sent):  # some are left, or were settled before it went
                answered = {outcome.index for outcome in event.outcomes}
                done = [task for task in sent if task in answered]
            if done:
                self._supply.observe(done, event.report)
            if self._stops is not None:
                self._stops.observe(event.report)
        if left:
            self._send_left([task for task in own if task in left], now_s)
        owed = {task for task in tasks if task not in left}
        for outcome in event.outcomes:
            if outcome.index not in owed:
                continue
            owed.discard(outcome.index)
            if outcome.error is None:
                self._settle(outcome, now_s)
            elif own is not tasks and outcome.index not in own:
                continue  # another attempt has it, and may do better
            else:
                self._on_task_failed(outcome, now_s)
        owed.intersection_update(own)
        if owed:
            missing = Failure(kind=FailureKind.CRASHED, detail="answered without this task")
            self._charge(sorted(owed), missing, now_s)

    def _send_left(self, tasks: Sequence[int], now_s: float) -> None:
        """Send again what a worker left; at the end of the run over all that is idle and warm.

        A new environment would begin when these have ended. But if they take far longer than was
        thought when they were sent, it is not the end of the run yet.
        """
        supply = self._supply
        pieces = max(1, min(self._flight.idle(now_s, self._limit), _PIECES))
        is_long = self._grouping.parts(supply.weight_of(tasks) / pieces) > 1
        if supply.waiting or not supply.has_ended or is_long:
            supply.put_back(tasks)
        else:
            supply.put_back_cut(tasks, pieces)

    def _on_task_failed(self, outcome: Outcome[Any], now_s: float) -> None:
        failure = outcome.failure or Failure(kind=FailureKind.KERNEL_RAISED, error=outcome.error)
        if failure.hard_s is not None:
            self._stopped((outcome.index,), failure)
        elif self._failures.charge(outcome.index, failure):
            self._back_off(outcome.index, failure, now_s)
        else:
            self._settle(outcome, now_s)

    def _on_failed(self, number: int, failure: Failure, now_s: float) -> None:
        if number not in self._flight:
            return
        sent = self._flight.tasks_of(number)
        self._deadlines.pop(number, None)
        is_repeat = any(self._failures.has_failed(task) for task in sent)
        _, tasks = self._flight.failed(number, now_s, failure, is_repeat=is_repeat)
        if (why := self._flight.gives_up(failure)) is not None:
            self._end(_fatal(failure, why))
        elif failure.is_fatal:
            self._end(failure)
        elif failure.kind is FailureKind.DID_NOT_RUN:
            self._barren += 1
            if self._barren > _MOST_BARREN_ATTEMPTS + self._limit:
                self._end(_given_up(failure, self._barren))
                return
            if tasks:
                self._supply.put_back(tasks)
                self._actions.append(Retry(tasks, failure, 0.0))
        elif failure.kind in PATIENCE_S:
            self._on_refused(tasks, failure, now_s)
        elif failure.kind is FailureKind.MAYBE_RAN:
            self._on_lost(tasks, failure, now_s)
        else:
            self._reached()
            self._blame(sent, tasks, failure, now_s)

    def _reached(self) -> None:
        """A worker had an attempt, whatever became of it."""
        self._barren = 0
        self._flight.reached()

    def _on_refused(self, tasks: Sequence[int], failure: Failure, now_s: float) -> None:
        if (why := self._flight.loses_patience(failure, now_s)) is not None:
            self._end(_fatal(failure, why))
        elif tasks:
            self._supply.put_back(tasks)
            self._actions.append(Retry(tasks, failure, self._flight.pause_s(now_s)))

    def _on_lost(self, tasks: Sequence[int], failure: Failure, now_s: float) -> None:
        kept, times = self._failures.lose(tasks, failure)
        for task in tasks:
            if task not in kept:
                self._give_up(task, failure, now_s)
        if kept:
            self._later(kept, failure, times, now_s)

    def _expire(self, now_s: float) -> None:
        while self._deadlines:
            number, deadline_s = next(iter(self._deadlines.items()))
            if deadline_s > now_s:
                return
            sent = self._flight.tasks_of(number)
            del self._deadlines[number]
            _, tasks = self._flight.stopped(number, now_s)
            self._reached()
            self._actions.append(Ignore(number))
            self._blame(sent, tasks, Failure(kind=FailureKind.TIMED_OUT), now_s)

    def _on_late(self, event: Event, now_s: float) -> None:
        """After the end an attempt makes room for other runs, no more."""
        match event:
            case AttemptAnswered(attempt=number) if number in self._flight:
                self._flight.answered(number, now_s, event.report)
            case AttemptFailed(attempt=number, failure=failure) if number in self._flight:
                self._flight.failed(number, now_s, failure, is_repeat=True)

    # ---- what becomes of tasks ----

    def _blame(
        self, sent: Sequence[int], tasks: Sequence[int], failure: Failure, now_s: float
    ) -> None:
        """An attempt failed that was sent with some tasks, of which it owes these."""
        if not tasks:
            return
        if len(sent) == 1 and failure.hard_s is not None:
            self._stopped(tasks, failure)
        elif len(sent) > 1 and self._failures.may_go_again(failure):
            self._supply.put_back_alone(tasks)
            self._actions.append(Retry(tasks, failure, 0.0))
        else:
            self._charge(tasks, failure, now_s)

    def _stopped(self, tasks: Sequence[int], failure: Failure) -> None:
        """A task on its own was ended by its deadline: it gets more time, at no charge."""
        if self._stops is not None:
            self._stops.stopped(tasks[0])
        self._supply.put_back_alone(tasks)
        self._actions.append(Retry(tasks, failure, 0.0))

    def _charge(self, tasks: Iterable[int], failure: Failure, now_s: float) -> None:
        for task in tasks:
            if self._failures.charge(task, failure):
                self._back_off(task, failure, now_s)
            else:
                self._give_up(task, failure, now_s)

    def _give_up(self, task: int, failure: Failure, now_s: float) -> None:
        error = self._failures.error(task, failure)
        self._settle(Outcome(task, error=error, attempts=self.attempts_of(task)), now_s)

    def _back_off(self, task: int, failure: Failure, now_s: float) -> None:
        self._later((task,), failure, self.attempts_of(task) - 1, now_s)

    def _later(self, tasks: Sequence[int], failure: Failure, attempts: int, now_s: float) -> None:
        delay_s = self._retry.delay_s(attempts, self._rng) * self._flight.slowdown
        heapq.heappush(self._backing_off, (now_s + delay_s, tuple(tasks)))
        self._actions.append(Retry(tasks, failure, delay_s))

    def _settle(self, outcome: Outcome[Any], now_s: float) -> None:
        self._unsettled.discard(outcome.index)
        self._supply.forget(outcome.index)
        for number in self._flight.settled(outcome.index):
            if self._can_stop:
                self._deadlines.pop(number, None)
                self._flight.stopped(number, now_s)
                self._actions.append(Ignore(number))
        self._failures.forget(outcome.index)
        if self._stops is not None:
            self._stops.forget(outcome.index)
        self._delivery.settle(outcome)

    # ---- the end of every step, in this order ----

    def _deliver(self) -> None:
        if not (outcomes := self._delivery.batch()):
            return
        self._actions.append(Deliver(outcomes))
        if self._stops_on_failure and any(outcome.error is not None for outcome in outcomes):
            self._end(None)

    def _resume(self, now_s: float) -> None:
        while self._backing_off and self._backing_off[0][0] <= now_s:
            _, tasks = heapq.heappop(self._backing_off)
            self._supply.put_back(tasks, first=False)

    def _launch(self, now_s: float) -> None:
        if self.is_finished:
            return
        supply, flight = self._supply, self._flight
        is_paused = flight.is_paused(now_s)
        if self._hedges and not is_paused:
            self._cover(now_s)  # first of all, or it would never get a place
        if is_paused or not supply.waiting:
            if is_paused or not self._is_cover_held:
                flight.rest()
            return
        if len(self._carried) >= self._limit:
            flight.rest()
            return
        fleet = supply.fleet(flight.warm(now_s))
        first = self._next_attempt
        is_held = self._is_cover_held
        dear = []
        while supply.waiting and len(self._carried) < fleet:
            if not flight.admits(now_s):
                is_held = True
                break
            tasks = supply.next_group(fleet, now_s)
            if not tasks:
                break
            if self._launch_one(tasks, now_s):
                continue
            dear.append(tasks)
            if self._stops is None or not self._stops.has_grown(tasks):
                break  # others cost as much; one that hangs shall not hold them up
        for tasks in reversed(dear):
            supply.put_back(tasks)
        supply.launched(self._next_attempt - 1, self._next_attempt - first, now_s)
        if not is_held:
            flight.rest()
        is_all = not self._backing_off and not self._recalling and not self.wanted
        if dear and not self._carried and is_all:
            self._end_for_budget()

    def _end_for_budget(self) -> None:
        """What is dear is all there is: end, if nothing can make it cheaper."""
        if (over := self._flight.overdraft) is not None:
            error = BudgetExceededError(
                over.spent_gb_s,
                over.max_gb_s,
                over.worst_gb_s,
                spent_usd=over.spent_usd,
                max_usd=over.max_usd,
                worst_usd=over.worst_usd,
            )
            self._end(Failure(kind=FailureKind.REFUSED, error=error, is_fatal=True))

    def _launch_one(self, tasks: Sequence[int], now_s: float, *, covers: int | None = None) -> bool:
        """Launch these as an attempt, if the budget has enough for it; say whether."""
        number = self._next_attempt
        amount = self._supply.weight_of(tasks)
        # A task on its own can't be divided.
        soft_s = self._grouping.soft_s(amount) if len(tasks) > 1 else None
        expected_s = self._grouping.expected_s(amount)
        hard_s = ends_s = None
        if self._stops is not None:
            hard_s, ends_s = self._stops.of(tasks, expected_s=expected_s, soft_s=soft_s)
        is_escalated = len(tasks) == 1 and self._failures.is_escalated(tasks[0])
        if not self._flight.affords(now_s, ends_s, is_escalated=is_escalated):
            return False
        self._next_attempt += 1
        self._flight.launch(
            number,
            tasks,
            now_s,
            expected_s=expected_s,
            soft_s=soft_s,
            ends_s=ends_s,
            is_escalated=is_escalated,
            covers=covers,
        )
        self._actions.append(Launch(number, tasks, soft_s, hard_s, ends_s, is_escalated, covers))
        return True

    def _cover(self, now_s: float) -> None:
        """Send the tasks of silent attempts a second time."""
        free = self._limit - len(self._carried)
        self._is_cover_held = False
        if free <= 0:
            return
        expected_s = self._grouping.expected_s(self._supply.amount)
        silent = self._flight.silent(
            now_s,
            is_queue_empty=not self._supply.waiting,
            free=free,
            est_gb_s=(expected_s or 0.0) * self._gb,
        )
        for number, pieces in silent:
            for piece in self._parts(pieces):
                if len(self._carried) >= self._limit:
                    return
                if not self._flight.admits(now_s):
                    self._is_cover_held = True
                    return
                if not self._launch_one(piece, now_s, covers=number):
                    return

    def _parts(self, pieces: Sequence[Sequence[int]]) -> Iterator[Sequence[int]]:
        """The pieces of a cover, cut up where they take far longer than was thought."""
        for piece in pieces:
            count = min(len(piece), self._grouping.parts(self._supply.weight_of(piece)))
            yield from (piece[start::count] for start in range(count))

    def _settle_or_wake(self, now_s: float) -> None:
        if self.is_finished:
            return
        if self._supply.has_ended and not self._unsettled:  # so none is held either
            self._end(None)
            return
        due_s = [self._backing_off[0][0]] if self._backing_off else []
        if self._deadlines:
            due_s.append(next(iter(self._deadlines.values())))
        _add(due_s, self._supply.due_s(now_s))
        if self._would_launch(now_s):
            _add(due_s, self._flight.opens_s(now_s))
        _add(due_s, self._flight.silent_s(now_s, is_queue_empty=not self._supply.waiting))
        if self._armed_s is not None and self._armed_s <= now_s:
            self._armed_s = None
        if due_s and (self._armed_s is None or min(due_s) < self._armed_s):
            self._armed_s = min(due_s)
            self._actions.append(WakeAt(self._armed_s))

    def _would_launch(self, now_s: float) -> bool:
        """Whether it would launch something as soon as it may."""
        waiting, in_flight = self._supply.waiting, len(self._carried)
        if self._flight.is_paused(now_s):
            return bool(waiting) or self._flight.is_watched
        if self._is_cover_held:
            return True
        if not waiting or in_flight >= self._limit:
            return False
        return in_flight < self._supply.fleet(self._flight.warm(now_s))

    def _end(self, failure: Failure | None) -> None:
        self.is_finished = True
        if self._can_stop:
            self._actions += [Ignore(number) for number in self._flight]
        self._flight.end(is_stopped=self._can_stop)
        self._actions.append(Finish(failure))


def _is_stopped(outcomes: Sequence[Outcome[Any]]) -> bool:
    """Whether an attempt did nothing but run into its deadline: that is no measurement."""
    if len(outcomes) != 1 or (failure := outcomes[0].failure) is None:
        return False
    return failure.hard_s is not None


def _add(due_s: list[float], at_s: float | None) -> None:
    if at_s is not None:
        due_s.append(at_s)


def _given_up(failure: Failure, barren: int) -> Failure:
    return _fatal(
        failure, f"{barren} attempts in a row never reached a worker; the last: {failure.detail}"
    )


def _fatal(failure: Failure, message: str) -> Failure:
    return Failure(kind=failure.kind, detail=message, error=BackendError(message), is_fatal=True)
