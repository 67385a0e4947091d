"""What is too large for an invocation: through a store, by itself, both ways."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import fanout
from fanout.emulator import Emulator
from fanout.errors import ChunkError, ResultError, StoreError
from fanout.stores import DirectoryStore, RunObjects, Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import numpy.typing as npt

    Array = npt.NDArray[np.float64]

ROOT = Path(__file__).parent.parent
MB = 2**20


@contextlib.asynccontextmanager
async def emulated(
    monkeypatch: pytest.MonkeyPatch, store: Store | Path | None = None, **options: Any
) -> AsyncIterator[tuple[Emulator, fanout.Executor]]:
    settings: dict[str, Any] = {"concurrency": 2, "path": [ROOT], **options}
    async with Emulator(**settings) as emulator:
        for name, value in emulator.variables.items():
            monkeypatch.setenv(name, value)
        async with fanout.Executor(store=store) as ex:
            yield emulator, ex


class Counted(DirectoryStore):
    """A directory which knows what was asked of it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.asked: list[str] = []

    async def put(self, key: str, parts: Any) -> bool:
        self.asked.append(f"put {key}")
        return await super().put(key, parts)

    async def get(self, key: str, nbytes: int) -> memoryview:
        self.asked.append(f"get {key}")
        return await super().get(key, nbytes)

    async def delete(self, keys: Any) -> None:
        self.asked += [f"delete {key}" for key in keys]
        await super().delete(keys)

    async def delete_prefix(self, prefix: str) -> None:
        self.asked.append(f"delete {prefix}*")
        await super().delete_prefix(prefix)


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def random_array(seed: int) -> Array:
    return np.random.default_rng(seed).random(MB)  # 8 MB


# By value, so that nothing of the tests' own modules goes along.
noise: Any = eval("lambda count: np.random.default_rng(0).random(count)", {"np": np})


