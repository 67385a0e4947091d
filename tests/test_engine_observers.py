"""What observers of a run are told, and what their own errors do.

The production path of asyncio, in virtual time.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import Any

import pytest

from fanout.errors import (
    BackendError,
)
from fanout.events import (
    AttemptAnswered,
    AttemptStarted,
    Cancelled,
    Deliver,
    Finish,
    Ignore,
    InputEnded,
    Launch,
    Offered,
    Retry,
    RunEnded,
    RunEvent,
    RunStarted,
)
from tests import virtual_time
from tests.fakes import (
    PATIENT,
    End,
    FakeBackend,
    Fate,
    OwnError,
    always,
    chance,
    hang_on,
    numbers_then,
    opened,
    picky,
    square,
)


def observed(
    backend: FakeBackend, kernel: Any = square, chunks: Any = range(50), **options: Any
) -> list[RunEvent]:
    """All that an observer sees of a run, and of its end."""
    story: list[RunEvent] = []

    async def main() -> None:
        async with opened(backend) as ex:
            with contextlib.suppress(Exception):
                await ex.map(kernel, chunks, on_event=story.append, **options)

    virtual_time.run(main())
    return story


@pytest.mark.parametrize("seed", range(5))
def test_an_observer_sees_all_of_a_run_in_order(seed: int) -> None:
    plan = chance(seed, crash=0.1, did_not_run=0.1, hang=0.03)
    story = observed(FakeBackend(3, plan=plan, queue=2), timeout_s=50.0, retry=PATIENT)
    started = story[0]
    assert isinstance(started, RunStarted)
    assert (started.kernel, started.total, started.concurrency) == ("square", 50, 3)
    assert isinstance(story[-1], RunEnded)
    assert isinstance(story[-2], Finish)
    delivered = Counter(o.index for e in story if isinstance(e, Deliver) for o in e.outcomes)
    assert delivered == Counter(range(50))
    where: dict[type, dict[int, int]] = {Launch: {}, AttemptStarted: {}, AttemptAnswered: {}}
    for place, event in enumerate(story):
        if isinstance(event, Launch | AttemptStarted | AttemptAnswered):
            assert event.attempt not in where[type(event)], "told twice"
            where[type(event)][event.attempt] = place
    for attempt, answered in where[AttemptAnswered].items():
        assert where[Launch][attempt] < where[AttemptStarted][attempt] < answered
    assert sum(isinstance(e, RunStarted | RunEnded | Finish | InputEnded) for e in story) == 4


def test_an_event_is_told_before_the_actions_it_leads_to() -> None:
    story = observed(FakeBackend(1), chunks=[7], group=1)
    assert [type(event) for event in story] == [
        RunStarted,
        Offered,
        Launch,
        InputEnded,
        AttemptStarted,
        AttemptAnswered,
        Deliver,
        Finish,
        RunEnded,
    ]


def test_observers_see_how_a_run_was_cut_short() -> None:
    error = OwnError("the file ends here")
    story = observed(FakeBackend(2), chunks=numbers_then(5, error))
    assert [type(event) for event in story] == [RunStarted, Cancelled, Finish, RunEnded]
    assert story[-1] == RunEnded(error)


def test_observers_see_retries_and_attempts_that_are_ignored() -> None:
    story = observed(FakeBackend(2, plan=hang_on(1)), chunks=range(2), timeout_s=5.0, group=2)
    assert [e.attempt for e in story if isinstance(e, Ignore)] == [0, 2]
    assert [[*e.tasks] for e in story if isinstance(e, Retry)] == [[0, 1]]


def test_the_end_tells_the_error_that_the_caller_sees() -> None:
    story = observed(FakeBackend(2, plan=always(Fate(end=End.FATAL))))
    (ended,) = [event for event in story if isinstance(event, RunEnded)]
    assert isinstance(ended.error, BackendError)


def test_the_end_tells_the_error_of_the_task_that_ended_the_run() -> None:
    story = observed(FakeBackend(2), kernel=picky)
    ended = story[-1]
    assert isinstance(ended, RunEnded)
    assert isinstance(ended.error, ValueError)


class _Fussy:
    """An observer that raises at one kind of event."""

    def __init__(self, at: type, error: Exception) -> None:
        self.at = at
        self.error = error

    def __call__(self, event: RunEvent) -> None:
        if isinstance(event, self.at):
            raise self.error


@pytest.mark.parametrize(
    "at", [RunStarted, Offered, Launch, AttemptStarted, AttemptAnswered, Deliver, Finish, RunEnded]
)
def test_an_observer_that_raises_ends_the_run_with_that_error(at: type) -> None:
    async def main() -> None:
        backend = FakeBackend(2)
        error = OwnError("the observer's")
        async with opened(backend) as ex:
            with pytest.raises(OwnError) as caught:
                await ex.map(square, range(100), on_event=_Fussy(at, error))
        assert caught.value is error

    virtual_time.run(main())


@pytest.mark.parametrize("at", [RunStarted, Launch, RunEnded])
def test_other_observers_see_the_end_even_so(at: type) -> None:
    """A display must close."""
    from fanout.engine import Engine
    from fanout.grouping import Grouping, GroupPolicy
    from fanout.kernel_spec import prepare
    from fanout.request import Request
    from fanout.scheduler import Scheduler

    async def main() -> None:
        import random

        backend = FakeBackend(1)
        await backend.start()
        before: list[RunEvent] = []
        after: list[RunEvent] = []
        engine = Engine(
            run="r",
            scheduler=Scheduler(limit=1, grouping=Grouping(GroupPolicy()), rng=random.Random(0)),
            backend=backend,
            request=Request(kernel=prepare(square)),
            chunks=[1, 2],
            deliver=lambda _: None,
            observers=[before.append, _Fussy(at, OwnError()), after.append],
        )
        with pytest.raises(OwnError):
            async with engine:
                await engine.finished()
        assert isinstance(before[-1], RunEnded)
        assert isinstance(after[-1], RunEnded)
        if at is not RunEnded:
            assert isinstance(before[-1].error, OwnError)

    virtual_time.run(main())
