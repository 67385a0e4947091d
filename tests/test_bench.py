"""The benchmarks run and give what their readers look for; the figures are not judged here."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parent / "bench"


@pytest.mark.parametrize(
    ("bench", "ratios"),
    [
        ("local_overhead.py", ["tasks_per_s_vs_process_pool", "unbatched_vs_process_pool"]),
        (
            "invoke_path.py",
            ["cpu_vs_aioboto3_tuned", "cpu_vs_boto3_threads", "invocations_per_s"],
        ),
        ("emulator_rate.py", ["invocations_per_s_aioboto3", "rate_vs_aioboto3"]),
        ("data_path.py", ["put_mb_s", "get_mb_s", "encode_vs_pickle_base64"]),
        ("journal.py", ["cpu_overhead", "vs_plain_sqlite"]),
        ("like.py", ["makespan_vs_observed", "gb_s_vs_observed"]),
        ("knowledge.py", ["makespan_vs_first", "wrong_makespan_vs_first"]),
        ("throttle.py", ["makespan_vs_best", "hidden_throttles_per_task"]),
        (
            "policies.py --seeds 1 --workloads 'const 100'",
            ["over_ideal", "makespan_vs_none"],
        ),
        (
            "scheduler_cost.py",
            ["us_per_task", "us_per_task_vs_asyncio_queue", "peak_mb_100k_stream"],
        ),
    ],
)
def test_a_benchmark_gives_its_ratios_as_json(bench: str, ratios: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, *shlex.split(f"{BENCH}/{bench}"), "--quick", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    for name in ratios:
        assert report[name] > 0


def test_every_benchmark_is_run() -> None:
    names = {path.name for path in BENCH.glob("*.py")}
    of_lambda = {"invoke_path.py", "emulator_rate.py", "data_path.py"}
    of_the_core = {"like.py", "knowledge.py", "policies.py", "scheduler_cost.py", "throttle.py"}
    assert names == {"local_overhead.py", "journal.py"} | of_the_core | of_lambda
    run = (BENCH.parents[1] / "Makefile").read_text(encoding="utf-8")
    assert all(f"tests/bench/{name}" in run for name in names)
