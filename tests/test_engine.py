"""A run on the production path of asyncio, in virtual time, against a backend made of sleeps."""

from __future__ import annotations

import asyncio
import threading
import types
from typing import TYPE_CHECKING, Any

import pytest

from fanout import Executor
from fanout.codec import Encoded
from fanout.errors import (
    BackendError,
    BudgetExceededError,
    ChunkError,
    KernelLoadError,
    TaskTimeoutError,
    UsageError,
    WorkerCrashedError,
)
from fanout.events import AttemptStarted, Finish, Launch, RunEnded, RunEvent, RunStarted
from fanout.wire import PROTOCOL, Message
from tests import virtual_time
from tests.fakes import (
    PATIENT,
    BilledBackend,
    End,
    FakeBackend,
    Fate,
    add,
    always,
    chance,
    hang_on,
    map_squares,
    opened,
    picky,
    square,
)
from tests.virtual_time import now_s

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence


# ---- results ----


def test_results_come_in_the_order_of_the_input() -> None:
    backend = FakeBackend(4, plan=chance(1))
    assert virtual_time.run(map_squares(backend, range(100))) == [x * x for x in range(100)]


def test_the_same_plan_takes_the_same_time() -> None:
    """Nothing here depends on the speed of the machine."""

    async def timed() -> float:
        await map_squares(FakeBackend(3, plan=chance(5)), range(200))
        return now_s()

    assert virtual_time.run(timed()) == virtual_time.run(timed())


@pytest.mark.parametrize("seed", range(10))
def test_results_are_right_under_faults(seed: int) -> None:
    plan = chance(seed, crash=0.15, did_not_run=0.15, hang=0.05, cancelled=0.05)
    backend = FakeBackend(4, plan=plan, speeds=[0.1, 3.0], queue=3)
    result = virtual_time.run(map_squares(backend, range(150), retry=PATIENT, timeout_s=100.0))
    assert result == [x * x for x in range(150)]
    assert backend.most_in_flight <= 4


@pytest.mark.parametrize("seed", range(5))
def test_a_stream_under_faults_gives_every_task_once(seed: int) -> None:
    async def main() -> None:
        backend = FakeBackend(3, plan=chance(seed, crash=0.1, did_not_run=0.2), queue=3)
        async with (
            opened(backend) as ex,
            ex.stream(picky, range(80), ordered=bool(seed % 2), retry=PATIENT) as outcomes,
        ):
            seen = [outcome async for outcome in outcomes]
        assert sorted(o.index for o in seen) == list(range(80))
        assert {o.index for o in seen if not o.is_ok} == {x for x in range(80) if x % 10 == 3}
        if seed % 2:
            assert [o.index for o in seen] == list(range(80))

    virtual_time.run(main())


def test_a_slow_environment_slows_down_its_own_tasks_only() -> None:
    async def main() -> float:
        await map_squares(FakeBackend(4, speeds=[0.01]), range(40), group=1)
        return now_s()

    assert virtual_time.run(main()) == 100.0


@pytest.mark.parametrize(
    "chunks", [[], iter(()), (), range(0)], ids=["list", "iterator", "tuple", "range"]
)
def test_an_empty_input_gives_an_empty_list(chunks: Any) -> None:
    backend = FakeBackend()
    assert virtual_time.run(map_squares(backend, chunks)) == []
    assert backend.requests == []


def test_an_empty_async_input_gives_an_empty_list() -> None:
    async def nothing() -> AsyncIterator[int]:
        return
        yield

    assert virtual_time.run(map_squares(FakeBackend(), nothing())) == []


def test_starmap_unpacks_its_chunks() -> None:
    async def main() -> list[int]:
        async with opened(FakeBackend()) as ex:
            return await ex.starmap(add, [(1, 2), (3, 4)])

    assert virtual_time.run(main()) == [3, 7]


