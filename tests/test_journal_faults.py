"""Journals on broken disks, damaged, cut short: a run is worth more, and no result is wrong."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from fanout import Executor
from fanout.errors import JournalError, RunChangedError
from fanout.journal import Folder, folder
from fanout.journal.schema import PUT_META, TABLES
from fanout.journal.writer import Writer
from tests.journal_checks import backend, change, only, rows, run

if TYPE_CHECKING:
    from pathlib import Path


def square(chunk: int) -> int:
    return chunk * chunk


def text(chunk: int) -> str:
    return str(chunk) * 1000


# Two pages of SQLite, in its log each with a head.
LAST_BYTES = 2 * (4096 + 24)
EXPECTED = [number * number for number in range(30)]


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, "fanout")
    return caplog


# ---- there can't be one ----


def test_a_home_that_is_a_file_costs_the_journal_and_not_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, told: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "home").write_text("not a folder")
    monkeypatch.setenv("FANOUT_HOME", str(tmp_path / "home"))
    assert run(square, range(30)).results == EXPECTED
    assert "run sweep has no journal, as none can be written" in told.text
    assert "FANOUT_HOME names another place" in told.text


def test_a_home_that_is_read_only_costs_the_journal_and_not_the_run(
    monkeypatch: pytest.MonkeyPatch, told: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FANOUT_HOME", "/proc/fanout")  # where not even root may write
    assert run(square, range(30)).results == EXPECTED
    assert Folder().runs() == []
    assert "run sweep has no journal" in told.text


FULL = """
import logging, resource, signal, sys, fanout
logging.basicConfig(level="WARNING")
def kernel(chunk):
    return bytes([chunk]) * 50_000
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limit = int(sys.argv[1])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
results = fanout.sync.map(kernel, range(40), name="s", backend=fanout.Local(workers=1))
print(results == [bytes([n]) * 50_000 for n in range(40)])
"""


def test_a_disk_that_is_full_costs_the_journal_and_not_the_run(tmp_path: Path) -> None:
    path = tmp_path / "full.py"
    path.write_text(FULL)

    def once(limit: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(path), str(limit)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    first = once(400_000)
    assert first.stdout == "True\n", first.stderr
    assert first.stderr.count("goes on without its journal") == 1
    assert "look whether the disk is full" in first.stderr
    record = only()
    assert (record.state, record.done < 40) == ("interrupted", True)
    # What was written before is not lost.
    assert once(0).stdout == "True\n"
    assert (only().state, only().done) == ("done", 40)


def test_a_disk_that_is_full_at_once_is_told_and_the_journal_is_left(tmp_path: Path) -> None:
    path = tmp_path / "full.py"
    path.write_text(FULL)
    arguments = [sys.executable, str(path)]
    subprocess.run([*arguments, "0"], check=True, capture_output=True, timeout=60)
    before = only()
    done = subprocess.run(
        [*arguments, "4096"], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0
    assert "JournalError" in done.stderr
    assert "see that there is room" in done.stderr
    assert only().done == before.done == 40


# ---- the writer ----


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "rows.db"
    with sqlite3.connect(path) as database:
        database.executescript(TABLES)
    database.close()
    return path


def test_a_writer_writes_in_order_and_all_of_it(table: Path) -> None:
    writer = Writer(table, "run s")
    for number in range(25_000):
        writer.add(PUT_META, (str(number % 100), str(number)))
    writer.close()
    with sqlite3.connect(table) as database:
        found = dict(database.execute("SELECT key, value FROM meta"))
    database.close()
    assert found == {str(number % 100): str(number) for number in range(24_900, 25_000)}


def test_a_writer_that_dies_is_told_once_and_blocks_nobody(
    table: Path, told: pytest.LogCaptureFixture
) -> None:
    writer = Writer(table, "run s")
    writer.add("INSERT INTO nowhere VALUES (?)", (1,))
    while not writer.is_broken:
        threading.Event().wait(0.01)
    for _ in range(10):
        writer.add(PUT_META, ("key", "x" * 50_000_000))
    writer.close()
    assert told.text.count("run s goes on without its journal") == 1
    assert "nowhere" in told.text


def test_a_row_that_no_database_takes_breaks_the_journal_alone(
    table: Path, told: pytest.LogCaptureFixture
) -> None:
    writer = Writer(table, "run s")
    writer.add(PUT_META, ("key", "\udc80"))
    writer.close()
    assert writer.is_broken
    assert "surrogates not allowed" in told.text


def test_a_disk_that_cannot_keep_up_costs_the_journal_and_no_memory(
    table: Path, told: pytest.LogCaptureFixture
) -> None:
    blocker = sqlite3.connect(table, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")  # nobody else can write
    writer = Writer(table, "run s", most_wait_s=0.05)
    large = "x" * 2**26
    for number in range(4):
        writer.add(PUT_META, (str(number), large))
    assert writer.is_broken
    assert "the disk is too slow" in told.text
    blocker.execute("ROLLBACK")
    blocker.close()
    writer.close()


def test_a_journal_that_nobody_asked_for_stays_small(
    table: Path, told: pytest.LogCaptureFixture
) -> None:
    writer = Writer(table, "run s", most_bytes=10_000)
    for number in range(100):
        writer.add(PUT_META, (str(number), "x" * 1000))
    writer.close()
    assert "it is too large; a run that has a name may have a larger one" in told.text
    with sqlite3.connect(table) as database:
        ((count,),) = database.execute("SELECT count(*) FROM meta")
    database.close()
    assert count < 12


# ---- damage ----


def refused_or_right() -> str | None:
    """Run again what is damaged: the results are right, or it says why there are none."""
    try:
        results = run(square, range(30)).results
    except (JournalError, RunChangedError) as error:
        (why,) = (why for why in ("can't be read", "is not as it was") if why in str(error))
        return why
    assert results == EXPECTED
    return None


def test_a_result_that_is_damaged_is_computed_again(told: pytest.LogCaptureFixture) -> None:
    run(square, range(30))
    for task, at in ((3, 0), (5, 20), (7, -1)):
        ((value,),) = rows("SELECT value FROM outcomes WHERE task = ?", task)
        spoilt = bytearray(value)
        spoilt[at] ^= 1
        change("UPDATE outcomes SET value = ? WHERE task = ?", bytes(spoilt), task)
    # A result that went to another task is none either.
    change("UPDATE outcomes SET value = (SELECT value FROM outcomes WHERE task = 1) WHERE task = 9")
    again = run(square, range(30))
    assert again.results == EXPECTED
    assert again.attempts > 0
    assert [f"task {task}" in told.text for task in (3, 5, 7, 9)] == [True] * 4
    assert run(square, range(30)).attempts == 0


def test_a_file_that_is_no_database_says_what_to_do() -> None:
    run(square, range(30))
    folder.clear(path := only().path)
    path.write_bytes(b"a text, and no database at all" * 100)
    with pytest.raises(JournalError, match=r"journal of run sweep can't be read.*remove it"):
        run(square, range(30))
    assert only().state == "damaged"
    assert run(square, range(30), on_change="restart").results == EXPECTED
    assert only().state == "done"


def test_a_journal_of_another_version_is_left_alone() -> None:
    run(square, range(30))
    change("UPDATE meta SET value = '99' WHERE key = 'version'")
    with pytest.raises(JournalError, match=r"of version 99, and this fanout reads version 1"):
        run(square, range(30))
    assert only().state == "damaged"
    assert rows("SELECT count(*) FROM outcomes") == [(30,)]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE meta SET value = '{' WHERE key = 'digest'",
        "DELETE FROM meta WHERE key = 'digest'",
        "DROP TABLE outcomes",
        "DROP TABLE chunks",
        "DELETE FROM kernel",
        "UPDATE kernel SET code = x'00'",
        "UPDATE chunks SET digest = x'00'",
        "UPDATE outcomes SET digest = x'00'",
    ],
)
def test_a_journal_that_lacks_something_gives_no_wrong_result(statement: str) -> None:
    run(square, range(30))
    change(statement)
    assert refused_or_right() in {None, "can't be read", "is not as it was"}


# ---- cut short ----


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """A copy of a journal whose last words are still in SQLite's log, as after a `kill -9`."""

    async def stop() -> None:
        async with Executor(backend()) as ex, ex.stream(square, range(30), name="sweep") as out:
            seen = 0
            async for _ in out:
                seen += 1
                if seen == 30:
                    break
            while rows("SELECT count(*) FROM outcomes") != [(30,)]:
                await asyncio.sleep(0.02)
            for file in only().path.parent.glob("*.db*"):
                shutil.copy(file, tmp_path / file.name)

    asyncio.run(stop())
    assert list(tmp_path.glob("*.db-wal"))
    return tmp_path


