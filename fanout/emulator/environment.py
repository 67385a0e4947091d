"""One execution environment: a process, its Runtime API, and one invocation at a time.

It starts when it is first used (Init), is warm afterwards, and ends with a crash, a timeout or the
emulator. Init may take `init_timeout_s`; if it takes longer the process is killed and starts anew
within the invocation, under the function's own timeout, as with Lambda. An error in Init is the
answer to the invocation that wanted the environment; Lambda would try Init once more.
"""

from __future__ import annotations

import asyncio
import enum
import math
import os
import shutil
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fanout.emulator.ends import Answer, End, Exited, Failed, Returned, TimedOut
from fanout.emulator.process import Command, Process, end_of
from fanout.emulator.reporter import Reporter
from fanout.emulator.runtime_api import Call, RuntimeApi

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.emulator.faults import StartFaults
    from fanout.emulator.function import Function
    from fanout.emulator.memory import Group, Hierarchy
    from fanout.emulator.starts import Starts

# What a slow environment takes at least.
_SLOW_BASE_S: Final = 0.01
# A control group can be removed once the kernel has cleared up what was in it.
_GROUP_RETRIES: Final = 200
_GROUP_RETRY_S: Final = 0.01


class State(enum.StrEnum):
    """What an environment is doing."""

    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    FROZEN = "frozen"  # idle, and stopped
    DEAD = "dead"


class GoneError(Exception):
    """The environment ended before the invocation reached it."""


