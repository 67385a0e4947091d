"""A cap in dollars: never exceeded, by no interleaving, nor by a second session."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import fanout
from fanout.budget import REQUESTS, Budget, Rates
from fanout.errors import BudgetExceededError, UsageError
from fanout.executor import Executor
from tests.lambda_fake import FakeLambda
from tests.test_cost_ledger import square, with_report

RATES = Rates(usd_per_gb_s=Fraction("0.0000166667"), usd_per_request=Fraction("0.0000002"))
CAPS = st.floats(1e-6, 10.0)


def budget_of(max_usd: float, gb: float = 1.0, **options: Any) -> Budget:
    return Budget(options.pop("max_gb_s", None), gb, max_usd=max_usd, rates=RATES, **options)


def test_an_attempt_takes_its_time_and_its_requests() -> None:
    budget = budget_of(0.001)
    budget.reserve(1, 20.0)
    budget.settle(1, 15.0, requests=1)
    assert budget.spent_usd == pytest.approx(15 * 0.0000166667 + 0.0000002, rel=1e-12)
    assert budget.left_usd == pytest.approx(0.001 - budget.spent_usd, rel=1e-12)
    assert budget.left_gb_s == math.inf
    assert budget.spent_gb_s == 15.0


def test_what_fits_exactly_is_admitted_and_a_millisecond_more_is_not() -> None:
    exact = float(10 * RATES.usd_per_gb_s + REQUESTS * RATES.usd_per_request)
    assert exact == 0.000167267
    budget = budget_of(exact)
    assert budget.admits(10.0)
    assert not budget.admits(10.001)
    budget.reserve(1, 10.0)
    assert budget.left_usd == 0.0


def test_requests_that_were_not_needed_are_given_back() -> None:
    budget = budget_of(1.0)
    budget.reserve(1, 0.0)
    assert budget.requests == REQUESTS
    budget.settle(1, 0.0)
    assert budget.requests == 0
    budget.reserve(2, 1.0)
    budget.settle(2, None)
    assert budget.requests == REQUESTS


def test_the_cap_that_is_nearer_holds_and_says_so() -> None:
    both = budget_of(1.0, max_gb_s=10.0)
    assert not both.admits(10.001)
    assert both.overdraft(10.001).max_usd is None
    assert both.overdraft(10.001).max_gb_s == 10.0
    dear = budget_of(0.0001, max_gb_s=10.0)
    assert not dear.admits(9.0)
    over = dear.overdraft(9.0)
    assert (over.max_gb_s, over.max_usd) == (None, 0.0001)
    assert over.worst_usd == pytest.approx(0.0001506003)


@given(max_usd=CAPS, gb=st.sampled_from([0.125, 1.727539, 10.0]), worst_s=st.floats(0.0, 1000.0))
def test_a_second_session_begins_where_the_first_one_ended(
    max_usd: float, gb: float, worst_s: float
) -> None:
    first = budget_of(max_usd, gb)
    for attempt in range(3):
        if first.admits(worst_s):
            first.reserve(attempt, worst_s)
    first.settle(0, worst_s / 2)
    told = first.spent_gb_s + first.reserved_gb_s  # as the journal has it
    second = budget_of(max_usd, gb, spent_gb_s=told, spent_requests=first.requests)
    assert second.left_usd <= first.left_usd + 1e-15


class CapLaws(RuleBasedStateMachine):
    """Launches whatever is admitted, and keeps the service's bill in exact numbers."""

    @initialize(
        max_usd=CAPS,
        max_gb_s=st.none() | st.floats(1e-3, 1e5),
        gb=st.sampled_from([0.125, 1.769, 10.0]),
    )
    def begin(self, max_usd: float, max_gb_s: float | None, gb: float) -> None:
        self.budget = budget_of(max_usd, gb, max_gb_s=max_gb_s)
        self.gb = gb
        self.in_flight: dict[int, float] = {}
        self.launched = 0
        self.bill_gb_s = self.bill_usd = Fraction(0)

    @rule(worst_s=st.floats(0.0, 1000.0))
    def launch(self, worst_s: float) -> None:
        if self.budget.admits(worst_s):
            self.budget.reserve(self.launched, worst_s)
            self.in_flight[self.launched] = worst_s
            self.launched += 1
        else:
            is_alone = not self.in_flight
            assert not is_alone or self.budget.is_hopeless(worst_s)

    @rule(
        share=st.floats(0.0, 1.0),
        requests=st.integers(1, REQUESTS),
        is_known=st.booleans(),
        data=st.data(),
    )
    def end(self, share: float, requests: int, is_known: bool, data: st.DataObject) -> None:
        if not self.in_flight:
            return
        attempt = data.draw(st.sampled_from(sorted(self.in_flight)))
        ms = math.ceil(share * self.in_flight.pop(attempt) * 1000)
        gb_s = Fraction(ms, 1000) * Fraction(self.gb)
        self.bill_gb_s += gb_s
        self.bill_usd += gb_s * RATES.usd_per_gb_s + requests * RATES.usd_per_request
        ran_s = Fraction(ms, 1000) if is_known else None
        self.budget.settle(attempt, ran_s, requests=requests if is_known else None)

    @invariant()
    def the_bill_never_exceeds_a_cap(self) -> None:
        budget = self.budget
        assert self.bill_usd <= Fraction(str(budget.max_usd))
        assert budget.max_gb_s is None or self.bill_gb_s <= Fraction(budget.max_gb_s)
        assert budget.left_usd >= 0.0

    @invariant()
    def the_bill_never_exceeds_the_books(self) -> None:
        ticks = self.budget._ticks(self.budget._spent_ms, self.budget._spent_requests)
        assert self.bill_usd <= ticks * self.budget._usd_per_tick


