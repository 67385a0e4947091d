"""What the scheduler costs: CPU time a task, and memory of a stream; no backend, virtual time.

    python tests/bench/scheduler_cost.py [--quick] [--json]

The driver is the cheapest there is: attempts answer when their tasks have had their time, a heap is
the clock, nothing goes wrong. Only what happens inside `Scheduler.handle` and `wanted` is timed: no
event loop, no outcomes being made. Contenders take turns; medians of the rounds.

    lambda             all that guards a map on Lambda: capacity, hedging, storm, budget; groups as
                       they come, tasks of 1 s, 1,000 attempts in flight
    lambda_unbatched   the same, group=1
    local              groups as they come, tasks of 10 us, 4 attempts in flight
    local_unbatched    the same, group=1

Peers, one put and one get of each task: `heapq`, `asyncio.Queue` (two coroutines), and
`ThreadPoolExecutor.submit` (one thread, which does nothing). They have no limits, no groups and no
retries: they are what a run can't do without in any case.

Memory: peak resident size (VmHWM, Linux) of a fresh process over what it had before its first task,
for a stream of unknown length whose outcomes are consumed at once: tasks of 0.1 s on Lambda. What
there is to be seen is its window of some 40,000 chunks, for 100,000 tasks as for a million.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import json
import math
import platform
import random
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if __name__ == "__main__":  # started as a script, Python sees the files beside it only
    sys.path.insert(0, str(Path(__file__).parents[2]))

from fanout.events import (
    AttemptAnswered,
    AttemptStarted,
    Consumed,
    Deliver,
    InputEnded,
    Launch,
    Offered,
    Ticked,
    WakeAt,
)
from fanout.fleet import FleetModel
from fanout.grouping import Grouping, GroupPolicy
from fanout.scheduler import Scheduler
from fanout.simulator import lambda_grouping, lambda_guards
from fanout.tasks import AttemptReport, Environment, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fanout.events import Event

_MB: Final = 2**20
_FLEET: Final = FleetModel(launches_per_s=1000.0)
_GB: Final = _FLEET.memory_mb / 1024
_LOOKS: Final = 10_000
_STREAMED: Final = {"100k": 100_000, "1m": 1_000_000}
_STREAMED_QUICK: Final = {"50k": 50_000, "100k": 100_000}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A kind of run.

    Attributes:
        task_s: Of each task, give or take a tenth for each attempt.
        group: Tasks in an attempt; None: as they come.
        is_lambda: With all that Lambda needs; otherwise as on this machine.
    """

    task_s: float
    group: int | None = None
    is_lambda: bool = True

    def scheduler(self, *, total: int | None) -> Scheduler:
        """A scheduler as the executor would make it; a stream if `total` is not known."""
        rng = random.Random(0)
        is_stream = total is None
        if not self.is_lambda:
            grouping = Grouping(GroupPolicy(fixed=self.group))
            return Scheduler(
                limit=4, grouping=grouping, rng=rng, total=total, is_consumed=is_stream
            )
        limit = _FLEET.concurrency
        return Scheduler(
            limit=limit,
            grouping=Grouping(lambda_grouping(_FLEET, fixed=self.group)),
            rng=rng,
            can_stop=False,
            guards=lambda_guards(_FLEET, limit, max_gb_s=1e9),
            total=total,
            is_consumed=is_stream,
        )


CASES: Final[Mapping[str, Case]] = {
    "lambda": Case(task_s=1.0),
    "lambda_unbatched": Case(task_s=1.0, group=1),
    "local": Case(task_s=1e-5, is_lambda=False),
    "local_unbatched": Case(task_s=1e-5, group=1, is_lambda=False),
}
_STREAM: Final = Case(task_s=0.1)


