"""The command line, run as users run it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

import fanout
from fanout.cli import _COMMANDS
from fanout.kernels.mandelbrot import Band, View, rows

if TYPE_CHECKING:
    from pathlib import Path

KERNELS = """
import os, time
import numpy as np

def halve(chunk):
    return chunk / 2

def picky(chunk):
    if chunk == 2:
        raise ValueError("not two")
    return {"array": np.arange(chunk), "scalar": np.float32(0.5)}

def nan(chunk):
    return float("nan")

def opaque(chunk):
    return object

def crash(chunk):
    if chunk == 1:
        os._exit(9)
    return chunk

def noted(chunk):
    with open("log", "a") as log:
        log.write(f"{chunk}\\n")
    if chunk == 2 and not os.path.exists("repaired"):
        raise ValueError("not two")
    return chunk * 10

def sleep(chunk):
    time.sleep(chunk)
    return chunk
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with kernels and chunks in it."""
    (tmp_path / "mykernels.py").write_text(KERNELS)
    (tmp_path / "chunks.jsonl").write_text("1\n2\n\n3\n")
    return tmp_path


def cli(*arguments: str, cwd: Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fanout", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        cwd=cwd,
    )


def records(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_map_writes_a_line_for_each_chunk_in_order(here: Path) -> None:
    done = cli("map", "mykernels:halve", "--chunks", "chunks.jsonl", cwd=here)
    assert (done.returncode, done.stderr) == (0, "")
    assert records(done.stdout) == [
        {"index": 0, "result": 0.5},
        {"index": 1, "result": 1.0},
        {"index": 2, "result": 1.5},
    ]


def test_map_reports_failed_tasks_and_exits_with_1(here: Path) -> None:
    done = cli("map", "mykernels:picky", "--chunks", "chunks.jsonl", "--out", "r.jsonl", cwd=here)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "fanout: 1 of 3 tasks failed; the first:" in done.stderr
    assert records((here / "r.jsonl").read_text()) == [
        {"index": 0, "result": {"array": [0], "scalar": 0.5}},
        {"index": 1, "error": {"type": "ValueError", "message": "not two"}},
        {"index": 2, "result": {"array": [0, 1, 2], "scalar": 0.5}},
    ]


@pytest.mark.parametrize(
    ("kernel", "type_name", "message"),
    [
        ("nan", "ValueError", "holds NaN or an infinity"),
        ("opaque", "TypeError", "the result holds a type, which has no form in JSON"),
        ("crash", "WorkerCrashedError", "exited with code 9"),
    ],
)
def test_map_says_why_a_task_has_no_result(
    here: Path, kernel: str, type_name: str, message: str
) -> None:
    done = cli("map", f"mykernels:{kernel}", "--chunks", "-", cwd=here, stdin="1\n")
    assert done.returncode == 1
    (record,) = records(done.stdout)
    error = record["error"]
    assert isinstance(error, dict)
    assert error["type"] == type_name
    assert message in error["message"]


def test_map_with_a_name_goes_on_where_it_ended(here: Path) -> None:
    call = ("map", "mykernels:noted", "--chunks", "chunks.jsonl", "--name", "sweep")
    assert cli(*call, cwd=here).returncode == 1
    assert "2 of 3 tasks are done" in cli("resume", "sweep", cwd=here).stderr
    (here / "repaired").touch()
    done = cli(*call, cwd=here)
    assert (done.returncode, done.stderr) == (0, "")
    assert [record["result"] for record in records(done.stdout)] == [10, 20, 30]
    assert sorted((here / "log").read_text().split()) == ["1", "2", "2", "2", "3"]

    (here / "chunks.jsonl").write_text("1\n5\n3\n")
    done = cli(*call, cwd=here)
    assert done.returncode == 2
    assert "chunk 1 of the input is not as it was" in done.stderr
    done = cli(*call, "--on-change", "reuse", cwd=here)
    assert [record["result"] for record in records(done.stdout)] == [10, 50, 30]
    assert (here / "log").read_text().split()[5:] == ["5"]


def test_map_stops_a_task_after_the_timeout(here: Path) -> None:
    chunks = "60\n0.01\n"
    done = cli("map", "mykernels:sleep", "--chunks", "-", "--timeout", "1", cwd=here, stdin=chunks)
    assert done.returncode == 1
    first, second = records(done.stdout)
    assert "still running after 1 s" in str(first["error"])
    assert second["result"] == 0.01


def test_map_gives_results_while_the_pipe_is_still_open(here: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "fanout", "map", "mykernels:halve", "--chunks", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=here,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in range(3):
            process.stdin.write(f"{number}\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline()) == {"index": number, "result": number / 2}
        process.stdin.close()
        assert process.wait(timeout=30) == 0


def test_map_delivers_what_came_before_a_line_that_is_not_json(here: Path) -> None:
    done = cli("map", "mykernels:halve", "--chunks", "-", cwd=here, stdin="1\n2\noops\n3\n")
    assert done.returncode == 2
    assert [record["result"] for record in records(done.stdout)] == [0.5, 1.0]
    assert "line 3 of stdin is not JSON" in done.stderr


def test_map_looks_through_a_file_before_it_does_anything(here: Path) -> None:
    (here / "chunks.jsonl").write_text("1\n2\noops\n")
    (here / "r.jsonl").write_text("of yesterday")
    call = ("map", "mykernels:noted", "--chunks", "chunks.jsonl", "--out", "r.jsonl")
    done = cli(*call, cwd=here)
    assert done.returncode == 2
    assert "line 3 of chunks.jsonl is not JSON" in done.stderr
    (here / "chunks.jsonl").write_bytes(b"1\n\xff\n")
    done = cli(*call, cwd=here)
    assert done.returncode == 2
    assert "chunks.jsonl is not text in UTF-8" in done.stderr
    assert not (here / "log").exists()
    assert (here / "r.jsonl").read_text() == "of yesterday"


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["mykernels", "--chunks", "-"], "must be MODULE:KERNEL"),
        (["mykernel:halve", "--chunks", "-"], "run from the folder it lies in"),
        (["mykernels:halv", "--chunks", "-"], "did you mean halve"),
        (["mykernels:halve", "--chunks", "none.jsonl"], "can't be read from none.jsonl"),
        (["mykernels:halve", "--chunks", "-", "--out", "no/r.jsonl"], "can't be written to no/"),
        (["mykernels:KERNELS", "--chunks", "-"], "has no 'KERNELS'"),
        (["mykernels:np", "--chunks", "-"], "is not callable"),
        (["mykernels:halve", "--chunks", "-", "--timeout", "-1"], "must be a number of seconds"),
        (["mykernels:halve", "--chunks", "-", "--workers", "0"], "0 is not in the range"),
        (["mykernels:halve", "--chunks", "-", "--name", "a/b"], "must be 1 to 64 letters"),
        (["mykernels:halve", "--chunks", "-", "--max-gb-s", "9"], "is for Lambda"),
        (["mykernels:halve", "--chunks", "-", "--max-usd", "9"], "max_usd=9.0 is for Lambda"),
        (["mykernels:halve"], "Missing option '--chunks'"),
    ],
)
def test_map_refuses_a_wrong_call(here: Path, arguments: list[str], hint: str) -> None:
    done = cli("map", *arguments, cwd=here, stdin="1\n")
    assert done.returncode == 2
    assert hint in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_mandelbrot_writes_the_picture_and_a_summary(tmp_path: Path) -> None:
    done = cli("mandelbrot", "--size", "90x60", "--max-iter", "50", "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    summary = json.loads(done.stdout)
    assert summary["columns"], summary["rows"] == (90, 60)
    assert summary["tasks"] == 4
    assert summary["speed_up_over_one_core"] > 0
    pixels = np.asarray(Image.open(tmp_path / "mandelbrot.png"))
    view = View.full(90, 60, max_iter=50)
    counts = rows(Band(view=view, row_start=0, row_stop=60))
    np.testing.assert_array_equal((pixels == 0).all(axis=2), counts == 50)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--size", "0"], "must be pixels as in 2000 or 1920x1080"),
        (["--size", "-5"], "must be pixels"),
        (["--size", "many"], "must be pixels"),
        (["--size", "9999999"], "is the largest square that fits"),
        (["--size", "20000", "--max-iter", "2000000"], "add --yes"),
        (["--max-iter", "0"], "max_iter=0"),
        (["--max-iter", "9999999999"], "max_iter=9999999999"),
        (["--width", "-1"], "width=-1.0 must be above 0"),
        (["--width", "nan"], "width=nan"),
        (["--palette", "twilite"], "did you mean twilight"),
        (["--out", "no/such/folder.png"], "does not exist"),
        (["--out", "picture.jpeg"], ".png"),
    ],
)
def test_mandelbrot_refuses_a_wrong_call_before_it_runs(
    tmp_path: Path, arguments: list[str], hint: str
) -> None:
    done = cli("mandelbrot", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert hint in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_version_and_help(tmp_path: Path) -> None:
    assert fanout.__version__ in cli("--version", cwd=tmp_path).stdout
    overview = cli("--help", cwd=tmp_path).stdout
    for name in _COMMANDS:
        assert name in overview
        text = cli(name, "--help", cwd=tmp_path).stdout
        assert text.index("Examples:") < text.index("Usage:") < text.index("Options:")
        assert max(map(len, text.splitlines())) <= 90


def test_completion_knows_commands_and_options(tmp_path: Path) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert "_FANOUT_COMPLETE" in cli("completion", shell, cwd=tmp_path).stdout
    asked = {"_FANOUT_COMPLETE": "bash_complete", "COMP_WORDS": "fanout map --", "COMP_CWORD": "2"}
    done = subprocess.run(
        [sys.executable, "-m", "fanout"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **asked},
    )
    assert "--chunks" in done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_stops_the_workers_and_says_so(here: Path) -> None:
    (here / "long.jsonl").write_text("600\n600\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "fanout", "map", "mykernels:sleep", "--chunks", "long.jsonl"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=here,
    )
    time.sleep(2.0)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == ""
    assert err.strip() == "fanout: interrupted; no more tasks are launched"


def test_a_reader_that_leaves_early_is_no_error(here: Path) -> None:
    (here / "many.jsonl").write_text("1\n" * 20_000)
    command = f"{sys.executable} -m fanout map mykernels:halve --chunks many.jsonl | head -1"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, cwd=here
    )
    assert done.stdout == '{"index": 0, "result": 0.5}\n'
    assert done.stderr == ""
