"""When a run shall not go on: failures and answers in, a verdict out.

The runs here are simulated: a fleet of a fixed number of places, tasks that are healthy or not,
retries with back-off as the policy says. What they cost is counted in calls.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from fanout.retry import Failure, FailureKind, RetryPolicy
from fanout.storm import StormGuard

if TYPE_CHECKING:
    from collections.abc import Callable

CRASH = Failure(kind=FailureKind.CRASHED, detail="was killed by SIGSEGV")
LOST = Failure(kind=FailureKind.MAYBE_RAN, detail="error 500")


def fail(guard: StormGuard, times: int, failure: Failure = CRASH) -> None:
    for _ in range(times):
        guard.failed(failure, tasks=1, is_repeat=False)


# ---- one by one ----


def test_a_run_begins_calm() -> None:
    guard = StormGuard()
    assert (guard.tokens, guard.is_calm, guard.slowdown) == (100.0, True, 1.0)
    assert not guard.is_over(in_flight=0)


def test_at_half_of_the_bucket_hedges_stop_and_retries_take_five_times_as_long() -> None:
    guard = StormGuard()
    fail(guard, 49)
    assert (guard.is_calm, guard.slowdown) == (True, 1.0)
    fail(guard, 1)
    assert (guard.is_calm, guard.slowdown) == (False, 5.0)
    guard.answered()
    assert (guard.is_calm, guard.slowdown) == (True, 1.0)


def test_a_run_is_over_when_the_bucket_is_empty() -> None:
    guard = StormGuard()
    fail(guard, 99)
    assert not guard.is_over(in_flight=0)
    fail(guard, 1)
    assert guard.is_over(in_flight=0)


def test_attempts_in_flight_vouch_for_half_a_token_each() -> None:
    guard = StormGuard()
    fail(guard, 149)
    assert not guard.is_over(in_flight=100)
    fail(guard, 1)
    assert guard.is_over(in_flight=100)
    assert not guard.is_over(in_flight=101)


def test_answers_fill_the_bucket_up_to_its_rim() -> None:
    guard = StormGuard()
    guard.answered()
    assert guard.tokens == 100.0
    fail(guard, 3)
    guard.answered()
    assert guard.tokens == 98.0


def test_a_task_that_fails_again_says_more_about_itself_than_about_the_endpoint() -> None:
    guard = StormGuard()
    guard.failed(CRASH, tasks=1, is_repeat=True)
    assert guard.tokens == pytest.approx(99.9)


def test_the_crash_of_a_group_blames_none_of_its_tasks() -> None:
    guard = StormGuard()
    guard.failed(CRASH, tasks=20, is_repeat=False)
    assert guard.tokens == pytest.approx(99.9)


def test_the_loss_of_a_group_is_the_endpoints() -> None:
    """It is sent again as it is, so it would never count alone."""
    guard = StormGuard()
    guard.failed(LOST, tasks=20, is_repeat=False)
    assert guard.tokens == 99.0


@pytest.mark.parametrize("kind", FailureKind)
def test_what_counts(kind: FailureKind) -> None:
    guard = StormGuard()
    fail(guard, 1, Failure(kind=kind))
    is_counted = kind in {FailureKind.CRASHED, FailureKind.OUT_OF_MEMORY, FailureKind.MAYBE_RAN}
    assert guard.tokens == (99.0 if is_counted else 100.0)


def test_a_timeout_of_the_service_counts_as_a_crash_does() -> None:
    guard = StormGuard()
    fail(guard, 1, Failure(kind=FailureKind.TIMED_OUT, allowed_s=60.0))
    assert guard.tokens == 99.0


def test_why_a_run_is_ended_tells_the_last_failure_and_what_to_do() -> None:
    assert StormGuard().why(CRASH) == (
        "failures outnumber answers by 100 and more (crashed, the last time: was killed by "
        "SIGSEGV): run the kernel on one chunk to see whether the function starts and has enough "
        "memory, then run it again"
    )
    assert "(crashed):" in StormGuard().why(Failure(kind=FailureKind.CRASHED))


def test_its_repr_shows_the_level() -> None:
    guard = StormGuard()
    guard.failed(CRASH, tasks=1, is_repeat=True)
    assert repr(guard) == "<StormGuard: 99.9 of 100 tokens>"


@given(st.lists(st.sampled_from([-1.0, -0.1, 1.0])), st.integers(0, 1000))
def test_the_level_is_what_was_put_in_and_taken_out_and_never_above_the_rim(
    steps: list[float], in_flight: int
) -> None:
    guard, level = StormGuard(), 100.0
    for step in steps:
        level = min(100.0, level + step)
        if step > 0:
            guard.answered()
        else:
            guard.failed(CRASH, tasks=1, is_repeat=step > -1)
        assert guard.tokens == pytest.approx(level)
        assert guard.is_calm is (guard.tokens > 50)
        assert guard.is_over(in_flight) is (guard.tokens <= -0.5 * in_flight)


# ---- whole runs ----


@dataclass
class Ended:
    """What became of a simulated run.

    Attributes:
        calls: How many attempts were launched.
        is_over: Whether the guard ended it.
        lowest: The lowest level of the bucket.
    """

    calls: int
    is_over: bool
    lowest: float


def simulate(
    answer: Callable[[int, int], tuple[float, Failure | None]],
    *,
    tasks: int,
    places: int,
    group: int = 1,
    per_s: float = 1000.0,
    retry: RetryPolicy | None = None,
) -> Ended:
    """Run tasks in as many places; `answer` tells how long an attempt takes, and how it ends.

    It is given the number of the call and that of the task. A group takes as long as its longest
    task, crashes when one of them does, and then each goes alone, as in `fanout.scheduler`.
    """
    retry = retry or RetryPolicy()
    rng = random.Random(7)
    guard = StormGuard()
    queue = [tuple(range(first, min(first + group, tasks))) for first in range(0, tasks, group)]
    queue.reverse()
    waiting: list[tuple[float, tuple[int, ...]]] = []
    running: list[tuple[float, int, tuple[int, ...], Failure | None]] = []
    failures: Counter[int] = Counter()
    now_s, calls, lowest = 0.0, 0, 100.0
    next_launch_s = 0.0
    while queue or waiting or running:
        while waiting and waiting[0][0] <= now_s:
            queue.append(heapq.heappop(waiting)[1])
        if queue and len(running) < places and now_s >= next_launch_s:
            carried = queue.pop()
            ends = [answer(calls, task) for task in carried]
            bad = [(dt_s, failure) for dt_s, failure in ends if failure is not None]
            dt_s, failure = min(bad, key=lambda end: end[0]) if bad else (max(ends)[0], None)
            heapq.heappush(running, (now_s + dt_s, calls, carried, failure))
            calls += 1
            next_launch_s = now_s + 1 / per_s
            continue
        times = [running[0][0]] if running else []
        times += [waiting[0][0]] if waiting else []
        times += [next_launch_s] if queue and len(running) < places else []
        now_s = max(now_s, min(times))
        if not running or running[0][0] > now_s:
            continue
        _, _, carried, failure = heapq.heappop(running)
        if failure is None:
            guard.answered()
            continue
        guard.failed(failure, tasks=len(carried), is_repeat=any(failures[t] for t in carried))
        lowest = min(lowest, guard.tokens)
        if guard.is_over(len(running)):
            return Ended(calls, is_over=True, lowest=lowest)
        if failure is not LOST and len(carried) > 1:
            queue += [(task,) for task in carried]
            continue
        failures.update(carried)
        most = retry.max_lost if failure is LOST else retry.max_attempts
        worst = max(failures[task] for task in carried)
        if worst < most:
            due_s = now_s + guard.slowdown * retry.delay_s(worst, rng)
            heapq.heappush(waiting, (due_s, carried))
    return Ended(calls, is_over=False, lowest=lowest)


def poisonous(
    share: float, *, healthy_s: float = 1.0, crash_s: float = 0.05
) -> Callable[[int, int], tuple[float, Failure | None]]:
    """Tasks of which so many crash their worker in each attempt."""
    rng = random.Random(3)
    poison = [rng.random() < share for _ in range(100_000)]
    return lambda call, task: (crash_s, CRASH) if poison[task] else (healthy_s, None)


@pytest.mark.parametrize(("failure", "most"), [(CRASH, 250), (LOST, 500)])
@pytest.mark.parametrize("places", [1, 16, 1000])
def test_a_dead_endpoint_that_fails_at_once_costs_a_few_hundred_calls(
    places: int, failure: Failure, most: int
) -> None:
    ended = simulate(lambda call, task: (0.05, failure), tasks=100_000, places=places)
    assert ended.is_over
    assert ended.calls <= most


@pytest.mark.parametrize("places", [16, 200, 1000])
def test_a_dead_endpoint_that_fails_late_costs_half_of_what_was_in_flight_and_a_hundred_calls_more(
    places: int,
) -> None:
    """As a function does that can't import its kernel: it fails after its start, seconds later."""
    rng = random.Random(5)
    ended = simulate(
        lambda call, task: (rng.lognormvariate(0.6, 0.35), CRASH), tasks=100_000, places=places
    )
    assert ended.is_over
    assert ended.calls <= 1.5 * places + 250


