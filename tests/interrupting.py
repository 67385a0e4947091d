"""Interrupted twice: the second time at any of the lines that the main thread runs after the first.

    python -m tests.interrupting async 5

Each time in a process of its own, forked off one that has imported all. SIGALRM ends what hangs.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import fanout
from tests.fakes import End, FakeBackend, Fate, always, square

if TYPE_CHECKING:
    from types import FrameType

# Nothing here takes a second; who is not through by then waits for what never comes.
HUNG_S = 60


class Lines:
    """Interrupts before the given line that the main thread runs from `begin` on."""

    def __init__(self, target: int) -> None:
        self.count = 0
        self.has_begun = False
        self._target = target

    def begin(self, _: int, frame: FrameType | None) -> None:
        """The first Ctrl-C; a handler of signals."""
        if self.has_begun:
            return
        self.has_begun = True
        sys.settrace(self._trace)
        while frame is not None:
            frame.f_trace = self._trace
            frame = frame.f_back
        signal.raise_signal(signal.SIGINT)

    def end(self) -> None:
        """What comes after the run is no affair of fanout."""
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, _: object) -> Any:
        self.count += event == "line" and frame.f_code.co_filename != __file__
        if self.count == self._target:
            self.end()
            signal.raise_signal(signal.SIGINT)
        return self._trace


def work(way: str, backend: FakeBackend, lines: Lines) -> None:
    options: Any = {"group": 1, "progress": False, "backend": backend}

    async def wait() -> None:
        try:
            await fanout.map(square, range(4), **options)
        finally:
            lines.end()

    if way == "async":
        asyncio.run(wait())
    elif way == "sync":
        fanout.sync.map(square, range(4), **options)
    else:
        with fanout.sync.stream(square, range(4), **options) as outcomes:
            list(outcomes)


def interrupted(way: str, target: int) -> int:
    """In the forked process: how many lines there were before the second one; 0 if it is wrong."""
    lines = Lines(target)
    backend = FakeBackend(4, plan=always(Fate(end=End.HANG)))

    def press() -> None:
        while backend.in_flight < 4:
            time.sleep(0.001)
        while not lines.has_begun:  # one that comes just before the thread waits does not wake it
            os.kill(os.getpid(), signal.SIGUSR2)
            time.sleep(0.001)

    signal.signal(signal.SIGUSR2, lines.begin)
    presser = threading.Thread(target=press)
    presser.start()
    try:
        work(way, backend, lines)
    except KeyboardInterrupt:
        lines.end()
        presser.join()
        is_as_before = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        return lines.count if is_as_before and threading.active_count() == 1 else 0
    return 0


def in_a_fork(way: str, target: int) -> int:
    """The same; 0, too, if it hangs."""
    reading, told = os.pipe()
    if not (child := os.fork()):
        signal.alarm(HUNG_S)
        os.write(told, interrupted(way, target).to_bytes(4, "big"))
        os._exit(0)
    os.close(told)
    with os.fdopen(reading, "rb") as answer:
        os.waitpid(child, 0)
        return int.from_bytes(answer.read(), "big")


def main(way: str, step: int) -> None:
    """Print how many lines there are, and the first of them, if any, after which it goes wrong."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    target, wrong = 1, None
    while wrong is None:
        count = in_a_fork(way, target)
        if count < target:
            wrong = target if not count else None
            break
        target += step
    print(json.dumps({"lines": target, "wrong": wrong}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
