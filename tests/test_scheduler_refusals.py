"""What the scheduler does when the service refuses, attempts are lost, or a worker leaves tasks."""

from __future__ import annotations

import pytest

from fanout.capacity import Capacity
from fanout.errors import (
    BackendError,
    OutOfMemoryError,
    TaskLostError,
    TaskTimeoutError,
    WorkerCrashedError,
)
from fanout.events import (
    AttemptAnswered,
    AttemptStarted,
    Cancelled,
    Deliver,
    Finish,
    Ignore,
    Launch,
    Retry,
    Ticked,
    WakeAt,
)
from fanout.retry import Failure, FailureKind, RetryPolicy
from fanout.tasks import Outcome
from fanout.throttle import PATIENCE_S
from tests.scheduler_checks import Bench, delivered, launched, report_of

REFUSALS = [FailureKind.THROTTLED, FailureKind.UNREACHABLE]
LOST = Failure(kind=FailureKind.MAYBE_RAN, detail="connection reset")
CRASH = Failure(kind=FailureKind.CRASHED, detail="was killed by SIGSEGV")
NO_MEMORY = Failure(kind=FailureKind.OUT_OF_MEMORY, detail="was killed by Lambda with 512 MB")


def throttled(wait_s: float | None = None) -> Failure:
    return Failure(kind=FailureKind.THROTTLED, detail="Rate Exceeded.", wait_s=wait_s)


def refusal(kind: FailureKind, wait_s: float | None = None) -> Failure:
    return Failure(kind=kind, detail="by the test", wait_s=wait_s)


# ---- refusals ----


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_refused_attempt_is_sent_again_after_the_pause_together_and_uncharged(
    kind: FailureKind,
) -> None:
    bench = Bench(limit=1, group=2)
    bench.offer(4)
    failure = refusal(kind, wait_s=3.0)
    assert bench.fail(0, failure, 1.0) == [Retry([0, 1], failure, 3.0), WakeAt(4.0)]
    assert bench.feed(Ticked(), 4.0) == [Launch(1, [0, 1])]
    assert bench.scheduler.attempts_of(0) == 1


@pytest.mark.parametrize("kind", REFUSALS)
def test_refusals_alone_never_fail_a_task(kind: FailureKind) -> None:
    bench = Bench(limit=1, retry=RetryPolicy(max_attempts=1, max_lost=1, base_s=0.0))
    bench.offer(1)
    for attempt in range(50):
        bench.fail(attempt, refusal(kind, wait_s=1.0), float(attempt))
        bench.feed(Ticked(), attempt + 1.0)
    bench.answer(50, now_s=50.0)
    assert bench.outcomes == [Outcome(0, 0)]


def test_nothing_is_launched_during_a_pause_whatever_happens_meanwhile() -> None:
    bench = Bench(limit=3)
    bench.offer(5, ends=False)
    bench.fail(0, throttled(wait_s=10.0))
    meanwhile = [
        *bench.answer(1, now_s=1.0),
        *bench.fail(2, CRASH, 2.0),
        *bench.offer(2),
        *bench.feed(Ticked(), 9.999),
    ]
    assert launched(meanwhile) == []
    assert bench.scheduler.in_flight == 0
    assert launched(bench.feed(Ticked(), 10.0)) == [[0], [2], [3]]


def test_chunks_that_come_during_a_pause_are_launched_at_its_end() -> None:
    bench = Bench(limit=2)
    bench.offer(1, ends=False)
    bench.fail(0, throttled(wait_s=10.0))
    assert launched(bench.offer(1)) == []
    assert launched(bench.feed(Ticked(), 10.0)) == [[0], [1]]


