"""Which attempts get a cover: launches and ends in, attempts that are due out."""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fanout.errors import UsageError
from fanout.hedging import HedgeCounts, HedgePolicy, Hedging, Starts
from fanout.spread import Spread, bin_of

if TYPE_CHECKING:
    from collections.abc import Callable

# Nothing but the rules on time: whatever is late may be covered.
FREELY = HedgePolicy(share=1.0, hang_share=1.0)
PLENTY = 1e9


class Bench:
    """A `Hedging` to experiment with, whose attempts are numbered by the bench."""

    def __init__(self, policy: HedgePolicy = FREELY, **options: Any) -> None:
        self.hedging = Hedging(policy, **options)
        self.now_s = 0.0
        self.count = 0

    def launch(
        self,
        *,
        tasks: int = 1,
        expected_s: float | None = 10.0,
        soft_s: float | None = None,
        covers: int | None = None,
        is_warm: bool = False,
    ) -> int:
        self.count += 1
        self.hedging.launched(
            self.count,
            self.now_s,
            tasks=tasks,
            expected_s=expected_s,
            soft_s=soft_s,
            covers=covers,
            is_warm=is_warm,
        )
        return self.count

    def teach(
        self, *walls_s: float, expected_s: float | None = 10.0, start_s: float | None = None
    ) -> None:
        """Run opaque attempts one after the other; `start_s` of each is a cold start."""
        for wall_s in walls_s:
            attempt = self.launch(expected_s=expected_s)
            self.now_s += wall_s
            run_s = wall_s - (start_s or 0.0)
            self.hedging.ended(attempt, self.now_s, run_s=run_s, is_cold=start_s is not None)

    def due(
        self,
        *,
        is_queue_empty: bool = True,
        free: int = 1000,
        warm_idle: int = 1000,
        est_gb_s: float = PLENTY,
    ) -> list[int]:
        return self.hedging.due(
            self.now_s,
            is_queue_empty=is_queue_empty,
            free=free,
            warm_idle=warm_idle,
            est_gb_s=est_gb_s,
        )

    def next_in_s(self, *, is_queue_empty: bool = True) -> float | None:
        """Seconds until it has to be asked again."""
        next_s = self.hedging.next_s(self.now_s, is_queue_empty=is_queue_empty)
        return None if next_s is None else next_s - self.now_s

    def end(self, attempt: int, run_s: float | None = 1.0) -> None:
        self.hedging.ended(attempt, self.now_s, run_s=run_s)


def about(seconds: float) -> object:
    """A time that was learnt: exact to a bin, or two where one is divided by another."""
    return pytest.approx(seconds, rel=0.03)


# ---- sliced attempts ----


def test_a_sliced_attempt_is_late_after_start_soft_deadline_and_one_task() -> None:
    bench = Bench()
    bench.launch(tasks=20, expected_s=10.0, soft_s=12.5)
    assert bench.next_in_s() == 1.05 * 12.5 + 10.0 / 20 + 8.0


def test_a_sliced_attempt_is_hung_three_soft_deadlines_after_it_is_late() -> None:
    bench = Bench()
    bench.launch(tasks=20, expected_s=10.0, soft_s=12.5)
    late_s = bench.next_in_s()
    assert late_s is not None
    assert bench.next_in_s(is_queue_empty=False) == late_s + 3 * 12.5


def test_while_tasks_wait_only_hung_attempts_are_covered() -> None:
    bench = Bench()
    attempt = bench.launch(tasks=20, expected_s=10.0, soft_s=12.5)
    bench.now_s = 30.0
    assert bench.due(is_queue_empty=False) == []
    assert bench.due(is_queue_empty=True) == [attempt]
    bench.now_s = 60.0
    assert bench.due(is_queue_empty=False) == [attempt]


def test_where_nothing_is_expected_one_task_may_take_its_share_of_the_soft_deadline() -> None:
    bench = Bench()
    bench.launch(tasks=5, expected_s=None, soft_s=10.0)
    assert bench.next_in_s() == 10.5 + 2.0 + 8.0


# ---- waiting for warm environments ----


def late_and_coming(bench: Bench, *, tasks: int = 20) -> int:
    """An attempt that is late, and another one that will answer."""
    late = bench.launch(tasks=tasks, expected_s=10.0, soft_s=12.5)
    bench.now_s += 30.0
    bench.launch(tasks=20, expected_s=10.0, soft_s=12.5)
    return late


def test_a_late_attempt_waits_for_a_warm_environment_for_each_piece_of_its_cover() -> None:
    bench = Bench()
    late = late_and_coming(bench)
    assert bench.due(warm_idle=0) == bench.due(warm_idle=7) == []
    assert bench.due(warm_idle=8) == [late]


def test_a_late_attempt_with_few_tasks_waits_for_as_many_environments() -> None:
    bench = Bench()
    late = late_and_coming(bench, tasks=3)
    assert bench.due(warm_idle=2) == []
    assert bench.due(warm_idle=3) == [late]


