"""What keeps an eye on the attempts of one run: for a backend on which they are billed.

Pure. Each guard decides one thing, and knows none of the others; `Flight` tells them what happens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fanout.budget import Budget
from fanout.hard_stops import HardStops
from fanout.hedging import Hedging
from fanout.storm import StormGuard

if TYPE_CHECKING:
    from fanout.budget import Billed, Rates
    from fanout.capacity import Capacity
    from fanout.lateness import Starts


@dataclass(frozen=True, slots=True, kw_only=True)
class Guards:
    """The guards of a run; on this machine it has none.

    Attributes:
        capacity: What the service takes, of all runs together; whoever shares it tells the others
            when it is their turn (`Capacity.turn`).
        hedging: Says which attempts are silent, so that their tasks are sent a second time.
        storm: Says when failures are those of a service that is down, so that the run ends.
        stops: Says when workers end what runs too long.
        budget: What the run may cost.
        billed: What an attempt may cost.
    """

    capacity: Capacity | None = None
    hedging: Hedging | None = None
    storm: StormGuard | None = None
    stops: HardStops | None = None
    budget: Budget | None = None
    billed: Billed | None = None


def guards_of(
    billed: Billed,
    capacity: Capacity | None,
    *,
    hedges: bool = True,
    is_idempotent: bool = True,
    max_gb_s: float | None = None,
    spent_gb_s: float = 0.0,
    max_usd: float | None = None,
    rates: Rates | None = None,
    spent_requests: int = 0,
    timeout_s: float | None = None,
    starts: Starts | None = None,
) -> Guards:
    """The guards of a run whose attempts are billed.

    Args:
        billed: What an attempt may cost.
        capacity: What the service takes.
        hedges: Whether silent attempts get covers.
        is_idempotent: Whether a task may run twice; if not, none is sent a second time, or ended.
        max_gb_s: What the run may cost, GB-seconds; None: whatever it takes.
        spent_gb_s: What it has cost before, GB-seconds.
        max_usd: What the run may cost, US dollars; None: whatever it takes.
        rates: What dollars are counted by.
        spent_requests: Invocations that it has had before.
        timeout_s: What the caller allows a task, seconds.
        starts: What earlier runs have found of starts; this one adds to it.
    """
    is_bounded = max_gb_s is not None or max_usd is not None
    stops = HardStops(is_bounded=is_bounded, timeout_s=timeout_s)
    budget = None
    if is_bounded:
        budget = Budget(
            max_gb_s,
            billed.gb,
            spent_gb_s=spent_gb_s,
            max_usd=max_usd,
            rates=rates,
            spent_requests=spent_requests,
        )
    return Guards(
        capacity=capacity,
        hedging=Hedging(gb=billed.gb, starts=starts) if hedges and is_idempotent else None,
        storm=StormGuard(),
        stops=stops if is_idempotent else None,
        budget=budget,
        billed=billed,
    )
