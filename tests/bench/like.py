"""How near `fanout simulate --like RUN` comes to runs that were, on the emulator.

    python tests/bench/like.py [--quick] [--json] [--shapes NAME ...]

Kernels sleep, so that environments don't take the cores from each other. Each run is simulated on
the fleet that is fitted to its own journal, 40 times. The ratios are medians over what was
observed: makespan, and GB-seconds as the client knows them; beside them what the emulator billed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if __name__ == "__main__":  # started as a script, Python sees the files beside it only
    sys.path.insert(0, str(Path(__file__).parents[2]))

import fanout
from fanout.emulator import Emulator, Faults

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT: Final = Path(__file__).parents[2]
MEMORY_MB: Final = 1769
_BILLED: Final = re.compile(r"Billed Duration: (\d+) ms")


def nap(seconds: float) -> float:
    """The usual kernel."""
    time.sleep(seconds)
    return seconds


def nap_by_environment(seconds: float) -> float:
    """One that is 2.5 times as slow in a fifth of the environments."""
    slow = random.Random(os.getpid()).random() < 0.2  # the same in a process
    time.sleep(seconds * (2.5 if slow else 1.0))
    return seconds


def nap_or_die(chunk: tuple[float, str]) -> float:
    """One that ends its process the first time, if its chunk names a file that is not there."""
    seconds, mark = chunk
    time.sleep(seconds)
    if mark and not os.path.exists(mark):  # the worker needs no more than that
        with open(mark, "w"):
            os._exit(3)
    return seconds


def lognormal(count: int) -> list[float]:
    """Seconds, 0.39 in the mean."""
    rng = random.Random(1)  # a workload
    return [rng.lognormvariate(-1.2, 0.7) for _ in range(count)]


def deadly(folder: str) -> list[tuple[float, str]]:
    """One task in forty dies the first time."""
    return [(0.2, f"{folder}/{task}" if task % 40 == 7 else "") for task in range(400)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A run.

    Attributes:
        what: For people.
        chunks: Its input; given a folder for what it needs.
        kernel: What it runs.
        concurrency: Of the emulator.
        faults: Of the emulator.
        timeout_s: Of the function.
        options: Of the map.
        is_warm: Whether another map goes before it.
    """

    what: str
    chunks: Callable[[str], list[Any]]
    kernel: Callable[[Any], float] = nap
    concurrency: int = 8
    faults: Faults = field(default_factory=Faults)
    timeout_s: float = 60.0
    options: dict[str, Any] = field(default_factory=dict)
    is_warm: bool = False


SHAPES: Final = {
    "tiny": Shape(what="20,000 of 1 ms", chunks=lambda _: [0.001] * 20_000),
    "short": Shape(what="4,000 of 5 ms", chunks=lambda _: [0.005] * 4000),
    "tenths": Shape(what="400 of 0.2 s", chunks=lambda _: [0.2] * 400),
    "seconds": Shape(what="120 of 1 s", chunks=lambda _: [1.0] * 120),
    "lognormal": Shape(what="400 lognormal, 0.4 s", chunks=lambda _: lognormal(400)),
    "drifting": Shape(
        what="400 of 0.05 to 0.5 s in order", chunks=lambda _: [0.05 + n / 888 for n in range(400)]
    ),
    "grouped": Shape(
        what="400 of 0.1 s, `group=5`", chunks=lambda _: [0.1] * 400, options={"group": 5}
    ),
    "warm": Shape(what="400 of 0.2 s, a second map", chunks=lambda _: [0.2] * 400, is_warm=True),
    "wide": Shape(what="120 of 1 s, 24 environments", chunks=lambda _: [1.0] * 120, concurrency=24),
    "slow": Shape(
        what="600 lognormal, a fifth of 16 environments slow",
        chunks=lambda _: lognormal(600),
        kernel=nap_by_environment,
        concurrency=16,
    ),
    "crashes": Shape(what="400 of 0.2 s, 10 die the first time", chunks=deadly, kernel=nap_or_die),
    "lost": Shape(
        what="120 of 1 s, 10 % of answers lost",
        chunks=lambda _: [1.0] * 120,
        faults=Faults(reset_after=0.1, seed=2),
    ),
    "refused": Shape(
        what="400 of 0.2 s, 30 % refused with room",
        chunks=lambda _: [0.2] * 400,
        faults=Faults(throttle=0.3),
    ),
    "hangs": Shape(
        what="120 of 1 s, 6 % hang until 20 s",
        chunks=lambda _: [1.0] * 120,
        faults=Faults(hang=0.06, seed=5),
        timeout_s=20.0,
    ),
}


async def ran(name: str, shape: Shape, folder: str) -> float:
    """Run a shape on the emulator, under its name; what the emulator billed, GB-seconds."""
    logs: list[str] = []
    async with Emulator(
        concurrency=shape.concurrency,
        memory_mb=MEMORY_MB,
        timeout_s=shape.timeout_s,
        faults=shape.faults,
        path=[ROOT],
        on_log=logs.append,
    ) as emulator:
        os.environ.update(emulator.variables)
        async with fanout.Executor(fanout.Lambda("fanout-worker")) as ex:
            if shape.is_warm:
                await ex.run(shape.kernel, shape.chunks(folder)[:60], progress=False)
                logs.clear()
            chunks = shape.chunks(folder)
            await ex.run(shape.kernel, chunks, name=name, progress=False, **shape.options)
    billed_ms = sum(int(ms) for ms in _BILLED.findall("".join(logs)))
    return billed_ms / 1000 * MEMORY_MB / 1024


def simulated(name: str) -> dict[str, Any]:
    """What `fanout simulate --like` says of it."""
    command = [sys.executable, "-m", "fanout", "simulate", "--like", name, "--seeds", "40"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def row(shape: Shape, billed_gb_s: float, told: dict[str, Any]) -> str:
    """A line of the table."""
    time_, cost = told["compared"]["makespan_s"], told["compared"]["gb_s"]
    cells = [
        shape.what,
        f"{time_['observed']:.1f} s",
        f"{time_['simulated']['median']:.1f} s",
        f"{time_['ratio']:.2f} ({time_['simulated']['p10'] / time_['observed']:.2f} to "
        f"{time_['simulated']['p90'] / time_['observed']:.2f})",
        f"{cost['observed']:.0f}",
        f"{billed_gb_s:.0f}",
        f"{cost['simulated']['median']:.0f}",
        f"{cost['ratio']:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Run, simulate and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one short shape: does it run?")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=[*SHAPES])
    options = parser.parse_args()
    ratios: dict[str, list[float]] = {"makespan_s": [], "gb_s": []}
    if not options.json:
        print("| run | makespan | simulated | ratio | GB-s | billed | simulated | ratio |")
        print("|---|---|---|---|---|---|---|---|")
    for name in ["grouped"] if options.quick else options.shapes:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["FANOUT_HOME"] = folder
            billed_gb_s = asyncio.run(ran(name, SHAPES[name], folder))
            told = simulated(name)
        for quantity, found in ratios.items():
            found.append(told["compared"][quantity]["ratio"])
        if not options.json:
            print(row(SHAPES[name], billed_gb_s, told), flush=True)
    if options.json:
        report = {
            "makespan_vs_observed": statistics.median(ratios["makespan_s"]),
            "gb_s_vs_observed": statistics.median(ratios["gb_s"]),
        }
        print(json.dumps(report))


if __name__ == "__main__":
    main()
