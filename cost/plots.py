"""Pictures of an estimate: time against money, and cost against how often it is run.

Shell: writes a file. matplotlib is an extra, and loaded when a picture is asked for. The
colours are those of Okabe and Ito, which the colour-blind can tell apart; shapes and dashes tell
the same once more, for print.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fanout.cost.advice import best_function, front
from fanout.cost.break_even import break_even, kept_on, usd_of_data, usd_per_month
from fanout.cost.tables import kind_of, thinned
from fanout.cost.wording import duration, rate
from fanout.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fanout.cost.estimate import Estimate
    from fanout.cost.prediction import Prediction

_FORMATS: Final = (".png", ".svg", ".pdf")
# Okabe and Ito, "Color universal design", 2008.
_BLACK, _SKY, _GREEN = "#000000", "#56B4E9", "#009E73"
_BLUE, _VERMILLION = "#0072B2", "#D55E00"
_KINDS: Final = {
    "lambda": ("Lambda", _VERMILLION, "o"),
    "ec2": ("EC2, on demand", _BLUE, "s"),
    "spot": ("EC2, spot", _SKY, "^"),
    "fargate": ("Fargate", _GREEN, "D"),
}
_MOST_LABELS: Final = 6
# Where the axis of time has labels, seconds, as many of them as fit.
_TIMES_S: Final = (
    *(0.01, 0.1, 1, 3, 10, 30, 60, 120, 300, 600, 1200, 3600, 7200, 5 * 3600, 12 * 3600),
    *(86_400 * days for days in (1, 3, 10, 30, 100, 365.25)),
    *(86_400 * 365.25 * 10**power for power in range(1, 12)),
)
_MARKER_PX: Final = 4
_WHITE: Final = {"facecolor": "white", "edgecolor": "none", "pad": 1.0, "alpha": 0.85}
_POINTS: Final = 60
_FINE: Final = 1500  # where a line has steps
_STEPS: Final = 8
_REMEDY: Final = "pictures need matplotlib: pip install 'fanout-lambda[plot]'"


def check_target(name: str) -> Path:
    """Where a picture goes, refused before anything is computed.

    Raises:
        UsageError: The format is not known, the folder isn't there, or matplotlib isn't.
    """
    path = Path(name)
    if path.suffix.lower() not in _FORMATS:
        raise UsageError(f"--plot {name}: give a file that ends with {', '.join(_FORMATS)}")
    if not path.parent.is_dir():
        raise UsageError(f"--plot {name}: there is no folder {path.parent}")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise UsageError(_REMEDY) from error
    return path


def draw(estimate: Estimate, path: Path) -> None:
    """Draw both pictures beside each other; only the first if there is nothing to compare."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style: Any = {
        "font.size": 8.5,
        "axes.titlesize": 9.5,
        "svg.fonttype": "none",
        "savefig.dpi": 200,
    }
    with mpl.rc_context(style):
        function = best_function(estimate.predictions)
        machine = kept_on(estimate.predictions, estimate.setting)
        is_both = function is not None and machine is not None
        figure = Figure(figsize=(10.2 if is_both else 5.6, 4.8), layout="constrained")
        canvas: Any = FigureCanvasAgg(figure)
        axes = figure.subplots(1, 2 if is_both else 1, squeeze=False)[0]
        _time_and_money(axes[0], estimate)
        if function is not None and machine is not None:
            _cost_by_runs(axes[1], estimate, function, machine)
        figure.draw_without_rendering()
        _label_front(canvas.get_renderer(), axes[0], estimate)
        try:
            figure.savefig(path)
        except OSError as error:
            raise UsageError(f"--plot {path}: {error.strerror}") from error


