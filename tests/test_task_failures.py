"""What follows when a task fails again: retries, what may not run twice, a larger function."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import fanout
from fanout.emulator import Emulator, Faults
from fanout.errors import OutOfMemoryError, TaskLostError, UsageError, WorkerCrashedError
from fanout.events import Launch
from fanout.retry import Failure, FailureKind, RetryPolicy
from fanout.task_failures import TaskFailures
from tests.scheduler_checks import Bench

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT = Path(__file__).parent.parent
KILLED = Failure(kind=FailureKind.OUT_OF_MEMORY)
SERVICE_TIMEOUT = Failure(kind=FailureKind.TIMED_OUT, allowed_s=60.0)
OWN_TIMEOUT = Failure(kind=FailureKind.TIMED_OUT)


@pytest.mark.parametrize(
    "kind",
    [
        FailureKind.CRASHED,
        FailureKind.OUT_OF_MEMORY,
        FailureKind.TIMED_OUT,
        FailureKind.MAYBE_RAN,
    ],
)
def test_what_may_have_run_is_not_tried_again_unless_it_may_run_twice(kind: FailureKind) -> None:
    bench = Bench(limit=1, group=2, is_idempotent=False, retry=RetryPolicy(retry_timeouts=True))
    bench.offer(2)
    bench.fail(0, Failure(kind=kind, allowed_s=1.0))
    assert bench.scheduler.is_finished
    assert len(bench.groups) == 1
    assert all(outcome.error is not None for outcome in bench.outcomes)


@pytest.mark.parametrize(
    "kind", [FailureKind.DID_NOT_RUN, FailureKind.THROTTLED, FailureKind.UNREACHABLE]
)
def test_what_did_not_run_is_sent_again_in_any_case(kind: FailureKind) -> None:
    bench = Bench(limit=1, is_idempotent=False)
    bench.offer(1)
    bench.fail(0, Failure(kind=kind))
    assert not bench.scheduler.is_finished
    assert not bench.outcomes


def test_what_the_kernel_raised_follows_the_policy_in_any_case() -> None:
    failures = TaskFailures(RetryPolicy(on=(ValueError,)), is_idempotent=False)
    raised = Failure(kind=FailureKind.KERNEL_RAISED, error=ValueError())
    assert failures.charge(0, raised)


@pytest.mark.parametrize("failure", [KILLED, SERVICE_TIMEOUT])
def test_what_ran_out_of_memory_or_time_goes_once_to_the_larger_function(failure: Failure) -> None:
    bench = Bench(limit=1, can_escalate=True, retry=RetryPolicy(max_attempts=1, base_s=0.0))
    bench.offer(1)
    bench.fail(0, failure)
    launches = [action for action in bench.story if isinstance(action, Launch)]
    assert [launch.is_escalated for launch in launches] == [False, True]
    bench.fail(1, failure)
    assert bench.scheduler.is_finished
    (outcome,) = bench.outcomes
    assert outcome.error is not None


def test_of_a_group_only_the_guilty_one_goes_there() -> None:
    bench = Bench(limit=1, group=2, can_escalate=True)
    bench.offer(2)
    bench.fail(0, KILLED)  # both are tried alone now
    bench.answer(1)
    bench.fail(2, KILLED)
    launches = [action for action in bench.story if isinstance(action, Launch)]
    assert [(list(one.tasks), one.is_escalated) for one in launches[1:]] == [
        ([0], False),
        ([1], False),
        ([1], True),
    ]


def test_a_task_that_took_longer_than_the_caller_allows_would_take_as_long_there() -> None:
    failures = TaskFailures(RetryPolicy(), can_escalate=True)
    assert not failures.charge(0, OWN_TIMEOUT)


def test_a_settled_task_takes_no_memory() -> None:
    failures = TaskFailures(RetryPolicy(), can_escalate=True)
    failures.charge(1, KILLED)
    failures.charge(1, KILLED)
    failures.lose([1, 2], Failure(kind=FailureKind.MAYBE_RAN))
    assert len(failures) == 4
    failures.forget(1)
    failures.forget(2)
    assert len(failures) == 0


@contextlib.asynccontextmanager
async def emulated(monkeypatch: pytest.MonkeyPatch, **options: Any) -> AsyncIterator[Emulator]:
    async with Emulator(concurrency=2, path=[ROOT], **options) as emulator:
        for name, value in emulator.variables.items():
            monkeypatch.setenv(name, value)
        yield emulator


def fills(megabytes: int) -> int:
    return len(b"x" * (megabytes << 20)) >> 20


async def test_a_task_too_large_for_one_function_is_done_by_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernel: Any = eval("lambda mb: len(b'x' * (mb << 20)) >> 20")  # by value
    async with emulated(monkeypatch, function="large", memory_mb=2048) as large:
        url, key = large.url, os.environ["AWS_SECRET_ACCESS_KEY"]
        import aioboto3

        session = aioboto3.Session(
            aws_access_key_id=os.environ["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=key,
            region_name=os.environ["AWS_REGION"],
        )
        larger = fanout.Lambda("large", endpoint_url=url, session=session)
        async with emulated(monkeypatch, function="small", memory_mb=256) as small:
            async with fanout.Executor(fanout.Lambda("small", escalate=larger)) as ex:
                assert await ex.map(kernel, [1, 600, 2], hedge=False) == [1, 600, 2]
            assert large.counts.invocations == 1
            assert small.counts.invocations >= 3
            async with fanout.Executor(fanout.Lambda("small")) as ex:
                with pytest.raises((OutOfMemoryError, MemoryError, WorkerCrashedError)):
                    await ex.map(kernel, [600])


async def test_a_function_that_has_no_more_of_anything_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with emulated(monkeypatch):
        backend = fanout.Lambda("fanout-worker", escalate="fanout-worker")
        with pytest.raises(UsageError, match="no more than fanout-worker"):
            async with fanout.Executor(backend):
                pass


def test_an_escalation_that_is_no_function_is_refused() -> None:
    with pytest.raises(UsageError, match="escalate=7 must be a function's name"):
        fanout.Lambda("f", escalate=7)  # type: ignore[arg-type]


async def test_tasks_that_may_not_run_twice_are_not_sent_twice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every third answer is lost after the task ran."""
    script = f"""lambda n: open({str(tmp_path / "ran")!r}, "a").write(f"{{n}}\\n") and n"""
    kernel: Any = eval(script)
    faults = Faults(reset_after=0.33, seed=1)
    async with emulated(monkeypatch, faults=faults), fanout.Executor() as ex:
        run = await ex.run(kernel, range(30), idempotent=False)
    ran = (tmp_path / "ran").read_text().split()
    assert len(ran) == len(set(ran))
    assert run.failures
    assert all(isinstance(outcome.error, TaskLostError) for outcome in run.failures)
    assert all(outcome.value == outcome.index for outcome in run.outcomes if outcome.is_ok)


async def test_an_option_that_is_no_switch_is_refused() -> None:
    with pytest.raises(UsageError, match="idempotent='no' must be True or False"):
        await fanout.map(abs, [1], idempotent="no")  # type: ignore[call-overload]
