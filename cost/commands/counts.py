"""Numbers of tasks and of runs, as people write them."""

from __future__ import annotations

import math
import re
from typing import Final

from fanout.errors import UsageError

_RUNS: Final = re.compile(r"(\d+(?:\.\d+)?)(?:/(hour|day|week|month|year))?")
_HOURS_PER_MONTH: Final = 730.0
_PER_MONTH: Final = {
    "hour": _HOURS_PER_MONTH,
    "day": _HOURS_PER_MONTH / 24,
    "week": _HOURS_PER_MONTH / 168,
    "month": 1.0,
    "year": 1 / 12,
}


def tasks_of(text: str) -> int:
    """A number of tasks: digits, or a float that is whole, as 1e12."""
    try:
        value = float(text.replace(",", "").replace("_", ""))
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value == int(value)):
        raise UsageError(f"--tasks {text!r} must be a whole number, as 1000 or 1e12")
    return int(value)


def runs_of(text: str) -> float:
    """Runs in a month of 730 hours, of "30/month" or "2/day"."""
    found = _RUNS.fullmatch(text.strip())
    if found is None or float(found[1]) <= 0:
        units = ", ".join(_PER_MONTH)
        raise UsageError(f"--runs {text!r} must be a number above 0 and a unit, as 2/day: {units}")
    return float(found[1]) * _PER_MONTH[found[2] or "month"]
