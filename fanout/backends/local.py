"""Workers as processes on this machine, one for each core.

Each is a fresh interpreter started by `subprocess`, neither forked nor importing the caller's
`__main__`: it can be used from a thread, a notebook or a script without `if __name__`. A worker runs
one attempt at a time. One that dies, hangs or is given up is killed and replaced; no other attempt
notices. `worker_process` is the other end.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from fanout.backends import AttemptError
from fanout.envelope import Request, is_stale, is_unknown_kernel
from fanout.errors import BackendError, UsageError
from fanout.retry import Failure, FailureKind
from fanout.wire import FrameReader, Message, frame, joined

if TYPE_CHECKING:
    from collections.abc import Callable


# With a process on every core, threads of numeric libraries would only get in each other's way.
# What the user has set stays as it is.
_ONE_THREAD: Final = (
    "BLIS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "RAYON_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
# An interpreter with numpy is up in 0.2 s; a machine under heavy load takes its time.
_START_TIMEOUT_S: Final = 60.0
# For `atexit` handlers of libraries in the worker, when the backend closes.
_EXIT_TIMEOUT_S: Final = 2.0
# While a call takes less than this, each worker has a second one waiting in its socket, so that
# neither side pauses between two calls. A longer one would rather be with the next free worker.
_QUEUE_S: Final = 0.002
_NEWEST: Final = 0.1  # weight of the newest call in the mean
# A large part is sent in pieces: what asyncio can't send at once it copies, so it gets little.
_SEND_BYTES: Final = 256 * 1024

_BOOT: Final = """\
import json, sys
sys.path[:] = json.loads(sys.argv[2])
import socket
from fanout.worker_process import main
handles = json.loads(sys.argv[1])
if handles is None:
    main(socket.fromshare(sys.stdin.buffer.read()), None)
else:
    main(socket.socket(fileno=handles[0]), handles[1])
"""


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
        self._pool: list[_WorkerProcess] = []
        self._waiting: deque[asyncio.Future[_WorkerProcess]] = deque()
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
                f"{self._max_chunk_bytes / 2**20:,.0f} MiB: make chunks smaller, or pass a path or a "
                "range and let the kernel read it"
            )
            raise AttemptError(Failure(kind=FailureKind.REFUSED, detail=detail))
        while True:
            worker = self._claim() or await self._next_free_worker()
            was_fresh = worker.calls == 0
            reply = await self._call(worker, request, started)
            if was_fresh or not is_stale(reply):
                return reply

    async def _call(
        self, worker: _WorkerProcess, request: Request, started: Callable[[], None]
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

    def _claim(self) -> _WorkerProcess | None:
        """Take a worker for an attempt, the best there is; None if the attempt has to wait."""
        if self._is_closed:
            raise AttemptError(_not_run("the backend is closed", is_fatal=True))
        if any(not waiter.done() for waiter in self._waiting):
            return None  # first come, first served
        return self._free_worker()

    def _free_worker(self) -> _WorkerProcess | None:
        for worker in [worker for worker in self._pool if worker.load == 0]:
            if worker.is_alive():
                worker.load = 1
                return worker
            self._drop(worker)  # it died in its sleep
        if len(self._pool) < self._workers:
            worker = _WorkerProcess()
            worker.load = 1
            self._pool.append(worker)
            return worker
        if self._call_s < _QUEUE_S:
            for worker in self._pool:
                if worker.load == 1 and worker.is_ready:
                    worker.load = 2
                    return worker
        return None

    async def _next_free_worker(self) -> _WorkerProcess:
        waiter: asyncio.Future[_WorkerProcess] = asyncio.get_running_loop().create_future()
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
                    raise AttemptError(_not_run("the backend was closed", is_fatal=True))
                worker = self._free_worker()
            except AttemptError as error:
                self._waiting.popleft().set_exception(error)
                continue
            if worker is None:
                return
            self._waiting.popleft().set_result(worker)

    def _drop(self, worker: _WorkerProcess) -> None:
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
                while any(worker.is_alive() for worker in pool):
                    await asyncio.sleep(0.005)
        except TimeoutError:
            pass
        finally:
            for worker in pool:
                worker.kill()


class _WorkerProcess:
    """One process, and the socket to it."""

    def __init__(self) -> None:
        self.calls = 0
        self.load = 0  # attempts that are here or on their way
        self._is_given_up = False
        self._kernels: set[str] = set()  # whose code it was sent
        self._transport: asyncio.Transport | None = None
        self._channel: _Channel | None = None
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        self._lifeline: int | None = None
        try:
            self._process = self._spawn(theirs)
        except OSError as error:
            self._socket.close()
            self._close_lifeline()
            raise AttemptError(
                _not_run(f"a worker process could not be started: {error}")
            ) from error
        finally:
            theirs.close()

    def _spawn(self, theirs: socket.socket) -> subprocess.Popen[bytes]:
        path = json.dumps([os.path.abspath(entry) for entry in sys.path])  # noqa: PTH100  # "" is cwd
        environment = {**dict.fromkeys(_ONE_THREAD, "1"), **os.environ}
        if sys.platform == "win32":  # never run there by us; sockets go by handle
            process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, "null", path],
                env=environment,
                stdin=subprocess.PIPE,
                creationflags=subprocess.CREATE_NEW_PROCESS_GROUP,
            )
            assert process.stdin is not None
            process.stdin.write(theirs.share(process.pid))
            process.stdin.close()
            return process
        their_end, self._lifeline = os.pipe()
        try:
            return subprocess.Popen(
                [sys.executable, "-c", _BOOT, json.dumps([theirs.fileno(), their_end]), path],
                env=environment,
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), their_end),
                process_group=0,  # Ctrl-C at the terminal reaches the client only
            )
        finally:
            os.close(their_end)

    def is_alive(self) -> bool:
        return self._process.poll() is None

    @property
    def is_ready(self) -> bool:
        return self._channel is not None

    async def ready(self) -> None:
        """Wait until it serves."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                self._transport, channel = await loop.create_connection(_Channel, sock=self._socket)
                await channel.receive(_nothing)
            self._channel = channel
        except _LostError:
            how = await self._obituary()
        except TimeoutError:
            how = f"was not ready after {_START_TIMEOUT_S:g} s"
        except OSError as error:
            how = f"broke its connection ({error})"
        else:
            return
        raise AttemptError(_not_run(f"a new worker process {how}"))

    async def call(self, request: Request, started: Callable[[], None]) -> Message:
        """Send a request and wait for the reply."""
        assert self._channel is not None
        self.calls += 1
        digest = request.kernel.digest
        message = request.message(with_code=digest not in self._kernels)
        try:
            reply = await self._channel.exchange(message, started)
            if is_unknown_kernel(reply):
                reply = await self._channel.exchange(request.message(), _nothing)
        except _LostError as lost:
            if self._is_given_up:
                raise AttemptError(_not_run("its worker was stopped for another task")) from None
            how = await self._obituary()
            if not lost.was_running:
                raise AttemptError(_not_run(f"its worker {how} before it began")) from None
            raise AttemptError(Failure(kind=FailureKind.CRASHED, detail=how)) from None
        self._kernels.add(digest)
        return reply

    async def _obituary(self) -> str:
        """How it ended, for people; called when its connection has closed."""
        for _ in range(200):
            if not self.is_alive():
                break
            await asyncio.sleep(0.005)
        code = self._process.poll()
        if code is None:
            return "closed its connection"
        if code < 0:
            try:
                name = signal.Signals(-code).name
            except ValueError:
                name = f"signal {-code}"
            return f"was killed by {name}"
        return f"exited with code {code}"

    def hang_up(self) -> None:
        """Let it end by itself."""
        if self._transport is not None:
            self._transport.abort()
        else:
            self._socket.close()

    def kill(self) -> None:
        """End it now, and leave nothing of it."""
        self.hang_up()
        if self.is_alive():
            self._is_given_up = True
            self._process.kill()
            self._process.wait()
        self._close_lifeline()

    def _close_lifeline(self) -> None:
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None


