"""Outcomes of an earlier run that have to be read first: what a run does meanwhile."""

from __future__ import annotations

from fanout.causes import Cause
from fanout.diagnosis import Diagnosis
from fanout.events import (
    Deliver,
    Finish,
    InputEnded,
    Offered,
    Recalled,
    RunStarted,
)
from fanout.tasks import Outcome
from tests.scheduler_checks import Bench, launched


def test_others_are_sent_while_it_is_read_and_the_run_waits_for_it() -> None:
    bench = Bench(limit=4)
    assert launched(bench.feed(Offered(0, 4, later=[0, 2]))) == [[1], [3]]
    bench.feed(InputEnded())
    bench.answer(0)
    bench.answer(1)
    assert not bench.scheduler.is_finished
    outcome = Outcome(2, "read")
    assert bench.feed(Recalled([outcome])) == [Deliver([outcome])]
    actions = bench.feed(Recalled([Outcome(0, "read")]))
    assert isinstance(actions[-1], Finish)


def test_what_can_not_be_read_is_sent_like_the_others() -> None:
    bench = Bench(limit=1)
    bench.feed(Offered(0, 2, later=[0, 1]))
    bench.feed(InputEnded())
    assert launched(bench.feed(Recalled([], [1]))) == [[1]]
    bench.answer(0)
    assert launched(bench.feed(Recalled([], [0]))) == [[0]]
    assert isinstance(bench.answer(1)[-1], Finish)


def test_in_order_nothing_overtakes_what_is_read() -> None:
    bench = Bench(limit=4, is_ordered=True)
    bench.feed(Offered(0, 2, later=[0]))
    bench.feed(InputEnded())
    assert bench.answer(0) == []
    first = Outcome(0, "read")
    (delivered, finish) = bench.feed(Recalled([first]))
    assert isinstance(delivered, Deliver)
    assert [outcome.index for outcome in delivered.outcomes] == [0, 1]
    assert isinstance(finish, Finish)


def test_what_is_read_after_the_end_is_of_no_interest() -> None:
    bench = Bench(stops_on_failure=True)
    bench.feed(Offered(0, 2, later=[0]))
    bench.answer(0, Outcome(1, error=ValueError(1)))
    assert bench.scheduler.is_finished
    assert bench.feed(Recalled([Outcome(0, "read")])) == []


def test_a_slow_store_is_no_stall_of_the_backend() -> None:
    """Nothing waits for room there, and the input has given what it has."""
    begun = RunStarted(run="r", kernel="k", backend="b", concurrency=2, total=None)
    diagnosis = Diagnosis()
    for event in (begun, Offered(0, 3, later=[0, 1, 2])):
        diagnosis.take(event, 0.0)
    assert diagnosis.diagnose(100.0) == []
    diagnosis.take(Recalled([], [1]), 100.0)
    (finding,) = diagnosis.diagnose(100.0)
    assert (finding.cause, finding.count) == (Cause.NO_ROOM, 1)
