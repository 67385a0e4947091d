"""A few chunks of the input, run on a function of Lambda, and the two loops that are run here.

Shell. As `probe.py`, and on the user's account: so whoever calls is told what that may cost before
anything runs. What tasks take is then known of Lambda itself, and the loops say how much faster or
slower this machine is: measured, not assumed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fanout import sync
from fanout.backends.aws_lambda import Lambda
from fanout.cost import loops
from fanout.cost.functions import MeasuredFunction, spending
from fanout.cost.pricing import rates_at
from fanout.cost.probe import MOST_CHUNKS, QUIETLY, Probe, chunks_of, probe_of, runs_of
from fanout.cost.run_usage import Size
from fanout.retry import RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.cost.bill import Bill
    from fanout.cost.functions import Spending
    from fanout.options import MapOptions

# So that no invocation is paid for that was not announced.
ONCE: Final[MapOptions] = {
    **QUIETLY,
    "hedge": False,
    "retry": RetryPolicy(max_attempts=1, max_lost=1),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteProbe:
    """What a few chunks have shown on a function.

    Attributes:
        function: The function.
        probe: Of the chunks.
        hashes_s: What 500,000 chained hashes take on a whole vCPU, seconds.
        float_rate: Repetitions of the Mandelbrot loop in a second on a whole vCPU.
        bill: What it has cost.
    """

    function: MeasuredFunction
    probe: Probe
    hashes_s: float
    float_rate: float
    bill: Bill


def probed_there(
    kernel: Callable[[Any], Any],
    path: str,
    name: str,
    say: Callable[[str], None],
    agree: Callable[[MeasuredFunction, Spending], None],
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> RemoteProbe:
    """Run a few chunks of a file, and the loops, on a function.

    Args:
        kernel: The kernel.
        path: JSON Lines: one chunk a line.
        name: Of the function, or its ARN.
        say: Is told what is run.
        agree: Is told what it may cost before anything runs; raises if that is too much.
        clock: Seconds from some start.

    Raises:
        UsageError: The file can't be read, or has no chunk.
        BackendError: The function can't be used.
        Exception: What the kernel raised.
    """
    count, some = chunks_of(path, MOST_CHUNKS)
    backend = Lambda(name)
    with sync.Executor(backend) as ex:
        function = function_of(backend, name)
        rates = [] if function.is_here else [rates_at(Size.of(backend.billed))]
        if rates:
            agree(function, spending([function], rates, len(some) + 1, kernels=2))
        say(f"running up to {len(some)} of {count:,} chunks on {function.what}")
        runs = runs_of(ex, kernel, some, clock, **ONCE)
        share = min(1.0, function.cores())
        # After them: it loads numba, and tasks don't need that memory.
        timed = ex.run(loops.timed, ["processor" if share == 1 else "wall"], **ONCE)
        hashes_s, float_rate = timed.results[0]
        bill = ex.bill
    return RemoteProbe(
        function=function,
        probe=probe_of(runs, some, count, say, f"on {function.what}"),
        hashes_s=hashes_s * share,
        float_rate=float_rate / share,
        bill=bill,
    )


def function_of(backend: Lambda, name: str) -> MeasuredFunction:
    """What is known of the function of a backend that is open."""
    billed, site = backend.billed, backend.site
    assert site is not None
    return MeasuredFunction(
        name=name,
        kind=site.kind,
        region=billed.region,
        arch=billed.arch,
        memory_mb=round(billed.gb * 1024),
        worst_s=billed.worst_s(),
    )
