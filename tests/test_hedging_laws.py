"""The laws of covers, held whatever happens to the attempts in flight."""

from __future__ import annotations

from dataclasses import dataclass

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fanout.hedge_policy import HedgePolicy
from fanout.hedging import Hedging

PLENTY = 1e9


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
        elif self.hedging._lateness.learns_s is not None:
            assert next_s > self.now_s
            self.now_s = next_s
            self._due(is_queue_empty, 100)
            assert self.hedging._lateness.learns_s is None
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