def test_environments_that_one_cover_takes_are_not_there_for_the_next() -> None:
    bench = Bench()
    first = bench.launch(tasks=20, expected_s=10.0, soft_s=12.5)
    second = bench.launch(tasks=20, expected_s=10.0, soft_s=12.5)
    late_and_coming(bench)
    assert bench.due(warm_idle=15) == [first]
    assert bench.due(warm_idle=16) == [first, second]


def test_nothing_waits_for_environments_when_all_that_is_in_flight_is_late() -> None:
    bench = Bench()
    late = late_and_coming(bench)
    bench.now_s += 30.0
    assert bench.due(warm_idle=0) == [late, late + 1]


def test_a_hung_attempt_waits_for_no_environment() -> None:
    bench = Bench()
    late = late_and_coming(bench)
    bench.now_s = 60.0
    bench.launch(tasks=20, expected_s=10.0, soft_s=12.5)
    assert bench.due(warm_idle=0)[:1] == [late]


def test_a_single_task_waits_for_no_environment() -> None:
    bench = Bench()
    bench.teach(*[10.0] * 20)
    late = bench.launch()
    bench.now_s += 25.0
    bench.launch()
    assert bench.due(warm_idle=0) == [late]


# ---- starts ----


def test_an_attempt_at_an_idle_environment_is_late_without_the_time_of_a_start() -> None:
    bench = Bench()
    for is_cold in (True, False):
        for _ in range(20):
            attempt = bench.launch()
            bench.now_s += 15.0 if is_cold else 10.2
            bench.hedging.ended(attempt, bench.now_s, run_s=10.0, is_cold=is_cold)
    bench.due()
    bench.launch(tasks=20, expected_s=10.0, soft_s=12.5, is_warm=True)
    assert bench.next_in_s() == about(1.05 * 12.5 + 0.5 + 0.2 + 0.3)
    bench = Bench()
    bench.launch(tasks=20, expected_s=10.0, soft_s=12.5, is_warm=True)
    assert bench.next_in_s() == 1.05 * 12.5 + 0.5 + 8.0, "as long as nothing is known"


def test_a_start_may_take_eight_seconds_until_twenty_were_seen() -> None:
    bench = Bench()
    bench.teach(*[12.0] * 19, start_s=2.0)
    bench.due()
    assert bench.hedging.start_s == 8.0
    bench.teach(12.0, start_s=2.0)
    bench.due()
    assert bench.hedging.start_s == about(2.3)


def test_a_start_may_take_what_nine_in_ten_took_and_a_little_more() -> None:
    bench = Bench()
    for start_s in range(1, 101):
        bench.teach(200.0, start_s=start_s / 10)
    bench.due()
    assert bench.hedging.start_s == about(9.0 + 0.3)


def test_sliced_attempts_tell_about_starts_as_well() -> None:
    bench = Bench()
    for _ in range(20):
        attempt = bench.launch(tasks=20, soft_s=12.5)
        bench.now_s += 12.0
        bench.hedging.ended(attempt, bench.now_s, run_s=10.0, is_cold=True)
    bench.due()
    assert bench.hedging.start_s == about(2.3)


def test_a_later_run_knows_what_starts_took_in_an_earlier_one() -> None:
    starts = Starts()
    earlier = Bench(starts=starts)
    earlier.teach(*[12.0] * 20, start_s=2.0)
    assert Hedging(starts=starts).start_s == about(2.3)
    assert Hedging().start_s == 8.0


def test_warm_attempts_say_nothing_about_starts() -> None:
    bench = Bench()
    bench.teach(*[10.0] * 50)
    bench.due()
    assert bench.hedging.start_s == 8.0


def test_a_start_that_was_learnt_before_is_used_until_there_is_a_new_one() -> None:
    bench = Bench(start_s=1.5)
    bench.launch(tasks=2, expected_s=2.0, soft_s=2.0)
    assert bench.next_in_s() == 2.1 + 1.0 + 1.5


def test_a_start_that_was_learnt_before_outlasts_the_first_answers() -> None:
    bench = Bench(start_s=1.5)
    bench.teach(*[12.0] * 19, start_s=2.0)
    bench.due()
    assert bench.hedging.start_s == 1.5


def test_attempts_in_flight_are_watched_by_what_was_learnt_later() -> None:
    bench = Bench()
    bench.teach(*[12.0] * 19, start_s=2.0)
    attempt = bench.launch(tasks=20, expected_s=10.0, soft_s=10.0)
    assert bench.next_in_s() == 10.5 + 0.5 + 8.0
    launched_s = bench.now_s
    bench.teach(12.0, start_s=2.0)
    next_s = bench.hedging.next_s(bench.now_s, is_queue_empty=True)
    assert next_s is not None
    assert next_s - launched_s == about(11.0 + 2.3)
    bench.now_s = launched_s + 14.0
    assert bench.due() == [attempt]


# ---- opaque attempts ----


def test_an_opaque_attempt_is_late_beyond_the_95th_percentile() -> None:
    bench = Bench()
    bench.teach(*[10.0] * 90, *[20.0] * 10)
    attempt = bench.launch()
    assert bench.next_in_s() == about(20.0)
    bench.now_s += 21.0
    assert bench.due() == [attempt]


