"""`kill -9` of the client at any moment: nothing that the journal holds is done, or paid, again."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from fanout.emulator import Emulator
from fanout.journal import Folder
from tests.emulator_checks import ROOT

if TYPE_CHECKING:
    from pathlib import Path

# Dozens of clients start one after the other, each with its workers, or a Lambda.
pytestmark = pytest.mark.timeout(400)

TASKS = 400

CLIENT = """
import functools, json, os, sys
import fanout
from tests.journal_kernels import timed

options = json.loads(sys.argv[2])
results = fanout.sync.map(functools.partial(timed, sys.argv[1]), range({tasks}), **options)
print(results == [n * n for n in range({tasks})])
"""


class Killer:
    """Starts clients of one run, and kills them.

    Args:
        folder: For the kernel's log.
        seed: Of the moments.
        options: Of the map.
    """

    def __init__(self, folder: Path, seed: int, **options: object) -> None:
        self.log = folder / f"log-{seed}"
        self._random = random.Random(seed)
        self._name = f"run-{seed}"
        self._options = {"name": self._name, **options}
        self._held: dict[int, float] = {}  # tasks that the journal held at a kill, and when

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", CLIENT.format(tasks=TASKS), str(self.log),
             json.dumps(self._options)],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def kill_once(self, within_s: float) -> bool:
        """Start a client, and kill it a moment after its first task; False if it ended itself."""
        before = self._size()
        client = self.start()
        while self._size() == before and client.poll() is None:
            time.sleep(0.002)
        time.sleep(self._random.uniform(0.0, within_s))
        client.send_signal(signal.SIGKILL)
        client.communicate(timeout=60)
        if client.returncode != -signal.SIGKILL:
            return False
        for task in self._kept():
            self._held.setdefault(task, time.time())
        return True

    def kill(self, most: int, within_s: float) -> int:
        """Kill clients until the run is over, and no more of them; returns how many."""
        kills = 0
        while kills < most and self.kill_once(within_s):
            kills += 1
        return kills

    def finish(self) -> None:
        client = self.start()
        printed, errors = client.communicate(timeout=100)
        assert printed == "True\n", errors

    def check(self) -> int:
        """None was run again once the journal held it; returns how many were held at a kill."""
        for line in self.log.read_text().splitlines():
            task, at_s = line.split()
            held_s = self._held.get(int(task))
            assert held_s is None or float(at_s) <= held_s, f"task {task} ran again"
        return len(self._held)

    def ran(self) -> Counter[str]:
        return Counter(line.split()[0] for line in self.log.read_text().splitlines())

    def _size(self) -> int:
        return self.log.stat().st_size if self.log.exists() else 0

    def _kept(self) -> list[int]:
        path = Folder().find(self._name)
        if path is None:
            return []
        with contextlib.closing(sqlite3.connect(path)) as database:
            try:
                return [task for (task,) in database.execute("SELECT task FROM outcomes")]
            except sqlite3.OperationalError:  # killed before its tables were made
                return []


@pytest.mark.parametrize("seed", range(5))
def test_clients_on_this_machine_killed_ten_times_do_nothing_again(
    tmp_path: Path, seed: int
) -> None:
    """Ten for each seed, in as many runs as that takes: fast clients are through before."""
    kills = held = 0
    for number in itertools.count(100 * seed):
        killer = Killer(tmp_path, number, group=2)
        kills += killer.kill(10 - kills, within_s=0.25)
        killer.finish()
        held += killer.check()
        ran = killer.ran()
        assert set(ran) == {str(task) for task in range(TASKS)}
        # What was in flight or on its way to the disk, at each kill, at most.
        assert sum(ran.values()) - TASKS < TASKS
        if kills == 10:
            break
    assert held > 0


def test_all_that_came_a_moment_before_the_kill_is_held(tmp_path: Path) -> None:
    """A result is on disk a tenth of a second after it came; this gives it more."""
    killer = Killer(tmp_path, 99, group=1)
    client = killer.start()
    while not killer.log.exists() or len(killer.ran()) < 100:
        time.sleep(0.01)
    client.send_signal(signal.SIGSTOP)  # it writes no more
    done = len(killer.ran())
    client.send_signal(signal.SIGCONT)
    while len(killer.ran()) < done + 150 and client.poll() is None:
        time.sleep(0.01)
    client.send_signal(signal.SIGKILL)
    client.communicate(timeout=60)
    held = len(killer._kept())
    assert held > 0
    killer.finish()
    assert sum(killer.ran().values()) <= 2 * TASKS - held


needs_runtime = pytest.mark.skipif(
    importlib.util.find_spec("awslambdaric") is None, reason="needs awslambdaric"
)


class Bill:
    """What an emulator's invocations cost, GB-seconds."""

    def __init__(self) -> None:
        self.gb_s = 0.0
        self._lock = threading.Lock()

    def __call__(self, log: str) -> None:
        found = re.findall(r"Billed Duration: (\d+) ms\tMemory Size: (\d+) MB", log)
        with self._lock:
            self.gb_s += sum(int(ms) / 1000 * int(mb) / 1024 for ms, mb in found)