def _time_and_money(axes: Any, estimate: Estimate) -> None:
    for kind, (name, colour, marker) in _KINDS.items():
        these = [one for one in estimate.predictions if one.is_possible and kind_of(one) == kind]
        if not these:
            continue
        axes.scatter(
            [one.makespan_s.median for one in these],
            [float(one.usd.median) for one in these],
            s=16,
            color=colour,
            marker=marker,
            alpha=0.75,
            linewidths=0,
            label=name,
            zorder=3,
        )
    paid = _paid_front(estimate)
    if paid:
        axes.plot(
            [one.makespan_s.median for one in paid],
            [float(one.usd.median) for one in paid],
            color=_BLACK,
            linewidth=0.8,
            drawstyle="steps-post",
            label="none is faster and cheaper",
            zorder=2,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.margins(x=0.1, y=0.12)
    for one in estimate.predictions:
        if kind_of(one) == "local" and one.is_possible:
            _mark_here(axes, one)
    low, high = axes.get_xlim()
    inside = [one for one in _TIMES_S if low <= one <= high]
    step = -(-len(inside) // 7)
    axes.set_xticks(inside[::step], [duration(one) for one in inside[::step]])
    axes.set_xticks([], minor=True)
    _money_ticks(axes)
    axes.set_xlabel("time of a run")
    axes.set_ylabel("cost of a run")
    axes.set_title("Time and money")
    axes.grid(which="major", linewidth=0.3, alpha=0.6)
    _legend(axes, columns=3)


def _mark_here(axes: Any, one: Prediction) -> None:
    """A line where this machine gets done; it costs nothing, which no logarithm shows."""
    at = one.makespan_s.median
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, at / 1.3), max(high, at * 1.3))
    low, high = axes.get_xlim()
    is_right = math.log(at / low) > math.log(high / low) / 2
    axes.axvline(at, color=_BLACK, linestyle=":", linewidth=1)
    axes.annotate(
        f"{one.what}: no cost",
        (at, 0.985),
        xycoords=("data", "axes fraction"),
        xytext=(-4 if is_right else 4, 0),
        textcoords="offset points",
        ha="right" if is_right else "left",
        va="top",
        fontsize=7.5,
        bbox=_WHITE,
    )


def _money_ticks(axes: Any) -> None:
    """Labels at 1, 2 and 5 of each power of ten, at powers only if these are many."""
    from matplotlib.ticker import LogLocator, NullLocator

    low, high = axes.get_ylim()
    few = math.log10(high / low) < 3
    axes.yaxis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0) if few else (1.0,)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: _usd(value))


def _legend(axes: Any, columns: int) -> None:
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.13),
        ncols=columns,
        frameon=False,
        fontsize=7.5,
        columnspacing=1.2,
        handletextpad=0.5,
    )


def _paid_front(estimate: Estimate) -> list[Prediction]:
    return [one for one in estimate.front if one.usd.median > 0]


def _label_front(renderer: Any, axes: Any, estimate: Estimate) -> None:
    """Names for points of the front, each where it covers nothing; left out where it would."""
    taken = [text.get_window_extent(renderer) for text in axes.texts]
    inside = axes.get_window_extent(renderer)
    priced = [one for one in estimate.predictions if one.is_possible and one.usd.median > 0]
    line = _paid_front(estimate)
    places = [(one.makespan_s.median, float(one.usd.median)) for one in priced]
    places += _along([(one.makespan_s.median, float(one.usd.median)) for one in line])
    points = axes.transData.transform(places)
    on_demand = front([one for one in estimate.predictions if kind_of(one) == "ec2"])
    named = thinned(line, _MOST_LABELS)
    for one in [*named[:1], *named[:0:-1], *on_demand[-1:]]:
        text = _placed(axes, one, renderer, taken, points, inside)
        if text is not None:
            taken.append(text.get_window_extent(renderer))
            at = axes.transData.transform((one.makespan_s.median, float(one.usd.median)))
            points = np.vstack([points, _leader(at, taken[-1])])


