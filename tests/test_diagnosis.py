"""Why a run stalls: each cause is told when it is the cause, and none while all goes well."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from fanout.backends import AttemptError
from fanout.causes import Cause
from fanout.diagnosis import Diagnosis, Finding
from fanout.errors import BackendError
from fanout.events import (
    AttemptAnswered,
    AttemptFailed,
    AttemptStarted,
    Cancelled,
    Consumed,
    Deliver,
    Finish,
    Ignore,
    InputEnded,
    Launch,
    Offered,
    Retry,
    RunStarted,
)
from fanout.retry import Failure, FailureKind, RetryPolicy
from fanout.tally import Tally
from fanout.tasks import Outcome
from tests import virtual_time
from tests.fakes import FakeBackend, Fate, opened, square
from tests.scheduler_checks import report_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fanout.events import RunEvent

BEGAN_S = 1000.0  # by the clock: a run does not begin at 0


def begun(**options: Any) -> RunStarted:
    options = {"concurrency": 4, "total": None, **options}
    return RunStarted(run="r", kernel="k", backend="b", **options)


def watched(*events: RunEvent | float, start: RunStarted | None = None) -> Diagnosis:
    """Events, with the time in seconds since the run's start at which those behind it happen."""
    made = Diagnosis()
    now_s = BEGAN_S
    made.take(start or begun(), now_s)
    for event in events:
        if isinstance(event, int | float):
            now_s = BEGAN_S + event
        else:
            made.take(event, now_s)
    return made


def at(made: Diagnosis, when_s: float) -> list[Finding]:
    return made.diagnose(BEGAN_S + when_s)


def only(made: Diagnosis, when_s: float) -> Finding:
    (finding,) = at(made, when_s)
    return finding


def answered(attempt: int, *tasks: int, ran_s: float = 1.0) -> list[RunEvent]:
    outcomes: list[Outcome[Any]] = [Outcome(task) for task in tasks]
    report = report_of(attempt, total_s=ran_s)
    return [AttemptAnswered(attempt, outcomes, report), Deliver(outcomes)]


def sent(attempt: int, *tasks: int) -> list[RunEvent]:
    return [Launch(attempt, tasks), AttemptStarted(attempt)]


def refused(failure: Failure, *, tasks: int = 8) -> list[RunEvent | float]:
    """All that is sent is refused, from 1 s on and once more at 9 s."""
    events: list[RunEvent | float] = [Offered(0, tasks), InputEnded()]
    for attempt, when_s in enumerate((1.0, 9.0)):
        events += [when_s, *sent(attempt, 0, 1), AttemptFailed(attempt, failure)]
        events += [Retry((0, 1), failure, 5.0)]
    return events


# ---- whether it stalls ----


def test_a_run_that_answers_in_time_has_no_findings() -> None:
    made = watched(Offered(0, 3), *sent(0, 0), 5.0, *answered(0, 0), *sent(1, 1), 14.0)
    assert at(made, 14.0) == []
    assert at(made, 15.1) != []


def test_long_attempts_explain_long_pauses() -> None:
    made = watched(Offered(0, 3), *sent(0, 0), 40.0, *answered(0, 0, ran_s=39.0), *sent(1, 1))
    assert at(made, 40.0 + 3 * 39.0) == []
    assert at(made, 40.0 + 3 * 39.0 + 0.1) != []


def test_the_first_answer_tells_whether_the_wait_for_it_was_one() -> None:
    """A cold start of 40 s is a finding, a task of 40 s is none."""
    for ran_s, causes in ((1.0, [Cause.NO_ANSWER]), (39.0, [])):
        made = watched(Offered(0, 1), *sent(0, 0), 40.0, *answered(0, 0, ran_s=ran_s))
        assert [finding.cause for finding in made.story(BEGAN_S + 41.0)] == causes


