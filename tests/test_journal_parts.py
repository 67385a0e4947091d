"""The pure parts of a journal, each alone."""

from __future__ import annotations

import pytest

from fanout.budget import Billed
from fanout.events import Launch
from fanout.journal.spending import Spending
from fanout.journal.values import plain, told
from fanout.retry import FailureKind

BILLED = Billed(gb=2.0, timeout_s=60.0)
ALL_COLUMNS = 14


def launched(number: int, now_s: float, billed: Billed | None = BILLED) -> Spending:
    spending = Spending(3, billed)
    spending.launched(Launch(number, [4, 5]), now_s)
    return spending


def test_an_attempt_in_flight_is_reserved_at_its_worst() -> None:
    spending = launched(7, 1.0)
    spent_gb_s, reserved_gb_s = spending.told_gb_s
    assert spent_gb_s == 0.0
    assert reserved_gb_s == 2.0 * BILLED.worst_s(None)


def test_one_that_answered_cost_what_it_took_here() -> None:
    spending = launched(7, 1.0)
    row = spending.ended(7, 4.0, [2, *[None] * 6])
    assert row == (3, 7, 2, None, 1.0, None, 4.0, 2, *[None] * 6)
    assert spending.told_gb_s == (6.0, 0.0)
    assert spending.ended(7, 5.0, [2, *[None] * 6]) is None
    assert spending.told_gb_s == (6.0, 0.0)


@pytest.mark.parametrize(
    ("kind", "spent_gb_s"),
    [
        (FailureKind.DID_NOT_RUN, 0.0),
        (FailureKind.CRASHED, 6.0),
        (FailureKind.MAYBE_RAN, 2.0 * BILLED.worst_s(None)),
    ],
)
def test_one_that_is_lost_may_run_on_and_one_that_never_ran_is_free(
    kind: FailureKind, spent_gb_s: float
) -> None:
    spending = launched(7, 1.0)
    spending.ended(7, 4.0, [0, *[None] * 6], kind=kind)
    assert spending.told_gb_s == (spent_gb_s, 0.0)


def test_those_that_have_not_ended_are_rows_too() -> None:
    spending = launched(7, 1.0)
    spending.started(7, 2.0)
    spending.started(7, 3.0)  # a second worker has it: the first counts
    spending.launched(Launch(8, [9], covers=7), 3.0)
    first, second = spending.rows()
    assert first[:6] == (3, 7, 2, None, 1.0, 2.0)
    assert second[:6] == (3, 8, 1, 7, 3.0, None)
    assert len(first) == len(second) == ALL_COLUMNS


def test_what_costs_nothing_has_rows_and_no_price() -> None:
    spending = launched(7, 1.0, None)
    assert not spending.is_billed
    assert spending.told_gb_s == (0.0, 0.0)
    assert spending.ended(7, 4.0, [2, *[None] * 6]) is not None


def test_texts_and_errors_are_such_that_a_file_can_hold_them() -> None:
    class OddError(Exception):
        def __str__(self) -> str:
            raise ZeroDivisionError

    assert plain("a\udc80") == "a\\udc80"
    assert told(ValueError("a\udc80")) == "ValueError: a\\udc80"
    assert told(OddError()) == "OddError"
