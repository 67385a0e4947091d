"""How long runs take and what they cost under our policy and others', on a modelled fleet.

    python tests/bench/policies.py [--quick] [--json] [--seeds N] [--workloads NAME,NAME]

The fleet's noise is ASSUMED (`fanout/fleet.py`), not measured on AWS: figures compare policies, and
promise nothing. Chunks of 10 s in the mean, quota 1000, cold; a client that launches 250 a second,
and one that launches 2000. All policies have the same chunks and environments. 200 seeds take more
than half an hour on 2 cores, `--quick` (20 seeds of the short workloads) some minutes.

    none, spark3, spark4, cubed, tail_q95    whole chunks, with second attempts as these have them
    ours_fixed    the scheduler of fanout, group=20: an attempt carries what others call a chunk
    ours          the same as it comes; both know the time of a task to 10 %, from an earlier map

"Over ideal" (`median`, `p95`, `max`): makespan over that without noise, longest chunk first, chunks
undivided (who divides them may get below 1). "Over fluid": over that of work which can be divided
at will. "extra": GB-s beyond those of "none", over all seeds.
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
_SHORT: Final = ("const 100", "const 1000", "lognormal 1000", "hangs 1000", "opaque 1000")

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
            "max": ideal[-1],
            "fluid_median": statistics.median(fluid),
            "fluid_p95": _p95(fluid),
            "extra_gb_s": sum(run[policy].billed_s for run in runs) / base_s - 1,
        }
    return found


def _p95(ordered: Sequence[float]) -> float:
    return ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]


def table(seeds: int, names: Sequence[str]) -> Table:
    """These workloads, at both rates of the client."""
    wanted = [
        (f"{case.name}, {rate:g}/s", case, seed)
        for rate in _LAUNCHES_PER_S
        for case in cases(rate)
        for seed in range(seeds)
        if case.name in names
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
    names = [case.name for case in cases(1.0)]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="20 seeds of the short workloads")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--seeds", type=int, metavar="N", help="runs of each  [default: 200]")
    parser.add_argument("--workloads", metavar="NAMES", help=f"of {', '.join(names)}; by commas")
    options = parser.parse_args()
    wanted = _SHORT if options.quick else names
    if options.workloads is not None:
        wanted = options.workloads.split(",")
        if unknown := set(wanted) - set(names):
            parser.error(f"no workload {', '.join(unknown)}: choose of {', '.join(names)}")
    seeds = options.seeds or (20 if options.quick else 200)
    found = table(seeds, wanted)
    if options.json:
        report = {"noise": "assumed, not measured on AWS", "seeds": seeds, "workloads": found}
        json.dump(report | _quoted(found), sys.stdout)
        return
    print(f"{seeds} seeds")
    for workload, policies in found.items():
        print(f"\n{workload:24} over ideal: median, p95, max  over fluid: median, p95  extra GB-s")
        for policy, row in policies.items():
            print(
                f"    {policy:20} {row['median']:18.2f} {row['p95']:5.2f} {row['max']:5.2f} "
                f"{row['fluid_median']:17.2f} {row['fluid_p95']:5.2f} {row['extra_gb_s']:12.1%}"
            )
    print("\nThe noise of the fleet is assumed, not measured on AWS.")


def _quoted(found: Table) -> dict[str, float]:
    """What is looked for, of a thousand equal chunks where they are among the workloads."""
    first = found.get("const 1000, 250/s") or next(iter(found.values()))
    over_ideal = first["ours"]["median"]
    return {"over_ideal": over_ideal, "makespan_vs_none": over_ideal / first["none"]["median"]}


if __name__ == "__main__":
    main()