def test_nothing_is_found_when_all_is_done_or_over() -> None:
    done = watched(Offered(0, 1), InputEnded(), *sent(0, 0), 1.0, *answered(0, 0))
    over = watched(Offered(0, 1), *sent(0, 0), 1.0, Cancelled(), Ignore(0), Finish())
    assert at(done, 100.0) == at(over, 100.0) == []


# ---- each cause ----


@pytest.mark.parametrize(
    ("reason", "what", "remedy"),
    [
        ("ConcurrentInvocationLimitExceeded", "the account's concurrency", "higher quota"),
        ("ReservedFunctionConcurrentInvocationLimitExceeded", "reserved", "reserve more"),
        ("FunctionInvocationRateLimitExceeded", "a second", "rate="),
        ("ReservedFunctionInvocationRateLimitExceeded", "ten times", "larger groups"),
        ("CallerRateLimitExceeded", "this caller", "rate="),
        ("ConcurrentSnapshotCreateLimitExceeded", "snapshots", "by itself"),
        ("SomethingNew", "takes no more", "by itself"),
        (None, "takes no more", "by itself"),
    ],
)
def test_throttled_and_why(reason: str | None, what: str, remedy: str) -> None:
    finding = only(watched(*refused(Failure(kind=FailureKind.THROTTLED, reason=reason))), 20.0)
    assert finding.cause is Cause.THROTTLED
    assert (finding.count, finding.since_s, finding.for_s) == (2, 1.0, 19.0)
    assert what in finding.what
    assert "8 tasks waiting" in finding.what
    assert remedy in finding.remedy


@pytest.mark.parametrize(
    ("kind", "reason", "what", "remedy"),
    [
        (FailureKind.DID_NOT_RUN, "ExpiredTokenException", "have expired", "aws sso login"),
        (FailureKind.REFUSED, "AccessDeniedException", "AWS denies", "lambda:InvokeFunction"),
        (FailureKind.DID_NOT_RUN, "NoCredentials", "no AWS credentials", "aws configure"),
    ],
)
def test_credentials(kind: FailureKind, reason: str, what: str, remedy: str) -> None:
    finding = only(watched(*refused(Failure(kind=kind, reason=reason))), 20.0)
    assert finding.cause is Cause.CREDENTIALS
    assert what in finding.what
    assert remedy in finding.remedy


@pytest.mark.parametrize(
    ("reason", "cause", "what", "remedy"),
    [
        ("gaierror", Cause.NO_NAME, "can't be resolved", "DNS"),
        ("ConnectionRefusedError", Cause.NOT_REACHED, "refuses connections", "AWS_ENDPOINT_URL"),
        ("TimeoutError", Cause.NOT_REACHED, "takes no connection", "firewall"),
        (None, Cause.NOT_REACHED, "can't be reached", "network"),
    ],
)
def test_no_connection_and_why(reason: str | None, cause: Cause, what: str, remedy: str) -> None:
    failure = Failure(kind=FailureKind.UNREACHABLE, reason=reason, detail="no way to example.org")
    finding = only(watched(*refused(failure)), 20.0)
    assert finding.cause is cause
    assert what in finding.what
    assert "no way to example.org" in finding.what
    assert remedy in finding.remedy


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        (FailureKind.CRASHED, "one chunk"),
        (FailureKind.OUT_OF_MEMORY, "more memory"),
        (FailureKind.TIMED_OUT, "timeout longer"),
        (FailureKind.MAYBE_RAN, "network"),
        (FailureKind.DID_NOT_RUN, "can't start"),
    ],
)
def test_all_that_fails_is_tried_again(kind: FailureKind, remedy: str) -> None:
    finding = only(watched(*refused(Failure(kind=kind, detail="so it is\nand more"))), 20.0)
    assert finding.cause is Cause.FAILING
    assert f"{kind.value}: so it is (8 tasks waiting, failed 2 times)" in finding.what
    assert remedy in finding.remedy