def _along(corners: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points on the steps between these, so that labels don't cover them."""
    found = []
    for (time_s, usd), (next_s, next_usd) in itertools.pairwise(corners):
        for step in range(_STEPS):
            share = step / _STEPS
            found.append((time_s * (next_s / time_s) ** share, usd))
            found.append((next_s, usd * (next_usd / usd) ** share))
    return found


def _placed(
    axes: Any,
    one: Prediction,
    renderer: Any,
    taken: Sequence[Any],
    points: Any,
    inside: Any,
) -> Any:
    at = (one.makespan_s.median, float(one.usd.median))
    text = axes.annotate(
        one.what,
        at,
        xytext=(0, 0),
        textcoords="offset points",
        fontsize=7,
        arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": _BLACK},
    )
    size = text.get_window_extent(renderer)
    per_point = axes.figure.dpi / 72
    start = axes.transData.transform(at)
    best, least = (0.0, 0.0), math.inf
    for distance in (9, 18, 28, 40):
        for angle in (225, 205, 245, 190, 260, 180, 270, 45, 20, 70, 90, 0, 135, 315):
            right, up = (math.cos(math.radians(angle)), math.sin(math.radians(angle)))
            # To the side where it goes, its edge is there; straight up or down, its middle.
            shift = (
                right * distance - (size.width / per_point) * _edge(right),
                up * distance - (size.height / per_point) * _edge(up),
            )
            box = size.translated(shift[0] * per_point, shift[1] * per_point)
            low, high = box.min - _MARKER_PX, box.max + _MARKER_PX
            hidden = int(((points > low) & (points < high)).all(axis=1).sum())
            overlaps = sum(box.overlaps(other) for other in taken)
            outside = not (inside.contains(*box.min) and inside.contains(*box.max))
            crossed = sum(
                other.contains(*point) for other in taken for point in _leader(start, box)
            )
            cost = 100 * (overlaps + outside) + 2 * hidden + 4 * crossed + distance / 4
            if cost < least:
                best, least = shift, cost
    if least >= 100:
        text.remove()
        return None
    text.set_position(best)
    return text


def _leader(start: NDArray[np.float64], box: Any) -> NDArray[np.float64]:
    """Points on the line from a marker to the nearest edge of its label."""
    end = np.clip(start, box.min, box.max)
    return np.array([start + (end - start) * step / _STEPS for step in range(1, _STEPS)])


def _edge(way: float) -> float:
    """Which part of a label is at its place: its start, its middle or its end."""
    return 1.0 if way < -0.3 else 0.0 if way > 0.3 else 0.5


def _cost_by_runs(axes: Any, estimate: Estimate, function: Prediction, machine: Prediction) -> None:
    setting = estimate.setting
    even = break_even(function, machine, estimate.workload, setting)
    middle = even.runs_per_month if even.is_reached else even.most_runs
    low, high = middle / 100, max(middle * 30, even.most_runs * 2)
    counts = [low * (high / low) ** (step / (_POINTS - 1)) for step in range(_POINTS)]
    usd = [float(usd_per_month(function, count, setting)) for count in counts]
    median = float(function.usd.median) or 1.0
    axes.plot(counts, usd, color=_VERMILLION, linewidth=1.6, label=function.what)
    axes.fill_between(
        counts,
        [value * float(function.usd.low) / median for value in usd],
        [value * float(function.usd.high) / median for value in usd],
        color=_VERMILLION,
        alpha=0.18,
        linewidth=0,
    )
    started = float(machine.usd.median)
    axes.plot(
        counts,
        [count * started for count in counts],
        color=_SKY,
        linewidth=1.4,
        linestyle="--",
        label=f"{machine.what}, started for each run",
    )
    kept, data = float(even.usd_per_month), float(usd_of_data(function))
    fine = [low * (high / low) ** (step / (_FINE - 1)) for step in range(_FINE)]
    axes.plot(
        fine,
        [kept * max(1, math.ceil(count / even.most_runs)) + data * count for count in fine],
        color=_BLUE,
        linewidth=1.6,
        linestyle="-.",
        label=f"{machine.what}, kept on (as many as it takes)",
    )
    at_even = kept + data * even.runs_per_month
    _mark_even(axes, even.runs_per_month, at_even, is_reached=even.is_reached)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
    _money_ticks(axes)
    axes.set_xlabel("runs a month")
    axes.set_ylabel("cost of a month")
    axes.set_title("How often it is run")
    axes.grid(which="major", linewidth=0.3, alpha=0.6)
    _legend(axes, columns=1)


def _mark_even(axes: Any, count: float, kept: float, *, is_reached: bool) -> None:
    if not is_reached:
        return
    axes.plot([count], [kept], "o", color=_BLACK, markersize=5, zorder=5)
    axes.axvline(count, color=_BLACK, linewidth=0.6, linestyle=":")
    axes.annotate(
        f"break-even:\n{rate(count)}",
        (count, kept),
        xytext=(-7, 7),
        textcoords="offset points",
        ha="right",
        va="bottom",
        bbox=_WHITE,
    )


def _usd(value: float) -> str:
    return f"${value:,.0f}" if value >= 1 else f"${value:.6f}".rstrip("0").rstrip(".")
