"""After how long attempts are late, and hung: ends in, seconds out."""

from __future__ import annotations

import math
from typing import Any

import pytest

from fanout.hedge_policy import HedgePolicy
from fanout.lateness import Lateness, Starts
from fanout.watch import Live


class Known:
    """A `Lateness`, and what it has seen."""

    def __init__(self, **options: Any) -> None:
        self.lateness = Lateness(HedgePolicy(), **options)
        self.now_s = 0.0

    def teach(
        self, *walls_s: float, expected_s: float | None = 10.0, start_s: float | None = None
    ) -> None:
        """Opaque attempts end, one after the other; `start_s` of each is a cold start."""
        for wall_s in walls_s:
            run_s = wall_s - (start_s or 0.0)
            self.ends(wall_s, run_s, expected_s=expected_s, is_cold=start_s is not None)

    def ends(
        self, wall_s: float, run_s: float | None, *, is_cold: bool | None = None, **what: Any
    ) -> None:
        """An attempt ends that was launched so long ago."""
        self.now_s += wall_s
        self.lateness.ended(live(self.now_s - wall_s, **what), wall_s, run_s=run_s, is_cold=is_cold)

    def after_s(self, **what: Any) -> tuple[float, float]:
        """After how long one that is launched now is late, and hung."""
        launched = live(self.now_s, **what)
        self.lateness.learn(self.now_s, {1: launched})
        return self.lateness.after_s(launched)

    def late_s(self, **what: Any) -> float:
        return self.after_s(**what)[0]

    def hung_s(self, **what: Any) -> float:
        return self.after_s(**what)[1]

    @property
    def start_s(self) -> float:
        """What a start may take by all that is known."""
        self.lateness.learn(self.now_s, {})
        return self.lateness.start_s


def live(
    launched_s: float,
    *,
    tasks: int = 1,
    expected_s: float | None = 10.0,
    soft_s: float | None = None,
    is_warm: bool = False,
) -> Live:
    return Live(launched_s, expected_s, soft_s, tasks, None, is_warm)


def about(seconds: float) -> object:
    """A time that was learnt: exact to a bin, or two where one is divided by another."""
    return pytest.approx(seconds, rel=0.03)


# ---- what it should take ----


def test_an_attempt_should_take_what_was_expected_or_less_if_others_did() -> None:
    known = Known()
    assert known.lateness.usual_s(live(0.0, expected_s=100.0)) == 100.0
    assert known.lateness.usual_s(live(0.0, expected_s=None)) is None
    known.teach(*[5.0] * 30, expected_s=100.0)
    known.after_s()  # it learns
    assert known.lateness.usual_s(live(0.0, expected_s=100.0)) == about(5.0)
    slow = Known()
    slow.teach(*[300.0] * 30, expected_s=100.0)
    slow.after_s()
    assert slow.lateness.usual_s(live(0.0, expected_s=100.0)) == 100.0


# ---- sliced attempts ----


def test_a_sliced_attempt_is_late_after_start_soft_deadline_and_one_task() -> None:
    known = Known()
    assert known.late_s(tasks=20, expected_s=10.0, soft_s=12.5) == 1.05 * 12.5 + 10.0 / 20 + 8.0


def test_a_sliced_attempt_is_hung_three_soft_deadlines_after_it_is_late() -> None:
    known = Known()
    late_s, hung_s = known.after_s(tasks=20, expected_s=10.0, soft_s=12.5)
    assert hung_s == late_s + 3 * 12.5


def test_where_nothing_is_expected_one_task_may_take_its_share_of_the_soft_deadline() -> None:
    known = Known()
    assert known.late_s(tasks=5, expected_s=None, soft_s=10.0) == 10.5 + 2.0 + 8.0


# ---- starts ----


def test_an_attempt_at_an_idle_environment_is_late_without_the_time_of_a_start() -> None:
    known = Known()
    work_s = 1.05 * 12.5 + 0.5
    late_s = known.late_s(tasks=20, expected_s=10.0, soft_s=12.5, is_warm=True)
    assert late_s == work_s + 8.0, "as long as nothing is known"
    for is_cold in (True, False):
        for _ in range(20):
            known.ends(15.0 if is_cold else 10.2, 10.0, is_cold=is_cold)
    late_s = known.late_s(tasks=20, expected_s=10.0, soft_s=12.5, is_warm=True)
    assert late_s == about(work_s + 0.2 + 0.3)


def test_a_start_may_take_eight_seconds_until_twenty_were_seen() -> None:
    known = Known()
    known.teach(*[12.0] * 19, start_s=2.0)
    assert known.start_s == 8.0
    known.teach(12.0, start_s=2.0)
    assert known.start_s == about(2.3)


def test_a_start_may_take_what_nine_in_ten_took_and_a_little_more() -> None:
    known = Known()
    for start_s in range(1, 101):
        known.teach(200.0, start_s=start_s / 10)
    assert known.start_s == about(9.0 + 0.3)


def test_sliced_attempts_tell_about_starts_as_well() -> None:
    known = Known()
    for _ in range(20):
        known.ends(12.0, 10.0, tasks=20, soft_s=12.5, is_cold=True)
    assert known.start_s == about(2.3)


def test_a_later_run_knows_what_starts_took_in_an_earlier_one() -> None:
    starts = Starts()
    earlier = Known(starts=starts)
    earlier.teach(*[12.0] * 20, start_s=2.0)
    assert Lateness(HedgePolicy(), starts=starts).start_s == about(2.3)
    assert Lateness(HedgePolicy()).start_s == 8.0


def test_warm_attempts_say_nothing_about_starts() -> None:
    known = Known()
    known.teach(*[10.0] * 50)
    assert known.start_s == 8.0