def test_what_kernels_raise_and_is_tried_again_is_told() -> None:
    failure = Failure(kind=FailureKind.KERNEL_RAISED, error=ConnectionError("database down"))
    bad: list[Outcome[Any]] = [Outcome(task, error=ConnectionError()) for task in (0, 1)]
    answer = AttemptAnswered(0, bad, report_of(0, total_s=1.0))
    events = [*sent(0, 0, 1), 1.0, answer, Retry((0, 1), failure, 9.0)]
    finding = only(watched(Offered(0, 2), InputEnded(), *events), 20.0)
    assert finding.cause is Cause.FAILING
    assert finding.count == 2
    assert "database down" in finding.what
    assert "RetryPolicy" in finding.remedy


def test_failures_that_were_overcome_are_no_cause_any_more() -> None:
    throttled = Failure(kind=FailureKind.THROTTLED)
    events = [*refused(throttled, tasks=2), 10.0, *sent(2, 0, 1)]
    causes = [finding.cause for finding in at(watched(*events), 45.0)]
    assert causes == [Cause.NO_ANSWER], "all is in flight, and nothing was refused for 30 s"


def test_attempts_that_no_worker_has_taken() -> None:
    made = watched(Offered(0, 2), InputEnded(), 1.0, Launch(0, [0]), 3.0, Launch(1, [1]))
    finding = only(made, 15.0)
    assert (finding.cause, finding.count) == (Cause.NOT_STARTED, 2)
    assert (finding.since_s, finding.for_s) == (1.0, 14.0)


def test_attempts_of_which_none_has_answered_yet() -> None:
    made = watched(Offered(0, 2), InputEnded(), 1.0, *sent(0, 0), 3.0, *sent(1, 1))
    finding = only(made, 15.0)
    assert (finding.cause, finding.count, finding.since_s) == (Cause.NO_ANSWER, 2, 1.0)
    assert "14 s ago" in finding.what
    assert "image" in finding.remedy


def test_attempts_that_take_longer_than_others_did() -> None:
    events: list[RunEvent | float] = [Offered(0, 103), InputEnded(), *sent(500, 100)]
    for attempt in range(100):
        events += [attempt / 100, *sent(attempt, attempt), attempt / 100 + 2.0]
        events += answered(attempt, attempt, ran_s=2.0)
    finding = only(watched(*events, 3.5, *sent(501, 101), *sent(502, 102)), 20.0)
    assert (finding.cause, finding.count, finding.since_s) == (Cause.SLOW, 3, 0.0)
    assert "number" in finding.what
    assert "500 for 20 s, 501 for 16 s, 502 for 16 s" in finding.what
    assert "timeout_s=" in finding.remedy


def test_an_input_that_gives_no_more() -> None:
    finding = only(watched(Offered(0, 1), *sent(0, 0), 2.0, *answered(0, 0)), 20.0)
    assert (finding.cause, finding.since_s) == (Cause.INPUT, 2.0)
    assert "no more chunks" in finding.what


def test_a_stream_whose_outcomes_nobody_takes() -> None:
    stream = begun(is_consumed=True)
    events = [Offered(0, 2), *sent(0, 0, 1), 2.0, *answered(0, 0, 1)]
    finding = only(watched(*events, start=stream), 20.0)
    assert (finding.cause, finding.count) == (Cause.CONSUMER, 2)
    assert only(watched(*events, 3.0, Consumed(2), start=stream), 20.0).cause is Cause.INPUT
    ended = [*events, InputEnded()]
    assert only(watched(*ended, start=stream), 20.0).cause is Cause.CONSUMER


def test_a_budget_that_waits_for_what_is_in_flight() -> None:
    begin = begun(max_gb_s=5.0)
    events = [Offered(0, 9), InputEnded(), *sent(0, 0), 1.0, *answered(0, 0), *sent(1, 1)]
    slow, budget = at(watched(*events, start=begin), 20.0)
    assert slow.cause is Cause.SLOW
    assert (budget.cause, budget.count) == (Cause.BUDGET, 7)
    assert "5 GB-seconds" in budget.what
    without = at(watched(*events), 20.0)
    assert [finding.cause for finding in without] == [Cause.SLOW, Cause.NO_ROOM]


