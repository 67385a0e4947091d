"""When to launch nothing: refusals in, a time out."""

from __future__ import annotations

import math
import random

import hypothesis.strategies as st
import pytest
from hypothesis import given

from fanout.retry import Failure, FailureKind, RetryPolicy
from fanout.throttle import PATIENCE_S, Throttle

THROTTLED = Failure(kind=FailureKind.THROTTLED)
UNREACHABLE = Failure(kind=FailureKind.UNREACHABLE)


class HighestRandom(random.Random):
    """Jitter at its upper end."""

    def uniform(self, a: float, b: float) -> float:
        return b


def longest(**policy: float) -> Throttle:
    return Throttle(RetryPolicy(**policy), HighestRandom())  # type: ignore[arg-type]  # floats only


def wait_of(seconds: float) -> Failure:
    return Failure(kind=FailureKind.THROTTLED, wait_s=seconds)


# ---- how long ----


def test_before_any_refusal_nothing_is_paused() -> None:
    assert Throttle(RetryPolicy(), random.Random(0)).until_s == -math.inf


def test_a_pause_is_at_least_as_long_as_the_service_asks() -> None:
    throttle = Throttle(RetryPolicy(base_s=0.0), random.Random(0))
    throttle.refused(wait_of(7.0), 10.0)
    assert throttle.until_s == 17.0


def test_waves_that_follow_each_other_pause_longer_up_to_the_cap() -> None:
    throttle = longest(base_s=1.0, cap_s=5.0)
    now_s, pauses_s = 0.0, []
    for _ in range(4):
        throttle.refused(THROTTLED, now_s)
        pauses_s.append(throttle.until_s - now_s)
        now_s = throttle.until_s
    assert pauses_s == [2.0, 4.0, 5.0, 5.0]


def test_a_pause_that_the_service_asks_for_grows_with_the_waves_if_it_is_not_enough() -> None:
    throttle = longest(base_s=1.0, cap_s=60.0)
    now_s, pauses_s = 0.0, []
    for _ in range(4):
        throttle.refused(wait_of(5.0), now_s)
        pauses_s.append(throttle.until_s - now_s)
        now_s = throttle.until_s
    assert pauses_s == [5.0, 5.0, 8.0, 16.0]


def test_refusals_of_the_same_wave_say_nothing_new() -> None:
    throttle = longest(base_s=1.0)
    throttle.refused(THROTTLED, 0.0)
    for now_s in (0.0, 0.5, 1.9):
        throttle.refused(THROTTLED, now_s)
    assert throttle.until_s == 2.0
    throttle.refused(THROTTLED, 2.0)
    assert throttle.until_s == 6.0, "the second wave, not the fifth"


def test_a_refusal_of_the_same_wave_lengthens_the_pause_if_the_service_says_so() -> None:
    throttle = longest(base_s=1.0)
    throttle.refused(THROTTLED, 0.0)
    throttle.refused(wait_of(0.1), 1.0)
    assert throttle.until_s == 2.0
    throttle.refused(wait_of(3.0), 1.0)
    assert throttle.until_s == 4.0


def test_after_an_answer_waves_are_short_again() -> None:
    throttle = longest(base_s=1.0)
    throttle.refused(THROTTLED, 0.0)
    throttle.refused(THROTTLED, 2.0)
    throttle.answered()
    throttle.refused(THROTTLED, 6.0)
    assert throttle.until_s == 8.0


def test_an_answer_does_not_cut_a_pause_short() -> None:
    """It may have been on its way before the service had enough."""
    throttle = longest(base_s=1.0)
    throttle.refused(wait_of(5.0), 0.0)
    throttle.answered()
    assert throttle.until_s == 5.0


