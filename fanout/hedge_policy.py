"""When to cover silent attempts, and what covers may cost: the figures, with their reasons."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fanout.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class HedgePolicy:
    """When to cover, and what covers may cost.

    Attributes:
        quantile: An opaque attempt is late beyond this quantile of what others took ...
        factor: ... and beyond this many medians. 1.3: 3 % of environments are 2 to 3 times slow,
            others vary by 15 %.
        hang_factor: An opaque attempt is hung at this many medians.
        hang_slices: A sliced attempt is hung this many soft deadlines after it is late.
        share: What covers may cost of what the run is estimated to cost. 0.1: what silent attempts
            need is less than 0.04, what unequal tasks would waste is 0.35.
        hang_share: What covers of hung attempts may cost beyond that, or while tasks wait.
        min_covers: So many covers are in the budget whatever they cost: a tenth of a small run is
            not one attempt.
        split: Pieces to cut a cover into, at most; each goes to a warm environment.
    """

    quantile: float = 0.95
    factor: float = 1.3
    hang_factor: float = 4.0
    hang_slices: float = 3.0
    share: float = 0.10
    hang_share: float = 0.04
    min_covers: int = 2
    split: int = 8

    def __post_init__(self) -> None:
        bounds = {
            "quantile": (0.5, 0.999),
            "factor": (1.0, math.inf),
            "hang_factor": (1.0, math.inf),
            "hang_slices": (0.0, math.inf),
            "share": (0.0, 1.0),
            "hang_share": (0.0, 1.0),
        }
        for name, (least, most) in bounds.items():
            value = getattr(self, name)
            if type(value) not in {int, float} or not least <= value <= most:
                msg = f"HedgePolicy({name}={value!r}) must be a number from {least:g} to {most:g}"
                raise UsageError(msg)
        for name, fewest in (("min_covers", 0), ("split", 1)):
            value = getattr(self, name)
            if type(value) is not int or value < fewest:
                msg = f"HedgePolicy({name}={value!r}) must be a whole number, {fewest} or more"
                raise UsageError(msg)