def test_a_task_that_backs_off_into_a_pause_is_woken_at_its_end() -> None:
    bench = Bench(limit=2, retry=RetryPolicy(base_s=1.0))
    bench.offer(2)
    (retry, wake) = bench.fail(0, CRASH)
    assert isinstance(retry, Retry)
    assert wake == WakeAt(retry.delay_s)
    bench.fail(1, throttled(wait_s=10.0))
    assert bench.feed(Ticked(), retry.delay_s) == [WakeAt(10.0)]
    assert launched(bench.feed(Ticked(), 10.0)) == [[1], [0]]


def test_a_longer_pause_replaces_a_shorter_one() -> None:
    bench = Bench(limit=2)
    bench.offer(2)
    assert bench.fail(0, throttled(wait_s=5.0))[-1] == WakeAt(5.0)
    bench.fail(1, throttled(wait_s=8.0), 1.0)
    assert bench.feed(Ticked(), 5.0) == [WakeAt(9.0)]
    assert launched(bench.feed(Ticked(), 9.0)) == [[1], [0]]


def test_a_tick_just_before_the_end_of_a_pause_is_asked_for_again() -> None:
    bench = Bench(limit=1)
    bench.offer(1)
    bench.fail(0, throttled(wait_s=5.0))
    assert bench.feed(Ticked(), 4.999999) == [WakeAt(5.0)]


def test_answers_are_delivered_and_timeouts_noticed_during_a_pause() -> None:
    bench = Bench(limit=3, timeout_s=2.0)
    bench.offer(3)
    bench.feed(AttemptStarted(1))
    bench.fail(0, throttled(wait_s=100.0))
    assert delivered(bench.answer(2, now_s=1.0)) == [Outcome(2, 20)]
    actions = bench.feed(Ticked(), 2.0)
    assert actions[0] == Ignore(1)
    assert [type(o.error) for o in delivered(actions)] == [TaskTimeoutError]


def test_a_refusal_of_an_attempt_that_was_called_off_pauses_nothing() -> None:
    bench = Bench(limit=1, timeout_s=1.0)
    bench.offer(2)
    bench.feed(AttemptStarted(0))
    bench.feed(Ticked(), 1.0)
    assert bench.fail(0, throttled(wait_s=100.0), 1.0) == []
    assert launched(bench.fail(1, CRASH, 1.0)) == [[1]]


def test_a_suspect_that_is_refused_stays_alone() -> None:
    bench = Bench(limit=1, group=2)
    bench.offer(4)
    bench.fail(0, CRASH)
    bench.fail(1, throttled(wait_s=1.0))
    bench.feed(Ticked(), 1.0)
    assert bench.groups == [[0, 1], [0], [0]]


def test_a_run_can_be_cancelled_during_a_pause() -> None:
    bench = Bench(limit=1)
    bench.offer(2)
    bench.fail(0, throttled(wait_s=100.0))
    assert bench.feed(Cancelled(), 1.0) == [Finish(None)]


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_run_is_given_up_after_too_long_a_time_of_refusals(kind: FailureKind) -> None:
    bench = Bench(limit=2)
    bench.offer(2)
    failure = refusal(kind)
    bench.fail(0, failure, 100.0)
    last_s = 100.0 + PATIENCE_S[kind]
    bench.fail(2, failure, last_s)
    assert not bench.scheduler.is_finished
    actions = bench.fail(1, failure, last_s + 0.001)
    (called_off, finish) = actions
    assert called_off == Ignore(3)
    assert isinstance(finish, Finish)
    assert finish.failure is not None
    assert finish.failure.kind is kind
    assert isinstance(finish.failure.error, BackendError)
    assert (
        f"{kind.value} for more than {PATIENCE_S[kind]:g} s, the last time: by the test: "
        in str(finish.failure.error)
    )


