"""Pictures of an estimate: time against money, and cost against how often it is run.

Shell: writes a file. matplotlib is an extra, and loaded when a picture is asked for. The colours are
those of Okabe and Ito, which the colour-blind can tell apart; shapes and dashes tell the same once
more, for print.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fanout.cost.advice import best_function
from fanout.cost.break_even import break_even, kept_on, usd_per_month
from fanout.cost.tables import kind_of, thinned
from fanout.cost.wording import duration, rate
from fanout.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanout.cost.estimate import Estimate
    from fanout.cost.prediction import Prediction

_FORMATS: Final = (".png", ".svg", ".pdf")
# Okabe and Ito, "Color universal design", 2008.
_BLACK, _ORANGE, _SKY, _GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
_BLUE, _VERMILLION, _PURPLE = "#0072B2", "#D55E00", "#CC79A7"
_KINDS: Final = {
    "lambda": ("Lambda", _VERMILLION, "o"),
    "ec2": ("EC2, on demand", _BLUE, "s"),
    "spot": ("EC2, spot", _SKY, "^"),
    "fargate": ("Fargate", _GREEN, "D"),
}
_MOST_LABELS: Final = 9
_POINTS: Final = 60
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

    style = {"font.size": 8.5, "axes.titlesize": 9.5, "svg.fonttype": "none", "savefig.dpi": 200}
    with mpl.rc_context(style):
        function = best_function(estimate.predictions)
        machine = kept_on(estimate.predictions, estimate.setting)
        is_both = function is not None and machine is not None
        figure = Figure(figsize=(10.2 if is_both else 5.6, 4.6), layout="constrained")
        canvas = FigureCanvasAgg(figure)
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
    axes.plot(
        [one.makespan_s.median for one in paid],
        [float(one.usd.median) for one in paid],
        color=_BLACK,
        linewidth=0.8,
        drawstyle="steps-post",
        label="none is faster and cheaper",
        zorder=2,
    )
    for one in estimate.predictions:
        if kind_of(one) == "local" and one.is_possible:
            axes.axvline(one.makespan_s.median, color=_BLACK, linestyle=":", linewidth=1)
            axes.annotate(
                f"{one.what}: no cost",
                (one.makespan_s.median, 0.98),
                xycoords=("data", "axes fraction"),
                xytext=(-4, 0),
                textcoords="offset points",
                rotation=90,
                ha="right",
                va="top",
            )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: duration(value))
    axes.xaxis.set_minor_formatter("")
    axes.yaxis.set_major_formatter(lambda value, _: _usd(value))
    axes.margins(x=0.12, y=0.16)
    axes.set_xlabel("time of a run")
    axes.set_ylabel("cost of a run")
    axes.set_title("Time and money")
    axes.grid(which="major", linewidth=0.3, alpha=0.6)
    axes.legend(loc="lower left", frameon=True, framealpha=0.9, edgecolor="none", fontsize=7.5)


def _paid_front(estimate: Estimate) -> list[Prediction]:
    return [one for one in estimate.front if one.usd.median > 0]


def _label_front(renderer: Any, axes: Any, estimate: Estimate) -> None:
    """Names for points of the front, each where it covers nothing; left out where it would."""
    legend = axes.get_legend()
    taken = [legend.get_window_extent(renderer)] if legend else []
    taken += [text.get_window_extent(renderer) for text in axes.texts]
    inside = axes.get_window_extent(renderer)
    points = [
        axes.transData.transform((one.makespan_s.median, float(one.usd.median)))
        for one in estimate.predictions
        if one.is_possible and one.usd.median > 0
    ]
    for one in thinned(_paid_front(estimate), _MOST_LABELS):
        text = _placed(axes, one, renderer, taken, points, inside)
        if text is not None:
            taken.append(text.get_window_extent(renderer))


def _placed(
    axes: Any,
    one: Prediction,
    renderer: Any,
    taken: Sequence[Any],
    points: Sequence[Any],
    inside: Any,
) -> Any:
    at = (one.makespan_s.median, float(one.usd.median))
    best, least = None, math.inf
    for distance in (10, 22, 36, 52):
        for angle in (225, 205, 245, 190, 260, 180, 270, 45, 20, 70, 90, 0, 135, 315):
            right, up = (math.cos(math.radians(angle)), math.sin(math.radians(angle)))
            text = axes.annotate(
                one.what,
                at,
                xytext=(right * distance, up * distance),
                textcoords="offset points",
                ha="right" if right < -0.3 else "left" if right > 0.3 else "center",  # noqa: PLR2004
                va="top" if up < -0.3 else "bottom" if up > 0.3 else "center",  # noqa: PLR2004
                fontsize=7,
                arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": _BLACK},
            )
            box = text.get_window_extent(renderer)
            hidden = sum(box.contains(*point) for point in points)
            overlaps = sum(box.overlaps(other) for other in taken)
            outside = not (inside.contains(*box.min) and inside.contains(*box.max))
            cost = 100 * overlaps + 100 * outside + 3 * hidden + distance / 20
            if cost < least:
                if best is not None:
                    best.remove()
                best, least = text, cost
            else:
                text.remove()
    if least >= 100 and best is not None:  # noqa: PLR2004
        best.remove()
        return None
    return best


def _cost_by_runs(
    axes: Any, estimate: Estimate, function: Prediction, machine: Prediction
) -> None:
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
    kept = float(even.usd_per_month)
    axes.plot(
        counts,
        [kept * max(1, math.ceil(count / even.most_runs)) for count in counts],
        color=_BLUE,
        linewidth=1.6,
        linestyle="-.",
        drawstyle="steps-mid",
        label=f"{machine.what}, kept on (as many as it takes)",
    )
    _mark_even(axes, even.runs_per_month, kept, is_reached=even.is_reached)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: _usd(value))
    axes.set_xlim(low, high)
    axes.set_xlabel("runs a month")
    axes.set_ylabel("cost of a month")
    axes.set_title("How often it is run")
    axes.grid(which="major", linewidth=0.3, alpha=0.6)
    axes.legend(loc="upper left", frameon=True, framealpha=0.9, edgecolor="none", fontsize=7.5)


def _mark_even(axes: Any, count: float, kept: float, *, is_reached: bool) -> None:
    if not is_reached:
        return
    axes.plot([count], [kept], "o", color=_BLACK, markersize=5, zorder=5)
    axes.axvline(count, color=_BLACK, linewidth=0.6, linestyle=":")
    axes.annotate(
        f"break-even:\n{rate(count)}",
        (count, kept),
        xytext=(8, -10),
        textcoords="offset points",
        ha="left",
        va="top",
    )


def _usd(value: float) -> str:
    return f"${value:,.0f}" if value >= 1 else f"${value:.6f}".rstrip("0").rstrip(".")
