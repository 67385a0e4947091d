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


class Bench:
    """A guard to experiment with, whose attempts are numbered by the bench."""

    def __init__(self) -> None:
        self.guard = StormGuard()
        self.count = -1

    def launch(self, times: int = 1) -> list[int]:
        for _ in range(times):
            self.count += 1
            self.guard.launched(self.count)
        return list(range(self.count - times + 1, self.count + 1))

    def fail(
        self, times: int = 1, failure: Failure = CRASH, *, tasks: int = 1, is_repeat: bool = False
    ) -> None:
        for _ in range(times):
            (attempt,) = self.launch()
            self.guard.failed(attempt, failure, tasks=tasks, is_repeat=is_repeat)

    def answer(self, times: int = 1) -> None:
        for _ in range(times):
            self.guard.answered(*self.launch())


# ---- one by one ----


def test_a_run_begins_calm() -> None:
    guard = StormGuard()
    assert (guard.level, guard.is_calm, guard.slowdown, guard.is_over) == (100.0, True, 1.0, False)


def test_at_half_of_the_bucket_hedges_stop_and_retries_take_five_times_as_long() -> None:
    bench = Bench()
    bench.fail(49)
    assert (bench.guard.is_calm, bench.guard.slowdown) == (True, 1.0)
    bench.fail(1)
    assert (bench.guard.is_calm, bench.guard.slowdown) == (False, 5.0)
    bench.answer()
    assert (bench.guard.is_calm, bench.guard.slowdown) == (True, 1.0)


def test_a_run_is_over_when_the_bucket_is_empty() -> None:
    bench = Bench()
    bench.fail(99)
    assert not bench.guard.is_over
    bench.fail(1)
    assert bench.guard.is_over


def test_attempts_in_flight_vouch_for_half_a_token_each() -> None:
    """Those that were launched among the ones that failed; later ones say nothing about these."""
    bench = Bench()
    bench.fail(75)
    bench.launch(50)
    bench.fail(49)
    assert not bench.guard.is_over
    bench.launch(1000)
    assert bench.guard.level == 100.0
    bench = Bench()
    bench.fail(75)
    bench.launch(50)
    bench.fail(50)
    assert bench.guard.is_over


def test_answers_fill_the_bucket_up_to_its_rim() -> None:
    bench = Bench()
    bench.answer(50)
    assert bench.guard.level == 100.0
    bench.fail(3)
    bench.answer()
    assert bench.guard.level == 98.0


def test_tokens_are_counted_in_the_order_of_launches() -> None:
    """A hundred failures in a row were launched among answers that came long before."""
    bench = Bench()
    attempts = bench.launch(1000)
    for attempt in attempts:
        if attempt % 3:
            bench.guard.answered(attempt)
    for attempt in attempts:
        if not attempt % 3:
            bench.guard.failed(attempt, CRASH, tasks=1, is_repeat=False)
    assert not bench.guard.is_over
    assert bench.guard.level > 90.0


def test_a_run_that_is_over_stays_so_whatever_answers_later() -> None:
    bench = Bench()
    attempts = bench.launch(100)
    bench.answer(100)
    for attempt in attempts:
        bench.guard.failed(attempt, CRASH, tasks=1, is_repeat=False)
    assert bench.guard.level == 100.0
    assert bench.guard.is_over


def test_a_task_that_fails_again_says_something_about_itself() -> None:
    bench = Bench()
    bench.fail(1000, is_repeat=True)
    assert bench.guard.level == 100.0


def test_the_crash_of_a_group_blames_none_of_its_tasks() -> None:
    bench = Bench()
    bench.fail(1000, tasks=20)
    assert bench.guard.level == 100.0


def test_the_loss_of_a_group_is_the_endpoints() -> None:
    """It is sent again as it is, so it would never count alone."""
    bench = Bench()
    bench.fail(1, LOST, tasks=20)
    assert bench.guard.level == 99.0


@pytest.mark.parametrize("kind", FailureKind)
def test_what_counts(kind: FailureKind) -> None:
    bench = Bench()
    bench.fail(1, Failure(kind=kind))
    is_counted = kind in {FailureKind.CRASHED, FailureKind.OUT_OF_MEMORY, FailureKind.MAYBE_RAN}
    assert bench.guard.level == (99.0 if is_counted else 100.0)


