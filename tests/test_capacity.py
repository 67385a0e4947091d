"""What one Lambda function takes: launches, ends and refusals in; yes, no, or when."""

from __future__ import annotations

import math

import pytest

from fanout.capacity import Capacity, Seat
from fanout.errors import UsageError
from fanout.token_bucket import RateLimit

CONCURRENCY = "ConcurrentInvocationLimitExceeded"
RATE = "FunctionInvocationRateLimitExceeded"


def capacity(
    limit: int = 1000, *, growth: RateLimit | None = None, rate: RateLimit | None = None
) -> Capacity:
    return Capacity(limit, growth=growth, rate=rate)


def fill(shared: Capacity, seat: Seat, now_s: float, most: int = 10_000) -> int:
    """Launch what is admitted; how many that were."""
    count = 0
    while count < most and shared.admits(seat, now_s):
        shared.launched(seat, now_s)
        count += 1
    return count


def refuse(
    shared: Capacity,
    seat: Seat,
    now_s: float,
    *,
    launched_s: float = 0.0,
    count: int = 1,
    reason: str | None = CONCURRENCY,
    wait_s: float | None = None,
) -> None:
    for _ in range(count):
        shared.refused(seat, reason, wait_s, now_s, launched_s=launched_s)


def end(shared: Capacity, seat: Seat, now_s: float, *environments: str | None) -> None:
    for environment in environments:
        shared.ended(seat, now_s, environment)


def learnt(limit: int, *, now_s: float = 0.0) -> tuple[Capacity, Seat]:
    """A capacity of 1000 that has just learnt that it is less, and is full."""
    shared = capacity()
    seat = shared.seat()
    assert fill(shared, seat, now_s) == 1000
    refuse(shared, seat, now_s, launched_s=now_s, count=1000 - limit)
    assert shared.usable == shared.in_flight == limit
    return shared, seat


# ---- room ----


def test_no_more_than_the_limit_are_in_flight() -> None:
    shared = capacity(3)
    seat = shared.seat()
    assert fill(shared, seat, 0.0) == 3
    assert shared.due_s(0.0) is None
    end(shared, seat, 1.0, "a")
    assert fill(shared, seat, 1.0) == 1


def test_attempts_of_a_run_that_has_left_count_until_they_end() -> None:
    shared = capacity(3)
    first, second = shared.seat(), shared.seat()
    fill(shared, first, 0.0)
    shared.leave(first)
    assert not shared.admits(second, 0.0)
    end(shared, first, 1.0, "a", "b")
    assert fill(shared, second, 1.0) == 2
    assert shared.in_flight == 3


@pytest.mark.parametrize("limit", [0, -1, 2.0, True])
def test_a_limit_must_be_a_whole_number(limit: int) -> None:
    with pytest.raises(UsageError, match=r"Capacity\(limit=.*pass the concurrency"):
        capacity(limit)


# ---- rate and growth ----


def test_launches_keep_to_the_rate() -> None:
    shared = capacity(rate=RateLimit(per_s=10.0, burst=2))
    seat = shared.seat()
    assert fill(shared, seat, 0.0) == 2
    assert shared.due_s(0.0) == pytest.approx(0.1)
    assert fill(shared, seat, shared.due_s(0.0) or 0.0) == 1


def test_new_environments_keep_to_the_growth() -> None:
    shared = capacity(growth=RateLimit(per_s=10.0, burst=4))
    seat = shared.seat()
    assert fill(shared, seat, 0.0) == 4
    assert shared.due_s(0.0) == pytest.approx(0.1)
    assert fill(shared, seat, 0.25) == 2


def test_idle_environments_need_no_growth() -> None:
    """Of the first wave, only those that have answered are known by name; the others are there."""
    shared = capacity(growth=RateLimit(per_s=0.001, burst=4))
    seat = shared.seat()
    fill(shared, seat, 0.0)
    end(shared, seat, 1.0, "a", "b")
    assert fill(shared, seat, 1.0) == 2
    end(shared, seat, 2.0, "a", "b", "c", "d")
    assert shared.environments(2.0) == 4
    assert fill(shared, seat, 2.0) == 4


