"""What a task costs on the local backend, beside ProcessPoolExecutor and joblib, in one run.

    python tests/bench/local_overhead.py [--quick] [--json]

A task does nothing, so all that is measured is overhead. Each contender is warmed up, then they
take turns; the median of the rounds counts. "unbatched" sends each task by itself (`group=1`),
like ProcessPoolExecutor's `chunksize=1`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING

import joblib
import numpy as np

import fanout

if TYPE_CHECKING:
    from collections.abc import Callable

WORKERS = fanout.Local().concurrency


def nothing(chunk: int) -> int:
    """The kernel."""
    return chunk


def rate(run: Callable[[range], list[int]], tasks: int) -> float:
    """Tasks per second of one map; its results are checked."""
    chunks = range(tasks)
    began_s = time.perf_counter()
    results = run(chunks)
    elapsed_s = time.perf_counter() - began_s
    assert results == list(chunks)
    return tasks / elapsed_s


async def measure(rounds: int) -> dict[str, list[float]]:
    """Rates of all contenders, one for each round."""
    rates: dict[str, list[float]] = {}
    with ProcessPoolExecutor(WORKERS) as pool, joblib.Parallel(WORKERS) as parallel:
        async with fanout.Executor(fanout.Local(WORKERS)) as ex:
            contenders: dict[str, tuple[Callable[[range], list[int]], int]] = {
                "process_pool": (lambda chunks: list(pool.map(nothing, chunks)), 5_000),
                "process_pool_chunksize_100": (
                    lambda chunks: list(pool.map(nothing, chunks, chunksize=100)),
                    50_000,
                ),
                "joblib_loky": (
                    lambda chunks: parallel(joblib.delayed(nothing)(chunk) for chunk in chunks),
                    20_000,
                ),
            }
            for _ in range(rounds + 1):  # the first warms up
                for name, (run, tasks) in contenders.items():
                    rates.setdefault(name, []).append(rate(run, tasks))
                for name, group, tasks in (
                    ("fanout", None, 100_000),
                    ("fanout_unbatched", 1, 5_000),
                ):
                    began_s = time.perf_counter()
                    results = await ex.map(nothing, range(tasks), group=group, progress=False)
                    rates.setdefault(name, []).append(tasks / (time.perf_counter() - began_s))
                    assert results == list(range(tasks))
    return {name: found[1:] for name, found in rates.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    rates = asyncio.run(measure(rounds=1 if options.quick else 9))
    middle = {name: statistics.median(found) for name, found in rates.items()}
    report = {
        "tasks_per_s_vs_process_pool": middle["fanout"] / middle["process_pool"],
        "unbatched_vs_process_pool": middle["fanout_unbatched"] / middle["process_pool"],
        "batched_vs_joblib": middle["fanout"] / middle["joblib_loky"],
        "tasks_per_s": middle,
        "machine": f"{platform.machine()}, {WORKERS} cores",
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
    }
    if options.json:
        json.dump(report, sys.stdout)
        return
    for name, value in middle.items():
        ratio = value / middle["process_pool"]
        print(f"{name:28} {value:>10,.0f} tasks/s {ratio:>7.2f} x ProcessPoolExecutor")


if __name__ == "__main__":
    main()