def test_run_tells_all_there_is() -> None:
    async def main() -> None:
        async with opened(FakeBackend(1, plan=_crash_first)) as ex:
            run = await ex.run(picky, range(5), group=1)
        assert [o.index for o in run.outcomes] == list(range(5))
        assert [o.index for o in run.failures] == [3]
        assert run.attempts == 6
        assert run.retries == 1
        assert run.kernel_s == 5.0
        with pytest.raises(ValueError, match="not to my taste"):
            run.results

    virtual_time.run(main())


def _crash_first(number: int, _chunks: Sequence[Any]) -> Fate:
    return Fate(end=End.CRASH if number == 0 else End.REPLY)


# ---- errors of tasks ----


def test_the_first_failure_ends_a_map_and_calls_off_the_others() -> None:
    def plan(_: int, chunks: Sequence[Any]) -> Fate:
        return Fate(task_s=10.0 if 3 in chunks else 60.0)

    async def main() -> None:
        backend = FakeBackend(4, plan=plan, stop_s=2.0)
        async with opened(backend) as ex:
            with pytest.raises(ValueError, match="3 is not to my taste") as caught:
                await ex.map(picky, range(1000), group=1)
        assert now_s() == 12.0
        assert "task 3, chunk: 3" in caught.value.__notes__
        assert backend.stopped == backend.given_up == 3

    virtual_time.run(main())


def test_exceptions_are_results_if_that_is_wanted() -> None:
    async def main() -> None:
        async with opened(FakeBackend(2)) as ex:
            results = await ex.map(picky, range(25), return_exceptions=True)
        assert [x for x, found in enumerate(results) if isinstance(found, ValueError)] == [
            3,
            13,
            23,
        ]
        assert results[24] == 24

    virtual_time.run(main())


def _crash_on(chunk: int) -> Callable[[int, Sequence[Any]], Fate]:
    return lambda _, chunks: Fate(end=End.CRASH if chunk in chunks else End.REPLY, task_s=1e-3)


def test_a_chunk_that_kills_its_worker_fails_alone() -> None:
    async def main() -> None:
        backend = FakeBackend(2, plan=_crash_on(77))
        async with opened(backend) as ex:
            results = await ex.map(square, range(200), return_exceptions=True)
        error = results[77]
        assert isinstance(error, WorkerCrashedError)
        assert (error.index, error.attempts) == (77, 3)
        assert "was killed by SIGKILL (attempt 3)" in str(error)
        assert [r for i, r in enumerate(results) if i != 77] == [
            x * x for x in range(200) if x != 77
        ]
        assert sum(chunks == [77] for chunks in backend.requests) == 3
        assert any(len(chunks) > 1 and 77 in chunks for chunks in backend.requests)

    virtual_time.run(main())


def test_chunks_that_are_too_large_together_pass_one_by_one() -> None:
    def plan(_: int, chunks: Sequence[Any]) -> Fate:
        return Fate(end=End.REFUSED if len(chunks) > 1 or 5 in chunks else End.REPLY)

    async def main() -> None:
        async with opened(FakeBackend(2, plan=plan)) as ex:
            results = await ex.map(square, range(10), group=4, return_exceptions=True)
        error = results.pop(5)
        assert isinstance(error, ChunkError)
        assert "the limit is 6 MiB" in str(error)
        assert results == [x * x for x in range(10) if x != 5]

    virtual_time.run(main())


def test_a_chunk_that_can_not_be_encoded_fails_alone() -> None:
    async def main() -> None:
        chunks = [1, types.FrameType, threading.Lock(), 4]
        backend = FakeBackend(2)
        async with opened(backend) as ex:
            results = await ex.map(str, chunks, group=4, return_exceptions=True)
        assert results[0] == "1"
        assert isinstance(results[2], ChunkError)
        assert results[3] == "4"
        assert len(backend.requests) == 1

    virtual_time.run(main())


def test_an_attempt_of_which_nothing_can_be_encoded_is_never_sent() -> None:
    async def main() -> None:
        backend = FakeBackend(2)
        async with opened(backend) as ex:
            (error,) = await ex.map(str, [threading.Lock()], return_exceptions=True)
        assert isinstance(error, ChunkError)
        assert backend.requests == []

    virtual_time.run(main())