@pytest.mark.parametrize(
    "sign_of_life",
    ["answer", "crash", "out of memory", "timeout", "timeout of the service"],
)
@pytest.mark.parametrize("kind", REFUSALS)
def test_a_worker_that_was_reached_renews_the_patience(
    kind: FailureKind, sign_of_life: str
) -> None:
    """The longest invocation is as long as the patience: it need not end with an answer."""
    bench = Bench(limit=1, timeout_s=PATIENCE_S[kind], retry=RetryPolicy(base_s=0.0))
    bench.offer(3)
    bench.fail(0, refusal(kind))
    now_s = PATIENCE_S[kind] + 1.0
    match sign_of_life:
        case "answer":
            bench.answer(1, now_s=now_s)
        case "crash":
            bench.fail(1, CRASH, now_s)
        case "out of memory":
            bench.fail(1, NO_MEMORY, now_s)
        case "timeout":
            bench.feed(AttemptStarted(1))
            bench.feed(Ticked(), now_s)
        case _:
            bench.fail(1, Failure(kind=FailureKind.TIMED_OUT, allowed_s=900.0), now_s)
    bench.fail(2, refusal(kind), now_s)
    assert not bench.scheduler.is_finished


def test_losses_and_attempts_that_did_not_run_do_not_renew_the_patience() -> None:
    bench = Bench(limit=1, retry=RetryPolicy(base_s=0.0))
    bench.offer(1)
    late_s = PATIENCE_S[FailureKind.UNREACHABLE] + 1.0
    bench.fail(0, refusal(FailureKind.UNREACHABLE))
    bench.fail(1, LOST, late_s)
    bench.fail(2, Failure(kind=FailureKind.DID_NOT_RUN), late_s)
    bench.fail(3, refusal(FailureKind.UNREACHABLE), late_s)
    assert bench.scheduler.is_finished


def test_refusals_are_not_counted_as_attempts_that_did_not_run() -> None:
    bench = Bench(limit=1)
    bench.offer(1)
    for attempt in range(100):
        bench.fail(attempt, throttled())
    assert not bench.scheduler.is_finished


def test_a_fatal_refusal_ends_the_run_at_once() -> None:
    bench = Bench(limit=1)
    bench.offer(1)
    fatal = Failure(kind=FailureKind.THROTTLED, error=BackendError("concurrency 0"), is_fatal=True)
    assert bench.fail(0, fatal) == [Finish(fatal)]


# ---- losses ----


def test_a_lost_group_backs_off_and_is_sent_again_together_and_uncharged() -> None:
    bench = Bench(limit=1, group=3, retry=RetryPolicy(base_s=1.0))
    bench.offer(3)
    retry, wake = bench.fail(0, LOST, 5.0)
    assert isinstance(retry, Retry)
    assert (retry.tasks, retry.failure) == ([0, 1, 2], LOST)
    assert 0.0 < retry.delay_s <= 2.0
    assert wake == WakeAt(5.0 + retry.delay_s)
    assert bench.feed(Ticked(), 5.0 + retry.delay_s) == [Launch(1, [0, 1, 2])]
    assert bench.scheduler.attempts_of(0) == 1


def test_others_go_on_while_a_lost_group_backs_off() -> None:
    bench = Bench(limit=1, group=2, retry=RetryPolicy(base_s=1.0))
    bench.offer(4)
    assert launched(bench.fail(0, LOST)) == [[2, 3]]


def test_back_off_grows_with_the_number_of_losses() -> None:
    longest = [0.0] * 4
    for seed in range(200):
        bench = Bench(limit=1, group=2, retry=RetryPolicy(base_s=1.0, cap_s=5.0))
        bench.scheduler._rng.seed(seed)
        bench.offer(2)
        now_s = 0.0
        for attempt in range(4):
            retry = bench.fail(attempt, LOST, now_s)[0]
            assert isinstance(retry, Retry)
            now_s += retry.delay_s
            bench.feed(Ticked(), now_s)
            longest[attempt] = max(longest[attempt], retry.delay_s)
    for found_s, ceiling_s in zip(longest, [2.0, 4.0, 5.0, 5.0], strict=True):
        assert 0.95 * ceiling_s < found_s <= ceiling_s


