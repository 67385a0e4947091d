"""`fanout.Lambda`, from the executor to the bytes on the wire."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import fanout
from fanout import Lambda, RetryPolicy
from fanout.causes import Cause
from fanout.diagnosis import Diagnosis
from fanout.emulator import Emulator, Faults
from fanout.emulator.http_messages import Response
from fanout.errors import (
    BackendError,
    ChunkError,
    KernelLoadError,
    OutOfMemoryError,
    ProtocolError,
    ResultError,
    TaskLostError,
    TaskTimeoutError,
    UsageError,
    WorkerCrashedError,
)
from fanout.events import AttemptFailed, AttemptStarted, Launch, Retry
from fanout.retry import FailureKind
from tests.lambda_fake import FakeLambda, as_it_is, error, function_error, opened, warnings_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.events import RunEvent

HASTY = RetryPolicy(base_s=0.001, cap_s=0.01)


def square(x: int) -> int:
    return x * x


def once(answer: Response) -> Any:
    """The first invocation is answered so, and did not run."""
    return lambda number, run: answer if number == 0 else run()


def always(answer: Response) -> Any:
    return lambda _number, _run: answer


def inner(body: bytes) -> bytes:
    """The frame in a request."""
    return base64.b64decode(json.loads(body)["frame"])


# ---- a map ----


async def test_a_map_gives_what_a_loop_gives() -> None:
    async with opened() as (ex, _):
        assert await ex.map(square, range(200)) == [x * x for x in range(200)]


async def test_arrays_come_back_bit_by_bit() -> None:
    chunks = [np.random.default_rng(n).random(5000) for n in range(5)]
    async with opened() as (ex, _):
        results = await ex.map(np.sort, chunks)
    assert all((a == np.sort(b)).all() for a, b in zip(results, chunks, strict=True))


async def test_pickle_is_refused_on_both_sides_if_so_wished() -> None:
    async with opened() as (ex, service):
        with pytest.raises(ChunkError):
            await ex.map(repr, [object()], codec="safe")
        assert await ex.map(abs, [-1, -2], codec="safe") == [1, 2]
        assert all(b'"safe":true' in inner(body) for body in service.invocations)


async def test_there_are_never_more_connections_than_the_concurrency() -> None:
    async with opened() as (ex, service):
        service.unreserved = 3
        await ex.map(square, range(30), group=1)
    async with opened(concurrency=3) as (ex, service):
        await ex.map(square, range(30), group=1)
        # The two of the control plane are botocore's.
        assert service.open_connections <= 3 + 3


async def test_a_request_holds_no_credential() -> None:
    async with opened() as (ex, service):
        await ex.map(square, range(5))
        for body in service.invocations:
            assert b"AKIATEST" not in body + inner(body)
            assert b"not-so-secret" not in body + inner(body)
        assert "not-so-secret" not in repr(vars(ex.backend)) + repr(ex.backend)


async def test_version_or_alias_are_in_the_url() -> None:
    async with opened(qualifier="live") as (ex, service):
        await ex.map(square, [1])
        assert service.targets[-1] == "/2015-03-31/functions/f/invocations?Qualifier=live"
        assert "/2015-03-31/functions/f/configuration?Qualifier=live" in service.targets


@pytest.mark.parametrize(
    ("function", "qualifier"),
    [
        ("f:live", "live"),
        ("123456789012:function:f:7", "7"),
        ("arn:aws:lambda:us-east-1:123456789012:function:f:live", "live"),
        ("arn:aws:lambda:us-east-1:123456789012:function:f", None),
    ],
)
async def test_a_function_may_be_named_in_every_way_of_aws(
    function: str, qualifier: str | None
) -> None:
    async with opened(function=function) as (ex, service):
        assert await ex.map(square, [3]) == [9]
        assert ("Qualifier" in service.targets[-1]) == (qualifier is not None)


async def test_the_settings_choose_lambda(monkeypatch: pytest.MonkeyPatch) -> None:
    async with FakeLambda().serving() as service:
        monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
        for name, value in {
            "FANOUT_BACKEND": "lambda",
            "FANOUT_FUNCTION": "f",
            "AWS_ENDPOINT_URL_LAMBDA": service.url,
            "AWS_ACCESS_KEY_ID": "AKIAENV",
            "AWS_SECRET_ACCESS_KEY": "s",
            "AWS_REGION": "eu-west-3",
        }.items():
            monkeypatch.setenv(name, value)
        run = await fanout.run(square, range(3))
        assert run.results == [0, 1, 4]
        assert run.backend == "lambda, f in eu-west-3, 512 MB"
        assert set(service.keys) == {"AKIAENV"}


async def test_lambda_without_a_function_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FANOUT_BACKEND", "lambda")
    with pytest.raises(UsageError, match="set FANOUT_FUNCTION"):
        await fanout.map(square, [1])


# ---- what it asks beforehand ----


async def test_its_concurrency_is_what_the_account_has_left() -> None:
    async with opened() as (ex, _):
        assert ex.backend.concurrency == ex.backend.limit == 8


async def test_its_concurrency_is_what_the_function_has_reserved() -> None:
    async with FakeLambda().serving() as service:
        service.reserved = 5
        async with fanout.Executor(service.backend()) as ex:
            assert ex.backend.concurrency == 5
        async with fanout.Executor(service.backend(concurrency=2)) as ex:
            assert ex.backend.concurrency == 2
        async with fanout.Executor(service.backend(concurrency=50)) as ex:
            assert ex.backend.concurrency == 5


@pytest.mark.parametrize(
    ("path", "answer", "hint"),
    [
        ("configuration", error(404, "ResourceNotFoundException"), "check its name and the region"),
        ("configuration", error(403, "AccessDeniedException"), "lambda:GetFunctionConfiguration"),
        ("concurrency", error(403, "AccessDeniedException"), "lambda:GetFunctionConcurrency"),
        ("account-settings", error(403, "AccessDeniedException"), "lambda:GetAccountSettings"),
        ("configuration", error(500, "ServiceException"), "failed with ServiceException"),
        ("configuration", Response(200, b"{"), "answer as Lambda does"),
    ],
)
async def test_what_aws_refuses_beforehand_is_told_with_its_remedy(
    path: str, answer: Response, hint: str
) -> None:
    async with FakeLambda().serving() as service:
        service.refusals[path] = answer
        with pytest.raises(BackendError, match=hint):
            await fanout.map(square, [1], backend=service.backend())
        assert service.invocations == []


async def test_a_function_that_can_not_run_is_told_beforehand() -> None:
    async with FakeLambda().serving() as service:
        service.reserved = 0
        with pytest.raises(BackendError, match="reserved concurrency of 0"):
            await fanout.map(square, [1], backend=service.backend())
        service.reserved = None
        service.configuration |= {"State": "Failed", "StateReason": "no such image"}
        with pytest.raises(BackendError, match=r"state Failed \(no such image\): deploy it again"):
            await fanout.map(square, [1], backend=service.backend())


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ({"function": ""}, "name or the ARN"),
        ({"function": 7}, "name or the ARN"),
        ({"function": "f", "concurrency": 0}, "a whole number, 1 or more"),
        ({"function": "f", "concurrency": True}, "a whole number, 1 or more"),
        ({"function": "f:a", "qualifier": "b"}, "contradicts 'a'"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: Any, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        Lambda(**arguments)


# ---- sizes ----


async def test_a_chunk_above_the_limit_fails_alone_and_says_what_to_do() -> None:
    noise = np.random.default_rng(0).random(800_000)  # nothing can be made smaller of it
    chunks = [np.zeros(10), noise, np.zeros(20)]
    async with opened() as (ex, service):
        first, large, last = await ex.map(len, chunks, return_exceptions=True, group=3)
        assert (first, last) == (10, 20)
        assert isinstance(large, ChunkError)
        assert "8.5 MB encoded, and a request of Lambda holds 6.3 MB" in str(large)
        assert "make chunks smaller" in str(large)
        assert all(len(body) < 6_291_556 for body in service.invocations)


async def test_a_group_above_the_limit_is_sent_one_by_one() -> None:
    chunks = [np.full(200_000, n) for n in range(6)]
    async with opened() as (ex, _):
        assert await ex.map(np.max, chunks, group=6) == list(range(6))


async def test_a_result_above_the_limit_fails_alone_and_says_what_to_do() -> None:
    async with opened() as (ex, _):
        small, large = await ex.map(np.zeros, [10, 900_000], return_exceptions=True, group=2)
        assert isinstance(small, np.ndarray)
        assert len(small) == 10
        assert isinstance(large, ResultError)
        assert "return less" in str(large)


async def test_a_chunk_just_below_the_limit_arrives() -> None:
    async with opened() as (ex, _):
        assert await ex.map(len, [np.zeros(585_000)]) == [585_000]


# ---- how answers come ----


async def test_answers_come_as_bytes_once_the_first_one_did() -> None:
    async with opened() as (ex, service):
        await ex.map(square, range(50), group=1)
        accepts = [json.loads(body)["accepts"] for body in service.invocations]
    assert accepts[0] == "bytes"
    assert accepts[-1] == "bytes"


async def test_an_endpoint_that_alters_bytes_is_asked_for_json_from_then_on() -> None:
    def altered(_number: int, run: Callable[[], Response]) -> Response:
        answer = run()
        answer.body = answer.body.decode("utf-8", "replace").encode()
        return answer

    async with opened(altered) as (ex, service):
        results = await ex.map(np.arange, range(40), group=1)
        assert [len(result) for result in results] == list(range(40))
        accepts = [json.loads(body)["accepts"] for body in service.invocations]
        assert accepts.count("bytes") == 1, "one was lost in finding out"


# ---- failures ----


@pytest.mark.parametrize(
    "answer",
    [
        error(429, "TooManyRequestsException", Reason="CallerRateLimitExceeded"),
        error(429, "TooManyRequestsException", headers={"Retry-After": "0"}),
        error(502, "EC2ThrottledException"),
        error(500, "ServiceException"),
        error(503, "ServiceUnavailable"),
        error(403, "ExpiredTokenException"),
        Response(502, b"<html>bad gateway</html>"),
        Response(200, b"somebody else's words"),
        function_error("Runtime.ExitError", "Runtime exited with error: exit status 3"),
        function_error("Runtime.ExitError", "Runtime exited with error: signal: killed"),
    ],
    ids=lambda answer: f"{answer.status}-{answer.headers.get('x-amzn-ErrorType', '')}",
)
async def test_what_may_pass_is_tried_again(answer: Response) -> None:
    async with opened(once(answer)) as (ex, service):
        assert await ex.map(square, range(9), retry=HASTY) == [x * x for x in range(9)]
        assert len(service.invocations) >= 2


async def test_throttling_costs_a_task_none_of_its_attempts() -> None:
    def mostly(number: int, run: Callable[[], Response]) -> Response:
        return error(429, "TooManyRequestsException") if number % 3 else run()

    async with opened(mostly) as (ex, _):
        run = await ex.run(
            square, range(6), group=1, retry=RetryPolicy(max_attempts=1, base_s=0.001)
        )
        assert run.results == [x * x for x in range(6)]
        assert {outcome.attempts for outcome in run.outcomes} == {1}


@pytest.mark.parametrize(
    ("answer", "kind", "hint"),
    [
        (error(403, "AccessDeniedException"), BackendError, "lambda:InvokeFunction"),
        (error(404, "ResourceNotFoundException"), BackendError, "check its name and the region"),
        (error(403, "InvalidSignatureException"), BackendError, "clock is right"),
        (error(502, "KMSDisabledException"), BackendError, "KMS key"),
        (error(400, "RecursiveInvocationException"), BackendError, "inside its own function"),
        (function_error("ProtocolError", "the client speaks …"), ProtocolError, "speaks"),
        (function_error("Runtime.ImportModuleError", "No module"), BackendError, "deploy it again"),
        (function_error("KeyError", "'x'"), KernelLoadError, r"fanout\.handler\.handle"),
    ],
)
async def test_what_never_passes_ends_the_run_at_once(
    answer: Response, kind: type[Exception], hint: str
) -> None:
    async with opened(always(answer), concurrency=1) as (ex, service):
        with pytest.raises(kind, match=hint):
            await ex.map(square, range(50))
        assert len(service.invocations) == 1


@pytest.mark.parametrize(
    ("message", "kind", "hint"),
    [
        ("Runtime exited with error: exit status 3", WorkerCrashedError, "exit status 3"),
        ("Runtime exited with error: signal: killed", OutOfMemoryError, "with 512 MB"),
        ("Task timed out after 60.00 seconds", TaskTimeoutError, "after 60 s"),
    ],
)
async def test_what_ends_an_environment_each_time_is_the_tasks_failure(
    message: str, kind: type[Exception], hint: str
) -> None:
    plan = always(function_error("Runtime.ExitError", f"RequestId: 1 Error: {message}"))
    async with opened(plan) as (ex, _):
        with pytest.raises(kind, match=hint) as raised:
            await ex.map(square, [1], retry=HASTY)
        assert "task 0, chunk: 1" in raised.value.__notes__


async def test_a_task_whose_attempts_are_all_lost_is_given_up() -> None:
    async with opened(always(error(500, "ServiceException"))) as (ex, service):
        with pytest.raises(TaskLostError, match="may have run"):
            await ex.map(square, [1], retry=RetryPolicy(max_lost=3, base_s=0.001))
        assert len(service.invocations) == 3


async def test_a_service_that_is_away_for_a_while_costs_nothing_but_time() -> None:
    async with opened() as (ex, service):
        port = await service.go_away()
        refused: list[FailureKind] = []
        coming: list[asyncio.Task[None]] = []

        def watch(event: RunEvent) -> None:
            if isinstance(event, Retry):
                refused.append(event.failure.kind)
                if len(refused) == 3:
                    coming.append(asyncio.create_task(service.come_back(port)))

        run = await ex.run(square, range(9), retry=HASTY, on_event=watch)
        assert run.results == [x * x for x in range(9)]
        assert {outcome.attempts for outcome in run.outcomes} == {1}
        assert set(refused) == {FailureKind.UNREACHABLE}


async def causes_of(ex: fanout.Executor, *, refusals: int) -> list[Cause]:
    """What a run is diagnosed with after so many refusals, if nothing else comes for a minute."""
    diagnosis = Diagnosis()
    enough = asyncio.Event()
    seen = 0

    def watch(event: RunEvent) -> None:
        nonlocal seen
        diagnosis.take(event, asyncio.get_running_loop().time())
        seen += isinstance(event, AttemptFailed)
        if seen == refusals:
            enough.set()

    run = asyncio.create_task(ex.run(square, range(9), on_event=watch))
    waiting = asyncio.create_task(enough.wait())
    await asyncio.wait([run, waiting], return_when=asyncio.FIRST_COMPLETED)
    found = diagnosis.diagnose(asyncio.get_running_loop().time() + 60.0)
    for task in (run, waiting):
        task.cancel()
    await asyncio.wait([run, waiting])
    return [finding.cause for finding in found]


async def test_a_run_is_diagnosed_as_throttled_by_the_emulator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Emulator(faults=Faults(throttle=1.0, retry_after_s=0.0)) as emulator:
        for name, value in emulator.variables.items():
            monkeypatch.setenv(name, value)
        async with fanout.Executor() as ex:
            assert await causes_of(ex, refusals=2) == [Cause.THROTTLED]


async def test_a_run_is_diagnosed_as_not_reached_when_the_service_has_gone() -> None:
    async with opened() as (ex, service):
        await service.go_away()
        assert await causes_of(ex, refusals=2) == [Cause.NOT_REACHED]


async def test_a_run_that_is_denied_keeps_the_reason() -> None:
    failures: list[AttemptFailed] = []

    def watch(event: RunEvent) -> None:
        if isinstance(event, AttemptFailed):
            failures.append(event)

    async with opened(always(error(403, "AccessDeniedException"))) as (ex, _):
        with pytest.raises(BackendError):
            await ex.run(square, [1], on_event=watch)
    assert failures[0].failure.reason == "AccessDeniedException"


async def test_expired_credentials_are_asked_for_again() -> None:
    async with opened(once(error(403, "ExpiredTokenException"))) as (ex, _):
        asked = 0
        invoker = ex.backend._invoker  # type: ignore[attr-defined]
        found = invoker._found

        class Counting:
            async def get_frozen_credentials(self) -> Any:
                nonlocal asked
                asked += 1
                return await found.get_frozen_credentials()

        invoker._found = Counting()
        await ex.map(square, [1])
        assert asked == 2


# ---- the end ----


async def test_a_map_that_is_cancelled_says_what_runs_on(caplog: pytest.LogCaptureFixture) -> None:
    async with opened(lambda _number, _run: None) as (ex, service):
        task = asyncio.create_task(ex.map(square, range(30)))
        while len(service.hung) < 8:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        (warning,) = warnings_of(caplog)
        assert "8 attempts in flight" in warning
        assert "billed" in warning
        assert "60 s" in warning
        capacity = ex.backend.capacity
        assert capacity is not None
        assert (service.lost, capacity.in_flight) == (0, 8)
    while service.lost < 8:
        await asyncio.sleep(0.001)
    assert capacity.in_flight == 0
    assert len(warnings_of(caplog)) == 1


async def test_a_cover_whose_tasks_are_done_before_it_begins_is_not_sent() -> None:
    async with opened() as (ex, service):
        outcomes: list[Any] = []
        engine = ex._setup.engine(square, range(3), outcomes.extend, {})
        async with engine:
            await engine.finished()
            sent = len(service.invocations)
            engine._perform(Launch(99, [0, 1], covers=0))
            await asyncio.sleep(0.05)
            assert 99 not in engine._attempts
        assert len(service.invocations) == sent
        assert len(outcomes) == 3


async def test_what_was_not_sent_yet_at_the_end_of_a_map_is_not_sent_any_more() -> None:
    async with opened(lambda _number, _run: None) as (ex, service):
        async with ex.stream(square, range(30), group=1):
            await asyncio.sleep(0)  # attempts are launched, and none has begun
        await asyncio.sleep(0.1)
        assert len(service.invocations) == 0
        capacity = ex.backend.capacity
        assert capacity is not None
        assert capacity.in_flight == 0


async def test_what_runs_on_of_an_old_map_leaves_room_when_it_has_ended() -> None:
    """Or a map would be refused for what another one has started, and left alone."""
    async with opened(lambda number, run: run() if number else None) as (ex, service):
        capacity = ex.backend.capacity
        assert capacity is not None
        task = asyncio.create_task(ex.map(square, [1]))
        while not service.hung:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await ex.map(square, range(30)) == [n * n for n in range(30)]
        assert capacity.in_flight == 1
        service.hung[0].respond(error(500, "ServiceException"))
        while capacity.in_flight:
            await asyncio.sleep(0.001)


async def test_a_map_that_ends_by_itself_warns_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with opened() as (ex, _):
        await ex.map(square, range(30))
    assert warnings_of(caplog) == []


async def test_a_closed_backend_runs_nothing() -> None:
    async with FakeLambda().serving() as service:
        backend = service.backend()
        ex = fanout.Executor(backend)
        async with ex:
            pass
        with pytest.raises(UsageError, match="not open"):
            await ex.map(square, [1])
        async with ex:
            assert await ex.map(square, [2]) == [4]


async def test_observers_hear_of_each_attempt_that_it_started() -> None:
    events: list[Any] = []
    async with opened() as (ex, _):
        await ex.map(square, range(10), group=1, on_event=events.append)
    launched = {event.attempt for event in events if isinstance(event, Launch)}
    started = {event.attempt for event in events if isinstance(event, AttemptStarted)}
    assert launched == started
    assert len(launched) == 10


async def test_timeout_s_travels_to_the_worker() -> None:
    def hang(x: int) -> int:
        while x == 2:
            pass
        return x

    async with opened(as_it_is) as (ex, _):
        results = await ex.map(hang, range(4), timeout_s=0.1, return_exceptions=True)
    assert results[:2] + results[3:] == [0, 1, 3]
    assert isinstance(results[2], TaskTimeoutError)
    assert results[2].timeout_s == 0.1


async def test_an_endpoint_that_breaks_on_bytes_is_asked_for_json_from_then_on() -> None:
    """A stand-in that parses answers may fail altogether, and take the environment with it."""
    service: FakeLambda

    def breaks(number: int, run: Callable[[], Response]) -> Response:
        if json.loads(service.invocations[number])["accepts"] == "bytes":
            return function_error("Runtime.ExitError", "Runtime exited before returning a response")
        return run()

    async with opened(breaks) as (ex, service):
        once_only = RetryPolicy(max_attempts=1, base_s=0.001)
        run = await ex.run(square, range(40), group=1, retry=once_only)
        assert run.results == [x * x for x in range(40)]
        accepts = [json.loads(body)["accepts"] for body in service.invocations]
        assert accepts.count("bytes") == 1


# ---- several executors ----


async def test_maps_may_share_a_backend_and_the_last_one_closes_it() -> None:
    async with FakeLambda().serving() as service:
        backend = service.backend()
        long, short = await asyncio.gather(
            fanout.map(square, range(100), group=1, backend=backend),
            fanout.map(square, range(3), backend=backend),
        )
        assert (long[-1], short) == (99 * 99, [0, 1, 4])
        assert await fanout.map(square, [5], backend=backend) == [25]


async def test_executors_on_one_function_keep_within_its_limit_together() -> None:
    async with (
        FakeLambda(lambda _number, _run: None).serving() as service,
        fanout.Executor(service.backend()) as one,
        fanout.Executor(service.backend()) as two,
        fanout.Executor(service.backend(function="g")) as other,
    ):
        assert one.backend.capacity is two.backend.capacity is not None
        assert one.backend.capacity is not other.backend.capacity
        maps = [asyncio.create_task(ex.map(square, range(60), group=1)) for ex in (one, two)]
        while len(service.hung) < 8:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.1)
        assert len(service.hung) == 8
        for task in maps:
            task.cancel()
        await asyncio.gather(*maps, return_exceptions=True)


async def test_a_backend_is_used_in_one_event_loop_at_a_time() -> None:
    async with opened() as (ex, _):
        with pytest.raises(UsageError, match="another event loop"):
            await asyncio.to_thread(asyncio.run, fanout.map(square, [1], backend=ex.backend))
        assert await ex.map(square, [2]) == [4]


async def test_a_backend_that_could_not_be_started_can_be_tried_again() -> None:
    async with FakeLambda().serving() as service:
        backend = service.backend()
        service.refusals["configuration"] = error(403, "AccessDeniedException")
        with pytest.raises(BackendError):
            await fanout.map(square, [1], backend=backend)
        del service.refusals["configuration"]
        assert await fanout.map(square, [2], backend=backend) == [4]