def put_back(kept: Path) -> Path:
    """Put the copy in place; returns the journal."""
    place = Folder().path
    for file in place.glob("*.db*"):
        file.unlink()
    for file in kept.glob("*.db*"):
        if not file.name.endswith("-shm"):
            shutil.copy(file, place / file.name)
    (path,) = place.glob("*.db")
    return path


def cut(path: Path, suffix: str, size: int) -> None:
    """Cut the journal, or the log beside it; what SQLite has in memory of it is gone."""
    os.truncate(path.with_name(path.name + suffix), size)
    path.with_name(path.name + "-shm").unlink(missing_ok=True)


def outcomes_in(path: Path) -> set[tuple[int, bytes]]:
    """What a journal that may be damaged tells of results."""
    try:
        with folder.reading(path) as database:
            return set(database.execute("SELECT task, value FROM outcomes"))
    except sqlite3.Error:
        return set()


@pytest.mark.parametrize(
    ("suffix", "is_whole"), [("-wal", False), ("", False), ("", True)], ids=["log", "file", "alone"]
)
def test_a_journal_cut_at_any_byte_opens_or_says_so(
    killed: Path, suffix: str, is_whole: bool
) -> None:
    """At every byte of the last two pages, by reading; at some, everywhere, by a whole run.

    The file is also cut when it is all there is, as after a checkpoint.
    """
    path = put_back(killed)
    if is_whole:
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copy(path, killed / path.name)
        (killed / f"{path.name}-wal").unlink()
    size = os.stat(f"{path}{suffix}").st_size
    held = outcomes_in(path)
    assert len(held) == 30
    states = set()
    for lock in path.parent.glob("*.lock"):
        lock.unlink()  # nobody holds it, and to find that out would take longest
    for at in reversed(range(max(0, size - LAST_BYTES), size)):
        cut(path, suffix, at)
        record = folder.record_of(path)
        states.add(record.state)
        assert 0 <= record.done <= 30
        if not at % 16:
            assert outcomes_in(path) <= held, at
    assert states <= {"interrupted", "damaged"}
    edges = {edge + by for edge in range(0, size, 4096) for by in (-1, 0, 1)}
    tried = {*random.Random(7).sample(range(size), 30), *(at for at in edges if 0 <= at < size)}
    for at in sorted(tried):
        path = put_back(killed)
        cut(path, suffix, at)
        assert refused_or_right() in {None, "can't be read"}, at
    put_back(killed)
    assert run(square, range(30)).attempts == 0


def test_no_flipped_byte_makes_a_wrong_result(killed: Path) -> None:
    put_back(killed)
    run(square, range(30))  # all is in the one file now
    path = only().path
    whole = path.read_bytes()
    assert json.loads(rows("SELECT value FROM meta WHERE key = 'state'")[0][0]) == "done"
    ways = set()
    for at in range(100, len(whole), max(1, len(whole) // 150)):
        folder.clear(path)
        spoilt = bytearray(whole)
        spoilt[at] ^= 0x41
        path.write_bytes(spoilt)
        ways.add(refused_or_right())
    assert None in ways