def test_an_opaque_attempt_is_late_at_a_third_more_than_the_median_at_least() -> None:
    bench = Bench()
    bench.teach(*[10.0] * 98, *[25.0] * 2)
    bench.launch()
    assert bench.next_in_s() == about(13.0)


def test_where_the_spread_is_noise_nothing_is_late_before_two_medians() -> None:
    bench = Bench()
    bench.teach(*[10.0, 9.0, 11.0, 12.0, 14.0] * 20)
    bench.launch()
    assert bench.next_in_s() == about(22.0)


def test_times_are_measured_by_what_was_expected() -> None:
    bench = Bench()
    bench.teach(*[10.0] * 98, *[25.0] * 2, expected_s=10.0)
    bench.launch(expected_s=1.0)
    assert bench.next_in_s() == about(1.3)
    bench.launch(expected_s=0.5)
    assert bench.next_in_s() == about(0.65)


def test_where_nothing_was_expected_seconds_are_compared() -> None:
    bench = Bench()
    bench.teach(*[10.0] * 98, *[25.0] * 2, expected_s=None)
    bench.launch(expected_s=None)
    assert bench.next_in_s() == about(13.0)


def test_a_single_task_is_opaque_whatever_its_soft_deadline() -> None:
    bench = Bench()
    bench.teach(*[10.0] * 98, *[25.0] * 2)
    bench.launch(tasks=1, soft_s=12.5)
    assert bench.next_in_s() == about(13.0)


def test_what_is_expected_to_take_no_time_is_no_unit() -> None:
    """A millisecond is: else 0.02 s would be twenty million times what was expected."""
    bench = Bench()
    bench.teach(*[0.02] * 98, *[0.5] * 2, expected_s=1e-9)
    bench.launch(expected_s=1e-3)
    assert bench.next_in_s() == pytest.approx(0.1)


def test_nothing_is_late_within_a_tenth_of_a_second() -> None:
    bench = Bench()
    bench.teach(*[0.001] * 100, expected_s=0.001)
    bench.launch(expected_s=0.001)
    assert bench.next_in_s() == pytest.approx(0.1)


def test_before_twenty_answers_nothing_is_late_but_what_is_hung() -> None:
    bench = Bench(start_s=0.0)
    bench.teach(*[10.0] * 19)
    bench.launch()
    assert bench.next_in_s() == about(40.0)


def test_an_attempt_that_is_hung_took_four_medians() -> None:
    bench = Bench()
    bench.teach(*[10.0] * 100)
    attempt = bench.launch()
    assert bench.next_in_s(is_queue_empty=False) == about(40.0)
    bench.now_s += 41.0
    assert bench.due(is_queue_empty=False) == [attempt]


def test_what_one_in_a_hundred_takes_is_not_hung() -> None:
    bench = Bench()
    bench.teach(*[10.0] * 95, *[80.0] * 5)
    bench.launch()
    assert bench.next_in_s(is_queue_empty=False) == about(80.0)


def test_a_start_is_no_hang_however_short_the_tasks() -> None:
    bench = Bench()
    bench.teach(*[0.05] * 100, expected_s=0.05)
    bench.launch(expected_s=0.05)
    assert bench.next_in_s(is_queue_empty=False) == about(8.05)


def test_without_any_answer_four_times_what_is_expected_and_a_start_is_hung() -> None:
    bench = Bench()
    bench.launch(expected_s=10.0)
    assert bench.next_in_s(is_queue_empty=False) == 48.0
    assert bench.next_in_s(is_queue_empty=True) == 48.0


def test_without_any_answer_and_expectation_nothing_can_be_said() -> None:
    bench = Bench()
    bench.launch(expected_s=None)
    assert bench.next_in_s() is None
    bench.now_s = 1e6
    assert bench.due() == []


def test_the_first_to_answer_say_little_about_the_rest() -> None:
    """With nine in ten still running, the 95th percentile of those that answered is not it."""
    bench = Bench()
    attempts = [bench.launch() for _ in range(1000)]
    bench.now_s = 5.0
    for attempt in attempts[:100]:
        bench.end(attempt)
    bench.now_s = 40.0
    assert bench.due() == []
    bench.now_s = 48.0  # but hung they are
    assert len(bench.due()) == 900


def test_attempts_that_brought_nothing_back_count_as_longer_than_that() -> None:
    """A crash after a second doesn't say that tasks take a second."""
    bench = Bench()
    bench.teach(*[10.0] * 98, *[25.0] * 2)
    for _ in range(1000):
        attempt = bench.launch()
        bench.now_s += 1.0
        bench.end(attempt, None)
    bench.launch()
    assert bench.next_in_s() == about(13.0)


# ---- covers ----


def test_the_oldest_are_due_first_and_no_more_than_there_is_room_for() -> None:
    bench = Bench()
    attempts = []
    for _ in range(5):
        attempts.append(bench.launch())
        bench.now_s += 1.0
    bench.now_s = 100.0
    assert bench.due(free=3) == attempts[:3]
    assert bench.due(free=0) == []
    assert bench.due(free=9) == attempts


