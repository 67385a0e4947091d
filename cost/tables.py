"""An estimate as text in 100 columns, as JSON and as CSV.

Pure: gives lines, and values that JSON has.
"""

from __future__ import annotations

import csv
import io
import textwrap
from typing import TYPE_CHECKING, Any, Final

from fanout.cost.advice import front
from fanout.cost.estimate import inputs_of, price_dates, price_notes
from fanout.cost.money import plain, usd_text
from fanout.cost.places import FargateTasks, Instances, LambdaFunction, Local
from fanout.cost.wording import digits, duration, rate, some

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Sequence
    from decimal import Decimal

    from fanout.cost.estimate import Estimate
    from fanout.cost.prediction import Band, Prediction

WIDTH: Final = 100
_UNITS: Final = ((120.0, 1.0, "s"), (7200.0, 60.0, "min"), (172_800.0, 3600.0, "h"))
_DAY_S, _YEAR_S = 86_400.0, 365.25 * 86_400.0
_LARGE: Final = ((10**9, "B"), (10**6, "M"))
_WHERE: Final = 33
_MOST_ROWS: Final = {"ec2": 8, "spot": 4, "fargate": 3}


def kind_of(one: Prediction) -> str:
    """What sort of place it is: local, lambda, ec2, spot or fargate."""
    match one.place:
        case Local():
            return "local"
        case LambdaFunction():
            return "lambda"
        case Instances(is_spot=is_spot):
            return "spot" if is_spot else "ec2"
        case FargateTasks():
            return "fargate"


def rows_of(estimate: Estimate, *, is_all: bool) -> list[Prediction]:
    """What the table shows: of machines only those that no other of their kind beats in both."""
    found: list[Prediction] = []
    for kind in ("local", "lambda", "ec2", "spot", "fargate"):
        these = [one for one in estimate.predictions if kind_of(one) == kind]
        if not is_all and kind in _MOST_ROWS:
            best = front(these)
            these = thinned(best, _MOST_ROWS[kind]) if best else these[:1]
        found += sorted(these, key=lambda one: (not one.is_possible, one.makespan_s.median))
    return found


def thinned(ordered: Sequence[Prediction], most: int) -> list[Prediction]:
    """The first, the last, and evenly of those in between."""
    if len(ordered) <= most:
        return list(ordered)
    last = len(ordered) - 1
    return [ordered[round(number * last / (most - 1))] for number in range(most)]


def lines_of(estimate: Estimate, today: dt.date, *, is_all: bool) -> list[str]:
    """All of an estimate."""
    shown = rows_of(estimate, is_all=is_all)
    return [
        *headline(estimate),
        "",
        *table(estimate, shown),
        "",
        *_bulleted(estimate.advice),
        "",
        *inputs(estimate, shown),
        "",
        *_wrapped(prices(estimate, today)),
        *(line for note in price_notes(estimate) for line in _wrapped(note, first="  ")),
    ]


def headline(estimate: Estimate) -> list[str]:
    """What there is to do."""
    work, setting = estimate.workload, estimate.setting
    threads = f" on {some(work.threads, 'thread')}" if work.threads > 1 else ""
    return _wrapped(
        f"{some(work.tasks, 'task')} of {duration(work.times.mean_s)}{threads}, "
        f"{rate(work.runs_per_month)}; {setting.book.region}, "
        f"Lambda's quota {setting.concurrency:,}"
    )


def table(estimate: Estimate, shown: Sequence[Prediction]) -> list[str]:
    """A line for each place."""
    head = f"  {'where':{_WHERE}}{'time':>9}  {'10-90 %':>13}{'a run':>11}  {'10-90 %':>15}"
    lines = [f"{head}{'a month':>12}"]
    best = set(map(id, estimate.front))
    for one in shown:
        mark = "*" if id(one) in best else " "
        if not one.is_possible:
            why = textwrap.shorten(f"not possible: {one.why_not}", WIDTH - _WHERE - 2)
            lines.append(f"{mark} {one.what:{_WHERE}}{why}")
            continue
        span = one.makespan_s
        lines.append(
            f"{mark} {one.what[: _WHERE - 1]:{_WHERE}}{_time(span.median):>9}  "
            f"{_time_band(span):>13}{_usd(one.usd.median):>11}  {_usd_band(one.usd):>15}"
            f"{_usd(one.usd_per_month):>12}"
        )
    left = len(estimate.predictions) - len(shown)
    tail = f"; {left:,} more places: --all" if left else ""
    lines.append(f"* no other is both faster and cheaper, by the medians{tail}")
    notes = {note for one in shown for note in one.notes}
    return [*lines, *sorted(notes)]


def _unit(seconds: float) -> tuple[float, str]:
    for below, unit_s, name in _UNITS:
        if seconds < below:
            return unit_s, name
    return (_YEAR_S, "yr") if seconds >= 2 * _YEAR_S else (_DAY_S, "days")


def _time(seconds: float) -> str:
    unit_s, name = _unit(seconds)
    return f"{_short(seconds / unit_s)} {name}"


