"""What is kept from process to process: how runs begin, and what befalls the file."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from fanout import Executor
from fanout.backends import Site
from fanout.findings import Findings
from fanout.grouping import Estimate, Grouping
from fanout.journal.folder import home
from fanout.journal.knowledge import Knowledge, Known, StartTimes, TaskTime, kernel_key
from fanout.kernel_spec import prepare
from fanout.lambda_figures import GROUPING
from fanout.lateness import START_S, Starts
from tests import lambda_fake
from tests.fakes import FakeBackend, Fate, always

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent
PROBES = [1] * 8  # or what the others of sixteen have told by then
DAY_S = 24 * 3600.0
SITE = Site(kind="lambda", function="arn:f v1", memory_mb=512, architecture="arm64")


def time_of(unit_s: float) -> TaskTime:
    return TaskTime(estimate=Estimate(unit_s=unit_s, task_bytes=10.0), tasks=100)


FOUND = Known(
    kernels={"k": time_of(0.5)},
    starts={False: StartTimes(bins={35: 30, 40: 10}, answers=300)},
    launches_per_s=700.0,
)


def process(**asked: Any) -> list[int]:
    """The sizes of groups of a map in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.knowledge_run", json.dumps(asked)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    sizes: list[int] = json.loads(done.stdout)
    return sizes


def cells(query: str, path: Path | None = None) -> list[Any]:
    with contextlib.closing(sqlite3.connect(path or home() / "knowledge.db")) as database:
        return database.execute(query).fetchall()


def change(path: Path, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute(statement)
        database.commit()


# ---- processes ----


def test_the_next_process_begins_with_groups_and_without_probes() -> None:
    first, second = process(), process()
    assert first[:8] == PROBES
    assert second[0] > 16
    assert sum(second) == 200


def test_another_kernel_is_not_known() -> None:
    process()
    assert process(kernel="other")[:8] == PROBES


def test_nor_is_the_kernel_where_there_is_more_memory() -> None:
    process()
    assert process(memory_mb=1024)[:8] == PROBES
    assert process(memory_mb=512)[0] > 16
    assert cells("SELECT memory_mb FROM kernels ORDER BY 1") == [(512,), (1024,)]


def test_a_kernel_of_a_script_is_known_though_its_bytes_differ() -> None:
    process(kernel="with_a_class")
    assert process(kernel="with_a_class")[0] > 16


@pytest.mark.parametrize("asked", [{"options": {"journal": False}}, {"is_weighted": True}])
def test_a_run_without_journal_or_with_weights_leaves_no_times(asked: dict[str, Any]) -> None:
    process(**asked)
    assert process()[:8] == PROBES


def test_a_run_without_journal_leaves_nothing_at_all() -> None:
    process(options={"journal": False})
    assert not home().exists()


def test_two_processes_at_once_keep_what_each_has_found() -> None:
    threads = [
        threading.Thread(target=process, kwargs={"kernel": kernel}) for kernel in ("plain", "other")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cells("SELECT count(*) FROM kernels") == [(2,)]


# ---- executors ----


def test_on_this_machine_nothing_is_kept() -> None:
    async def main() -> None:
        async with Executor(FakeBackend(2, plan=always(Fate(task_s=0.0)))) as ex:
            await ex.map(abs, range(10), journal=True)

    asyncio.run(main())
    assert not (home() / "knowledge.db").exists()


async def test_starts_and_the_times_of_tasks_are_in_the_file_once_the_executor_is_closed() -> None:
    async with lambda_fake.opened() as (ex, _):
        await ex.map(abs, range(200))
        assert not (home() / "knowledge.db").exists()
    ((backend, memory_mb, tasks),) = cells("SELECT backend, memory_mb, tasks FROM kernels")
    assert (backend, memory_mb, tasks) == ("lambda at 127.0.0.1", 512, 200)
    ((function,),) = cells("SELECT function FROM starts WHERE is_warm")
    assert "f in us-east-1" in function
    assert oct((home() / "knowledge.db").stat().st_mode & 0o777) == "0o600"


async def test_an_executor_that_cannot_keep_anything_works_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FANOUT_HOME", "/proc/fanout")  # where not even root may write
    with caplog.at_level(logging.INFO, "fanout"):
        async with lambda_fake.opened() as (ex, _):
            assert await ex.map(abs, [-1]) == [1]
    assert sum("what is measured is not kept" in told for told in caplog.messages) == 1


async def test_a_run_begins_with_what_is_in_the_file_and_adds_what_it_found(tmp_path: Path) -> None:
    kept = Knowledge()
    kept.keep(SITE, FOUND)
    findings = Findings()
    await findings.recall(SITE)
    assert findings.estimate("k") == Estimate(unit_s=0.5, task_bytes=10.0)
    assert findings.estimate("l") is None
    assert findings.launches_per_s == 700.0
    assert findings.starts.allowance_s(START_S, is_warm=False) < 3.0
    assert findings.starts.allowance_s(START_S, is_warm=True) == START_S

    grouping = Grouping(GROUPING, estimate=findings.estimate("k"))
    findings.keep("k", grouping)
    await findings.aclose()
    assert kept.recall(SITE) == FOUND, "nothing was measured since"

    grouping.observe(tasks=7, busy_s=7.0, payload_bytes=70)
    grouping.launched(100, 1.0)
    findings.keep("k", grouping)
    await findings.aclose()
    found = kept.recall(SITE)
    assert found.kernels["k"] == TaskTime(estimate=Estimate(unit_s=0.75, task_bytes=10.0), tasks=7)
    assert found.launches_per_s == 100.0
    assert found.starts == FOUND.starts


# ---- the file ----

_AMOUNTS = st.floats(0.0, 1e12)
_BINS = st.dictionaries(st.integers(-697, 698), st.integers(1, 40), max_size=40)
_KNOWN = st.builds(
    Known,
    kernels=st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=80),
        st.builds(
            TaskTime,
            estimate=st.builds(Estimate, unit_s=_AMOUNTS, task_bytes=_AMOUNTS),
            tasks=st.integers(0, 2**40),
        ),
        max_size=5,
    ),
    starts=st.dictionaries(
        st.booleans(), st.builds(StartTimes, bins=_BINS, answers=st.integers(0, 2**40))
    ),
    launches_per_s=st.none() | st.floats(1e-3, 1e6),
)


