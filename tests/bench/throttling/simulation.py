"""One run of a workload under a policy: a client, a network and the service, event by event."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fanout.emulator.limits import Reason
from tests.bench.throttling.service import Service

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.throttling.policies import Policy
    from tests.bench.throttling.service import Workload

# One way to Lambda, seconds: the least, and what may come on top of it.
_WAY_S: Final = 0.005
_JITTER_S: Final = 0.015


@dataclass(frozen=True, slots=True)
class Simulated:
    """What a run took: first launch to last answer, and 429s."""

    makespan_s: float
    throttles: int


class _Run:
    def __init__(self, workload: Workload, policy: Policy, seed: int) -> None:
        self._policy = policy
        self._network = random.Random(seed)
        self._jitter = random.Random(seed + 1)
        self._service = Service(workload, random.Random(seed + 2))
        self._gap_s = 1.0 / workload.launches_per_s
        self._queue = deque(range(workload.tasks))
        self._refusals = [0] * workload.tasks
        self._left = workload.tasks
        self._free_s = 0.0  # when the client can launch the next one
        self._pump_s: float | None = None
        self._events: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._numbers = itertools.count()
        self._now_s = 0.0

    def run(self) -> Simulated:
        self._pump()
        while self._left:
            self._now_s, _, act, given = heapq.heappop(self._events)
            act(*given)
        return Simulated(self._now_s, sum(self._refusals))

    def _at(self, when_s: float, act: Callable[..., None], *given: object) -> None:
        heapq.heappush(self._events, (when_s, next(self._numbers), act, given))

    def _way_s(self) -> float:
        return _WAY_S + _JITTER_S * self._network.random()

    def _pump(self) -> None:
        """Launch what may be launched, or see to it that this is asked again."""
        now_s = self._now_s
        if not self._queue:
            return
        if now_s < self._free_s:
            self._wake(self._free_s)
            return
        if not self._policy.admits(now_s):
            due_s = self._policy.due_s(now_s)
            if due_s is not None:
                self._wake(due_s)
            return
        self._policy.launched(now_s)
        self._at(now_s + self._way_s(), self._arrive, self._queue.popleft(), now_s)
        self._free_s = now_s + self._gap_s
        self._wake(self._free_s)

    def _wake(self, when_s: float) -> None:
        if self._pump_s is None or when_s < self._pump_s:
            self._pump_s = when_s
            self._at(when_s, self._woken, when_s)

    def _woken(self, when_s: float) -> None:
        if when_s == self._pump_s:
            self._pump_s = None
            self._pump()

    def _arrive(self, task: int, launched_s: float) -> None:
        begun = self._service.begin(self._now_s)
        if isinstance(begun, Reason):
            self._at(self._now_s + self._way_s(), self._hear_refusal, task, begun, launched_s)
        else:
            environment, takes_s = begun
            self._at(self._now_s + takes_s, self._end, environment)

    def _end(self, environment: int) -> None:
        self._service.end(environment)
        self._at(self._now_s + self._way_s(), self._hear_answer, environment)

    def _hear_answer(self, environment: int) -> None:
        self._left -= 1
        self._policy.ended(self._now_s, str(environment))
        self._pump()

    def _hear_refusal(self, task: int, reason: Reason, launched_s: float) -> None:
        self._refusals[task] += 1
        self._policy.refused(self._now_s, reason.value, launched_s)
        delay_s = self._policy.delay_s(self._refusals[task], self._jitter)
        if delay_s > 0:
            self._at(self._now_s + delay_s, self._return, task)
        else:
            self._queue.appendleft(task)
            self._pump()

    def _return(self, task: int) -> None:
        self._queue.append(task)
        self._pump()


def simulate(workload: Workload, policy: Policy, seed: int) -> Simulated:
    """Run a workload under a policy; the same seed gives the same run."""
    return _Run(workload, policy, seed).run()
