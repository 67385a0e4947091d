"""Results that are too large for a journal: kept as objects, read again, removed with it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import subprocess
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import fanout
from fanout import Executor
from fanout.errors import BudgetExceededError, StoreError
from fanout.journal import Folder, Limits, folder
from fanout.stores import DirectoryStore
from tests.emulator_checks import ROOT
from tests.fakes import End, FakeBackend, Fate, always
from tests.journal_checks import BilledBackend, change, limited, only, rows, run
from tests.virtual_time import others

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

CALLS: list[Any] = []  # workers of the fake backend run in this process
LARGE = 1000  # numbers, 8,000 bytes
SMALL = Limits(value_bytes=4000, cancelled_s=0.05)


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    CALLS.clear()


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, "fanout")
    return caplog


def numbers(chunk: int) -> Any:
    """A large array, another one for each chunk; a small one for those below 0."""
    CALLS.append(chunk)
    return np.full(LARGE if chunk >= 0 else 1, float(chunk))


def text(chunk: int) -> str:
    CALLS.append(chunk)
    return str(chunk) * 8000


def odd(chunk: int) -> Any:
    CALLS.append(chunk)
    return range(chunk), "x" * 8000


def dear(chunk: int) -> Any:
    CALLS.append(chunk)
    return np.full(LARGE, float(chunk))


def beside() -> list[Path]:
    """The objects beside the only journal."""
    with contextlib.suppress(FileNotFoundError):
        return sorted(folder.values_of(only().path).iterdir())
    return []


def same(found: Sequence[Any], chunks: Sequence[int]) -> bool:
    return all(
        np.array_equal(one, numbers(chunk)) for one, chunk in zip(found, chunks, strict=True)
    )


class Gate(DirectoryStore):
    """A store that can be slow or broken, and counts.

    Attributes:
        opened: What is put waits for it.
        broken: Why nothing can be put; None: it can.
        most: How many were being put at once at most.
        gets: How many were asked for.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.opened = asyncio.Event()
        self.opened.set()
        self.broken: Exception | None = None
        self.now = self.most = self.gets = 0

    async def put(self, key: str, parts: Sequence[Any]) -> bool:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self.opened.wait()
            if self.broken is not None:
                raise self.broken
            return await super().put(key, parts)
        finally:
            self.now -= 1

    async def get(self, key: str, nbytes: int) -> memoryview:
        self.gets += 1
        return await super().get(key, nbytes)


# ---- kept, and recalled ----


@pytest.mark.parametrize("named", [False, True])
def test_large_results_are_kept_and_come_back_as_they_were(tmp_path: Path, named: bool) -> None:
    store = tmp_path / "store" if named else None
    chunks = [1, -1, 2]
    run(numbers, chunks, limits=SMALL, store=store)
    again = run(numbers, chunks, limits=SMALL, store=store)
    assert (CALLS, again.attempts) == (chunks, 0)
    assert same(again.results, chunks)
    again.results[0][0] = 7.0  # in memory of its own
    places = rows("SELECT place FROM outcomes ORDER BY task")
    kind = "store" if named else "beside"
    assert places == [(kind,), (None,), (kind,)]
    assert (only().state, only().done) == ("done", 3)
    kept = sorted((tmp_path / "store" / "results" / only().id).iterdir()) if named else beside()
    assert len(kept) == 2
    assert all(len(path.name) == 64 for path in kept)  # a sha256
    assert bool(beside()) is not named


def test_objects_beside_a_journal_are_part_of_it(tmp_path: Path) -> None:
    run(numbers, range(3), limits=SMALL)
    record = only()
    assert record.nbytes > sum(path.stat().st_size for path in beside()) > 3 * 8 * LARGE
    values = folder.values_of(record.path)
    assert values.stat().st_mode & 0o777 == 0o700
    Folder().remove(record)
    assert list(Folder().path.iterdir()) == []


def test_journals_are_too_much_with_what_lies_beside_them(monkeypatch: pytest.MonkeyPatch) -> None:
    run(numbers, range(3), "one", limits=SMALL)
    run(numbers, range(3), "two", limits=SMALL)
    files = [path for path in Folder().path.iterdir() if path.suffix == ".db"]
    Folder(most_bytes=sum(path.stat().st_size for path in files) + 3 * 8 * LARGE).tidy()
    assert len(beside()) == 3  # of the only one that is left


