"""One worker process, and the socket to it: what `local` makes a pool of.

The other end is `worker_process`. A `Channel` carries requests and replies in order; the process
it leads to is started here, is told dead from alive, and is killed so that nothing of it remains.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from fanout.backends import AttemptError
from fanout.errors import BackendError
from fanout.reply import is_refused, is_unknown_kernel
from fanout.retry import Failure, FailureKind
from fanout.wire import FrameReader, Message, frame, joined

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.request import Request

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
# What a kernel imports may be large and lie on a slow disk; nothing takes longer than this.
_LOAD_TIMEOUT_S: Final = 300.0
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


class WorkerProcess:
    """One process, and the socket to it."""

    def __init__(self) -> None:
        self.calls = 0
        self.load = 0  # attempts that are here or on their way
        self._is_given_up = False
        self._kernels: set[str] = set()  # whose code it was sent
        self._transport: asyncio.Transport | None = None
        self._channel: Channel | None = None
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        self._lifeline: int | None = None
        try:
            self._process = self._spawn(theirs)
        except OSError as error:
            self._socket.close()
            self._close_lifeline()
            raise AttemptError(
                not_run(f"a worker process could not be started: {error}")
            ) from error
        finally:
            theirs.close()

    def _spawn(self, theirs: socket.socket) -> subprocess.Popen[bytes]:
        path = json.dumps([_absolute(entry) for entry in sys.path])
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
        """Whether the process still runs."""
        return self._process.poll() is None

    @property
    def is_ready(self) -> bool:
        """Whether it has said that it serves."""
        return self._channel is not None

    async def ready(self) -> None:
        """Wait until it serves."""
        loop = asyncio.get_running_loop()
        is_fatal = False
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                self._transport, channel = await loop.create_connection(Channel, sock=self._socket)
                await channel.receive(_nothing)
            self._channel = channel
        except LostError:
            how = await self._obituary()
        except TimeoutError:
            how = f"was not ready after {_START_TIMEOUT_S:g} s"
            is_fatal = True  # others won't fare better, and would take as long
        except OSError as error:
            how = f"broke its connection ({error})"
        else:
            return
        raise AttemptError(not_run(f"a new worker process {how}", is_fatal=is_fatal))

    async def call(self, request: Request, started: Callable[[], None]) -> Message:
        """Send a request and wait for the reply.

        A worker that has not seen the kernel loads it first: what a kernel imports may take longer
        than its tasks are allowed.
        """
        self.calls += 1
        if request.kernel.digest not in self._kernels:
            reply = await self._load(request)
            if is_refused(reply):
                return reply
            self._kernels.add(request.kernel.digest)
        reply = await self._exchange(request.message(with_code=False), started)
        if is_unknown_kernel(reply):  # it keeps a limited number of kernels
            self._kernels.discard(request.kernel.digest)
            return await self.call(request, started)
        return reply

    async def _load(self, request: Request) -> Message:
        try:
            async with asyncio.timeout(_LOAD_TIMEOUT_S):
                return await self._exchange(request.loading(), _nothing)
        except TimeoutError:
            what = f"{request.kernel.name} was not loaded after {_LOAD_TIMEOUT_S:g} s"
            raise AttemptError(not_run(what, is_fatal=True)) from None
        except AttemptError as error:
            # No task has begun: none is to blame, but none can run either if this goes on.
            what = f"a worker that loaded {request.kernel.name} {error.failure.detail}"
            raise AttemptError(not_run(what)) from None

    async def _exchange(self, message: Message, started: Callable[[], None]) -> Message:
        assert self._channel is not None
        try:
            return await self._channel.exchange(message, started)
        except LostError as lost:
            if self._is_given_up:
                raise AttemptError(not_run("its worker was stopped for another task")) from None
            how = await self._obituary()
            if not lost.was_running:
                raise AttemptError(not_run(f"its worker {how} before it began")) from None
            raise AttemptError(Failure(kind=FailureKind.CRASHED, detail=how)) from None

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


class LostError(Exception):
    """The connection to a worker is gone; says whether it had begun with the request."""

    def __init__(self, *, was_running: bool) -> None:
        super().__init__()
        self.was_running = was_running


class Channel(asyncio.BufferedProtocol):
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
            LostError: The process is gone.
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
            reply.set_exception(LostError(was_running=False))
            return reply
        self._awaited.append((reply, started))
        if len(self._awaited) == 1:
            started()
        return reply

    # ---- called by asyncio ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        self._writable.set()
        for position, (reply, _) in enumerate(self._awaited):
            if not reply.done():
                reply.set_exception(LostError(was_running=position == 0))
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


def _absolute(entry: str) -> str:
    """An entry of sys.path, wherever it is read; some name no place but a hook of an installer."""
    path = Path(entry)  # "" is the current folder
    return str(path.absolute()) if path.exists() else entry


def not_run(detail: str, *, is_fatal: bool = False) -> Failure:
    """The failure of an attempt that no worker began with."""
    error = BackendError(detail) if is_fatal else None
    return Failure(kind=FailureKind.DID_NOT_RUN, detail=detail, error=error, is_fatal=is_fatal)
