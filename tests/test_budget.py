"""What a run may cost: reservations in, and never more than the limit."""

from __future__ import annotations

import math
from fractions import Fraction

import hypothesis.strategies as st
import pytest
from hypothesis import given
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fanout.budget import Billed, Budget
from fanout.errors import UsageError


def test_an_attempt_takes_its_worst_case_and_gives_back_what_it_did_not_use() -> None:
    budget = Budget(10.0, gb=2.0)
    budget.reserve(1, 4.0)
    assert (budget.spent_gb_s, budget.reserved_gb_s, budget.left_gb_s) == (0.0, 8.0, 2.0)
    budget.settle(1, 1.5)
    assert (budget.spent_gb_s, budget.reserved_gb_s, budget.left_gb_s) == (3.0, 0.0, 7.0)


def test_what_fits_exactly_is_admitted_and_a_millisecond_more_is_not() -> None:
    budget = Budget(1.0, gb=0.5)
    assert budget.admits(2.0)
    assert not budget.admits(2.001)
    budget.reserve(1, 2.0)
    assert budget.left_gb_s == 0.0
    assert not budget.admits(0.001)


def test_each_attempt_is_billed_in_milliseconds_rounded_up() -> None:
    budget = Budget(1.0, gb=1.0)
    for attempt in range(10):
        budget.reserve(attempt, 0.0101)
        budget.settle(attempt, 0.0001)
    assert budget.spent_gb_s == 0.010


def test_an_attempt_that_was_lost_is_settled_at_its_worst_case() -> None:
    budget = Budget(10.0, gb=1.0)
    budget.reserve(1, 4.0)
    budget.settle(1, None)
    assert budget.spent_gb_s == 4.0


def test_an_attempt_that_never_ran_costs_nothing() -> None:
    budget = Budget(10.0, gb=1.0)
    budget.reserve(1, 4.0)
    budget.settle(1, 0.0)
    assert (budget.spent_gb_s, budget.left_gb_s) == (0.0, 10.0)


def test_an_attempt_is_settled_once() -> None:
    budget = Budget(10.0, gb=1.0)
    budget.reserve(1, 4.0)
    budget.settle(1, 3.0)
    budget.settle(1, None)
    budget.settle(2, 3.0)
    assert budget.spent_gb_s == 3.0


def test_what_ran_longer_than_its_worst_case_is_told_as_it_is() -> None:
    """The books are for the user: they don't hide what the service will bill."""
    budget = Budget(10.0, gb=1.0)
    budget.reserve(1, 10.0)
    budget.settle(1, 12.0)
    assert (budget.spent_gb_s, budget.left_gb_s) == (12.0, -2.0)
    assert not budget.admits(0.0)


def test_what_runs_on_beyond_its_worst_case_is_reserved_bit_by_bit() -> None:
    """Its environment hangs, until the function's own timeout."""
    budget = Budget(100.0, gb=1.0)
    budget.reserve(1, 20.0, now_s=5.0, most_s=45.0)
    reserved = []
    for now_s in (24.0, 25.0, 34.0, 35.0, 45.0, 1000.0):
        budget.tick(now_s)
        reserved.append(budget.reserved_gb_s)
    assert reserved == [20.0, 30.0, 30.0, 40.0, 45.0, 45.0]
    budget.settle(1, 44.0)
    assert (budget.spent_gb_s, budget.reserved_gb_s) == (44.0, 0.0)


def test_what_has_ended_is_not_reserved_any_more() -> None:
    budget = Budget(100.0, gb=1.0)
    budget.reserve(1, 20.0, most_s=45.0)
    budget.settle(1, 5.0)
    budget.tick(50.0)
    assert budget.reserved_gb_s == 0.0


def test_an_attempt_is_billed_until_its_process_ends_or_the_service_ends_it() -> None:
    billed = Billed(gb=1.0, timeout_s=60.0, init_s=10.0)
    assert [billed.worst_s(ends_s) for ends_s in (None, 5.0, 100.0)] == [70.0, 15.0, 70.0]


def test_it_is_hopeless_only_when_what_is_in_flight_can_not_make_room() -> None:
    budget = Budget(10.0, gb=1.0)
    budget.reserve(1, 8.0)
    assert not budget.admits(4.0)
    assert not budget.is_hopeless(4.0)
    assert budget.is_hopeless(10.001)
    budget.settle(1, 7.0)
    assert budget.is_hopeless(4.0)


