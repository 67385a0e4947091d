"""A worker as a process on this machine: frames in and out of a socket, `Worker.run` between.

Started by `backends.local` with a fresh interpreter, never by fork, so that neither the caller's
threads nor its `__main__` matter. Its life hangs on a pipe whose other end the client holds: when
that closes (the client ended, was killed, or let the worker go), the process ends at once, in the
middle of a kernel if need be.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from typing import TYPE_CHECKING

from fanout.wire import FrameReader, Message, frame, joined
from fanout.worker import Worker

if TYPE_CHECKING:
    import socket


def main(sock: socket.socket, lifeline: int | None) -> None:
    """Serve requests from `sock` until the client closes it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the client's: it decides what stops
    if lifeline is not None:
        _die_with(lifeline)
    if hasattr(os, "register_at_fork"):
        # A kernel that forks must not keep the socket open after this process died.
        os.register_at_fork(after_in_child=sock.close)
    _stdout_to_stderr()
    worker = Worker()
    _send(sock, Message({"ready": True}))
    reader = FrameReader()
    while count := sock.recv_into(reader.space()):
        for request in reader.received(count):
            _send(sock, worker.run(request))


def _send(sock: socket.socket, message: Message) -> None:
    for part in joined(frame(message)):
        sock.sendall(part)


def _die_with(lifeline: int) -> None:
    """End this process when the other end of the pipe closes."""
    if not _killed_by_system(lifeline):
        threading.Thread(
            target=_exit_at_end, args=(lifeline,), name="fanout-lifeline", daemon=True
        ).start()
    elif select.select([lifeline], [], [], 0)[0]:
        os._exit(1)  # it closed before the system was told to watch it


def _killed_by_system(lifeline: int) -> bool:
    """Have Linux send SIGKILL when the pipe closes: works while compiled code holds the GIL."""
    try:
        import fcntl

        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
        flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC)
    except (ImportError, AttributeError, OSError):
        return False
    return True


def _exit_at_end(lifeline: int) -> None:
    """The portable way: acts as soon as the kernel lets go of the GIL."""
    while os.read(lifeline, 1):
        pass
    os._exit(1)


def _stdout_to_stderr() -> None:
    """The client's stdout carries data; what a kernel's C code prints must not get in between."""
    try:
        sys.stdout.flush()
        os.dup2(2, 1)
    except (OSError, ValueError, AttributeError):
        pass  # no stdout or stderr at all: nothing to mix up