def test_a_start_that_was_learnt_before_is_used_until_there_is_a_new_one() -> None:
    known = Known(start_s=1.5)
    assert known.late_s(tasks=2, expected_s=2.0, soft_s=2.0) == 2.1 + 1.0 + 1.5


def test_a_start_that_was_learnt_before_outlasts_the_first_answers() -> None:
    known = Known(start_s=1.5)
    known.teach(*[12.0] * 19, start_s=2.0)
    assert known.start_s == 1.5


# ---- opaque attempts ----


def test_an_opaque_attempt_is_late_beyond_the_95th_percentile() -> None:
    known = Known()
    known.teach(*[10.0] * 90, *[20.0] * 10)
    assert known.late_s() == about(20.0)


def test_an_opaque_attempt_is_late_at_a_third_more_than_the_median_at_least() -> None:
    known = Known()
    known.teach(*[10.0] * 98, *[25.0] * 2)
    assert known.late_s() == about(13.0)


def test_where_the_spread_is_noise_nothing_is_late_before_two_medians() -> None:
    known = Known()
    known.teach(*[10.0, 9.0, 11.0, 12.0, 14.0] * 20)
    assert known.late_s() == about(22.0)


def test_times_are_measured_by_what_was_expected() -> None:
    known = Known()
    known.teach(*[10.0] * 98, *[25.0] * 2, expected_s=10.0)
    assert known.late_s(expected_s=1.0) == about(1.3)
    assert known.late_s(expected_s=0.5) == about(0.65)


def test_where_nothing_was_expected_seconds_are_compared() -> None:
    known = Known()
    known.teach(*[10.0] * 98, *[25.0] * 2, expected_s=None)
    assert known.late_s(expected_s=None) == about(13.0)


def test_a_single_task_is_opaque_whatever_its_soft_deadline() -> None:
    known = Known()
    known.teach(*[10.0] * 98, *[25.0] * 2)
    assert known.late_s(tasks=1, soft_s=12.5) == about(13.0)


def test_what_is_expected_to_take_no_time_is_no_unit() -> None:
    """A millisecond is: else 0.02 s would be twenty million times what was expected."""
    known = Known()
    known.teach(*[0.02] * 98, *[0.5] * 2, expected_s=1e-9)
    assert known.late_s(expected_s=1e-3) == pytest.approx(0.1)


def test_nothing_is_late_within_a_tenth_of_a_second() -> None:
    known = Known()
    known.teach(*[0.001] * 100, expected_s=0.001)
    assert known.late_s(expected_s=0.001) == pytest.approx(0.1)


def test_before_twenty_answers_nothing_is_late_but_what_is_hung() -> None:
    known = Known(start_s=0.0)
    known.teach(*[10.0] * 19)
    assert known.late_s() == about(40.0)


def test_an_attempt_that_is_hung_took_four_medians() -> None:
    known = Known()
    known.teach(*[10.0] * 100)
    assert known.hung_s() == about(40.0)


def test_what_one_in_a_hundred_takes_is_not_hung() -> None:
    known = Known()
    known.teach(*[10.0] * 95, *[80.0] * 5)
    assert known.hung_s() == about(80.0)


def test_a_start_is_no_hang_however_short_the_tasks() -> None:
    known = Known()
    known.teach(*[0.05] * 100, expected_s=0.05)
    assert known.hung_s(expected_s=0.05) == about(8.05)


def test_without_any_answer_four_times_what_is_expected_and_a_start_is_hung() -> None:
    known = Known()
    assert known.after_s(expected_s=10.0) == (48.0, 48.0)


def test_without_any_answer_and_expectation_nothing_can_be_said() -> None:
    known = Known()
    assert known.after_s(expected_s=None) == (math.inf, math.inf)


def test_attempts_that_brought_nothing_back_count_as_longer_than_that() -> None:
    """A crash after a second doesn't say that tasks take a second."""
    known = Known()
    known.teach(*[10.0] * 98, *[25.0] * 2)
    for _ in range(1000):
        known.ends(1.0, None)
    assert known.late_s() == about(13.0)


# ---- when it learns ----


def test_it_learns_from_the_first_end_at_once_and_tells_whether_that_changed_anything() -> None:
    known = Known(start_s=0.0)
    assert known.lateness.learns_s is None
    assert not known.lateness.learn(0.0, {}), "from nothing"
    known.teach(10.0)
    assert known.lateness.learns_s == -math.inf
    assert known.lateness.learn(known.now_s, {})
    assert known.lateness.learns_s is None
    known.teach(10.0)
    assert not known.lateness.learn(known.now_s, {}), "it took as long as was known"


def test_with_many_in_flight_it_learns_once_a_tenth_of_their_time_has_passed() -> None:
    """Going through all of them at every answer would take too long."""
    known, lives = Known(), many()
    known.ends(10.0, 10.0)
    known.lateness.learn(10.0, lives)
    known.ends(10.0, 10.0)
    assert known.lateness.learns_s == pytest.approx(11.0)
    known.lateness.learn(10.9, lives)
    assert known.lateness.learns_s is not None, "it was put off"
    known.lateness.learn(11.1, lives)
    assert known.lateness.learns_s is None


def test_with_many_in_flight_it_learns_sooner_if_half_as_many_have_ended() -> None:
    known, lives = Known(), many()
    known.ends(10.0, 10.0)
    known.lateness.learn(10.0, lives)
    for ends, is_put_off in ((490, True), (20, False)):
        for _ in range(ends):
            known.ends(10.0, 10.0)
        known.lateness.learn(10.0, lives)
        assert (known.lateness.learns_s is not None) == is_put_off


def many() -> dict[int, Live]:
    return {number: live(0.0) for number in range(1000)}
