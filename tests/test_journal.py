"""Journals: what is done is not done again, and nothing else is taken for it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import fanout
from fanout import Executor, RetryPolicy
from fanout.errors import JournalError, RunChangedError, UsageError
from fanout.journal import Folder, Limits
from fanout.journal.sameness import content_digest, is_same
from tests.fakes import FakeBackend
from tests.journal_checks import BilledBackend, backend, only, rows, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

CALLS: list[Any] = []  # workers of the fake backend run in this process


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    CALLS.clear()


def double(chunk: Any) -> Any:
    CALLS.append(chunk)
    return chunk * 2


def triple(chunk: Any) -> Any:
    CALLS.append(chunk)
    return chunk * 3


def picky(chunk: int) -> int:
    CALLS.append(chunk)
    if chunk == 2 and len(CALLS) < 5:
        raise ValueError("not two \udc80")
    return chunk


def chatty(chunk: int) -> int:
    print("said", chunk, "\udc80")
    return chunk


def add(one: int, other: int) -> int:
    CALLS.append((one, other))
    return one + other


def length(chunk: Any) -> int:
    CALLS.append(1)
    return len(chunk)


# ---- recall ----


def test_the_same_call_with_the_same_name_does_nothing_again() -> None:
    first = run(double, range(20))
    assert len(CALLS) == 20
    second = run(double, range(20))
    assert len(CALLS) == 20
    assert second.results == first.results == [2 * chunk for chunk in range(20)]
    assert second.id == first.id == only().id
    assert second.attempts == 0


def test_a_longer_input_is_done_where_it_is_new() -> None:
    run(double, range(5))
    assert run(double, range(8)).results == [0, 2, 4, 6, 8, 10, 12, 14]
    assert CALLS == [0, 1, 2, 3, 4, 5, 6, 7]
    assert (only().done, only().total) == (8, 8)


def test_a_shorter_input_leaves_the_rest_where_it_is() -> None:
    run(double, range(8))
    assert run(double, range(3)).results == [0, 2, 4]
    assert (only().done, only().total) == (3, 3)
    run(double, range(8))
    assert len(CALLS) == 8


def test_generators_and_async_input_are_recalled_too() -> None:
    async def flow() -> AsyncIterator[int]:
        for number in range(6):
            yield number

    run(double, (number for number in range(6)))
    assert run(double, flow()).results == [0, 2, 4, 6, 8, 10]
    assert len(CALLS) == 6
    assert only().total == 6


def test_arrays_come_back_as_they_were_and_can_be_written_to() -> None:
    run(double, [np.arange(1000.0)])
    (result,) = run(double, [np.arange(1000.0)]).results
    assert len(CALLS) == 1
    np.testing.assert_array_equal(result, 2 * np.arange(1000.0))
    result += 1


def test_what_the_caller_does_to_a_result_is_not_kept() -> None:
    async def spoil() -> None:
        async with Executor(backend()) as ex, ex.stream(double, [[1], [2]], name="s") as outcomes:
            async for outcome in outcomes:
                outcome.result().clear()

    asyncio.run(spoil())
    assert run(double, [[1], [2]], name="s").results == [[1, 1], [2, 2]]
    assert len(CALLS) == 2


def test_starmap_streams_and_maps_go_on_with_each_others_runs() -> None:
    pairs = [(1, 2), (3, 4)]

    async def both() -> list[Any]:
        async with Executor(backend()) as ex:
            await ex.starmap(add, pairs, name="s")
            return await ex.starmap(add, pairs, name="s", return_exceptions=True)

    assert asyncio.run(both()) == [3, 7]
    assert len(CALLS) == 2


def test_an_ordered_stream_keeps_what_has_come_before_it_is_handed_on() -> None:
    """The task at the head is not done when the run ends; those behind it are not lost."""

    async def leave() -> None:
        plan = lambda _, chunks: fakes_fate(0 in chunks)  # noqa: E731
        ends = Executor(FakeBackend(2, plan=plan))
        async with (
            ends as ex,
            ex.stream(double, range(4), ordered=True, name="s", group=1) as outcomes,
        ):
            while len(CALLS) < 3:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            assert outcomes is not None

    asyncio.run(leave())
    done = {task for (task,) in rows("SELECT task FROM outcomes")}
    assert done >= {1, 2}
    assert 0 not in done


def fakes_fate(hangs: bool) -> Any:
    from tests.fakes import End, Fate

    return Fate(task_s=0.0, end=End.HANG if hangs else End.REPLY)


def test_the_safe_codec_reads_and_writes_no_pickle() -> None:
    options: Any = {"codec": "safe"}
    kernel = "tests.journal_kernels"
    module = __import__(kernel, fromlist=["double"])
    assert run(module.double, [1, 2], **options).results == [2, 4]
    second = run(module.double, [1, 2], **options)
    assert (second.results, second.attempts) == ([2, 4], 0)


# ---- what is not as it was ----


def test_another_kernel_is_refused_with_the_ways_out() -> None:
    run(double, range(3))
    with pytest.raises(RunChangedError, match=r"the kernel triple is not as it was.*on_change="):
        run(triple, range(3))
    assert run(triple, range(3), on_change="restart").results == [0, 3, 6]
    assert run(triple, range(3)).attempts == 0


def test_another_chunk_is_refused_and_the_rest_can_be_reused() -> None:
    run(double, [1, 2, 3])
    with pytest.raises(RunChangedError, match="chunk 1 of the input is not as it was"):
        run(double, [1, 20, 3])
    assert run(double, [1, 20, 3], on_change="reuse").results == [2, 40, 6]
    assert CALLS == [1, 2, 3, 20]
    # From now on this is the input of the run.
    assert run(double, [1, 20, 3]).attempts == 0
    with pytest.raises(RunChangedError):
        run(double, [1, 2, 3])


@pytest.mark.parametrize("other", [1.0, True, "1", (1,), np.int64(1)])
def test_a_chunk_of_another_type_is_another_chunk(other: Any) -> None:
    run(double, [1])
    with pytest.raises(RunChangedError):
        run(double, [other])


def test_restart_does_all_again_under_the_same_id() -> None:
    before = run(double, range(3))
    assert run(double, range(3), on_change="restart").id == before.id == only().id
    assert len(CALLS) == 6


def test_the_order_within_dicts_and_sets_makes_no_other_chunk() -> None:
    run(length, [{"a": 1, "b": {2, 3}}])
    assert run(length, [{"b": {3, 2}, "a": 1}]).attempts == 0
    with pytest.raises(RunChangedError):
        run(length, [{"b": {3, 4}, "a": 1}])


SCRIPT = """
import dataclasses
import fanout
import numpy as np

