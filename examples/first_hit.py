"""Search an endless input until the first hit, then stop: streams pull only what is needed.

Finds a number whose sha256, written in hexadecimal, begins with some zeros.

python examples/first_hit.py [zeros]
"""

import asyncio
import hashlib
import itertools
import sys

import fanout

BLOCK = 10_000


def search(block: int, zeros: int) -> int | None:
    """The first number of a block of 10,000 that hits; None if there is none."""
    for number in range(block * BLOCK, (block + 1) * BLOCK):
        if hashlib.sha256(str(number).encode()).hexdigest().startswith("0" * zeros):
            return number
    return None


async def main(zeros: int) -> None:
    def searched(block: int) -> int | None:
        return search(block, zeros)

    # Ordered, so that the hit is the smallest one however the workers race.
    async with fanout.stream(searched, itertools.count(), ordered=True) as outcomes:
        async for outcome in outcomes:
            if (hit := outcome.result()) is not None:
                print(f"sha256({hit}) = {hashlib.sha256(str(hit).encode()).hexdigest()}")
                print(f"{outcome.index + 1} blocks of {BLOCK:,} numbers searched")
                return


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
