"""What a journal costs the client: CPU time a task, with and without, in turns.

    python tests/bench/journal.py [--quick] [--json]

Tasks that do nothing, on the local backend; their chunk and result are a number. CPU time of the
client with all its threads, so also that which writes; medians of the rounds. Plain SQLite, one row
a task in transactions of 250, is what there is to be paid in any case.

`cpu_overhead`: the part of a core that the journal takes at 1,000 tasks a second.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

if __name__ == "__main__":  # started as a script, Python sees the files beside it only
    sys.path.insert(0, str(Path(__file__).parents[2]))

import fanout

_PER_S: Final = 1000


def nothing(chunk: int) -> int:
    """The kernel."""
    return chunk


async def map_us(ex: fanout.Executor, tasks: int, name: str | None) -> float:
    """CPU time of a map, microseconds a task."""
    began_s = time.process_time()
    results = await ex.map(nothing, range(tasks), progress=False, name=name)
    assert results == list(range(tasks))
    return (time.process_time() - began_s) / tasks * 1e6


def plain_us(folder: str, tasks: int) -> float:
    """The same number of rows by SQLite alone."""
    began_s = time.process_time()
    database = sqlite3.connect(f"{folder}/plain-{tasks}-{time.monotonic_ns()}.db")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")
    database.execute("CREATE TABLE done (task INTEGER PRIMARY KEY, value BLOB)")
    for first in range(0, tasks, 250):
        with database:
            rows = [(task, b"%d" % task) for task in range(first, min(first + 250, tasks))]
            database.executemany("INSERT INTO done VALUES (?, ?)", rows)
    database.close()
    return (time.process_time() - began_s) / tasks * 1e6


async def measure(tasks: int, rounds: int, folder: str) -> dict[str, float]:
    """Microseconds a task."""
    found: dict[str, list[float]] = {"off": [], "on": [], "sqlite": []}
    async with fanout.Executor(fanout.Local(2)) as ex:
        await map_us(ex, tasks // 10, None)
        for number in range(rounds):
            found["off"].append(await map_us(ex, tasks, None))
            found["on"].append(await map_us(ex, tasks, f"round-{number}"))
            found["sqlite"].append(plain_us(folder, tasks))
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the tasks, one round")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    tasks, rounds = (10_000, 1) if options.quick else (100_000, 3)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FANOUT_HOME"] = folder
        found = asyncio.run(measure(tasks, rounds, folder))
    extra_us = found["on"] - found["off"]
    report = {
        "us_per_task_off": found["off"],
        "us_per_task_on": found["on"],
        "cpu_overhead": extra_us * 1e-6 * _PER_S,
        "vs_plain_sqlite": extra_us / found["sqlite"],
    }
    if options.json:
        json.dump(report, sys.stdout)
        return
    print(f"without a journal   {found['off']:6.1f} us of CPU a task")
    print(f"with one            {found['on']:6.1f}")
    print(f"SQLite alone        {found['sqlite']:6.1f}")
    print(f"the journal takes {report['cpu_overhead']:.1%} of a core at {_PER_S:,} tasks a second")


if __name__ == "__main__":
    main()
