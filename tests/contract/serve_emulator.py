"""fanout's emulator as a process: serves two functions until it is ended.

    python -m tests.contract.serve_emulator READY CONCURRENCY TIMEOUT_S FUNCTION=HANDLER...

One emulator has one function, so there is one for each. Once they listen, READY is written: their
variables by function, JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from pathlib import Path

from fanout.emulator import Emulator
from tests.contract.stands import REQUESTS_PER_S, ROOT


async def serve(ready: Path, concurrency: int, timeout_s: float, functions: list[str]) -> None:
    """Serve until cancelled."""
    async with contextlib.AsyncExitStack() as running:
        variables = {}
        for function in functions:
            name, _, handler = function.partition("=")
            emulator = await running.enter_async_context(
                Emulator(
                    name,
                    handler,
                    concurrency=concurrency,
                    requests_per_s=2 * REQUESTS_PER_S,
                    timeout_s=timeout_s,
                    path=[ROOT],
                )
            )
            variables[name] = emulator.variables
        partial = ready.with_suffix(".partial")
        partial.write_text(json.dumps(variables))
        partial.rename(ready)
        await asyncio.Event().wait()


if __name__ == "__main__":
    _, ready, concurrency, timeout_s, *functions = sys.argv
    asyncio.run(serve(Path(ready), int(concurrency), float(timeout_s), functions))