def test_a_dead_endpoint_costs_no_more_where_groups_are_sent() -> None:
    ended = simulate(
        lambda call, task: (0.05, CRASH), tasks=100_000, places=100, group=50, per_s=200.0
    )
    assert ended.is_over
    assert ended.calls <= 300


def test_an_endpoint_that_dies_in_the_middle_of_a_run_ends_it() -> None:
    ended = simulate(
        lambda call, task: (0.5, None if call < 5000 else CRASH), tasks=100_000, places=100
    )
    assert ended.is_over
    assert 5000 < ended.calls <= 5000 + 1.5 * 100 + 250


def test_few_tasks_with_many_attempts_each_cost_a_thousand_calls_at_most() -> None:
    ended = simulate(
        lambda call, task: (0.05, CRASH),
        tasks=20,
        places=20,
        retry=RetryPolicy(max_attempts=10**6),
    )
    assert ended.is_over
    assert ended.calls <= 1000


@pytest.mark.parametrize("healthy_s", [0.05, 1.0, 60.0])
@pytest.mark.parametrize("group", [1, 20])
@pytest.mark.parametrize("share", [0.05, 0.2])
def test_poison_among_the_tasks_never_ends_a_run(
    share: float, group: int, healthy_s: float
) -> None:
    """Also where it fails a thousand times as fast as the first healthy task answers."""
    ended = simulate(poisonous(share, healthy_s=healthy_s), tasks=10_000, places=1000, group=group)
    assert not ended.is_over


