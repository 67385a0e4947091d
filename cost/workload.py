"""What there is to do: how many tasks, how long each takes, what it needs.

Pure: generators are arguments. Times are seconds of one task alone on one core of the machine that
they were measured on; `machines.py` says what other processors make of them.

A probe of a few tasks knows neither the mean nor the spread for certain. What it doesn't know is
drawn along with the times: the mean as the standard error of a sample says (wider for few, as
Student's t is), the spread from the chi-squared distribution. So an estimate from five tasks has
wider bands than one from fifty, and one from `--seconds` has none from this source.
"""

from __future__ import annotations

import enum
import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from fanout.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# More is no workload but a slip of the hand: 10**15 tasks of a millisecond are 32,000 core-years.
MOST_TASKS: Final = 10**15
# Of a task: a year. And the least that a clock tells.
_MOST_S: Final = 365 * 86_400.0
_LEAST_S: Final = 1e-6
# Times that differ by less than this (as a standard deviation over the mean) are the clock's noise.
_NO_SPREAD: Final = 0.02
_MOST_SPREAD: Final = 4.0
_MOST_DRAWN_SPREAD: Final = 2.0  # what few probes leave open has an end
_MOST_ERROR: Final = 1.0


class Basis(enum.StrEnum):
    """Where a figure is from."""

    GIVEN = "given"  # by the user
    MEASURED = "measured"  # here and now
    PUBLISHED = "published"  # somebody measured or announced it; the source says who
    ASSUMED = "assumed"  # by us: nobody we know of has measured it


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskTimes:
    """How long tasks take.

    Attributes:
        mean_s: Their mean, seconds.
        sigma: Of the logarithm of a time; 0: all take the same. The distribution is lognormal.
        probes: How many were measured to know this; 0: it was given, and is taken as certain.
        basis: Whether it was given or measured.
        source: In words.
    """

    mean_s: float
    sigma: float = 0.0
    probes: int = 0
    basis: Basis = Basis.GIVEN
    source: str = "--seconds"

    def __post_init__(self) -> None:
        if not _LEAST_S <= self.mean_s <= _MOST_S:
            msg = (
                f"a task of {self.mean_s!r} seconds can't be estimated: give seconds, from a "
                "millionth to a year"
            )
            raise UsageError(msg)
        if not 0 <= self.sigma <= _MOST_SPREAD:
            msg = (
                f"a spread of {self.sigma!r} can't be estimated: give the standard deviation of "
                f"the logarithm of times, from 0 (all the same) to {_MOST_SPREAD:g}"
            )
            raise UsageError(msg)

    @property
    def variation(self) -> float:
        """Standard deviation over mean."""
        return math.sqrt(math.expm1(self.sigma**2))

    @property
    def mean_error(self) -> float:
        """Standard error of the mean, over the mean; wider for few, as Student's t is."""
        if not self.probes:
            return 0.0
        free = self.probes - 1
        wider = math.sqrt(free / (free - 2)) if free > 2 else 2.0
        return min(_MOST_ERROR, self.variation * wider / math.sqrt(self.probes))

    def share_above(self, seconds: float) -> float:
        """The share of tasks that take longer than so many seconds."""
        if seconds <= 0:
            return 1.0
        if self.sigma == 0:
            return float(self.mean_s > seconds)
        at = (math.log(seconds / self.mean_s) + self.sigma**2 / 2) / self.sigma
        return math.erfc(at / math.sqrt(2)) / 2

    def drawn_sigmas(self, rng: np.random.Generator, draws: int) -> NDArray[np.float64]:
        """What the spread may be, shape (draws,)."""
        if self.probes < 2 or self.sigma == 0:
            return np.full(draws, self.sigma)
        free = self.probes - 1
        drawn = self.sigma * np.sqrt(free / rng.chisquare(free, draws))
        return np.minimum(drawn, max(self.sigma, _MOST_DRAWN_SPREAD))


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A run, and how often it is done.

    Attributes:
        tasks: How many.
        times: How long each takes.
        threads: How many threads a task keeps busy; its time shrinks in proportion to them.
        memory_mb: What a task needs, MB; None: little, or unknown.
        memory_basis: Where that is from.
        bytes_in: What a task is sent, bytes.
        bytes_out: What it returns, bytes.
        runs_per_month: How often this is run in a month of 730 hours.
    """

    tasks: int
    times: TaskTimes
    threads: int = 1
    memory_mb: int | None = None
    memory_basis: Basis = Basis.GIVEN
    bytes_in: int = 0
    bytes_out: int = 0
    runs_per_month: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.tasks <= MOST_TASKS:
            raise UsageError(f"{self.tasks!r} tasks can't be estimated: give 1 to 10^15")
        if self.threads < 1:
            raise UsageError(f"threads={self.threads!r} must be 1 or more")
        if self.memory_mb is not None and not 0 < self.memory_mb <= 2**25:
            raise UsageError(f"a task can't need {self.memory_mb!r} MB: give MB, above 0")
        if min(self.bytes_in, self.bytes_out) < 0:
            raise UsageError("bytes of a task must be 0 or more")
        if not 0 < self.runs_per_month <= MOST_TASKS:
            msg = f"{self.runs_per_month!r} runs a month can't be estimated: give more than 0"
            raise UsageError(msg)

    @property
    def core_s(self) -> float:
        """What all tasks keep cores busy for, where they were measured, seconds."""
        return self.tasks * self.times.mean_s * self.threads


def fitted(seconds: Sequence[float], where: str = "here, alone on a core") -> TaskTimes:
    """What a few measured tasks say of all of them: a lognormal distribution, or a constant.

    It has the mean and the standard deviation of the sample, and not those of its logarithms: these
    go by the shortest tasks, which matter least (bands of a picture differ by a factor of 10^4, and
    all of its time is in the longest).

    Args:
        seconds: One or more measured times.
        where: They were run.
    """
    if not seconds:
        raise UsageError("no task was measured: give at least one chunk")
    taken = [max(one, _LEAST_S) for one in seconds]
    mean_s = statistics.fmean(taken)
    spread = statistics.stdev(taken) if len(taken) > 1 else 0.0
    sigma = math.sqrt(math.log1p((spread / mean_s) ** 2)) if spread > _NO_SPREAD * mean_s else 0.0
    count = len(taken)
    return TaskTimes(
        mean_s=mean_s,
        sigma=sigma,
        probes=count,
        basis=Basis.MEASURED,
        source=f"{count} task{'s' if count > 1 else ''} run {where}",
    )


def probe_order(chunks: int, most: int) -> list[int]:
    """Which chunks to measure, in which order: the first, the last, then what lies in between.

    Each next one halves a gap, so that whenever one stops, what was measured is spread evenly over
    the input: chunks that get longer towards its end are seen as well.
    """
    if chunks <= most:
        most = chunks
    order, seen = [0], {0}
    if chunks > 1:
        order, seen = [0, chunks - 1], {0, chunks - 1}
    parts = 2
    while len(order) < most:
        for part in range(1, parts, 2):
            at = (chunks - 1) * part // parts
            if at not in seen and len(order) < most:
                seen.add(at)
                order.append(at)
        parts *= 2
        if parts > 4 * chunks:  # every gap is closed
            order += [at for at in range(chunks) if at not in seen][: most - len(order)]
    return order[:most]