# ---- errors of the backend ----


def test_a_fatal_failure_ends_the_run_with_its_error() -> None:
    async def main() -> None:
        async with opened(FakeBackend(2, plan=always(Fate(end=End.FATAL)))) as ex:
            with pytest.raises(BackendError, match="no such function"):
                await ex.map(square, range(10), return_exceptions=True)

    virtual_time.run(main())


def test_a_fatal_failure_without_an_error_still_raises() -> None:
    """Otherwise the map would return a list with holes."""
    from fanout.backends import AttemptError
    from fanout.retry import Failure, FailureKind

    def script(_: object) -> Message:
        failure = Failure(kind=FailureKind.DID_NOT_RUN, detail="account is closed", is_fatal=True)
        raise AttemptError(failure)

    async def main() -> None:
        async with opened(FakeBackend(2, script=script)) as ex:
            with pytest.raises(BackendError, match="account is closed"):
                await ex.map(square, range(10), return_exceptions=True)

    virtual_time.run(main())


def test_a_backend_on_which_nothing_ever_runs_is_given_up() -> None:
    async def main() -> None:
        backend = FakeBackend(2, plan=always(Fate(end=End.DID_NOT_RUN)))
        async with opened(backend) as ex:
            with pytest.raises(BackendError, match=r"never reached a worker.*no worker came"):
                await ex.map(square, range(10))
        assert len(backend.requests) < 50

    virtual_time.run(main())


def test_a_bug_of_the_backend_reaches_the_caller() -> None:
    async def main() -> None:
        async with opened(FakeBackend(2, plan=always(Fate(end=End.BUG)))) as ex:
            with pytest.raises(ZeroDivisionError, match="a bug of the backend"):
                await ex.map(square, range(10), return_exceptions=True)

    virtual_time.run(main())


def test_an_attempt_that_the_backend_cancels_by_itself_counts_as_a_crash() -> None:
    """Nobody else would ever tell the scheduler: the run would hang."""

    async def main() -> None:
        backend = FakeBackend(2, plan=always(Fate(end=End.CANCELLED)))
        async with opened(backend) as ex:
            (error,) = await ex.map(square, [1], return_exceptions=True)
        assert isinstance(error, WorkerCrashedError)
        assert "cancelled from outside" in str(error)
        assert len(backend.requests) == 3

    virtual_time.run(main())


@pytest.mark.parametrize(
    "reply",
    [
        Message({"fanout": PROTOCOL + 1}),
        Message({"fanout": PROTOCOL}, Encoded(b"[1,2,3,4,5,6,7]")),
        Message({"fanout": PROTOCOL}, Encoded(b"not even JSON")),
    ],
    ids=["another protocol", "another request's", "damaged"],
)
def test_a_reply_that_can_not_be_read_is_a_crash(reply: Message) -> None:
    async def main() -> None:
        backend = FakeBackend(2, script=lambda _: reply)
        async with opened(backend) as ex:
            (error,) = await ex.map(square, [1], return_exceptions=True)
        assert isinstance(error, WorkerCrashedError)
        assert "sent a reply that can't be read" in str(error)

    virtual_time.run(main())


def test_a_kernel_that_can_not_be_loaded_ends_the_run() -> None:
    reply = Message(
        {
            "fanout": PROTOCOL,
            "refused": {"kind": "kernel", "message": "no module named x", "traceback": "…"},
        }
    )

    async def main() -> None:
        async with opened(FakeBackend(2, script=lambda _: reply)) as ex:
            with pytest.raises(KernelLoadError, match="no module named x"):
                await ex.map(square, range(10), return_exceptions=True)

    virtual_time.run(main())


# ---- timeouts ----


