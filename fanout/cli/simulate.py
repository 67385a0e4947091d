"""`fanout simulate`: what a map would take and cost on a modelled fleet, without an account."""

from __future__ import annotations

import json
import math
import random
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from fanout.cli import Command
from fanout.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fanout.fleet import FleetModel
    from fanout.simulator import SimulatedRun, Work

_NOISE: Final = (
    "The fleet's noise (cold starts, slow environments, crashes) is assumed, not measured on AWS:\n"
    "it serves to compare, not to promise."
)
_KINDS: Final = ("constant", "lognormal", "pareto", "drifting")
_SHOWN: Final[Mapping[str, Callable[[SimulatedRun], float]]] = {
    "makespan_s": lambda run: run.makespan_s,
    "gb_s": lambda run: run.gb_s,
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
_TITLES: Final = {
    "makespan_s": "  makespan",
    "gb_s": "  GB-seconds",
    "attempts": "  attempts",
    "throttles": "     429s",
    "hedges": "   hedges",
    "cold_starts": "  cold starts",
    "failed_tasks": "  failed",
}

Numbers = dict[str, dict[str, float]]


@click.command(
    cls=Command,
    short_help="Try a map on a modelled fleet.",
    examples=(
        "fanout simulate --tasks 10000 --mean-s 2 --work lognormal\n"
        "fanout simulate --tasks 1000 --mean-s 10 --concurrency 100 --seeds 20 --compare\n"
        "fanout simulate --tasks 10000 --mean-s 2 --max-gb-s 40000\n"
        "fanout simulate --work measured.txt --tasks 5000 --hangs 0.001 --json > run.json"
    ),
)
@click.option("--tasks", type=click.IntRange(min=1), default=10_000, show_default=True, metavar="N")
@click.option(
    "--mean-s", type=float, default=1.0, show_default=True, metavar="S", help="Seconds of a task."
)
@click.option(
    "--work",
    "kind",
    default="constant",
    show_default=True,
    metavar="KIND|FILE",
    help=f"How times of tasks are distributed: {', '.join(_KINDS)}; or a file of measured "
    "seconds, one a line, which are taken in order.",
)
@click.option(
    "--spread",
    type=float,
    metavar="X",
    help="lognormal: sigma (0.5); pareto: exponent (2); drifting: last over first (9).",
)
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    metavar="N",
    help="The quota: invocations at once.",
)
@click.option(
    "--busy",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Of the quota, what other work takes without your knowing.",
)
@click.option(
    "--memory",
    "memory_mb",
    type=click.IntRange(min=128, max=10_240),
    default=1769,
    show_default=True,
    metavar="MB",
    help="Memory of each environment.",
)
@click.option(
    "--launches-per-s",
    type=float,
    default=1000.0,
    show_default=True,
    metavar="N",
    help="Requests that this client can send in a second.",
)
@click.option(
    "--crashes",
    "crash_share",
    type=float,
    default=0.005,
    show_default=True,
    metavar="P",
    help="Share of attempts whose environment dies.",
)
@click.option(
    "--lost",
    "lost_share",
    type=float,
    default=0.0,
    show_default=True,
    metavar="P",
    help="Share of attempts whose answer is lost on its way.",
)
@click.option(
    "--hangs",
    "hang_share",
    type=float,
    default=0.0,
    show_default=True,
    metavar="P",
    help="Share of attempts whose kernel hangs until it is ended.",
)
@click.option(
    "--slow",
    "slow_share",
    type=float,
    default=0.03,
    show_default=True,
    metavar="P",
    help="Share of environments that are 2 to 3 times as slow, for life.",
)
@click.option(
    "--timeout-s",
    type=float,
    default=300.0,
    show_default=True,
    metavar="S",
    help="The function's own timeout.",
)
@click.option(
    "--max-gb-s", type=float, metavar="X", help="End the run before it costs more GB-seconds."
)
@click.option(
    "--group", type=click.IntRange(min=1), metavar="N", help="So many tasks in each attempt."
)
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="The first one.")
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    metavar="K",
    help="Runs, of which the median and the 95th percentile are told.",
)
@click.option("--compare", is_flag=True, help="Beside it, other ways to run the same.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    tasks: int,
    mean_s: float,
    kind: str,
    spread: float | None,
    group: int | None,
    max_gb_s: float | None,
    seed: int,
    seeds: int,
    compare: bool,
    as_json: bool,
    **fleet_options: Any,
) -> None:
    """Try a map on a modelled fleet of Lambda environments: nothing is run, nothing is billed.

    The scheduler is the very one that runs maps; the fleet keeps AWS's limits (quota, growth of
    environments, requests a second). Its noise is assumed, not measured on AWS.
    """
    from fanout.fleet import FleetModel

    work = _work(tasks, mean_s, kind, spread)
    fleet = FleetModel(**fleet_options)
    found = {
        name: [
            _run(work, fleet, seed + number, {"max_gb_s": max_gb_s, **options})
            for number in range(seeds)
        ]
        for name, options in _policies(work, fleet, group, compare=compare).items()
    }
    if as_json:
        report = _report(work, kind, fleet, max_gb_s, seeds, found)
        click.echo(json.dumps(report, indent=2))
        return
    click.echo(
        f"{tasks:,} tasks, {_told(work, kind)}; quota {fleet.concurrency:,}, "
        f"{fleet.memory_mb:,} MB, {fleet.launches_per_s:,g} launches a second"
    )
    click.echo(f"median of {seeds} runs" + ("; 95th percentile below it" if seeds > 1 else ""))
    click.echo()
    for line in _table({name: _numbers(runs) for name, runs in found.items()}, seeds):
        click.echo(line)
    for name, runs in found.items():
        if ended := [run for run in runs if run.failure]:
            done = f"after {ended[0].samples[-1].delivered:,} of {tasks:,} tasks"
            click.echo(
                f"{name}: {len(ended)} of {seeds} runs ended early, the first {done}: "
                f"{ended[0].failure}"
            )
    click.echo(f"\n{_NOISE}")


