"""Durations, rates and shares for people.

Pure. Two or three digits: an estimate has no more.
"""

from __future__ import annotations

from typing import Final

HOURS_PER_MONTH: Final = 730.0
DAYS_PER_MONTH: Final = HOURS_PER_MONTH / 24

_FEW: Final = 10  # of a unit, which are told with their parts
_MINUTE, _HOUR, _DAY, _YEAR = 60.0, 3600.0, 86_400.0, 365.25 * 86_400.0


def duration(seconds: float) -> str:
    """As in "0.42 s", "34 s", "1 min 40 s", "3 h 20 min", "4.2 days", "380 years"."""
    if seconds < _MINUTE * 2:
        return f"{digits(seconds)} s"
    for below, unit_s, name, part_s, part in (
        (_HOUR, _MINUTE, "min", 1.0, "s"),
        (_DAY * 2, _HOUR, "h", _MINUTE, "min"),
    ):
        if seconds < below - part_s / 2:
            if seconds >= _FEW * unit_s:
                return f"{round(seconds / unit_s)} {name}"
            whole, rest = divmod(round(seconds / part_s), round(unit_s / part_s))
            return f"{whole} {name}" + (f" {rest} {part}" if rest else "")
    if seconds < _YEAR * 2:
        return f"{digits(seconds / _DAY)} days"
    return f"{digits(seconds / _YEAR)} years"


def digits(value: float) -> str:
    """Two digits, or all before the point."""
    if value >= 9.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"


_RATES: Final = (
    ("a month", 1.0),
    ("a day", DAYS_PER_MONTH),
    ("an hour", HOURS_PER_MONTH),
    ("a minute", HOURS_PER_MONTH * 60),
)
_MOST_OF_A_RATE: Final = 60


def rate(runs_per_month: float) -> str:
    """How often, as in "14 runs a day", "3 runs a month", "1 run a minute"."""
    word, per_month = _unit_of(runs_per_month)
    text = digits(runs_per_month / per_month)
    text = "1" if text == "1.0" else text
    return f"{text} run{'' if text == '1' else 's'} {word}"


def rate_band(low: float, middle: float, high: float) -> str:
    """From where to where, as in "11 to 18", in the unit of what is in the middle."""
    _, per_month = _unit_of(middle)
    return f"{digits(low / per_month)} to {digits(high / per_month)}"


def _unit_of(runs_per_month: float) -> tuple[str, float]:
    for word, per_month in _RATES:
        if runs_per_month / per_month < _MOST_OF_A_RATE:
            return word, per_month
    return _RATES[-1]


def percent(share: float) -> str:
    """As in "46 %"."""
    return f"{share * 100:.0f} %" if share >= 0.01 else f"{share * 100:.1g} %"


def some(count: int, what: str) -> str:
    """As in "1 task", "12 tasks"."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"
