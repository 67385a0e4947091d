"""A backend made of sleeps, for tests in virtual time.

It runs requests through a real `Worker` in this process, over the bytes of the real wire, so that
all but processes and sockets is what production runs. What befalls a request is decided by a plan.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from fanout import Executor, RetryPolicy
from fanout.backends import AttemptError
from fanout.budget import Billed
from fanout.codec import decode_each
from fanout.errors import BackendError
from fanout.grouping import GroupPolicy
from fanout.retry import Failure, FailureKind
from fanout.wire import Message, frame, unframe
from fanout.worker import Worker
from tests import virtual_time

if TYPE_CHECKING:
    from fanout.request import Request


class End(enum.Enum):
    """How a request ends."""

    REPLY = "reply"
    CRASH = "crash"
    HANG = "hang"
    DID_NOT_RUN = "did not run"
    REFUSED = "refused"
    FATAL = "fatal"
    CANCELLED = "cancelled"  # something inside the backend is cancelled, and it doesn't notice
    BUG = "bug"  # the backend raises what it must not


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What befalls one request.

    Attributes:
        wait_s: From the free place to the start: an environment that comes up.
        task_s: Of each task in it.
        end: How it ends.
    """

    wait_s: float = 0.0
    task_s: float = 1.0
    end: End = End.REPLY


# From the request's number (from 0) and its chunks.
Plan: TypeAlias = Callable[[int, Sequence[Any]], Fate]
Script: TypeAlias = Callable[["Request"], Message]


def always(fate: Fate) -> Plan:
    """The same fate for every request."""
    return lambda _number, _chunks: fate


def hang_on(chunk: Any) -> Plan:
    """Whatever carries this chunk hangs."""
    return lambda _, chunks: Fate(end=End.HANG if chunk in chunks else End.REPLY)


def chance(seed: int, *, fate: Fate | None = None, **shares: float) -> Plan:
    """A random fate; `shares` gives the probability of an end other than a reply, by its name.

    Times vary too: a request in ten takes ten times as long, and one in ten waits for 5 s.
    """
    rng = random.Random(seed)
    usual = fate or Fate()
    ends = [End[name.upper()] for name in shares]

    def plan(_number: int, _chunks: Sequence[Any]) -> Fate:
        end = rng.choices([*ends, End.REPLY], [*shares.values(), 1.0 - sum(shares.values())])[0]
        return replace(
            usual,
            end=end,
            wait_s=5.0 if rng.random() < 0.1 else usual.wait_s,
            task_s=usual.task_s * (10.0 if rng.random() < 0.1 else rng.uniform(0.5, 1.5)),
        )

    return plan


