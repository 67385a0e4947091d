"""Ctrl-C, a notebook's stop button, a server's shutdown: a run ends and leaves nothing."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import logging
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from typing import TYPE_CHECKING, Any

import nbclient
import nbformat
import pexpect
import pytest

import fanout
from fanout.budget import Billed, running_on
from fanout.emulator import Emulator
from fanout.interrupts import Hold, kept_back
from tests.emulator_checks import ROOT, is_running
from tests.fakes import FakeBackend, Fate, always, square

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(not hasattr(pexpect, "spawn"), reason="needs pseudo-terminals")
needs_lambda = pytest.mark.skipif(
    importlib.util.find_spec("awslambdaric") is None, reason="needs awslambdaric"
)

KERNEL = """
def hang(folder):
    import os, time
    with open(os.path.join(folder, str(os.getpid())), "w"):
        pass
    time.sleep(600)
"""
PROGRAM = "import asyncio, os, sys, fanout\nfolder = sys.argv[1]\n" + KERNEL


def spawn(arguments: list[str], home: Path, **environment: str) -> pexpect.spawn:
    settings = {"FANOUT_PROGRESS": "0", "FANOUT_HOME": str(home), "PYTHONPATH": str(ROOT)}
    return pexpect.spawn(
        sys.executable,
        arguments,
        encoding="utf-8",
        codec_errors="replace",
        timeout=30,
        dimensions=(24, 300),
        cwd=str(home),
        env={**os.environ, **settings, **environment},
    )


def workers_in(folder: Path, count: int) -> list[int]:
    """The processes in which the kernel runs, once there are so many."""
    while len(found := [int(path.name) for path in folder.glob("[0-9]*")]) < count:
        time.sleep(0.02)
    return found


def until(condition: Callable[[], bool]) -> None:
    """Wait for it; the test's own timeout ends it."""
    while not condition():
        time.sleep(0.02)


def interrupted(arguments: list[str], home: Path, *, times: int = 1) -> tuple[str, int]:
    """What a program says that is interrupted inside its kernels, and how it ends."""
    child = spawn(arguments, home)
    workers = workers_in(home, 2)
    for _ in range(times):
        child.sendintr()
    written = child.read()
    child.close()
    until(lambda: not any(map(is_running, workers)))
    return written, child.exitstatus if child.exitstatus is not None else -child.signalstatus


# ---- programs ----


@pytest.mark.parametrize(
    "call",
    [
        "asyncio.run(fanout.map(hang, [folder] * 4, group=1, backend=fanout.Local(2)))",
        "fanout.sync.map(hang, [folder] * 4, group=1, backend=fanout.Local(2))",
    ],
)
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_ends_a_program_and_its_workers(call: str, times: int, tmp_path: Path) -> None:
    written, code = interrupted(["-c", PROGRAM + call, str(tmp_path)], tmp_path, times=times)
    assert code in {1, -signal.SIGINT}
    assert "KeyboardInterrupt" in written
    if times == 1:  # the second one may strike asyncio itself while it tidies up
        assert "never retrieved" not in written
        assert "never awaited" not in written


