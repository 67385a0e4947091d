"""What it brings to begin with what an earlier process has measured, and what if it was wrong.

    python tests/bench/knowledge.py [--quick] [--json]

The scheduler against a modelled Lambda, in virtual time: the fleet's noise is ASSUMED
(`fanout/fleet.py`), so figures compare ways to begin, and promise nothing. All environments are
cold each time, quota 1000, 1,000 launches a second, no hangs but where it says so.

    first     a process that knows nothing
    second    knows what the first one has found: time of a task, starts, rate of launches
    x 10      the same, but tasks take ten times as long as it knows; and so on

For each: makespan in seconds, and GB-seconds billed (medians over seeds).
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

if __name__ == "__main__":  # started as a script, Python sees the files beside it only
    sys.path.insert(0, str(Path(__file__).parents[2]))

from fanout.fleet import Fleet, FleetModel
from fanout.grouping import Grouping
from fanout.lateness import Starts
from fanout.scheduler import Scheduler
from fanout.simulator import Work, drive, lambda_grouping, lambda_guards

if TYPE_CHECKING:
    from fanout.grouping import Estimate
    from fanout.simulator import SimulatedRun

_FLEET: Final = FleetModel(launches_per_s=1000.0)
_HANGING: Final = replace(_FLEET, hang_share=0.002)
_CASES: Final = {
    "1,000 x 0.1 s": (Work(tasks=1000, mean_s=0.1), _FLEET),
    "1,000 x 1 s": (Work(tasks=1000, mean_s=1.0), _FLEET),
    "1,000 x 10 s, lognormal": (Work(tasks=1000, mean_s=10.0, kind="lognormal"), _FLEET),
    "1,000 x 1 s, 0.2 % hang": (Work(tasks=1000, mean_s=1.0), _HANGING),
    "10,000 x 1 s": (Work(tasks=10_000, mean_s=1.0), _FLEET),
}
_WRONG: Final = {"x 10": 0.1, "x 100": 0.01, "/ 10": 10.0, "/ 100": 100.0}


class Process:
    """A process that runs one map."""

    def __init__(
        self, fleet: FleetModel, estimate: Estimate | None, rate: float | None, starts: Starts
    ) -> None:
        self._fleet = fleet
        self.grouping = Grouping(lambda_grouping(fleet), estimate=estimate, launches_per_s=rate)
        self.starts = starts

    def run(self, work: Work, seed: int) -> SimulatedRun:
        """Its map."""
        rng = random.Random(seed)
        scheduler = Scheduler(
            limit=self._fleet.concurrency,
            grouping=self.grouping,
            rng=random.Random(seed),
            can_stop=False,
            guards=lambda_guards(self._fleet, self._fleet.concurrency, starts=self.starts),
            total=work.tasks,
        )
        return drive(scheduler, work.seconds(rng), Fleet(self._fleet, rng))

    def next(self, factor: float = 1.0) -> Process:
        """One that knows what this has found, the time of a task but for a factor."""
        estimate, starts = self.grouping.estimate, self.starts
        assert estimate is not None
        return Process(
            self._fleet,
            replace(estimate, unit_s=factor * estimate.unit_s),
            self.grouping.measured_launches_per_s,
            Starts(starts.thinned(is_warm=False), starts.thinned(is_warm=True)),
        )


def measure(work: Work, fleet: FleetModel, seeds: int) -> dict[str, tuple[float, float]]:
    """Makespan and GB-seconds of each way to begin."""
    runs: dict[str, list[SimulatedRun]] = {name: [] for name in ("first", "second", *_WRONG)}
    for seed in range(seeds):
        first = Process(fleet, None, None, Starts())
        first.run(work, seed)
        other = 1000 + seed  # the same tasks and environments for all of these
        runs["first"].append(Process(fleet, None, None, Starts()).run(work, other))
        for name, factor in {"second": 1.0, **_WRONG}.items():
            runs[name].append(first.next(factor).run(work, other))
    return {
        name: (
            statistics.median(run.makespan_s for run in found),
            statistics.median(run.gb_s for run in found),
        )
        for name, found in runs.items()
    }


def main() -> None:
    """Print the table, or the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed of the first two")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    cases = dict([*_CASES.items()][:2]) if args.quick else _CASES
    seeds = 1 if args.quick else 15
    table = {name: measure(*case, seeds) for name, case in cases.items()}
    if args.json:
        seconds = [found["second"][0] / found["first"][0] for found in table.values()]
        wrong = [max(found[name][0] for name in _WRONG) / found["first"][0]
                 for found in table.values()]  # fmt: skip
        told = {"makespan_vs_first": max(seconds), "wrong_makespan_vs_first": max(wrong)}
        print(json.dumps(told))
        return
    columns = ["first", "second", *_WRONG]
    print(f"{'':26}" + "".join(f"{name:>17}" for name in columns))
    for case, found in table.items():
        told_cells = (f"{found[name][0]:7.1f} {found[name][1]:9,.0f}" for name in columns)
        print(f"{case:26}" + "".join(told_cells))


if __name__ == "__main__":
    main()
