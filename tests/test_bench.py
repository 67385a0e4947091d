"""The benchmarks run and give what their readers look for; the figures are not judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parent / "bench"


def test_local_overhead_gives_its_ratios_as_json() -> None:
    done = subprocess.run(
        [sys.executable, str(BENCH / "local_overhead.py"), "--quick", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    for name in ("tasks_per_s_vs_process_pool", "unbatched_vs_process_pool"):
        assert report[name] > 0


def test_every_benchmark_is_run() -> None:
    assert {path.name for path in BENCH.glob("*.py")} == {"local_overhead.py"}