def test_an_environment_that_is_gone_must_be_replaced() -> None:
    shared = capacity(growth=RateLimit(per_s=0.001, burst=2))
    seat = shared.seat()
    fill(shared, seat, 0.0)
    end(shared, seat, 1.0, "a", "b")
    fill(shared, seat, 1.0)
    end(shared, seat, 2.0, "a", None)
    assert shared.environments(2.0) == 1
    assert fill(shared, seat, 2.0) == 1


def test_idle_environments_are_forgotten_after_5_minutes_and_busy_ones_are_not() -> None:
    shared = capacity(growth=RateLimit(per_s=0.001, burst=3))
    seat = shared.seat()
    fill(shared, seat, 0.0)
    end(shared, seat, 1.0, "a", "b", "c")
    fill(shared, seat, 1.0, most=1)
    assert shared.environments(301.0) == 3
    assert shared.environments(301.1) == 1


def test_an_environment_that_answers_again_is_remembered_from_then_on() -> None:
    shared = capacity()
    seat = shared.seat()
    fill(shared, seat, 0.0, most=2)
    end(shared, seat, 1.0, "a", "b")
    fill(shared, seat, 200.0, most=1)
    end(shared, seat, 200.0, "a")
    assert shared.environments(302.0) == 1


def test_an_environment_is_counted_once() -> None:
    """Whether it is expected from a launch, or has answered."""
    shared = capacity(growth=RateLimit(per_s=0.001, burst=5))
    seat = shared.seat()
    fill(shared, seat, 0.0, most=1)
    end(shared, seat, 1.0, "a")
    fill(shared, seat, 1.0, most=3)
    end(shared, seat, 2.0, "b")
    assert shared.environments(2.0) == 3


def test_a_refused_attempt_made_no_environment() -> None:
    shared = capacity(growth=RateLimit(per_s=0.001, burst=5))
    seat = shared.seat()
    fill(shared, seat, 0.0, most=2)
    end(shared, seat, 1.0, "a", "b")
    fill(shared, seat, 1.0, most=3)
    refuse(shared, seat, 1.1, launched_s=1.0)
    assert shared.environments(1.1) == 2


# ---- what a wave of refusals teaches ----


def test_a_wave_that_was_launched_together_is_one_lesson() -> None:
    """1000 at once where 700 run: 700 are usable, however late the last refusals come."""
    shared = capacity()
    seat = shared.seat()
    fill(shared, seat, 0.0)
    for number in range(300):
        refuse(shared, seat, 0.02 + number * 1e-3)
    assert shared.usable == shared.in_flight == 700


def test_attempts_that_end_between_refusals_lower_nothing() -> None:
    shared = capacity()
    seat = shared.seat()
    fill(shared, seat, 0.0)
    for number in range(300):
        refuse(shared, seat, 0.02 + number * 1e-3)
        end(shared, seat, 0.02 + number * 1e-3, f"e{number}", f"f{number}")
    assert (shared.in_flight, shared.usable) == (100, 700)


def test_refusals_of_launches_in_a_row_teach_what_was_taken() -> None:
    """A thousand a second, and a refusal is known 20 ms later: 20 more are on their way then."""
    shared = capacity()
    seat = shared.seat()
    for number in range(720):
        assert fill(shared, seat, number * 1e-3, most=1) == 1
    for number in range(700, 720):
        refuse(shared, seat, number * 1e-3 + 0.02, launched_s=number * 1e-3)
    assert shared.usable == 700


def test_a_refusal_that_comes_after_many_have_ended_says_nothing_of_now() -> None:
    shared = capacity()
    seat = shared.seat()
    fill(shared, seat, 0.0, most=700)
    fill(shared, seat, 1.0, most=1)
    end(shared, seat, 5.0, *(f"e{number}" for number in range(690)))
    refuse(shared, seat, 5.0, launched_s=1.0)
    assert (shared.in_flight, shared.usable) == (10, 700)


def test_peaks_from_before_a_launch_are_not_its_lesson() -> None:
    shared = capacity()
    seat = shared.seat()
    fill(shared, seat, 0.0)
    end(shared, seat, 1.0, *(f"e{number}" for number in range(900)))
    fill(shared, seat, 2.0, most=1)
    refuse(shared, seat, 2.1, launched_s=2.0)
    assert shared.usable == 100


