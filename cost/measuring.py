"""A few tasks on each of several memory sizes: on functions of Lambda, or on the emulator.

Shell. On each size one task goes first and is not counted: it brings the code, and numba compiles.
Then each chunk runs in an invocation of its own, one after the other. Functions of Lambda are
measured at the same time; environments of the emulator share this machine, and so take turns.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from typing import TYPE_CHECKING, Any, Final

from fanout.backends.aws_lambda import Lambda
from fanout.cost.functions import MeasuredFunction, spending
from fanout.cost.money import total
from fanout.cost.pricing import rates_at
from fanout.cost.remote_probe import ONCE, function_of
from fanout.cost.run_usage import Size
from fanout.cost.tuning import Shown
from fanout.errors import OutOfMemoryError, TaskError, TaskTimeoutError, WorkerCrashedError
from fanout.executor import Executor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from decimal import Decimal

    from fanout.cost.functions import Spending
    from fanout.tasks import Outcome

# Lambda's longest (quotas, 2026-10): the emulator is not to end what Lambda would not.
_TIMEOUT_S: Final = 900.0
_MIB: Final = 2**20


async def on_functions(
    kernel: Callable[[Any], Any],
    chunks: Sequence[Any],
    backends: dict[str, Lambda],
    say: Callable[[str], None],
    agree: Callable[[list[MeasuredFunction], Spending], None],
) -> tuple[list[Shown], Decimal]:
    """Measure functions of Lambda, by name; and what that has cost, US dollars.

    Args:
        kernel: The kernel.
        chunks: What to run on each.
        backends: By name.
        say: Is told of each that is done.
        agree: Is told what it may cost before anything runs; raises if that is too much.

    Raises:
        BackendError: A function can't be used.
        Exception: What the kernel raised.
    """
    async with contextlib.AsyncExitStack() as stack:
        opened = {
            name: await stack.enter_async_context(Executor(backend))
            for name, backend in backends.items()
        }
        functions = [function_of(backend, name) for name, backend in backends.items()]
        billed = [one for one in functions if not one.is_here]
        if billed:
            rates = [rates_at(Size.of(backends[one.name].billed)) for one in billed]
            agree(billed, spending(billed, rates, len(chunks) + 1))
        work = [measured(ex, kernel, chunks, one, say) for ex, one in zip(
            opened.values(), functions, strict=True)]  # fmt: skip
        if len(billed) == len(functions):
            shown = list(await asyncio.gather(*work))
        else:
            shown = [await one for one in work]
        names = {one.name for one in billed}
        return shown, total(ex.bill.usd for name, ex in opened.items() if name in names)


async def on_emulators(
    kernel: Callable[[Any], Any],
    chunks: Sequence[Any],
    memories: Sequence[int],
    region: str,
    say: Callable[[str], None],
) -> list[Shown]:
    """Measure memory sizes on emulators here, one after the other.

    Raises:
        BackendError: The emulator is not installed.
        Exception: What the kernel raised.
    """
    shown = []
    for memory_mb in memories:
        async with _emulated(memory_mb, region) as (ex, backend):
            function = function_of(backend, "the emulator")
            shown.append(await measured(ex, kernel, chunks, function, say))
    return shown


@contextlib.asynccontextmanager
async def _emulated(memory_mb: int, region: str) -> AsyncIterator[tuple[Executor, Lambda]]:
    import aioboto3

    from fanout.emulator import Emulator

    with tempfile.TemporaryDirectory(prefix="fanout-store-", ignore_cleanup_errors=True) as folder:
        async with Emulator(
            memory_mb=memory_mb, timeout_s=_TIMEOUT_S, concurrency=1, region=region
        ) as emulator:
            keys = emulator.variables
            session = aioboto3.Session(
                aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
                aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
                region_name=region,
            )
            backend = Lambda(keys["FANOUT_FUNCTION"], endpoint_url=emulator.url, session=session)
            async with Executor(backend, store=folder) as ex:
                yield ex, backend


async def measured(
    ex: Executor,
    kernel: Callable[[Any], Any],
    chunks: Sequence[Any],
    function: MeasuredFunction,
    say: Callable[[str], None],
) -> Shown:
    """Measure one size.

    Raises:
        Exception: What the kernel raised.
    """
    billed_ms: list[int] = []
    init_ms = peak_mb = None
    for number, chunk in enumerate([chunks[0], *chunks]):
        run = await ex.run(kernel, [chunk], **ONCE)
        outcome = run.outcomes[0]
        if why_not := _why_not(outcome, number):
            say(f"{function.what}: {why_not}")
            return Shown(function=function, billed_ms=tuple(billed_ms), why_not=why_not)
        outcome.result()
        report = outcome.report
        assert report is not None
        assert report.billed is not None  # of whatever Lambda answers
        if number:
            billed_ms.append(report.billed.billed_ms - report.billed.init_ms)
        elif report.billed.init_ms:
            init_ms = report.billed.init_ms
        if report.peak_memory_bytes:
            peak_mb = max(peak_mb or 0, -(-report.peak_memory_bytes // _MIB))
    say(f"{function.what}: ran {len(chunks)} chunks")
    return Shown(
        function=function, billed_ms=tuple(billed_ms), init_ms=init_ms, peak_mb=peak_mb
    )  # fmt: skip


def _why_not(outcome: Outcome[Any], number: int) -> str:
    """Why tasks fail with this size, if that is not the kernel's own error."""
    which = f"chunk {max(1, number)} of those measured"
    match outcome.error:
        case OutOfMemoryError(how=how):
            return f"out of memory: {which} {how}"
        case MemoryError():
            return f"out of memory: {which} raised MemoryError"
        case TaskTimeoutError(timeout_s=timeout_s):
            return f"too slow: {which} was stopped after {timeout_s:g} s"
        case WorkerCrashedError(how=how):
            return f"failed: on {which} the worker {how}"
        case TaskError() as error:
            return f"failed: {error}"
    return ""
