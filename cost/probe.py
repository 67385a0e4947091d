"""A few chunks of the input, run here: how long a task takes, and what it needs.

Shell. Chunks are run one by one, by one worker process of the local backend, so that each has a
core to itself. They are spread over the input (`workload.probe_order`); what numba compiles is not
counted, since an environment does that once. It ends after 16 chunks, or after 10 s if there are 5.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Unpack

from fanout import sync
from fanout.backends.local import Local
from fanout.cost.workload import Basis, TaskTimes, fitted, probe_order
from fanout.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fanout.options import MapOptions
    from fanout.outcomes import Run
    from fanout.sync import Executor

MOST_CHUNKS: Final = 16
LEAST_CHUNKS: Final = 5
ENOUGH_S: Final = 10.0
# A worker's memory is measured; another chunk may need more.
_HEADROOM: Final = 1.2
# Above so many processes for each core, a task shares its core with another.
_BUSY: Final = 1.2
_MIB: Final = 2**20
QUIETLY: Final[MapOptions] = {"progress": False, "journal": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What a few chunks have shown.

    Attributes:
        chunks: How many there are in the input.
        seconds: What those that were run took, in this order.
        times: What that says of all.
        memory_mb: The most that the worker had, and a fifth; None if the system doesn't tell.
        bytes_in: A chunk as JSON, bytes, on average.
        bytes_out: Its result as it travels, bytes, on average.
    """

    chunks: int
    seconds: tuple[float, ...]
    times: TaskTimes
    memory_mb: int | None
    bytes_in: int
    bytes_out: int


def probed(
    kernel: Callable[[Any], Any],
    path: str,
    say: Callable[[str], None],
    *,
    clock: Callable[[], float] = time.perf_counter,
    load: Callable[[], float] | None = None,
) -> Probe:
    """Run a few chunks of a file here.

    Args:
        kernel: The kernel.
        path: JSON Lines: one chunk a line.
        say: Is told what is run.
        clock: Seconds from some start.
        load: How many processes want to run, on average; None: what the system says.

    Raises:
        UsageError: The file can't be read, or has no chunk.
        Exception: What the kernel raised.
    """
    count, some = chunks_of(path, MOST_CHUNKS)
    waiting, cores = (load or _load)(), Local().concurrency
    if waiting > cores * _BUSY:
        say(
            f"this machine is busy (load {waiting:.1f}, {cores} cores): times come out too long, "
            "and so does all that follows; measure when it is idle, or give --seconds"
        )
    say(f"running up to {len(some)} of {count:,} chunks here, for about {ENOUGH_S:g} s")
    with sync.Executor(Local(workers=1)) as ex:
        runs = runs_of(ex, kernel, some, clock, **QUIETLY)
    return probe_of(runs, some, count, say)


def probe_of(
    runs: Sequence[Run[Any]],
    some: Sequence[tuple[Any, int]],
    count: int,
    say: Callable[[str], None],
    where: str = "here, alone on a core",
) -> Probe:
    """What runs of a chunk each have shown.

    Args:
        runs: In the order of the chunks.
        some: These, and perhaps more of them; each with its size.
        count: How many the input has.
        say: Is told what was found.
        where: They were run.
    """
    sizes = [size for _, size in some[: len(runs)]]
    outcomes = [run.outcomes[0] for run in runs]
    reports = [outcome.report for outcome in outcomes]
    seconds = tuple(
        max(0.0, outcome.kernel_s - (report.compile_s if report else 0.0))
        for outcome, report in zip(outcomes, reports, strict=True)
    )
    peaks = [one.peak_memory_bytes for one in reports if one and one.peak_memory_bytes]
    carried = [report.payload_bytes if report else 0 for report in reports]
    both = sum(carried) // len(runs)
    bytes_in = sum(sizes) // len(runs)
    told = f"{sum(seconds):.1f} s in the kernel, {min(seconds):.3g} to {max(seconds):.3g} s each"
    say(f"ran {len(runs)} of them: {told}")
    return Probe(
        chunks=count,
        seconds=seconds,
        times=_of_all(seconds, where) if len(runs) == count else fitted(seconds, where),
        memory_mb=int(max(peaks) / _MIB * _HEADROOM) if peaks else None,
        bytes_in=bytes_in,
        bytes_out=max(0, both - bytes_in),
    )


def _load() -> float:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def _of_all(seconds: Sequence[float], where: str) -> TaskTimes:
    """The same, where no task is left that was not measured."""
    found = fitted(seconds)
    source = f"all tasks, run {where.partition(', alone')[0]}"
    return TaskTimes(mean_s=found.mean_s, sigma=found.sigma, basis=Basis.MEASURED, source=source)


def runs_of(
    ex: Executor,
    kernel: Callable[[Any], Any],
    some: Sequence[tuple[Any, int]],
    clock: Callable[[], float],
    **options: Unpack[MapOptions],
) -> list[Run[Any]]:
    """Run chunks one by one, until there are enough.

    Raises:
        Exception: What the kernel raised.
    """
    done: list[Run[Any]] = []
    began = clock()
    for chunk, _ in some:
        if len(done) >= LEAST_CHUNKS and clock() - began >= ENOUGH_S:
            break
        run = ex.run(kernel, [chunk], **options)
        run.outcomes[0].result()
        done.append(run)
    return done


def chunks_of(path: str, most: int) -> tuple[int, list[tuple[Any, int]]]:
    """How many chunks a file has; some of them, spread over it, each with its size.

    Raises:
        UsageError: The file can't be read, or has no chunk.
    """
    count = sum(1 for _ in _lines(path))
    if not count:
        raise UsageError(f"{path} has no chunk: write one a line, as JSON")
    order = probe_order(count, most)
    wanted = {*order}
    found = {
        number: line
        for number, line in enumerate(itertools.islice(_lines(path), max(order) + 1))
        if number in wanted
    }
    return count, [(_chunk(found[number], number, path), len(found[number])) for number in order]


def _chunk(line: str, number: int, path: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        msg = f"chunk {number} of {path} is not JSON ({error}): {line.strip()[:60]!r}"
        raise UsageError(msg) from error


def _lines(path: str) -> Iterator[str]:
    try:
        with Path(path).open(encoding="utf-8") as file:
            yield from (line for line in file if line.strip())
    except OSError as error:
        raise UsageError(f"chunks can't be read from {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not text in UTF-8: {error}") from error