def test_the_usable_limit_is_never_below_one() -> None:
    shared = capacity()
    seat = shared.seat()
    fill(shared, seat, 0.0)
    refuse(shared, seat, 0.1, count=1000)
    assert (shared.in_flight, shared.usable) == (0, 1)
    assert fill(shared, seat, 0.2) == 1


@pytest.mark.parametrize("reason", [None, "", "ConcurrentSnapshotCreateLimitExceeded", "Other"])
def test_a_reason_that_is_not_known_counts_as_concurrency(reason: str | None) -> None:
    shared = capacity(10)
    seat = shared.seat()
    fill(shared, seat, 0.0)
    refuse(shared, seat, 0.1, count=3, reason=reason)
    assert shared.usable == 7


def test_a_limit_that_falls_is_followed_in_growing_steps() -> None:
    """Else each attempt that ends would be one more refusal."""
    shared, seat = learnt(1000 - 1)
    found = []
    for number in range(1, 9):
        now_s = number * 0.2
        while shared.in_flight >= shared.usable:
            end(shared, seat, now_s, f"e{shared.in_flight}")
        assert fill(shared, seat, now_s) == 1
        refuse(shared, seat, now_s + 0.01, launched_s=now_s)
        found.append(shared.in_flight - shared.usable)
    assert found == [1, 2, 4, 8, 16, 32, 46, 44]


def test_a_refusal_raises_nothing() -> None:
    """Where the limit was lowered below what runs, what runs is not the limit."""
    shared, seat = learnt(1000 - 1)
    for number in range(1, 5):
        now_s = number * 0.2
        while shared.in_flight >= shared.usable:
            end(shared, seat, now_s, f"e{shared.in_flight}")
        fill(shared, seat, now_s)
        refuse(shared, seat, now_s + 0.01, launched_s=now_s)
    usable = shared.usable
    assert shared.in_flight == usable + 8
    assert fill(shared, seat, 10.0) == 1
    refuse(shared, seat, 10.01, launched_s=10.0)
    assert shared.usable == usable + 1


def test_it_remembers_no_more_peaks_than_there_are_places() -> None:
    shared = capacity(3)
    seat = shared.seat()
    for number in range(100):
        fill(shared, seat, float(number))
        end(shared, seat, number + 0.5, "a")
    assert len(shared._learnt._peaks._counts) <= 3


# ---- probing ----


def test_more_is_tried_after_2_s_in_growing_steps() -> None:
    shared, seat = learnt(700, now_s=10.0)
    assert shared.due_s(10.0) == pytest.approx(12.0)
    now_s, found = 12.0, []
    for _ in range(5):
        found.append(fill(shared, seat, now_s))
        now_s = shared.due_s(now_s) or math.nan
    assert found == [1, 4, 16, 64, 215]
    assert shared.usable == shared.in_flight == 1000


def test_probes_are_a_tenth_of_a_second_apart_where_refusals_come_fast() -> None:
    shared, seat = learnt(700)
    fill(shared, seat, 2.0)
    assert shared.due_s(2.0) == pytest.approx(2.1)


def test_the_next_probe_waits_until_the_last_could_be_refused() -> None:
    """Else slow refusals would let several steps go before the first of them is known."""
    shared = capacity(10)
    seat = shared.seat()
    fill(shared, seat, 0.0)
    refuse(shared, seat, 0.3, count=5)
    fill(shared, seat, 2.3)
    assert shared.due_s(2.3) == pytest.approx(2.9)


def test_one_fast_refusal_ends_the_slow_probing() -> None:
    """The first wave may be slow for what the client does: it opens a thousand connections."""
    shared = capacity(10)
    seat = shared.seat()
    fill(shared, seat, 0.0)
    refuse(shared, seat, 0.3, count=5)
    fill(shared, seat, 2.3)
    refuse(shared, seat, 2.32, launched_s=2.3)
    fill(shared, seat, 4.32)
    assert shared.due_s(4.32) == pytest.approx(4.42)


