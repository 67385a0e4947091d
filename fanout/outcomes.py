"""What callers get back: a `Run` that has ended, or an `OutcomeStream` of one that goes on."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from fanout.accounts import bill_for
from fanout.cost.run_usage import Usage
from fanout.diagnosis import Diagnosis
from fanout.events import Deliver, Launch, Retry, RunStarted
from fanout.hedging import HedgeCounts
from fanout.tasks import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fanout.cost.bill import Bill
    from fanout.cost.ledger import Ledger
    from fanout.diagnosis import Finding
    from fanout.engine import Engine
    from fanout.events import RunEvent

R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(Generic[R]):
    """A map that has ended.

    Attributes:
        id: Identifies it.
        kernel: Name of the kernel.
        backend: Name of the backend.
        outcomes: One for each chunk, in the order of the input.
        attempts: How many attempts were launched.
        retries: How many times a task was sent again.
        makespan_s: From the first launch to the last outcome, seconds.
        diagnosis: Why nothing finished whenever that took longer than its own times explain, or why
            it had to end; empty for a run that went well.
        hedges: How many attempts were covers for silent ones, how many of them came first, and
            what those cost that came too late, GB-seconds; those still in flight at the end aside.
        usage: What it has used that is billed, in all of its sessions.
    """

    id: str
    kernel: str
    backend: str
    outcomes: list[Outcome[R]] = field(repr=False)
    attempts: int
    retries: int
    makespan_s: float
    diagnosis: list[Finding] = field(default_factory=list)
    hedges: HedgeCounts = field(default_factory=HedgeCounts)
    usage: Usage = field(default_factory=Usage, repr=False)

    @property
    def bill(self) -> Bill:
        """What it has cost, by the prices of its region; without items where nothing is billed.

        Attempts that had not answered when it ended count at their worst.
        """
        return bill_for(self.usage)

    @property
    def kernel_s(self) -> float:
        """Time inside the kernel, summed over all tasks, seconds."""
        return math.fsum(outcome.kernel_s for outcome in self.outcomes)

    @property
    def failures(self) -> list[Outcome[R]]:
        """The outcomes that are errors."""
        return [outcome for outcome in self.outcomes if outcome.error is not None]

    @property
    def results(self) -> list[R]:
        """What the kernel returned for each chunk, in the order of the input.

        Raises:
            Exception: The first task's error, if any failed.
        """
        return [outcome.result() for outcome in self.outcomes]


class Meter:
    """An observer that keeps what a `Run` tells beside its outcomes."""

    def __init__(self) -> None:
        self._started: RunStarted | None = None
        self._diagnosis = Diagnosis()
        self._attempts = 0
        self._retries = 0
        self._first_s: float | None = None
        self._last_s = 0.0

    def __call__(self, event: RunEvent) -> None:
        """Take note of an event."""
        self._diagnosis.take(event, asyncio.get_running_loop().time())
        match event:
            case Launch():
                self._attempts += 1
                if self._first_s is None:
                    self._first_s = self._last_s = time.perf_counter()
            case Deliver():
                self._last_s = time.perf_counter()
            case Retry(tasks=tasks):
                self._retries += len(tasks)
            case RunStarted():
                self._started = event

    def run(self, outcomes: Mapping[int, Outcome[R]], hedges: HedgeCounts, usage: Usage) -> Run[R]:
        """The run so far, with these outcomes, by index, covers and usage."""
        assert self._started is not None
        return Run(
            id=self._started.run,
            kernel=self._started.kernel,
            backend=self._started.backend,
            outcomes=[outcomes[index] for index in sorted(outcomes)],
            attempts=self._attempts,
            retries=self._retries,
            makespan_s=0.0 if self._first_s is None else self._last_s - self._first_s,
            diagnosis=self._diagnosis.story(asyncio.get_running_loop().time()),
            hedges=hedges,
            usage=usage,
        )


class Arrivals(Generic[R]):
    """Outcomes that wait for somebody to take them."""

    def __init__(self) -> None:
        self.ready: deque[Outcome[R]] = deque()
        self.came = asyncio.Event()

    def put(self, outcomes: Sequence[Outcome[R]]) -> None:
        """Add some; none at the end of the run, which wakes up who waits."""
        self.ready.extend(outcomes)
        self.came.set()


class OutcomeStream(AsyncIterator[Outcome[R]]):
    """The outcomes of a run as they come; see `Executor.stream`."""

    def __init__(self, engine: Engine, arrivals: Arrivals[R], ledger: Ledger) -> None:
        self._engine = engine
        self._ledger = ledger
        self._ready = arrivals.ready
        self._came = arrivals.came
        self._taken = 0

    @property
    def bill(self) -> Bill:
        """What the run has cost so far; what is in flight counts at its worst."""
        return bill_for(self._ledger.run_usage)

    async def __anext__(self) -> Outcome[R]:
        """Wait for the next outcome."""
        while not self._ready:
            self._report_taken()
            if self._ready:
                break
            if self._engine.is_finished:
                await self._engine.finished()
                raise StopAsyncIteration
            self._came.clear()
            await self._came.wait()
        outcome = self._ready.popleft()
        self._taken += 1
        if self._taken > len(self._ready) // 8:  # often enough that the input keeps flowing
            self._report_taken()
        return outcome

    async def batch(self) -> list[Outcome[R]]:
        """Wait for the next outcome; return it and all others that are there; empty at the end."""
        try:
            outcomes = [await anext(self)]
        except StopAsyncIteration:
            return []
        outcomes += self._ready
        self._taken += len(self._ready)
        self._ready.clear()
        self._report_taken()
        return outcomes

    def _report_taken(self) -> None:
        if self._taken:
            taken, self._taken = self._taken, 0
            self._engine.consumed(taken)