def test_a_task_is_given_up_when_it_was_lost_max_lost_times() -> None:
    bench = Bench(limit=1, retry=RetryPolicy(max_attempts=1, max_lost=3, base_s=0.0))
    bench.offer(1)
    for attempt in range(2):
        assert delivered(bench.fail(attempt, LOST)) == []
    actions = bench.fail(2, LOST)
    (outcome,) = delivered(actions)
    assert isinstance(outcome.error, TaskLostError)
    assert "the last of 3: connection reset" in str(outcome.error)
    assert outcome.attempts == 1, "attempts that were not its fault aside"
    assert actions[-1] == Finish(None)


def test_of_a_lost_group_only_those_are_given_up_that_were_lost_too_often() -> None:
    bench = Bench(limit=1, group=3, retry=RetryPolicy(max_lost=2, base_s=0.0))
    bench.offer(2, ends=False)
    bench.offer(1)
    assert launched(bench.fail(0, LOST)) == [[0, 1, 2]], "now among others"
    actions = bench.fail(1, LOST)
    assert [(o.index, type(o.error)) for o in delivered(actions)] == [
        (0, TaskLostError),
        (1, TaskLostError),
    ]
    assert [action.tasks for action in actions if isinstance(action, Retry)] == [[2]]
    assert bench.answer(2) == [Deliver([Outcome(2, 20)]), Finish(None)]


def test_losses_are_counted_apart_from_crashes() -> None:
    bench = Bench(limit=1, retry=RetryPolicy(max_attempts=2, max_lost=2, base_s=0.0))
    bench.offer(1)
    bench.fail(0, LOST)
    bench.fail(1, CRASH)
    assert bench.scheduler.attempts_of(0) == 2
    bench.fail(2, CRASH)
    (outcome,) = bench.outcomes
    assert isinstance(outcome.error, WorkerCrashedError)
    assert outcome.attempts == 2


def test_losses_are_counted_over_the_whole_run_of_a_task_not_in_a_row() -> None:
    bench = Bench(limit=1, retry=RetryPolicy(max_lost=2, base_s=0.0, on=(ConnectionError,)))
    bench.offer(1)
    bench.fail(0, LOST)
    bench.answer(1, Outcome(0, error=ConnectionError()))
    bench.fail(2, LOST)
    (outcome,) = bench.outcomes
    assert isinstance(outcome.error, TaskLostError)
    assert outcome.attempts == 2


def test_a_suspect_that_is_lost_stays_alone() -> None:
    bench = Bench(limit=1, group=2)
    bench.offer(4)
    bench.fail(0, CRASH)
    bench.fail(1, LOST)
    bench.answer(2)
    bench.answer(3)
    bench.answer(4)
    assert bench.groups == [[0, 1], [0], [1], [0], [2, 3]]


def test_a_task_that_is_settled_is_forgotten_with_its_losses() -> None:
    bench = Bench(limit=1, group=2)
    bench.offer(2, ends=False)
    bench.fail(0, LOST)
    assert len(bench.scheduler._failures) == 2
    bench.answer(1)
    assert len(bench.scheduler._failures) == 0


# ---- out of memory, and the service's own timeout ----


def test_a_group_that_ran_out_of_memory_is_sent_one_by_one() -> None:
    bench = Bench(limit=2, group=2)
    bench.offer(2)
    actions = bench.fail(0, NO_MEMORY)
    assert actions[0] == Retry([0, 1], NO_MEMORY, 0.0)
    assert launched(actions) == [[0], [1]]


def test_a_task_that_runs_out_of_memory_ends_with_that() -> None:
    bench = Bench(limit=1, retry=RetryPolicy(max_attempts=2, base_s=0.0))
    bench.offer(1)
    bench.fail(0, NO_MEMORY)
    bench.fail(1, NO_MEMORY)
    (outcome,) = bench.outcomes
    assert isinstance(outcome.error, OutOfMemoryError)
    assert "was killed by Lambda with 512 MB" in str(outcome.error)
    assert "(attempt 2)" in str(outcome.error)


