"""Runs a command, and ends it with everything that it has started once stdin ends.

    python leash.py COMMAND [ARGUMENT...]

Whoever holds the other end of stdin need not do anything for that: it is closed when they end,
however they end. Linux only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

# From <linux/prctl.h>: orphaned descendants become children of this process, not of init.
_PR_SET_CHILD_SUBREAPER = 36
# For an orderly end, before everything is killed.
_GRACE_S = 2.0
_POLL_S = 0.2


def main(command: list[str]) -> int:
    """Run the command; returns its exit code."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    while child.poll() is None:
        readable, _, _ = select.select([0], [], [], _POLL_S)
        if readable and not os.read(0, 1024):
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_GRACE_S)
            break
    _kill_all()
    return child.poll() or 0


def _kill_all() -> None:
    """Kill all children, and their children as they become ours, until there are none."""
    while True:
        for pid in _children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children() -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            # The parent follows the name, which is in brackets and may hold anything.
            with contextlib.suppress(OSError):
                after_name = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(after_name[1]) == os.getpid():
                    found.append(int(entry.name))
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