class Environment:
    """One environment.

    Attributes:
        state: What it is doing.
    """

    def __init__(
        self,
        function: Function,
        faults: StartFaults,
        hierarchy: Hierarchy | None,
        starts: Starts,
        on_death: Callable[[Environment], None],
    ) -> None:
        self.state = State.STARTING
        self._function = function
        self._faults = faults
        self._hierarchy = hierarchy
        self._starts = starts
        self._on_death = on_death
        self._group: Group | None = None
        self._temporary: str | None = None  # its own, as /tmp is on Lambda
        self._api = RuntimeApi(function.arn, on_next=self._asked, on_end=self._ended)
        self._process: Process | None = None
        self._replaced: Process | None = None  # it took too long to start
        self._ready: asyncio.Future[End | None] | None = None  # Init; None is its good end
        self._ending: asyncio.Future[End] | None = None  # the invocation that is being run
        self._reporter = Reporter(function)

    # ---- an invocation ----

    async def invoke(self, call: Call) -> Answer:
        """Run one invocation, starting the process if there is none.

        Raises:
            GoneError: It ended by itself before it got the call.
            OSError: The process can't be started.
        """
        started_s = time.perf_counter()
        end = await self._init() if self._process is None else None
        if end is None:
            started_s = time.perf_counter()
            end = await self._run(call)
        duration_s = time.perf_counter() - started_s
        if self._process is not None:
            self._reporter.measure(self._process, self._group, duration_s)
        return self._reporter.report(call.request_id, end, duration_s)

    async def _run(self, call: Call) -> End:
        if self.state is State.FROZEN and self._process is not None:
            self._process.thaw()
        self.state = State.BUSY
        self._ending = asyncio.get_running_loop().create_future()
        timeout_s = self._function.timeout_s
        end: End
        try:
            async with asyncio.timeout(timeout_s):
                if not call.is_hung:
                    self._api.give(call, int((time.time() + timeout_s) * 1000))
                end = await self._slowed(self._ending)
        except TimeoutError:
            end = TimedOut()
            if self._process is not None:
                self._process.read()
        finally:
            self._ending = None
        if isinstance(end, Exited) and self._api.has_asked and not self._api.is_delivered:
            raise GoneError
        if isinstance(end, Returned | Failed) and self._api.has_asked:
            if self.state is State.BUSY:  # it may have ended meanwhile
                self.state = State.IDLE
                self._freeze()
        else:
            self.kill()
        return end

    async def _slowed(self, ending: asyncio.Future[End]) -> End:
        if self._faults.factor == 1:
            return await ending
        started_s = time.perf_counter()
        end = await ending
        took_s = time.perf_counter() - started_s
        await asyncio.sleep(took_s * (self._faults.factor - 1) + _SLOW_BASE_S)
        return end

    # ---- its start ----

    async def _init(self) -> End | None:
        """Start; returns how that ended, None if it goes on to the invocation."""
        if self._faults.delay_s:
            await asyncio.sleep(self._faults.delay_s)
        runtime_api = await self._api.start()
        if self._hierarchy is not None:
            self._group = self._hierarchy.make(self._function.memory_mb)
        self._temporary = tempfile.mkdtemp(prefix="fanout-environment-")
        command = self._command(runtime_api, self._temporary)
        async with self._starts.place():
            return await self._started(command)

    async def _started(self, command: Command) -> End | None:
        """Start the process, and wait until it asks for work or has failed to."""
        began_s = time.perf_counter()
        self._ready = asyncio.get_running_loop().create_future()
        self._process = self._spawn(command)
        end: End | None = None
        try:
            async with asyncio.timeout(self._function.init_timeout_s):
                end = await self._ready
            self._reporter.init_s = time.perf_counter() - began_s
        except TimeoutError:
            await self._again(command, time.perf_counter() - began_s)
        finally:
            self._ready = None
        self._reporter.measure(self._process, self._group, math.inf)
        self._reporter.init_ended()
        if end is not None:
            self.kill()
        return end

    async def _again(self, command: Command, took_s: float) -> None:
        """Kill what took too long to start, and start anew."""
        assert self._process is not None
        self._replaced, self._process = self._process, None
        self._replaced.kill()
        await self._replaced.wait()
        self._reporter.init_timed_out(took_s)
        self._process = self._spawn(command)

    def _spawn(self, command: Command) -> Process:
        process = Process(
            command,
            on_output=self._reporter.printed,
            on_exit=lambda: self._exited(process),
        )
        return process

    def _command(self, runtime_api: str, temporary: str) -> Command:
        function = self._function
        day = time.strftime("%Y/%m/%d", time.gmtime())
        variables = function.variables(
            runtime_api=runtime_api,
            log_stream=f"{day}/[$LATEST]{uuid.uuid4().hex}",
            inherited=os.environ,
        )
        return Command(
            python=function.python,
            handler=function.handler,
            environment={"TMPDIR": temporary, **variables},
            folder=function.path[0] if Path(function.path[0]).is_dir() else str(Path.cwd()),
            group=self._group,
            data_bytes=None if self._group else function.memory_mb * 1024 * 1024,
        )

    # ---- its end ----

    def kill(self) -> None:
        """End it now."""
        self.state = State.DEAD
        if self._process is not None:
            self._process.kill()

    async def aclose(self) -> None:
        """End it, and leave nothing of it."""
        self.kill()
        for process in (self._replaced, self._process):
            if process is not None:
                await process.wait()
        await self._api.aclose()
        if self._temporary is not None:
            await asyncio.to_thread(shutil.rmtree, self._temporary, ignore_errors=True)
        if self._group is not None:
            await self._remove(self._group)

    @staticmethod
    async def _remove(group: Group) -> None:
        for _ in range(_GROUP_RETRIES):
            if group.remove():
                return
            group.kill()
            await asyncio.sleep(_GROUP_RETRY_S)

    # ---- what the runtime and the process tell ----

    def _asked(self) -> None:
        """The runtime asks for work and there is none."""
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(None)
        self._freeze()

    def _freeze(self) -> None:
        """Stop it, if it has nothing to do but to wait."""
        if self._function.freeze and self.state is State.IDLE and self._api.is_waiting:
            assert self._process is not None
            self._process.freeze()
            self.state = State.FROZEN

    def _ended(self, end: End) -> None:
        if self._process is not None:
            self._process.read()  # what was printed until now belongs to this invocation
        for waiting in (self._ready, self._ending):
            if waiting is not None and not waiting.done():
                waiting.set_result(end)

    def _exited(self, process: Process) -> None:
        if process is not self._process:
            return  # it was replaced
        assert process.exit_code is not None
        self.state = State.DEAD
        self._ended(Exited(end_of(process.exit_code)))
        self._on_death(self)