@dataclasses.dataclass
class Point:
    x: int
    tags: set
    points: object

    def area(self):
        return self.x * {FACTOR}

WORDS = {{"one", "two", "three", "four"}}

def kernel(point):
    with open({LOG!r}, "a") as file:
        file.write("x")
    return point.area(), sorted(point.tags), len(WORDS)

points = [Point(x, {{"a", "b", str(x)}}, np.full(1000, float(x))) for x in range(3)]
if __name__ == "__main__":
    print(fanout.sync.map(kernel, points, name="script", backend=fanout.Local(workers=1)))
"""


def script(folder: Path, seed: int, text: str) -> subprocess.CompletedProcess[str]:
    path = folder / "script.py"
    path.write_text(text)
    return subprocess.run(
        [sys.executable, str(path)],
        env={**os.environ, "PYTHONHASHSEED": str(seed)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_script_is_the_same_in_another_process_with_another_hash_seed(tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    text = SCRIPT.format(FACTOR=2, LOG=log)
    first = script(tmp_path, 1, text)
    assert first.returncode == 0, first.stderr
    moved = "# a comment\n\n" + text
    second = script(tmp_path, 2, moved)
    assert second.returncode == 0, second.stderr
    assert second.stdout == first.stdout
    assert (tmp_path / "log").read_text() == "xxx"
    # What a method of the chunk does counts.
    changed = script(tmp_path, 2, SCRIPT.format(FACTOR=3, LOG=log))
    assert "RunChangedError" in changed.stderr
    assert (tmp_path / "log").read_text() == "xxx"


def test_contents_tell_functions_and_values_apart() -> None:
    def of(number: int) -> Any:
        return lambda chunk: chunk + number

    assert is_same(of(1), of(1))
    assert not is_same(of(1), of(2))
    assert not is_same(of(1), lambda chunk: chunk - 1)
    assert is_same(functools.partial(double, {1, 2}), functools.partial(double, {2, 1}))
    assert not is_same(functools.partial(double, 1), functools.partial(triple, 1))
    assert not is_same(OrderedDict(a=1, b=2), OrderedDict(b=2, a=1))
    assert is_same({"a": [1, (2,)], "b": 3}, {"b": 3, "a": [1, (2,)]})
    assert not is_same([1, 2], [2, 1])
    assert not is_same(["ab", "c"], ["a", "bc"])
    assert not is_same(np.zeros(3), np.zeros(3, np.float32))
    endless: list[Any] = [1]
    endless.append(endless)
    assert content_digest(endless) is not None
    assert content_digest(x for x in "ab") is None
    assert not is_same((x for x in "ab"), (x for x in "ab"))


def test_a_kernel_of_a_module_whose_file_changed_is_another(tmp_path: Path) -> None:
    (tmp_path / "edited.py").write_text("def kernel(chunk):\n    return chunk\n")
    code = (
        "import fanout, edited\n"
        "print(fanout.sync.map(edited.kernel, [1], name='m', backend=fanout.Local(workers=1)))\n"
    )

    def once() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    assert once().stdout == "[1]\n"
    (tmp_path / "edited.py").write_text("def kernel(chunk):\n    return chunk + 1\n")
    assert "the kernel kernel is not as it was" in once().stderr


# ---- failures, and what can't be kept ----


def test_failures_are_tried_again() -> None:
    first = run(picky, range(4))
    assert [str(outcome.error) for outcome in first.failures] == ["not two \udc80"]
    assert (only().state, only().done, only().failed) == ("done", 3, 1)
    assert run(picky, range(4)).results == [0, 1, 2, 3]
    assert CALLS == [0, 1, 2, 3, 2]
    assert (only().done, only().failed) == (4, 0)


def test_return_exceptions_are_not_kept_as_results() -> None:
    async def mapped() -> list[Any]:
        async with Executor(backend()) as ex:
            return await ex.map(picky, range(4), name="s", return_exceptions=True)

    assert [type(result) for result in asyncio.run(mapped())] == [int, int, ValueError, int]
    assert asyncio.run(mapped()) == [0, 1, 2, 3]


def test_what_is_printed_is_kept_with_attempts_and_times() -> None:
    run(chatty, [1])
    (outcome,) = run(chatty, [1]).outcomes
    assert outcome.stdout.startswith("said 1")
    assert (outcome.attempts, outcome.report) == (1, None)
    ((tasks, done, ended_s),) = rows("SELECT tasks, done, ended_s FROM attempts")
    assert (tasks, done) == (1, 1)
    assert ended_s > 0


def test_a_chunk_that_cannot_be_encoded_fails_as_without_a_journal() -> None:
    chunks = [1, (number for number in range(3))]
    for _ in range(2):
        assert [outcome.is_ok for outcome in run(double, chunks).outcomes] == [True, False]
    assert CALLS == [1]


def test_the_whole_list_is_kept_before_much_is_done() -> None:
    """A client that is killed early can be resumed without the list."""

    async def leave() -> None:
        chunks = list(range(1000))
        async with Executor(FakeBackend(1)) as ex, ex.stream(double, chunks, name="s"):
            while rows("SELECT count(*) FROM chunks") != [(1000,)]:
                await asyncio.sleep(0.01)
            assert rows("SELECT count(*) FROM outcomes") < [(100,)]

    async def within() -> None:
        await asyncio.wait_for(leave(), 20)

    asyncio.run(within())


def test_only_so_much_of_the_chunks_is_kept() -> None:
    limits = Limits(chunks_bytes=200)
    run(length, ["x" * 100] * 5, limits=limits)
    assert rows("SELECT count(*), count(frame) FROM chunks") == [(5, 1)]
    assert run(length, ["x" * 100] * 5, limits=limits).attempts == 0


# ---- names ----


@pytest.mark.parametrize("name", ["", "-a", ".a", "a/b", "a b", "a--b", "x" * 65, "é", 7])
def test_names_that_can_be_no_files_are_refused(name: Any) -> None:
    with pytest.raises(UsageError, match="must be 1 to 64 letters"):
        run(double, [1], name=name)
    assert Folder().runs() == []


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"journal": False}, "leave out journal=False"),
        ({"on_change": "ask"}, "must be 'refuse', 'reuse' or 'restart'"),
        ({"journal": 1}, "must be True, False or None"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: Any, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        run(double, [1], **options)


def test_a_run_is_found_by_its_id_too() -> None:
    first = run(double, range(3), name=None, journal=True)
    assert only().name is None
    assert run(double, range(3), name=first.id).attempts == 0
    assert len(Folder().runs()) == 1


def test_runs_without_a_name_are_kept_where_they_cost_money() -> None:
    async def mapped(where: FakeBackend, **options: Any) -> None:
        async with Executor(where) as ex:
            await ex.map(double, [1], **options)

    asyncio.run(mapped(backend()))
    asyncio.run(mapped(BilledBackend(2), journal=False))
    assert Folder().runs() == []
    asyncio.run(mapped(BilledBackend(2)))
    assert only().state == "done"
    assert only().spent_gb_s > 0


# ---- who runs it ----


def test_two_runs_of_one_name_are_refused_within_a_process() -> None:
    async def twice() -> None:
        async with Executor(backend()) as ex, ex.stream(double, [1, 2], name="s"):
            assert only().state == "running"
            with pytest.raises(UsageError, match="run s is being run already: wait"):
                await ex.map(double, [1, 2], name="s")
            await ex.map(double, [1, 2], name="other")

    asyncio.run(twice())


HOLDER = """
import sys, time, fanout
def slow(chunk):
    if chunk:
        print("runs", file=open(sys.argv[1], "w"))
        time.sleep(60)
    return chunk