def test_no_attempt_has_two_covers_at_a_time() -> None:
    bench = Bench()
    attempt = bench.launch(tasks=8)
    bench.now_s = 100.0
    assert bench.due() == [attempt]
    covers = [bench.launch(tasks=4, covers=attempt) for _ in range(2)]
    assert bench.due() == []
    bench.end(covers[0], None)
    assert bench.due() == []
    bench.end(covers[1], None)
    assert bench.due() == [attempt], "it is as silent as before"


def test_covers_are_not_covered() -> None:
    bench = Bench()
    attempt = bench.launch()
    bench.now_s = 100.0
    bench.due()
    bench.launch(covers=attempt)
    bench.teach(*[10.0] * 30)  # and what is learnt later changes nothing about it
    bench.now_s = 1e6
    assert bench.due() == []
    assert bench.next_in_s() is None


def test_what_others_have_done_is_not_covered() -> None:
    bench = Bench()
    attempt = bench.launch()
    bench.hedging.settled(attempt)
    bench.now_s = 1e6
    assert bench.due() == []


def test_what_has_ended_is_not_covered() -> None:
    bench = Bench()
    attempt = bench.launch()
    bench.end(attempt, None)
    bench.now_s = 1e6
    assert bench.due() == []
    assert bench.next_in_s() is None


def test_a_cover_that_was_not_launched_is_due_again() -> None:
    bench = Bench()
    attempt = bench.launch()
    bench.now_s = 100.0
    assert bench.due() == bench.due() == [attempt]


def test_what_is_overdue_and_waits_for_room_wakes_nobody() -> None:
    bench = Bench()
    bench.launch()
    bench.now_s = 100.0
    assert bench.next_in_s() is None


@pytest.mark.parametrize(
    ("tasks", "warm_idle", "free", "pieces"),
    [(20, 100, 100, 8), (5, 100, 100, 5), (20, 3, 100, 3), (20, 100, 2, 2), (20, 0, 9, 1)],
)
def test_a_cover_is_cut_over_warm_environments_that_have_nothing_to_do(
    tasks: int, warm_idle: int, free: int, pieces: int
) -> None:
    assert Hedging().pieces(tasks=tasks, warm_idle=warm_idle, free=free) == pieces


def test_ends_of_attempts_that_it_does_not_know_are_passed_over() -> None:
    hedging = Hedging()
    hedging.ended(7, 1.0, run_s=1.0)
    hedging.settled(7)
    hedging.refused(7)
    assert hedging.counts == HedgeCounts()


# ---- what covers may cost ----


def overdue(bench: Bench, count: int) -> list[int]:
    """So many attempts, each expected to take 10 s, that were silent for 100."""
    attempts = [bench.launch(tasks=4) for _ in range(count)]
    bench.now_s += 100.0
    return attempts


def test_covers_cost_a_tenth_of_the_run_and_hung_attempts_a_little_more() -> None:
    """A cover costs what the attempt has taken so far: 100 s of 2 GB."""
    bench = Bench(HedgePolicy(), gb=2.0)
    attempts = overdue(bench, 50)
    assert bench.due(est_gb_s=10_000.0) == attempts[:7]  # 1000 GB-s, and 400
    assert bench.due(est_gb_s=10_000.0, is_queue_empty=False) == attempts[:2]


def test_what_is_late_but_not_hung_has_no_reserve() -> None:
    bench = Bench(HedgePolicy())
    attempts = [bench.launch(tasks=20, expected_s=10.0, soft_s=12.5) for _ in range(50)]
    bench.now_s = 25.0
    assert bench.due(est_gb_s=1000.0) == attempts[:4]


