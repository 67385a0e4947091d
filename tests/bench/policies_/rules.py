"""When others launch a second attempt. Each names its source."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.bench.policies_.chunks import ChunkRun


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """No second attempts at all.

    Attributes:
        every_s: How often it is looked for attempts that run too long, seconds; 0: never.
    """

    every_s: float = 0.0

    def threshold_s(self, run: ChunkRun) -> float | None:
        """Attempts that run longer than this get a second one; None: not now."""
        return None

    def affords(self, run: ChunkRun) -> bool:
        """Whether there is budget for one more."""
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Multiple(Rule):
    """Once a share of the chunks is done: longer than a multiple of their median.

    Spark: `spark.speculation.quantile` and `.multiplier`, looked every 100 ms (TaskSetManager).
    Cubed: at least 10 chunks, half of them done, three times that median, every 2 s (backup.py).
    """

    every_s: float = 0.1
    quantile: float
    multiple: float
    at_least: int = 1

    def threshold_s(self, run: ChunkRun) -> float | None:
        done = run.walls_s
        if run.chunks < self.at_least or len(done) < self.quantile * run.chunks or not done:
            return None
        return max(0.1, self.multiple * done[len(done) // 2])


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail(Rule):
    """Longer than the 95th percentile of all that were begun (Dean & Barroso 2013), for 5 %."""

    every_s: float = 0.1
    quantile: float = 0.95
    budget: float = 0.05

    def threshold_s(self, run: ChunkRun) -> float | None:
        rank = math.ceil(self.quantile * (len(run.walls_s) + len(run.running))) - 1
        return run.walls_s[rank] if 0 <= rank < len(run.walls_s) else None

    def affords(self, run: ChunkRun) -> bool:
        return run.copies < self.budget * run.chunks


RULES: Final[Mapping[str, Rule]] = {
    "none": Rule(),
    "spark3": Multiple(quantile=0.75, multiple=1.5),
    "spark4": Multiple(quantile=0.9, multiple=3.0),
    "cubed": Multiple(quantile=0.5, multiple=3.0, at_least=10, every_s=2.0),
    "tail_q95": Tail(),
}