fanout.sync.map(slow, [0, 1], name="held", backend=fanout.Local(workers=1), group=1)
"""


def until(path: Path) -> None:
    while not path.exists():
        time.sleep(0.02)


def test_the_lock_of_another_process_ends_with_it(tmp_path: Path) -> None:
    (tmp_path / "holder.py").write_text(HOLDER.replace("sys.argv[1]", repr(str(tmp_path / "up"))))
    holder = subprocess.Popen([sys.executable, str(tmp_path / "holder.py")])
    try:
        until(tmp_path / "up")
        assert only().state == "running"
        with pytest.raises(UsageError, match="is being run already"):
            run(double, [0, 1], name="held")
        # Nobody removes what is being run.
        Folder().remove(only())
        assert only().state == "running"
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert only().state == "interrupted"
    assert run(double, [0, 1], name="held", on_change="restart").results == [0, 2]


# ---- how it ended ----


def state_after(**options: Any) -> str:
    async def whole() -> None:
        async with Executor(backend()) as ex:
            await ex.map(options.pop("kernel", double), options.pop("chunks"), name="s", **options)

    with contextlib.suppress(ValueError, KeyError):
        asyncio.run(whole())
    return only().state


def test_the_journal_says_how_the_run_ended() -> None:
    def breaks() -> Iterator[int]:
        yield 1
        raise KeyError("input")

    assert state_after(chunks=[1, 2]) == "done"
    assert state_after(kernel=picky, chunks=[2], on_change="restart") == "failed"
    assert "ValueError" in json.loads(rows("SELECT value FROM meta WHERE key = 'error'")[0][0])
    assert state_after(chunks=breaks(), on_change="restart") == "failed"
    assert state_after(chunks=[1], on_change="restart") == "done"
    assert rows("SELECT value FROM meta WHERE key = 'error'") == [("null",)]


def test_a_stream_that_is_left_early_is_not_done() -> None:
    def endless() -> Iterator[int]:
        number = 0
        while True:
            yield number
            number += 1

    async def leave() -> Any:
        async with Executor(backend()) as ex, ex.stream(double, endless(), name="s") as outcomes:
            return (await anext(outcomes)).result()

    asyncio.run(leave())
    assert (only().state, only().total) == ("cancelled", None)
    calls = len(CALLS)
    asyncio.run(leave())
    assert min(CALLS[calls:], default=1) > 0


def test_a_run_that_is_cancelled_says_so() -> None:
    async def cancelled() -> None:
        async with Executor(FakeBackend(1)) as ex:
            task = asyncio.ensure_future(ex.map(double, range(100), name="s"))
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(cancelled())
    assert only().state == "cancelled"


def test_a_call_that_is_wrong_leaves_no_journal_and_no_lock() -> None:
    with pytest.raises(UsageError, match="costs nothing"):
        run(double, [1], max_gb_s=5.0)
    assert Folder().runs() == []

    def raises(event: object) -> None:
        raise KeyError(event)

    with pytest.raises(KeyError):
        run(double, [1], on_event=raises)
    assert only().state == "failed"
    assert run(double, [1]).results == [2]


# ---- the folder ----


def test_all_that_is_kept_is_for_the_users_eyes_only() -> None:
    run(double, range(3))
    path = only().path
    assert path.parent.stat().st_mode & 0o777 == 0o700
    for file in path.parent.iterdir():
        assert file.stat().st_mode & 0o077 == 0, file.name


def test_old_journals_go_if_they_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    run(double, range(3), name="old")
    run(picky, [2, 2, 2], name="mine")
    for record in Folder().runs():
        os.utime(record.path, (0, 0))
    change_state("mine", "interrupted")
    run(double, range(3), name="new")
    assert {record.name for record in Folder().runs()} == {"mine", "new"}


def change_state(name: str, state: str) -> None:
    (record,) = (record for record in Folder().runs() if record.name == name)
    with contextlib.closing(sqlite3.connect(record.path)) as database:
        database.execute("UPDATE meta SET value = ? WHERE key = 'state'", (json.dumps(state),))
        database.commit()
    os.utime(record.path, (0, 0))


def test_folders_with_odd_names_are_fine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FANOUT_HOME", str(tmp_path / "a?b#c%20 d"))
    run(double, range(3))
    assert only().done == 3
    assert run(double, range(3)).attempts == 0


# ---- resume ----


def kernels_of() -> Any:
    from tests import journal_kernels

    return journal_kernels


def test_resume_does_the_rest_with_the_options_it_had(tmp_path: Path) -> None:
    log = tmp_path / "log"
    part = functools.partial(kernels_of().logged, str(log))
    with (
        fanout.sync.Executor(fanout.Local(workers=1)) as ex,
        pytest.raises(ValueError, match="once"),
    ):
        ex.map(part, [1, 2, "once"], name="s", group=1, retry=RetryPolicy(max_attempts=2))
    assert only().state == "failed"
    done = fanout.sync.resume("s", progress=False)
    assert done.results == [1, 2, "once"]
    assert done.id == only().id
    assert sorted(log.read_text().split()) == ["1", "2", "once", "once"]
    again = asyncio.run(fanout.resume(only().id))
    assert (again.attempts, again.results) == (0, [1, 2, "once"])


def test_resume_says_what_it_lacks() -> None:
    run(double, [1, 2])
    with pytest.raises(UsageError, match=r"no run 'sweeb' is kept.*did you mean sweep"):
        fanout.sync.resume("sweeb")
    with pytest.raises(JournalError, match=r"its backend or one of its options.*same name"):
        fanout.sync.resume("sweep")


def total_of(pair: tuple[Any, int]) -> float:
    CALLS.append(pair[1])
    return float(pair[0].sum()) + pair[1]


def test_refs_are_the_same_when_the_same_object_is_put_again(tmp_path: Path) -> None:
    async def mapped(count: int) -> list[float]:
        async with Executor(backend(), store=tmp_path / "store") as ex:
            ref = await ex.put(np.ones(5000))
            return await ex.map(total_of, [(ref, number) for number in range(count)], name="s")

    assert asyncio.run(mapped(2)) == [5000.0, 5001.0]
    assert asyncio.run(mapped(3)) == [5000.0, 5001.0, 5002.0]
    assert CALLS == [0, 1, 2]


def test_a_ref_whose_store_is_gone_fails_the_tasks_that_are_not_done() -> None:
    async def begun(count: int) -> list[Any]:
        async with Executor(backend()) as ex:
            ref = await ex.put(np.ones(5000))
            await ex.map(total_of, [(ref, number) for number in range(count)], name="s")
            return [(ref, number) for number in range(count + 1)]

    chunks = asyncio.run(begun(2))
    later = run(total_of, chunks, name="s")
    assert [outcome.is_ok for outcome in later.outcomes] == [True, True, False]


def test_a_generator_that_raises_leaves_what_came_before() -> None:
    def breaks() -> Iterator[int]:
        yield from range(3)
        raise KeyError("input")

    async def streamed() -> int:
        seen = 0
        async with Executor(backend()) as ex, ex.stream(double, breaks(), name="s") as outcomes:
            async for _ in outcomes:
                seen += 1
        return seen

    with pytest.raises(KeyError, match="input"):
        asyncio.run(streamed())
    assert (only().state, only().done, only().total) == ("failed", 3, None)
    assert run(double, range(4), name="s").results == [0, 2, 4, 6]
    assert CALLS == [0, 1, 2, 3]


def test_options_that_no_file_can_hold_only_hinder_the_command_line() -> None:
    policy = RetryPolicy(on=(ConnectionError,))
    run(double, [1], retry=policy)
    (text,) = rows("SELECT value FROM meta WHERE key = 'recipe'")[0]
    assert json.loads(text)["options"] is None
    assert run(double, [1], retry=policy).attempts == 0


def test_a_hash_seed_makes_no_other_partial_of_a_module() -> None:
    kernel = functools.partial(kernels_of().logged, "/dev/null")
    run(kernel, [{"a", "b"}])
    assert run(functools.partial(kernels_of().logged, "/dev/null"), [{"b", "a"}]).attempts == 0
    with pytest.raises(RunChangedError):
        run(functools.partial(kernels_of().logged, "/dev/full"), [{"b", "a"}])
