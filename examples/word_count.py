"""Count the words of a file: the workers read it themselves, a block each.

`fanout.blocks("s3://bucket/key")` does the same with an object in S3.

python examples/word_count.py [lines]
"""

import asyncio
import collections
import random
import sys
import tempfile
from pathlib import Path

import fanout

WORDS = ["the", "of", "and", "to", "in", "that", "was", "his", "he", "it", "with", "is", "for"]


def count(block: fanout.Block) -> collections.Counter[bytes]:
    """Count the words of the lines that begin in a block; no line is cut, or counted twice."""
    return collections.Counter(word for line in block.lines() for word in line.split())


def write(path: Path, lines: int) -> None:
    """Write a text in which a word is the likelier the earlier it stands in WORDS."""
    rng = random.Random(7)
    weights = [1 / rank for rank in range(1, len(WORDS) + 1)]
    with path.open("w", encoding="ascii") as file:
        for _ in range(lines):
            file.write(" ".join(rng.choices(WORDS, weights, k=10)) + "\n")


async def main(lines: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "text.txt")
        write(path, lines)
        counts = await fanout.map(count, fanout.blocks(path, block_bytes=100_000))
    total = sum(counts, collections.Counter())
    for word, times in total.most_common(10):
        print(f"{times:8,} {word.decode()}")
    print(f"{total.total():8,} words in {len(counts)} blocks")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 50_000))