class _LostError(Exception):
    """The connection to a worker is gone; says whether it had begun with the request."""

    def __init__(self, *, was_running: bool) -> None:
        super().__init__()
        self.was_running = was_running


class _Channel(asyncio.BufferedProtocol):
    """Requests and replies over a socket, in order; large ones without a copy in between."""

    def __init__(self) -> None:
        self._reader = FrameReader()
        self._awaited: deque[tuple[asyncio.Future[Message], Callable[[], None]]] = deque()
        self._is_lost = False
        self._sending = asyncio.Lock()
        self._writable = asyncio.Event()
        self._writable.set()

    async def exchange(self, message: Message, started: Callable[[], None]) -> Message:
        """Send a request, when those before it are sent, and wait for its reply.

        Raises:
            _LostError: The process is gone.
        """
        async with self._sending:
            reply = self.receive(started)
            try:
                await self._write(message)
            except BaseException:
                reply.cancel()  # nobody will ask for it
                raise
        return await reply

    async def _write(self, message: Message) -> None:
        for part in joined(frame(message)):
            view = memoryview(part)
            for at in range(0, view.nbytes, _SEND_BYTES):
                self._transport.write(view[at : at + _SEND_BYTES])
                if not self._writable.is_set():
                    await self._writable.wait()

    def receive(self, started: Callable[[], None]) -> asyncio.Future[Message]:
        """The next frame that nobody else waits for."""
        reply: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        if self._is_lost:
            reply.set_exception(_LostError(was_running=False))
            return reply
        self._awaited.append((reply, started))
        if len(self._awaited) == 1:
            started()
        return reply

    # ---- called by asyncio ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        self._writable.set()
        for position, (reply, _) in enumerate(self._awaited):
            if not reply.done():
                reply.set_exception(_LostError(was_running=position == 0))
        self._awaited.clear()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._reader.space()

    def buffer_updated(self, nbytes: int) -> None:
        for message in self._reader.received(nbytes):
            reply, _ = self._awaited.popleft()
            if self._awaited:
                self._awaited[0][1]()  # the worker begins with the next one
            if not reply.done():
                reply.set_result(message)


def _nothing() -> None:
    pass


def _not_run(detail: str, *, is_fatal: bool = False) -> Failure:
    error = BackendError(detail) if is_fatal else None
    return Failure(kind=FailureKind.DID_NOT_RUN, detail=detail, error=error, is_fatal=is_fatal)


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
