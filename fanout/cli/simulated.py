"""Simulated runs, as `fanout simulate` shows them: ways to run the same, their figures, a table."""

from __future__ import annotations

import math
import random
import statistics
from typing import TYPE_CHECKING, Any, Final

from fanout.errors import PriceMissingError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fanout.cost.run_usage import Size
    from fanout.fleet import FleetModel
    from fanout.simulator import SimulatedRun, Work

SHOWN: Final[Mapping[str, Callable[[SimulatedRun], float | None]]] = {
    "makespan_s": lambda run: run.makespan_s,
    "gb_s": lambda run: run.gb_s,
    "usd": lambda run: run.usd,
    "attempts": lambda run: run.attempts,
    "throttles": lambda run: run.throttles.total(),
    "hedges": lambda run: run.hedges,
    "cold_starts": lambda run: run.cold_starts,
    "failed_tasks": lambda run: run.failed_tasks,
    "retries": lambda run: run.retries,
    "ignored": lambda run: run.ignored,
    "launches": lambda run: run.launches,
    "delivered_tasks": lambda run: run.samples[-1].delivered,
}
# Of these, the columns of the table.
TITLES: Final = {
    "makespan_s": "  makespan",
    "gb_s": "  GB-seconds",
    "usd": "         USD",
    "attempts": "  attempts",
    "throttles": "     429s",
    "hedges": "   hedges",
    "cold_starts": "  cold starts",
    "failed_tasks": "  failed",
}

Numbers = dict[str, dict[str, float]]


def simulated(
    work: Work, fleet: FleetModel, ways: Mapping[str, Mapping[str, Any]], seeds: range
) -> dict[str, list[SimulatedRun]]:
    """Runs of each way, one for each seed.

    Args:
        work: What there is to do.
        fleet: Where.
        ways: Arguments of `simulate`, by what they are called.
        seeds: Of chance.
    """
    from fanout.simulator import simulate

    return {
        name: [
            simulate(work, fleet, rng=random.Random(seed), **options)  # noqa: S311  # a model
            for seed in seeds
        ]
        for name, options in ways.items()
    }


def ways_of(
    work: Work,
    fleet: FleetModel,
    group: int | None,
    *,
    compare: bool,
    options: Mapping[str, Any],
) -> dict[str, dict[str, Any]]:
    """Arguments of `simulate`, by what they are called.

    Args:
        work: What there is to do.
        fleet: Where.
        group: So many tasks in each attempt, in the first way.
        compare: Whether there shall be others beside it.
        options: What holds for all of them, unless they say otherwise.
    """
    from fanout.grouping import Estimate
    from fanout.retry import RetryPolicy
    from fanout.simulator import lambda_grouping

    present: dict[str, dict[str, Any]] = {"fanout": {}}
    if group is not None:
        present = {f"group={group}": {"grouping": lambda_grouping(fleet, fixed=group)}}
    if not compare:
        return {name: {**options, **own} for name, own in present.items()}
    share = math.ceil(work.tasks / fleet.concurrency)
    mean_s = statistics.fmean(work.measured_s) if work.measured_s else work.mean_s
    ways = {
        **present,
        "second map": {"estimate": Estimate(unit_s=mean_s)},  # the time of a task is known
        "group=1": {"grouping": lambda_grouping(fleet, fixed=1)},
        f"group={share}": {"grouping": lambda_grouping(fleet, fixed=share)},
        "no hedges": {"hedge": False},
        "no retries": {"retry": RetryPolicy(max_attempts=1, max_lost=1)},
    }
    return {name: {**options, **own} for name, own in ways.items()}


def numbers(runs: Sequence[SimulatedRun]) -> Numbers:
    """Median and 95th percentile (the nearest rank) of all that is shown."""
    found = {}
    for name, of in SHOWN.items():
        values = [of(run) for run in runs]
        ordered = sorted(value for value in values if value is not None)
        if len(ordered) < len(values):
            continue  # dollars, where no price is known
        rank = math.ceil(0.95 * len(ordered)) - 1
        found[name] = {"median": statistics.median(ordered), "p95": ordered[rank]}
    return found


def policies_of(found: Mapping[str, Sequence[SimulatedRun]]) -> dict[str, Any]:
    """All that is known of each way, for JSON."""
    told: dict[str, Any] = {}
    for name, runs in found.items():
        throttles = sum((run.throttles for run in runs), start=type(runs[0].throttles)())
        told[name] = {
            **numbers(runs),
            "throttles_by_reason": {reason: n / len(runs) for reason, n in throttles.items()},
            "runs_ended_early": sum(bool(run.failure) for run in runs),
            "ended_early": [run.failure for run in runs if run.failure][:1],
            "timeline": [sample._asdict() for sample in runs[0].samples],
        }
    return told


def table(found: Mapping[str, Sequence[SimulatedRun]]) -> list[str]:
    """The ways, a row for the medians of each and one for the 95th percentiles."""
    width = max(len(name) for name in found)
    first = numbers(next(iter(found.values())))
    titles = {name: title for name, title in TITLES.items() if name in first}
    lines = [" " * width + "".join(titles.values())]
    for policy, runs in found.items():
        told = numbers(runs)
        for which in ("median", "p95") if len(runs) > 1 else ("median",):
            label = policy if which == "median" else ""
            cells = (
                _cell(name, told[name][which]).rjust(len(title)) for name, title in titles.items()
            )
            lines.append(f"{label:{width}}" + "".join(cells))
    return lines


def early_ends(found: Mapping[str, Sequence[SimulatedRun]]) -> list[str]:
    """Which runs ended before all was done, and why."""
    lines = []
    for name, runs in found.items():
        if ended := [run for run in runs if run.failure]:
            done = f"after {ended[0].samples[-1].delivered:,} of {ended[0].tasks:,} tasks"
            lines.append(
                f"{name}: {len(ended)} of {len(runs)} runs ended early, the first {done}: "
                f"{ended[0].failure}"
            )
    return lines


def _cell(quantity: str, value: float) -> str:
    if quantity == "usd":
        return f"{value:,.4f}" if value < 1 else f"{value:,.2f}"
    return f"{value:,.1f} s" if quantity == "makespan_s" else f"{value:,.0f}"


def price(found: Mapping[str, Sequence[SimulatedRun]], size: Size) -> None:
    """Set what runs cost: their time and their requests, by the prices of a region.

    Raises:
        UsageError: There is no price book for the region.
        PriceMissingError: A price is not known there.
    """
    from fanout.cost.bill import bill_of
    from fanout.cost.books import book_of
    from fanout.cost.run_usage import usage_of_time

    book = book_of(size.region, ["lambda"])
    for runs in found.values():
        for run in runs:
            bill = bill_of(
                usage_of_time(size, run.billed_ms, run.attempts, is_measured=False), book
            )
            for item in bill.unpriced:
                raise PriceMissingError(size.region, item.what)
            run.usd = float(bill.usd)
