"""`fanout runs` and `fanout resume`, run as users run them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

import fanout
from fanout.cli import _COMMANDS
from fanout.journal import Folder, folder
from tests.journal_checks import change, only
from tests.test_cli import cli
from tests.test_cli import here as here  # noqa: PLC0414  # a fixture

if TYPE_CHECKING:
    from pathlib import Path


def begin(here: Path, kernel: str, chunks: list[object], name: str) -> None:
    """A run in a process of its own, with a worker."""
    code = (
        "import fanout, mykernels\n"
        f"fanout.sync.map(mykernels.{kernel}, {chunks!r}, name={name!r}, "
        "backend=fanout.Local(workers=1), group=1)"
    )
    import subprocess
    import sys

    subprocess.run(
        [sys.executable, "-c", code], cwd=here, check=False, capture_output=True, timeout=60
    )


def test_runs_lists_what_is_kept_and_says_when_that_is_nothing(here: Path) -> None:
    empty = cli("runs", cwd=here)
    assert (empty.returncode, empty.stdout) == (0, "")
    assert f"no runs are kept in {Folder().path}" in empty.stderr
    begin(here, "halve", [1, 2], "first")
    begin(here, "picky", [1, 2, 3], "second")
    listed = cli("runs", cwd=here)
    head, *lines = (line.split() for line in listed.stdout.splitlines())
    assert head == [
        "run",
        "name",
        "state",
        "tasks",
        "failed",
        "GB-s",
        "at",
        "most",
        "began",
        "kernel",
    ]
    by_name = {line[1]: line for line in lines}
    assert by_name["first"][2:6] == ["done", "2", "of", "2"]
    assert by_name["second"][2] == "failed"
    assert by_name["second"][-1] == "picky"
    assert listed.returncode == 0


def test_runs_as_json_are_all_that_is_known(here: Path) -> None:
    assert json.loads(cli("runs", "--json", cwd=here).stdout) == []
    begin(here, "halve", [1, 2], "first")
    begin(here, "halve", [1], "second")
    told = json.loads(cli("runs", "--json", cwd=here).stdout)
    assert {record["name"] for record in told} == {"first", "second"}
    (record,) = json.loads(cli("runs", "--json", "first", cwd=here).stdout)
    assert record["state"] == "done"
    assert (record["total"], record["done"], record["failed"]) == (2, 2, 0)
    assert record["path"].endswith("--first.db")
    assert record["nbytes"] > 0


def test_prune_removes_what_is_done_and_what_is_named(here: Path) -> None:
    begin(here, "halve", [1, 2], "first")
    begin(here, "picky", [2], "second")
    pruned = cli("runs", "--prune", cwd=here)
    assert "1 journals removed" in pruned.stderr
    assert only().name == "second"
    assert cli("runs", "--prune", "second", cwd=here).returncode == 0
    assert Folder().runs() == []
    assert list(Folder().path.iterdir()) == []


def test_prune_removes_what_is_damaged(here: Path) -> None:
    begin(here, "halve", [1, 2], "first")
    folder.clear(path := only().path)
    path.write_bytes(b"no database" * 500)
    assert "damaged" in cli("runs", cwd=here).stdout
    cli("runs", "--prune", cwd=here)
    assert Folder().runs() == []


@pytest.mark.parametrize("command", [["runs"], ["runs", "--prune"], ["resume"]])
def test_a_name_that_is_none_gets_the_nearest(here: Path, command: list[str]) -> None:
    begin(here, "halve", [1], "sweep-7")
    wrong = cli(*command, "sweep7", cwd=here)
    assert wrong.returncode == 2
    assert "no run 'sweep7' is kept" in wrong.stderr
    assert "did you mean sweep-7?" in wrong.stderr
    assert "fanout runs lists what there is" in cli(*command, "1234567", cwd=here).stderr
    assert only().name == "sweep-7"


def test_resume_does_the_rest_from_any_folder(here: Path, tmp_path: Path) -> None:
    begin(here, "picky", [1, 2, 3], "s")
    assert only().state == "failed"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    resumed = cli("resume", "s", "--out", "results.jsonl", cwd=elsewhere)
    assert resumed.returncode == 1
    assert resumed.stdout == ""
    assert "2 of 3 tasks are done, 1 failed" in resumed.stderr
    lines = (elsewhere / "results.jsonl").read_text().splitlines()
    told = [json.loads(line) for line in lines]
    assert [record["index"] for record in told] == [0, 1, 2]
    assert told[1]["error"] == {"type": "ValueError", "message": "not two"}
    assert told[2]["result"]["array"] == [0, 1, 2]


def test_resume_of_what_is_done_gives_it_at_once(here: Path) -> None:
    begin(here, "halve", [1, 2, 3], "s")
    (here / "mykernels.py").unlink()  # it is not even loaded
    done = cli("resume", only().id, "--out", "out.jsonl", cwd=here)
    assert done.returncode == 0, done.stderr
    assert [
        json.loads(line)["result"] for line in (here / "out.jsonl").read_text().splitlines()
    ] == [
        0.5,
        1.0,
        1.5,
    ]


def test_resume_looks_where_results_go_before_it_begins(here: Path) -> None:
    begin(here, "picky", [1, 2], "s")
    refused = cli("resume", "s", "--out", "nowhere/out.jsonl", cwd=here)
    assert refused.returncode == 2
    assert "results can't be written to nowhere/out.jsonl" in refused.stderr
    assert only().failed == 1


def test_resume_says_what_it_lacks(here: Path) -> None:
    begin(here, "halve", [1, 2], "s")
    change("UPDATE chunks SET frame = NULL WHERE task = 1")
    refused = cli("resume", "s", cwd=here)
    assert refused.returncode == 1
    assert "not all of its chunks are in its journal (1 of 2)" in refused.stderr
    assert "make the call again that began it, with the same name" in refused.stderr


def test_resume_refuses_a_chunk_that_is_damaged(here: Path) -> None:
    begin(here, "picky", [1, 2], "s")
    change("UPDATE chunks SET frame = (SELECT frame FROM chunks WHERE task = 0) WHERE task = 1")
    refused = cli("resume", "s", cwd=here)
    assert refused.returncode == 1
    assert "can't be read" in refused.stderr
    assert "make the call again that began the run" in refused.stderr


def test_the_commands_are_known() -> None:
    assert {"runs", "resume"} <= set(_COMMANDS)
    assert callable(fanout.resume)
