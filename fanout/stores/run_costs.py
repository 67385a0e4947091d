"""What the objects of one run cost in S3: requests, and how much lay there for how long.

Inferred, and marked so: what the client puts a worker reads once, what it reads a worker has put,
each with one request (large objects take more), and all lies there until the run ends. Deletions
are free; so is what happens in a folder.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fanout.cost.run_usage import Usage


class RunCosts:
    """Those of one run.

    Args:
        locator: Of the store.
        usage: To which they are added.
    """

    def __init__(self, locator: Mapping[str, Any], usage: Usage) -> None:
        self._region = locator.get("region") if locator.get("kind") == "s3" else None
        self._usage = usage
        self._began_s = time.monotonic()
        self._bytes = 0
        self._byte_s = 0.0  # before they came, so that it is to be taken off

    def put(self, nbytes: int) -> None:
        """The client has put an object, for a worker."""
        self._keep(nbytes)

    def got(self, nbytes: int) -> None:
        """The client has read an object that a worker has put."""
        self._keep(nbytes)
        if self._region is not None:
            self._usage.answer_bytes[self._region, False] += nbytes

    def end(self, lists: int) -> None:
        """All are deleted, for which the store was listed so many times."""
        if self._region is None:
            return
        byte_s = self._bytes * self._age_s() - self._byte_s
        self._add("byte_s", round(byte_s))
        self._add("list", lists)

    def _keep(self, nbytes: int) -> None:
        if self._region is None:
            return
        self._bytes += nbytes
        self._byte_s += nbytes * self._age_s()
        self._add("put", 1)
        self._add("get", 1)

    def _add(self, kind: str, count: int) -> None:
        assert self._region is not None
        self._usage.stored[self._region, kind, False] += count

    def _age_s(self) -> float:
        return time.monotonic() - self._began_s