@given(found=_KNOWN)
def test_what_is_kept_is_recalled(found: Known, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("known") / "knowledge.db"
    Knowledge(path).keep(SITE, found)
    assert Knowledge(path).recall(SITE) == found


def test_what_is_of_another_site_function_or_client_is_not(tmp_path: Path) -> None:
    path = tmp_path / "knowledge.db"
    Knowledge(path, client="here").keep(SITE, FOUND)

    def recalled(client: str = "here", **other: Any) -> Known:
        fields = {name: getattr(SITE, name) for name in Site.__dataclass_fields__}
        return Knowledge(path, client=client).recall(Site(**{**fields, **other}))

    assert recalled() == FOUND
    assert recalled(memory_mb=1024) == Known(starts=FOUND.starts, launches_per_s=700.0)
    assert recalled(architecture="x86_64") == recalled(memory_mb=1024)
    assert recalled(function="arn:f v2") == Known(kernels=FOUND.kernels, launches_per_s=700.0)
    assert recalled(client="there") == Known(kernels=FOUND.kernels, starts=FOUND.starts)
    assert recalled(kind="lambda at 127.0.0.1") == Known(starts=FOUND.starts)


def test_what_is_old_is_not_known_any_more_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "knowledge.db"

    def later(days: float) -> Knowledge:
        return Knowledge(path, now_s=lambda: days * DAY_S)

    later(0.0).keep(SITE, FOUND)
    assert later(89.0).recall(SITE) == FOUND
    assert later(91.0).recall(SITE) == Known()
    later(91.0).keep(SITE, Known(kernels={"l": time_of(1.0)}))
    assert cells("SELECT kernel FROM kernels", path) == [("l",)]
    assert cells("SELECT * FROM starts UNION SELECT *, 0 FROM clients", path) == []


def test_of_too_much_the_oldest_goes(tmp_path: Path) -> None:
    path = tmp_path / "knowledge.db"
    for hour in range(5):
        kept = Knowledge(path, most_rows=3, now_s=partial(float, 3600 * hour))
        kept.keep(SITE, Known(kernels={str(hour): time_of(1.0)}))
    assert cells("SELECT kernel FROM kernels ORDER BY 1", path) == [("2",), ("3",), ("4",)]


def _is_text(path: Path) -> None:
    path.write_text("no database at all, and longer than its header is: " * 9, encoding="utf-8")


def _has_lost_a_table(path: Path) -> None:
    change(path, "DROP TABLE kernels")


def _is_torn(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [_is_text, _has_lost_a_table, _is_torn])
def test_a_file_that_is_damaged_is_begun_anew(
    damage: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "knowledge.db"
    Knowledge(path).keep(SITE, FOUND)
    damage(path)
    kept = Knowledge(path)
    with caplog.at_level(logging.INFO, "fanout"):
        assert kept.recall(SITE) == Known()
    assert [record.levelname for record in caplog.records] == ["INFO"]
    kept.keep(SITE, FOUND)
    assert Knowledge(path).recall(SITE) == FOUND


def test_an_empty_file_is_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "knowledge.db"
    path.touch()
    assert Knowledge(path).recall(SITE) == Known()
    Knowledge(path).keep(SITE, FOUND)
    assert Knowledge(path).recall(SITE) == FOUND


@pytest.mark.parametrize("version", [0, 2])
def test_a_file_of_another_version_is_left_as_it_is(version: int, tmp_path: Path) -> None:
    path = tmp_path / "knowledge.db"
    Knowledge(path).keep(SITE, FOUND)
    change(path, f"PRAGMA user_version = {version}")
    before = path.read_bytes()
    kept = Knowledge(path)
    assert kept.recall(SITE) == Known()
    kept.keep(SITE, FOUND)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE kernels SET unit_s = 9e999",
        "UPDATE kernels SET unit_s = 'soon'",
        "UPDATE kernels SET task_bytes = -1",
        "UPDATE starts SET bins = '[[1e9, 2]]'",
        "UPDATE starts SET bins = '[[3, 100000]]'",
        "UPDATE starts SET bins = '[[[], 1]]'",
        "UPDATE starts SET bins = NULL",
        "UPDATE clients SET launches_per_s = 0",
        "UPDATE clients SET launches_per_s = x'ff'",
    ],
)
def test_a_cell_that_makes_no_sense_is_passed_over(statement: str, tmp_path: Path) -> None:
    path = tmp_path / "knowledge.db"
    Knowledge(path).keep(SITE, FOUND)
    change(path, statement)
    table = statement.split()[1]
    found = Knowledge(path).recall(SITE)
    lost = [not found.kernels, not found.starts, found.launches_per_s is None]
    assert lost == [table == name for name in ("kernels", "starts", "clients")]


