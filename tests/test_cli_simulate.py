"""`fanout simulate`, run as users run it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path


def simulate(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fanout", "simulate", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        cwd=cwd,
    )


def report(*arguments: str, cwd: Path) -> dict[str, Any]:
    done = simulate(*arguments, "--json", cwd=cwd)
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_it_prints_a_table_and_says_that_the_noise_is_assumed(tmp_path: Path) -> None:
    done = simulate("--tasks", "300", "--mean-s", "2", "--seeds", "3", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "assumed, not measured on AWS" in done.stdout
    told, runs, _, head, medians, p95s = done.stdout.splitlines()[:6]
    assert told.startswith("300 tasks, 2 s each; quota 1,000, 1,769 MB")
    assert runs == "median of 3 runs; 95th percentile below it"
    for title in ("makespan", "GB-seconds", "attempts", "429s", "hedges", "cold starts", "failed"):
        assert title in head
    name, makespan, unit, *_ = medians.split()
    assert (name, unit) == ("fanout", "s")
    assert float(p95s.split()[0]) >= float(makespan) > 2.0
    assert max(map(len, done.stdout.splitlines())) <= 95


def test_json_has_what_the_table_has_and_the_timeline(tmp_path: Path) -> None:
    found = report("--tasks", "200", "--concurrency", "10", "--seeds", "2", cwd=tmp_path)
    assert found["noise"] == "assumed, not measured on AWS"
    assert (found["tasks"], found["concurrency"], found["seeds"]) == (200, 10, 2)
    (policy,) = found["policies"].values()
    assert policy["makespan_s"]["p95"] >= policy["makespan_s"]["median"] > 200 * 0.85 / 10
    assert policy["gb_s"]["median"] > 0
    assert policy["cold_starts"]["median"] >= 10
    last = policy["timeline"][-1]
    assert set(last) == {"at_s", "in_flight", "environments", "delivered"}
    assert last["delivered"] == 200


def test_the_same_seed_prints_the_same(tmp_path: Path) -> None:
    one, same, other = (
        simulate("--tasks", "100", "--work", "lognormal", "--seed", seed, cwd=tmp_path).stdout
        for seed in ("4", "4", "5")
    )
    assert one == same != other


def test_compare_shows_other_ways_beside_it(tmp_path: Path) -> None:
    arguments = ("--tasks", "400", "--concurrency", "20", "--seeds", "1", "--compare")
    policies = report(*arguments, cwd=tmp_path)["policies"]
    others = ["second map", "group=1", "group=20", "no hedges", "no retries"]
    assert list(policies) == ["fanout", *others]
    assert policies["no hedges"]["hedges"]["median"] == 0
    assert policies["group=1"]["attempts"]["median"] >= 400
    assert policies["group=20"]["attempts"]["median"] < 100
    lines = simulate(*arguments, cwd=tmp_path).stdout.splitlines()
    assert [line.split("  ")[0] for line in lines[4:10]] == list(policies)


def test_tasks_without_retries_fail_and_are_counted(tmp_path: Path) -> None:
    arguments = ("--tasks", "100", "--crashes", "0.2", "--group", "1", "--compare")
    policies = report(*arguments, cwd=tmp_path)["policies"]
    assert policies["no retries"]["failed_tasks"]["median"] > 0
    assert next(iter(policies)) == "group=1"


def test_refusals_are_told_by_reason(tmp_path: Path) -> None:
    arguments = ("--tasks", "60", "--concurrency", "10", "--busy", "5", "--group", "1")
    (policy,) = report(*arguments, cwd=tmp_path)["policies"].values()
    assert policy["throttles_by_reason"]["ConcurrentInvocationLimitExceeded"] > 0


def test_a_run_that_ends_early_is_told_with_its_reason(tmp_path: Path) -> None:
    done = simulate("--tasks", "5", "--concurrency", "5", "--busy", "5", cwd=tmp_path)
    assert done.returncode == 0
    told = "fanout: 5 of 5 runs ended early, the first after 0 of 5 tasks: throttled"
    assert told in done.stdout


def test_a_run_ends_before_it_costs_more_than_it_may(tmp_path: Path) -> None:
    arguments = ("--tasks", "2000", "--mean-s", "2", "--seeds", "2", "--max-gb-s", "2000")
    found = report(*arguments, cwd=tmp_path)
    assert found["max_gb_s"] == 2000
    (policy,) = found["policies"].values()
    assert 1000 < policy["gb_s"]["p95"] <= 2000
    assert policy["runs_ended_early"] == 2
    assert "raise max_gb_s" in policy["ended_early"][0]
    assert 0 < policy["delivered_tasks"]["median"] < 2000


def test_dollars_are_those_of_time_and_requests(tmp_path: Path) -> None:
    arguments = ("--tasks", "300", "--seeds", "1", "--memory", "1024")
    found = report(*arguments, cwd=tmp_path)
    (policy,) = found["policies"].values()
    usd = policy["gb_s"]["median"] * 0.0000166667 + policy["attempts"]["median"] * 0.0000002
    assert policy["usd"]["median"] == pytest.approx(usd, rel=1e-9)
    assert (found["region"], found["arch"]) == ("us-east-1", "x86_64")
    (arm,) = report(*arguments, "--arch", "arm64", cwd=tmp_path)["policies"].values()
    assert arm["usd"]["median"] < 0.81 * usd
    assert "USD" in simulate(*arguments, cwd=tmp_path).stdout


def test_a_run_ends_before_it_costs_more_dollars_than_it_may(tmp_path: Path) -> None:
    arguments = ("--tasks", "2000", "--mean-s", "2", "--seeds", "2", "--max-usd", "0.03")
    found = report(*arguments, cwd=tmp_path)
    assert found["max_usd"] == 0.03
    (policy,) = found["policies"].values()
    assert 0.015 < policy["usd"]["p95"] <= 0.03
    assert "raise max_usd" in policy["ended_early"][0]


def test_a_run_that_costs_less_than_it_may_goes_to_its_end(tmp_path: Path) -> None:
    arguments = ("--tasks", "300", "--seeds", "1", "--max-gb-s", "5000")
    (policy,) = report(*arguments, cwd=tmp_path)["policies"].values()
    assert (policy["runs_ended_early"], policy["ended_early"]) == (0, [])
    assert policy["delivered_tasks"]["median"] == 300


def test_what_goes_wrong_can_be_chosen(tmp_path: Path) -> None:
    quiet = ("--crashes", "0", "--slow", "0")
    arguments = ("--tasks", "200", "--group", "1", "--seeds", "1")
    (kind,) = report(*arguments, *quiet, cwd=tmp_path)["policies"].values()
    (lossy,) = report(*arguments, *quiet, "--lost", "0.2", cwd=tmp_path)["policies"].values()
    (slow,) = report(*arguments, *quiet, "--slow", "1", cwd=tmp_path)["policies"].values()
    assert kind["retries"]["median"] == 0 < lossy["retries"]["median"]
    assert slow["gb_s"]["median"] > 1.2 * kind["gb_s"]["median"]


def test_measured_seconds_are_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "measured.txt").write_text("1.0\n3.0\n")
    arguments = ("--tasks", "10", "--work", "measured.txt", "--seeds", "1")
    assert report(*arguments, cwd=tmp_path)["mean_s"] == 2.0
    assert "as measured in measured.txt" in simulate(*arguments, cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--work", "gauss"], "'gauss' is none of constant, lognormal, pareto, drifting"),
        (["--work", "words.txt"], "words.txt: could not convert string to float: 'two'"),
        (["--work", "empty.txt"], "must hold seconds, one a line"),
        (["--mean-s", "0"], "must be seconds, above 0"),
        (["--work", "pareto", "--spread", "1"], "must be above 1"),
        (["--crashes", "2"], "crash_share=2.0) must be a share"),
        (["--slow", "-1"], "slow_share=-1.0) must be a share"),
        (["--max-gb-s", "0"], "max_gb_s=0.0 must be more than 0"),
        (["--max-usd", "0"], "max_usd=0.0 must be more than 0"),
        (["--region", "eu-west-7"], "did you mean eu-west-3 or"),
        (["--launches-per-s", "0"], "launches_per_s=0.0) must be a number above 0"),
        (["--tasks", "0"], "0 is not in the range"),
        (["--memory", "64"], "64 is not in the range"),
    ],
)
def test_a_wrong_call_is_refused(tmp_path: Path, arguments: list[str], hint: str) -> None:
    (tmp_path / "words.txt").write_text("1\ntwo\n")
    (tmp_path / "empty.txt").write_text("")
    done = simulate(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert hint in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
