"""The stands themselves: they say what is wrong, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.contract import stands

if TYPE_CHECKING:
    from pathlib import Path


def test_a_stand_that_does_not_start_shows_its_log(tmp_path: Path) -> None:
    script = "import sys; print('port taken'); sys.exit(4)"
    server = stands.Server("broken", [sys.executable, "-c", script], tmp_path)
    with pytest.raises(stands.StandError, match=r"broken ended with 4[^$]*port taken"):
        server.until(lambda: False)


def test_what_is_not_installed_is_an_error_with_what_to_do() -> None:
    with pytest.raises(stands.StandError, match="no-such-program is missing: run `make test`"):
        stands.installed("no-such-program")


_CLIENT = """
import sys, time
from pathlib import Path
from tests.contract import stands
script = '''
import subprocess, time
from pathlib import Path
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
Path("pid").write_text(str(child.pid))
time.sleep(600)
'''
folder = Path(sys.argv[1])
server = stands.Server("sleeper", [sys.executable, "-c", script], folder)
server.until((folder / "pid").exists)
print("ready", flush=True)
time.sleep(600)
"""


def test_a_stand_ends_with_all_it_started_when_the_tests_are_killed(tmp_path: Path) -> None:
    client = subprocess.Popen(
        [sys.executable, "-c", _CLIENT, str(tmp_path)], stdout=subprocess.PIPE, cwd=stands.ROOT
    )
    assert client.stdout is not None
    assert client.stdout.readline() == b"ready\n"
    pid = int((tmp_path / "pid").read_text())
    assert _is_running(pid)
    client.send_signal(signal.SIGKILL)
    client.wait()
    client.stdout.close()
    until_s = time.monotonic() + 10
    while _is_running(pid) and time.monotonic() < until_s:
        time.sleep(0.02)
    assert not _is_running(pid)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
