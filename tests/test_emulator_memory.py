"""The emulator's memory limit: control groups where they can be made, else RLIMIT_DATA."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fanout.emulator.environment import Environment
from fanout.emulator.faults import StartFaults
from fanout.emulator.function import Function
from fanout.emulator.memory import Group, Hierarchy, hierarchy
from fanout.emulator.runtime_api import Call
from fanout.emulator.starts import Starts
from tests.emulator_checks import ROOT, emulated, invoke

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("awslambdaric") is None, reason="needs awslambdaric"
)
FOUND = hierarchy()
needs_groups = pytest.mark.skipif(FOUND is None, reason="no control group can be made here")


def groups() -> set[str]:
    assert FOUND is not None
    return {path.name for path in FOUND.root.glob(f"fanout-emulator-{os.getpid()}-*")}


@needs_groups
async def test_what_exceeds_the_memory_is_killed_and_says_so() -> None:
    async with emulated(memory_mb=128) as (emulator, client):
        assert (await invoke(client, {"allocate": 50})).error is None
        got = await invoke(client, {"allocate": 300})
        assert got.error == "Unhandled"
        assert got.value["errorType"] == "Runtime.ExitError"
        assert "Runtime exited with error: signal: killed" in got.value["errorMessage"]
        assert "\tMemory Size: 128 MB\tMax Memory Used: 128 MB\t" in got.log
        assert (await invoke(client, {"json": 1})).value == "1"
        assert emulator.counts.cold_starts == 2


@needs_groups
async def test_each_environment_has_a_group_while_it_lives() -> None:
    async with emulated() as (_, client):
        assert groups() == set()
        pid = (await invoke(client, {"pid": 0})).value
        (name,) = groups()
        assert FOUND is not None
        assert pid in Group(FOUND.root / name).pids()
        await invoke(client, {"exit": 1})
        await invoke(client, {"pid": 0})
    assert groups() == set()


@needs_groups
def test_groups_of_an_emulator_that_was_killed_are_removed() -> None:
    assert FOUND is not None
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from fanout.emulator.memory import hierarchy\n"
        "print(hierarchy().make(128).path, flush=True)\nsys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as emulator:
        assert emulator.stdout is not None
        path = Path(emulator.stdout.readline().decode().strip())
        FOUND.remove_stale()
        assert path.exists()  # it lives
        emulator.send_signal(signal.SIGKILL)
    FOUND.remove_stale()
    assert not path.exists()


async def test_the_most_memory_used_is_reported() -> None:
    async with emulated(memory_mb=512) as (_, client):
        used = []
        for size in (0, 100, 0):
            log = (await invoke(client, {"allocate": size})).log
            found = re.search(r"Max Memory Used: (\d+) MB", log)
            assert found is not None
            used.append(int(found[1]))
        assert used[1] >= used[0] + 90
        assert used[2] >= used[1]


async def test_without_groups_python_runs_out_of_memory() -> None:
    function = Function(
        name="f",
        handler="tests.emulator_handlers.act",
        memory_mb=128,
        timeout_s=10,
        init_timeout_s=10,
        region="us-east-1",
        python=sys.executable,
        path=(str(ROOT),),
    )
    environment = Environment(function, StartFaults(), None, Starts(), lambda _: None)
    try:
        got = await environment.invoke(Call(request_id="1", payload=b'{"allocate": 50}'))
        assert not got.is_error
        got = await environment.invoke(Call(request_id="2", payload=b'{"allocate": 300}'))
        assert got.error_type == "MemoryError"
    finally:
        await environment.aclose()


# ---- where groups are made, on trees of files ----


def test_a_group_of_version_2_has_its_files(tmp_path: Path) -> None:
    """The kernel would make these files; here a folder takes what is written."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "memory.swap.max").touch()
    group = Hierarchy(tmp_path, 2).make(256)
    files = {path.name: path.read_text() for path in group.path.iterdir()}
    assert files == {
        "memory.max": str(256 * 2**20),
        "memory.oom.group": "1",
        "memory.swap.max": "0",
    }


def test_a_group_that_still_has_something_in_it_is_not_removed(tmp_path: Path) -> None:
    group = Group(tmp_path / "group")
    assert group.remove()  # it is gone
    group.path.mkdir()
    (group.path / "something").touch()
    assert not group.remove()
    with contextlib.suppress(OSError):
        group.kill()
    assert group.peak_mb() == 0
