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

Nothing here is measured on AWS: the law is published, cold starts and the network are assumed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

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

type Figures = dict[str, dict[str, dict[str, float]]]


def compare(seeds: int) -> Figures:
    """Medians by workload and policy."""
    figures: Figures = {}
    for name, workload in WORKLOADS.items():
        for rival, policy in POLICIES.items():
            runs = [simulate(workload, policy(workload), 1000 * seed) for seed in range(seeds)]
            figures.setdefault(name, {})[rival] = {
                "makespan_s": statistics.median(run.makespan_s for run in runs),
                "throttles": statistics.median(run.throttles for run in runs),
            }
    return figures