async def test_chunks_and_results_of_any_size_go_both_ways(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def doubled(array: Array) -> Array:
        array *= 2  # what came in can be written to, as elsewhere
        return array

    store = Counted(tmp_path)
    async with emulated(monkeypatch, store) as (_, ex):
        chunks = [random_array(seed) for seed in range(6)]
        results = await ex.map(doubled, chunks, hedge=False)  # on a busy machine all is late
        assert sum(asked.startswith("put") for asked in store.asked) == 6  # the worker put others
        assert sum(asked.startswith("get") for asked in store.asked) == 6
        assert files_in(tmp_path) == []  # at the end of the run nothing is left
    for seed, result in enumerate(results):
        assert np.array_equal(result, random_array(seed) * 2)
        result[0] = 1  # they are ours


async def test_what_fits_asks_nothing_of_the_store(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = Counted(tmp_path)
    async with emulated(monkeypatch, store) as (_, ex):
        results = await ex.map(np.sum, [np.full(100_000, n, float) for n in range(20)])
        assert results == [100_000.0 * n for n in range(20)]
    assert store.asked == []


async def test_what_fits_when_it_is_packed_asks_nothing_either(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = Counted(tmp_path)
    async with emulated(monkeypatch, store) as (_, ex):
        steps = np.arange(float(MB))
        (result,) = await ex.map(lambda array: -array, [steps], hedge=False)
        assert np.array_equal(result, -steps)
    assert store.asked == []


async def test_without_a_store_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with emulated(monkeypatch) as (_, ex):
        run = await ex.run(np.sum, [random_array(0), np.ones(3), random_array(1)])
        first, second, third = run.outcomes
        assert second.value == 3
        for outcome in (first, third):
            assert isinstance(outcome.error, ChunkError)
            assert "store='s3://bucket/prefix'" in str(outcome.error)
        with pytest.raises(ResultError, match=r"store='s3://bucket/prefix'\), or FANOUT_STORE"):
            await ex.map(noise, [MB])


async def test_the_setting_is_a_store_like_the_argument(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FANOUT_STORE", str(tmp_path))
    async with emulated(monkeypatch) as (_, ex):
        (result,) = await ex.map(noise, [MB])
        assert np.array_equal(result, noise(MB))
        data = await ex.put(np.arange(10.0))
        kernel: Any = lambda array: float(array.sum())  # noqa: E731
        assert await ex.map(kernel, [data]) == [45.0]


async def test_a_closure_over_a_large_array_is_stored_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    table = random_array(3)
    store = Counted(tmp_path)
    async with emulated(monkeypatch, store, concurrency=2) as (emulator, ex):
        kernel = lambda index: float(table[index])  # noqa: E731
        indices = list(range(0, MB, 50_000))
        results = await ex.map(kernel, indices, group=1, hedge=False)
        assert results == [table[index] for index in indices]
        assert sum(asked.startswith("put") for asked in store.asked) == 1
        # Nobody had to be asked twice.
        assert emulator.counts.invocations == len(indices)
        assert files_in(tmp_path) == []


async def test_without_a_store_a_large_closure_goes_once_to_each_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = np.arange(40_000.0)  # 320 KB
    async with emulated(monkeypatch) as (emulator, ex):
        kernel = lambda index: float(table[index])  # noqa: E731
        results = await ex.map(kernel, range(30), group=1, hedge=False)
        assert results == list(map(float, range(30)))
        # Each environment asks once, and whoever is throttled in between asks again.
        throttles = sum(emulator.counts.throttles.values())
        assert emulator.counts.invocations <= 30 + 2 * 2 + 2 * throttles


async def test_large_modules_of_the_project_are_stored_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code, data = tmp_path / "code", tmp_path / "store"
    code.mkdir()
    table = np.random.default_rng(0).integers(0, 2**62, 40_000).tolist()
    (code / "ls_large.py").write_text(f"TABLE = {table}\ndef kernel(x):\n    return TABLE[x]\n")
    monkeypatch.syspath_prepend(code)
    import ls_large  # type: ignore[import-not-found]

    # Not for others, who would send it along since a test imports it.
    del sys.modules["ls_large"]
    monkeypatch.setitem(sys.modules, "ls_large", ls_large)
    store = Counted(data)
    async with emulated(monkeypatch, store) as (_, ex):
        assert await ex.map(ls_large.kernel, range(20), group=1, hedge=False) == table[:20]
    assert sum(asked.startswith("put") for asked in store.asked) == 1
    assert files_in(data) == []


class Tampering(DirectoryStore):
    """Has somebody write into an object after it was put."""

    def __init__(self, path: Path, tamper: Any) -> None:
        super().__init__(path)
        self._folder = path
        self._tamper = tamper

    async def put(self, key: str, parts: Any) -> bool:
        is_new = await super().put(key, parts)
        self._tamper(self._folder / key)
        return is_new


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize(
    ("tamper", "told"),
    [(flip, "another sha256"), (cut, "bytes instead of"), (Path.unlink, "deleted under way")],
)
async def test_what_was_tampered_with_fails_its_task_and_no_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tamper: Any, told: str
) -> None:
    async with emulated(monkeypatch, Tampering(tmp_path, tamper)) as (_, ex):
        run = await ex.run(np.sum, [np.ones(3), random_array(1), np.ones(4)])
        assert [outcome.value for outcome in run.outcomes] == [3.0, None, 4.0]
        assert isinstance(run.outcomes[1].error, StoreError)
        with pytest.raises(StoreError, match=told):
            raise run.outcomes[1].error


async def test_a_result_that_cannot_be_stored_fails_its_task_and_no_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "runs").write_text("no folder")
    async with emulated(monkeypatch, tmp_path) as (_, ex):
        run = await ex.run(noise, [3, MB, 4])
        assert [outcome.error is None for outcome in run.outcomes] == [True, False, True]
        with pytest.raises(StoreError, match="runs"):
            raise run.outcomes[1].error or AssertionError


async def test_a_kernel_that_refers_to_a_foreign_object_fails_its_task_and_no_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with emulated(monkeypatch, tmp_path) as (_, ex):
        foreign = fanout.Ref(64 * "a", 1000)
        run = await ex.run(lambda pair: pair[1], [(None, 1), (foreign, 2), (None, 3)])
        assert [outcome.value for outcome in run.outcomes] == [1, None, 3]
        with pytest.raises(StoreError, match="another run"):
            raise run.outcomes[1].error or AssertionError


async def test_what_a_killed_client_left_is_removed_a_week_later(tmp_path: Path) -> None:
    now_s = int(time.time())
    old, new = (f"runs/{now_s - days * 86_400}-x-1/message" for days in (8, 6))
    other = "runs/notes/of/somebody"
    store = DirectoryStore(tmp_path)
    for key in (old, new, other):
        await store.put(key, [b"left"])
    quiet = RunObjects(store, "quiet")
    await quiet.aclose()  # it spilled nothing, so it asks nothing
    assert (tmp_path / old).exists()
    busy = RunObjects(store, "busy")
    await busy.put([b"1"])
    await busy.aclose()
    assert {path.relative_to(tmp_path).as_posix() for path in files_in(tmp_path)} == {new, other}


async def test_objects_go_in_the_course_of_a_long_run(tmp_path: Path) -> None:
    objects = RunObjects(DirectoryStore(tmp_path), "long")
    for _ in range(1200):
        objects.done([await objects.put([b"x"])])
    assert len(files_in(tmp_path)) <= 700
    await objects.aclose()
    assert files_in(tmp_path) == []


async def test_a_store_that_deletes_nothing_spoils_no_result(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Keeping(DirectoryStore):
        async def delete_prefix(self, prefix: str) -> None:
            raise StoreError(f"{prefix} can't be deleted: give the role s3:DeleteObject")

    async with emulated(monkeypatch, Keeping(tmp_path)) as (_, ex):
        (result,) = await ex.map(noise, [MB])
    assert np.array_equal(result, noise(MB))
    assert "are left in the store" in caplog.text
    assert "s3:DeleteObject" in caplog.text


async def test_a_reply_that_is_not_of_the_run_is_not_read(tmp_path: Path) -> None:
    from fanout.spilled import Spilled

    store = DirectoryStore(tmp_path)
    await store.put("objects/1", [b"secret"])
    with pytest.raises(StoreError, match="isn't of this run"):
        await RunObjects(store, "x").get(Spilled(key="objects/1", nbytes=6, digest=""))
