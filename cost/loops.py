"""Two loops that tell how fast a processor is; they run here, and in a function of Lambda.

A worker imports this: the standard library, numba and a kernel only. What they are, and which
figures are published of them: see `machines.py` and `calibration.py`.
"""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

# What a published time is of.
HASHES: Final = 500_000
# The best of so many rounds: what disturbs a round only ever makes it longer.
ROUNDS: Final = 3
_FEWER: Final = 40_000
_ROUND_S: Final = 0.06


def timed(by: str) -> tuple[float, float]:
    """Both, one after the other, as a kernel, on one thread.

    Args:
        by: Which clock. "processor": that of processor time, as if nothing else ran there. Where a
            function has a share of a vCPU, it is stopped for the rest of the time, and nobody tells
            whether its own clock of processor time knows of that: then by the "wall" clock.

    Returns:
        Seconds of 500,000 chained hashes; repetitions of the Mandelbrot loop in a second.
    """
    clock: Callable[[], float] = time.thread_time if by == "processor" else time.perf_counter
    rate = float_rate(clock)
    return hashes_s(clock), max(rate() for _ in range(ROUNDS))


def hashes_s(clock: Callable[[], float]) -> float:
    """Seconds of 500,000 chained hashes, from fewer."""
    sha256 = hashlib.sha256
    best = float("inf")
    for _ in range(ROUNDS):
        data = b"benchmark data for Lambda ARM vs x86 performance testing"
        began = clock()
        for _ in range(_FEWER):
            data = sha256(data).digest()
        best = min(best, clock() - began)
    return best * HASHES / _FEWER


def float_rate(clock: Callable[[], float]) -> Callable[[], float]:
    """What measures repetitions of z*z + c in a second, in one round; compiled already."""
    from fanout.kernels import mandelbrot

    # In the middle of the set no point escapes: each takes all repetitions.
    view = mandelbrot.View(centre_re=0.0, width=0.1, columns=64, rows=64, max_iter=1000)
    row = mandelbrot.Band(view=view, row_start=0, row_stop=1)
    work = view.columns * view.max_iter

    def rate() -> float:
        began, rounds = clock(), 0
        while (took := clock() - began) < _ROUND_S or not rounds:
            mandelbrot.rows(row)
            rounds += 1
        return rounds * work / took

    mandelbrot.rows(row)  # compiles, or loads what was compiled
    return rate
