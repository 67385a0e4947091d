"""The environments of the function: which one gets an invocation, and when one is added.

The one that was used last is used first, as Lambda does it; a new one is started only when none is
idle. Limits are asked before anything is taken. Whatever ended is cleared away in the background.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from fanout.emulator.environment import Environment, GoneError, State
from fanout.emulator.limits import Admission, Limits, Refusal
from fanout.emulator.starts import Starts

if TYPE_CHECKING:
    from fanout.emulator.ends import Answer
    from fanout.emulator.faults import FaultPlan
    from fanout.emulator.function import Function
    from fanout.emulator.memory import Hierarchy
    from fanout.emulator.runtime_api import Call
    from fanout.emulator.tally import Tally


class Pool:
    """All environments.

    Attributes:
        function: What they run.
        admission: What is allowed, and how many invocations run.
    """

    def __init__(
        self,
        function: Function,
        limits: Limits,
        plan: FaultPlan,
        tally: Tally,
        hierarchy: Hierarchy | None,
    ) -> None:
        self.function = function
        self.admission = Admission(limits)
        self._plan = plan
        self._tally = tally
        self._hierarchy = hierarchy
        self._starts = Starts()
        self._idle: list[Environment] = []  # used last at the end
        self._alive: set[Environment] = set()
        self._clearing: set[asyncio.Task[None]] = set()

    @property
    def environments(self) -> int:
        """How many there are."""
        return len(self._alive)

    def enter(self) -> Environment | Refusal:
        """Take an environment for an invocation that follows, or say why there is none."""
        refusal = self.admission.ask(time.monotonic(), is_cold=not self._idle)
        if refusal is not None:
            return refusal
        return self._idle.pop() if self._idle else self._new()

    async def run(self, environment: Environment, call: Call) -> Answer:
        """Run an invocation in the environment that was taken for it.

        Raises:
            OSError: An environment can't be started.
        """
        try:
            while True:
                try:
                    return await environment.invoke(call)
                except GoneError:  # it ended while it was idle, which nobody had noticed yet
                    environment = self._new()
        finally:
            self.admission.leave()
            if environment.state in (State.IDLE, State.FROZEN):
                self._idle.append(environment)
            else:
                self._clear(environment)

    async def aclose(self) -> None:
        """End all environments."""
        for environment in list(self._alive):
            environment.kill()
            self._clear(environment)
        while self._clearing:
            await asyncio.gather(*self._clearing)

    def _new(self) -> Environment:
        faults = self._plan.of_environment()
        self._tally.cold_start(faults)
        environment = Environment(self.function, faults, self._hierarchy, self._starts, self._clear)
        self._alive.add(environment)
        return environment

    def _clear(self, environment: Environment) -> None:
        """Forget an environment, and clear away what is left of it."""
        if environment not in self._alive:
            return
        self._alive.discard(environment)
        if environment in self._idle:
            self._idle.remove(environment)
        task = asyncio.create_task(environment.aclose())
        self._clearing.add(task)
        task.add_done_callback(self._clearing.discard)
