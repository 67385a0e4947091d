"""The modelled fleet keeps AWS's limits, and is as unkind as it was told to be."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from fanout.errors import UsageError
from fanout.fleet import Ending, Fleet, FleetModel, Invocation, Reason, Refusal

QUIET = FleetModel(cold_median_s=2.0, overhead_s=0.5).quiet()


def fleet(model: FleetModel = QUIET, seed: int = 0, **changes: Any) -> Fleet:
    return Fleet(replace(model, **changes), random.Random(seed))


def admitted(of: Fleet, now_s: float = 0.0, *seconds: float, **deadlines: float) -> Invocation:
    what = of.invoke(now_s, seconds or [1.0], **deadlines)
    assert isinstance(what, Invocation)
    return what


def refused(of: Fleet, now_s: float = 0.0) -> Refusal:
    what = of.invoke(now_s, [1.0])
    assert isinstance(what, Refusal)
    return what


# ---- limits ----


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(1, 12),
    st.integers(1, 6),
    st.sampled_from([0.5, 3.0, 20.0]),
    st.sampled_from([None, 5.0]),
)
def test_no_limit_is_ever_exceeded(
    seed: int, concurrency: int, burst: int, per_s: float, requests_per_s: float | None
) -> None:
    """Counted here, by the definition: for every window of time, and at every moment."""
    rng = random.Random(seed)
    service = fleet(
        FleetModel(crash_share=0.2, hang_share=0.1, idle_s=3.0, timeout_s=20.0),
        seed,
        concurrency=concurrency,
        burst=burst,
        environments_per_s=per_s,
        requests_per_s=requests_per_s,
    )
    now_s = 0.0
    running: list[Invocation] = []
    begun: list[Invocation] = []
    for _ in range(150):
        now_s += rng.expovariate(10.0)
        for over in sorted((one for one in running if one.ends_s <= now_s), key=lambda o: o.ends_s):
            service.ended(over)
            running.remove(over)
        what = service.invoke(now_s, [rng.expovariate(2.0)])
        if isinstance(what, Invocation):
            begun.append(what)
            running.append(what)
        assert len(running) == service.in_flight <= concurrency
    assert service.most_in_flight <= concurrency
    requests = requests_per_s or 10 * concurrency
    within([one.began_s for one in begun], requests, max(1, requests))
    within([one.began_s for one in begun if one.init_s], per_s, burst)


def within(times_s: list[float], per_s: float, burst: float) -> None:
    for first, begin_s in enumerate(times_s):
        for last in range(first, len(times_s)):
            assert last - first + 1 <= burst + per_s * (times_s[last] - begin_s) + 1e-6


def test_what_is_above_the_quota_is_refused_until_an_invocation_has_ended() -> None:
    service = fleet(concurrency=1, retry_after_s=1.5)
    first = admitted(service)
    assert refused(service) == Refusal(Reason.CONCURRENCY, 1.5)
    service.ended(first)
    assert admitted(service, first.ends_s).environment is first.environment


def test_growth_beyond_the_burst_waits_for_the_bucket() -> None:
    service = fleet(burst=2, environments_per_s=4.0)
    admitted(service)
    admitted(service)
    assert refused(service) == Refusal(Reason.RATE, 0.25)
    admitted(service, 0.25)
    assert service.started == 3


def test_requests_above_the_rate_are_refused_though_there_is_room() -> None:
    service = fleet(requests_per_s=2.0)
    admitted(service)
    admitted(service)
    assert refused(service) == Refusal(Reason.RATE, 0.5)
    admitted(service, 0.5)


def test_other_work_takes_its_share_of_the_quota_while_it_is_there() -> None:
    service = fleet(concurrency=3, busy=2, busy_every_s=10.0)
    admitted(service, 0.0)
    assert refused(service, 9.9).reason is Reason.CONCURRENCY
    admitted(service, 10.0)
    admitted(service, 19.9)
    assert refused(service, 20.0).reason is Reason.CONCURRENCY
    always = replace(QUIET, concurrency=3, busy=5)
    assert always.available(0.0) == always.available(1e6) == 0


# ---- environments ----


def test_the_environment_that_was_used_last_is_used_next() -> None:
    service = fleet()
    one, two = admitted(service, 0.0, 5.0), admitted(service, 0.0, 1.0)
    service.ended(two)
    service.ended(one)
    assert admitted(service, one.ends_s).environment is one.environment
    assert admitted(service, one.ends_s).environment is two.environment
    assert admitted(service, one.ends_s).init_s > 0


def test_an_environment_that_is_idle_for_long_is_gone() -> None:
    service = fleet(idle_s=60.0)
    first = admitted(service)
    service.ended(first)
    again = admitted(service, first.ends_s + 59.0)
    assert again.environment is first.environment
    service.ended(again)
    assert admitted(service, again.ends_s + 61.0).environment is not first.environment


def test_environments_are_the_same_whatever_is_run_on_them() -> None:
    model = FleetModel()
    one, other = fleet(model, 3), fleet(model, 3)
    paces = []
    for _ in range(50):
        what = admitted(one, 0.0, 1.0)
        paces.append((what.environment.pace, what.init_s))
    for pace, init_s in paces:
        what = admitted(other)
        assert (what.environment.pace, what.init_s) == (pace, init_s)
        if not what.is_last:  # so that it is used once more
            other.ended(what)
            assert admitted(other, 0.0).init_s == 0


def test_noise_is_as_frequent_as_it_was_told() -> None:
    model = FleetModel(crash_share=0.1, lost_share=0.05, hang_share=0.02, slow_share=0.2)
    service = fleet(replace(model, transient_share=0.0), 1, concurrency=100_000, burst=100_000)
    found = [admitted(service, 0.0, 10.0) for _ in range(20_000)]

    def share(count: int) -> float:
        return count / len(found)

    assert share(sum(one.ending is Ending.CRASHED for one in found)) == pytest.approx(0.1, rel=0.1)
    assert share(sum(one.ending is Ending.LOST for one in found)) == pytest.approx(0.05, rel=0.1)
    timed_out = sum(one.ending is Ending.TIMED_OUT for one in found)
    assert share(timed_out) == pytest.approx(0.02, rel=0.2)
    slow = sum(one.environment.pace > 1.15 for one in found)
    assert share(slow) == pytest.approx(0.2, rel=0.1)
    assert min(one.environment.pace for one in found) >= 0.85
    assert max(one.environment.pace for one in found) <= 1.15 * 3


# ---- invocations ----


def test_an_invocation_is_billed_for_init_overhead_and_its_tasks() -> None:
    service = fleet()
    what = admitted(service, 7.0, 1.0, 2.0)
    assert (what.ending, what.done, what.run_s, what.init_s) == (Ending.ANSWERED, 2, 3.0, 2.0)
    assert what.ends_s == 7.0 + 2.0 + 0.5 + 3.0
    assert service.billed_s == 5.5


def test_a_worker_stops_between_tasks_once_the_soft_deadline_is_over() -> None:
    service = fleet()
    assert admitted(service, 0.0, 1.0, 1.0, 1.0, soft_s=2.0).done == 2
    assert admitted(service, 0.0, 1.0, 1.0, 1.0, soft_s=1.5).done == 2
    assert admitted(service, 0.0, 9.0, 1.0, soft_s=0.0).done == 1, "one at least"


def test_a_task_is_ended_at_the_hard_deadline() -> None:
    service = fleet()
    what = admitted(service, 0.0, 1.0, 9.0, 1.0, hard_s=4.0)
    assert (what.ending, what.done, what.is_stopped, what.run_s) == (Ending.ANSWERED, 1, True, 4.0)
    assert not what.is_last, "a signal ends it, and the environment stays"


def test_a_hang_lasts_until_the_timeout_of_the_function() -> None:
    service = fleet(hang_share=1.0, timeout_s=60.0)
    what = admitted(service, 0.0, 1.0)
    assert (what.ending, what.done, what.is_last) == (Ending.TIMED_OUT, 0, True)
    assert what.ends_s == 2.0 + 60.0


def test_a_hang_is_ended_at_the_hard_deadline_and_so_is_its_environment() -> None:
    service = fleet(hang_share=1.0)
    what = admitted(service, 0.0, *[0.1] * 10, hard_s=5.0)
    assert (what.ending, what.is_stopped, what.run_s) == (Ending.ANSWERED, True, 5.0)
    assert 0 <= what.done < 10
    assert what.is_last


def test_what_takes_longer_than_the_timeout_is_ended_by_the_service() -> None:
    what = admitted(fleet(timeout_s=10.0), 0.0, 6.0, 6.0)
    assert (what.ending, what.run_s) == (Ending.TIMED_OUT, 9.5)


def test_a_crash_ends_the_environment_before_its_work_is_done() -> None:
    service = fleet(crash_share=1.0)
    what = admitted(service, 0.0, 10.0)
    assert what.ending is Ending.CRASHED
    assert 0 <= what.run_s < 10.0
    service.ended(what)
    assert service.environments == 0


def test_a_lost_answer_is_of_work_that_was_done_and_billed() -> None:
    service = fleet(lost_share=1.0)
    what = admitted(service, 0.0, 10.0)
    assert (what.ending, what.run_s, what.is_last) == (Ending.LOST, 10.0, False)
    assert service.billed_s == 12.5


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ({"concurrency": 0}, r"concurrency=0\) must be a number above 0"),
        ({"launches_per_s": -1.0}, "must be a number above 0"),
        ({"overhead_s": -0.1}, "must be a number, 0 or more"),
        ({"crash_share": 1.5}, "must be a share, from 0 to 1"),
        ({"hang_share": float("nan")}, "must be a share"),
        ({"pace": (2.0, 1.0)}, "must be two numbers > 0, in order"),
        ({"requests_per_s": 0.0}, "must be a number above 0"),
        ({"crash_share": 0.6, "hang_share": 0.6}, "lower one of them"),
    ],
)
def test_a_model_that_makes_no_sense_is_refused(wrong: dict[str, Any], hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        FleetModel(**wrong)
