"""`fanout simulate --like RUN`: a run that was, on a fleet that is fitted to it."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from typing import TYPE_CHECKING, Any, Final

import click

from fanout.cli import say
from fanout.cli.simulated import early_ends, policies_of, price, simulated, table, ways_of
from fanout.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from fanout.fitting import Fit
    from fanout.fleet import FleetModel
    from fanout.past_run import PastRun
    from fanout.simulator import SimulatedRun, Work

_SEEDS: Final = 20
# Options that say what the tasks are: a run says so itself.
_OF_TASKS: Final = {"mean_s": "--mean-s", "kind": "--work", "spread": "--spread"}
# Beyond them, what a journal's recipe holds of the options of the map.
_KEPT: Final = ("max_gb_s", "max_usd", "hedge")


def show(
    name: str, *, given: Collection[str], options: Mapping[str, Any], assumed: FleetModel
) -> None:
    """Print how a run was, how it is known, and what comes of it on the model.

    Args:
        name: Id or name of the run.
        given: Options that stand on the command line.
        options: All of them.
        assumed: The fleet that the options make.

    Raises:
        UsageError: There is no such run, nothing of it is done, or an option contradicts it.
        JournalError: Its journal can't be read.
    """
    from fanout.cost.pricing import rates_at
    from fanout.cost.run_usage import Size
    from fanout.fitting import fit

    for option in _OF_TASKS.keys() & given:
        raise UsageError(f"{_OF_TASKS[option]} and --like: the run says what its tasks take")
    meta, past = _past(name)
    found = fit(past, assumed=assumed)
    fleet, changed = _changed(found.fleet, assumed, given)
    work = found.work
    if "tasks" in given:
        work = dataclasses.replace(work, tasks=options["tasks"])
    asked = ("tasks", "group", "max_gb_s", "max_usd")
    changed |= {key: f"{options[key]:,}" for key in asked if key in given}
    kept = _options_of(meta, given, options)
    group = kept.pop("group")
    size = Size(options["region"], options["arch"], fleet.memory_mb)
    kept["rates"] = rates_at(size)
    _add_what_it_knew(kept, found, changed)
    ways = ways_of(work, fleet, group, compare=options["compare"], options=kept)
    seeds = options["seeds"] if "seeds" in given else _SEEDS
    runs = simulated(work, fleet, ways, range(options["seed"], options["seed"] + seeds))
    price(runs, size)
    about = _About(name=name, meta=meta, is_local=past.is_local, changed=changed)
    if options["as_json"]:
        click.echo(json.dumps(_report(about, found, fleet, work, runs), indent=2))
        return
    for line in _lines(about, found, runs, compares=options["compare"]):
        click.echo(line)


def _past(name: str) -> tuple[dict[str, Any], PastRun]:
    """What the journal of a run tells."""
    from fanout.journal import Folder
    from fanout.journal.folder import record_of
    from fanout.journal.past import past_run

    folder = Folder()
    path = folder.find(name)
    if path is None:
        raise folder.unknown(name)
    meta, past = past_run(path)
    if not past.tasks:
        raise UsageError(f"nothing of run {name} is done: there is nothing to fit a model to")
    if record_of(path).state == "running":
        say(f"run {name} is being run: this is what is done so far")
    return meta, past


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _About:
    """The run, and what was asked to be different: by option, as told."""

    name: str
    meta: Mapping[str, Any]
    is_local: bool
    changed: Mapping[str, str]

    @property
    def is_same(self) -> bool:
        """Whether what is simulated is what was."""
        return not (self.is_local or self.changed)


def _changed(
    fitted: FleetModel, assumed: FleetModel, given: Collection[str]
) -> tuple[FleetModel, dict[str, str]]:
    """The fleet with what was given, and that."""
    names = [part.name for part in dataclasses.fields(fitted) if part.name in given]
    values = {name: getattr(assumed, name) for name in names}
    if "crash_share" in values and fitted.crash_per_s:
        values["crash_per_s"] = 0.0  # it is the same
    return dataclasses.replace(fitted, **values), {n: f"{v:,}" for n, v in values.items()}


def _options_of(
    meta: Mapping[str, Any], given: Collection[str], options: Mapping[str, Any]
) -> dict[str, Any]:
    """What of the map's own options matters, with what was given instead."""
    from fanout.retry import RetryPolicy

    kept = (meta.get("recipe") or {}).get("options") or {}
    told: dict[str, Any] = {name: kept[name] for name in _KEPT if name in kept}
    told["group"] = kept.get("group")
    if not kept.get("idempotent", True):
        told |= {"group": 1, "hedge": False}
    if kept.get("retry"):
        told["retry"] = RetryPolicy(**kept["retry"])
    told |= {name: options[name] for name in ("group", "max_gb_s", "max_usd") if name in given}
    return told


def _add_what_it_knew(kept: dict[str, Any], found: Fit, changed: Mapping[str, str]) -> None:
    """What the client took for the quota, and for the time of a task."""
    from fanout.grouping import Estimate

    if "concurrency" not in changed and found.limit is not None:
        kept["limit"] = found.limit
    if found.unit_s is not None:
        kept["estimate"] = Estimate(unit_s=found.unit_s)


