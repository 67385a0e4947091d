"""How long runs take and what they cost under our policy and others', on a modelled fleet.

    python tests/bench/policies.py [--quick] [--json] [--seeds N]

The fleet's noise is ASSUMED (`fanout/fleet.py`), not measured on AWS: figures compare policies, and
promise nothing. Chunks of 10 s in the mean, quota 1000, cold. All policies have the same chunks and
environments.

    none, spark3, spark4, cubed, tail_q95    whole chunks, with second attempts as these have them
    ours_fixed    the scheduler of fanout, group=20: an attempt carries what others call a chunk
    ours          the same as it comes; both know the time of a task to 10 %, from an earlier map

"Over ideal": makespan over that without noise, longest chunk first, chunks undivided (who divides
them may get below 1). "Over fluid": over that of work which can be divided at will. "extra": GB-s
beyond those of "none".
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

if __name__ == "__main__":  # started as a script, Python sees the files beside it only
    sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.policies_.cases import Case, Figures, cases, measure

if TYPE_CHECKING:
    from collections.abc import Sequence

_PROCESSES: Final = 2
_LAUNCHES_PER_S: Final = (250.0, 2000.0)

Table = dict[str, dict[str, dict[str, float]]]


def summary(runs: Sequence[dict[str, Figures]]) -> dict[str, dict[str, float]]:
    """Medians and 95th percentiles over seeds, by policy."""
    base_s = sum(run["none"].billed_s for run in runs)
    found = {}
    for policy in runs[0]:
        ideal = sorted(run[policy].over_ideal for run in runs)
        fluid = sorted(run[policy].over_fluid for run in runs)
        found[policy] = {
            "median": statistics.median(ideal),
            "p95": _p95(ideal),
            "fluid_median": statistics.median(fluid),
            "fluid_p95": _p95(fluid),
            "extra_gb_s": sum(run[policy].billed_s for run in runs) / base_s - 1,
        }
    return found


def _p95(ordered: Sequence[float]) -> float:
    return ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]


def table(seeds: int, *, is_quick: bool) -> Table:
    """All workloads, at both rates of the client."""
    rates = _LAUNCHES_PER_S[:1] if is_quick else _LAUNCHES_PER_S
    wanted = [
        (f"{case.name}, {rate:g}/s", case, seed)
        for rate in rates
        for case in cases(rate, is_quick=is_quick)
        for seed in range(seeds)
    ]
    runs: dict[str, list[dict[str, Figures]]] = defaultdict(list)
    with ProcessPoolExecutor(_PROCESSES) as pool:
        for (name, _, _), figures in zip(wanted, pool.map(_measure, wanted), strict=True):
            runs[name].append(figures)
    return {name: summary(found) for name, found in runs.items()}


def _measure(wanted: tuple[str, Case, int]) -> dict[str, Figures]:
    _, case, seed = wanted
    return measure(case, seed)


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two workloads, two seeds")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--seeds", type=int, metavar="N", help="runs of each  [default: 40]")
    options = parser.parse_args()
    found = table(options.seeds or (2 if options.quick else 40), is_quick=options.quick)
    if options.json:
        first = found["const 1000, 250/s"]
        report = {
            "noise": "assumed, not measured",
            "over_ideal": first["ours"]["median"],
            "makespan_vs_none": first["ours"]["median"] / first["none"]["median"],
            "workloads": found,
        }
        json.dump(report, sys.stdout)
        return
    for workload, policies in found.items():
        print(f"\n{workload:24} over ideal: median, p95   over fluid: median, p95   extra GB-s")
        for policy, row in policies.items():
            print(
                f"    {policy:20} {row['median']:18.2f} {row['p95']:5.2f} "
                f"{row['fluid_median']:18.2f} {row['fluid_p95']:5.2f} {row['extra_gb_s']:12.1%}"
            )
    print("\nThe noise of the fleet is assumed, not measured on AWS.")


if __name__ == "__main__":
    main()
