"""The emulator's limits: pure, time is a number."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from fanout.emulator.limits import Admission, Limits, Reason, Refusal, TokenBucket


def admitted(admission: Admission, now_s: float, count: int, *, is_cold: bool = False) -> int:
    """How many of `count` invocations are let in, each of which ends at once."""
    inside = 0
    for _ in range(count):
        if admission.ask(now_s, is_cold=is_cold) is None:
            admission.leave()
            inside += 1
    return inside


def reason(admission: Admission, now_s: float = 0.0, *, is_cold: bool = False) -> Reason | None:
    refusal = admission.ask(now_s, is_cold=is_cold)
    return refusal.reason if refusal else None


def test_as_many_run_as_the_account_has_concurrency() -> None:
    admission = Admission(Limits(concurrency=3))
    assert [reason(admission) for _ in range(4)] == [None, None, None, Reason.CONCURRENCY]
    admission.leave()
    assert reason(admission) is None
    assert admission.running == 3


def test_a_reserved_concurrency_is_a_limit_of_its_own() -> None:
    admission = Admission(Limits(concurrency=10, reserved=1))
    assert [reason(admission) for _ in range(2)] == [None, Reason.RESERVED_CONCURRENCY]


def test_reserving_nothing_refuses_everything() -> None:
    admission = Admission(Limits(reserved=0))
    assert admission.ask(0.0, is_cold=True) == Refusal(Reason.RESERVED_CONCURRENCY, 1.0)


def test_ten_requests_a_second_for_each_unit_of_concurrency() -> None:
    admission = Admission(Limits(concurrency=5))
    assert admitted(admission, 0.0, 100) == 50
    assert admission.ask(0.0, is_cold=False) == Refusal(Reason.RATE, 0.02)
    assert admitted(admission, 0.5, 100) == 25
    assert admitted(admission, 100.0, 100) == 50  # what was not used does not add up


def test_a_reserved_function_has_ten_times_its_own() -> None:
    admission = Admission(Limits(concurrency=100, reserved=2))
    assert admitted(admission, 0.0, 100) == 20
    assert reason(admission) is Reason.RESERVED_RATE


def test_the_rate_can_be_given() -> None:
    assert admitted(Admission(Limits(concurrency=1000, requests_per_s=7)), 0.0, 100) == 7


def test_environments_are_added_in_a_burst_and_then_at_a_rate() -> None:
    admission = Admission(Limits(new_environments_per_s=10, burst=20))
    assert admitted(admission, 0.0, 100, is_cold=True) == 20
    assert admission.ask(0.0, is_cold=True) == Refusal(Reason.RATE, 0.1)
    assert admitted(admission, 1.0, 100, is_cold=True) == 10
    assert admitted(admission, 60.0, 100, is_cold=True) == 20


def test_the_published_growth_is_the_default() -> None:
    """3,000 environments within 20 s."""
    admission = Admission(Limits(concurrency=10_000))
    assert sum(admitted(admission, second, 10_000, is_cold=True) for second in range(21)) == 3000


def test_a_warm_environment_is_not_growth() -> None:
    admission = Admission(Limits(burst=1))
    assert admitted(admission, 0.0, 1, is_cold=True) == 1
    assert reason(admission, is_cold=True) is Reason.RATE
    assert admitted(admission, 0.0, 50) == 50


def test_what_is_refused_costs_nothing() -> None:
    admission = Admission(Limits(concurrency=1, requests_per_s=2, burst=2))
    assert reason(admission, is_cold=True) is None
    for _ in range(10):
        assert reason(admission, is_cold=True) is Reason.CONCURRENCY
    admission.leave()
    assert reason(admission, is_cold=True) is None


def test_a_bucket_that_is_never_refilled_says_never() -> None:
    bucket = TokenBucket(0.0, 1.0)
    bucket.take()
    assert bucket.wait_s(1e9) == math.inf


@given(
    per_s=st.floats(0.1, 1000),
    burst=st.integers(1, 50),
    gaps_s=st.lists(st.floats(0, 2), min_size=1, max_size=200),
)
def test_no_window_admits_more_than_rate_and_burst(
    per_s: float, burst: int, gaps_s: list[float]
) -> None:
    bucket = TokenBucket(per_s, burst)
    now_s = 1000.0
    times_s = []
    for gap_s in gaps_s:
        now_s += gap_s
        if bucket.wait_s(now_s) == 0:
            bucket.take()
            times_s.append(now_s)
    for first, start_s in enumerate(times_s):
        for last in range(first, len(times_s)):
            window_s = times_s[last] - start_s
            assert last - first + 1 <= per_s * window_s + burst + 1e-6


@given(per_s=st.floats(0.1, 1000), burst=st.integers(1, 20), now_s=st.floats(0, 1e6))
def test_whoever_waits_as_long_as_told_is_let_in(per_s: float, burst: int, now_s: float) -> None:
    bucket = TokenBucket(per_s, burst)
    for _ in range(burst):
        assert bucket.wait_s(now_s) == 0
        bucket.take()
    wait_s = bucket.wait_s(now_s)
    assert wait_s > 0
    assert bucket.wait_s(now_s + wait_s * 1.001 + 1e-6) == 0


def test_a_clock_that_goes_back_gives_nothing_away() -> None:
    bucket = TokenBucket(1.0, 1.0)
    assert bucket.wait_s(10.0) == 0
    bucket.take()
    assert bucket.wait_s(5.0) == 1.0
    assert bucket.wait_s(10.5) == 0.5