class FakeBackend:
    """A fleet of environments, each of which serves one request at a time.

    Args:
        concurrency: Number of environments.
        plan: What befalls each request; a reply after a second for each task, by default.
        script: Replies in place of a worker.
        speeds: How fast the first environments are; the others have speed 1.
        queue: How many more attempts than `concurrency` may wait at the door.
        stop_s: How long it takes to stop an attempt that is given up.

    Attributes:
        requests: The chunks of every request, in the order in which they came.
        in_flight: Requests that have an environment now.
        most_in_flight: The most there ever were.
        given_up: Requests that were cancelled.
        stopped: Those of them that had the time to stop.
    """

    def __init__(
        self,
        concurrency: int = 4,
        *,
        plan: Plan | None = None,
        script: Script | None = None,
        speeds: Sequence[float] = (),
        queue: int = 0,
        stop_s: float = 0.0,
    ) -> None:
        self._concurrency = concurrency
        self._queue = queue
        self._plan = plan or always(Fate())
        self._script = script
        self._stop_s = stop_s
        speeds = [*speeds, *([1.0] * concurrency)][:concurrency]
        self._idle = [(Worker(), speed) for speed in speeds]
        self._places = asyncio.Semaphore(concurrency)
        self.requests: list[list[Any]] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.given_up = 0
        self.stopped = 0
        self.is_open = False

    def __repr__(self) -> str:
        return f"<FakeBackend: {self.in_flight} in flight, {len(self.requests)} requests so far>"

    @property
    def name(self) -> str:
        return f"fake, {self._concurrency} environments"

    @property
    def concurrency(self) -> int:
        return self._concurrency

    @property
    def limit(self) -> int:
        return self._concurrency + self._queue

    @property
    def stops_tasks(self) -> bool:
        return False

    @property
    def is_remote(self) -> bool:
        return False

    @property
    def capacity(self) -> None:
        return None

    @property
    def billed(self) -> None:
        return None

    @property
    def can_escalate(self) -> bool:
        return False

    @property
    def grouping(self) -> GroupPolicy:
        return GroupPolicy()

    @property
    def is_idle(self) -> bool:
        """Whether everything that was taken was given back."""
        return self.in_flight == 0 and len(self._idle) == self._concurrency

    async def start(self) -> None:
        self.is_open = True

    async def aclose(self) -> None:
        self.is_open = False

    async def invoke(self, request: Request, started: Callable[[], None]) -> Message:
        assert self.is_open, "an attempt after the end"
        chunks, _ = decode_each(request.chunks)
        number = len(self.requests)
        self.requests.append(chunks)
        fate = self._plan(number, chunks)
        try:
            async with self._places:
                return await self._in_an_environment(request, fate, started, len(chunks))
        except asyncio.CancelledError:
            if fate.end is not End.CANCELLED:
                self.given_up += 1
                await asyncio.sleep(self._stop_s)
                self.stopped += 1
            raise

    async def _in_an_environment(
        self, request: Request, fate: Fate, started: Callable[[], None], tasks: int
    ) -> Message:
        worker, speed = self._idle.pop(0)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(fate.wait_s)
            if fate.end is End.DID_NOT_RUN:
                raise AttemptError(Failure(kind=FailureKind.DID_NOT_RUN, detail="no worker came"))
            started()
            busy_s = fate.task_s * tasks / speed
            await asyncio.sleep(10**9 if fate.end is End.HANG else busy_s)
            _end(fate.end)
            if self._script is not None:
                return self._script(request)
            reply = _over_the_wire(worker.run(_over_the_wire(request.message())))
            if "report" in reply.head:  # in virtual seconds, so that groups are the same every time
                times_s = {"kernel_s": busy_s, "compile_s": 0.0, "total_s": busy_s}
                reply.head["report"] |= times_s
                reply.head["ns"] = [int(1e9 * busy_s / tasks)] * tasks
            return reply
        finally:
            self.in_flight -= 1
            self._idle.insert(0, (worker, speed))


class BilledBackend(FakeBackend):
    """One that costs money."""

    @property
    def billed(self) -> Billed:  # type: ignore[override]  # this one costs something
        return Billed(gb=1.0, timeout_s=60.0)


def _end(end: End) -> None:
    kinds = {
        End.CRASH: Failure(kind=FailureKind.CRASHED, detail="was killed by SIGKILL"),
        End.REFUSED: Failure(kind=FailureKind.REFUSED, detail="9 MiB encoded, the limit is 6 MiB"),
        End.FATAL: Failure(
            kind=FailureKind.REFUSED, error=BackendError("no such function"), is_fatal=True
        ),
    }
    if end in kinds:
        raise AttemptError(kinds[end])
    if end is End.CANCELLED:
        raise asyncio.CancelledError("of the backend's own")
    if end is End.BUG:
        raise ZeroDivisionError("a bug of the backend")


def _over_the_wire(message: Message) -> Message:
    return unframe(memoryview(b"".join(bytes(part) for part in frame(message))))


# ---- what tests of the engine share ----

PATIENT = RetryPolicy(max_attempts=20, retry_timeouts=True, on=(ConnectionError,))


def square(x: int) -> int:
    return x * x


def picky(x: int) -> int:
    if x % 10 == 3:
        msg = f"{x} is not to my taste"
        raise ValueError(msg)
    return x


def add(x: int, y: int) -> int:
    return x + y


@contextlib.asynccontextmanager
async def opened(backend: FakeBackend) -> AsyncIterator[Executor]:
    """An executor that must leave its backend as it was."""
    async with Executor(backend) as ex:
        yield ex
        assert virtual_time.others() == set(), "a task of asyncio is left, after the map"
        assert backend.is_idle
    assert not backend.is_open


async def map_squares(backend: FakeBackend, chunks: Any = range(20), **options: Any) -> list[Any]:
    async with opened(backend) as ex:
        results: list[Any] = await ex.map(square, chunks, **options)
        return results


def numbers_then(count: int, error: BaseException) -> Iterator[int]:
    yield from range(count)
    raise error


async def async_numbers_then(count: int, error: BaseException) -> AsyncIterator[int]:
    for number in range(count):
        await asyncio.sleep(0.01)
        yield number
    raise error


class OwnError(Exception):
    """One that nobody else raises."""