@pytest.mark.parametrize("places", [1, 16])
def test_poison_never_ends_a_run_on_a_small_fleet(places: int) -> None:
    ended = simulate(poisonous(0.2), tasks=10_000, places=places)
    assert not ended.is_over
    assert ended.lowest > 50


def test_poison_never_ends_a_run_that_allows_ten_attempts() -> None:
    retry = RetryPolicy(max_attempts=10)
    assert not simulate(poisonous(0.2), tasks=10_000, places=100, retry=retry).is_over


@pytest.mark.parametrize("group", [1, 20])
@pytest.mark.parametrize("places", [1, 100, 1000])
def test_losing_every_tenth_attempt_never_ends_a_run(places: int, group: int) -> None:
    rng = random.Random(11)

    def answer(call: int, task: int) -> tuple[float, Failure | None]:
        is_lost = task % group == 0 and rng.random() < 0.1  # one draw for each attempt
        return (0.02, LOST) if is_lost else (1.0, None)

    ended = simulate(answer, tasks=20_000, places=places, group=group)
    assert not ended.is_over


@settings(max_examples=25, deadline=None)
@given(
    share=st.floats(0.0, 0.2),
    healthy_s=st.floats(0.01, 20.0),
    crash_s=st.floats(0.01, 20.0),
    places=st.integers(1, 500),
    group=st.sampled_from([1, 1, 5, 50]),
    max_attempts=st.integers(1, 5),
)
def test_poison_never_ends_a_run_whatever_the_fleet(
    share: float, healthy_s: float, crash_s: float, places: int, group: int, max_attempts: int
) -> None:
    ended = simulate(
        poisonous(share, healthy_s=healthy_s, crash_s=crash_s),
        tasks=2000,
        places=places,
        group=group,
        retry=RetryPolicy(max_attempts=max_attempts),
    )
    assert not ended.is_over


def test_with_the_figures_of_grpc_poison_would_have_ended_the_run() -> None:
    """Why the parameters are others: the arithmetic of the module's docstring."""
    level = 100.0
    for task in range(10_000):
        is_poison = task % 20 == 0
        level = min(100.0, level + (-3.0 if is_poison else 0.1))
        if level <= 0:
            break
    assert level <= 0
