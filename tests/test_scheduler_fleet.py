"""How many attempts a run has in flight, and what they carry: probes, fleets, soft deadlines."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from fanout.events import (
    AttemptAnswered,
    AttemptStarted,
    InputEnded,
    Launch,
    Offered,
    Ticked,
    WakeAt,
)
from fanout.grouping import Estimate, Grouping, GroupPolicy
from fanout.scheduler import Scheduler
from fanout.tasks import Outcome
from tests.scheduler_checks import invariants, report_of

if TYPE_CHECKING:
    from fanout.events import Action, Event

# As on Lambda.
POLICY = GroupPolicy(
    least_s=2.0,
    most_s=60.0,
    tail_s=0.5,
    tail_shares=1,
    growth=64,
    newest=0.1,
    probes=16,
    launches_per_s=1000.0,
)


class Run:
    """A scheduler with a policy as on Lambda, fed by hand."""

    def __init__(
        self, *, limit: int = 1000, estimate: Estimate | None = None, **options: Any
    ) -> None:
        self.grouping = Grouping(POLICY, estimate=estimate)
        self.scheduler = Scheduler(
            limit=limit, grouping=self.grouping, rng=random.Random(0), **options
        )
        self.launches: dict[int, Launch] = {}

    def feed(self, event: Event, now_s: float = 0.0) -> list[Action]:
        actions = self.scheduler.handle(event, now_s)
        invariants(self.scheduler)
        self.launches |= {a.attempt: a for a in actions if isinstance(a, Launch)}
        return actions

    def offer(self, count: int, weights: list[float] | None = None) -> list[Launch]:
        actions = self.feed(Offered(0, count, weights)) + self.feed(InputEnded())
        return [action for action in actions if isinstance(action, Launch)]

    def answer(self, attempt: int, task_s: float, now_s: float = 1.0) -> list[Launch]:
        tasks = self.launches[attempt].tasks
        report = report_of(attempt, total_s=task_s * len(tasks))
        outcomes = [Outcome(task, task) for task in tasks]
        actions = self.feed(AttemptAnswered(attempt, outcomes, report), now_s)
        return [action for action in actions if isinstance(action, Launch)]


def test_a_few_tasks_go_ahead_from_all_over_the_input_while_nothing_is_known() -> None:
    run = Run(total=16_000)
    launches = run.offer(16_000)
    assert [[*launch.tasks] for launch in launches] == [[1000 * n] for n in range(16)]
    assert all(launch.soft_s is None for launch in launches)


def test_when_half_of_them_have_answered_the_others_go_in_groups() -> None:
    run = Run(total=16_000)
    run.offer(16_000)
    for attempt in range(7):
        assert run.answer(attempt, 0.1) == []
    launches = run.answer(7, 0.1)
    # 1,600 s of work, 1,000 launches a second: half the root of the product is 633 environments.
    assert run.scheduler.in_flight == 633
    assert {len(launch.tasks) for launch in launches} == {20}  # of 2 s, the least


def test_probes_that_are_silent_for_long_hold_nobody_up() -> None:
    run = Run(limit=100)
    run.offer(1000)
    wakes = [a for a in run.feed(Ticked(), 2.9) if isinstance(a, WakeAt)]
    assert wakes == [WakeAt(3.0)]
    launches = [action for action in run.feed(Ticked(), 3.0) if isinstance(action, Launch)]
    assert [len(launch.tasks) for launch in launches] == [1] * 84


def test_where_there_are_few_tasks_nobody_waits_for_probes() -> None:
    run = Run(total=60)
    assert len(run.offer(60)) == 60


def test_with_an_estimate_there_are_no_probes() -> None:
    run = Run(total=10_000, estimate=Estimate(unit_s=0.5))
    launches = run.offer(10_000)
    assert run.scheduler.in_flight == 1000  # 5,000 s: half the root of 5e6 is 1,118
    assert {len(launch.tasks) for launch in launches} == {5}  # half of it, in equal parts


def test_only_what_an_attempt_has_done_counts_in_the_time_of_a_task() -> None:
    run = Run(total=10_000, estimate=Estimate(unit_s=0.5))
    first = run.offer(10_000)[0]
    done = [Outcome(task, task) for task in first.tasks[:2]]  # the others were settled meanwhile
    run.feed(AttemptAnswered(first.attempt, done, report_of(first.attempt, total_s=1.0)), 1.0)
    assert run.grouping.estimate is not None
    assert run.grouping.estimate.unit_s == pytest.approx(0.5)


def test_small_work_gets_a_small_fleet() -> None:
    run = Run(total=10_000, estimate=Estimate(unit_s=1e-3))
    run.offer(10_000)
    assert run.scheduler.in_flight == 20  # of half a second each


def test_near_the_end_each_worker_gets_its_share() -> None:
    def size(remaining: float) -> float:
        return Grouping(POLICY, estimate=Estimate(unit_s=0.1)).size(remaining=remaining, fleet=10)

    assert size(10_000) == 500
    assert size(300) == 20  # 2 s, the least
    assert size(100) == 10
    assert size(10) == 5  # no shorter than half a second


def test_groups_of_a_batch_are_equal_and_each_batch_takes_half_of_what_is_left() -> None:
    grouping = Grouping(POLICY, estimate=Estimate(unit_s=0.1))
    remaining, sizes = 10_000.0, []
    while remaining > 0:
        size = min(grouping.size(remaining=remaining, fleet=10), remaining)
        sizes.append(size)
        remaining -= size
    assert sizes[:10] == [500.0] * 10
    assert sizes[10:20] == [250.0] * 10
    assert sizes == sorted(sizes, reverse=True)


def test_groups_have_a_soft_deadline_and_single_tasks_have_none() -> None:
    run = Run(total=10_000, estimate=Estimate(unit_s=0.5))
    launches = run.offer(10_000)
    assert {launch.soft_s for launch in launches} == {1.25 * 2.5}
    alone = Run(estimate=Estimate(unit_s=10.0))
    assert {launch.soft_s for launch in alone.offer(50)} == {None}


def test_a_slow_client_has_fewer_and_longer_attempts() -> None:
    grouping = Grouping(POLICY, estimate=Estimate(unit_s=1.0))
    assert grouping.fleet(10_000, 1000) == 1000
    grouping.launched(100, 10.0)
    assert grouping.fleet(10_000, 1000) == 159
    assert grouping.size(remaining=None, fleet=100) == 10  # as long as it takes to launch all


def test_the_clients_rate_is_measured_by_its_bursts() -> None:
    run = Run(total=10_000, estimate=Estimate(unit_s=0.5))
    launches = run.offer(10_000)
    for launch in launches:
        run.feed(AttemptStarted(launch.attempt), launch.attempt / 100)
    assert run.grouping._launches_per_s == pytest.approx(100.0, rel=0.01)


def test_the_heaviest_go_first_in_groups_of_equal_weight() -> None:
    run = Run(limit=1000, total=1000, estimate=Estimate(unit_s=0.04))
    weights = [float(1 + index % 100) for index in range(1000)]
    launches = run.offer(1000, weights)
    # 2,020 s: 711 environments, of two seconds or 50 units each.
    assert [weights[task] for task in launches[0].tasks] == [100.0]
    groups = [launch.tasks for launch in launches if len(launch.tasks) > 1]
    assert all(sum(weights[task] for task in tasks) <= 50 for tasks in groups)