@pytest.mark.parametrize("way", ["async", "sync", "stream"])
def test_a_second_ctrl_c_at_any_moment_leaves_nothing_that_hangs(way: str) -> None:
    """Wherever the main thread is while the first one ends the run; every 13th line is tried."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.interrupting", way, "13"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert found["wrong"] is None, done.stderr
    assert found["lines"] > 400


def test_a_third_ctrl_c_ends_what_cannot_be_tidied_up() -> None:
    with pytest.raises(KeyboardInterrupt), Hold(), kept_back():  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the second one while all are kept back did not pass")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_ctrl_c_that_was_kept_comes_when_all_is_done() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), Hold():  # noqa: PT012
        with kept_back():
            signal.raise_signal(signal.SIGINT)
            done.append("tidied up")
        pytest.fail("it did not come")
    assert done == ["tidied up"]


def test_handlers_of_the_program_are_left_alone() -> None:
    came = []
    before = signal.signal(signal.SIGINT, lambda *_: came.append(True))
    try:
        for is_of_loop in (False, True):
            with Hold(of_loop=is_of_loop), kept_back():
                signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert came == [True, True]


def test_an_input_that_raises_what_ctrl_c_does_leaves_the_usual_handler() -> None:
    def chunks() -> Iterator[int]:
        yield 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(fanout.map(square, chunks(), backend=FakeBackend(1), progress=False))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_run_in_another_thread_does_not_touch_what_holds_in_the_main_one() -> None:
    with Hold():
        held = signal.getsignal(signal.SIGINT)
        other = threading.Thread(
            target=lambda: fanout.sync.map(square, [2], backend=FakeBackend(1), progress=False)
        )
        other.start()
        other.join()
        assert signal.getsignal(signal.SIGINT) is held
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("call", ["asyncio.run(fanout.run({}))", "fanout.sync.run({})"])
def test_a_run_with_a_journal_says_how_it_is_resumed(call: str, tmp_path: Path) -> None:
    arguments = "hang, [folder] * 4, group=1, backend=fanout.Local(2), name='sweep'"
    program = PROGRAM + call.format(arguments)
    written, _ = interrupted(["-c", program, str(tmp_path)], tmp_path)
    said = re.search(r"fanout: run (\S+) has ended; `fanout resume (\S+)` does what is", written)
    assert said is not None
    assert said[1] == said[2]
    (journal,) = (tmp_path / "runs").glob("*.db")
    assert journal.name.startswith(said[1])
    assert "in flight" not in written, "all of it was stopped"


# ---- commands ----


def command(home: Path) -> list[str]:
    (home / "kernels_here.py").write_text(KERNEL)
    (home / "chunks.jsonl").write_text(f'"{home}"\n' * 4)
    return ["-m", "fanout", "map", "kernels_here:hang", "--chunks", "chunks.jsonl", "--workers=2"]


def test_ctrl_c_ends_a_command_cleanly(tmp_path: Path) -> None:
    written, code = interrupted(command(tmp_path), tmp_path)
    assert code == 130
    assert written.replace("^C", "").strip() == "fanout: interrupted; no more tasks are launched"


STUBBORN = """
import asyncio, sys
from fanout.cli import run

async def work():
    try:
        print("begun", flush=True)
        await asyncio.sleep(600)
    finally:
        print("tidying up", flush=True)
        await asyncio.sleep(600)

run(work())
"""


def test_a_second_ctrl_c_leaves_a_command_at_once(tmp_path: Path) -> None:
    """Even one that is tidying up, and would for ten minutes."""
    child = spawn(["-c", STUBBORN], tmp_path)
    child.expect("begun")
    child.sendintr()
    child.expect("tidying up")
    child.sendintr()
    child.expect("interrupted twice; left at once")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130


def test_a_command_that_is_not_interrupted_leaves_signals_as_they_were() -> None:
    from fanout.cli import run

    before = signal.getsignal(signal.SIGINT)

    async def work() -> int:
        assert signal.getsignal(signal.SIGINT) is not before
        return 5

    assert run(work()) == 5
    assert signal.getsignal(signal.SIGINT) is before


# ---- Lambda ----


@needs_lambda
@pytest.mark.parametrize("call", ["asyncio.run(fanout.map({}))", "fanout.sync.map({})"])
async def test_ctrl_c_on_lambda_says_what_is_still_billed(call: str, tmp_path: Path) -> None:
    async with Emulator(concurrency=3, memory_mb=1024, timeout_s=20.0, path=[ROOT]) as emulator:
        program = PROGRAM + call.format("hang, [folder] * 5, group=1")

        def play() -> str:
            child = spawn(["-c", program, str(tmp_path)], tmp_path, **emulator.variables)
            workers_in(tmp_path, 3)
            child.sendintr()
            written: str = child.read()
            child.close()
            return written

        written = await asyncio.to_thread(play)
    (line,) = [line for line in written.splitlines() if "fanout: " in line]
    assert "3 attempts in flight can't be stopped" in line
    assert "billed for 20 s at most each, 90 GB-seconds in all" in line, "with 10 s of Init"
    assert re.search(r"`fanout resume \S+` does what is left of it", line)


@pytest.mark.parametrize(
    ("count", "billed", "said"),
    [
        (1, Billed(gb=2.0, timeout_s=60.0), "it runs on and is billed for 60 s at most each, 120 "),
        (
            3,
            Billed(gb=1.0, timeout_s=60.0, larger=Billed(gb=4.0, timeout_s=900.0, init_s=10.0)),
            "they run on and are billed for 900 s at most each, 10,920 ",
        ),
    ],
)
def test_what_runs_on_costs_no_more_than_is_said(count: int, billed: Billed, said: str) -> None:
    """Any of them may have gone to the larger function."""
    assert f"{said}GB-seconds in all" in running_on(count, "lambda f", billed)


# ---- notebooks ----


# The notebook's own libraries warn about their future; that is not ours to mend.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_stop_button_of_a_notebook_ends_a_run(tmp_path: Path) -> None:
    """Of `fanout.sync`: ipykernel 7.4 doesn't even stop `await asyncio.sleep(600)`."""
    make: Any = nbformat.v4
    running = "fanout.sync.map(hang, [folder] * 4, group=1, backend=fanout.Local(2))"
    after = textwrap.dedent("""
        import asyncio, threading
        print([task.get_name() for task in asyncio.all_tasks() if "fanout" in str(task)])
        print([thread.name for thread in threading.enumerate() if "portal" in thread.name.lower()])
        print(await fanout.map(lambda x: x + 1, [1, 2], backend=fanout.Local(2), progress=False))
    """)
    sources = [f"import fanout\nfolder = {str(tmp_path)!r}\n{KERNEL}", running, after]
    book = make.new_notebook(cells=[make.new_code_cell(source) for source in sources])
    client = nbclient.NotebookClient(book, timeout=60, kernel_name="python3", allow_errors=True)

    async def press() -> None:
        workers = await asyncio.to_thread(workers_in, tmp_path, 2)
        manager: Any = client.km
        await manager.interrupt_kernel()
        await asyncio.to_thread(until, lambda: not any(map(is_running, workers)))

    async def play() -> None:
        pressing = asyncio.create_task(press())
        await client.async_execute()
        await pressing

    asyncio.run(play())
    (stopped,) = [out for out in book.cells[1].outputs if out.output_type == "error"]
    assert stopped.ename == "KeyboardInterrupt"
    said = "".join(output.get("text", "") for output in book.cells[2].outputs)
    assert said.split("\n")[:3] == ["[]", "[]", "[2, 3]"]


