"""The token bucket: so many at once, then so many a second, exactly."""

from __future__ import annotations

import math
from fractions import Fraction

import hypothesis.strategies as st
import pytest
from hypothesis import example, given

from fanout.errors import UsageError
from fanout.token_bucket import RateLimit, TokenBucket

RATES = st.floats(min_value=1e-3, max_value=1e5)
# What passes between two askings; None: until the bucket says that there is a token.
STEPS = st.lists(st.none() | st.just(0.0) | st.floats(0.0, 3.0), max_size=60)
BEGINNINGS = st.sampled_from([0.0, 0.1, 1e-9, 12345.678, 1.7e9, -1e6])


def bucket(per_s: float, burst: int) -> TokenBucket:
    return TokenBucket(RateLimit(per_s=per_s, burst=burst))


def taken(per_s: float, burst: int, begin_s: float, steps: list[float | None]) -> list[float]:
    """When tokens were taken; it is asked as often as it gives any, at each step."""
    tokens, now_s, times = bucket(per_s, burst), begin_s, []
    for step_s in steps:
        now_s = tokens.due_s(now_s) if step_s is None else now_s + step_s
        while tokens.take(now_s):
            times.append(now_s)
    return times


# ---- the law ----


@given(RATES, st.integers(1, 20), BEGINNINGS, STEPS)
@example(0.1, 1, 0.1, [None] * 50)
@example(3.0, 7, 1.7e9, [0.0, None, 0.7, None, 0.7, 0.7, None])
def test_no_window_sees_more_than_burst_and_rate(
    per_s: float, burst: int, begin_s: float, steps: list[float | None]
) -> None:
    """Compared as fractions: roundings are no excuse."""
    times = [Fraction(time_s) for time_s in taken(per_s, burst, begin_s, steps)]
    for first in range(len(times)):
        for last in range(first, len(times)):
            allowed = burst + Fraction(per_s) * (times[last] - times[first])
            assert last - first + 1 <= allowed


@given(RATES, st.integers(1, 20), BEGINNINGS, STEPS)
def test_a_token_is_there_when_it_is_due(
    per_s: float, burst: int, begin_s: float, steps: list[float | None]
) -> None:
    tokens, now_s = bucket(per_s, burst), begin_s
    for step_s in steps:
        now_s += step_s or 0.0
        due_s = tokens.due_s(now_s)
        assert due_s >= now_s
        if due_s > now_s:
            assert not tokens.take(now_s)
        assert tokens.take(due_s)
        now_s = due_s


@given(RATES, st.integers(1, 20))
def test_whoever_waits_gets_the_rate(per_s: float, burst: int) -> None:
    times = taken(per_s, burst, 0.0, [None] * 200)
    assert len(times) == burst + 199
    assert times[-1] == pytest.approx(199 / per_s, rel=1e-9)


# ---- levels ----


def test_a_bucket_is_full_at_first_whatever_the_clock_says() -> None:
    assert bucket(1.0, 5).level(-1e9) == 5
    assert bucket(1.0, 5).due_s(-1e9) == -1e9


def test_it_fills_continuously_and_no_further_than_the_burst() -> None:
    tokens = bucket(10.0, 2)
    assert tokens.take(0.0)
    assert tokens.take(0.0)
    assert not tokens.take(0.0)
    assert tokens.level(0.05) == pytest.approx(0.5)
    assert tokens.due_s(0.05) == pytest.approx(0.1)
    assert tokens.level(100.0) == 2


def test_a_bucket_that_is_nearly_full_is_not_full() -> None:
    tokens = bucket(1.0, 2)
    assert [tokens.take(0.0), tokens.take(0.0)] == [True, True]
    assert [tokens.take(2 - 1e-9), tokens.take(2 - 1e-9)] == [True, False]


def test_an_emptied_bucket_fills_from_then_on() -> None:
    tokens = bucket(10.0, 2)
    tokens.empty(5.0)
    assert tokens.level(5.0) == 0
    assert tokens.due_s(5.0) == pytest.approx(5.1)
    assert tokens.level(50.0) == 2


def test_a_rate_that_gives_nothing_within_the_range_of_floats_is_never_due() -> None:
    tokens = bucket(1e-320, 1)
    assert tokens.take(0.0)
    assert tokens.due_s(0.0) == math.inf


def test_it_shows_its_state() -> None:
    tokens = bucket(10.0, 2)
    tokens.take(1.0)
    expected = "<TokenBucket: 2 at once, 10 a second, 1 taken since it was full at 1.000 s>"
    assert repr(tokens) == expected


# ---- limits that make no sense ----


@pytest.mark.parametrize("per_s", [0, -1.0, math.inf, math.nan, True, "10"])
def test_a_rate_must_be_a_number_above_zero(per_s: float) -> None:
    with pytest.raises(UsageError, match=r"RateLimit\(per_s=.*pass rate=None for no limit"):
        RateLimit(per_s=per_s, burst=1)


@pytest.mark.parametrize("burst", [0, -1, 1.0, True, None])
def test_a_burst_must_be_a_whole_number(burst: int) -> None:
    with pytest.raises(UsageError, match=r"RateLimit\(burst=.*pass burst=1"):
        RateLimit(per_s=1.0, burst=burst)