def test_a_refused_probe_starts_again_with_one() -> None:
    shared, seat = learnt(700)
    assert [fill(shared, seat, 2.0), fill(shared, seat, 2.1)] == [1, 4]
    refuse(shared, seat, 2.15, launched_s=2.1, count=2)
    assert shared.usable == 703
    assert shared.due_s(2.2) == pytest.approx(4.15)
    assert fill(shared, seat, 4.15) == 1


def test_nothing_is_probed_while_there_is_room() -> None:
    shared, seat = learnt(700)
    end(shared, seat, 1.0, "a")
    assert fill(shared, seat, 10.0) == 2  # what was free, and the probe
    assert shared.usable == 701


# ---- rates that are exceeded ----


def test_a_refusal_for_rate_empties_the_buckets_and_leaves_the_limit() -> None:
    shared = capacity(rate=RateLimit(per_s=10.0, burst=50), growth=RateLimit(per_s=2.0, burst=50))
    seat = shared.seat()
    fill(shared, seat, 0.0, most=10)
    refuse(shared, seat, 1.0, reason=RATE)
    assert shared.usable == 1000
    assert shared.due_s(1.0) == pytest.approx(1.5)


@pytest.mark.parametrize(
    "reason", ["CallerRateLimitExceeded", "ReservedFunctionInvocationRateLimitExceeded"]
)
def test_a_rate_of_requests_says_nothing_of_environments(reason: str) -> None:
    shared = capacity(rate=RateLimit(per_s=10.0, burst=50), growth=RateLimit(per_s=2.0, burst=50))
    seat = shared.seat()
    fill(shared, seat, 0.0, most=10)
    refuse(shared, seat, 1.0, reason=reason)
    assert shared.due_s(1.0) == pytest.approx(1.1)


def test_a_bucket_is_emptied_once_for_a_wave() -> None:
    shared = capacity(rate=RateLimit(per_s=10.0, burst=50))
    seat = shared.seat()
    fill(shared, seat, 0.0, most=10)
    refuse(shared, seat, 1.0, reason=RATE)
    refuse(shared, seat, 1.95, reason=RATE)
    assert fill(shared, seat, 2.05) == 10


# ---- pauses ----


def test_a_refusal_pauses_all_launches_for_50_ms() -> None:
    shared = capacity(10)
    seat, other = shared.seat(), shared.seat()
    fill(shared, seat, 0.0, most=5)
    refuse(shared, seat, 1.0, count=2, reason=RATE)
    assert not shared.admits(other, 1.04)
    assert shared.due_s(1.04) == pytest.approx(1.05)
    assert shared.admits(other, 1.05)


def test_all_runs_wait_for_as_long_as_the_service_said() -> None:
    shared = capacity(10)
    seat, other = shared.seat(), shared.seat()
    fill(shared, seat, 0.0, most=5)
    refuse(shared, seat, 1.0, wait_s=7.0)
    refuse(shared, seat, 1.0, wait_s=3.0)
    assert shared.due_s(1.0) == pytest.approx(8.0)
    assert not shared.admits(other, 7.9)


def test_waves_without_an_answer_pause_longer_each_time() -> None:
    shared = capacity(10)
    seat = shared.seat()
    now_s, pauses = 0.0, []
    for _ in range(8):
        fill(shared, seat, now_s, most=1)
        refuse(shared, seat, now_s + 0.01, launched_s=now_s, reason="CallerRateLimitExceeded")
        due_s = shared.due_s(now_s + 0.01) or math.nan
        pauses.append(round(due_s - now_s - 0.01, 6))
        now_s = due_s
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    fill(shared, seat, now_s, most=2)
    end(shared, seat, now_s, "a")
    refuse(shared, seat, now_s, launched_s=now_s, reason="CallerRateLimitExceeded")
    assert shared.due_s(now_s) == pytest.approx(now_s + 0.05)


def test_environments_are_counted_right_whichever_of_them_died() -> None:
    """The one that was taken for dead answers: so it was another one."""
    shared = capacity(4, growth=RateLimit(per_s=0.001, burst=3))
    seat = shared.seat()
    fill(shared, seat, 0.0, most=3)
    for environment in ("a", "b", "c"):
        end(shared, seat, 1.0, environment)
    fill(shared, seat, 2.0, most=3)
    end(shared, seat, 3.0, None)  # it was c's, and a is taken for dead
    assert shared.environments(3.0) == 2
    end(shared, seat, 4.0, "a")
    assert shared.environments(4.0) == 2
    end(shared, seat, 5.0, "b")
    assert shared.environments(5.0) == 2