def test_a_task_that_hangs_times_out_and_the_others_do_not() -> None:
    async def main() -> None:
        backend = FakeBackend(2, plan=hang_on(3))
        async with opened(backend) as ex:
            results = await ex.map(
                square, range(8), timeout_s=60.0, group=1, return_exceptions=True
            )
        error = results.pop(3)
        assert isinstance(error, TaskTimeoutError)
        assert (error.index, error.timeout_s) == (3, 60.0)
        assert results == [x * x for x in range(8) if x != 3]
        assert backend.given_up == backend.stopped == 1
        assert now_s() == 61.0, "task 3 began at 1 s"

    virtual_time.run(main())


def test_an_attempt_that_waits_for_a_place_does_not_time_out() -> None:
    """Its time runs from the moment when a worker takes it."""

    async def main() -> None:
        backend = FakeBackend(1, queue=9, plan=always(Fate(wait_s=100.0, task_s=4.0)))
        async with opened(backend) as ex:
            assert await ex.map(square, range(10), timeout_s=5.0, group=1)
        assert backend.given_up == 0
        assert now_s() == 1040.0

    virtual_time.run(main())


@pytest.mark.parametrize("resolution_s", [1e-9, 0.0156])
def test_timers_may_run_early(resolution_s: float) -> None:
    """As they do by the resolution of the clock, which is 15.6 ms on Windows."""

    async def main() -> None:
        async with opened(FakeBackend(2, plan=hang_on(7))) as ex:
            with pytest.raises(TaskTimeoutError):
                await ex.map(square, [7], timeout_s=30.0)
        assert now_s() == pytest.approx(30.0)

    virtual_time.run(main(), resolution_s=resolution_s)


def test_two_maps_share_the_places_of_one_backend() -> None:
    async def main() -> None:
        backend = FakeBackend(2)
        async with opened(backend) as ex:
            first, second = await asyncio.gather(
                ex.map(square, range(10), timeout_s=1.5, group=1),
                ex.map(square, range(10, 20), timeout_s=1.5, group=1),
            )
        assert first + second == [x * x for x in range(20)]
        assert backend.most_in_flight == 2
        assert backend.given_up == 0
        assert now_s() == 10.0

    virtual_time.run(main())


def test_a_failure_of_one_map_is_no_affair_of_the_other() -> None:
    async def main() -> None:
        backend = FakeBackend(2)
        async with opened(backend) as ex:
            failed, fine = await asyncio.gather(
                ex.map(picky, range(10)), ex.map(square, range(10)), return_exceptions=True
            )
        assert isinstance(failed, ValueError)
        assert fine == [x * x for x in range(10)]

    virtual_time.run(main())


# ---- memory ----


def test_a_long_run_keeps_nothing_of_what_is_done() -> None:
    async def main() -> None:
        backend = FakeBackend(4, plan=chance(2, crash=0.05, hang=0.01))
        async with opened(backend) as ex:
            stream = ex.stream(square, range(5000), timeout_s=30.0, retry=PATIENT, group=2)
            async with stream as outcomes:
                engine = outcomes._engine
                async for _ in outcomes:
                    held = len(engine._intake.chunks), len(engine._attempts), len(engine._given_up)
                    assert held[0] <= 4 * 5
                    assert held[1] <= 4
                    assert held[2] <= 4
            assert not engine._intake.chunks
            assert not engine._attempts
            assert not engine._given_up

    virtual_time.run(main())


# ---- where tasks start at once ----


