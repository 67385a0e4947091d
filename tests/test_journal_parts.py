"""The parts of a journal, each alone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fanout.budget import Billed
from fanout.events import AttemptAnswered, Launch, RunStarted
from fanout.journal import About, Limits
from fanout.journal.large_results import LargeResults
from fanout.journal.room import Room
from fanout.journal.spending import Spending
from fanout.journal.values import copied, plain, told
from fanout.kernel_spec import prepare
from fanout.retry import FailureKind
from fanout.stores import DirectoryStore
from fanout.tasks import Outcome
from tests.scheduler_checks import report_of

if TYPE_CHECKING:
    from pathlib import Path

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


# ---- room for what is read ----


def outcomes(*tasks: int) -> list[Outcome[Any]]:
    return [Outcome(task) for task in tasks]


def test_room_is_free_again_when_a_map_has_the_result() -> None:
    room = Room(100)
    room.enter(7, 60)
    room.enter(8, 40)
    assert not room.admits(1)
    room.delivered(outcomes(1, 7, 2))
    assert (room.held_bytes, room.admits(60), room.admits(61)) == (40, True, False)
    room.drop(8)
    assert room.held_bytes == 0


def test_room_is_free_again_when_the_caller_of_a_stream_has_taken_the_result() -> None:
    room = Room(100)
    room.is_consumed = True
    room.delivered(outcomes(0, 1))
    room.enter(7, 60)
    room.enter(9, 40)
    room.delivered(outcomes(2, 7))
    room.delivered(outcomes(3, 9))
    for count, held_bytes in ((2, 100), (1, 100), (1, 40), (1, 40), (1, 0)):
        room.taken(count)
        assert room.held_bytes == held_bytes


def test_one_that_is_larger_than_all_the_room_gets_in_alone() -> None:
    room = Room(100)
    assert room.admits(1000)
    room.enter(7, 1)
    assert not room.admits(1000)


# ---- results on their way to a store ----


def identity(chunk: Any) -> Any:
    return chunk


def answer(attempt: int, *tasks: int) -> AttemptAnswered:
    found = [Outcome(task, np.full(1000, float(task))) for task in tasks]
    return AttemptAnswered(attempt, found, report_of(attempt, total_s=1.0, payload_bytes=10_000))


def large(folder: Path, limits: Limits) -> LargeResults:
    spec = prepare(identity, is_safe=False)
    about = About(run="r", name="s", spec=spec, backend="none", total=None)
    return LargeResults(folder / "r.db", "r", DirectoryStore(folder / "store"), limits, about)


def started(*, is_consumed: bool) -> RunStarted:
    return RunStarted(
        run="r", kernel="k", backend="b", concurrency=1, total=None, is_consumed=is_consumed
    )


async def test_room_that_an_attempt_does_not_need_is_given_back(tmp_path: Path) -> None:
    results = large(tmp_path, Limits(value_bytes=4000, waiting_bytes=20_000))
    await results.prepare(answer(1, 1, 2, 3))
    first = results.prepared(1)
    assert [one.parts is None for one in first.values()] == [False, False, True]
    results.release(first.values())
    results.release(first.values())
    # One that is given up while it is seen to.
    task = asyncio.ensure_future(results.prepare(answer(2, 1, 2)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await results.prepare(answer(3, 4, 5))
    kept = results.prepared(3)
    assert all(one.reserved_bytes for one in kept.values())
    names: list[Any] = []
    for one in kept.values():
        results.keep(one, names.append)
    results.release(kept.values())  # as the journal does with whatever there is
    await results.prepare(answer(4, 6))
    assert results.prepared(4)[6].parts is None
    await results.aclose(None, is_cut_short=False)
    assert len(names) == 2


@pytest.mark.parametrize("is_consumed", [False, True])
async def test_only_results_of_a_stream_are_copied(tmp_path: Path, is_consumed: bool) -> None:
    """The caller of a map has them when all is stored."""
    results = large(tmp_path, Limits(value_bytes=4000))
    results(started(is_consumed=is_consumed))
    event = answer(1, 1)
    await results.prepare(event)
    (one,) = results.prepared(1).values()
    value = event.outcomes[0].value
    assert value is not None
    content = b"".join(one.parts or [])
    value[:] = 0.0
    assert (b"".join(one.parts or []) == content) is is_consumed


def test_a_copy_has_all_parts_in_order() -> None:
    (memory,) = copied([b"ab", memoryview(b""), np.arange(3.0).data, b"c"])
    assert bytes(memory) == b"ab" + np.arange(3.0).tobytes() + b"c"
