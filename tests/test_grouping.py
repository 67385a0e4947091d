"""How many tasks an attempt carries."""

from __future__ import annotations

import math
from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import example, given

from fanout.errors import UsageError
from fanout.grouping import Estimate, Grouping, GroupPolicy
from fanout.lambda_figures import GROUPING

MS = 1e-3


def measured(
    policy: GroupPolicy | None = None,
    *,
    task_s: float = 0.0,
    task_bytes: int = 0,
    largest: int = 10**9,
    timeout_s: float | None = None,
) -> Grouping:
    """A grouping that has seen one large attempt."""
    grouping = Grouping(policy or GroupPolicy(), timeout_s=timeout_s)
    grouping.observe(
        tasks=largest, busy_s=task_s * largest, payload_bytes=round(task_bytes * largest)
    )
    return grouping


def test_the_first_attempts_carry_one_task_each() -> None:
    assert Grouping(GroupPolicy()).size() == 1


def test_a_group_keeps_a_worker_busy_for_the_target() -> None:
    assert measured(GroupPolicy(most_s=0.05), task_s=1 * MS).size() == 50


def test_a_task_longer_than_the_target_goes_alone() -> None:
    assert measured(task_s=10.0).size() == 1


def test_a_group_grows_step_by_step() -> None:
    """Four times the largest that has answered: the first measurements are few."""
    grouping = Grouping(GroupPolicy())
    sizes = []
    for _ in range(7):
        sizes.append(int(grouping.size()))
        grouping.observe(tasks=sizes[-1], busy_s=1e-7 * sizes[-1], payload_bytes=10 * sizes[-1])
    assert sizes == [1, 4, 16, 64, 256, 1024, 2048]


def test_a_group_keeps_to_the_most_tasks() -> None:
    assert measured(GroupPolicy(max_tasks=100), task_s=1e-9).size() == 100


def test_a_group_keeps_to_the_most_bytes() -> None:
    grouping = measured(GroupPolicy(max_bytes=1000), task_s=1e-9, task_bytes=300)
    assert int(grouping.size()) == 3


def test_a_task_larger_than_the_most_bytes_goes_alone() -> None:
    assert measured(GroupPolicy(max_bytes=1000), task_bytes=3000).size() == 1


def test_a_group_stays_far_from_the_timeout() -> None:
    """A timeout is for one task: a group takes a quarter of it at most."""
    policy = GroupPolicy(least_s=1.0, most_s=1.0)
    assert measured(policy, task_s=1 * MS, timeout_s=0.1).size() == 25
    assert measured(policy, task_s=1 * MS, timeout_s=100.0).size() == 1000


def test_groups_shrink_so_that_every_attempt_gets_its_share_twice_over() -> None:
    assert measured(task_s=1e-6).size(remaining=1000, fleet=5) == 100
    assert measured(task_s=1e-6).size(remaining=1, fleet=5) == 1
    assert measured(task_s=1e-6).size(remaining=0, fleet=5) == 1


def test_old_measurements_fade() -> None:
    """A first task that compiled its kernel is forgotten after about ten attempts."""
    grouping = Grouping(GroupPolicy(most_s=0.05))
    grouping.observe(tasks=1, busy_s=20.0, payload_bytes=0)
    for _ in range(40):
        size = int(grouping.size())
        grouping.observe(tasks=size, busy_s=1 * MS * size, payload_bytes=0)
    assert 40 <= grouping.size() <= 50


def test_a_fixed_group_is_kept_to_whatever_is_measured() -> None:
    grouping = measured(GroupPolicy(fixed=7), task_s=100.0, task_bytes=10**9)
    assert grouping.size() == grouping.size(remaining=1, fleet=10) == 7


def test_tasks_that_take_no_measurable_time_are_grouped() -> None:
    assert measured(GroupPolicy(max_tasks=64), task_s=0.0).size() == 64


def test_a_mean_that_fades_to_nothing_is_no_division_by_it() -> None:
    """0.05 s / 1e-320 s is infinity, which is no number of tasks."""
    grouping = Grouping(GroupPolicy(max_tasks=64))
    grouping.observe(tasks=1, busy_s=1.0, payload_bytes=1)
    for _ in range(3000):
        grouping.observe(tasks=1, busy_s=0.0, payload_bytes=0)
        assert 1 <= grouping.size() <= 64


_SECONDS = st.floats(0.0, 1e6, allow_subnormal=True)


@given(
    seen=st.lists(st.tuples(st.integers(1, 5000), _SECONDS, st.integers(0, 10**10))),
    remaining=st.one_of(st.none(), st.integers(0, 10**9)),
    limit=st.integers(1, 5000),
    timeout_s=st.one_of(st.none(), st.floats(1e-9, 1e6)),
)
@example(seen=[(1, 5e-324, 0)], remaining=None, limit=1, timeout_s=None)
def test_a_size_is_always_between_one_and_the_most(
    seen: list[tuple[int, float, int]], remaining: int | None, limit: int, timeout_s: float | None
) -> None:
    grouping = Grouping(GroupPolicy(max_tasks=512), timeout_s=timeout_s)
    for tasks, busy_s, payload_bytes in seen:
        grouping.observe(tasks=tasks, busy_s=busy_s, payload_bytes=payload_bytes)
    size = grouping.size(remaining=remaining, fleet=limit)
    assert 1 <= size <= 512
    if remaining is not None:
        assert size <= max(1, math.ceil(remaining / (2 * limit)))


