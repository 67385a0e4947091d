"""`fanout tune` and `--probe-remote`, as users run them, on the emulator."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import shlex
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import click
import pytest

from fanout.cost.commands.asking import agree
from fanout.cost.functions import Spending
from fanout.emulator.memory import hierarchy
from fanout.errors import UsageError
from tests.test_docs import BLOCK

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("awslambdaric") is None, reason="needs awslambdaric"
)
KERNELS = """
import time
def nap(chunk):
    time.sleep(0.02)
    return [chunk] * 10
def hungry(mb):
    return len(bytearray(mb * 2**20))
def wrong(chunk):
    raise ValueError(f"chunk {chunk} is wrong")
"""
# The emulator by another name than the one that says that it is on this machine, as a stand-in for
# a function that is billed.
ELSEWHERE = (
    "import os, sys; name = 'AWS_ENDPOINT_URL_LAMBDA'\n"
    "os.environ[name] = os.environ[name].replace('127.0.0.1', '0.0.0.0')\n"
    "os.execv(sys.executable, [sys.executable, '-m', 'fanout', *sys.argv[1:]])"
)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with kernels and chunks."""
    (tmp_path / "tuned_kernels.py").write_text(KERNELS)
    (tmp_path / "chunks.jsonl").write_text("".join(f"{number}\n" for number in range(40)))
    (tmp_path / "mb.jsonl").write_text("1\n2\n300\n")
    return tmp_path