def test_a_run_is_the_same_where_tasks_of_asyncio_start_eagerly() -> None:
    """With `asyncio.eager_task_factory` (Python 3.12) an action can lead to an event at once."""

    async def main() -> None:
        factory = getattr(asyncio, "eager_task_factory", _eager)
        asyncio.get_running_loop().set_task_factory(factory)
        story: list[RunEvent] = []
        backend = FakeBackend(2, plan=chance(1, crash=0.2), queue=2)
        async with opened(backend) as ex:
            options: Any = {"timeout_s": 60.0, "retry": PATIENT, "on_event": story.append}
            assert await ex.map(square, range(50), **options) == [x * x for x in range(50)]
            assert await ex.map(picky, async_numbers(50), return_exceptions=True, **options)
            with pytest.raises(ValueError, match="not to my taste"):
                await ex.map(picky, range(50), **options)
            unsent: Any = [threading.Lock() for _ in range(30)]
            errors = await ex.map(square, unsent, return_exceptions=True, **options)
            assert {type(error) for error in errors} == {ChunkError}
            # The first launch leads to the end at once; the second must not follow it.
            with pytest.raises(ChunkError):
                await ex.map(square, unsent, **options)
            assert [type(event) for event in story[-2:]] == [Finish, RunEnded]
        launched: set[int] = set()
        for event in story:
            if isinstance(event, RunStarted):
                launched.clear()
            elif isinstance(event, Launch):
                launched.add(event.attempt)
            elif isinstance(event, AttemptStarted):
                assert event.attempt in launched

    async def async_numbers(count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number

    virtual_time.run(main())


def _eager(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
    """Much like `asyncio.eager_task_factory`, which Python 3.11 does not have."""

    @types.coroutine
    def rest(waits_for: Any) -> Any:
        while True:
            try:
                try:
                    sent = yield waits_for
                except BaseException as error:
                    waits_for = work.throw(error)
                else:
                    waits_for = work.send(sent)
            except StopIteration as stop:
                return stop.value

    async def ended(outcome: Callable[[], Any]) -> Any:
        return outcome()

    try:
        first = work.send(None)
    except StopIteration as stop:
        value = stop.value
        return asyncio.Task(ended(lambda: value), loop=loop, **options)
    except Exception as raised:
        error = raised

        def fail() -> None:
            raise error

        return asyncio.Task(ended(fail), loop=loop, **options)
    return asyncio.Task(rest(first), loop=loop, **options)


# ---- using an executor ----


def overspends(_: int) -> None:
    raise BudgetExceededError(2.0, 1.0, 0.5)


@pytest.mark.parametrize("options", [{}, {"max_gb_s": 1e6}])
def test_an_exceeded_budget_of_a_kernels_own_map_is_the_kernels_error(
    options: dict[str, Any],
) -> None:
    async def main() -> None:
        async with opened(BilledBackend()) as ex:
            await ex.map(overspends, [1], journal=False, **options)

    with pytest.raises(BudgetExceededError) as caught:
        virtual_time.run(main())
    assert caught.value.run is None
    assert "task 0" in caught.value.__notes__[0]


@pytest.mark.parametrize("method", [Executor.map, Executor.run])
def test_an_exceeded_budget_of_an_inputs_own_map_is_the_inputs_error(method: Any) -> None:
    async def main() -> None:
        async with opened(BilledBackend()) as ex:
            await method(ex, square, map(overspends, range(3)), max_gb_s=1e6, journal=False)

    with pytest.raises(BudgetExceededError) as caught:
        virtual_time.run(main())
    assert caught.value.run is None


def test_an_executor_must_be_entered_first() -> None:
    async def main() -> None:
        ex = Executor(FakeBackend())
        with pytest.raises(UsageError, match="use it as `async with fanout"):
            await ex.map(square, [1])
        assert repr(ex).endswith(", not open>")
        async with ex:
            assert await ex.map(square, [2]) == [4]
        with pytest.raises(UsageError, match="not open"):
            await ex.map(square, [1])

    virtual_time.run(main())


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"timeout": 5}, "unknown option 'timeout': there are timeout_s, retry"),
        ({"timeout_s": 0}, "timeout_s=0 must be a number of seconds above 0"),
        ({"timeout_s": "5"}, "timeout_s='5' must be"),
        ({"timeout_s": float("nan")}, "timeout_s=nan must be"),
        ({"group": 0}, "group=0 must be a whole number of tasks"),
        ({"codec": "pickle"}, "codec='pickle' must be 'auto' or 'safe'"),
        ({"retry": 3}, "retry=3 must be a fanout.RetryPolicy"),
        ({"on_event": 1}, "on_event=1 must be a function"),
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, Any], hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        virtual_time.run(map_squares(FakeBackend(), **options))
    assert hint in str(caught.value)