# ---- fairness ----


def test_a_run_alone_has_everything() -> None:
    shared = capacity(10)
    shared.seat()
    assert fill(shared, shared.seat(), 0.0) == 10


def test_what_ends_goes_to_the_run_that_has_less() -> None:
    shared = capacity(10)
    first, second = shared.seat(), shared.seat()
    fill(shared, first, 0.0)
    assert not shared.admits(second, 0.0)
    for number in range(5):
        end(shared, first, 1.0, f"e{number}")
        assert not shared.admits(first, 1.0)
        assert shared.turn(1.0) is second
        assert fill(shared, second, 1.0) == 1
    end(shared, second, 2.0, "e0")
    assert shared.turn(2.0) is second
    assert (first.in_flight, second.in_flight) == (5, 4)


def test_runs_with_as_much_take_turns() -> None:
    shared = capacity(rate=RateLimit(per_s=1.0, burst=1))
    seats = [shared.seat() for _ in range(3)]
    order = [number for number, seat in enumerate(seats) if fill(shared, seat, 0.0)]
    now_s = 0.0
    for _ in range(6):
        now_s = shared.due_s(now_s) or math.nan
        seat = shared.turn(now_s) or shared.seat()
        order.append(seats.index(seat))
        assert fill(shared, seat, now_s) == 1
    assert order == [0, 1, 2, 0, 1, 2, 0]


def test_a_run_that_rests_or_has_left_is_left_no_room() -> None:
    shared = capacity(4)
    first, second, third = (shared.seat() for _ in range(3))
    fill(shared, first, 0.0)
    assert not shared.admits(second, 0.0)
    assert not shared.admits(third, 0.0)
    shared.rest(second)
    shared.leave(third)
    end(shared, first, 1.0, "a")
    assert fill(shared, first, 1.0) == 1


def test_a_run_that_wants_less_than_its_share_leaves_the_rest_to_others() -> None:
    shared = capacity(9)
    first, second, modest = (shared.seat() for _ in range(3))
    fill(shared, modest, 0.0, most=1)
    fill(shared, first, 0.0)
    assert not shared.admits(second, 0.0)
    for number in range(4):
        end(shared, first, 1.0, f"e{number}")
        fill(shared, shared.turn(1.0) or first, 1.0)
    assert (first.in_flight, second.in_flight, modest.in_flight) == (4, 4, 1)


def test_a_run_looks_again_when_it_was_the_turn_of_another() -> None:
    """That one may launch or rest, and nothing else may happen for long."""
    shared = capacity(10, rate=RateLimit(per_s=1.0, burst=5))
    first, second = shared.seat(), shared.seat()
    fill(shared, first, 0.0)
    assert not shared.admits(second, 0.0)
    assert not shared.admits(first, 1.5)
    assert shared.turn(1.5) is second
    assert shared.due_s(1.5) == pytest.approx(1.55)
    shared.rest(second)
    assert shared.admits(first, 1.55)


def test_what_never_reached_the_service_makes_room_and_made_no_environment() -> None:
    shared = capacity(3, growth=RateLimit(per_s=0.001, burst=5))
    seat = shared.seat()
    fill(shared, seat, 0.0)
    refuse(shared, seat, 1.0)
    shared.unsent(seat)
    assert (shared.in_flight, shared.environments(1.0)) == (1, 1)


def test_they_show_their_state() -> None:
    shared = capacity(3)
    first, second = shared.seat(), shared.seat()
    fill(shared, first, 0.0)
    shared.admits(second, 0.0)
    end(shared, first, 1.0, "a")
    shared.leave(first)
    text = "<Capacity: 2 in flight of 3, at most 3; 1 environments seen; 1 runs wait>"
    assert repr(shared) == text
    assert repr(first) == "<Seat: 2 in flight, has left>"
    assert repr(second) == "<Seat: 0 in flight, waits as 2>"