TestCapLaws = CapLaws.TestCase


# ---- runs ----


async def test_a_run_ends_before_it_costs_more_and_says_so_in_dollars() -> None:
    service = FakeLambda(lambda _, run: with_report(run(), ms=5000), timeout_s=10)
    async with service.serving(), Executor(service.backend(concurrency=1)) as ex:
        with pytest.raises(BudgetExceededError) as caught:
            await ex.map(square, range(20), group=1, max_usd=0.0004, progress=False)
    error = caught.value
    assert error.max_gb_s is None
    assert error.max_usd == 0.0004
    assert error.spent_usd is not None
    assert error.worst_usd is not None
    assert error.spent_usd + error.worst_usd > 0.0004
    assert "may cost max_usd=0.0004" in str(error)
    assert "logs, objects and transfer are not counted: raise max_usd" in str(error)
    assert error.run is not None
    bill = error.run.bill
    assert 0 < len(error.run.outcomes) < 20
    of_time = [item for item in bill.items if item.cause.value in {"useful", "requests"}]
    assert float(sum(item.usd or 0 for item in of_time)) == pytest.approx(error.spent_usd)


async def test_it_holds_across_the_calls_of_a_run() -> None:
    service = FakeLambda(lambda _, run: with_report(run(), ms=5000), timeout_s=10)
    spent = []
    for _ in range(3):
        async with service.serving(), Executor(service.backend(concurrency=1)) as ex:
            with pytest.raises(BudgetExceededError) as caught:
                await ex.map(square, range(20), name="capped", group=1, max_usd=0.0004)
        spent.append(caught.value.spent_usd or 0.0)
    assert spent[0] == spent[1] == spent[2] <= 0.0004
    assert len(service.invocations) == spent[0] // (2.5 * 0.0000166667)


@pytest.mark.parametrize("value", [0, -1.0, math.inf, math.nan, "2", True])
async def test_a_cap_that_is_none_is_refused(value: Any) -> None:
    service = FakeLambda()
    async with service.serving(), Executor(service.backend()) as ex:
        with pytest.raises(UsageError, match="max_usd="):
            await ex.map(square, [1], max_usd=value)


async def test_a_cap_needs_prices() -> None:
    service = FakeLambda()
    async with service.serving(), Executor(service.backend(region="me-south-1")) as ex:
        with pytest.raises(UsageError, match=r"no price book for region me-south-1.*refresh"):
            await ex.map(square, [1], max_usd=1.0)


async def test_on_this_machine_there_is_nothing_to_cap() -> None:
    with pytest.raises(UsageError, match=r"max_usd=1\.0 is for Lambda: .* costs nothing"):
        await fanout.map(abs, [1], max_usd=1.0)