def test_what_is_restarted_leaves_nothing_beside(tmp_path: Path) -> None:
    run(numbers, [1, 2], limits=SMALL)
    run(text, [3], limits=SMALL, on_change="restart")
    assert len(beside()) == 1


def test_the_same_result_of_two_tasks_lies_there_once() -> None:
    run(numbers, [5, 5, 5], limits=SMALL)
    assert len(beside()) == 1
    assert run(numbers, [5, 5, 5], limits=SMALL).attempts == 0


def test_what_is_pickled_is_kept_too_but_not_with_the_safe_codec(
    told: pytest.LogCaptureFixture,
) -> None:
    run(odd, [3], limits=SMALL)
    assert run(odd, [3], limits=SMALL).results == [(range(3), "x" * 8000)]
    assert CALLS == [3]
    from tests import journal_kernels

    for _ in range(2):
        done = run(journal_kernels.double, ["ab" * 4000], "safe", limits=SMALL, codec="safe")
        assert done.results == ["ab" * 8000]
    assert done.attempts == 0
    assert told.text == ""


def test_resume_reads_what_a_program_has_kept(tmp_path: Path) -> None:
    """Without the program; the store is known by its name."""
    from tests import journal_kernels

    async def begun() -> None:
        ex = limited(SMALL, fanout.Local(workers=1), tmp_path / "store")
        async with ex:
            await ex.map(journal_kernels.double, ["ab" * 4000, "c"], name="s")

    asyncio.run(begun())
    done = fanout.sync.resume("s", progress=False)
    assert (done.attempts, done.results) == (0, ["ab" * 8000, "cc"])


def test_without_the_store_they_are_computed_again_which_is_told(
    tmp_path: Path, told: pytest.LogCaptureFixture
) -> None:
    run(numbers, [1, 2], limits=SMALL, store=tmp_path / "store")
    run(numbers, [1, 2], limits=SMALL)
    assert CALLS == [1, 2, 1, 2]
    assert "it lies in a store, and there is none now: name it with store=" in told.text
    assert run(numbers, [1, 2], limits=SMALL).attempts == 0
    # And those of another store.
    run(numbers, [1, 2], "other", limits=SMALL, store=tmp_path / "store")
    run(numbers, [1, 2], "other", limits=SMALL, store=tmp_path / "empty")
    assert len(CALLS) == 8


# ---- damage ----


