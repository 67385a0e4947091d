"""How fast environments were, told from what their tasks took.

Pure. The pace of an environment is the median time of its tasks over that of all tasks. So few
tasks have a median that differs by chance alone: ratios are drawn towards 1 by as much of their
variance as chance explains (the method of moments for random effects, DerSimonian & Laird 1986, on
logarithms). An environment that took half as long again and more, beyond chance, counts as slow,
and keeps its ratio. A trend along the input is the input's, and is taken off first.

Its limits: environments that worked on different parts of an input that is unequal in other ways
look unequal themselves; and all of them could be slow together, which shows nowhere.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# An environment with fewer tasks tells nothing; and so do fewer environments.
_LEAST_TASKS: Final = 3
_LEAST_ENVIRONMENTS: Final = 4
# From here on an environment is slow, if it is so beyond three standard errors.
SLOW: Final = 1.5
_ERRORS: Final = 3.0
# More than chance is what is so many of its standard errors above it.
_CLEAR: Final = 2.0
# The variance of a median over that of a mean, of normal numbers: pi/2.
_OF_MEDIAN: Final = math.pi / 2
# A correlation of times with their place in the input from which on it is a trend.
_TREND: Final = 0.5
# It is followed from block to block of the input.
_BLOCKS: Final = 5
# Times below are as good as nothing; a logarithm needs something.
_LEAST_S: Final = 1e-7


@dataclass(frozen=True, slots=True, kw_only=True)
class Paces:
    """The paces of a run's environments.

    Attributes:
        of: By environment, for those that can be told.
        spread: Standard deviation of those that are not slow, of the logarithm, without chance.
        slow: Those that are.
    """

    of: Mapping[str, float]
    spread: float
    slow: Sequence[float]


def paces_of(seconds: Sequence[float], environments: Sequence[str | None]) -> Paces | None:
    """How fast environments were.

    Args:
        seconds: What each task took, in the order of the input.
        environments: Where each ran, as far as that is known.

    Returns:
        None if there are too few to tell.
    """
    logs = _without_trend([math.log(max(_LEAST_S, each)) for each in seconds])
    own: dict[str, list[float]] = defaultdict(list)
    for environment, value in zip(environments, logs, strict=True):
        if environment is not None:
            own[environment].append(value)
    own = {name: values for name, values in own.items() if len(values) >= _LEAST_TASKS}
    if len(own) < _LEAST_ENVIRONMENTS:
        return None
    medians = {name: statistics.median(values) for name, values in own.items()}
    middle = statistics.median(medians.values())
    within = _variance_within(own, medians)
    errors = {name: _OF_MEDIAN * within / len(values) for name, values in own.items()}
    ratios = {name: median - middle for name, median in medians.items()}
    least = math.log(SLOW)
    slow = {n for n, ratio in ratios.items() if ratio > max(least, _ERRORS * math.sqrt(errors[n]))}
    usual = [name for name in ratios if name not in slow]
    between = _variance_between([ratios[name] for name in usual], [errors[n] for n in usual])
    paces = {}
    for name, ratio in ratios.items():
        kept = 1.0 if name in slow else between / (between + errors[name]) if between else 0.0
        paces[name] = math.exp(kept * ratio)
    return Paces(of=paces, spread=math.sqrt(between), slow=[paces[name] for name in sorted(slow)])


def _variance_between(ratios: Sequence[float], errors: Sequence[float]) -> float:
    """What of the variance of environments isn't chance; 0 if chance could make all of it."""
    if not ratios:
        return 0.0
    chance = statistics.fmean(errors)
    excess = statistics.fmean(ratio**2 for ratio in ratios) - chance
    return excess if excess > _CLEAR * chance * math.sqrt(2 / len(ratios)) else 0.0


def _without_trend(logs: list[float]) -> list[float]:
    """The same without a trend along the input, if there is a clear one."""
    size = len(logs) // _BLOCKS
    if size < _LEAST_TASKS or max(logs) == min(logs):
        return logs
    if abs(statistics.correlation(range(len(logs)), logs)) < _TREND:
        return logs
    medians = [statistics.median(logs[at * size : (at + 1) * size]) for at in range(_BLOCKS)]
    found = []
    for place, value in enumerate(logs):
        # Straight lines from the middle of a block to that of the next.
        where = (place + 0.5) / size - 0.5
        first = min(max(int(where), 0), _BLOCKS - 2)
        rise = medians[first + 1] - medians[first]
        found.append(value - medians[first] - rise * (where - first))
    return found


def _variance_within(own: Mapping[str, Sequence[float]], medians: Mapping[str, float]) -> float:
    """The variance of tasks within environments, by the median deviation: a few may be far off."""
    deviations = [abs(value - medians[name]) for name, values in own.items() for value in values]
    return (1.4826 * statistics.median(deviations)) ** 2
