"""Large objects put once, and used by every worker."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fanout
from fanout import Ref
from fanout.codec import decode, decode_each, encode
from fanout.emulator import Emulator
from fanout.errors import ChunkError, DecodeError, EncodeError, StoreError, UsageError
from fanout.events import AttemptAnswered
from fanout.far_stores import kept_store
from fanout.kernel_spec import prepare
from fanout.worker import Worker
from tests.worker_checks import answer_of, request_of

ROOT = Path(__file__).parent.parent
REF = Ref("ab" * 32, 1000)


@dataclass(frozen=True)
class Job:
    data: Any
    seed: int


def element(job: Job) -> float:
    return float(job.data[job.seed])


def element_of(data: Any, seed: int) -> float:
    return float(data[seed])


def is_writable(data: Any) -> bool:
    return bool(data.flags.writeable)


def appended(data: Any) -> int:
    data.append(1)
    return len(data)


def identity(value: Any) -> Any:
    return value


def length(value: Any) -> int:
    return len(value)


def holds_something(folder: Path) -> bool:
    return folder.exists() and any(folder.rglob("*"))


# ---- in the codec ----


def test_a_ref_travels_as_itself_and_stands_for_its_object_where_it_can_be_fetched() -> None:
    value = {"a": [REF, (1, REF)], "b": Job(REF, 3)}
    assert decode(encode(value)) == value
    found = decode(encode(value), fetch=lambda ref: ref.nbytes)
    assert found == {"a": [1000, (1, 1000)], "b": Job(1000, 3)}


def test_what_can_not_be_fetched_spoils_no_other_value() -> None:
    def fetch(ref: Ref) -> Any:
        if ref == REF:
            raise StoreError("gone")
        return "here"

    values, errors = decode_each(encode([REF, Ref("cd" * 32, 1), 5]), fetch=fetch)
    assert values == [None, "here", 5]
    assert list(errors) == [0]
    assert str(errors[0]) == "gone"


@pytest.mark.parametrize("node", ['{"$":"ref"}', '{"$":"ref","d":1}'])
def test_a_damaged_ref_is_damage(node: str) -> None:
    encoded = encode([1])
    encoded = type(encoded)(f"[{node}]".encode(), [])
    with pytest.raises(DecodeError, match="ref"):
        decode(encoded)


# ---- on this machine ----


async def test_the_kernel_gets_the_object_wherever_the_ref_stands() -> None:
    array = np.random.default_rng(1).random(300_000)
    async with fanout.Executor() as ex:
        ref = await ex.put(array)
        assert isinstance(ref, Ref)
        assert ref.nbytes > array.nbytes
        jobs = [Job(ref, seed) for seed in range(20)]
        assert await ex.map(element, jobs) == array[:20].tolist()
        assert await ex.starmap(element_of, [(ref, 7)]) == [array[7]]
        bound = functools.partial(element_of, ref)
        assert await ex.map(bound, range(5)) == array[:5].tolist()


async def test_arrays_of_an_object_can_not_be_written_to() -> None:
    async with fanout.Executor() as ex:
        assert await ex.map(is_writable, [await ex.put(np.zeros(100_000))]) == [False]


async def test_what_a_task_does_to_an_object_no_other_task_sees() -> None:
    async with fanout.Executor(fanout.Local(workers=1)) as ex:
        ref = await ex.put([1, 2, 3])
        assert await ex.map(appended, [ref] * 5, group=5) == [4] * 5


async def test_equal_objects_are_one() -> None:
    async with fanout.Executor() as ex:
        assert await ex.put(np.arange(10)) == await ex.put(np.arange(10))
        assert await ex.put(np.arange(10)) != await ex.put(np.arange(11))


async def test_the_private_folder_goes_away_with_the_executor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ex = fanout.Executor()
    async with ex:
        await ex.put(np.arange(10))
        assert holds_something(tmp_path)
    assert not holds_something(tmp_path)
    async with ex:
        ref = await ex.put([5])
        assert await ex.map(identity, [ref]) == [[5]]


async def test_a_folder_of_the_users_is_kept(tmp_path: Path) -> None:
    async with fanout.Executor(store=str(tmp_path)) as ex:
        ref = await ex.put("text")
    async with fanout.Executor(store=str(tmp_path)) as ex:
        assert await ex.map(identity, [ref]) == ["text"]


async def test_an_object_that_is_gone_fails_its_tasks_only(tmp_path: Path) -> None:
    async with fanout.Executor(store=str(tmp_path)) as ex:
        gone, there = await ex.put([1]), await ex.put([2])
        (tmp_path / "objects" / gone.digest).unlink()
        first, second = await ex.map(identity, [gone, there], group=2, return_exceptions=True)
        assert isinstance(first, StoreError)
        assert "not in the store" in str(first)
        assert second == [2]


async def test_a_ref_of_another_executor_says_where_to_use_it() -> None:
    async with fanout.Executor() as ex:
        ref = await ex.put([1])
    async with fanout.Executor() as other:
        with pytest.raises(StoreError, match="with the executor that put the object"):
            await other.map(identity, [ref])


async def test_an_object_that_was_exchanged_is_refused(tmp_path: Path) -> None:
    """It may be a pickle: nothing of it is looked at."""
    async with fanout.Executor(store=str(tmp_path)) as ex:
        ref, other = await ex.put("aaaa"), await ex.put("bbbb")
        path = tmp_path / "objects" / ref.digest
        content = (tmp_path / "objects" / other.digest).read_bytes()
        path.unlink()
        path.write_bytes(content)
        with pytest.raises(StoreError, match="damaged or exchanged"):
            await ex.map(identity, [ref])


async def test_under_codec_safe_an_object_may_hold_no_pickle() -> None:
    async with fanout.Executor() as ex:
        plain, pickled = await ex.put([1, 2]), await ex.put({1: range(3), "x": print})
        assert await ex.map(length, [plain], codec="safe") == [2]
        with pytest.raises(ChunkError, match="pickle"):
            await ex.map(length, [pickled], codec="safe")


async def test_what_can_not_be_encoded_is_refused_at_once() -> None:
    async with fanout.Executor() as ex:
        with pytest.raises(EncodeError, match="yields"):
            await ex.put(x for x in range(3))


async def test_an_executor_that_is_not_open_takes_nothing() -> None:
    with pytest.raises(UsageError, match="not open"):
        await fanout.Executor().put(1)


# ---- on Lambda ----


async def test_many_tasks_share_an_object_on_lambda(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The emulator's environments can see a folder of this machine."""
    array = np.random.default_rng(2).random(1_000_000)  # 8 MB: no request could hold it
    async with Emulator(concurrency=2, requests_per_s=1e6, path=[ROOT]) as emulator:
        for name, value in emulator.variables.items():
            monkeypatch.setenv(name, value)
        async with fanout.Executor(store=str(tmp_path)) as ex:
            ref = await ex.put(array)
            results = await ex.starmap(element_of, [(ref, seed) for seed in range(512)])
        assert results == array[:512].tolist()
        async with fanout.Executor() as ex:
            with pytest.raises(UsageError, match="name a bucket"):
                await ex.put(array)


def test_what_cannot_be_had_is_asked_for_once_by_a_request(tmp_path: Path) -> None:
    asked = []
    store = kept_store({"kind": "directory", "path": str(tmp_path)})
    get = store.get

    def counted(key: str, **options: Any) -> memoryview:
        asked.append(key)
        return get(key, **options)

    store.get = counted  # type: ignore[method-assign]
    gone = Ref("0" * 64, 10)
    request = request_of(prepare(len), [gone, [gone], "abc", gone])
    request.head["store"] = {"kind": "directory", "path": str(tmp_path)}
    answer = answer_of(Worker().run(request), 4)
    assert isinstance(answer, AttemptAnswered)
    assert [isinstance(o.error, StoreError) for o in answer.outcomes] == [True, True, False, True]
    assert len(asked) == 1
