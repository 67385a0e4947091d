"""`fanout simulate`: what a map would take and cost on a modelled fleet, without an account."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from fanout.cli import Command
from fanout.cli.simulated import early_ends, policies_of, price, simulated, table, ways_of
from fanout.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fanout.budget import Architecture
    from fanout.fleet import FleetModel
    from fanout.simulator import SimulatedRun, Work

_NOISE: Final = (
    "The fleet's noise (cold starts, slow environments, crashes) is assumed, not measured on AWS:\n"
    "it serves to compare, not to promise."
)
_KINDS: Final = ("constant", "lognormal", "pareto", "drifting")


@click.command(
    cls=Command,
    short_help="Try a map on a modelled fleet.",
    examples=(
        "fanout simulate --tasks 10000 --mean-s 2 --work lognormal\n"
        "fanout simulate --tasks 1000 --mean-s 10 --concurrency 100 --seeds 20 --compare\n"
        "fanout simulate --tasks 10000 --mean-s 2 --max-usd 0.6\n"
        "fanout simulate --like sweep-7                       # a run of yours, see fanout runs\n"
        "fanout simulate --like sweep-7 --concurrency 2000    # what would it have been then?\n"
        "fanout simulate --work measured.txt --tasks 5000 --hangs 0.001 --json > run.json"
    ),
)
@click.option(
    "--like",
    metavar="RUN",
    help="Id or name of a run that has a journal: its tasks, on a fleet fitted to it.",
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
    "--max-usd",
    type=float,
    metavar="X",
    help="End the run before its time and requests cost more dollars.",
)
@click.option(
    "--region", default="us-east-1", show_default=True, metavar="R", help="Whose prices count."
)
@click.option(
    "--arch",
    type=click.Choice(["x86_64", "arm64"]),
    default="x86_64",
    show_default=True,
    help="The architecture whose prices count; it makes nothing faster or slower here.",
)
@click.option(
    "--group", type=click.IntRange(min=1), metavar="N", help="So many tasks in each attempt."
)
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="The first one.")
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=5,
    show_default="5; 20 with --like",
    metavar="K",
    help="Runs, of which the median and the 95th percentile are told.",
)
@click.option("--compare", is_flag=True, help="Beside it, other ways to run the same.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    like: str | None,
    tasks: int,
    mean_s: float,
    kind: str,
    spread: float | None,
    group: int | None,
    max_gb_s: float | None,
    max_usd: float | None,
    region: str,
    arch: Architecture,
    seed: int,
    seeds: int,
    compare: bool,
    as_json: bool,
    **fleet_options: Any,
) -> None:
    """Try a map on a modelled fleet of Lambda environments: nothing is run, nothing is billed.

    The scheduler is the very one that runs maps; the fleet keeps AWS's limits (quota, growth of
    environments, requests a second). Its noise is assumed, not measured on AWS; or, with --like,
    fitted to a run of yours, and what came of that run is set beside it. Options that you give
    then say what would be different.
    """
    from fanout.cost.pricing import rates_at
    from fanout.cost.run_usage import Size
    from fanout.fleet import FleetModel

    if like is not None:
        from fanout.cli.simulate_like import show

        given = {name for name in ctx.params if _is_given(ctx, name)}
        show(like, given=given, options=ctx.params, assumed=FleetModel(**fleet_options))
        return
    work = _work(tasks, mean_s, kind, spread)
    fleet = FleetModel(**fleet_options)
    size = Size(region, arch, fleet.memory_mb)
    caps = {"max_gb_s": max_gb_s, "max_usd": max_usd, "rates": rates_at(size)}
    ways = ways_of(work, fleet, group, compare=compare, options=caps)
    found = simulated(work, fleet, ways, range(seed, seed + seeds))
    price(found, size)
    if as_json:
        report = _report(work, kind, fleet, found) | {
            "max_gb_s": max_gb_s,
            "max_usd": max_usd,
            "region": region,
            "arch": arch,
        }
        click.echo(json.dumps(report, indent=2))
        return
    click.echo(
        f"{tasks:,} tasks, {_told(work, kind)}; quota {fleet.concurrency:,}, "
        f"{fleet.memory_mb:,} MB, {fleet.launches_per_s:,g} launches a second"
    )
    click.echo(f"median of {seeds} runs" + ("; 95th percentile below it" if seeds > 1 else ""))
    click.echo()
    for line in [*table(found), *early_ends(found)]:
        click.echo(line)
    click.echo(f"\n{_NOISE}")


def _is_given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE


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


def _told(work: Work, kind: str) -> str:
    if work.measured_s:
        return f"as measured in {kind}"
    return f"{work.mean_s:g} s each" if kind == "constant" else f"{work.mean_s:g} s each, {kind}"


def _report(
    work: Work,
    kind: str,
    fleet: FleetModel,
    found: Mapping[str, Sequence[SimulatedRun]],
) -> dict[str, Any]:
    return {
        "noise": "assumed, not measured on AWS",
        "tasks": work.tasks,
        "work": kind,
        "mean_s": statistics.fmean(work.measured_s) if work.measured_s else work.mean_s,
        "concurrency": fleet.concurrency,
        "memory_mb": fleet.memory_mb,
        "launches_per_s": fleet.launches_per_s,
        "seeds": len(next(iter(found.values()))),
        "policies": policies_of(found),
    }
