"""`fanout simulate --like RUN`, run as users run it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fanout.fleet import FleetModel
from fanout.journal.folder import lock_of
from fanout.simulator import Work
from tests.fitting_checks import recorded, write
from tests.journal_checks import change, only
from tests.test_cli import cli
from tests.test_cli import here as here  # noqa: PLC0414  # a fixture
from tests.test_cli_simulate import report, simulate

if TYPE_CHECKING:
    from fanout.past_run import PastRun

FLEET = FleetModel(
    concurrency=20, cold_median_s=2.0, overhead_s=0.1, wire_s=0.05, launches_per_s=400.0
).quiet()


@pytest.fixture
def past() -> PastRun:
    """A run on Lambda, as its journal has it."""
    _, past = recorded(Work(tasks=400, mean_s=1.0), FLEET)
    return past


def like(*arguments: str, cwd: Path) -> dict[str, Any]:
    return report("--like", "sweep-7", "--seeds", "3", *arguments, cwd=cwd)


def test_it_prints_how_it_knows_what_was_and_what_is_simulated(
    tmp_path: Path, past: PastRun
) -> None:
    write(past, "sweep-7")
    done = simulate("--like", "sweep-7", "--seeds", "5", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "run sweep-7: simulate on lambda, worker in us-east-1, 1,769 MB"
    told = {line.split()[0]: line.split()[1:3] for line in lines if line}
    assert told["tasks"] == ["400", "measured"]
    assert told["concurrency"] == ["20", "measured"]
    assert told["cold_median_s"] == ["2", "fitted"]
    assert told["wire_s"] == ["0.05", "fitted"]
    assert told["crash_share"] == ["0.005", "assumed"]
    heads = ("observed", "simulated, 5 runs", "  10 to 90 % of them", "simulated / observed")
    assert [line[:24].rstrip() for line in lines if line.startswith(heads)] == [*heads]
    assert lines[-1] == "What is assumed is not measured on AWS."
    assert max(map(len, lines)) <= 100


def test_json_has_all_of_it_and_a_quiet_run_comes_out_as_it_was(
    tmp_path: Path, past: PastRun
) -> None:
    write(past, "sweep-7")
    found = report("--like", "sweep-7", "--crashes", "0", "--slow", "0", cwd=tmp_path)
    assert (found["run"], found["name"]) == ("20261121-100000-ab12", "sweep-7")
    assert (found["seeds"], found["tasks"]) == (20, 400)
    for part in found["compared"].values():
        assert part["ratio"] == part["simulated"]["median"] / part["observed"]
        assert part["ratio"] == pytest.approx(1.0, abs=0.05)
        assert part["simulated"]["p10"] <= part["simulated"]["median"] <= part["simulated"]["p90"]
    assert found["observed"]["cold_starts"] == 20
    assert found["fleet"]["concurrency"] == 20
    assert {"name", "value", "source", "why"} == set(found["quantities"][0])
    assert list(found["policies"]) == ["fanout"]


def test_what_is_given_takes_the_place_of_what_is_fitted(tmp_path: Path, past: PastRun) -> None:
    write(past, "sweep-7")
    same = like(cwd=tmp_path)
    assert (same["is_same_fleet"], same["given"]) == (True, {})
    other = like("--concurrency", "200", "--memory", "3538", cwd=tmp_path)
    assert other["is_same_fleet"] is False
    assert other["given"] == {"concurrency": "200", "memory_mb": "3,538"}
    assert (other["fleet"]["concurrency"], other["fleet"]["memory_mb"]) == (200, 3538)
    assert other["fleet"]["cold_median_s"] == same["fleet"]["cold_median_s"]
    assert other["compared"]["makespan_s"]["ratio"] < 0.7
    told = simulate(
        "--like", "sweep-7", "--concurrency", "200", "--seeds", "1", cwd=tmp_path
    ).stdout
    assert "given     instead of 20" in told
    assert "another fleet than the run's (concurrency 200)" in told


def test_crashes_that_are_given_take_the_place_of_those_by_the_second(tmp_path: Path) -> None:
    _, past = recorded(Work(tasks=400, mean_s=1.0), replace(FLEET, crash_per_s=0.02))
    write(past, "sweep-7")
    assert like(cwd=tmp_path)["fleet"]["crash_per_s"] > 0
    found = like("--crashes", "0", cwd=tmp_path)
    assert (found["fleet"]["crash_per_s"], found["fleet"]["crash_share"]) == (0, 0)
    assert found["given"] == {"crash_share": "0.0", "crash_per_s": "0.0"}
    assert found["policies"]["fanout"]["retries"]["median"] == 0


def test_a_run_that_is_being_run_is_told_as_far_as_it_is(tmp_path: Path, past: PastRun) -> None:
    write(past, "sweep-7")
    with lock_of(only().path):
        done = simulate("--like", "sweep-7", "--seeds", "1", cwd=tmp_path)
    assert done.returncode == 0
    assert "run sweep-7 is being run: this is what is done so far" in done.stderr


def test_an_option_that_is_given_with_its_default_counts_as_given(
    tmp_path: Path, past: PastRun
) -> None:
    write(past, "sweep-7")
    assert like("--concurrency", "1000", cwd=tmp_path)["given"] == {"concurrency": "1,000"}


def test_more_tasks_are_the_same_again(tmp_path: Path, past: PastRun) -> None:
    write(past, "sweep-7")
    found = like("--tasks", "800", cwd=tmp_path)
    assert (found["tasks"], found["given"]) == (800, {"tasks": "800"})
    assert found["compared"]["gb_s"]["ratio"] > 1.5


def test_it_is_set_beside_other_ways(tmp_path: Path, past: PastRun) -> None:
    write(past, "sweep-7")
    found = like("--compare", cwd=tmp_path)
    others = ["second map", "group=1", "group=20", "no hedges", "no retries"]
    assert list(found["policies"]) == ["fanout", *others]
    told = simulate("--like", "sweep-7", "--compare", "--seeds", "1", cwd=tmp_path).stdout
    assert all(f"\n{way}  " in told for way in others)


def test_the_options_of_the_map_hold(tmp_path: Path, past: PastRun) -> None:
    retry = {"max_attempts": 1, "max_lost": 1}
    write(past, "sweep-7", options={"group": 4, "max_gb_s": 300.0, "retry": retry})
    (policy,) = like(cwd=tmp_path)["policies"].values()
    assert policy["runs_ended_early"] == 3
    assert policy["gb_s"]["median"] <= 300
    whole = like("--max-gb-s", "9000", "--crashes", "0", cwd=tmp_path)
    (way, policy) = next(iter(whole["policies"].items()))
    assert (way, policy["runs_ended_early"]) == ("group=4", 0)
    assert policy["attempts"]["median"] >= 100


def test_a_run_that_must_not_run_twice_is_simulated_so(tmp_path: Path, past: PastRun) -> None:
    write(past, "sweep-7", options={"idempotent": False})
    found = like(cwd=tmp_path)
    assert list(found["policies"]) == ["group=1"]
    assert found["policies"]["group=1"]["hedges"]["median"] == 0


def test_sessions_are_added_up(tmp_path: Path, past: PastRun) -> None:
    half = [task if task.task < 200 else task._replace(session=1) for task in past.tasks]
    again = [attempt._replace(session=1) for attempt in past.attempts]
    write(replace(past, tasks=half, attempts=[*past.attempts, *again]), "sweep-7")
    told = simulate("--like", "sweep-7", "--seeds", "1", cwd=tmp_path).stdout
    assert "its 2 sessions are added up, and simulated as one run" in told
    one = observed_s(past, tmp_path)
    assert like(cwd=tmp_path)["compared"]["makespan_s"]["observed"] == pytest.approx(2 * one)


def observed_s(past: PastRun, cwd: Path) -> float:
    write(past, "once")
    seen: float = report("--like", "once", cwd=cwd)["compared"]["makespan_s"]["observed"]
    return seen


def test_a_run_on_this_machine_is_simulated_on_lambda(here: Path) -> None:
    code = (
        "import fanout, mykernels\n"
        "fanout.sync.map(mykernels.sleep, [0.05] * 12, name='here', "
        "backend=fanout.Local(workers=2))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=here, check=True, timeout=60)
    told = simulate("--like", "here", "--seeds", "3", cwd=here)
    assert told.returncode == 0
    assert "It ran on this machine" in told.stdout
    found = report("--like", "here", "--memory", "512", "--seeds", "3", cwd=here)
    assert found["is_same_fleet"] is False
    assert found["compared"]["gb_s"]["observed"] is None
    assert found["compared"]["gb_s"]["ratio"] is None
    assert found["compared"]["makespan_s"]["observed"] >= 0.3
    assert (found["fleet"]["concurrency"], found["fleet"]["memory_mb"]) == (1000, 512)


def test_a_run_on_the_emulator_is_measured_throughout(here: Path) -> None:
    chunks = here / "naps.jsonl"
    chunks.write_text("0.05\n" * 60)
    lines = ["fanout", "map", "mykernels:sleep", "--chunks", str(chunks), "--out", "/dev/null"]
    done = cli(
        *("emulate", "--concurrency", "3", "--memory", "512", "--", sys.executable, "-m", *lines),
        cwd=here,
    )
    assert done.returncode == 0, done.stderr
    found = report("--like", only().id, cwd=here)
    sources = {quantity["name"]: quantity["source"] for quantity in found["quantities"]}
    for name in ("tasks", "memory_mb", "timeout_s", "concurrency", "warm"):
        assert sources[name] == "measured", name
    for name in ("overhead_s", "wire_s", "cold_median_s"):
        assert sources[name] == "fitted", name
    fleet = found["fleet"]
    assert (fleet["concurrency"], fleet["memory_mb"], fleet["timeout_s"]) == (3, 512, 60.0)
    assert found["observed"]["cold_starts"] == 3
    assert found["compared"]["gb_s"]["observed"] > 60 * 0.05 / 2


def test_what_the_documents_show_is_what_happens(tmp_path: Path, past: PastRun) -> None:
    write(past, "sweep-7")
    text = (Path(__file__).parent.parent / "docs" / "resuming.md").read_text(encoding="utf-8")
    shown = [line.split()[2:] for line in text.splitlines() if "fanout simulate --like" in line]
    assert len(shown) == 3
    for arguments in shown:
        done = simulate(*arguments, "--seeds", "2", cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert "observed" in done.stdout


# ---- what can't be done ----


def test_a_name_that_is_none_gets_the_nearest(tmp_path: Path, past: PastRun) -> None:
    write(past, "sweep-7")
    wrong = simulate("--like", "sweep7", cwd=tmp_path)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "did you mean sweep-7?" in wrong.stderr


@pytest.mark.parametrize("option", ["--work", "--mean-s", "--spread"])
def test_a_run_says_itself_what_its_tasks_take(tmp_path: Path, past: PastRun, option: str) -> None:
    write(past, "sweep-7")
    value = "lognormal" if option == "--work" else "2"
    wrong = simulate("--like", "sweep-7", option, value, cwd=tmp_path)
    assert wrong.returncode == 2
    assert f"{option} and --like: the run says what its tasks take" in wrong.stderr


def test_a_run_of_which_nothing_is_done_is_refused(tmp_path: Path, past: PastRun) -> None:
    write(replace(past, tasks=[]), "sweep-7")
    wrong = simulate("--like", "sweep-7", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "nothing of run sweep-7 is done" in wrong.stderr


def test_a_damaged_journal_is_told_without_a_traceback(tmp_path: Path, past: PastRun) -> None:
    write(past, "sweep-7")
    change("DROP TABLE attempts")
    wrong = simulate("--like", "sweep-7", cwd=tmp_path)
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "can't be read (no such table: attempts)" in wrong.stderr
    only().path.write_bytes(b"not a database" * 100)
    wrong = simulate("--like", "sweep-7", cwd=tmp_path)
    assert wrong.returncode == 1
    assert "Traceback" not in wrong.stderr


def test_help_shows_it() -> None:
    told = cli("simulate", "--help", cwd=Path.cwd()).stdout
    assert "fanout simulate --like sweep-7" in told
