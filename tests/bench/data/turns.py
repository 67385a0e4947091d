"""Contenders that take turns, and what each turn took."""

from __future__ import annotations

import datetime as dt
import gc
import importlib.metadata
import os
import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What one turn took.

    Attributes:
        megabytes: How much was carried.
        wall_s: Time that passed.
        cpu_s: CPU time of this process, all its threads.
        server_cpu_s: CPU time of the processes that this one has started.
    """

    megabytes: float
    wall_s: float
    cpu_s: float
    server_cpu_s: float


async def in_turns(
    contenders: Mapping[str, Callable[[], Awaitable[object]]],
    *,
    rounds: int,
    megabytes: float,
    after: Callable[[str, object], Awaitable[None]],
) -> dict[str, list[Turn]]:
    """The turns of all contenders, one for each round; a first round warms up.

    Args:
        contenders: What is measured, by name.
        rounds: How many are counted.
        megabytes: What one turn carries.
        after: Checks and removes, outside of what is measured, what a turn has given.
    """
    turns: dict[str, list[Turn]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, work in contenders.items():
            gc.collect()
            server_s, began_s, cpu_began_s = _descendants_cpu_s(), _now_s(), time.process_time()
            given = await work()
            cpu_s, wall_s = time.process_time() - cpu_began_s, _now_s() - began_s
            if number:
                turns[name].append(
                    Turn(
                        megabytes=megabytes,
                        wall_s=wall_s,
                        cpu_s=cpu_s,
                        server_cpu_s=_descendants_cpu_s() - server_s,
                    )
                )
            await after(name, given)
            del given
    return turns


def summary(turns: Sequence[Turn]) -> dict[str, float]:
    """Medians of the turns."""
    rates = [turn.megabytes / turn.wall_s for turn in turns]
    return {
        "mb_s": statistics.median(rates),
        "mb_s_least": min(rates),
        "mb_s_most": max(rates),
        "cpu_ms_per_mb": statistics.median(turn.cpu_s * 1e3 / turn.megabytes for turn in turns),
        # All turns together, since the system counts hundredths of a second.
        "server_busy": sum(turn.server_cpu_s for turn in turns)
        / sum(turn.wall_s for turn in turns),
    }


def _now_s() -> float:
    return time.perf_counter()


def _descendants_cpu_s() -> float:
    """CPU time of the running processes below this one; Linux."""
    parents: dict[int, int] = {}
    used_s: dict[int, float] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # What follows the name, which is in brackets and may hold anything.
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        parents[int(folder.name)] = int(fields[1])
        used_s[int(folder.name)] = (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    total_s, front = 0.0, {os.getpid()}
    while front:
        front = {pid for pid, parent in parents.items() if parent in front}
        total_s += sum(used_s[pid] for pid in front)
    return total_s


def machine(cores: Sequence[int]) -> dict[str, Any]:
    """Where and when this runs."""
    packages = ("aioboto3", "boto3", "s3transfer", "aiohttp", "numpy", "pybase64")
    return {
        "machine": f"{platform.machine()}, {len(cores)} cores",
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in packages},
    }
