"""A function that something is to be measured on: what it has, and what measuring may cost.

Pure. On AWS processors come in proportion to memory. A stand-in such as fanout's emulator limits
memory at most: what it measures is the speed of its own machine, whatever the memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from fanout.budget import REQUESTS
from fanout.cost.machines import lambda_vcpus
from fanout.cost.money import usd_text
from fanout.cost.wording import duration, some

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanout.budget import Architecture, Rates

# How a backend calls what is AWS's own, and what is on this machine, where nothing is billed.
_AWS: Final = "lambda"
_HERE: Final = ("lambda at 127.0.0.1", "lambda at localhost", "lambda at ::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredFunction:
    """A function, as its configuration says.

    Attributes:
        name: Its name or ARN.
        kind: "lambda", or "lambda at HOST" where that is not AWS's.
        region: Where it is.
        arch: Its architecture.
        memory_mb: Of each environment, MB.
        worst_s: For how long an invocation is billed at worst, seconds.
    """

    name: str
    kind: str
    region: str
    arch: Architecture
    memory_mb: int
    worst_s: float

    @property
    def is_aws(self) -> bool:
        """Whether it is AWS's own; else memory does not change its speed, as far as we know."""
        return self.kind == _AWS

    @property
    def is_here(self) -> bool:
        """Whether it is on this machine, as fanout's emulator is: nobody bills it."""
        return self.kind in _HERE

    @property
    def what(self) -> str:
        """In words."""
        at = "" if self.is_aws else self.kind.removeprefix(_AWS)
        return f"{self.name}{at}, {self.memory_mb:,} MB, {self.arch}"

    def cores(self, threads: int = 1) -> float:
        """Of how many cores a task with so many threads has the time."""
        return min(float(threads), lambda_vcpus(self.memory_mb)) if self.is_aws else float(threads)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """What measuring on functions may cost, in US dollars.

    Attributes:
        invocations: How many.
        worst_s: How long the longest may take, seconds.
        worst_usd: If all take that long.
        usd_of_a_second: If tasks take a second each, starts aside.
    """

    invocations: int
    worst_s: float
    worst_usd: float
    usd_of_a_second: float

    def text(self) -> str:
        """In words."""
        second, worst = (
            usd_text(Decimal(f"{usd:.12f}")) for usd in (self.usd_of_a_second, self.worst_usd)
        )
        return (
            f"up to {some(self.invocations, 'invocation')}: {second} if a task takes 1 s, and at "
            f"most {worst}, if each takes {duration(self.worst_s)}, as long as it may"
        )


def spending(
    functions: Sequence[MeasuredFunction], rates: Sequence[Rates], tasks: int, kernels: int = 1
) -> Spending:
    """What it may cost to run so many tasks on each function, each in an invocation of its own.

    Args:
        functions: The functions.
        rates: What time and requests cost on each.
        tasks: How many, on each.
        kernels: How many kernels they are of: a worker may ask for the code of each.
    """
    asking = kernels * (REQUESTS - 1)  # these take milliseconds
    invocations = len(functions) * (tasks + asking)
    of_a_second = worst = 0.0
    for one, rate in zip(functions, rates, strict=True):
        usd_per_s = one.memory_mb / 1024 * float(rate.usd_per_gb_s)
        requests = (tasks + asking) * float(rate.usd_per_request)
        of_a_second += tasks * usd_per_s + requests
        worst += (tasks + asking) * one.worst_s * usd_per_s + requests
    return Spending(
        invocations=invocations,
        worst_s=max(one.worst_s for one in functions),
        worst_usd=worst,
        usd_of_a_second=of_a_second,
    )
