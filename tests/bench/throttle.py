"""How fast a map is, and how often Lambda refuses, by when one launches; in virtual time.

    python tests/bench/throttle.py [--quick] [--json] [--seeds N]

Contenders run the same workloads against the same model of Lambda (`throttling/service.py`):
concurrency, of which others use a part; ten requests a second for each unit of it; 1,000 new
environments at once, then 100 a second. The client launches 1,000 attempts a second (10,000 where
tasks are short); each way over the network takes 5 to 20 ms. Medians over the seeds.

    naive               all at once; each task backs off for itself, full jitter, 1 s to 20 s
    fixed_100           100 launches a second, no more in flight than believed
    fixed_1000          1,000 a second
    aimd_from_100       Netflix's limit: +1 for a success, x 0.9 for a refusal, from 100
    aimd                the same from what is believed
    botocore_adaptive   botocore's own objects: CUBIC on the rate of requests
    law                 the published law of growth, nothing learnt
    fanout              `fanout.capacity.Capacity`

Read with care: nothing here is measured on AWS; the law is published, cold starts and the network
are assumed. No task gives up: naive senders with the three attempts of AWS's SDKs would lose two
thirds of the longer ones. They fill the way to Lambda with more than it takes, which on tasks of
50 ms is 3 % faster than any limit on what is in flight, at a 429 for every fourth task.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

if __name__ == "__main__":  # started as a script, Python sees the files beside it only
    sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.throttling.policies import Aimd, BotocoreAdaptive, Fixed, Law, Naive, Ours
from tests.bench.throttling.service import Workload
from tests.bench.throttling.simulation import simulate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.bench.throttling.policies import Policy

WORKLOADS: Final[Mapping[str, Workload]] = {
    "right": Workload(tasks=5000, task_s=10.0, concurrency=1000, believed=1000),
    "hidden": Workload(tasks=5000, task_s=10.0, concurrency=1000, believed=1000, busy=300),
    "on_off": Workload(
        tasks=5000, task_s=10.0, concurrency=1000, believed=1000, busy=500, period_s=15.0
    ),
    "large": Workload(tasks=20_000, task_s=10.0, concurrency=5000, believed=5000),
    "short": Workload(
        tasks=50_000, task_s=0.05, concurrency=1000, believed=1000, launches_per_s=10_000.0
    ),
    "wrong": Workload(tasks=300, task_s=2.0, concurrency=10, believed=1000),
}
POLICIES: Final[Mapping[str, Callable[[Workload], Policy]]] = {
    "naive": Naive,
    "fixed_100": partial(Fixed, per_s=100.0),
    "fixed_1000": partial(Fixed, per_s=1000.0),
    "aimd_from_100": partial(Aimd, first=100),
    "aimd": Aimd,
    "botocore_adaptive": BotocoreAdaptive,
    "law": Law,
    "fanout": Ours,
}
_OURS: Final = "fanout"

# By workload and policy: "makespan_s" and "throttles", which are 429s of the whole run.
Figures: TypeAlias = dict[str, dict[str, dict[str, float]]]


def compare(seeds: int) -> Figures:
    """Medians over the seeds."""
    figures: Figures = {}
    for name, workload in WORKLOADS.items():
        for rival, policy in POLICIES.items():
            runs = [simulate(workload, policy(workload), 1000 * seed) for seed in range(seeds)]
            figures.setdefault(name, {})[rival] = {
                "makespan_s": statistics.median(run.makespan_s for run in runs),
                "throttles": statistics.median(run.throttles for run in runs),
            }
    return figures


def quoted(figures: Figures) -> dict[str, float]:
    """What is looked for: our time against the best of all, and 429s for each task."""
    report: dict[str, float] = {}
    for name, found in figures.items():
        best_s = min(figure["makespan_s"] for figure in found.values())
        report[f"{name}_makespan_vs_best"] = found[_OURS]["makespan_s"] / best_s
        report[f"{name}_throttles_per_task"] = found[_OURS]["throttles"] / WORKLOADS[name].tasks
    report["makespan_vs_best"] = max(report[f"{name}_makespan_vs_best"] for name in figures)
    return report


def print_table(figures: Figures) -> None:
    """The figures for people: seconds, and 429s."""
    print(f"{'':18}" + "".join(f"{name:>16}" for name in WORKLOADS))
    for rival in POLICIES:
        cells = (figures[name][rival] for name in WORKLOADS)
        line = (f"{cell['makespan_s']:.1f} /{cell['throttles']:>7,.0f}" for cell in cells)
        print(f"{rival:18}" + "".join(f"{cell:>16}" for cell in line))
    report = quoted(figures)
    ratios = (report[f"{name}_makespan_vs_best"] for name in WORKLOADS)
    print(f"{'fanout / best':18}" + "".join(f"{ratio:>16.3f}" for ratio in ratios))


def main(arguments: Sequence[str] | None = None) -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--seeds", type=int, help="runs of each contender (default: 12)")
    options = parser.parse_args(arguments)
    seeds = options.seeds or (1 if options.quick else 12)
    figures = compare(seeds)
    if options.json:
        json.dump(quoted(figures) | {"seeds": seeds, "workloads": figures}, sys.stdout)
        return
    print_table(figures)
    print(f"\nSeconds / 429s of the whole run, medians of {seeds} seeds.")


if __name__ == "__main__":
    main()
