"""What a run has used, by what it is billed for and why: the entries that a bill is made of.

    AttemptCost    one attempt: what is known of its invocations, or the worst that they may cost
    Usage          the sum of many, by cause; sums of sums are the same as sums of all

Pure, and in whole milliseconds, bytes and requests, so that it comes out the same in whatever order
attempts are added. Which time is whose:

    useful         an attempt of which at least one outcome was kept, an error of the kernel too
    hedges         one that answered when others had done all it carried, as it was covered, or a
                   cover itself
    retries        any other that brought nothing: failed, ended by a deadline, or of no more use
    unfinished     one that had not answered at the end: its worst case, since nobody will know
    cold starts    Init of whatever attempt; only what is not Init counts as the above
"""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from fanout.budget import FREE_DISK_MB
from fanout.lambda_figures import LOG_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fanout.budget import Architecture, Billed
    from fanout.tasks import BilledTime

End: TypeAlias = Literal["in flight", "answered", "failed", "never ran"]


class Cause(enum.StrEnum):
    """Why something is paid for, in the order of bills."""

    USEFUL = "useful"
    RETRIES = "retries"
    HEDGES = "hedges"
    UNFINISHED = "unfinished"
    COLD_STARTS = "cold starts"
    REQUESTS = "requests"
    STORAGE = "storage"
    LOGS = "logs"
    TRANSFER = "transfer"


class Size(NamedTuple):
    """What the price of an environment's time depends on.

    Attributes:
        region: Where it is.
        arch: "x86_64" or "arm64".
        memory_mb: Its memory, MB.
        disk_mb: Its ephemeral storage, MB.
    """

    region: str
    arch: Architecture
    memory_mb: int
    disk_mb: int = FREE_DISK_MB

    @classmethod
    def of(cls, billed: Billed) -> Size:
        """Of the environments of a function."""
        return cls(billed.region, billed.arch, round(billed.gb * 1024), billed.disk_mb)


class AttemptCost(NamedTuple):
    """One attempt, as its cost is told.

    Attributes:
        attempt: Its number in the session.
        covers: The attempt that had its tasks before; None: none had.
        size: Of its environment, as far as is known beforehand.
        worst_ms: For how long it is billed at worst, milliseconds.
        end: How it ended, if it has.
        is_kept: Whether an outcome of it was kept.
        billed: What is known of its invocations; None if that is nothing.
    """

    attempt: int
    covers: int | None
    size: Size
    worst_ms: int
    end: End = "in flight"
    is_kept: bool = False
    billed: BilledTime | None = None


@dataclass(slots=True)
class Usage:
    """A sum of what was used; the last part of each key says whether it was measured.

    Attributes:
        time_ms: Billed time without starts, by cause and size.
        init_ms: Billed time of starts, by size.
        requests: Invocations, by region and architecture.
        answer_bytes: Of answers, by region.
        log_bytes: Written to logs, by region.
        stored: Requests to the store and what lay there for how long, by region and what it is:
            "put", "get", "list", or "byte_s".
    """

    time_ms: Counter[tuple[Cause, Size, bool]] = field(default_factory=Counter)
    init_ms: Counter[tuple[Size, bool]] = field(default_factory=Counter)
    requests: Counter[tuple[str, Architecture, bool]] = field(default_factory=Counter)
    answer_bytes: Counter[tuple[str, bool]] = field(default_factory=Counter)
    log_bytes: Counter[tuple[str, bool]] = field(default_factory=Counter)
    stored: Counter[tuple[str, str, bool]] = field(default_factory=Counter)

    def __add__(self, other: Usage) -> Usage:
        found = Usage()
        found.take(self)
        found.take(other)
        return found

    def take(self, other: Usage) -> None:
        """Add what another has."""
        self.time_ms.update(other.time_ms)
        self.init_ms.update(other.init_ms)
        self.requests.update(other.requests)
        self.answer_bytes.update(other.answer_bytes)
        self.log_bytes.update(other.log_bytes)
        self.stored.update(other.stored)

    def add(self, cost: AttemptCost, *, is_hedge: bool) -> None:
        """Add an attempt; `is_hedge`: it covers another, or is covered."""
        cause = _cause(cost, is_hedge=is_hedge)
        billed, size = cost.billed, cost.size
        if billed is None or billed.lost:
            if cost.end == "never ran":
                return
            lost = 1 if billed is None else billed.lost
            self.time_ms[cause, size, False] += lost * cost.worst_ms
            self.requests[size.region, size.arch, False] += lost
            self.log_bytes[size.region, False] += lost * LOG_BYTES
        if billed is None or not billed.invocations:
            return
        size, is_measured = size._replace(memory_mb=billed.memory_mb), billed.is_reported
        self.time_ms[cause, size, is_measured] += billed.billed_ms - billed.init_ms
        if billed.init_ms:
            self.init_ms[size, is_measured] += billed.init_ms
        self.requests[size.region, size.arch, True] += billed.invocations
        self.answer_bytes[size.region, True] += billed.answer_bytes
        self.log_bytes[size.region, billed.is_log_whole] += billed.log_bytes

    @property
    def regions(self) -> set[str]:
        """Where something was used."""
        found = {size.region for _, size, _ in self.time_ms}
        found |= {region for region, _, _ in (*self.requests, *self.stored)}
        return found | {region for region, _ in (*self.answer_bytes, *self.log_bytes)}


def usage_of_time(size: Size, billed_ms: int, requests: int, *, is_measured: bool) -> Usage:
    """So much time and so many requests, of which no more is known."""
    found = Usage()
    found.time_ms[Cause.USEFUL, size, is_measured] = billed_ms
    found.requests[size.region, size.arch, is_measured] = requests
    return found


def usage_of(costs: Iterable[AttemptCost]) -> Usage:
    """What the attempts of one session used."""
    found = Usage()
    costs = list(costs)
    covered = {cost.covers for cost in costs}
    for cost in costs:
        found.add(cost, is_hedge=cost.covers is not None or cost.attempt in covered)
    return found


def _cause(cost: AttemptCost, *, is_hedge: bool) -> Cause:
    if cost.is_kept:
        return Cause.USEFUL
    if cost.end == "in flight":
        return Cause.UNFINISHED
    return Cause.HEDGES if is_hedge and cost.end == "answered" else Cause.RETRIES
