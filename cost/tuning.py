"""Which memory size a kernel should have: what each has shown, and which to take.

Pure. A size is shown by a few tasks in warm environments, each in an invocation of its own. What
they are billed for makes the price of a thousand; Init comes once for each environment, and is told
beside. Of the sizes that all tasks fit into, one is the cheapest, one the fastest (by the median),
and one is balanced: it has the least product of time and money, as in `fanout cost estimate`.

Where memory doesn't change the speed (the emulator), times are reckoned: the least that a chunk
took with any size, since what disturbs only makes it longer, over the share of a vCPU that Lambda
gives a size, one at most. That is right for kernels that compute on one thread, and too long for
those that wait.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from fanout.cost.machines import LEAST_MB, lambda_vcpus
from fanout.cost.money import plain, product, quotient, usd_text
from fanout.cost.wording import digits
from fanout.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fanout.cost.functions import MeasuredFunction

# Prices are told of so many tasks.
PER: Final = 1000
# A measured peak and a fifth: another chunk may need more.
_HEADROOM: Final = 1.2
_P95: Final = 0.95
# Money that differs by less is the same: times aren't measured better.
_SAME: Final = Decimal("1.01")
_MS_MB_PER_GB_S: Final = 1024 * 1000
# What must be known where times are not Lambda's own.
RECKONED: Final = (
    "- Measured on an emulator, which limits memory but does not scale processors by it, as Lambda "
    "does. `measured` is this machine's time; the other times, and so the money, are reckoned from "
    "the least that each chunk took, as if a core of this machine were a vCPU: that comes with "
    "1,769 MB, and a task on one thread has such a share of it. Init is this machine's. To measure "
    "Lambda, give --function."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a few tasks have shown of one size.

    Attributes:
        function: What they ran on.
        billed_ms: For how long each was billed, milliseconds, Init aside.
        init_ms: How long the first environment took to start; None if it was there already.
        peak_mb: The most that a worker had, MB; None if that is not known.
        why_not: Why tasks fail with this size; empty if none did.
    """

    function: MeasuredFunction
    billed_ms: tuple[int, ...]
    init_ms: int | None = None
    peak_mb: int | None = None
    why_not: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """One line of the table.

    Attributes:
        shown: What it is made of.
        here_ms: The median as it was measured, where times are reckoned; else None.
        median_ms: Of the billed times.
        p95_ms: Their 95th percentile (the nearest rank).
        gb_s: Billed for a thousand tasks, GB-seconds.
        usd: A thousand tasks, US dollars: time and requests.
    """

    shown: Shown
    here_ms: float | None = None
    median_ms: float = 0.0
    p95_ms: float = 0.0
    gb_s: Decimal = Decimal(0)
    usd: Decimal = Decimal(0)

    @property
    def memory_mb(self) -> int:
        """Of the function."""
        return self.shown.function.memory_mb

    @property
    def is_possible(self) -> bool:
        """Whether all tasks ran."""
        return not self.shown.why_not


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """All sizes, and which to take; None where no size will do.

    Attributes:
        sizes: The smallest first.
        cheapest: Of the sizes that tasks fit into; the fastest, if others cost 1 % more at most.
        fastest: Likewise.
        balanced: Likewise.
        fits_mb: The least that tasks need, with a fifth to spare, MB; None if nothing is known.
        smallest: The smallest measured size that has this much.
    """

    sizes: tuple[Size, ...]
    cheapest: Size | None
    fastest: Size | None
    balanced: Size | None
    fits_mb: int | None
    smallest: Size | None

    def marks(self, size: Size) -> list[str]:
        """What is to be said of a size; nothing if there is no choice."""
        if sum(one.is_possible for one in self.sizes) < 2:
            return []
        return [
            word
            for word, one in (
                ("cheapest", self.cheapest),
                ("fastest", self.fastest),
                ("balanced", self.balanced),
            )
            if one is size
        ]


def tuned(shown: Sequence[Shown], prices: Mapping[str, tuple[Decimal, Decimal]]) -> Tuning:
    """Make the table and choose.

    Args:
        shown: What was measured.
        prices: Of a GB-second and of a request, by architecture.
    """
    ordered = sorted(shown, key=lambda one: (one.function.memory_mb, one.function.arch))
    best = _best([one.billed_ms for one in ordered if not one.why_not and not one.function.is_aws])
    sizes = tuple(_size(one, best, *prices[one.function.arch]) for one in ordered)
    able = [size for size in sizes if size.is_possible]
    peaks = [size.shown.peak_mb for size in able if size.shown.peak_mb]
    fits_mb = max(LEAST_MB, math.ceil(max(peaks) * _HEADROOM)) if peaks else None
    return Tuning(
        sizes=sizes,
        cheapest=_cheapest(able),
        fastest=min(able, key=lambda one: (one.median_ms, one.usd), default=None),
        balanced=min(able, key=lambda one: one.median_ms * float(one.usd), default=None),
        fits_mb=fits_mb,
        smallest=next((one for one in able if fits_mb and one.memory_mb >= fits_mb), None),
    )


def _best(taken: Sequence[tuple[int, ...]]) -> list[int]:
    """The least that each chunk took."""
    return [min(times) for times in zip(*taken, strict=True)]


def _cheapest(able: Sequence[Size]) -> Size | None:
    """Of those that cost the least, or nearly so, the fastest."""
    least = min((one.usd for one in able), default=Decimal(0))
    good = [one for one in able if one.usd <= product(least, _SAME)]
    return min(good, key=lambda one: (one.median_ms, one.usd), default=None)


