"""What there is to do: times fitted to a few tasks, and which tasks are tried."""

from __future__ import annotations

import json
import math
import statistics
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.cost.probe import LEAST_CHUNKS, MOST_CHUNKS, probed
from fanout.cost.workload import Basis, TaskTimes, Workload, fitted, probe_order
from fanout.errors import UsageError
from tests.cost_checks import work

if TYPE_CHECKING:
    from pathlib import Path


def test_equal_times_have_no_spread_and_noise_of_the_clock_is_none() -> None:
    assert fitted([2.0, 2.0, 2.0]).sigma == 0
    assert fitted([2.0, 2.01, 1.99]).sigma == 0
    assert fitted([3.0]).sigma == 0


def test_mean_and_deviation_are_the_samples_own() -> None:
    seconds = [1.0, 2.0, 4.0, 8.0, 16.0]
    found = fitted(seconds)
    assert found.mean_s == statistics.fmean(seconds)
    assert found.variation == pytest.approx(statistics.stdev(seconds) / found.mean_s)
    assert (found.probes, found.basis) == (5, Basis.MEASURED)


def test_tasks_of_no_time_do_not_spoil_the_spread() -> None:
    found = fitted([1.0, 0.5, 0.8, 0.7, 1e-5, 0.0])
    assert found.sigma < 1
    assert fitted([0.0] * 15 + [1.0]).sigma < 2
    assert fitted([0.0] * 15 + [1.0]).mean_error <= 1


def test_a_fit_finds_the_distribution_that_times_were_drawn_from() -> None:
    rng = np.random.default_rng(1)
    drawn = np.exp(rng.normal(math.log(3.0) - 0.5**2 / 2, 0.5, 4000))
    found = fitted(drawn.tolist())
    assert found.mean_s == pytest.approx(3.0, rel=0.03)
    assert found.sigma == pytest.approx(0.5, rel=0.05)


def test_fewer_probes_know_the_mean_less_well() -> None:
    errors = [
        TaskTimes(mean_s=1.0, sigma=0.5, probes=count).mean_error for count in (2, 5, 16, 100)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] == pytest.approx(TaskTimes(mean_s=1.0, sigma=0.5).variation / 10, rel=0.02)
    assert TaskTimes(mean_s=1.0, sigma=0.5).mean_error == 0  # given, not measured


def test_the_spread_of_few_probes_is_drawn_around_theirs() -> None:
    times = TaskTimes(mean_s=1.0, sigma=0.5, probes=6)
    drawn = times.drawn_sigmas(np.random.default_rng(0), 2000)
    assert drawn.min() < 0.4 < 0.5 < 0.7 < drawn.max()
    assert float(np.median(drawn)) == pytest.approx(0.53, abs=0.04)
    certain = TaskTimes(mean_s=1.0, sigma=0.5).drawn_sigmas(np.random.default_rng(0), 3)
    assert certain.tolist() == [0.5, 0.5, 0.5]


@given(st.floats(0.0, 2.0), st.floats(0.01, 1e4), st.floats(0.1, 10.0))
def test_the_share_above_falls_from_all_to_none(sigma: float, mean: float, factor: float) -> None:
    times = TaskTimes(mean_s=mean, sigma=sigma)
    assert times.share_above(0) == 1
    assert 0 <= times.share_above(mean * factor * 2) <= times.share_above(mean * factor) <= 1