class Drive:
    """Runs a scheduler to its end.

    Attributes:
        spent_s: CPU time inside the scheduler, seconds.
        calls: How often it was called.
        window: The most chunks that were ever to be pulled ahead.
        attempts: How many it launched.
    """

    def __init__(self, scheduler: Scheduler, case: Case, tasks: int) -> None:
        self._scheduler = scheduler
        self._case = case
        self._tasks = tasks
        self._offered = 0
        self._delivered = 0
        self._now_s = 0.0
        self._timer_s = math.inf
        self._due: list[tuple[float, int, Launch, Environment]] = []
        machine = platform.machine()
        count = _FLEET.concurrency if case.is_lambda else 4
        self._idle = [Environment(id=str(n), pid=n, machine=machine) for n in range(count)]
        self.spent_s = 0.0
        self.calls = 0
        self.window = 0
        self.attempts = 0

    def to_the_end(self) -> None:
        """Every task is delivered."""
        self._feed(Ticked())
        while not self._scheduler.is_finished:
            if self._due and self._due[0][0] <= self._timer_s:
                self._now_s, _, launch, environment = heapq.heappop(self._due)
                self._idle.append(environment)
                self._feed(self._answer(launch, environment))
            else:
                self._now_s, self._timer_s = self._timer_s, math.inf
                assert self._now_s < math.inf, f"stuck: {self._scheduler!r}"
                self._feed(Ticked())
        assert self._delivered == self._tasks

    def _feed(self, event: Event) -> None:
        scheduler = self._scheduler
        events = [event]
        while events:
            began_s = time.process_time()
            actions = scheduler.handle(events.pop(), self._now_s)
            wanted = scheduler.wanted
            self.spent_s += time.process_time() - began_s
            self.calls += 1
            self.window = max(self.window, scheduler.window)
            for action in actions:
                if isinstance(action, Launch):
                    self._launch(action)
                    if scheduler.hears_starts:
                        events.append(AttemptStarted(action.attempt))
                elif isinstance(action, Deliver):
                    self._delivered += len(action.outcomes)
                    events.append(Consumed(len(action.outcomes)))
                elif isinstance(action, WakeAt):
                    self._timer_s = action.at_s
            if wanted and not events:
                count = min(wanted, self._tasks - self._offered)
                events.append(Offered(self._offered, count) if count else InputEnded())
                self._offered += count

    def _launch(self, launch: Launch) -> None:
        self.attempts += 1
        pace = 0.9 + 0.2 * (launch.attempt * 0.618 % 1)  # so that not all end at once
        ends_s = self._now_s + pace * self._case.task_s * len(launch.tasks)
        heapq.heappush(self._due, (ends_s, self.attempts, launch, self._idle.pop()))

    def _answer(self, launch: Launch, environment: Environment) -> AttemptAnswered:
        took_s = self._case.task_s * len(launch.tasks)
        report = AttemptReport(
            attempt=launch.attempt,
            environment=environment,
            is_cold=False,
            received_epoch_s=self._now_s,
            setup_s=0.0,
            kernel_s=took_s,
            compile_s=0.0,
            total_s=took_s,
            peak_memory_bytes=None,
            payload_bytes=200 * len(launch.tasks),
        )
        outcomes: list[Outcome[None]] = [Outcome(task, report=report) for task in launch.tasks]
        return AttemptAnswered(launch.attempt, outcomes, report)


def scheduler_us(case: Case, tasks: int) -> float:
    """Time in the scheduler, microseconds a task."""
    drive = Drive(case.scheduler(total=tasks), case, tasks)
    drive.to_the_end()
    return (drive.spent_s - drive.calls * clock_s()) / tasks * 1e6


def clock_s() -> float:
    """What it costs to look at the clock of the CPU, seconds: it is no small part of a call."""
    began_s = time.process_time()
    for _ in range(_LOOKS):
        time.process_time()
    return (time.process_time() - began_s) / _LOOKS


# ---- peers: microseconds for each task's put and get ----


