"""Worker processes that die, hang, or outlive their client."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING

import numba
import pytest

import fanout

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


def slow(chunk: int) -> tuple[int, int]:
    time.sleep(0.002)
    return chunk, os.getpid()


def poison(chunk: int) -> int:
    if chunk == 7:
        os._exit(3)
    return chunk


def killed(chunk: int) -> int:
    if chunk == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return chunk


def hangs(chunk: int) -> int:
    if chunk == 7:
        time.sleep(1000)
    return chunk


@numba.njit
def spins(chunk: int) -> int:  # compiled code that never lets go of the GIL
    while chunk == 7:
        chunk *= 1
    return chunk


def crashes_once(path: str) -> str:
    try:
        open(path, "x").close()
    except FileExistsError:
        return "second attempt"
    os._exit(1)


async def test_no_task_is_lost_while_workers_are_killed() -> None:
    rng = random.Random(1)
    pids: set[int] = set()
    kills = 0
    results: dict[int, int] = {}
    async with (
        fanout.Executor(fanout.Local(2)) as ex,
        ex.stream(slow, range(2000), retry=fanout.RetryPolicy(max_attempts=6)) as outcomes,
    ):
        async for outcome in outcomes:
            chunk, pid = outcome.result()
            results[outcome.index] = chunk
            pids.add(pid)
            if kills < 12 and rng.random() < 0.01:
                kills += 1
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    assert kills == 12
    assert len(pids) > 4
    assert results == {index: index for index in range(2000)}


@pytest.mark.parametrize(
    ("kernel", "how"), [(poison, "exited with code 3"), (killed, "was killed by SIGKILL")]
)
async def test_a_task_that_kills_its_worker_is_reported_by_index_and_harms_no_other(
    kernel: object, how: str
) -> None:
    async with fanout.Executor(fanout.Local(2)) as ex:
        results = await ex.map(poison if kernel is poison else killed, range(200),
                               return_exceptions=True)  # fmt: skip
    error = results[7]
    assert isinstance(error, fanout.errors.WorkerCrashedError)
    assert error.index == 7
    assert error.attempts == 3
    assert f"its worker {how} (attempt 3)" in str(error)
    assert [r for i, r in enumerate(results) if i != 7] == [i for i in range(200) if i != 7]


async def test_a_task_whose_worker_died_once_succeeds_with_its_second_attempt(
    tmp_path: Path,
) -> None:
    run = await fanout.run(crashes_once, [str(tmp_path / "crashed")])
    assert run.results == ["second attempt"]
    assert run.outcomes[0].attempts == 2


@pytest.mark.parametrize("kernel", [hangs, spins])
async def test_a_task_that_hangs_is_stopped_and_reported_and_harms_no_other(
    kernel: object,
) -> None:
    async with fanout.Executor(fanout.Local(2)) as ex:
        chosen = hangs if kernel is hangs else spins
        results = await ex.map(chosen, range(100), timeout_s=3.0, return_exceptions=True)
    error = results[7]
    assert isinstance(error, fanout.errors.TaskTimeoutError)
    assert "task 7: still running after 3 s" in str(error)
    assert [r for i, r in enumerate(results) if i != 7] == [i for i in range(100) if i != 7]


async def test_loading_the_kernel_does_not_count_against_the_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_to_import.py").write_text(
        "import sys, time\n"
        "if 'fanout.worker_process' in sys.modules: time.sleep(1.5)\n"
        "def kernel(chunk): return chunk\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("slow_to_import")
    assert await fanout.map(module.kernel, [1, 2], timeout_s=1.0) == [1, 2]


async def test_a_kernel_that_kills_every_worker_while_it_loads_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deadly_to_import.py").write_text(
        "import os, sys\n"
        "if 'fanout.worker_process' in sys.modules: os._exit(5)\n"
        "def kernel(chunk): return chunk\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("deadly_to_import")
    with pytest.raises(fanout.errors.BackendError, match="that loaded kernel exited with code 5"):
        await fanout.map(module.kernel, range(1000), backend=fanout.Local(1))


async def test_a_cancelled_map_stops_the_kernels() -> None:
    async with fanout.Executor(fanout.Local(2)) as ex:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await ex.map(time.sleep, [1000, 1000])
        assert await ex.map(abs, [-1]) == [1]


_SCRIPT = """
import os, time, numba
import fanout

@numba.njit
def spin(chunk):
    while chunk >= 0:
        chunk *= 1
    return chunk

def kernel(chunk):
    print(os.getpid(), flush=True)
    os.write(2, f"{os.getpid()}\\n".encode())
    spin(1)

fanout.sync.map(kernel, [1, 2], backend=fanout.Local(2), progress=False)
"""


def _started(script: str) -> tuple[subprocess.Popen[str], list[int]]:
    """A client whose workers are in the middle of a kernel, and their process ids."""
    client = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert client.stderr is not None
    workers = [int(client.stderr.readline()) for _ in range(2)]
    time.sleep(1.0)  # until they are inside the compiled loop, and hold the GIL
    return client, workers


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_client_that_ends_in_the_middle_leaves_no_process_behind(how: signal.Signals) -> None:
    client, workers = _started(_SCRIPT)
    client.send_signal(how)
    assert client.stderr is not None
    rest = client.stderr.read()
    client.stderr.close()
    client.wait(timeout=30)
    assert ("KeyboardInterrupt" in rest) == (how is signal.SIGINT)
    until_s = time.monotonic() + 60
    while any(map(_is_running, workers)) and time.monotonic() < until_s:
        time.sleep(0.05)
    assert not any(map(_is_running, workers))


def _is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_a_worker_that_died_in_its_sleep_is_replaced() -> None:
    async with fanout.Executor(fanout.Local(1)) as ex:
        ((_, pid),) = await ex.map(slow, [0])
        os.kill(pid, signal.SIGKILL)
        while _is_running(pid):
            await asyncio.sleep(0.01)
        run = await ex.run(slow, [1])
    ((chunk, other),) = run.results
    assert (chunk, run.outcomes[0].attempts) == (1, 1)
    assert other != pid


async def test_a_call_that_waits_behind_a_hanging_one_is_not_blamed() -> None:
    async with fanout.Executor(fanout.Local(1)) as ex:
        await ex.map(hangs, range(8, 500), group=1)  # quick calls: the next one waits in the socket
        results = await ex.map(hangs, range(5, 12), group=1, timeout_s=1.0, return_exceptions=True)
    assert isinstance(results.pop(2), fanout.errors.TaskTimeoutError)
    assert results == [5, 6, 8, 9, 10, 11]


async def test_closing_the_executor_under_a_map_ends_the_map() -> None:
    ex = fanout.Executor(fanout.Local(1))
    await ex.__aenter__()
    running = asyncio.create_task(ex.map(time.sleep, [600, 600, 600]))
    await asyncio.sleep(1.0)
    await ex.__aexit__(None, None, None)
    with pytest.raises(fanout.errors.FanoutError, match="closed"):
        await running