def _work(tasks: int, mean_s: float, kind: str, spread: float | None) -> Work:
    from fanout.simulator import Work

    if kind in _KINDS:
        return Work(tasks=tasks, mean_s=mean_s, kind=kind, spread=spread)
    try:
        lines = Path(kind).read_text(encoding="utf-8").split()
        measured_s = [float(line) for line in lines]
    except OSError as error:
        msg = (
            f"--work {kind!r} is none of {', '.join(_KINDS)}, and as a file it can't be read "
            f"({error.strerror}): give one of these, or a file of seconds"
        )
        raise UsageError(msg) from error
    except ValueError as error:
        msg = f"--work {kind}: {error}; it must hold seconds, one a line"
        raise UsageError(msg) from error
    if not measured_s:
        raise UsageError(f"--work {kind} is empty: it must hold seconds, one a line")
    return Work(tasks=tasks, measured_s=measured_s)


def _policies(
    work: Work, fleet: FleetModel, group: int | None, *, compare: bool
) -> dict[str, dict[str, Any]]:
    """Arguments of `simulate`, by what they are called."""
    from fanout.grouping import Estimate
    from fanout.retry import RetryPolicy
    from fanout.simulator import lambda_grouping

    if group is not None:
        present = {f"group={group}": {"grouping": lambda_grouping(fleet, fixed=group)}}
    else:
        present = {"fanout": {}}
    if not compare:
        return present
    share = math.ceil(work.tasks / fleet.concurrency)
    mean_s = statistics.fmean(work.measured_s) if work.measured_s else work.mean_s
    return {
        **present,
        "second map": {"estimate": Estimate(unit_s=mean_s)},  # the time of a task is known
        "group=1": {"grouping": lambda_grouping(fleet, fixed=1)},
        f"group={share}": {"grouping": lambda_grouping(fleet, fixed=share)},
        "no hedges": {"hedge": False},
        "no retries": {"retry": RetryPolicy(max_attempts=1, max_lost=1)},
    }


def _run(work: Work, fleet: FleetModel, seed: int, options: dict[str, Any]) -> SimulatedRun:
    from fanout.simulator import simulate

    return simulate(work, fleet, rng=random.Random(seed), **options)  # noqa: S311  # a model


def _numbers(runs: Sequence[SimulatedRun]) -> Numbers:
    """Median and 95th percentile (the nearest rank) of all that is shown."""
    found = {}
    for name, of in _SHOWN.items():
        ordered = sorted(of(run) for run in runs)
        rank = math.ceil(0.95 * len(ordered)) - 1
        found[name] = {"median": statistics.median(ordered), "p95": ordered[rank]}
    return found


def _table(rows: Mapping[str, Numbers], seeds: int) -> list[str]:
    width = max(len(name) for name in rows)
    lines = [" " * width + "".join(_TITLES.values())]
    for policy, numbers in rows.items():
        for which in ("median", "p95") if seeds > 1 else ("median",):
            label = policy if which == "median" else ""
            cells = (
                _cell(name, numbers[name][which]).rjust(len(title))
                for name, title in _TITLES.items()
            )
            lines.append(f"{label:{width}}" + "".join(cells))
    return lines


def _cell(quantity: str, value: float) -> str:
    return f"{value:,.1f} s" if quantity == "makespan_s" else f"{value:,.0f}"


def _told(work: Work, kind: str) -> str:
    if work.measured_s:
        return f"as measured in {kind}"
    return f"{work.mean_s:g} s each" if kind == "constant" else f"{work.mean_s:g} s each, {kind}"


def _report(
    work: Work,
    kind: str,
    fleet: FleetModel,
    max_gb_s: float | None,
    seeds: int,
    found: Mapping[str, Sequence[SimulatedRun]],
) -> dict[str, Any]:
    policies: dict[str, Any] = {}
    for name, runs in found.items():
        throttles = sum((run.throttles for run in runs), start=type(runs[0].throttles)())
        policies[name] = {
            **_numbers(runs),
            "throttles_by_reason": {reason: n / seeds for reason, n in throttles.items()},
            "runs_ended_early": sum(bool(run.failure) for run in runs),
            "ended_early": [run.failure for run in runs if run.failure][:1],
            "timeline": [sample._asdict() for sample in runs[0].samples],
        }
    return {
        "noise": "assumed, not measured on AWS",
        "tasks": work.tasks,
        "work": kind,
        "mean_s": statistics.fmean(work.measured_s) if work.measured_s else work.mean_s,
        "concurrency": fleet.concurrency,
        "memory_mb": fleet.memory_mb,
        "launches_per_s": fleet.launches_per_s,
        "max_gb_s": max_gb_s,
        "seeds": seeds,
        "policies": policies,
    }