def test_a_file_that_somebody_holds_is_not_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "knowledge.db"
    kept = Knowledge(path, busy_s=0.01)
    kept.keep(SITE, FOUND)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        with caplog.at_level(logging.INFO, "fanout"):
            assert kept.recall(SITE) == Known()
            kept.keep(SITE, Known(launches_per_s=5.0))
    assert ["locked" in told for told in caplog.messages] == [True], "told once"
    assert kept.recall(SITE) == FOUND


def test_a_disk_that_is_full_keeps_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "knowledge.db"
    kept = Knowledge(path)
    kept.keep(SITE, FOUND)
    connect: Any = sqlite3.connect

    def small(*args: Any, **options: Any) -> sqlite3.Connection:
        database: sqlite3.Connection = connect(*args, **options)
        database.execute("PRAGMA max_page_count = 1")
        return database

    monkeypatch.setattr(sqlite3, "connect", small)
    kept.keep(SITE, Known(kernels={f"{n}" * 2000: time_of(1.0) for n in range(99)}))
    assert kept.recall(SITE) == FOUND


def test_a_file_that_may_only_be_read_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "knowledge.db"
    Knowledge(path).keep(SITE, FOUND)
    connect: Any = sqlite3.connect

    def reading(_path: object, **options: Any) -> Any:
        return connect(f"{path.as_uri()}?mode=ro", **{**options, "uri": True})

    monkeypatch.setattr(sqlite3, "connect", reading)  # root may write everywhere
    kept = Knowledge(path)
    kept.keep(SITE, Known(kernels={"l": time_of(1.0)}))
    assert kept.recall(SITE) == FOUND


def test_many_writers_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "knowledge.db"

    def write(writer: int) -> None:
        for number in range(5):
            Knowledge(path).keep(SITE, Known(kernels={f"{writer} {number}": time_of(1.0)}))

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(Knowledge(path).recall(SITE).kernels) == 20


# ---- what it is worth ----


def test_a_kernel_has_one_key_however_often_it_is_prepared_and_another_when_it_changes() -> None:
    def made(factor: int) -> Callable[[int], int]:
        class Local:
            by = factor

        return lambda x: x * Local.by

    kernels = [made(factor) for factor in (1, 1, 2)]
    one, same, other = (kernel_key(prepare(kernel), kernel) for kernel in kernels)
    assert one == same != other
    spec = prepare(kernels[0])
    assert kernel_key(spec, spec) == spec.digest != one, "of one that is resumed, there is no more"
    assert kernel_key(prepare(abs), abs) == prepare(abs).digest


def test_starts_that_become_slower_show_soon_and_faster_ones_do_no_harm() -> None:
    before = Starts()
    for _ in range(1000):
        before.add(2.0, is_warm=False)
    starts = Starts(before.thinned(is_warm=False), before.thinned(is_warm=True))
    assert 2.3 <= starts.allowance_s(START_S, is_warm=False) < 2.4
    assert starts.allowance_s(START_S, is_warm=True) == START_S
    for _ in range(5):
        starts.add(6.0, is_warm=False)
    assert 6.3 <= starts.allowance_s(START_S, is_warm=False) < 6.5
    assert starts.seen == 5


def test_a_slow_client_is_believed_up_to_a_tenth_of_what_is_usual() -> None:
    def fleet(launches_per_s: float | None) -> int:
        policy, estimate = replace(GROUPING, start_s=0.0), Estimate(unit_s=0.5)
        known = Grouping(policy, estimate=estimate, launches_per_s=launches_per_s)
        return known.fleet(2000, 1000)

    assert fleet(None) == fleet(1e6) == fleet(1000.0) == 500
    assert fleet(250.0) == 250
    assert fleet(1e-3) == fleet(100.0) == 159  # enough to be measured again