def test_two_covers_are_in_the_budget_of_the_smallest_run() -> None:
    bench = Bench(HedgePolicy())
    attempts = overdue(bench, 5)
    assert bench.due(est_gb_s=0.0) == attempts[:2]
    for piece in range(8):
        bench.launch(tasks=1, covers=attempts[piece // 4])
    assert bench.due(est_gb_s=0.0) == []
    assert bench.due(est_gb_s=0.0, is_queue_empty=False) == []


def test_pieces_of_a_cover_cost_no_more_than_the_whole() -> None:
    for policy, est_gb_s in ((HedgePolicy(), 0.0), (HedgePolicy(min_covers=0), 2100.0)):
        bench = Bench(policy)
        attempts = overdue(bench, 5)
        assert bench.due(est_gb_s=est_gb_s) == attempts[:2]
        for _ in range(4):
            bench.launch(tasks=1, covers=attempts[0])
        assert bench.due(est_gb_s=est_gb_s)[:1] == attempts[1:2]


def test_a_cover_that_was_refused_gives_back_what_it_cost() -> None:
    bench = Bench(HedgePolicy(min_covers=0))
    attempts = overdue(bench, 5)
    for _ in range(10):
        assert bench.due(est_gb_s=1000.0) == attempts[:1]
        cover = bench.launch(tasks=4, covers=attempts[0])
        bench.hedging.refused(cover)


def test_a_cover_that_was_refused_is_not_one_of_the_first() -> None:
    bench = Bench(HedgePolicy())
    attempts = overdue(bench, 5)
    for _ in range(10):
        assert bench.due(est_gb_s=0.0) == attempts[:2]
        cover = bench.launch(tasks=4, covers=attempts[0])
        bench.hedging.refused(cover)
    assert bench.hedging.counts == HedgeCounts()


def test_a_costly_attempt_does_not_keep_cheaper_ones_from_being_covered() -> None:
    bench = Bench(HedgePolicy(min_covers=0))
    bench.launch(expected_s=1000.0)
    bench.now_s = 4000.0
    cheap = bench.launch(expected_s=1.0)
    bench.now_s = 4100.0
    assert bench.due(est_gb_s=1000.0) == [cheap]


# ---- reports ----


def test_covers_that_answer_first_are_counted_and_what_they_beat_as_lost() -> None:
    bench = Bench(gb=2.0)
    attempt = bench.launch()
    bench.now_s = 100.0
    bench.due()
    cover = bench.launch(covers=attempt)
    bench.now_s = 110.0
    bench.end(cover, 9.0)
    bench.hedging.settled(attempt)
    assert bench.hedging.counts == HedgeCounts(launched=1, won=1)
    bench.now_s = 150.0
    bench.end(attempt, 149.0)
    assert bench.hedging.counts == HedgeCounts(launched=1, won=1, lost_gb_s=298.0)


def test_covers_that_answer_second_are_lost() -> None:
    bench = Bench(gb=2.0)
    attempt = bench.launch()
    bench.now_s = 100.0
    bench.due()
    cover = bench.launch(covers=attempt)
    bench.end(attempt, 99.0)
    bench.hedging.settled(cover)
    bench.now_s = 110.0
    bench.end(cover, None)  # its time is all that is known
    assert bench.hedging.counts == HedgeCounts(launched=1, won=0, lost_gb_s=20.0)


def test_its_repr_shows_what_became_of_covers() -> None:
    bench = Bench()
    attempt = bench.launch()
    bench.now_s = 100.0
    bench.due()
    bench.launch(covers=attempt)
    assert repr(bench.hedging) == ("<Hedging: 2 in flight, 1 covers launched, 0 won, 0 GB-s lost>")


# ---- the record ----


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"quantile": 0.4}, "quantile=0.4) must be a number from 0.5 to 0.999"),
        ({"quantile": 1.0}, "quantile=1.0) must be a number from 0.5 to 0.999"),
        ({"factor": 0.9}, "factor=0.9) must be a number from 1 to inf"),
        ({"hang_factor": "4"}, "hang_factor='4') must be a number from 1 to inf"),
        ({"hang_slices": math.nan}, "hang_slices=nan) must be a number from 0 to inf"),
        ({"share": 10}, "share=10) must be a number from 0 to 1"),
        ({"hang_share": True}, "hang_share=True) must be a number from 0 to 1"),
        ({"min_covers": -1}, "min_covers=-1) must be a whole number, 0 or more"),
        ({"split": 0}, "split=0) must be a whole number, 1 or more"),
        ({"split": 2.0}, "split=2.0) must be a whole number, 1 or more"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(options: dict[str, object], hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        HedgePolicy(**options)  # type: ignore[arg-type]  # what the test is about
    assert str(caught.value) == f"HedgePolicy({hint}"


# ---- the estimate of Kaplan and Meier ----


def naive_quantile(over: list[int], running: list[int], survival: float) -> float:
    """The estimate from its definition, of bins."""
    share = 1.0
    for at in sorted(set(over)):
        at_risk = sum(value >= at for value in over + running)
        share *= 1 - over.count(at) / at_risk
        if share <= survival + 1e-9:
            return math.exp(at * math.log(1.02))
    return math.inf


@given(
    over=st.lists(st.floats(1e-3, 1e3)),
    cut_short=st.lists(st.floats(1e-3, 1e3)),
    running=st.lists(st.floats(0.0, 1e9)),
)
def test_quantiles_are_those_of_kaplan_and_meier(
    over: list[float], cut_short: list[float], running: list[float]
) -> None:
    spread = Spread()
    for value in over:
        spread.add(value)
    for value in cut_short:
        spread.add(value, is_over=False)
    survivals = (0.5, 0.05, 0.01)
    bins = [bin_of(value) for value in over], [bin_of(value) for value in cut_short + running]
    assert spread.quantiles(running, survivals) == pytest.approx(
        [naive_quantile(*bins, survival) for survival in survivals]
    )
    assert spread.count == len(over)


@given(st.floats(1e-6, 1e6))
def test_a_value_lies_at_most_two_per_cent_below_the_edge_of_itsbin_of(value: float) -> None:
    spread = Spread()
    spread.add(value)
    (edge,) = spread.quantiles((), (0.5,))
    assert value * (1 - 1e-9) <= edge <= value * 1.02 * (1 + 1e-9)


def test_in_a_large_fleet_it_learns_a_little_later_and_says_when() -> None:
    """Going through all in flight at every answer would take too long."""
    bench = Bench()
    attempts = [bench.launch() for _ in range(1000)]
    bench.now_s = 9.9
    bench.end(attempts[0])
    assert bench.next_in_s() is not None  # the first answer it looks at
    for attempt in attempts[1:101]:
        bench.now_s += 0.001
        bench.end(attempt)
    assert bench.next_in_s() == pytest.approx(0.1 * 9.9 - 0.1, rel=0.02)
    bench.now_s += 1.0
    bench.next_in_s()
    assert bench.hedging._spreads[True].count == 101
    assert not bench.hedging._unseen


def test_memory_is_bounded() -> None:
    rng = random.Random(1)
    bench = Bench()
    for _ in range(20_000):
        attempt = bench.launch(tasks=2, soft_s=100.0)
        bench.now_s += rng.lognormvariate(0.0, 3.0)
        bench.end(attempt, 0.0)
        bench.teach(rng.lognormvariate(0.0, 3.0), expected_s=None)
    hedging = bench.hedging
    for watch in (hedging._late, hedging._hung):
        assert len(watch._coming) + len(watch._overdue) < 100
    assert not hedging._live
    assert hedging._spreads[False].size < 1400


# ---- laws ----


@dataclass
class Book:
    """What the tests know of an attempt in flight."""

    launched_s: float
    tasks: int
    expected_s: float | None
    covers: int | None
    is_settled: bool = False


class HedgingLaws(RuleBasedStateMachine):
    """Plays fleet and scheduler, and keeps books of its own from what it was told to cover."""

    @initialize(
        share=st.sampled_from([0.0, 0.1, 1.0]),
        hang_share=st.sampled_from([0.0, 0.04]),
        min_covers=st.integers(0, 3),
        est_gb_s=st.sampled_from([0.0, 100.0, 1e4]),
        start_s=st.sampled_from([0.0, 0.5, 8.0]),
        known=st.integers(0, 30),
    )
    def begin(
        self,
        share: float,
        hang_share: float,
        min_covers: int,
        est_gb_s: float,
        start_s: float,
        known: int,
    ) -> None:
        self.policy = HedgePolicy(share=share, hang_share=hang_share, min_covers=min_covers)
        self.est_gb_s = est_gb_s
        self.hedging = Hedging(self.policy, start_s=start_s)
        self.now_s = 0.0
        self.count = 0
        self.live: dict[int, Book] = {}
        self.spent_gb_s = 0.0
        self.covers = 0
        self.has_refused = False
        for wall_s in range(known):
            self._launch(1, 4.0, None)
            self.now_s += 4.0 + wall_s % 3
            self.hedging.ended(self.count, self.now_s, run_s=4.0)
            del self.live[self.count]

    def _launch(
        self, tasks: int, expected_s: float | None, soft_s: float | None, covers: int | None = None
    ) -> None:
        self.count += 1
        self.live[self.count] = Book(self.now_s, tasks, expected_s, covers)
        self.hedging.launched(
            self.count, self.now_s, tasks=tasks, expected_s=expected_s, soft_s=soft_s, covers=covers
        )

    @rule(
        tasks=st.integers(1, 10),
        expected_s=st.sampled_from([None, 0.0, 0.1, 4.0, 4.5]),
        soft_s=st.sampled_from([None, 5.0]),
        times=st.integers(1, 4),
    )
    def launch(
        self, tasks: int, expected_s: float | None, soft_s: float | None, times: int
    ) -> None:
        for _ in range(times):
            if len(self.live) < 12:
                self._launch(tasks, expected_s, soft_s)

    @rule(dt_s=st.sampled_from([0.0, 0.01, 1.0, 5.0, 60.0]))
    def wait(self, dt_s: float) -> None:
        self.now_s += dt_s

    @rule(data=st.data(), run_s=st.sampled_from([None, 0.0, 3.0]), is_cold=st.booleans())
    def end(self, data: st.DataObject, run_s: float | None, is_cold: bool) -> None:
        if not self.live:
            return
        attempt = data.draw(st.sampled_from(sorted(self.live)))
        book = self.live.pop(attempt)
        self.hedging.ended(attempt, self.now_s, run_s=run_s, is_cold=is_cold)
        rivals = [other for other, its in self.live.items() if its.covers == attempt]
        if book.covers in self.live:
            rivals.append(book.covers)
        if run_s is not None:
            for rival in rivals:
                self.live[rival].is_settled = True
                self.hedging.settled(rival)

    @rule(data=st.data())
    def refuse(self, data: st.DataObject) -> None:
        if self.live:
            attempt = data.draw(st.sampled_from(sorted(self.live)))
            self.hedging.refused(attempt)
            # What is given back is not in these books.
            self.has_refused |= self.live.pop(attempt).covers is not None

    @rule(
        data=st.data(),
        is_queue_empty=st.booleans(),
        free=st.integers(0, 12),
        warm_idle=st.integers(0, 12),
    )
    def cover(self, data: st.DataObject, is_queue_empty: bool, free: int, warm_idle: int) -> None:
        """Cover what is due, all or some of it, whole or in pieces."""
        wanted = self._due(is_queue_empty, free)
        due = self._due(is_queue_empty, free, warm_idle)
        if not due and wanted:
            is_coming = self.hedging.next_s(self.now_s, is_queue_empty=True) is not None
            assert is_coming, "it waits for environments, and none will be free"
        assert len(due) == len(set(due)) <= free
        assert [self.live[attempt].launched_s for attempt in due] == sorted(
            self.live[attempt].launched_s for attempt in due
        )
        for attempt in due:
            book = self.live[attempt]
            assert book.covers is None, "a cover is not covered"
            assert not book.is_settled, "it is for nothing"
            assert all(its.covers != attempt for its in self.live.values()), "two covers"
            # What it is booked for: of a hung sliced attempt what was expected, else its age.
            cost_gb_s = self.hedging._due[attempt][0]
            pieces = self.hedging.pieces(tasks=book.tasks, warm_idle=data.draw(st.integers(0, 3)),
                                         free=free)  # fmt: skip
            if not data.draw(st.booleans()):
                continue
            for piece in range(pieces):
                size = len(range(piece, book.tasks, pieces))
                self._launch(size, None, None, covers=attempt)
            self.covers += 1
            if self.covers > self.policy.min_covers and not self.has_refused:
                self.spent_gb_s += cost_gb_s
                most = (self.policy.share + self.policy.hang_share) * self.est_gb_s
                assert self.spent_gb_s <= most + 1e-6

    @rule(is_queue_empty=st.booleans())
    def sleep(self, is_queue_empty: bool) -> None:
        """Nothing is due before `next_s`, and something is then."""
        self.hedging._policy = HedgePolicy(share=1.0, hang_share=1.0)  # whatever it costs
        est_gb_s, self.est_gb_s = self.est_gb_s, PLENTY
        before = self._due(is_queue_empty, 100)
        next_s = self.hedging.next_s(self.now_s, is_queue_empty=is_queue_empty)
        if next_s is None:
            later_s, self.now_s = self.now_s, self.now_s + 1e5
            assert self._due(is_queue_empty, 100) == before
            self.now_s = later_s  # nothing happened: time may be turned back
        elif self.hedging._unseen:  # it wants to learn first, what is due may change then
            assert next_s > self.now_s
            self.now_s = next_s
            self._due(is_queue_empty, 100)
            assert not self.hedging._unseen
        else:
            assert next_s > self.now_s
            self.now_s += 0.99 * (next_s - self.now_s)
            if self.now_s < next_s:
                assert self._due(is_queue_empty, 100) == before
            self.now_s = next_s
            assert len(self._due(is_queue_empty, 100)) > len(before)
        self.hedging._policy, self.est_gb_s = self.policy, est_gb_s

    def _due(self, is_queue_empty: bool, free: int, warm_idle: int = 1000) -> list[int]:
        return self.hedging.due(
            self.now_s,
            is_queue_empty=is_queue_empty,
            free=free,
            warm_idle=warm_idle,
            est_gb_s=self.est_gb_s,
        )

    @invariant()
    def the_books_agree(self) -> None:
        hedging = self.hedging
        assert hedging._live.keys() == self.live.keys()
        for attempt, live in hedging._live.items():
            pieces = sum(its.covers == attempt for its in self.live.values())
            assert live.pieces == pieces
        assert min(hedging._spent_gb_s.values()) >= -1e-6

    def teardown(self) -> None:
        """Whatever is silent for ever is covered, if there is anything to judge it by."""
        if not hasattr(self, "hedging"):
            return
        self.hedging._policy = HedgePolicy(share=1.0, hang_share=1.0)
        self.est_gb_s = 1e12
        for attempt in [a for a, book in self.live.items() if book.covers is not None]:
            self.hedging.ended(attempt, self.now_s, run_s=None)
            del self.live[attempt]
        self.now_s += 1e6
        silent = {
            attempt
            for attempt, book in self.live.items()
            if not book.is_settled and (book.expected_s or self.hedging._live[attempt].is_sliced)
        }
        assert silent <= set(self._due(is_queue_empty=False, free=100))


TestHedgingLaws = HedgingLaws.TestCase
TestHedgingLaws.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)


# ---- whole runs ----


@dataclass
class Fleet:
    """A run of equal opaque tasks of 10 s, simulated: what was covered, and when.

    Attributes:
        tasks: How many there are.
        places: How many attempts may be in flight at once, each in an environment of its own.
        wall_s: How long an attempt takes: of its number and its environment's.
        is_estimated: Whether it is known what to expect.
        covered: Tasks that were covered, with the age of the attempt then, seconds.
        makespan_s: When the last task was done, seconds.
    """

    tasks: int
    places: int
    wall_s: Callable[[int, int], float]
    is_estimated: bool = True
    hedging: Hedging = field(default_factory=lambda: Hedging(HedgePolicy()))
    covered: dict[int, float] = field(default_factory=dict)
    makespan_s: float = 0.0

    def run(self) -> Fleet:
        hedging, now_s, count, done = self.hedging, 0.0, 0, set[int]()
        idle = list(range(self.places))
        queue = list(range(self.tasks))[::-1]
        carries: dict[int, tuple[int, int, float]] = {}  # task, environment, launched
        events: list[tuple[float, int]] = []

        def launch(task: int, covers: int | None) -> None:
            nonlocal count
            count += 1
            environment = idle.pop()
            carries[count] = task, environment, now_s
            expected_s = 10.0 if self.is_estimated else None
            hedging.launched(count, now_s, tasks=1, expected_s=expected_s, covers=covers)
            heapq.heappush(events, (now_s + self.wall_s(count, environment), count))

        while len(done) < self.tasks:
            is_queue_empty = not queue
            for attempt in hedging.due(
                now_s,
                is_queue_empty=is_queue_empty,
                free=len(idle),
                warm_idle=len(idle),
                est_gb_s=10.0 * self.tasks,
            ):
                task, _, launched_s = carries[attempt]
                self.covered[task] = now_s - launched_s
                launch(task, attempt)
            while queue and idle:  # after the covers, which would find no place else
                launch(queue.pop(), None)
            if is_queue_empty != (not queue):
                continue
            next_s = hedging.next_s(now_s, is_queue_empty=is_queue_empty)
            if next_s is not None and next_s < events[0][0]:
                now_s = next_s
                continue
            now_s, attempt = heapq.heappop(events)
            assert now_s < math.inf, "what is silent is never covered"
            task, environment, launched_s = carries.pop(attempt)
            idle.append(environment)
            hedging.ended(attempt, now_s, run_s=now_s - launched_s, is_cold=False)
            done.add(task)
            for rival, (its, _, _) in carries.items():
                if its == task:
                    hedging.settled(rival)
        self.makespan_s = now_s
        return self


def noisy(rng: random.Random) -> float:
    """Ten seconds, in environments and moments that differ by 15 %."""
    return 10.0 * rng.uniform(0.85, 1.15)


@pytest.mark.parametrize("is_estimated", [True, False])
@pytest.mark.parametrize("places", [1000, 1050, 100, 10])
def test_equal_tasks_are_not_covered_at_all(places: int, is_estimated: bool) -> None:
    rng = random.Random(1)
    fleet = Fleet(1000, places, lambda attempt, environment: noisy(rng), is_estimated).run()
    assert fleet.covered == {}
    assert fleet.hedging.counts == HedgeCounts()


@pytest.mark.parametrize("is_estimated", [True, False])
@pytest.mark.parametrize("places", [1050, 100, 10])
def test_of_a_thousand_equal_tasks_the_one_that_hangs_is_covered_in_time(
    places: int, is_estimated: bool
) -> None:
    """At 2 medians if no task waits for a place, else at 4."""
    for hung in (1, 517, 990, 1000):
        rng = random.Random(2)

        def wall_s(
            attempt: int, environment: int, rng: random.Random = rng, hung: int = hung
        ) -> float:
            return math.inf if attempt == hung else noisy(rng)

        fleet = Fleet(1000, places, wall_s, is_estimated).run()
        assert fleet.covered.keys() == {hung - 1}
        assert 20.0 <= fleet.covered[hung - 1] <= 43.0
        assert fleet.hedging.counts.won == 1


def test_many_hangs_are_covered_as_far_as_the_reserve_goes_and_then_at_the_end() -> None:
    """One in a hundred, ten times as many as thought: 400 GB-s and then 1000 pay for 40 s each."""
    rng = random.Random(3)
    fleet = Fleet(
        1000, 100, lambda n, environment: math.inf if n % 100 == 50 and n < 1000 else noisy(rng)
    ).run()
    assert len(fleet.covered) == 10
    assert fleet.hedging.counts.won == 10
    assert max(fleet.covered.values()) <= 120.0


@pytest.mark.parametrize("is_estimated", [True, False])
@pytest.mark.parametrize("places", [1050, 200])
def test_only_what_runs_in_slow_environments_is_covered(places: int, is_estimated: bool) -> None:
    """Three in a hundred are two to three times as slow."""
    rng = random.Random(4)
    speeds = [rng.uniform(2, 3) if n % 33 == 5 else 1.0 for n in range(places)]
    slow: set[int] = set()

    def wall_s(attempt: int, environment: int) -> float:
        if speeds[environment] > 1:
            slow.add(attempt - 1)
        return noisy(rng) * speeds[environment]

    fleet = Fleet(1000, places, wall_s, is_estimated).run()
    assert fleet.covered
    assert fleet.covered.keys() <= slow
    assert min(fleet.covered.values()) >= 12.0


def test_a_run_of_two_tasks_is_saved_from_its_hang() -> None:
    rng = random.Random(5)
    for is_estimated in (True, False):
        fleet = Fleet(
            2, 3, lambda n, environment: math.inf if n == 1 else noisy(rng), is_estimated
        ).run()
        assert fleet.covered.keys() == {0}
        assert fleet.makespan_s <= 65.0


def test_unequal_tasks_waste_no_more_than_the_budget() -> None:
    """A copy of what is merely large wins nothing, and is billed."""
    rng = random.Random(6)
    sizes = [rng.lognormvariate(2.0, 1.0) for _ in range(1000)]
    attempts: dict[int, float] = {}

    def wall_s(attempt: int, environment: int) -> float:
        attempts[attempt] = sizes[attempt - 1] if attempt <= 1000 else 60.0
        return attempts[attempt]

    fleet = Fleet(1000, 1500, wall_s).run()
    assert fleet.hedging.counts.launched <= 150
    assert sum(fleet.covered.values()) <= 0.14 * 10_000