def heap_us(tasks: int) -> float:
    """A heap of a thousand."""
    heap = [(float(number), number) for number in range(1000)]
    began_s = time.process_time()
    for number in range(tasks):
        heapq.heappush(heap, (number * 0.618 % 1, number))
        heapq.heappop(heap)
    return (time.process_time() - began_s) / tasks * 1e6


def queue_us(tasks: int) -> float:
    """A queue of a thousand places between two coroutines."""

    async def produce(queue: asyncio.Queue[int]) -> None:
        for number in range(tasks):
            await queue.put(number)

    async def consume() -> float:
        queue: asyncio.Queue[int] = asyncio.Queue(1000)
        began_s = time.process_time()
        producer = asyncio.create_task(produce(queue))
        for _ in range(tasks):
            await queue.get()
        await producer
        return time.process_time() - began_s

    return asyncio.run(consume()) / tasks * 1e6


def submit_us(tasks: int) -> float:
    """Futures of `concurrent.futures`."""
    with ThreadPoolExecutor(1) as pool:
        began_s = time.process_time()
        for future in [pool.submit(abs, number) for number in range(tasks)]:
            future.result()
        return (time.process_time() - began_s) / tasks * 1e6


PEERS: Final[Mapping[str, Callable[[int], float]]] = {
    "heapq": heap_us,
    "asyncio_queue": queue_us,
    "thread_pool_submit": submit_us,
}


def measure(tasks: int, rounds: int) -> dict[str, float]:
    """Microseconds a task of all contenders: medians."""
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, case in CASES.items():
            found.setdefault(name, []).append(scheduler_us(case, tasks))
        for name, peer in PEERS.items():
            found.setdefault(name, []).append(peer(tasks))
    return {name: statistics.median(times) for name, times in found.items()}


# ---- memory ----


def peak_bytes() -> int:
    """The most that this process ever had in memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("Linux tells VmHWM")


def stream(tasks: int) -> dict[str, float]:
    """Run a stream in this process: what it took."""
    drive = Drive(_STREAM.scheduler(total=None), _STREAM, tasks)
    before = peak_bytes()
    drive.to_the_end()
    return {
        "peak_mb": (peak_bytes() - before) / _MB,
        "window": drive.window,
        "attempts": drive.attempts,
    }


def streams(lengths: Mapping[str, int]) -> dict[str, dict[str, float]]:
    """Streams of these lengths, each in a process of its own."""
    found = {}
    for name, tasks in lengths.items():
        command = [sys.executable, __file__, "--stream", str(tasks)]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found[name] = json.loads(told)
    return found


# ---- the program ----


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer tasks, one round")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--stream", type=int, metavar="TASKS", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.stream:
        json.dump(stream(options.stream), sys.stdout)
        return
    times = measure(*(10_000, 1) if options.quick else (100_000, 5))
    of_streams = streams(_STREAMED_QUICK if options.quick else _STREAMED)
    short, long = (found["peak_mb"] for found in of_streams.values())
    report = {
        "us_per_task": times["lambda"],
        "us_per_task_vs_asyncio_queue": times["lambda"] / times["asyncio_queue"],
        **{f"peak_mb_{name}_stream": found["peak_mb"] for name, found in of_streams.items()},
        "peak_of_long_vs_short_stream": long / short,
        "us": times,
        "streams": of_streams,
        "machine": f"{platform.machine()}, python {platform.python_version()}",
    }
    if options.json:
        json.dump(report, sys.stdout)
        return
    for name, time_us in times.items():
        ratio = time_us / times["asyncio_queue"]
        print(f"{name:20} {time_us:>8.2f} us a task {ratio:>7.2f} x asyncio.Queue")
    for name, found in of_streams.items():
        print(
            f"stream of {name:10} {found['peak_mb']:>8.1f} MB; "
            f"window {found['window']:,} chunks, {found['attempts']:,} attempts"
        )


if __name__ == "__main__":
    main()