@pytest.mark.parametrize("group", [0, -1, 2.5, "8", True])
def test_a_group_that_is_no_number_of_tasks_is_refused(group: object) -> None:
    with pytest.raises(UsageError, match=r"must be a whole number of tasks, 1 or more") as caught:
        GroupPolicy(fixed=group)  # type: ignore[arg-type]  # what the test is about
    assert f"group={group!r}" in str(caught.value)


def test_its_repr_shows_what_it_learned() -> None:
    grouping = measured(task_s=1 * MS, task_bytes=20)
    assert repr(grouping) == "<Grouping: 0.001 s, 20 B a task>"


def test_the_window_holds_two_groups_more_for_each_attempt_in_flight() -> None:
    assert Grouping(GroupPolicy()).window(4) == 4 * 3
    assert measured(GroupPolicy(most_s=0.05), task_s=1 * MS).window(4) == 4 * 101


def test_large_chunks_are_pulled_ahead_by_their_bytes_not_their_number() -> None:
    policy = GroupPolicy(max_ahead_bytes=250)
    assert measured(policy, task_s=1.0, task_bytes=100).window(4) == 4 + 2
    assert measured(policy, task_s=1.0, task_bytes=1000).window(4) == 4


def test_a_fixed_group_is_never_cut_short_by_the_window() -> None:
    policy = GroupPolicy(fixed=100, max_ahead_bytes=250)
    assert measured(policy, task_s=1.0, task_bytes=100).window(4) == 4 * 201


# ---- fleets ----

COSTLY = replace(GROUPING, launches_per_s=2000.0)


def known(unit_s: float, policy: GroupPolicy = COSTLY) -> Grouping:
    return Grouping(policy, estimate=Estimate(unit_s=unit_s))


def test_each_environment_gets_work_for_five_times_its_start() -> None:
    assert known(0.5).fleet(2000, 1000) == 100
    free = replace(COSTLY, start_s=0.0)
    assert known(0.5, free).fleet(2000, 1000) == 708  # half the root of 1,000 s x 2,000


def test_a_few_environments_may_always_be_started() -> None:
    assert known(0.5).fleet(200, 1000) == 32
    assert known(0.5).fleet(200, 20) == 20


def test_environments_that_are_warm_cost_no_start() -> None:
    assert known(0.5).fleet(2000, 1000, warm=400) == 400
    assert known(0.5).fleet(2000, 1000, warm=900) == 708, "more would not be launched in time"


def test_a_batch_is_made_anew_when_tasks_take_twice_what_it_was_made_by() -> None:
    grouping = known(0.01)
    assert grouping.size(remaining=100_000, fleet=10) == 2048
    grouping.observe(tasks=1, busy_s=0.02, payload_bytes=1)
    assert grouping.size(remaining=100_000, fleet=10) == 2048
    grouping.observe(tasks=1, busy_s=0.5, payload_bytes=1)
    assert grouping.estimate is not None
    assert grouping.size(remaining=100_000, fleet=10) == 60.0 / grouping.estimate.unit_s


def test_what_is_sent_again_is_cut_up_only_if_it_takes_far_longer_than_the_shortest_group() -> None:
    assert [known(0.1).parts(amount) for amount in (1, 20, 80, 81, 200)] == [1, 1, 1, 5, 10]
    assert known(100.0).parts(1) == 1, "a task can't be cut"
    assert known(100.0, replace(COSTLY, fixed=7)).parts(7) == 1, "as the caller wants it"
    assert Grouping(COSTLY).parts(500) == 1


def test_a_fleet_stays_while_it_is_nearly_right() -> None:
    grouping = known(1.0)
    assert grouping.fleet(1000, 1000) == 100
    assert grouping.fleet(1200, 1000) == 100
    assert grouping.fleet(820, 1000) == 100
    assert grouping.fleet(1300, 1000) == 130
    assert grouping.fleet(1000, 1000) == 100
    assert grouping.fleet(1000, 90) == 90, "never beyond the limit"


def test_tasks_that_go_one_by_one_go_round_the_fleet_without_a_rest() -> None:
    """1000 on 791 environments would take as long as on 500."""
    slow = replace(COSTLY, launches_per_s=250.0)
    assert known(10.0, slow).fleet(1000, 1000) == 1000
    assert known(10.0, slow).fleet(1500, 1000) == 750
    assert known(1.0, slow).fleet(10_000, 1000) == 791, "these are grouped, and fill any fleet"


def test_groups_of_a_batch_are_equal_in_amount_whatever_is_learnt_meanwhile() -> None:
    grouping = known(1.0)
    sizes = set()
    remaining = 1000.0
    for number in range(10):
        sizes.add(grouping.size(remaining=remaining, fleet=10))
        remaining -= 50
        grouping.observe(tasks=50, busy_s=25.0 + 5 * number, payload_bytes=0)
    assert sizes == {50.0}


def test_what_comes_back_when_all_was_sent_is_spread() -> None:
    grouping = known(1.0)
    assert grouping.size(remaining=1000, fleet=10) == 50
    assert grouping.size(remaining=12, fleet=10) == 2


def test_the_quick_ones_that_answer_first_do_not_settle_what_a_task_takes() -> None:
    """Of 100 environments half are twice as fast: 0.75 s is right, whoever answered last."""
    grouping = known(0.75)
    grouping.size(remaining=10_000, fleet=100)
    for busy_s in [5.0] * 50 + [10.0] * 50:
        grouping.observe(tasks=10, busy_s=busy_s, payload_bytes=0)
    unit_s = grouping.expected_s(1)
    assert unit_s == pytest.approx(0.75, abs=0.15)
