"""Estimate pi by throwing darts: the smallest useful map.

python examples/pi.py [tasks]
"""

import asyncio
import sys

import numpy as np

import fanout

DARTS = 1_000_000


def hits(seed: int) -> int:
    """Count the darts, of a million, that land within the unit circle; the seed decides all."""
    x, y = np.random.default_rng(seed).random((2, DARTS))
    return int(np.count_nonzero(x * x + y * y < 1))


async def main(tasks: int) -> None:
    counts = await fanout.map(hits, range(tasks))
    total = tasks * DARTS
    pi = 4 * sum(counts) / total
    error = 4 * np.sqrt(np.pi / 4 * (1 - np.pi / 4) / total)
    print(f"pi = {pi:.5f} +- {error:.5f} from {total:,} darts")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200))
