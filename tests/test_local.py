"""The local backend with real processes: kernels of every sort, and large data."""

from __future__ import annotations

import asyncio
import functools
import gc
import importlib
import math
import os
import sys
import threading
import time
from itertools import count
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import pytest

import fanout

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


def square(chunk: int) -> int:
    return chunk * chunk


def add(left: int, right: int) -> int:
    return left + right


@numba.njit
def compiled(chunk: float) -> float:
    return chunk * 2.0


def doubled(chunk: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return chunk * 2


def where(_: object) -> int:
    return os.getpid()


def threads(_: object) -> str | None:
    return os.environ.get("OMP_NUM_THREADS")


_SCRATCH = np.zeros(4)


def scratch(chunk: int) -> np.ndarray[Any, Any]:
    _SCRATCH[:] = chunk
    return _SCRATCH


async def test_results_come_in_the_order_of_the_input() -> None:
    assert await fanout.map(square, range(500)) == [n * n for n in range(500)]


async def test_every_sort_of_kernel_runs() -> None:
    offset = 3
    local_compiled = numba.njit(lambda chunk: chunk + offset)
    async with fanout.Executor(fanout.Local(1)) as ex:
        assert await ex.map(square, [2]) == [4]
        assert await ex.map(lambda chunk: chunk + offset, [2]) == [5]
        assert await ex.map(compiled, [2.0]) == [4.0]
        assert await ex.map(local_compiled, [2]) == [5]
        assert await ex.map(functools.partial(add, 10), [2]) == [12]
        assert await ex.map(functools.partial(add, right=10), [2]) == [12]
        assert await ex.map(functools.partial(lambda base, chunk: base + chunk, 5), [2]) == [7]
        assert await ex.map("-".join, [["a", "b"]]) == ["a-b"]
        assert await ex.map(math.sqrt, [4]) == [2.0]
        assert await ex.starmap(add, [(1, 2), (3, 4)]) == [3, 7]


async def test_input_may_be_a_generator_or_an_async_iterator() -> None:
    async def numbers() -> AsyncIterator[int]:
        for number in range(20):
            yield number

    async with fanout.Executor(fanout.Local(1)) as ex:
        assert await ex.map(square, (n for n in range(20))) == [n * n for n in range(20)]
        assert await ex.map(square, numbers()) == [n * n for n in range(20)]
        assert await ex.map(square, []) == []


async def test_large_arrays_are_the_same_there_and_back() -> None:
    arrays = [np.random.default_rng(seed).normal(size=(700, 801)) for seed in range(4)]
    async with fanout.Executor(fanout.Local(2)) as ex:
        results = await ex.map(doubled, arrays)
    for array, result in zip(arrays, results, strict=True):
        np.testing.assert_array_equal(result, array * 2)
        assert result.flags.writeable


async def test_a_kernel_that_returns_its_scratch_array_gives_the_same_in_a_group() -> None:
    async with fanout.Executor(fanout.Local(1)) as ex:
        for group in (1, 50):
            results = await ex.map(scratch, range(100), group=group)
            assert [result[0] for result in results] == list(range(100))


async def test_an_executor_keeps_its_workers_between_maps() -> None:
    async with fanout.Executor(fanout.Local(2)) as ex:
        first = set(await ex.map(where, range(50)))
        assert set(await ex.map(where, range(50))) <= first
        assert len(first) <= 2


async def test_maps_at_the_same_time_share_the_workers() -> None:
    async with fanout.Executor(fanout.Local(2)) as ex:
        pids = await asyncio.gather(*(ex.map(where, range(30)) for _ in range(3)))
    assert len({pid for found in pids for pid in found}) <= 2


async def test_two_executors_do_not_notice_each_other() -> None:
    async with fanout.Executor(fanout.Local(1)) as one, fanout.Executor(fanout.Local(1)) as two:
        assert set(await one.map(where, [0])).isdisjoint(await two.map(where, [0]))


async def test_numeric_libraries_get_one_thread_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert await fanout.map(threads, [0]) == ["1"]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert await fanout.map(threads, [0]) == ["3"]


async def test_an_endless_input_is_streamed_in_bounded_memory() -> None:
    pulled = 0

    def endless() -> Iterator[np.ndarray[Any, Any]]:
        nonlocal pulled
        for number in count():
            pulled += 1
            yield np.full(1_000_000, number, np.uint8)

    taken = 0
    async with (
        fanout.Executor(fanout.Local(2)) as ex,
        ex.stream(doubled, endless()) as outcomes,
    ):
        async for _ in outcomes:
            taken += 1
            assert pulled - taken <= 4 * (2 * 5 + 1)  # window at 4 MiB a group, see GroupPolicy
            if taken == 200:
                break
    assert pulled < 300


async def test_a_stream_can_be_ordered() -> None:
    def late_first(chunk: int) -> int:
        time.sleep(0.2 if chunk == 0 else 0)
        return chunk

    async with fanout.stream(late_first, range(20), ordered=True) as outcomes:
        assert [outcome.index async for outcome in outcomes] == list(range(20))


async def test_a_run_tells_what_it_took() -> None:
    def busy(_: int) -> None:
        until_s = time.perf_counter() + 0.01
        while time.perf_counter() < until_s:
            pass

    run = await fanout.run(busy, range(20), backend=fanout.Local(2))
    assert run.results == [None] * 20
    assert 0.2 <= run.kernel_s < 20
    assert 0 < run.makespan_s < 60
    assert 1 <= run.attempts <= 20
    report = run.outcomes[0].report
    assert report is not None
    assert report.environment.versions["fanout"] == fanout.__version__
    assert report.peak_memory_bytes is None or report.peak_memory_bytes > 2**20


async def test_a_worker_tells_its_own_memory_and_not_that_of_its_parent() -> None:
    ours = bytearray(b"1" * (300 * 2**20))
    run = await fanout.run(math.sqrt, [4.0], backend=fanout.Local(1))
    report = run.outcomes[0].report
    assert report is not None
    assert ours[-1] == ord("1")
    if sys.platform == "linux":
        assert report.peak_memory_bytes is not None
        assert report.peak_memory_bytes < len(ours)


async def test_a_module_changed_after_the_worker_imported_it_is_loaded_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    source = tmp_path / "edited_kernel.py"
    source.write_text("def kernel(chunk):\n    return 'old'\n")
    module = importlib.import_module("edited_kernel")
    async with fanout.Executor(fanout.Local(1)) as ex:
        assert await ex.map(module.kernel, [0]) == ["old"]
        source.write_text("def kernel(chunk):\n    return 'the new one'\n")
        module = importlib.reload(module)
        assert await ex.map(module.kernel, [0]) == ["the new one"]


async def test_closing_leaves_no_process_and_no_open_file() -> None:
    before = _open_files()
    async with fanout.Executor(fanout.Local(2)) as ex:
        pids = set(await ex.map(where, range(20), group=1))
    gc.collect()
    assert not any(_is_running(pid) for pid in pids)
    assert _open_files() == before


async def test_an_executor_can_be_opened_again() -> None:
    ex = fanout.Executor(fanout.Local(1))
    for _ in range(2):
        async with ex:
            assert await ex.map(square, [3]) == [9]


async def test_a_chunk_above_the_limit_is_refused_with_what_to_do() -> None:
    chunks = [np.zeros(10), np.zeros(1_000_000)]
    async with fanout.Executor(fanout.Local(1, max_chunk_bytes=2**20)) as ex:
        results = await ex.map(doubled, chunks, return_exceptions=True)
    assert isinstance(results[0], np.ndarray)
    assert isinstance(results[1], fanout.errors.ChunkError)
    assert "8 MiB encoded, the limit is 1 MiB: make chunks smaller" in str(results[1])


async def test_a_worker_asked_for_a_kernel_that_it_no_longer_keeps_gets_it_again() -> None:
    """It keeps 64."""
    kernels = [functools.partial(add, offset) for offset in range(70)]
    async with fanout.Executor(fanout.Local(1)) as ex:
        for _ in range(2):
            for offset, kernel in enumerate(kernels):
                assert await ex.map(kernel, [1]) == [offset + 1]


@pytest.mark.parametrize("workers", [0, -1, 1.5, "2"])
def test_a_number_of_workers_that_makes_no_sense_is_refused(workers: Any) -> None:
    with pytest.raises(fanout.errors.UsageError, match=r"workers=.* must be a whole number"):
        fanout.Local(workers)


async def test_workers_search_the_same_places_for_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative ones wherever the worker is; what only an installer's hook knows, as it is."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", "here", "__editable__.x.__path_hook__", *sys.path])
    (path,) = await fanout.map(lambda _: sys.path[:3], [0])
    assert path == [str(tmp_path), str(tmp_path / "here"), "__editable__.x.__path_hook__"]


def test_it_runs_from_another_thread() -> None:
    results: list[list[int]] = []
    thread = threading.Thread(
        target=lambda: results.append(asyncio.run(fanout.map(square, range(5))))
    )
    thread.start()
    thread.join()
    assert results == [[0, 1, 4, 9, 16]]


async def test_a_python_that_cannot_start_workers_is_a_clear_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(fanout.errors.BackendError, match=r"never reached a worker.*exited with"):
        await fanout.map(square, [1])


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
