"""What this machine does: two loops, run here for less than half a second.

Shell. The first is the one whose times on Lambda are published: chained SHA-256 in Python, on one
core (see `machines.py`). It bridges from here to AWS, roughly. The second is the inner loop of
`fanout.kernels.mandelbrot`, scalar float64 compiled by numba: on one core, and then on all at once.
What a core loses while the others are busy (a shared clock, threads of one core) is what a map on
this machine gets to feel. Time is that of the processor: as if nothing else ran here.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from typing import TYPE_CHECKING, Final

from fanout.backends.local import Local
from fanout.cost.machines import HASHES, Calibration, here_from

if TYPE_CHECKING:
    from collections.abc import Callable

# The best of so many rounds: what disturbs a round only ever makes it longer.
_ROUNDS: Final = 3
_HASHES: Final = 40_000
_ROUND_S: Final = 0.06
_MIB: Final = 2**20


def measured(clock: Callable[[], float] = time.thread_time) -> Calibration:
    """Run both loops here; what the machine has besides.

    Args:
        clock: Seconds of processor time of the calling thread.
    """
    cores = Local().concurrency
    alone, busy = _float_rates(cores, clock)
    return Calibration(
        cores=cores,
        speed=here_from(_hashes_s(clock), alone),
        all_busy=min(1.0, busy / alone),
        memory_mb=memory_mb(),
        float_rate=alone,
    )


def _hashes_s(clock: Callable[[], float]) -> float:
    """Seconds for 500,000 chained hashes, from fewer."""
    sha256 = hashlib.sha256
    best = float("inf")
    for _ in range(_ROUNDS):
        data = b"benchmark data for Lambda ARM vs x86 performance testing"
        began = clock()
        for _ in range(_HASHES):
            data = sha256(data).digest()
        best = min(best, clock() - began)
    return best * HASHES / _HASHES


def _float_rates(cores: int, clock: Callable[[], float]) -> tuple[float, float]:
    """Repetitions of z*z + c a second on one core: alone, and while all are busy."""
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
    alone = max(rate() for _ in range(_ROUNDS))
    if cores == 1:
        return alone, alone
    rates: list[float] = []
    threads = [threading.Thread(target=lambda: rates.append(rate())) for _ in range(cores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return alone, sum(rates) / cores


def memory_mb() -> int | None:
    """Memory of this machine, MB; None where the system does not tell."""
    with contextlib.suppress(ValueError, OSError, AttributeError):  # not on every system
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // _MIB
    return None