def _size(
    shown: Shown, best: Sequence[int], usd_per_gb_s: Decimal, usd_per_request: Decimal
) -> Size:
    if shown.why_not:
        return Size(shown=shown)
    if not shown.billed_ms:
        raise UsageError(f"{shown.function.memory_mb} MB was not measured: give at least one chunk")
    function, taken = shown.function, list(shown.billed_ms)
    here_ms = None
    if not function.is_aws:
        here_ms = statistics.median(taken)
        share = min(1.0, lambda_vcpus(function.memory_mb))
        taken = [math.ceil(one / share) for one in best]
    gb_s = quotient(sum(taken) * function.memory_mb * PER, _MS_MB_PER_GB_S * len(taken))
    gb_s = gb_s.quantize(Decimal("1e-9"))  # so that what follows is exact
    return Size(
        shown=shown,
        here_ms=here_ms,
        median_ms=statistics.median(taken),
        p95_ms=sorted(taken)[math.ceil(_P95 * len(taken)) - 1],
        gb_s=gb_s,
        usd=product(gb_s, usd_per_gb_s) + product(PER, usd_per_request),
    )


def table(tuning: Tuning) -> list[str]:
    """Lines for people."""
    is_reckoned = any(one.here_ms is not None for one in tuning.sizes)
    has_arch = len({one.shown.function.arch for one in tuning.sizes}) > 1
    here = f"{'measured':>10}" if is_reckoned else ""
    head = (
        f"{'memory':>9}{here}{'median':>10}{'p95':>10}{'Init':>9}{'peak':>10}{'GB-s':>9}{'USD':>10}"
    )
    return [head, *(_line(one, tuning, is_reckoned, has_arch) for one in tuning.sizes)]


def _line(one: Size, tuning: Tuning, is_reckoned: bool, has_arch: bool) -> str:
    arch = f"{one.shown.function.arch}  " if has_arch else ""
    memory = f"{one.memory_mb:,} MB"
    if not one.is_possible:
        return f"{memory:>9}  {arch}{one.shown.why_not}"
    measured = f"{_ms(one.here_ms):>10}" if is_reckoned else ""
    peak = "?" if one.shown.peak_mb is None else f"{one.shown.peak_mb:,} MB"
    marks = tuning.marks(one)
    if tuning.cheapest is tuning.fastest:
        marks = marks[:2]  # it is balanced, of course
    return (
        f"{memory:>9}{measured}{_ms(one.median_ms):>10}{_ms(one.p95_ms):>10}"
        f"{_ms(one.shown.init_ms):>9}{peak:>10}{_number(one.gb_s):>9}{usd_text(one.usd):>10}"
        f"  {arch}{', '.join(marks)}"
    ).rstrip()


def advice(tuning: Tuning) -> list[str]:
    """What to take, in sentences."""
    if tuning.balanced is None or tuning.cheapest is None or tuning.fastest is None:
        return ["No size will do: measure larger ones, or make chunks smaller."]
    if tuning.cheapest is tuning.fastest:
        said = [f"Cheapest and fastest: {_told(tuning.cheapest)}."]
    else:
        said = [
            f"Balanced (the least product of time and money): {_told(tuning.balanced)}.",
            f"Cheapest: {_told(tuning.cheapest)}. Fastest: {_told(tuning.fastest)}.",
        ]
    if sum(one.is_possible for one in tuning.sizes) == 1:
        said = [f"Only one size was measured that tasks fit into: {_told(tuning.cheapest)}."]
    if tuning.fits_mb is None:
        return [*said, "How much memory tasks need is not known: the workers' system doesn't tell."]
    need = f"With a fifth more than the largest worker had, tasks need {tuning.fits_mb:,} MB"
    if tuning.smallest is None:
        return [*said, f"{need}, which no measured size has: measure a larger one."]
    return [*said, f"{need}: {tuning.smallest.memory_mb:,} MB is the smallest measured size that "
            "has it."]  # fmt: skip


def as_json(tuning: Tuning) -> dict[str, Any]:
    """Values that JSON has; money as text, with all digits."""
    return {
        "sizes": [_json_of(one, tuning.marks(one)) for one in tuning.sizes],
        "fits_mb": tuning.fits_mb,
        "smallest_mb": None if tuning.smallest is None else tuning.smallest.memory_mb,
        "advice": advice(tuning),
    }


def _json_of(one: Size, marks: list[str]) -> dict[str, Any]:
    shown, function = one.shown, one.shown.function
    told: dict[str, Any] = {
        "memory_mb": one.memory_mb,
        "arch": function.arch,
        "function": function.name,
        "tasks": len(shown.billed_ms),
        "is_possible": one.is_possible,
        "why_not": shown.why_not,
        "init_ms": shown.init_ms,
        "peak_mb": shown.peak_mb,
    }
    if not one.is_possible:
        return told | {"marks": []}
    return told | {
        "measured_ms": list(shown.billed_ms),
        "is_reckoned": one.here_ms is not None,
        "median_ms": one.median_ms,
        "p95_ms": one.p95_ms,
        f"gb_s_of_{PER}": plain(one.gb_s),
        f"usd_of_{PER}": plain(one.usd),
        "marks": marks,
    }


def _told(one: Size) -> str:
    return f"{one.memory_mb:,} MB, {_ms(one.median_ms)} and {usd_text(one.usd)} for {PER:,} tasks"


def _ms(milliseconds: float | None) -> str:
    if milliseconds is None:
        return "-"
    if milliseconds < 10_000:
        return f"{milliseconds:,.0f} ms"
    return f"{milliseconds / 1000:,.0f} s"


def _number(value: Decimal) -> str:
    return digits(float(value)) if value < 10 else f"{value:,.0f}"