def test_a_timeout_of_the_service_counts_as_a_crash_does() -> None:
    bench = Bench()
    bench.fail(1, Failure(kind=FailureKind.TIMED_OUT, allowed_s=60.0))
    assert bench.guard.level == 99.0


def test_what_is_withdrawn_says_nothing() -> None:
    bench = Bench()
    bench.fail(10)
    for attempt in bench.launch(100):
        bench.guard.withdrawn(attempt)
    assert bench.guard.level == 90.0


def test_an_attempt_that_hangs_keeps_no_more_than_so_many_launches_in_mind() -> None:
    bench = Bench()
    (hung,) = bench.launch()
    bench.answer(100_000)
    assert len(bench.guard._blocks) <= 512
    bench.guard.failed(hung, CRASH, tasks=1, is_repeat=False)
    assert bench.guard.level == 100.0


def test_launches_of_which_nothing_is_in_flight_are_put_aside() -> None:
    bench = Bench()
    bench.fail(80)
    bench.answer(20)
    bench.launch(1)
    assert len(bench.guard._blocks) == 1
    assert bench.guard.level == 100.0 - 80 + 20 + 0.5


def test_why_a_run_is_ended_tells_the_last_failure_and_what_to_do() -> None:
    assert StormGuard().why(CRASH) == (
        "failures outnumber answers by 100 and more (crashed, the last time: was killed by "
        "SIGSEGV): run the kernel on one chunk to see whether the function starts and has enough "
        "memory, then run it again"
    )
    assert "(crashed):" in StormGuard().why(Failure(kind=FailureKind.CRASHED))


def test_its_repr_shows_the_level() -> None:
    bench = Bench()
    bench.fail(1)
    assert repr(bench.guard) == "<StormGuard: 99.0 of 100 tokens>"


@given(fates=st.lists(st.sampled_from("faawr-"), min_size=150, max_size=600), rng=st.randoms())
def test_the_level_does_not_depend_on_the_order_of_ends(
    fates: list[str], rng: random.Random
) -> None:
    """Fates are: failed, answered, withdrawn, repeated failure, and still in flight."""
    worth = {"f": -1.0, "a": 1.0, "-": 0.5}
    level = 100.0
    for first in range(0, len(fates), 50):  # what is launched together is counted together
        level = min(100.0, level + sum(worth.get(f, 0.0) for f in fates[first : first + 50]))
    bench = Bench()
    order = bench.launch(len(fates))
    rng.shuffle(order)
    for attempt in order:
        match fates[attempt]:
            case "a":
                bench.guard.answered(attempt)
            case "w":
                bench.guard.withdrawn(attempt)
            case "f" | "r" as fate:
                bench.guard.failed(attempt, CRASH, tasks=1, is_repeat=fate == "r")
    assert bench.guard.level == pytest.approx(level)
    assert bench.guard.is_calm is (bench.guard.level > 50)


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
            guard.launched(calls)
            calls += 1
            next_launch_s = now_s + 1 / per_s
            continue
        times = [running[0][0]] if running else []
        times += [waiting[0][0]] if waiting else []
        times += [next_launch_s] if queue and len(running) < places else []
        now_s = max(now_s, min(times))
        if not running or running[0][0] > now_s:
            continue
        _, call, carried, failure = heapq.heappop(running)
        if failure is None:
            guard.answered(call)
            continue
        is_repeat = any(failures[task] for task in carried)
        guard.failed(call, failure, tasks=len(carried), is_repeat=is_repeat)
        lowest = min(lowest, guard.level)
        if guard.is_over:
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


@pytest.mark.parametrize(("failure", "most"), [(CRASH, 310), (LOST, 810)])
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
    assert ended.calls <= 1.5 * places + 310


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


@pytest.mark.parametrize("healthy_s", [0.001, 0.05, 1.0, 60.0])
@pytest.mark.parametrize("group", [1, 20])
@pytest.mark.parametrize("share", [0.05, 0.2])
def test_poison_among_the_tasks_never_ends_a_run(
    share: float, group: int, healthy_s: float
) -> None:
    """Also where it fails a thousand times as fast as healthy tasks answer, or as slowly."""
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
