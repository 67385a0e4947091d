"""How many invocations a second the emulator serves, with aioboto3 as the client and with ours.

    python tests/bench/emulator_rate.py [--json]

A handler that returns at once, 16 invocations in flight on as many warm environments, signatures
verified.
Client and emulator share this process and its core, the environments have the others: the figure
says what a test suite or a demonstration gets, not what either side could do alone. The clients
take turns; medians.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fanout.emulator import Emulator
from fanout.invoke import Invoker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ROOT: Final = Path(__file__).parents[2]
IN_FLIGHT: Final = 16


async def rate(invoke: Callable[[], Awaitable[None]], invocations: int) -> float:
    """Invocations a second."""
    turns = iter(range(invocations))

    async def lane() -> None:
        for _ in turns:
            await invoke()

    began_s = time.perf_counter()
    await asyncio.gather(*(lane() for _ in range(IN_FLIGHT)))
    return invocations / (time.perf_counter() - began_s)


async def measured(rounds: int, invocations: int) -> dict[str, float]:
    """Medians of both clients."""
    import aioboto3
    from aiobotocore.config import AioConfig

    async with Emulator(handler="tests.emulator_handlers.noop", path=[ROOT]) as emulator:
        os.environ.update(emulator.variables)
        config = AioConfig(
            max_pool_connections=IN_FLIGHT,
            parameter_validation=False,
            retries={"total_max_attempts": 1},
        )
        async with (
            aioboto3.Session().client("lambda", config=config) as client,
            Invoker(function="fanout-worker") as invoker,
        ):

            async def by_aioboto3() -> None:
                answer = await client.invoke(FunctionName="fanout-worker", Payload=b"{}")
                await answer["Payload"].read()
                assert "FunctionError" not in answer

            async def by_fanout() -> None:
                answer = await invoker.invoke([b"{}"])
                assert answer.status == 200, answer.body

            rates: dict[str, list[float]] = {"aioboto3": [], "fanout": []}
            for number in range(rounds + 1):
                for name, invoke in (("aioboto3", by_aioboto3), ("fanout", by_fanout)):
                    found = await rate(invoke, invocations)
                    if number:  # the first turn starts the environments
                        rates[name].append(found)
    return {name: statistics.median(found) for name, found in rates.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one short round: does it run?")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    rounds, invocations = (1, 200) if options.quick else (7, 3000)
    rates = asyncio.run(measured(rounds, invocations))
    report: dict[str, Any] = {
        "invocations_per_s_aioboto3": rates["aioboto3"],
        "invocations_per_s_fanout": rates["fanout"],
        "rate_vs_aioboto3": rates["fanout"] / rates["aioboto3"],
    }
    if options.json:
        print(json.dumps(report))
        return
    for name, value in report.items():
        print(f"{name:30} {value:10,.1f}")


if __name__ == "__main__":
    main()