@given(
    waits=st.lists(
        st.tuples(st.floats(0.0, 50.0), st.none() | st.floats(0.0, 100.0), st.booleans())
    ),
    seed=st.integers(),
)
def test_a_pause_never_gets_shorter_and_never_ends_before_the_service_says(
    waits: list[tuple[float, float | None, bool]], seed: int
) -> None:
    policy = RetryPolicy(base_s=0.5, cap_s=20.0)
    throttle = Throttle(policy, random.Random(seed))
    now_s = 0.0
    for dt_s, wait_s, is_answered in waits:
        now_s += dt_s
        before_s = throttle.until_s
        throttle.refused(Failure(kind=FailureKind.THROTTLED, wait_s=wait_s), now_s)
        assert throttle.until_s >= max(before_s, now_s, now_s + (wait_s or 0.0))
        assert throttle.until_s <= max(before_s, now_s + max(policy.cap_s, wait_s or 0.0))
        if is_answered:
            throttle.answered()


def test_its_repr_shows_the_waves_and_the_end_of_the_pause() -> None:
    throttle = longest(base_s=1.0)
    throttle.refused(THROTTLED, 0.0)
    assert repr(throttle) == "<Throttle: 1 waves since the last answer, until 2.000 s>"


# ---- and when to give up ----


def test_patience_with_a_throttle_is_not_shorter_than_the_longest_invocation() -> None:
    """Work of others may take up all there is for as long as that: 900 s on Lambda."""
    assert PATIENCE_S[FailureKind.THROTTLED] >= 900.0
    assert PATIENCE_S.keys() == {FailureKind.THROTTLED, FailureKind.UNREACHABLE}


@pytest.mark.parametrize("kind", PATIENCE_S)
def test_it_is_hopeless_when_refusals_were_all_there_is_for_longer_than_the_patience(
    kind: FailureKind,
) -> None:
    throttle = Throttle(RetryPolicy(), random.Random(0))
    assert not throttle.is_hopeless(kind, 1e9), "it was never refused"
    throttle.refused(Failure(kind=kind), 50.0)
    throttle.refused(Failure(kind=kind), 60.0)
    assert not throttle.is_hopeless(kind, 50.0 + PATIENCE_S[kind])
    assert throttle.is_hopeless(kind, 50.1 + PATIENCE_S[kind])


@pytest.mark.parametrize("kind", PATIENCE_S)
def test_an_answer_renews_the_patience(kind: FailureKind) -> None:
    throttle = Throttle(RetryPolicy(), random.Random(0))
    throttle.refused(Failure(kind=kind), 0.0)
    throttle.answered()
    throttle.refused(Failure(kind=kind), PATIENCE_S[kind])
    assert not throttle.is_hopeless(kind, PATIENCE_S[kind] + 1.0)
    assert throttle.is_hopeless(kind, 2 * PATIENCE_S[kind] + 1.0)


def test_a_service_that_throttles_can_be_reached() -> None:
    throttle = Throttle(RetryPolicy(), random.Random(0))
    throttle.refused(UNREACHABLE, 0.0)
    throttle.refused(THROTTLED, 100.0)
    assert not throttle.is_hopeless(FailureKind.UNREACHABLE, 1e9)
    throttle.refused(UNREACHABLE, 200.0)
    assert not throttle.is_hopeless(FailureKind.UNREACHABLE, 200.0)
    assert throttle.is_hopeless(FailureKind.UNREACHABLE, 200.1 + PATIENCE_S[UNREACHABLE.kind])


def test_a_service_that_can_not_be_reached_now_and_then_still_throttles() -> None:
    """Else two kinds in turn would go on for ever."""
    throttle = Throttle(RetryPolicy(), random.Random(0))
    for step in range(10):
        throttle.refused(THROTTLED, step * PATIENCE_S[THROTTLED.kind] / 10)
        throttle.refused(UNREACHABLE, step * PATIENCE_S[THROTTLED.kind] / 10)
    assert throttle.is_hopeless(FailureKind.THROTTLED, PATIENCE_S[THROTTLED.kind] + 1.0)
