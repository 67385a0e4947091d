"""Workers as processes on this machine, one for each core.

Each is a fresh interpreter started by `subprocess`, neither forked nor importing the caller's
`__main__`: it can be used from a thread, a notebook or a script without `if __name__`. A worker runs
one attempt at a time. One that dies, hangs or is given up is killed and replaced; no other attempt
notices. `worker_process` is the other end.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import numpy as np

from fanout.backends import AttemptError
from fanout.envelope import Request, is_stale, is_unknown_kernel
from fanout.errors import BackendError, UsageError
from fanout.retry import Failure, FailureKind
from fanout.wire import PREFIX_BYTES, Message, frame, frame_bytes, unframe

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
_JOINED_BYTES: Final = 256 * 1024
_READ_BYTES: Final = 64 * 1024

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
        self._slots = asyncio.Semaphore(self._workers)
        self._idle: list[_WorkerProcess] = []
        self._busy: set[_WorkerProcess] = set()
        self._is_closed = True

    def __repr__(self) -> str:
        return f"<Local: {self._workers} workers, {len(self._busy)} busy, {len(self._idle)} idle>"

    @property
    def name(self) -> str:
        """Name and size of the pool."""
        return f"local, {self._workers} worker{'s' if self._workers > 1 else ''}"

    @property
    def concurrency(self) -> int:
        """Number of workers."""
        return self._workers

    async def start(self) -> None:
        """Make the pool; workers start when there is work for them."""
        if not sys.executable:
            raise BackendError(
                "this Python does not know its own executable, so it can't start workers: "
                "run under an ordinary interpreter"
            )
        self._slots = asyncio.Semaphore(self._workers)
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
        async with self._slots:
            while True:
                reply, was_fresh = await self._call_a_worker(request, started)
                if was_fresh or not is_stale(reply):
                    return reply

    async def _call_a_worker(
        self, request: Request, started: Callable[[], None]
    ) -> tuple[Message, bool]:
        if self._is_closed:
            raise AttemptError(_not_run("the backend is closed", is_fatal=True))
        worker = self._idle_worker() or _WorkerProcess()
        was_fresh = worker.calls == 0
        self._busy.add(worker)
        is_usable = False
        try:
            if was_fresh:
                await worker.ready()
            started()
            reply = await worker.call(request)
            is_usable = not is_stale(reply)
        finally:
            self._busy.discard(worker)
            if is_usable and not self._is_closed:
                self._idle.append(worker)
            else:
                worker.kill()
        return reply, was_fresh

    def _idle_worker(self) -> _WorkerProcess | None:
        while self._idle:
            worker = self._idle.pop()
            if worker.is_alive():
                return worker
            worker.kill()
        return None

    async def aclose(self) -> None:
        """End all workers: the idle ones by themselves, the others at once."""
        self._is_closed = True
        idle, self._idle = self._idle, []
        try:
            for worker in self._busy:
                worker.kill()
            for worker in idle:
                worker.hang_up()
            async with asyncio.timeout(_EXIT_TIMEOUT_S):
                while any(worker.is_alive() for worker in idle):
                    await asyncio.sleep(0.005)
        except TimeoutError:
            pass
        finally:
            for worker in idle:
                worker.kill()


class _WorkerProcess:
    """One process, and the socket to it."""

    def __init__(self) -> None:
        self.calls = 0
        self._kernels: set[str] = set()  # whose code it was sent
        self._scratch = memoryview(np.empty(_READ_BYTES, np.uint8))
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

    async def ready(self) -> None:
        """Wait until it serves."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                if await loop.sock_recv(self._socket, 5) == b"ready":
                    return
            how = await self._obituary()
        except TimeoutError:
            how = f"was not ready after {_START_TIMEOUT_S:g} s"
        except OSError as error:
            how = f"broke its connection ({error})"
        raise AttemptError(_not_run(f"a new worker process {how}"))

    async def call(self, request: Request) -> Message:
        """Send a request and wait for the reply."""
        self.calls += 1
        digest = request.kernel.digest
        try:
            reply = await self._exchange(request.message(with_code=digest not in self._kernels))
            if is_unknown_kernel(reply):
                reply = await self._exchange(request.message())
        except OSError:  # the connection broke: so did the process
            reply = None
        if reply is None:
            how = await self._obituary()
            raise AttemptError(Failure(kind=FailureKind.CRASHED, detail=how))
        self._kernels.add(digest)
        return reply

    async def _exchange(self, message: Message) -> Message | None:
        """Send one frame, receive one; None when the process is gone."""
        loop = asyncio.get_running_loop()
        parts = frame(message)
        if sum(memoryview(part).nbytes for part in parts) <= _JOINED_BYTES:
            parts = [b"".join(parts)]
        for part in parts:
            await loop.sock_sendall(self._socket, part)
        received = 0
        while received < PREFIX_BYTES:
            count = await loop.sock_recv_into(self._socket, self._scratch[received:])
            if not count:
                return None
            received += count
        memory = memoryview(np.empty(frame_bytes(self._scratch), np.uint8))
        memory[:received] = self._scratch[:received]
        while received < memory.nbytes:
            count = await loop.sock_recv_into(self._socket, memory[received:])
            if not count:
                return None
            received += count
        return unframe(memory)

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
        self._socket.close()

    def kill(self) -> None:
        """End it now, and leave nothing of it."""
        self._socket.close()
        if self.is_alive():
            self._process.kill()
            self._process.wait()
        self._close_lifeline()

    def _close_lifeline(self) -> None:
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None


def _not_run(detail: str, *, is_fatal: bool = False) -> Failure:
    error = BackendError(detail) if is_fatal else None
    return Failure(kind=FailureKind.DID_NOT_RUN, detail=detail, error=error, is_fatal=is_fatal)


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