def fanout(here: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AWS_", "FANOUT_"))
    }
    environment |= {"PYTHONPATH": str(ROOT), "FANOUT_HOME": str(here / "home"), **variables}
    return subprocess.run(
        [sys.executable, "-m", "fanout", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=here,
        env=environment,
        stdin=subprocess.DEVNULL,
    )


def tune(here: Path, kernel: str, chunks: str, *more: str) -> subprocess.CompletedProcess[str]:
    return fanout(here, "tune", f"tuned_kernels:{kernel}", "--chunks", chunks, *more)


def emulated(
    here: Path, *arguments: str, memory: str = "1769", elsewhere: bool = False
) -> subprocess.CompletedProcess[str]:
    """A command that is directed to an emulator, and perhaps takes it for somebody else's."""
    start = ["-c", ELSEWHERE] if elsewhere else ["-m", "fanout"]
    return fanout(here, "emulate", "--memory", memory, "--", sys.executable, *start, *arguments)


def test_sizes_are_measured_on_the_emulator_which_says_what_it_is(here: Path) -> None:
    done = tune(here, "nap", "chunks.jsonl", "--memory", "512,256", "--chunks-per-size", "3")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "3 of 40 chunks on each size" in lines[0]
    rows = [line for line in lines if re.match(r" +(256|512) MB ", line)]
    assert [row.split()[0] for row in rows] == ["256", "512"]
    for mark in ("cheapest", "fastest"):
        assert sum(mark in row for row in rows) == 1
    told = " ".join(done.stdout.split())
    assert "does not scale processors by it, as Lambda does" in told
    assert "256 MB is the smallest measured size that has it" in told
    assert "has cost" not in told
    assert "the emulator at 127.0.0.1, 256 MB" in done.stderr
    assert max(map(len, lines)) <= 100


def test_a_size_that_memory_runs_out_with_is_named(here: Path) -> None:
    arguments = ("hungry", "mb.jsonl", "--memory", "256,512", "--arch", "arm64", "--json")
    done = tune(here, *arguments)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    small, large = found["sizes"]
    assert not small["is_possible"]
    assert small["why_not"].startswith("out of memory: chunk ")
    assert ("was killed" if hierarchy() else "MemoryError") in small["why_not"]
    assert large["is_possible"]
    assert large["peak_mb"] > 300
    assert found["fits_mb"] > 360
    assert large["marks"] == []  # there is no choice
    assert len(large["measured_ms"]) == large["tasks"] == 3
    assert {one["arch"] for one in found["sizes"]} == {"arm64"}
    assert (found["is_aws"], found["tuning_usd"]) == (False, None)
    none = tune(here, "hungry", "mb.jsonl", "--memory", "256")
    assert none.returncode == 1
    assert "No size will do" in none.stdout


def test_an_error_of_the_kernel_ends_it(here: Path) -> None:
    done = tune(here, "wrong", "chunks.jsonl", "--memory", "512")
    assert done.returncode == 1
    assert "chunk 0 is wrong" in done.stderr
    assert done.stdout == ""


def test_functions_are_measured_with_the_memory_they_have(here: Path) -> None:
    arguments = ("tune", "tuned_kernels:nap", "--chunks", "chunks.jsonl", "--json")
    done = emulated(here, *arguments, "--chunks-per-size", "2", memory="640")
    assert done.returncode == 0, done.stderr
    (size,) = json.loads(done.stdout)["sizes"]
    assert (size["memory_mb"], size["function"], size["tasks"]) == (640, "fanout-worker", 2)
    assert size["init_ms"] > 0


def test_what_costs_money_is_said_and_not_begun_unless_agreed_to(here: Path) -> None:
    tuning = ("tune", "tuned_kernels:nap", "--chunks", "chunks.jsonl", "--chunks-per-size", "2")
    asked = emulated(here, *tuning, "--function", "fanout-worker", elsewhere=True)
    assert asked.returncode == 2
    assert re.search(r"fanout-worker at 0\.0\.0\.0, 1,769 MB.* at most \$0\.\d+", asked.stderr)
    assert "--yes agrees" in asked.stderr
    assert " 0 invocations" in asked.stderr
    agreed = emulated(here, *tuning, "--json", "--yes", elsewhere=True)
    assert agreed.returncode == 0, agreed.stderr
    assert Decimal(json.loads(agreed.stdout)["tuning_usd"]) > 0
    assert " 3 invocations" in agreed.stderr


def test_a_probe_on_a_function_measures_what_is_else_assumed(here: Path) -> None:
    estimate = ("cost", "estimate", "--kernel", "tuned_kernels:nap", "--chunks", "chunks.jsonl")
    few = ("--types", "c8g.4xlarge", "--memory", "1769", "--json")
    done = emulated(here, *estimate, "--probe-remote", *few)
    assert done.returncode == 0, done.stderr
    assert "16 of 40 chunks on fanout-worker at 127.0.0.1" in done.stderr
    assert " 17 invocations" in done.stderr
    found = json.loads(done.stdout)
    assert (found["workload"]["tasks"], found["workload"]["probes"]) == (40, 16)
    inputs = {one["what"]: one for one in found["inputs"]}
    lambdas = [one for name, one in inputs.items() if "vCPU of Lambda" in name]
    assert "measured" in {one["basis"] for one in lambdas}
    assert "tasks were run on fanout-worker" in " ".join(one["source"] for one in lambdas)
    core = inputs["speed of a core here"]
    assert core["basis"] == "measured"
    assert "times a vCPU of fanout-worker" in core["source"]
    assert "assumed" not in core["source"]
    assert "run on fanout-worker" in inputs["time of a task"]["source"]


def test_a_probe_on_a_function_says_what_it_costs_before_it_runs(here: Path) -> None:
    probe = ("cost", "compare", "lambda:1769", "--kernel", "tuned_kernels:nap", "--chunks")
    asked = emulated(here, *probe, "chunks.jsonl", "--probe-remote", elsewhere=True)
    assert asked.returncode == 2
    assert "up to 21 invocations" in asked.stderr
    assert "--yes agrees" in asked.stderr
    assert " 0 invocations" in asked.stderr
    agreed = emulated(here, *probe, "chunks.jsonl", "--probe-remote", "--yes", elsewhere=True)
    assert agreed.returncode == 0, agreed.stderr
    assert re.search(r"measuring has cost \$0\.0", agreed.stderr)


def shown_by_the_document(start: str) -> tuple[list[str], list[str]]:
    """A command of `docs/cost.md`, and what it is said to print."""
    text = (ROOT / "docs" / "cost.md").read_text(encoding="utf-8")
    (code,) = (
        code
        for language, code in BLOCK.findall(text)
        if language == "console" and code.startswith(start)
    )
    first, *rest = code.splitlines()
    return shlex.split(first.removeprefix("$ fanout ")), rest


def unwrapped(text: str) -> str:
    """Without figures, and however its lines are broken: at hyphens, too."""
    return "".join(re.sub(r"[\d.,]+", "#", text).split())


@pytest.fixture
def factorials(here: Path) -> Path:
    (here / "chunks.jsonl").write_text("".join(f"{n}\n" for n in range(20_000, 90_001, 1000)))
    return here


def test_the_table_of_the_document_is_what_is_printed(factorials: Path) -> None:
    arguments, expected = shown_by_the_document("$ fanout tune math:factorial")
    done = fanout(factorials, *arguments)
    assert done.returncode == 0, done.stderr
    printed = done.stdout.splitlines()
    assert printed[:4] == expected[:4]
    assert [line[:9] for line in printed[4:9]] == [line[:9] for line in expected[4:9]]
    assert unwrapped(" ".join(printed[-5:])) == unwrapped(" ".join(expected[-5:]))
    (cheapest,) = (line for line in printed[4:9] if "cheapest" in line)
    assert cheapest.startswith(" 1,769 MB")  # of what costs the same, the fastest


def test_the_remote_probe_of_the_document_prints_what_it_shows(factorials: Path) -> None:
    arguments, expected = shown_by_the_document("$ fanout emulate -- fanout cost estimate")
    command = [*arguments[:2], sys.executable, "-m", *arguments[2:]]
    done = fanout(factorials, *command)
    assert done.returncode == 0, done.stderr
    told = unwrapped(done.stdout)
    for line in re.findall(r"speed of .*?\)", " ".join(expected)):
        assert unwrapped(line) in told, done.stdout


class Terminal(io.StringIO):
    """A terminal on which somebody has typed something."""

    def isatty(self) -> bool:
        return True


SPENDING = Spending(invocations=9, worst_s=70.0, worst_usd=1.25, usd_of_a_second=0.01)


def test_on_a_terminal_it_is_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    agree("measuring f", SPENDING, is_agreed=False)
    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    with pytest.raises(click.exceptions.Exit) as ended:
        agree("measuring f", SPENDING, is_agreed=False)
    assert ended.value.exit_code == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("measuring f takes up to 9 invocations: $0.010 if") == 2
    assert "go on?" in err
    assert err.endswith("nothing was run\n")


def test_nothing_is_asked_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    with pytest.raises(UsageError, match="--yes agrees"):
        agree("measuring f", SPENDING, is_agreed=False)
    agree("measuring f", SPENDING, is_agreed=True)
    assert "at most $1.25" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "variables", "told"),
    [
        (["tune", "math:sqrt"], {}, "Missing option '--chunks'"),
        (["tune", "math:sqrt", "--chunks", "none.jsonl"], {}, "can't be read from none.jsonl"),
        (["tune", "math:squrt", "--chunks", "mb.jsonl"], {}, "did you mean sqrt"),
        (["tune", "math:sqrt", "--chunks", "mb.jsonl", "--memory", "64"], {}, "128 to 10,240"),
        (["tune", "math:sqrt", "--chunks", "mb.jsonl", "--memory", ","], {}, "sizes in MB"),
        (
            ["tune", "math:sqrt", "--chunks", "mb.jsonl", "--function", "f", "--memory", "512"],
            {},
            "--memory is for the emulator",
        ),
        (
            ["tune", "math:sqrt", "--chunks", "mb.jsonl", "--function", "f", "--emulator"],
            {},
            "exclude each other",
        ),
        (
            ["tune", "math:sqrt", "--chunks", "mb.jsonl", "--function", "f", "--arch", "arm64"],
            {},
            "functions have their own",
        ),
        (
            ["tune", "math:sqrt", "--chunks", "mb.jsonl"],
            {"FANOUT_BACKEND": "lambda"},
            "give --function, or --emulator",
        ),
        (
            ["tune", "math:sqrt", "--chunks", "mb.jsonl", "--region", "us-east1"],
            {},
            "did you mean us-east-1",
        ),
        (
            ["cost", "estimate", "--tasks", "9", "--seconds", "1", "--probe-remote"],
            {},
            "give --kernel and --chunks",
        ),
        (
            ["cost", "estimate", "--kernel", "math:sqrt", "--chunks", "mb.jsonl", "--yes"],
            {},
            "are for --probe-remote",
        ),
        (
            ["cost", "estimate", "--kernel", "math:sqrt", "--chunks", "mb.jsonl", "--probe-remote"],
            {},
            "give --function, or FANOUT_FUNCTION",
        ),
    ],
)
def test_bad_input_is_refused_with_what_to_do(
    here: Path, arguments: list[str], variables: dict[str, str], told: str
) -> None:
    done = fanout(here, *arguments, **variables)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [("tune",), ("cost", "tune")])
def test_help_leads_with_examples(here: Path, command: tuple[str, ...]) -> None:
    done = fanout(here, *command, "--help")
    assert done.returncode == 0
    head, _, rest = done.stdout.partition("Usage:")
    assert "fanout tune mymodule:simulate --chunks chunks.jsonl --memory" in head
    assert "--chunks-per-size" in rest