# ---- what is left of it at the end ----


def test_the_story_has_each_cause_at_its_longest() -> None:
    made = watched(
        *refused(Failure(kind=FailureKind.THROTTLED), tasks=3),
        *(30.0, *sent(2, 0), 31.0, *answered(2, 0)),
        *(31.0, *sent(3, 1), 33.0, AttemptFailed(3, Failure(kind=FailureKind.THROTTLED))),
        *(50.0, *sent(4, 1, 2), 51.0, *answered(4, 1, 2)),
    )
    (finding,) = made.story(BEGAN_S + 60.0)
    assert (finding.cause, finding.since_s, finding.for_s) == (Cause.THROTTLED, 1.0, 30.0)


def test_a_run_that_had_to_end_tells_what_failed() -> None:
    failure = Failure(kind=FailureKind.CRASHED, detail="was killed")
    events = [Offered(0, 1), *sent(0, 0), 1.0, AttemptFailed(0, failure), Finish(failure)]
    (finding,) = watched(*events).story(BEGAN_S + 2.0)
    assert finding.cause is Cause.FAILING


# ---- of real runs ----


class Refusing(FakeBackend):
    """Refuses what comes before `until_s`."""

    def __init__(self, failure: Failure, until_s: float) -> None:
        super().__init__(4)
        self._failure = failure
        self._until_s = until_s

    async def invoke(self, request: Any, started: Any) -> Any:
        if virtual_time.now_s() < self._until_s:
            started()
            raise AttemptError(self._failure)
        return await super().invoke(request, started)


SOON = RetryPolicy(base_s=0.5, cap_s=2.0)


def test_a_run_keeps_what_held_it_up() -> None:
    async def main() -> None:
        throttled = Failure(kind=FailureKind.THROTTLED, reason="ConcurrentInvocationLimitExceeded")
        async with opened(Refusing(throttled, 60.0)) as ex:
            run = await ex.run(square, range(8), retry=SOON)
            (finding,) = run.diagnosis
            assert finding.cause is Cause.THROTTLED
            assert 50.0 < finding.for_s < 65.0
            assert "concurrency is used up" in str(finding)
            assert (await ex.run(square, range(8))).diagnosis == [], "it went well"

    virtual_time.run(main())


def test_a_run_that_is_given_up_shows_why_all_the_time() -> None:
    tally = Tally()

    async def main() -> None:
        down = Failure(
            kind=FailureKind.UNREACHABLE, reason="ConnectionRefusedError", detail="no connection"
        )
        shown: set[Cause] = set()

        def watch(event: RunEvent) -> None:
            tally.take(event, virtual_time.now_s())
            shown.update(finding.cause for finding in tally.view(virtual_time.now_s()).findings)

        async with opened(Refusing(down, 1e9)) as ex:
            with pytest.raises(BackendError, match="unreachable"):
                await ex.run(square, range(8), retry=SOON, on_event=watch)
        assert shown == {Cause.NOT_REACHED}

    virtual_time.run(main())


def test_a_generator_that_waits_is_told() -> None:
    async def slowly() -> AsyncIterator[int]:
        yield 1
        await asyncio.sleep(100.0)
        yield 2

    async def main() -> None:
        async with opened(FakeBackend(2)) as ex:
            (finding,) = (await ex.run(square, slowly())).diagnosis
            assert finding.cause is Cause.INPUT
            assert finding.for_s == pytest.approx(99.0)

    virtual_time.run(main())


def test_a_task_that_hangs_is_told() -> None:
    async def main() -> None:
        long = Fate(task_s=200.0)
        plan = lambda _number, chunks: long if 7 in chunks else Fate()  # noqa: E731
        async with opened(FakeBackend(2, plan=plan)) as ex:
            (finding,) = (await ex.run(square, range(8), group=1)).diagnosis
            assert (finding.cause, finding.count) == (Cause.SLOW, 1)

    virtual_time.run(main())
