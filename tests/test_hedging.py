"""Which attempts get a cover: launches and ends in, attempts that are due out."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from fanout.errors import UsageError
from fanout.hedge_policy import HedgePolicy
from fanout.hedging import HedgeCounts, Hedging
from fanout.lateness import Starts

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


# ---- late and hung ones ----


def test_it_is_asked_again_when_the_next_one_is_late_or_hung_if_tasks_wait() -> None:
    bench = Bench()
    bench.launch(tasks=20, expected_s=10.0, soft_s=12.5)
    late_s = 1.05 * 12.5 + 10.0 / 20 + 8.0
    assert bench.next_in_s() == late_s
    assert bench.next_in_s(is_queue_empty=False) == late_s + 3 * 12.5


def test_what_was_silent_for_so_long_is_due() -> None:
    bench = Bench()
    bench.teach(*[10.0] * 90, *[20.0] * 10)
    attempt = bench.launch()
    assert bench.next_in_s() == about(20.0)
    bench.now_s += 19.0
    assert bench.due() == []
    bench.now_s += 2.0
    assert bench.due() == [attempt]
    bench.now_s += 15.0
    assert bench.due(is_queue_empty=False) == []
    bench.now_s += 6.0
    assert bench.due(is_queue_empty=False) == [attempt]


def test_when_that_is_depends_on_what_is_known_of_starts() -> None:
    bench = Bench(start_s=1.5)
    bench.launch(tasks=20, expected_s=10.0, soft_s=12.5)
    assert bench.next_in_s() == about(13.125 + 0.5 + 1.5)
    starts = Starts()
    Bench(starts=starts).teach(*[12.0] * 20, start_s=2.0)
    bench = Bench(starts=starts)
    bench.launch(tasks=20, expected_s=10.0, soft_s=12.5)
    assert bench.next_in_s() == about(13.125 + 0.5 + 2.3)


def test_an_attempt_at_an_idle_environment_is_late_without_the_time_of_a_start() -> None:
    bench = Bench()
    bench.teach(*[10.0] * 20)
    bench.launch(tasks=20, expected_s=10.0, soft_s=12.5, is_warm=True)
    assert bench.next_in_s() == about(13.125 + 0.5 + 0.3)


def test_the_policy_says_how_long_a_hang_is() -> None:
    bench = Bench(HedgePolicy(hang_factor=2.0))
    bench.launch(expected_s=10.0)
    assert bench.next_in_s() == 2 * 10.0 + 8.0


def test_of_which_nothing_can_be_said_wakes_nobody() -> None:
    bench = Bench()
    bench.launch(expected_s=None)
    assert bench.next_in_s() is None
    bench.now_s = 1e6
    assert bench.due() == []


def test_while_tasks_wait_only_hung_attempts_are_covered() -> None:
    bench = Bench()
    attempt = bench.launch(tasks=20, expected_s=10.0, soft_s=12.5)
    bench.now_s = 30.0
    assert bench.due(is_queue_empty=False) == []
    assert bench.due(is_queue_empty=True) == [attempt]
    bench.now_s = 60.0
    assert bench.due(is_queue_empty=False) == [attempt]


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
    assert bench.hedging._lateness._spreads[True].count == 101
    assert bench.hedging._lateness.learns_s is None


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
    assert hedging._lateness._spreads[False].size < 1400


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