def test_a_task_that_the_service_stopped_says_what_the_service_allowed() -> None:
    bench = Bench(limit=1, timeout_s=1000.0, retry=RetryPolicy(max_attempts=2, base_s=0.0))
    bench.offer(1)
    for attempt in range(2):
        bench.fail(attempt, Failure(kind=FailureKind.TIMED_OUT, allowed_s=60.0))
    (outcome,) = bench.outcomes
    assert outcome.attempts == 2
    assert isinstance(outcome.error, TaskTimeoutError)
    assert outcome.error.timeout_s == 60.0
    assert "the function's own timeout" in str(outcome.error)


# ---- tasks that a worker left ----


def test_tasks_that_are_left_are_sent_again_first_together_and_uncharged() -> None:
    bench = Bench(limit=1, group=3)
    bench.offer(6)
    actions = bench.answer(0, left=[1, 2])
    assert actions == [Deliver([Outcome(0, 0)]), Launch(1, [1, 2, 3])]
    assert bench.scheduler.attempts_of(1) == 1


def test_a_group_of_which_the_worker_does_one_task_at_a_time_ends() -> None:
    bench = Bench(limit=1, group=4, retry=RetryPolicy(max_attempts=1, max_lost=1))
    bench.offer(4)
    for attempt in range(4):
        bench.answer(attempt, left=range(attempt + 1, 4))
    assert bench.outcomes == [Outcome(task, 10 * task) for task in range(4)]
    assert bench.scheduler.is_finished


@pytest.mark.parametrize(
    "outcomes",
    [(), (Outcome(9, "foreign"),), (Outcome(0, "though it is left"),)],
    ids=["none", "foreign", "left"],
)
def test_an_answer_that_leaves_every_task_is_not_believed(outcomes: tuple[Outcome[str]]) -> None:
    """Or a worker that never gets anywhere would be asked for ever."""
    bench = Bench(limit=1, group=2, retry=RetryPolicy(max_attempts=2, base_s=0.0))
    bench.offer(2)
    report = report_of(0, total_s=1.0)
    for attempt in range(10):
        bench.feed(AttemptAnswered(attempt, outcomes, report, [0, 1]))
    assert bench.scheduler.is_finished
    assert [o.index for o in bench.outcomes] in ([0, 1], [1, 0])
    assert any(isinstance(o.error, WorkerCrashedError) for o in bench.outcomes)


def test_tasks_of_a_group_that_is_left_as_a_whole_are_tried_alone_and_uncharged() -> None:
    """Its first task ran into the hard deadline of the group."""
    bench = Bench(limit=1, group=3)
    bench.offer(3)
    actions = bench.feed(AttemptAnswered(0, (), None, [0, 1, 2]))
    assert [action.tasks for action in actions if isinstance(action, Launch)] == [[0]]
    bench.answer(1)
    bench.answer(2)
    bench.answer(3)
    assert [outcome.attempts for outcome in bench.outcomes] == [1, 1, 1]


def test_an_answer_without_outcomes_is_not_believed_and_charges_every_task() -> None:
    bench = Bench(limit=1, group=3)
    bench.offer(3)
    bench.feed(AttemptAnswered(0, (), None, [1, 2]))
    assert [bench.scheduler.attempts_of(task) for task in range(3)] == [2, 2, 2]


def test_a_foreign_task_that_is_left_is_dropped() -> None:
    bench = Bench(limit=2)
    bench.offer(2)
    assert bench.answer(0, left=[1, 7]) == [Deliver([Outcome(0, 0)])]
    assert bench.scheduler.in_flight == 1