def test_its_repr_shows_the_books() -> None:
    budget = Budget(10.0, gb=2.0)
    budget.reserve(0, 0.5)
    budget.settle(0, 0.25)
    budget.reserve(1, 1.5)
    assert repr(budget) == "<Budget of 10 GB-s: 0.5 spent, 3 reserved for 1 attempts>"


@pytest.mark.parametrize("value", [0, -1.0, math.inf, math.nan])
def test_a_limit_or_a_memory_that_makes_no_sense_is_refused(value: float) -> None:
    with pytest.raises(UsageError, match=f"max_gb_s={value!r} must be more than 0, and finite"):
        Budget(value, gb=1.0)
    with pytest.raises(UsageError, match=f"gb={value!r} must be more than 0, and finite"):
        Budget(1.0, gb=value)


@pytest.mark.parametrize("value", ["10", None, True])
def test_a_limit_that_is_no_number_is_refused(value: object) -> None:
    with pytest.raises(UsageError) as caught:
        Budget(value, gb=1.0)  # type: ignore[arg-type]  # what the test is about
    assert str(caught.value) == f"max_gb_s={value!r} must be a number"


@given(max_gb_s=st.floats(1e-3, 1e6), gb=st.floats(0.125, 10.0), worst_s=st.floats(0.0, 1000.0))
def test_as_many_are_admitted_as_the_limit_pays_for(
    max_gb_s: float, gb: float, worst_s: float
) -> None:
    budget = Budget(max_gb_s, gb)
    most = Fraction(max_gb_s) / (Fraction(gb) * max(1, math.ceil(worst_s * 1000)) / 1000)
    for attempt in range(20):
        is_admitted = budget.admits(worst_s)
        assert is_admitted is (worst_s == 0.0 or attempt + 1 <= most)
        assert is_admitted is not budget.is_hopeless(worst_s)
        if not is_admitted:
            break
        budget.reserve(attempt, worst_s)
        budget.settle(attempt, worst_s)


class BudgetLaws(RuleBasedStateMachine):
    """Launches whatever is admitted, and keeps the service's bill in exact numbers."""

    @initialize(max_gb_s=st.floats(1e-3, 1e3), gb=st.sampled_from([0.125, 0.1, 1.769, 1.0, 10.0]))
    def begin(self, max_gb_s: float, gb: float) -> None:
        self.budget = Budget(max_gb_s, gb)
        self.gb = gb
        self.in_flight: dict[int, float] = {}
        self.launched = 0
        self.bill_gb_s = Fraction(0)

    @rule(worst_s=st.floats(0.0, 1000.0))
    def launch(self, worst_s: float) -> None:
        if self.budget.admits(worst_s):
            self.budget.reserve(self.launched, worst_s)
            self.in_flight[self.launched] = worst_s
            self.launched += 1

    @rule(share=st.floats(0.0, 1.0), is_known=st.booleans(), data=st.data())
    def end(self, share: float, is_known: bool, data: st.DataObject) -> None:
        if self.in_flight:
            attempt = data.draw(st.sampled_from(sorted(self.in_flight)))
            ran_s = share * self.in_flight.pop(attempt)
            self.bill_gb_s += Fraction(math.ceil(ran_s * 1000), 1000) * Fraction(self.gb)
            self.budget.settle(attempt, ran_s if is_known else None)

    @invariant()
    def the_books_never_exceed_the_limit(self) -> None:
        budget = self.budget
        assert budget._max_ms is not None
        assert budget.max_gb_s is not None
        assert budget._spent_ms + budget._reserved_ms <= budget._max_ms
        assert budget.spent_gb_s <= budget.max_gb_s
        assert budget.reserved_gb_s <= budget.max_gb_s
        assert budget.left_gb_s >= 0.0

    @invariant()
    def the_bill_never_exceeds_the_books(self) -> None:
        assert self.bill_gb_s <= self.budget._spent_ms * self.budget._gb_s_per_ms
        assert self.bill_gb_s <= Fraction(self.budget.max_gb_s or 0)

    @invariant()
    def nothing_is_reserved_when_nothing_is_in_flight(self) -> None:
        if not self.in_flight:
            assert self.budget.reserved_gb_s == 0.0


TestBudgetLaws = BudgetLaws.TestCase
