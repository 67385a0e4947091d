"""A map on a Lambda of its own, as a process: which groups it begins with.

    python -m tests.knowledge_run '{"memory_mb": 512, "tasks": 200}'

Prints a JSON list: how many tasks each launch carried, in order.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from fanout import Executor
from fanout.events import Launch
from tests.lambda_fake import FakeLambda


class Point:
    """Of the script: a kernel that has one does not travel as the same bytes each time."""

    def __init__(self, x: int) -> None:
        self.x = x


def plain(x: int) -> int:
    return x


def other(x: int) -> int:
    return x + 1


def with_a_class(x: int) -> int:
    return Point(x).x


async def main(asked: dict[str, Any]) -> list[int]:
    sizes: list[int] = []

    def hear(event: Any) -> None:
        if isinstance(event, Launch):
            sizes.append(len(event.tasks))

    options: dict[str, Any] = asked.get("options", {})
    if asked.get("is_weighted"):
        options["weight"] = float
    service = FakeLambda()
    service.configuration["MemorySize"] = asked.get("memory_mb", 512)
    async with service.serving(), Executor(service.backend()) as ex:
        kernel = globals()[asked.get("kernel", "plain")]
        tasks = range(1, 1 + asked.get("tasks", 200))
        results = await ex.map(kernel, tasks, on_event=hear, **options)
        assert results == [kernel(task) for task in tasks]
    return sizes


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(json.loads(sys.argv[1])))))
