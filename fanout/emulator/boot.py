"""What an environment's process does before it is AWS's runtime client.

Run as a script by its path, in the environment that the handler will see: so it imports the
standard library only, nothing of fanout. It ties the process' life to the emulator's, sets the
limits, and then becomes `python -m awslambdaric <handler>`.
"""

from __future__ import annotations

import json
import os
import resource
import runpy
import select
import signal
import sys
import threading
from pathlib import Path


def main() -> None:
    """Set up what the emulator has told, then run the runtime client."""
    told = json.loads(sys.argv[1])
    _die_with(told["lifeline"])
    if told["group"]:
        Path(told["group"]).write_text("0", encoding="ascii")  # 0 is whoever writes
    if told["data_bytes"]:
        _limit(resource.RLIMIT_DATA, told["data_bytes"])
    _limit(resource.RLIMIT_NOFILE, told["open_files"])
    _limit(resource.RLIMIT_CORE, 0)
    sys.argv[:] = ["awslambdaric", told["handler"]]
    sys.path[0] = str(Path.cwd())  # as `python -m` has it, and not the folder of this file
    runpy.run_module("awslambdaric", run_name="__main__", alter_sys=True)


def _limit(what: int, amount: int) -> None:
    hard = resource.getrlimit(what)[1]
    soft = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
    resource.setrlimit(what, (soft, hard))


# The technique of fanout.worker_process, which may not be importable here; this one ends the whole
# process group, so that what the handler has started ends with it.
def _die_with(lifeline: int) -> None:
    """End this process when the other end of the pipe closes."""
    if not _killed_by_system(lifeline):
        threading.Thread(target=_exit_at_end, args=(lifeline,), daemon=True).start()
    elif select.select([lifeline], [], [], 0)[0]:
        os._exit(1)  # it closed before the system was told to watch it


def _killed_by_system(lifeline: int) -> bool:
    try:
        import fcntl

        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
        flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC)
    except (ImportError, AttributeError, OSError):
        return False
    return True


def _exit_at_end(lifeline: int) -> None:
    while os.read(lifeline, 1):
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    main()