def spoil(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "flipped":
        content[-1] ^= 1
        path.write_bytes(content)
    elif how == "cut":
        path.write_bytes(content[:-1])
    else:
        path.unlink()


@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
@pytest.mark.parametrize("named", [False, True])
def test_an_object_that_is_damaged_is_computed_again_and_kept_anew(
    tmp_path: Path, told: pytest.LogCaptureFixture, how: str, named: bool
) -> None:
    store = tmp_path / "store" if named else None
    run(numbers, [1, 2, 3], limits=SMALL, store=store)
    kept = sorted((tmp_path / "store" / "results" / only().id).iterdir()) if named else beside()
    spoil(kept[0], how)
    again = run(numbers, [1, 2, 3], limits=SMALL, store=store)
    assert len(CALLS) == 4
    assert same(again.results, [1, 2, 3])
    assert told.text.count("it is computed again") == 1
    CALLS.clear()
    assert run(numbers, [1, 2, 3], limits=SMALL, store=store).attempts == 0


def test_a_name_that_was_changed_is_no_name(told: pytest.LogCaptureFixture) -> None:
    run(numbers, [1, 2], limits=SMALL)
    change("UPDATE outcomes SET value = (SELECT value FROM outcomes WHERE task = 0)")
    assert same(run(numbers, [1, 2], limits=SMALL).results, [1, 2])
    assert "the result of task 1 in the journal" in told.text
    change("UPDATE outcomes SET place = 'store'")
    assert same(run(numbers, [1, 2], limits=SMALL).results, [1, 2])


def test_what_a_killed_client_was_writing_is_removed() -> None:
    run(numbers, [1], limits=SMALL)
    partial = folder.values_of(only().path) / ".0123456789abcdef"
    partial.write_bytes(b"half")
    run(numbers, [1], limits=SMALL)
    assert len(beside()) == 1


# ---- on the way there ----


async def mapped(store: Any, chunks: Any, limits: Limits = SMALL) -> Any:
    async with limited(limits, store=store) as ex:
        return await ex.map(numbers, chunks, name="s", group=1)


def test_few_are_stored_at_a_time_and_the_end_waits_for_them(tmp_path: Path) -> None:
    store = Gate(tmp_path / "store")

    async def whole() -> None:
        store.opened.clear()
        task = asyncio.ensure_future(mapped(store, range(9), Limits(value_bytes=4000, at_once=2)))
        while len(CALLS) < 9:
            await asyncio.sleep(0.01)
        for _ in range(20):
            await asyncio.sleep(0.01)
        assert (task.done(), store.now) == (False, 2)
        store.opened.set()
        assert same(await task, range(9))

    asyncio.run(whole())
    assert store.most == 2
    assert rows("SELECT count(*) FROM outcomes") == [(9,)]


def test_what_comes_faster_than_it_is_stored_is_not_kept_which_is_told_once(
    tmp_path: Path, told: pytest.LogCaptureFixture
) -> None:
    store = Gate(tmp_path / "store")
    limits = Limits(value_bytes=4000, waiting_bytes=30_000)  # three, with what is beside numbers

    async def whole() -> None:
        store.opened.clear()
        task = asyncio.ensure_future(mapped(store, range(9), limits))
        while len(CALLS) < 9:
            await asyncio.sleep(0.01)
        store.opened.set()
        assert same(await task, range(9))

    asyncio.run(whole())
    assert rows("SELECT count(*) FROM outcomes") == [(3,)]
    assert told.text.count("not all of its results above 4,000 bytes are kept") == 1
    assert "they come faster than they can be stored, and 30,000 bytes may wait" in told.text
    CALLS.clear()
    assert same(asyncio.run(mapped(tmp_path / "store", range(9)))[:9], range(9))


@pytest.mark.parametrize("broken", [StoreError("the bucket is gone"), ZeroDivisionError("a bug")])
def test_a_store_that_fails_costs_what_is_kept_and_not_the_run(
    tmp_path: Path, told: pytest.LogCaptureFixture, broken: Exception
) -> None:
    store = Gate(tmp_path / "store")
    store.broken = broken
    chunks = [0, -1, 1, 2]
    assert same(asyncio.run(mapped(store, chunks)), chunks)
    assert told.text.count("run s goes on, but not all of its results") == 1
    assert str(broken) in told.text
    assert rows("SELECT task FROM outcomes") == [(1,)]
    assert only().state == "done"


def test_a_folder_that_cannot_be_written_costs_what_is_kept_and_not_the_run(
    told: pytest.LogCaptureFixture,
) -> None:
    run(numbers, [-1], limits=SMALL)
    folder.values_of(only().path).symlink_to("/proc/nowhere")
    assert same(run(numbers, [-1, 1], limits=SMALL).results, [-1, 1])
    assert "can't be written" in told.text


@pytest.mark.parametrize("when", ["under way", "at the end"])
def test_a_run_that_is_cancelled_does_not_wait_for_a_store_that_hangs(
    tmp_path: Path, told: pytest.LogCaptureFixture, when: str
) -> None:
    store = Gate(tmp_path / "store")
    last = End.HANG if when == "under way" else End.REPLY

    async def whole() -> None:
        store.opened.clear()
        where = FakeBackend(
            2, plan=lambda _, chunks: Fate(task_s=0.0, end=last if 3 in chunks else End.REPLY)
        )
        async with limited(SMALL, where, store) as ex:
            task = asyncio.ensure_future(ex.map(numbers, range(4), name="s", group=1))
            while len(CALLS) < (3 if last is End.HANG else 4):
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not others()

    asyncio.run(whole())
    assert "still on their way when it ended" in told.text
    assert rows("SELECT count(*) FROM outcomes") == [(0,)]
    CALLS.clear()
    assert same(asyncio.run(mapped(tmp_path / "store", range(4))), range(4))


def test_an_end_that_takes_long_says_what_it_waits_for(
    tmp_path: Path, told: pytest.LogCaptureFixture
) -> None:
    store = Gate(tmp_path / "store")

    async def whole() -> None:
        store.opened.clear()
        task = asyncio.ensure_future(mapped(store, [1], Limits(value_bytes=4000, patient_s=0.02)))
        while "is over, but for 1 large results of 8," not in told.text:
            await asyncio.sleep(0.01)
        store.opened.set()
        assert same(await task, [1])

    asyncio.run(whole())
    assert rows("SELECT count(*) FROM outcomes") == [(1,)]


def test_what_a_run_that_failed_has_done_is_kept(tmp_path: Path) -> None:
    async def fails() -> None:
        def breaks() -> Any:
            yield from range(3)
            while len(CALLS) < 3:
                yield -1
            raise KeyError("input")

        async with limited(SMALL) as ex, ex.stream(numbers, breaks(), name="s") as outcomes:
            async for _ in outcomes:
                pass

    with pytest.raises(KeyError):
        asyncio.run(fails())
    assert rows("SELECT count(*) FROM outcomes WHERE place = 'beside'") == [(3,)]


def test_what_the_caller_of_a_stream_does_to_a_result_is_not_kept() -> None:
    async def spoilt() -> None:
        async with limited(SMALL) as ex, ex.stream(numbers, [1, 2], name="s") as outcomes:
            async for outcome in outcomes:
                outcome.result()[:] = 0.0

    asyncio.run(spoilt())
    assert same(run(numbers, [1, 2], "s", limits=SMALL).results, [1, 2])


def test_a_journal_that_nobody_asked_for_stays_small_with_what_lies_beside_it(
    told: pytest.LogCaptureFixture,
) -> None:
    async def unnamed() -> None:
        limits = Limits(value_bytes=4000, unasked_bytes=30_000)
        async with limited(limits, BilledBackend(2, plan=always(Fate(task_s=0.0)))) as ex:
            await ex.map(numbers, range(20), group=1)

    asyncio.run(unnamed())
    assert "it is too large; a run that has a name may have a larger one" in told.text
    assert sum(path.stat().st_size for path in beside()) <= 30_000


# ---- on the way back ----


def test_a_stream_reads_no_more_than_its_caller_takes(tmp_path: Path) -> None:
    """Memory is bounded: so many are read ahead, however many there are."""
    chunks = range(50)
    run(numbers, chunks, "s", limits=SMALL, store=tmp_path / "store")
    store = Gate(tmp_path / "store")
    limits = Limits(value_bytes=4000, waiting_bytes=30_000)

    async def streamed(*, ordered: bool) -> list[Any]:
        found: list[Any] = []
        ahead = 0
        store.gets = 0
        async with (
            limited(limits, store=store) as ex,
            ex.stream(numbers, chunks, name="s", ordered=ordered) as outcomes,
        ):
            async for outcome in outcomes:
                for _ in range(5):
                    await asyncio.sleep(0.001)
                ahead = max(ahead, store.gets - len(found))
                found.append(outcome)
        assert 1 < ahead <= 4
        return found

    for ordered in (False, True):
        found = asyncio.run(streamed(ordered=ordered))
        CALLS.clear()
        in_order = sorted(found, key=lambda outcome: outcome.index)
        if ordered:
            assert found == in_order
        assert same([outcome.result() for outcome in in_order], chunks)
        assert rows("SELECT count(*) FROM outcomes") == [(50,)]


def test_tasks_run_while_results_are_read(tmp_path: Path) -> None:
    """Those behind a result that takes long to read need not wait for it."""
    run(numbers, [1], "s", limits=SMALL, store=tmp_path / "store")

    class Slow(Gate):
        async def get(self, key: str, nbytes: int) -> memoryview:
            await self.opened.wait()
            return await super().get(key, nbytes)

    async def whole() -> Any:
        store = Slow(tmp_path / "store")
        store.opened.clear()
        CALLS.clear()
        async with limited(SMALL, store=store) as ex:
            task = asyncio.ensure_future(ex.map(numbers, [1, -2, -3], name="s"))
            while CALLS != [-2, -3]:
                await asyncio.sleep(0.01)
            assert not task.done()
            store.opened.set()
            return await task

    assert same(asyncio.run(whole()), [1, -2, -3])


def test_a_stream_that_is_left_early_reads_no_more(tmp_path: Path) -> None:
    run(numbers, range(20), "s", limits=SMALL, store=tmp_path / "store")
    store = Gate(tmp_path / "store")

    async def leave() -> None:
        limits = Limits(value_bytes=4000, waiting_bytes=30_000)
        async with limited(limits, store=store) as ex:
            async with ex.stream(numbers, range(20), name="s") as outcomes:
                await anext(outcomes)
            assert not others()

    asyncio.run(leave())
    assert store.gets < 10
    assert only().done == 20
    assert run(numbers, range(20), "s", limits=SMALL, store=tmp_path / "store").attempts == 0


def test_a_budget_that_is_used_up_still_gives_what_was_kept() -> None:
    async def once(chunks: Sequence[int], max_gb_s: float | None) -> Any:
        async with limited(SMALL, BilledBackend(1)) as ex:
            return await ex.map(dear, chunks, name="s", max_gb_s=max_gb_s)

    asyncio.run(once([1, 2], None))
    with pytest.raises(BudgetExceededError) as caught:
        asyncio.run(once([1, 2, 3], 0.001))
    done = caught.value.run
    assert done is not None
    assert [outcome.index for outcome in done.outcomes] == [0, 1]


# ---- removed ----


def test_prune_removes_what_lies_in_a_directory_and_nothing_else(tmp_path: Path) -> None:
    async def put() -> None:
        async with Executor(FakeBackend(1), store=tmp_path / "store") as ex:
            await ex.put(np.ones(5))

    asyncio.run(put())
    run(numbers, [1, 2], "one", limits=SMALL, store=tmp_path / "store")
    run(numbers, [1, 2], "two", limits=SMALL, store=tmp_path / "store")
    # What is restarted, too, and with another store.
    run(text, [1, 2], "two", limits=SMALL, store=tmp_path / "more", on_change="restart")
    records = {record.name: record for record in Folder().runs()}
    one, two = records["one"], records["two"]
    Folder().remove(two)
    assert [path.name for path in (tmp_path / "store" / "results").iterdir()] == [one.id]
    assert list((tmp_path / "more" / "results").iterdir()) == []
    Folder().remove(one)
    assert list((tmp_path / "store" / "results").iterdir()) == []
    assert len(list((tmp_path / "store" / "objects").iterdir())) == 1


def test_a_file_that_was_renamed_removes_no_other_runs_objects(tmp_path: Path) -> None:
    run(numbers, [1, 2], "one", limits=SMALL, store=tmp_path / "store")
    other = only().path.with_name("--.db")
    only().path.rename(other)
    Folder().remove(only())
    ((kept,),) = [(tmp_path / "store" / "results").iterdir()]
    assert len(list(kept.iterdir())) == 2


# ---- killed ----

CLIENT = """
import asyncio, sys
from fanout.journal import Limits
from fanout.stores import DirectoryStore
from tests.journal_checks import limited
from tests.journal_kernels import heavy
import fanout, functools

async def main():
    limits = Limits(value_bytes=100_000, waiting_bytes=10**9)
    async with limited(limits, fanout.Local(workers=2), STORE) as ex:
        kernel = functools.partial(heavy, sys.argv[1])
        results = await ex.map(kernel, range(TASKS), name="killed", group=1)
        print([int(result[0]) for result in results] == list(range(TASKS)))
asyncio.run(main())
"""
TASKS = 120


@pytest.mark.parametrize("named", [False, True])
def test_a_client_that_is_killed_while_it_stores_leaves_no_name_without_an_object(
    tmp_path: Path, named: bool
) -> None:
    log = tmp_path / "log"
    store = repr(str(tmp_path / "store")) if named else "None"
    code = CLIENT.replace("STORE", store).replace("TASKS", str(TASKS))

    def started() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", code, str(log)],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "FANOUT_PROGRESS": "0"},
        )  # fmt: skip

    def ran() -> Counter[str]:
        return Counter(log.read_text().split() if log.exists() else [])

    held: Counter[str] = Counter()
    for kill in range(4):
        before = sum(ran().values())
        client = started()
        while client.poll() is None and sum(ran().values()) < before + 20 + 3 * kill:
            time.sleep(0.002)
        client.kill()
        client.communicate(timeout=60)
        root = tmp_path / "store" if named else Folder().path
        there = {path.name for path in root.rglob("*") if len(path.name) == 64}
        if Folder().runs() and only().state != "damaged":
            found = rows("SELECT task, value FROM outcomes WHERE place IS NOT NULL")
            for task, value in found:
                assert any(name.encode() in value for name in there), "a name without an object"
                held.setdefault(str(task), ran()[str(task)])
    client = started()
    printed, errors = client.communicate(timeout=100)
    assert printed == "True\n", errors
    assert held
    assert all(ran()[task] == times for task, times in held.items()), "done again"
    assert set(ran()) == {str(task) for task in range(TASKS)}