@needs_runtime
@pytest.mark.parametrize("max_gb_s", [None, 700.0])
async def test_clients_of_lambda_killed_ten_times_pay_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_gb_s: float | None
) -> None:
    """In as many runs as that takes, each with an emulator of its own, and so with its own bill."""
    options: dict[str, Any] = {} if max_gb_s is None else {"max_gb_s": max_gb_s}
    kills = held = 0
    for seed in itertools.count(1000):
        bill = Bill()
        async with Emulator(concurrency=2, timeout_s=3.0, path=[ROOT], on_log=bill) as emulator:
            for name, value in emulator.variables.items():
                monkeypatch.setenv(name, value)
            killer = Killer(tmp_path, seed, group=5, hedge=False, **options)
            kills += await asyncio.to_thread(killer.kill, 10 - kills, 0.3)
            client = await asyncio.to_thread(killer.start)
            printed, errors = await asyncio.to_thread(client.communicate, None, 100)
        if printed == "True\n":
            assert set(killer.ran()) == {str(task) for task in range(TASKS)}
        else:
            assert max_gb_s is not None, errors
            assert "BudgetExceededError" in errors
        held += killer.check()
        (record,) = (record for record in Folder().runs() if record.name == f"run-{seed}")
        assert record.spent_gb_s >= bill.gb_s * 0.999
        assert bill.gb_s > 0
        if max_gb_s is not None:
            assert bill.gb_s <= max_gb_s
            assert record.spent_gb_s <= max_gb_s
        if kills == 10:
            break
    assert held > 0


@needs_runtime
@pytest.mark.parametrize("cap", [{"max_gb_s": 120.0}, {"max_usd": 0.002}])
async def test_a_budget_holds_over_crashes_that_leave_no_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cap: dict[str, float]
) -> None:
    """Killed right after its launches, again and again: what they may cost is in the books.

    0.002 dollars are 120 GB-seconds, less the requests.
    """
    bill = Bill()
    async with Emulator(concurrency=2, timeout_s=2.0, path=[ROOT], on_log=bill) as emulator:
        for name, value in emulator.variables.items():
            monkeypatch.setenv(name, value)
        killer = Killer(tmp_path, 300, group=100, hedge=False, **cap)
        kills = 0
        for _ in range(4):
            while emulator.counts.running:  # what earlier clients left behind
                await asyncio.sleep(0.02)
            kills += await asyncio.to_thread(killer.kill_once, 0.0)
        client = await asyncio.to_thread(killer.start)
        _, errors = await asyncio.to_thread(client.communicate, None, 100)
    assert kills > 1
    assert "BudgetExceededError" in errors
    assert 0 < bill.gb_s <= 120.0


def test_a_journal_that_was_just_begun_is_begun_again(tmp_path: Path) -> None:
    """Killed while it is made: at any moment before the first task."""
    killer = Killer(tmp_path, 400, group=20)
    for wait_s in (0.2, 0.3, 0.35, 0.4, 0.45, 0.5):
        client = killer.start()
        time.sleep(wait_s)
        client.send_signal(signal.SIGKILL)
        client.communicate(timeout=60)
    killer.finish()
    assert set(killer.ran()) == {str(task) for task in range(TASKS)}
    assert os.listdir(Folder().path)