# ---- how it is told ----


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    """Median, and 10 and 90 % (the nearest rank)."""
    ordered = sorted(values)
    ranks = {"p10": math.ceil(0.1 * len(ordered)) - 1, "p90": math.ceil(0.9 * len(ordered)) - 1}
    return {
        "median": statistics.median(ordered),
        **{name: ordered[rank] for name, rank in ranks.items()},
    }


def _compared(found: Fit, runs: Sequence[SimulatedRun]) -> dict[str, dict[str, Any]]:
    """Makespan and GB-seconds: what was, what is simulated, and the one over the other."""
    seen = {"makespan_s": found.observed.makespan_s, "gb_s": found.gb_s}
    told: dict[str, dict[str, Any]] = {}
    for name, value in seen.items():
        modelled = _quantiles([getattr(run, name) for run in runs])
        ratio = modelled["median"] / value if value else None
        told[name] = {"observed": value, "simulated": modelled, "ratio": ratio}
    return told


def _lines(
    about: _About, found: Fit, runs: Mapping[str, Sequence[SimulatedRun]], *, compares: bool
) -> list[str]:
    meta, seen = about.meta, found.observed
    lines = [f"run {about.name}: {meta.get('kernel')} on {meta.get('backend')}"]
    if seen.sessions > 1:
        lines.append(f"its {seen.sessions} sessions are added up, and simulated as one run")
    lines += ["", *_quantities(about, found), ""]
    first = next(iter(runs.values()))
    compared = _compared(found, first)
    lines.append(f"{'':24}{'makespan':>20}{'GB-seconds':>24}")
    cells = [_cell(name, part["observed"]) for name, part in compared.items()]
    lines.append(f"{'observed':24}{cells[0]:>20}{cells[1]:>24}")
    label = f"simulated, {len(first)} runs" if len(first) > 1 else "simulated"
    cells = [_cell(name, part["simulated"]["median"]) for name, part in compared.items()]
    lines.append(f"{label:24}{cells[0]:>20}{cells[1]:>24}")
    cells = [
        f"{_cell(name, part['simulated']['p10'])} to {_cell(name, part['simulated']['p90'])}"
        for name, part in compared.items()
    ]
    lines.append(f"{'  10 to 90 % of them':24}{cells[0]:>20}{cells[1]:>24}")
    cells = ["" if p["ratio"] is None else f"{p['ratio']:.2f}" for p in compared.values()]
    lines.append(f"{'simulated / observed':24}{cells[0]:>20}{cells[1]:>24}")
    if compares:
        lines += ["", *table(runs)]
    return [*lines, *early_ends(runs), "", *_remarks(about, found)]


def _quantities(about: _About, found: Fit) -> list[str]:
    rows = [(q.name, about.changed.get(q.name), q) for q in found.quantities]
    lines = []
    for name, changed, quantity in rows:
        value, how = quantity.value, f"{quantity.source:9} {quantity.why}"
        if changed is not None:
            value, how = changed, f"given     instead of {quantity.value}"
        lines.append(f"{name:18} {value:>13}  {how}")
    told = {quantity.name for quantity in found.quantities}
    lines += [
        f"{name:18} {value:>13}  given" for name, value in about.changed.items() if name not in told
    ]
    return lines


def _remarks(about: _About, found: Fit) -> list[str]:
    if about.is_local:
        return [
            "It ran on this machine: simulated are its tasks, as long as they took here, on Lambda",
            "as it is assumed to be. A ratio of 2 says that it would take twice as long there.",
        ]
    lines = []
    if about.changed:
        what = ", ".join(f"{name} {value}" for name, value in about.changed.items())
        lines.append(
            f"Simulated is another fleet than the run's ({what}): the ratio says what changes."
        )
    if found.observed.open_attempts:
        count = found.observed.open_attempts
        lines.append(
            f"{count:,} attempt{'' if count == 1 else 's'} ran on when nobody waited: more "
            "GB-seconds were billed than are observed."
        )
    lines.append("What is assumed is not measured on AWS.")
    return lines


def _cell(quantity: str, value: float | None) -> str:
    if value is None:
        return "none"
    return (
        f"{value:,.1f} s"
        if quantity == "makespan_s"
        else f"{value:,.4g}"
        if value < 1000
        else f"{value:,.0f}"
    )


def _report(
    about: _About,
    found: Fit,
    fleet: FleetModel,
    work: Work,
    runs: Mapping[str, Sequence[SimulatedRun]],
) -> dict[str, Any]:
    first = next(iter(runs.values()))
    return {
        "run": about.meta.get("run"),
        "name": about.meta.get("name"),
        "kernel": about.meta.get("kernel"),
        "backend": about.meta.get("backend"),
        "is_same_fleet": about.is_same,
        "given": dict(about.changed),
        "tasks": work.tasks,
        "quantities": [dataclasses.asdict(quantity) for quantity in found.quantities],
        "fleet": dataclasses.asdict(fleet),
        "observed": dataclasses.asdict(found.observed),
        "seeds": len(first),
        "compared": _compared(found, first),
        "policies": policies_of(runs),
    }