def _short(value: float) -> str:
    """Two digits or three, so that columns hold."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{digits(value / size)}{letter}"
    return digits(value)


def _time_band(band: Band[float]) -> str:
    unit_s, name = _unit(band.median)
    low, high = _short(band.low / unit_s), _short(band.high / unit_s)
    return f"{low}-{high} {name}" if low != high else f"{low} {name}"


def _usd(value: Decimal) -> str:
    for size, letter in _LARGE:
        if value >= size:
            return f"${digits(float(value) / size)}{letter}"
    return f"${value:,.0f}" if value >= 1000 else usd_text(value)


def _usd_band(band: Band[Decimal]) -> str:
    low, high = _usd(band.low), _usd(band.high)
    return low if low == high else f"{low}-{high.removeprefix('$')}"


def inputs(estimate: Estimate, shown: Sequence[Prediction]) -> list[str]:
    """What those that are shown start from, and where each figure is from."""
    lines = ["What this starts from"]
    for one in inputs_of(estimate.workload, estimate.setting, shown):
        text = f"{one.what}: {one.value} ({one.basis.value}: {one.source})"
        lines += _wrapped(text, first="  ")
    return lines


def prices(estimate: Estimate, today: dt.date) -> str:
    """How old the prices are that were used."""
    dated = price_dates(estimate)
    region = estimate.setting.book.region
    if not dated:
        return f"No price of {region} was needed."
    name, oldest = dated[0]
    age = (today - oldest).days
    return (
        f"Prices of {region} were published {oldest} to {dated[-1][1]}; the oldest ({name}) is "
        f"{some(age, 'day')} old. `fanout cost prices show` has the source of each."
    )


def _bulleted(sentences: Sequence[str]) -> list[str]:
    return [line for text in sentences for line in _wrapped(text, first="- ")]


def _wrapped(text: str, first: str = "") -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=" " * max(2, len(first)) if first else "",
        break_long_words=False,
    )


def as_json(estimate: Estimate, today: dt.date) -> dict[str, Any]:
    """All of an estimate; money as text, since it is exact."""
    work, setting = estimate.workload, estimate.setting
    best = set(map(id, estimate.front))
    return {
        "workload": {
            "tasks": work.tasks,
            "mean_s": work.times.mean_s,
            "spread": work.times.sigma,
            "probes": work.times.probes,
            "threads": work.threads,
            "memory_mb": work.memory_mb,
            "bytes_in": work.bytes_in,
            "bytes_out": work.bytes_out,
            "runs_per_month": work.runs_per_month,
        },
        "region": setting.book.region,
        "concurrency": setting.concurrency,
        "seed": setting.seed,
        "bands": "10th percentile, median, 90th",
        "places": [_place(one, is_best=id(one) in best) for one in estimate.predictions],
        "advice": list(estimate.advice),
        "inputs": [
            {"what": one.what, "value": one.value, "basis": one.basis.value, "source": one.source}
            for one in estimate.inputs
        ],
        "prices": [
            {"item": name, "published": str(day), "age_days": (today - day).days}
            for name, day in price_dates(estimate)
        ],
        "price_notes": price_notes(estimate),
    }


def _place(one: Prediction, *, is_best: bool) -> dict[str, Any]:
    told: dict[str, Any] = {"place": one.place.name, "what": one.what}
    if not one.is_possible:
        return {**told, "is_possible": False, "why_not": one.why_not}
    return {
        **told,
        "is_possible": True,
        "on_front": is_best,
        "makespan_s": _three(one.makespan_s, float),
        "usd": _three(one.usd, plain),
        "usd_per_month": plain(one.usd_per_month),
        "slots": one.slots,
        "task_s": one.task_s,
        "items": [
            {
                "item": item.name,
                "units": plain(item.units),
                "unit": item.unit,
                "usd": plain(item.usd_per_run),
            }
            for item in one.items
        ],
        "notes": list(one.notes),
        "method": one.method,
    }


def _three(band: Band[Any], told: Callable[[Any], Any]) -> dict[str, Any]:
    return {"low": told(band.low), "median": told(band.median), "high": told(band.high)}


_COLUMNS: Final = (
    "place",
    "makespan_s_low",
    "makespan_s",
    "makespan_s_high",
    "usd_low",
    "usd",
    "usd_high",
    "usd_per_month",
    "slots",
    "task_s",
    "on_front",
    "why_not",
)


def as_csv(estimate: Estimate) -> str:
    """A line for each place, all of them."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_COLUMNS)
    best = set(map(id, estimate.front))
    for one in estimate.predictions:
        if not one.is_possible:
            blank = [""] * (len(_COLUMNS) - 3)
            writer.writerow([one.place.name, *blank, "no", one.why_not])
            continue
        span, usd = one.makespan_s, one.usd
        writer.writerow(
            [
                one.place.name,
                *(f"{value:.6g}" for value in (span.low, span.median, span.high)),
                *(plain(value) for value in (usd.low, usd.median, usd.high)),
                plain(one.usd_per_month),
                one.slots,
                f"{one.task_s:.6g}",
                "yes" if id(one) in best else "no",
                "",
            ]
        )
    return out.getvalue()
