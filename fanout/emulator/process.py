"""The process of an environment: started, watched, frozen, read and killed.

It is told apart from others by its own process group, so that what a handler starts ends with it,
and it holds the reading end of a pipe whose other end only the emulator has: when the emulator
ends, however it ends, the kernel kills it (see `boot`). Its output comes by a pipe.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import fanout.emulator.quotas as quotas

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fanout.emulator.memory import Group

_BOOT: Final = str(Path(__file__).with_name("boot.py"))
_READ_BYTES: Final = 64 * 1024
# A handler may print without end, in a thread: reading what there is must come to one.
_MAX_READS: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to run.

    Attributes:
        python: The interpreter.
        handler: As `module.function`.
        environment: All of its environment variables.
        folder: Where it starts.
        group: Its control group, if it has one.
        data_bytes: Else a limit for its data.
    """

    python: str
    handler: str
    environment: Mapping[str, str]
    folder: str
    group: Group | None
    data_bytes: int | None


class Process:
    """A running process.

    Attributes:
        exit_code: As `subprocess` has it, when it has ended.
    """

    def __init__(
        self,
        command: Command,
        *,
        on_output: Callable[[bytes], None],
        on_exit: Callable[[], None],
    ) -> None:
        self.exit_code: int | None = None
        self._is_closed = False
        self._on_output = on_output
        self._on_exit = on_exit
        self._loop = asyncio.get_running_loop()
        self._exited: asyncio.Future[None] = self._loop.create_future()
        # What is ours is undone if anything fails, as it does when too many files are open.
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            self._output, output = _pipe(ours, theirs)
            lifeline, self._lifeline = _pipe(theirs, ours)
            self._popen = self._spawn(command, output, lifeline)
            ours.callback(self._popen.wait)
            ours.callback(self._popen.kill)
            self._status = _status(self._popen.pid)
            if self._status is not None:
                ours.callback(os.close, self._status)
            self._watch()
            ours.pop_all()
        os.set_blocking(self._output, False)
        self._loop.add_reader(self._output, self.read)

    @staticmethod
    def _spawn(command: Command, output: int, lifeline: int) -> subprocess.Popen[bytes]:
        told = {
            "lifeline": lifeline,
            "group": str(command.group.entrance) if command.group else None,
            "data_bytes": command.data_bytes,
            "open_files": quotas.OPEN_FILES,
            "handler": command.handler,
        }
        return subprocess.Popen(
            [command.python, _BOOT, json.dumps(told)],
            env=command.environment,
            cwd=command.folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(lifeline,),
            process_group=0,  # Ctrl-C at the terminal reaches the emulator only
        )

    # ---- what it has said and used ----

    def read(self) -> None:
        """Take all output that is there."""
        if self._is_closed:
            return
        for _ in range(_MAX_READS):
            try:
                data = os.read(self._output, _READ_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            if not data:  # all who could write are gone; the exit will be told
                self._loop.remove_reader(self._output)
                return
            self._on_output(data)
            if len(data) < _READ_BYTES:
                return

    def peak_mb(self) -> int:
        """The most memory that it has had, MB, rounded up; 0 where the system doesn't tell."""
        if self._status is None:
            return 0
        try:
            text = os.pread(self._status, 4096, 0)
        except OSError:
            return 0  # it has just ended
        _, found, rest = text.partition(b"VmHWM:")
        return -(-int(rest.split(None, 1)[0]) // 1024) if found else 0

    # ---- what is done to it ----

    def freeze(self) -> None:
        """Stop it until `thaw`."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill it, and whatever it has started. Its exit is told as any other."""
        self._signal(signal.SIGKILL)

    async def wait(self) -> None:
        """Until it has ended."""
        await asyncio.shield(self._exited)

    def _signal(self, number: int) -> None:
        if self.exit_code is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # of a dead group
                os.killpg(self._popen.pid, number)

    # ---- its end ----

    def _watch(self) -> None:
        """Be called when it ends: by the kernel on Linux, else by a thread that waits."""
        if hasattr(os, "pidfd_open"):
            self._pidfd = os.pidfd_open(self._popen.pid)
            self._loop.add_reader(self._pidfd, self._ended_on_linux)
        else:
            threading.Thread(target=self._wait, name="fanout-emulator-wait", daemon=True).start()

    def _ended_on_linux(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._ended()

    def _wait(self) -> None:
        self._popen.wait()
        with contextlib.suppress(RuntimeError):  # the event loop was closed meanwhile
            self._loop.call_soon_threadsafe(self._ended)

    def _ended(self) -> None:
        """Take its last words and free what it had."""
        self.kill()  # what it has started; not yet reaped, its id is still its own (on Linux)
        self.exit_code = self._popen.wait()
        self.read()
        self._is_closed = True
        self._loop.remove_reader(self._output)
        os.close(self._output)
        os.close(self._lifeline)
        if self._status is not None:
            os.close(self._status)
            self._status = None
        self._exited.set_result(None)
        self._on_exit()


def _pipe(reader: contextlib.ExitStack, writer: contextlib.ExitStack) -> tuple[int, int]:
    """A pipe; each of the two closes the end that is its own."""
    ends = os.pipe()
    reader.callback(os.close, ends[0])
    writer.callback(os.close, ends[1])
    return ends


def _status(pid: int) -> int | None:
    """The file that tells of a process, where there is such a thing."""
    try:
        return os.open(f"/proc/{pid}/status", os.O_RDONLY)
    except FileNotFoundError:
        return None


def end_of(exit_code: int) -> str:
    """How a process ended, in the words of Go's library, which Lambda uses."""
    if exit_code == 0:
        return "Runtime exited without providing a reason"
    if exit_code > 0:
        return f"Runtime exited with error: exit status {exit_code}"
    return f"Runtime exited with error: signal: {_SIGNALS.get(-exit_code, f'signal {-exit_code}')}"


# zerrors_linux_amd64.go of Go's package syscall.
_SIGNALS: Final = {
    1: "hangup",
    2: "interrupt",
    3: "quit",
    4: "illegal instruction",
    5: "trace/breakpoint trap",
    6: "aborted",
    7: "bus error",
    8: "floating point exception",
    9: "killed",
    10: "user defined signal 1",
    11: "segmentation fault",
    12: "user defined signal 2",
    13: "broken pipe",
    14: "alarm clock",
    15: "terminated",
}
