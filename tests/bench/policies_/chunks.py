"""A run of whole chunks, each one attempt, with a rule for second attempts: what others do.

Beside `fanout.simulator`, and on the same model of a fleet. No scheduler of ours is in it: a queue,
a client that sends one request after the other, and at intervals a look at what runs too long.
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from fanout.fleet import Ending, Fleet, FleetModel, Refusal

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from tests.bench.policies_.rules import Rule

# No run of any workload here takes so long.
_MOST_S: Final = 1e5


class ChunkRun:
    """One run; `makespan_s` and `billed_s` are its result.

    Attributes:
        walls_s: How long answered chunks took, as the client sees it, sorted, seconds.
        running: When the only attempt of a chunk was sent, in this order.
        chunks: How many there are.
        copies: How many second attempts were launched.
    """

    def __init__(self, seconds: Sequence[float], model: FleetModel, rng: Random, rule: Rule):
        self.chunks = len(seconds)
        self.walls_s: list[float] = []
        self.running: dict[int, float] = {}
        self.copies = 0
        self.makespan_s = 0.0
        self._seconds = seconds
        self._fleet = Fleet(model, rng)
        self._rule = rule
        self._queue = deque(range(len(seconds)))
        self._late: deque[int] = deque()
        self._live = [0] * len(seconds)
        self._is_done = bytearray(len(seconds))
        self._left = len(seconds)
        self._in_flight = 0
        self._now_s = self._free_s = self._refused_until_s = 0.0
        self._is_waking = False
        self._due: list[tuple[float, int, str, Any]] = []
        self._tie = 0
        self._run()

    @property
    def billed_s(self) -> float:
        """Of all attempts, to their ends, seconds."""
        return self._fleet.billed_s

    def _run(self) -> None:
        self._send()
        if self._rule.every_s:
            self._later(self._rule.every_s, "look", None)
        while self._left:
            assert self._now_s < _MOST_S, "a chunk runs into the function's timeout again and again"
            self._now_s, _, kind, what = heapq.heappop(self._due)
            if kind == "arrive":
                self._arrive(*what)
            elif kind == "end":
                self._end(*what)
            elif kind == "look":
                self._look()
            else:
                self._is_waking = False
            self._send()
        self.makespan_s = self._now_s

    def _later(self, at_s: float, kind: str, what: Any) -> None:
        self._tie += 1
        heapq.heappush(self._due, (at_s, self._tie, kind, what))

    def _send(self) -> None:
        """Send the next attempt, if the client is free and there is room."""
        model = self._fleet.model
        if self._in_flight >= model.concurrency or not (self._queue or self._late):
            return
        ready_s = max(self._free_s, self._refused_until_s)
        if ready_s > self._now_s:
            if not self._is_waking:
                self._is_waking = True
                self._later(ready_s, "wake", None)
            return
        is_copy = not self._queue
        chunk = (self._queue or self._late).popleft()
        if self._is_done[chunk]:
            self._send()
            return
        if not is_copy:
            self.running[chunk] = self._now_s
        self._live[chunk] += 1
        self._in_flight += 1
        self._free_s = self._now_s + 1 / model.launches_per_s
        self._later(self._free_s, "arrive", (chunk, self._now_s))
        self._send()

    def _arrive(self, chunk: int, sent_s: float) -> None:
        what = self._fleet.invoke(self._now_s, [self._seconds[chunk]])
        if isinstance(what, Refusal):
            self._refused_until_s = self._now_s + what.wait_s
            self._gone(chunk)
            if not self._is_done[chunk]:
                self._queue.appendleft(chunk)
        else:
            self._later(what.ends_s, "end", (chunk, sent_s, what))

    def _gone(self, chunk: int) -> None:
        self._in_flight -= 1
        self._live[chunk] -= 1
        self.running.pop(chunk, None)

    def _end(self, chunk: int, sent_s: float, what: Any) -> None:
        self._fleet.ended(what)
        self._gone(chunk)
        if self._is_done[chunk]:
            return
        if what.ending is Ending.ANSWERED:
            self._is_done[chunk] = 1
            self._left -= 1
            insort(self.walls_s, self._now_s - sent_s)
        elif not self._live[chunk]:
            self._queue.appendleft(chunk)

    def _look(self) -> None:
        self._later(self._now_s + self._rule.every_s, "look", None)
        threshold_s = self._rule.threshold_s(self)
        while threshold_s is not None and self.running:
            chunk, sent_s = next(iter(self.running.items()))
            if self._now_s - sent_s <= threshold_s or not self._rule.affords(self):
                return
            del self.running[chunk]
            self._late.append(chunk)
            self.copies += 1