def test_a_task_that_is_left_and_has_an_outcome_is_sent_again_and_delivered_once() -> None:
    bench = Bench(limit=1, group=2)
    bench.offer(2)
    bench.answer(0, Outcome(0, "a"), Outcome(1, "but it is left"), left=[1])
    bench.answer(1, Outcome(1, "b"))
    assert [o.value for o in bench.outcomes] == ["a", "b"]


def test_what_is_neither_left_nor_answered_is_charged() -> None:
    bench = Bench(limit=1, group=3)
    bench.offer(3)
    actions = bench.answer(0, Outcome(0, "a"), left=[2])
    (retry,) = [action for action in actions if isinstance(action, Retry)]
    assert (retry.tasks, retry.failure.kind) == ((1,), FailureKind.CRASHED)
    assert [bench.scheduler.attempts_of(task) for task in (1, 2)] == [2, 1]
    bench.answer(1)
    bench.answer(2)
    assert sorted(o.index for o in bench.outcomes) == [0, 1, 2]


def test_the_time_per_task_is_measured_on_those_that_were_done() -> None:
    """Else groups would grow although the worker did not even get through this one."""
    bench = Bench(limit=1, group=None)
    bench.offer(3, ends=False)
    bench.feed(AttemptAnswered(0, [Outcome(0)], report_of(0, total_s=1e-6)))
    assert bench.groups[-1] == [1, 2]
    bench.offer(5)
    bench.feed(AttemptAnswered(1, [Outcome(1)], report_of(1, total_s=0.05), [2]))
    estimate = bench.scheduler._grouping.estimate
    assert estimate is not None
    assert estimate.unit_s == pytest.approx((1e-6 + 0.05) / 2)


def test_tasks_left_during_a_pause_wait_for_its_end() -> None:
    bench = Bench(limit=2, group=2)
    bench.offer(4)
    bench.fail(0, throttled(wait_s=5.0))
    assert bench.answer(1, left=[3], now_s=1.0) == [Deliver([Outcome(2, 20)])]
    assert launched(bench.feed(Ticked(), 5.0)) == [[3], [0, 1]]


def test_tasks_left_at_the_end_go_to_all_that_is_idle() -> None:
    bench = Bench(limit=4, group=9)
    bench.offer(9)
    assert launched(bench.answer(0, left=[2, 3, 4, 5, 6, 7, 8])) == [[2, 6], [3, 7], [4, 8], [5]]


def test_tasks_left_at_the_end_are_cut_into_no_more_than_eight_pieces_nor_tasks() -> None:
    bench = Bench(limit=100, group=22)
    bench.offer(22)
    again = launched(bench.answer(0, left=range(2, 22)))
    assert sorted(len(tasks) for tasks in again) == [2, 2, 2, 2, 3, 3, 3, 3]
    assert launched(bench.answer(1, left=bench.groups[1][1:])) == [[10], [18]]


def test_tasks_left_while_others_wait_stay_together() -> None:
    bench = Bench(limit=1, group=4)
    bench.offer(8)
    assert launched(bench.answer(0, left=[1, 2, 3])) == [[1, 2, 3, 4]]


def test_tasks_left_at_the_end_start_no_environment() -> None:
    """One that is started would begin when these have ended."""
    capacity = Capacity(100, growth=None, rate=None)
    bench = Bench(limit=100, group=10, capacity=capacity)
    bench.offer(20)
    reports = [report_of(number, total_s=1.0, environment=str(number)) for number in range(2)]
    (first, second) = bench.groups
    bench.feed(AttemptAnswered(0, [Outcome(task) for task in first], reports[0]))
    left = second[4:]
    bench.feed(AttemptAnswered(1, [Outcome(task) for task in second[:4]], reports[1], left))
    assert bench.groups[2:] == [left[::2], left[1::2]], "two environments are idle"
    bench.feed(AttemptAnswered(2, [Outcome(left[0])], reports[0], left[2::2]))
    assert bench.groups[4:] == [left[2::2]], "one is"
