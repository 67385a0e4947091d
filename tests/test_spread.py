"""How values are spread: quantiles, against the estimate of Kaplan and Meier by its definition."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
from hypothesis import given

from fanout.spread import Spread, bin_of


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
def test_a_value_lies_at_most_two_per_cent_below_the_edge_of_its_bin(value: float) -> None:
    spread = Spread()
    spread.add(value)
    (edge,) = spread.quantiles((), (0.5,))
    assert value * (1 - 1e-9) <= edge <= value * 1.02 * (1 + 1e-9)
