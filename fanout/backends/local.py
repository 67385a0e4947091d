"""Workers as processes on this machine, one for each core.

Each is a fresh interpreter started by `subprocess`, neither forked nor importing the caller's
`__main__`: it can be used from a thread, a notebook or a script without `if __name__`. A worker
runs one attempt at a time. One that dies, hangs or is given up is killed and replaced; no other
attempt notices.
"""

from __future__ import annotations

import asyncio
import math
import os
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from fanout.backends import AttemptError
from fanout.backends.local_process import WorkerProcess, not_run
from fanout.errors import BackendError, UsageError
from fanout.grouping import GroupPolicy
from fanout.reply import is_stale
from fanout.retry import Failure, FailureKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.request import Request
    from fanout.wire import Message

# For `atexit` handlers of libraries in the worker, when the backend closes.
_EXIT_TIMEOUT_S: Final = 2.0
# While a call takes less than this, each worker has a second one waiting in its socket, so that
# neither side pauses between two calls. A longer one would rather be with the next free worker.
_QUEUE_S: Final = 0.002
_NEWEST: Final = 0.1  # weight of the newest call in the mean


class Local:
    """This machine as a backend.

    Args:
        workers: Number of processes; one for each core that this process may use, by default.
        max_chunk_bytes: Largest request, encoded. 2 GiB by default: what is larger is better read
            by the kernel itself than sent.
    """

    def __init__(self, workers: int | None = None, *, max_chunk_bytes: int = 2 * 2**30) -> None:
        if workers is not None and (not isinstance(workers, int) or workers < 1):
            msg = f"workers={workers!r} must be a whole number, 1 or more (or None: one per core)"
            raise UsageError(msg)
        self._workers = workers or _usable_cores()
        self._max_chunk_bytes = max_chunk_bytes
        self._pool: list[WorkerProcess] = []
        self._waiting: deque[asyncio.Future[WorkerProcess]] = deque()
        self.recipe = {"kind": "local", "workers": workers, "max_chunk_bytes": max_chunk_bytes}
        self._call_s = math.inf  # running mean of what a call takes
        self._is_closed = True

    def __repr__(self) -> str:
        busy = sum(worker.load > 0 for worker in self._pool)
        return f"<Local: {self._workers} workers, {len(self._pool)} started, {busy} busy>"

    @property
    def name(self) -> str:
        """Name and size of the pool."""
        return f"local, {self._workers} worker{'s' if self._workers > 1 else ''}"

    @property
    def concurrency(self) -> int:
        """Number of workers."""
        return self._workers

    @property
    def limit(self) -> int:
        """One attempt for each worker, and one that waits behind it."""
        return 2 * self._workers

    @property
    def stops_tasks(self) -> bool:
        """No: its processes can be killed."""
        return False

    @property
    def is_remote(self) -> bool:
        """No."""
        return False

    @property
    def capacity(self) -> None:
        """None: there are no more than its workers."""
        return None

    @property
    def billed(self) -> None:
        """Nothing: it is this machine."""
        return None

    @property
    def can_escalate(self) -> bool:
        """No: there is but this machine."""
        return False

    @property
    def grouping(self) -> GroupPolicy:
        """By the price of a round trip to a process, some 100 microseconds."""
        return GroupPolicy()

    async def start(self) -> None:
        """Make the pool; workers start when there is work for them."""
        if not sys.executable:
            raise BackendError(
                "this Python does not know its own executable, so it can't start workers: "
                "run under an ordinary interpreter"
            )
        self._is_closed = False

    async def invoke(self, request: Request, started: Callable[[], None]) -> Message:
        """Run one attempt in a worker process."""
        if request.nbytes > self._max_chunk_bytes:
            detail = (
                f"{request.nbytes / 2**20:,.0f} MiB encoded, the limit is "
                f"{self._max_chunk_bytes / 2**20:,.0f} MiB: make chunks smaller, or pass a path "
                "or a range and let the kernel read it"
            )
            raise AttemptError(Failure(kind=FailureKind.REFUSED, detail=detail))
        while True:
            worker = self._claim() or await self._next_free_worker()
            was_fresh = worker.calls == 0
            reply = await self._call(worker, request, started)
            if was_fresh or not is_stale(reply):
                return reply

    async def _call(
        self, worker: WorkerProcess, request: Request, started: Callable[[], None]
    ) -> Message:
        """Run an attempt in a worker that was claimed for it."""
        began_s = time.perf_counter()
        is_usable = False
        try:
            if not worker.is_ready:
                await worker.ready()
            reply = await worker.call(request, started)
            is_usable = not is_stale(reply)
        finally:
            worker.load -= 1
            if not is_usable:
                self._drop(worker)
            self._admit()
        elapsed_s = time.perf_counter() - began_s
        known_s = elapsed_s if math.isinf(self._call_s) else self._call_s
        self._call_s = known_s + _NEWEST * (elapsed_s - known_s)
        return reply

    def _claim(self) -> WorkerProcess | None:
        """Take a worker for an attempt, the best there is; None if the attempt has to wait."""
        if self._is_closed:
            raise AttemptError(not_run("the backend is closed", is_fatal=True))
        if any(not waiter.done() for waiter in self._waiting):
            return None  # first come, first served
        return self._free_worker()

    def _free_worker(self) -> WorkerProcess | None:
        for worker in [worker for worker in self._pool if worker.load == 0]:
            if worker.is_alive():
                worker.load = 1
                return worker
            self._drop(worker)  # it died in its sleep
        if len(self._pool) < self._workers:
            worker = WorkerProcess()
            worker.load = 1
            self._pool.append(worker)
            return worker
        if self._call_s < _QUEUE_S:
            for worker in self._pool:
                if worker.load == 1 and worker.is_ready:
                    worker.load = 2
                    return worker
        return None

    async def _next_free_worker(self) -> WorkerProcess:
        waiter: asyncio.Future[WorkerProcess] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                waiter.result().load -= 1  # it was claimed for us just now
                self._admit()
            raise

    def _admit(self) -> None:
        """Give free workers to those who wait."""
        while self._waiting:
            if self._waiting[0].done():  # given up
                self._waiting.popleft()
                continue
            try:
                if self._is_closed:
                    raise AttemptError(not_run("the backend was closed", is_fatal=True))
                worker = self._free_worker()
            except AttemptError as error:
                self._waiting.popleft().set_exception(error)
                continue
            if worker is None:
                return
            self._waiting.popleft().set_result(worker)

    def _drop(self, worker: WorkerProcess) -> None:
        worker.kill()
        if worker in self._pool:
            self._pool.remove(worker)

    async def aclose(self) -> None:
        """End all workers: the idle ones by themselves, the others at once."""
        self._is_closed = True
        self._admit()
        pool, self._pool = self._pool, []
        try:
            for worker in pool:
                if worker.load:
                    worker.kill()
                else:
                    worker.hang_up()
            async with asyncio.timeout(_EXIT_TIMEOUT_S):
                while any(worker.is_alive() for worker in pool):  # noqa: ASYNC110  # no event tells
                    await asyncio.sleep(0.005)
        except TimeoutError:
            pass
        finally:
            for worker in pool:
                worker.kill()


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
