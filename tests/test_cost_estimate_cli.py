"""`fanout cost estimate`, `compare` and `breakeven`, as users run them."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fanout.cli import main
from fanout.cli.cost import command
from fanout.cost.commands.counts import runs_of, tasks_of
from fanout.errors import UsageError
from tests.test_docs import BLOCK

ROOT = Path(__file__).parent.parent
DOCUMENT = (ROOT / "docs" / "cost.md").read_text(encoding="utf-8")
# Nothing is calibrated then, so that a test has the same numbers everywhere.
WORK = ("--tasks", "300", "--seconds", "5", "--speed", "here=1", "--cores", "8")
FEW = ("--types", "c8g.4xlarge", "--memory", "1769", "--arch", "arm64")


class Done(NamedTuple):
    code: object
    out: str
    err: str


@pytest.fixture
def cost(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Any:
    """Runs a command in this process."""
    monkeypatch.setenv("FANOUT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("AWS_REGION", raising=False)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["fanout", *arguments])
        with pytest.raises(SystemExit) as ended:
            main(command, "fanout cost")
        out, err = capsys.readouterr()
        return Done(ended.value.code, out, err)

    return run


def test_an_estimate_is_a_table_with_advice_and_what_it_starts_from(cost: Any) -> None:
    done = cost("estimate", *WORK)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[0] == "300 tasks of 5.0 s, 30 runs a month; us-east-1, Lambda's quota 1,000"
    assert re.sub(" +", " ", lines[2]) == " where time 10-90 % a run 10-90 % a month"
    assert any(line.startswith("* Lambda 1,769 MB, arm64") for line in lines)
    assert any(line.startswith("* this machine, 8 cores") for line in lines)
    for part in ("c8g", ", spot", "Fargate", "What this starts from", "Lambda costs less below"):
        assert part in done.out
    assert "(given: --speed here=1)" in done.out
    assert "(published: " in done.out
    assert "(assumed: " in done.out
    assert re.search(
        r"Prices of us-east-1 were published 2026-\d\d-\d\d to .* is\s+\d+ days old", done.out
    )


def test_what_is_known_of_a_price_is_said_where_it_is_used(cost: Any) -> None:
    text = " ".join(cost("estimate", *WORK).out.split())
    assert "fargate.gb_hour.arm64, fargate.gb_hour.x86_64" in text
    assert "from a third party" in text
    assert "from a third party" not in cost("compare", "lambda:1769", *WORK).out


def test_all_shows_what_the_table_leaves_out(cost: Any) -> None:
    some = cost("estimate", *WORK).out
    every = cost("estimate", *WORK, "--all").out
    left = re.search(r"; ([\d,]+) more places: --all", some)
    assert left is not None
    assert "more places" not in every
    assert len(every.splitlines()) - len(some.splitlines()) >= int(left[1]) * 0.9


def test_json_has_every_place_with_exact_money(cost: Any) -> None:
    found = json.loads(cost("estimate", *WORK, *FEW, "--runs", "2/day", "--json").out)
    assert found["workload"]["tasks"] == 300
    assert found["workload"]["runs_per_month"] == pytest.approx(60.83, abs=0.01)
    places = {place["place"]: place for place in found["places"]}
    assert {"local", "lambda:1769:arm64", "ec2:c8g.4xlarge", "ec2-spot:c8g.4xlarge"} <= set(places)
    for place in places.values():
        total = sum((Decimal(item["usd"]) for item in place["items"]), Decimal(0))
        assert total == Decimal(place["usd"]["median"])
        assert place["makespan_s"]["low"] <= place["makespan_s"]["median"]
    assert any(place["on_front"] for place in places.values())
    assert {one["basis"] for one in found["inputs"]} == {"given", "published", "assumed"}
    assert all(one["age_days"] > 0 for one in found["prices"])
    assert found["advice"]


def test_csv_has_a_line_for_each_place(cost: Any) -> None:
    done = cost("estimate", *WORK, *FEW, "--csv")
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert {"local", "lambda:1769:arm64", "ec2:c8g.4xlarge"} <= {row["place"] for row in rows}
    for row in rows:
        assert float(row["makespan_s_low"]) <= float(row["makespan_s"])
        assert Decimal(row["usd_low"]) <= Decimal(row["usd"]) <= Decimal(row["usd_high"])
        assert row["on_front"] in {"yes", "no"}


def test_the_same_command_gives_the_same_answer(cost: Any) -> None:
    arguments = ("estimate", *WORK, *FEW, "--spread", "0.5", "--json")
    assert cost(*arguments).out == cost(*arguments).out
    assert cost(*arguments).out != cost(*arguments, "--seed", "7").out


def test_without_a_speed_this_machine_is_measured(cost: Any) -> None:
    done = cost("estimate", "--tasks", "100", "--seconds", "1", *FEW)
    assert done.code == 0
    text = " ".join(done.out.split())
    assert "speed of a core here" in text
    assert "(measured: hashes" in text


def test_a_kernel_is_run_on_a_few_chunks_here(cost: Any, tmp_path: Path) -> None:
    (tmp_path / "probe_kernels.py").write_text(
        "import time\ndef slow(chunk):\n    time.sleep(0.01)\n    return [chunk] * 10\n"
    )
    (tmp_path / "chunks.jsonl").write_text("".join(f"{number}\n" for number in range(500)))
    arguments = ("--kernel", "probe_kernels:slow", "--chunks", "chunks.jsonl", *FEW)
    done = cost("estimate", *arguments, "--speed", "here=1", "--json")
    assert done.code == 0, done.err
    assert "running up to 16 of 500 chunks here" in done.err
    found = json.loads(done.out)
    work = found["workload"]
    assert (work["tasks"], work["probes"]) == (500, 16)
    assert work["mean_s"] >= 0.01
    assert work["memory_mb"] > 10
    bases = {one["what"]: one["basis"] for one in found["inputs"]}
    assert bases["time of a task"] == bases["memory of a task"] == "measured"


def test_more_tasks_than_anyone_has_are_answered(cost: Any) -> None:
    done = cost("estimate", "--tasks", "1e12", "--seconds", "12", "--speed", "here=1", *FEW)
    assert done.code == 0
    assert "1,000,000,000,000 tasks of 12 s" in done.out
    assert "years" in done.out
    assert max(map(len, done.out.splitlines())) <= 100


def test_a_task_that_lambda_would_end_is_answered_for_the_rest(cost: Any) -> None:
    done = cost("estimate", "--tasks", "50", "--seconds", "3000", "--speed", "here=1")
    assert done.code == 0
    assert "not possible: a task takes 3,000 s, Lambda ends it after 900 s" in done.out
    assert "on demand, started for each run, takes" in done.out


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_a_picture_is_drawn(cost: Any, tmp_path: Path, suffix: str) -> None:
    done = cost("estimate", *WORK, "--plot", f"cost.{suffix}")
    assert done.code == 0, done.err
    assert f"drew cost.{suffix}" in done.err
    drawn = (tmp_path / f"cost.{suffix}").read_bytes()
    assert drawn[:4] in {b"\x89PNG", b"<?xm", b"%PDF"}
    if suffix == "svg":
        text = drawn.decode()
        assert "break-even:" in text
        for part in ("this machine, 8 cores: no cost", "Lambda", "EC2, spot", "runs a month"):
            assert part in text


def test_a_picture_without_lambda_has_no_break_even(cost: Any, tmp_path: Path) -> None:
    done = cost(
        *("estimate", "--tasks", "50", "--seconds", "3000", "--speed", "here=1"),
        *("--plot", "cost.svg"),
    )
    assert done.code == 0
    text = (tmp_path / "cost.svg").read_text()
    assert "Time and money" in text
    assert "How often it is run" not in text


def test_a_picture_says_what_to_install(cost: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = cost("estimate", *WORK, "--plot", "cost.png")
    assert (done.code, done.out) == (2, "")
    assert "pip install 'fanout-lambda[plot]'" in done.err


def test_matplotlib_is_loaded_for_pictures_only() -> None:
    code = (
        "import sys; from fanout.cost.commands import estimate, compare, breakeven\n"
        "from fanout.cost import plots, estimate, tables\n"
        "print([name for name in sys.modules if name.partition('.')[0] in "
        "{'matplotlib', 'numba', 'scipy'}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_compare_shows_places_side_by_side(cost: Any) -> None:
    places = ("lambda:1769:arm64", "ec2:c8g.4xlarge", "ec2-spot:c8g.4xlarge:4", "local")
    done = cost("compare", *places, *WORK)
    assert (done.code, done.err) == (0, "")
    for name in ("Lambda 1,769 MB, arm64", "c8g.4xlarge", "4 x c8g.4xlarge, spot", "8 cores"):
        assert name in done.out
    assert "more places" not in done.out
    found = json.loads(cost("compare", *places, *WORK, "--json").out)
    assert [place["place"] for place in found["places"]] == list(places)


def test_breakeven_by_prices_alone(cost: Any) -> None:
    found = json.loads(cost("breakeven", "--json").out)["types"]
    assert {one["arch"] for one in found} == {"x86_64", "arm64"}
    assert all(one["ratio"] * one["utilisation"] == pytest.approx(1.0) for one in found)
    only = json.loads(cost("breakeven", "--arch", "arm64", "--json").out)["types"]
    assert {one["arch"] for one in only} == {"arm64"}


def test_breakeven_of_a_run(cost: Any) -> None:
    done = cost("breakeven", "c8g.4xlarge", *WORK)
    assert done.code == 0
    assert re.search(r"Lambda costs less below .* runs an? (day|hour)", done.out)
    assert max(map(len, done.out.splitlines())) <= 100
    found = json.loads(cost("breakeven", "c8g.4xlarge", *WORK, "--json").out)
    (even,) = found["types"]
    assert even["function"] == "lambda:1769:arm64"
    assert even["is_reached"]
    assert even["runs_per_month_low"] < even["runs_per_month"] < even["runs_per_month_high"]
    assert 0 < even["utilisation"] < 1


def test_a_region_without_ec2_is_answered_for_the_rest(cost: Any) -> None:
    done = cost("estimate", *WORK, "--region", "ap-northeast-1")
    assert done.code == 0
    assert "no EC2 price of ap-northeast-1 is known" in done.err
    assert "prices refresh --region ap-northeast-1" in done.err
    assert "Lambda 1,769 MB" in done.out
    assert "c8g" not in done.out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["estimate"], "give --tasks and --seconds"),
        (["estimate", "--tasks", "10"], "give --tasks and --seconds"),
        (["estimate", "--kernel", "math:sqrt"], "--kernel and --chunks go together"),
        (["estimate", "--chunks", "x"], "--kernel and --chunks go together"),
        (
            ["estimate", "--kernel", "math:sqrt", "--chunks", "x", "--seconds", "1"],
            "leave out --seconds",
        ),
        (["estimate", *WORK, "--tasks", "0"], "give 1 to 10"),
        (["estimate", *WORK, "--tasks", "-5"], "give 1 to 10"),
        (["estimate", *WORK, "--tasks", "nan"], "must be a whole number"),
        (["estimate", *WORK, "--tasks", "1.5"], "must be a whole number"),
        (["estimate", *WORK, "--seconds", "0"], "give seconds"),
        (["estimate", *WORK, "--seconds", "-1"], "give seconds"),
        (["estimate", *WORK, "--seconds", "nan"], "give seconds"),
        (["estimate", *WORK, "--seconds", "inf"], "give seconds"),
        (["estimate", *WORK, "--spread", "nan"], "from 0"),
        (["estimate", *WORK, "--memory", "64"], "128 to 10,240"),
        (["estimate", *WORK, "--memory", "20000"], "128 to 10,240"),
        (["estimate", *WORK, "--memory", "nan"], "whole number of MB"),
        (["estimate", *WORK, "--memory", "much"], "sizes in MB"),
        (["estimate", *WORK, "--memory", ""], "sizes in MB"),
        (["estimate", *WORK, "--timeout", "901"], "after 900 s"),
        (["estimate", *WORK, "--timeout", "nan"], "1 to 900"),
        (["estimate", *WORK, "--runs", "0/day"], "above 0"),
        (["estimate", *WORK, "--runs", "often"], "hour, day, week"),
        (["estimate", *WORK, "--spot-discount", "1"], "0 to below 1"),
        (["estimate", *WORK, "--spot-discount", "nan"], "0 to below 1"),
        (["estimate", *WORK, "--uplink", "0"], "above 0"),
        (["estimate", *WORK, "--speed", "c8g"], "NAME=X"),
        (["estimate", *WORK, "--speed", "c8g=nan"], "above 0"),
        (["estimate", *WORK, "--speed", "lambda-arm=1"], "did you mean lambda-arm64"),
        (["estimate", *WORK, "--types", "c8g.4xlarg"], "did you mean c8g.4xlarge"),
        (["estimate", *WORK, "--types", ","], "EC2 types"),
        (["estimate", *WORK, "--region", "us-east1"], "did you mean us-east-1"),
        (["estimate", *WORK, "--seconds-on", "c8g.huge"], "did you mean"),
        (["estimate", *WORK, "--plot", "cost.gif"], ".png, .svg, .pdf"),
        (["estimate", *WORK, "--plot", "nowhere/cost.png"], "no folder nowhere"),
        (["estimate", *WORK, "--json", "--csv"], "exclude each other"),
        (["compare", "lambda:1769:arm", *WORK], "neither x86_64 nor arm64"),
        (["compare", *WORK], "Missing argument"),
        (["breakeven", "c8g.4xlarg"], "did you mean c8g.4xlarge"),
        (["breakeven", "--memory", "64"], "128 to 10,240"),
        (
            ["breakeven", "c8g.4xlarge", "--tasks", "9", "--seconds", "5000", "--speed", "here=1"],
            "not possible, a task takes 5,000 s",
        ),
    ],
)
def test_bad_input_is_refused_with_what_to_do(cost: Any, arguments: list[str], told: str) -> None:
    done = cost(*arguments)
    assert (done.code, done.out) == (2, "")
    assert told in " ".join(done.err.split())
    assert "Traceback" not in done.err


@pytest.mark.parametrize("name", ["estimate", "compare", "breakeven"])
def test_help_leads_with_examples_that_run(cost: Any, name: str) -> None:
    done = cost(name, "--help")
    assert done.code == 0
    head, _, rest = done.out.partition("Usage:")
    assert "--tasks" in rest
    examples = [line.strip() for line in head.partition("Examples:")[2].splitlines() if line]
    assert len(examples) >= 3
    for line in examples:
        arguments = line.partition(" > ")[0].split()
        assert arguments[:3] == ["fanout", "cost", name]
        if "--kernel" not in arguments:  # which is the reader's own
            found = cost(*arguments[2:], *(["--speed", "here=1"] if "--tasks" in line else []))
            assert found.code == 0, found.err


@pytest.mark.parametrize(
    ("text", "runs"),
    [("30/month", 30.0), ("30", 30.0), ("1/day", 730 / 24), ("0.5/hour", 365.0), ("12/year", 1.0)],
)
def test_runs_are_counted_in_months_of_730_hours(text: str, runs: float) -> None:
    assert runs_of(text) == pytest.approx(runs)


def test_numbers_of_tasks_may_be_written_as_people_do() -> None:
    assert [tasks_of(text) for text in ("1000", "1e6", "1_000", "2,000")] == [
        1000,
        1_000_000,
        1000,
        2000,
    ]
    with pytest.raises(UsageError, match="whole number"):
        tasks_of("ten")


def commands_of_the_document() -> list[tuple[str, str]]:
    """Commands of `docs/cost.md` that need no kernel and no network, with what they print."""
    found = []
    for language, code in BLOCK.findall(DOCUMENT):
        if language == "console":
            first, _, shown = code.partition("\n")
            if re.match(r"\$ fanout cost (estimate|compare|breakeven) ?", first):
                found.append((first.removeprefix("$ fanout cost "), shown))
    return found


@pytest.mark.parametrize(("line", "shown"), commands_of_the_document())
def test_commands_of_the_document_print_what_it_shows(cost: Any, line: str, shown: str) -> None:
    if "chunks.jsonl" in line:
        pytest.skip("a kernel of the reader's own")
    done = cost(*line.split())
    assert done.code == 0, done.err
    printed = done.out.splitlines()
    for expected in shown.splitlines():
        if expected.strip() not in {"", "..."}:
            assert expected in printed