def test_the_share_above_is_that_of_the_distribution() -> None:
    times = TaskTimes(mean_s=2.0, sigma=0.7)
    drawn = np.exp(np.random.default_rng(2).normal(math.log(2.0) - 0.7**2 / 2, 0.7, 200_000))
    assert times.share_above(5.0) == pytest.approx(float((drawn > 5.0).mean()), abs=0.002)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"tasks": 0}, "give 1 to 10"),
        ({"tasks": 10**16}, "give 1 to 10"),
        ({"seconds": 0.0}, "give seconds"),
        ({"seconds": -1.0}, "give seconds"),
        ({"seconds": math.nan}, "give seconds"),
        ({"seconds": math.inf}, "give seconds"),
        ({"spread": -0.1}, "from 0"),
        ({"spread": math.nan}, "from 0"),
        ({"threads": 0}, "must be 1 or more"),
        ({"memory_mb": 0}, "above 0"),
        ({"bytes_in": -1}, "0 or more"),
        ({"runs_per_month": 0.0}, "more than 0"),
        ({"runs_per_month": math.nan}, "more than 0"),
    ],
)
def test_what_is_no_work_is_refused_with_what_to_give(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        work(**changes)


@given(st.integers(1, 5000), st.integers(1, 40))
def test_probes_are_different_chunks_the_first_and_the_last_among_them(
    chunks: int, most: int
) -> None:
    order = probe_order(chunks, most)
    assert len(order) == len(set(order)) == min(chunks, most)
    assert all(0 <= at < chunks for at in order)
    assert order[0] == 0
    if len(order) > 1:
        assert order[1] == chunks - 1


@given(st.integers(100, 10**12), st.integers(4, 16))
def test_probes_are_spread_wherever_one_stops(chunks: int, most: int) -> None:
    ordered = sorted(probe_order(chunks, most))
    widest = max(b - a for a, b in pairwise(ordered))
    assert widest <= (chunks - 1) / 2 ** int(math.log2(most - 1)) + 2


def slept(chunk: float) -> float:
    """A kernel that takes as long as its chunk says."""
    import time

    time.sleep(chunk)
    return chunk


def test_a_probe_runs_a_few_chunks_here_and_measures_them(tmp_path: Path) -> None:
    path = tmp_path / "chunks.jsonl"
    path.write_text("".join(f"{0.002 + 0.00002 * at:.5f}\n" for at in range(100)), encoding="utf-8")
    said: list[str] = []
    found = probed(slept, str(path), said.append, load=lambda: 0.0)
    assert found.chunks == 100
    assert len(found.seconds) == MOST_CHUNKS
    assert found.seconds[0] >= 0.002
    assert found.seconds[1] >= 0.00398  # the last chunk
    assert found.times.probes == MOST_CHUNKS
    assert found.memory_mb is not None
    assert found.memory_mb > 10
    assert found.bytes_in == pytest.approx(8, abs=2)
    assert found.bytes_out > 0
    assert "running up to 16 of 100 chunks here" in said[0]
    assert "ran 16 of them" in said[1]


def test_a_busy_machine_is_told_of(tmp_path: Path) -> None:
    path = tmp_path / "chunks.jsonl"
    path.write_text("0.001\n", encoding="utf-8")
    said: list[str] = []
    probed(slept, str(path), said.append, load=lambda: 1000.0)
    assert "this machine is busy (load 1000.0" in said[0]
    probed(slept, str(path), said.append, load=lambda: 0.0)
    assert len([text for text in said if "busy" in text]) == 1


def test_a_probe_ends_after_five_chunks_when_they_take_long(tmp_path: Path) -> None:
    path = tmp_path / "chunks.jsonl"
    path.write_text("0.001\n" * 50, encoding="utf-8")
    clock = iter(range(0, 100_000, 100))
    found = probed(slept, str(path), lambda _: None, clock=lambda: float(next(clock)))
    assert len(found.seconds) == LEAST_CHUNKS


def test_when_all_chunks_were_run_the_mean_is_certain(tmp_path: Path) -> None:
    path = tmp_path / "chunks.jsonl"
    path.write_text("0.001\n0.004\n", encoding="utf-8")
    found = probed(slept, str(path), lambda _: None)
    assert len(found.seconds) == 2
    assert found.times.mean_error == 0


def test_a_probe_raises_what_the_kernel_raised(tmp_path: Path) -> None:
    path = tmp_path / "chunks.jsonl"
    path.write_text(json.dumps("seven") + "\n", encoding="utf-8")
    with pytest.raises(TypeError):
        probed(slept, str(path), lambda _: None)


@pytest.mark.parametrize(
    ("text", "told"),
    [("", "has no chunk"), ("\n\n", "has no chunk"), ("1\n{\n2\n", "chunk 1 of .* is not JSON")],
)
def test_a_file_without_chunks_is_refused(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "chunks.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=told):
        probed(slept, str(path), lambda _: None)
    with pytest.raises(UsageError, match="can't be read"):
        probed(slept, str(tmp_path / "none"), lambda _: None)


def test_the_work_of_all_cores_is_tasks_times_threads() -> None:
    assert work(tasks=10, seconds=3.0, threads=4).core_s == 120.0
    assert Workload(tasks=1, times=TaskTimes(mean_s=1.0)).runs_per_month == 1
