"""What this machine does: two loops, run here for less than half a second.

Shell. The first is the one whose times on Lambda are published: chained SHA-256 in Python, on one
core (see `machines.py`). It bridges from here to AWS, roughly, unless both were run there as well.
The second is the inner loop of `fanout.kernels.mandelbrot`, scalar float64 compiled by numba: on
one core, and then on all at once.
What a core loses while the others are busy (a shared clock, threads of one core) is what a map on
this machine gets to feel. Time is that of the processor: as if nothing else ran here.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING, Final

from fanout.backends.local import Local
from fanout.cost.loops import ROUNDS, float_rate, hashes_s
from fanout.cost.machines import Calibration, here_from

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.cost.machines import FarLoops

_MIB: Final = 2**20


def measured(
    clock: Callable[[], float] = time.thread_time, far: FarLoops | None = None
) -> Calibration:
    """Run both loops here; what the machine has besides.

    Args:
        clock: Seconds of processor time of the calling thread.
        far: The same loops in a function of Lambda, to compare with; None: what is known of it.
    """
    cores = Local().concurrency
    alone, busy = _float_rates(cores, clock)
    return Calibration(
        cores=cores,
        speed=here_from(hashes_s(clock), alone, far),
        all_busy=min(1.0, busy / alone),
        memory_mb=memory_mb(),
        float_rate=alone,
    )


def _float_rates(cores: int, clock: Callable[[], float]) -> tuple[float, float]:
    """Repetitions of z*z + c a second on one core: alone, and while all are busy."""
    rate = float_rate(clock)
    alone = max(rate() for _ in range(ROUNDS))
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