# ---- servers ----


def sockets() -> set[str]:
    """The sockets that this process has."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(f"/proc/self/fd/{name}"))
    return {target for target in found if target.startswith("socket:")}


def hang(folder: str) -> None:
    with open(os.path.join(folder, str(os.getpid())), "w"):
        pass
    time.sleep(600)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs Linux's /proc")
async def test_a_server_that_shuts_down_leaves_nothing_of_its_maps(tmp_path: Path) -> None:
    """Its lifespan has the executor; each request runs a map; the end cancels what runs."""
    before, tasks = sockets(), asyncio.all_tasks()
    requests: set[asyncio.Task[None]] = set()
    async with fanout.Executor(fanout.Local(2)) as ex:

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            requests.add(task)
            try:
                await reader.readline()
                await ex.map(hang, [str(tmp_path)] * 2, group=1, progress=False)
            finally:
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"go\n")
        workers = await asyncio.to_thread(workers_in, tmp_path, 2)
        server.close()
        for request in requests:
            request.cancel()
        await asyncio.wait(requests)
        assert all(request.cancelled() for request in requests)
        assert await reader.read() == b""
        writer.close()
        await server.wait_closed()
    await asyncio.to_thread(until, lambda: not any(map(is_running, workers)))
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == tasks
    assert sockets() <= before


# ---- what is said, and when nothing is ----


def said_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("is_named", [True, False])
async def test_a_cancelled_run_tells_how_to_resume_it_if_it_has_a_journal(
    is_named: bool,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FANOUT_HOME", str(tmp_path))
    options: dict[str, Any] = {"name": "sweep"} if is_named else {}
    backend = FakeBackend(2, plan=always(Fate(task_s=600.0)))
    async with fanout.Executor(backend) as ex:
        run = asyncio.create_task(ex.map(square, range(4), **options))
        while not backend.in_flight:
            await asyncio.sleep(0.01)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
    assert ["`fanout resume " in line for line in said_of(caplog)] == ([True] if is_named else [])


async def test_a_stream_that_is_left_says_nothing_of_resuming(
    caplog: pytest.LogCaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FANOUT_HOME", str(tmp_path))
    plan = always(Fate(task_s=0.01))
    async with (
        fanout.Executor(FakeBackend(2, plan=plan)) as ex,
        ex.stream(square, range(100), name="sweep") as outcomes,
    ):
        await anext(outcomes)
    assert said_of(caplog) == []
