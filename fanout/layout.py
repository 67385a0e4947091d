"""How a moment of a run is said: in a few lines of a terminal, in one of a log.

Pure. A line is made of parts, each a text and the name of its style.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, TypeAlias

from fanout.tally import MOST_ERRORS, means

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fanout.tally import View

Part: TypeAlias = tuple[str, str]
"""A piece of a line, and rich's name for its style."""

_BLOCKS: Final = " ▁▂▃▄▅▆▇█"
_MOST_CELLS: Final = 60  # of the bar: wider tells no more
_FEWEST_CELLS: Final = 6
_WAVE_CELLS: Final = 4
_WAVE_PER_S: Final = 4  # cells: slow enough to be ignored
_NAME_CELLS: Final = 20
_CLOCK_CELLS: Final = 8
_LEAST_COMPILE_S: Final = 0.05  # in an environment: less is not worth a word


def blocks(views: Sequence[View], width: int, *, is_ascii: bool = False) -> list[list[list[Part]]]:
    """Each run in a few lines, all narrower than `width`: for terminals and notebooks.

    Three columns: name, speed and clock; the bar over the history of attempts in flight; numbers
    that belong to these. All runs have the same columns, and keep their widths, so that nothing
    jumps.
    """
    left = max((_CLOCK_CELLS, *(len(_name(view)) for view in views)))
    left = min(left, _NAME_CELLS, max(_CLOCK_CELLS, width // 4))
    right = max((0, *(_numbers_width(view) for view in views)))
    cells = min(_MOST_CELLS, width - left - right - 5)
    if cells < _FEWEST_CELLS:
        cells = 0
    return [_block(view, width, left, cells, is_ascii) for view in views]


def _block(view: View, width: int, left: int, cells: int, is_ascii: bool) -> list[list[Part]]:
    room = width - left - 3
    share = _share(view)
    if len(share) > room and view.total is not None:
        share = f"{_percent(view)}%"
    bar: list[Part] = []
    history: list[Part] = []
    if cells:
        bar = [*_bar(view, cells, is_ascii), ("  ", "")]
        history = [(" " * cells if is_ascii else _sparkline(view, cells), "cyan"), ("  ", "")]
    compiling = [[(text, "bright_black")] for text in _compiling(view)]
    errors = [(text, "red") for text in view.errors]
    errors += [(f"{text}, retried", "yellow") for text in view.causes]
    rows: list[tuple[Part, list[Part]]] = [
        ((_name(view), "bold"), [*bar, (share, "")]),
        ((_speed(view.per_s), ""), [*history, (_flight(view), "")]),
        ((_clock(view.elapsed_s), ""), _fitting(_status(view), room)),
        *((("", ""), row) for row in compiling),
        *((("", ""), row) for row in _stalled(view)),
        *((("", ""), [error]) for error in errors[:MOST_ERRORS]),
    ]
    return [
        _cut([(_short(label, left).ljust(left + 2), style), *parts], width - 1)
        for (label, style), parts in rows
    ]


def summary(view: View, width: int | None = None) -> list[Part]:
    """A run that has ended, in one line, narrower than `width`."""
    tasks = f"{_tasks(view)} in {_duration(view.elapsed_s)}"
    parts = [(tasks if view.is_complete else f"stopped after {tasks}", "bold")]
    if view.failed:
        parts.append((f"{_count(view.failed)} failed", "bold red"))
    if view.retried:
        parts.append((f"{_count(view.retried)} retried", "yellow"))
    if view.done:
        parts.append((_speed(view.per_s), ""))
    if view.gb_s:
        parts.append((_cost(view), ""))
    if view.failed:
        parts.append((view.errors[0], "red"))
    if view.done:
        parts += [(text, "") for text in _compiling(view)]
    if width is None:
        return [(f"{_title(view)}: ", ""), *_joined(parts)]
    title = _fitting_title(view, parts, width)
    return [(title, ""), *_fitting(parts, width - 1 - len(title))]


def plain(view: View) -> str:
    """A run that goes on, in one line of a log."""
    parts = [_tasks(view)]
    if view.failed:
        parts.append(f"{_count(view.failed)} failed")
    if view.retried:
        parts.append(f"{_count(view.retried)} retried")
    if view.done:
        parts.append(_speed(view.per_s))
    if view.is_over:
        parts.append("stopping")
    elif view.left_s is not None:
        parts.append(_left(view.left_s))
    if view.gb_s:
        parts.append(f"{_cost(view)} so far")
    parts += _compiling(view)
    parts += [f"stalled, {finding}" for finding in view.findings[:1]]
    return f"fanout: {_title(view)}: {', '.join(parts)}"


def _status(view: View) -> list[Part]:
    """What is told of the tasks, the most important first: narrow lines lose their end."""
    parts: list[Part] = []
    if view.is_over:
        parts.append(("stopping", ""))
    elif view.left_s is not None:
        parts.append((_left(view.left_s), ""))
    if view.failed:
        parts.append((f"{_count(view.failed)} failed", "bold red"))
    if view.retried:
        parts.append((f"{_count(view.retried)} retried", "yellow"))
    parts.append((f"{_count(view.running)} running", ""))
    if view.gb_s:
        parts.append((f"{_cost(view)} so far", ""))
    if view.waiting:
        parts.append((f"{_count(view.waiting)} waiting", ""))
    return parts


def _cost(view: View) -> str:
    """What it has cost: dollars, or GB-seconds where no prices are known."""
    if view.usd is None:
        return f"{view.gb_s:,.4g} GB-s"
    decimals = 2 if view.usd >= 0.1 else min(8, 1 - math.floor(math.log10(view.usd or 1e-8)))
    return f"${view.usd:,.{decimals}f}"


def _compiling(view: View) -> list[str]:
    """What is told of numba: what it will do as long as nothing came back, then what it did."""
    if view.is_compiled_there:
        return ["numba compiles the kernel once in each environment"]
    if view.compile_s < _LEAST_COMPILE_S:
        return []
    took = _duration(view.compile_s)
    if view.compiled == 1:
        return [f"numba compiled in 1 environment, {took}"]
    return [f"numba compiled in {_count(view.compiled)} environments, {took} each"]


def _stalled(view: View) -> list[list[Part]]:
    """What the run waits for, the first cause of it, and what to do."""
    if not view.findings:
        return []
    first = view.findings[0]
    return [[(f"stalled: {first.what}", "yellow")], [(first.remedy, "yellow")]]


def _bar(view: View, cells: int, is_ascii: bool) -> list[Part]:
    """The bar: thick where tasks are done, thin elsewhere, so that it needs no colour."""
    thick, half, thin = "=--" if is_ascii else "━╾─"
    if view.total is None:  # a wave that wanders to and fro
        way = cells - _WAVE_CELLS
        at = abs((int(view.elapsed_s * _WAVE_PER_S) + way) % (2 * way) - way)
        return [
            (thin * at, "bright_black"),
            (thick * _WAVE_CELLS, "cyan"),
            (thin * (way - at), "bright_black"),
        ]
    halves = 2 * cells * view.done // view.total if view.total else 2 * cells
    full, rest = divmod(halves, 2)
    return [
        (thick * full + half * rest, "cyan"),
        (thin * (cells - full - rest), "bright_black"),
    ]


def _sparkline(view: View, cells: int) -> str:
    levels = list(view.levels)
    while len(levels) > cells:
        levels = means(levels, 2)
    top = len(_BLOCKS) - 1
    heights = [min(top, math.ceil(top * level / view.concurrency)) for level in levels]
    return "".join(_BLOCKS[height] for height in heights).ljust(cells)


def _share(view: View) -> str:
    if view.total is None:
        return f"{_count(view.done)} done"
    total = _count(view.total)
    return f"{_count(view.done):>{len(total)}} of {total}  {_percent(view):>3}%"


def _flight(view: View) -> str:
    return f"{_count(view.in_flight)} of {_count(view.concurrency)} in flight"


def _numbers_width(view: View) -> int:
    """The most that the numbers beside the bar will take."""
    flight = len(_flight(view)) - len(_count(view.in_flight)) + len(_count(view.concurrency))
    return max(flight, len(_share(view)))


def _percent(view: View) -> int:
    return 100 * view.done // view.total if view.total else 100


def _tasks(view: View) -> str:
    if view.total is None or view.done == view.total:
        return f"{_count(view.done)} task{'' if view.done == 1 else 's'}"
    return f"{_count(view.done)} of {_count(view.total)} tasks"


def _fitting_title(view: View, parts: Sequence[Part], width: int) -> str:
    """As much of the title as leaves room for what matters; for all, if that takes no more."""
    titles = (f"{_title(view)}: ", f"{_name(view)}: ")
    sizes = [len(text) + 2 for text, _ in parts]
    for needed in (sum(sizes) if view.compiled else width, sum(sizes[:2])):
        for title in titles:
            if len(title) + needed <= width:
                return title
    return ""


def _title(view: View) -> str:
    return f"{_name(view)} on {view.backend}"


def _name(view: View) -> str:
    """The kernel's name, without the function that it was defined in."""
    return view.kernel.replace("<locals>.", "\0").rpartition("\0")[2]


def _count(number: int) -> str:
    return f"{number:,}" if number >= 10_000 else str(number)


def _speed(per_s: float) -> str:
    """A speed in the unit in which it is a number people can imagine."""
    for unit, seconds in (("s", 1), ("min", 60), ("h", 3600)):
        speed = per_s * seconds
        if speed >= 9.95:
            return f"{_count(round(speed))}/{unit}"
        if speed >= 1:
            return f"{speed:.1f}/{unit}"
    return f"{per_s * 3600:.1g}/h" if per_s else "0/s"


def _clock(seconds: float) -> str:
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def _left(seconds: float) -> str:
    return f"about {_duration(_rounded(seconds))} left"


def _rounded(seconds: float) -> float:
    """Rounded up to what an estimate can know: it shall not fidget."""
    for limit_s, step_s in ((10, 1), (60, 5), (600, 30), (3600, 60), (math.inf, 600)):
        if seconds <= limit_s:
            return math.ceil(seconds / step_s) * step_s
    return seconds


def _duration(seconds: float) -> str:
    if seconds < 9.95:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    minutes, second = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {second} s".removeprefix("0 min ").removesuffix(" 0 s")
    hours, minute = divmod(minutes, 60)
    return f"{hours} h {minute} min".removesuffix(" 0 min")


def _joined(parts: Iterable[Part]) -> list[Part]:
    joined = [piece for part in parts for piece in (part, (", ", ""))]
    return joined[:-1]


def _fitting(parts: list[Part], width: int) -> list[Part]:
    """The parts in one line, without the last ones if it would be too long."""
    while len(parts) > 1 and sum(len(text) + 2 for text, _ in parts) - 2 > width:
        parts = parts[:-1]
    return _cut(_joined(parts), width)


def _cut(parts: Iterable[Part], width: int) -> list[Part]:
    kept: list[Part] = []
    for text, style in parts:
        kept.append((_short(text, width), style))
        width -= len(kept[-1][0])
    return kept


def _short(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    return f"{text[: max(0, width - 3)]}..."[: max(0, width)]
