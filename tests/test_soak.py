"""A long life in virtual time: 200,000 tasks on fleets where everything goes wrong.

The very scheduler that runs maps, with all that guards a map on Lambda, on `fanout.fleet`: half the
quota taken by others on and off, environments that die, hang, are slow, and answers that are lost.
`simulator.drive` itself asserts that each task is delivered exactly once, and that it never stalls.
"""

from __future__ import annotations

import gc
import hashlib
import random
import types
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import pytest

from fanout.events import AttemptAnswered, AttemptFailed, Deliver, Launch
from fanout.fleet import Fleet, FleetModel
from fanout.grouping import Grouping
from fanout.retry import FailureKind, RetryPolicy
from fanout.scheduler import Scheduler
from fanout.simulator import Work, drive, lambda_grouping, lambda_guards

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanout.events import Action, Event
    from fanout.simulator import SimulatedRun

UNKIND: Final = FleetModel(
    concurrency=400,
    busy=200,
    busy_every_s=45.0,
    crash_share=0.02,
    lost_share=0.02,
    hang_share=0.01,
    slow_share=0.1,
    slow_factor=(2.0, 5.0),
    transient_share=0.02,
    launches_per_s=2000.0,
)
FAULTS: Final = {
    FailureKind.THROTTLED,
    FailureKind.CRASHED,
    FailureKind.MAYBE_RAN,
    FailureKind.TIMED_OUT,
}
RETRY: Final = RetryPolicy(max_attempts=8, max_lost=12)


class Notes:
    """What came of attempts, as seen from outside.

    Attributes:
        unfinished: Tasks of each attempt that was launched and has not ended.
        most_in_flight: Most of these at once.
        failures: How many attempts failed in which way.
        ran: How many attempts of each task ended otherwise than by a refusal.
        lost: How many of each task's were lost.
        blamed: How many failed that had this task alone.
        schedule: A digest of all that was launched and delivered, and when.
    """

    def __init__(self) -> None:
        self.unfinished: dict[int, Sequence[int]] = {}
        self.most_in_flight = 0
        self.failures: Counter[FailureKind] = Counter()
        self.ran: Counter[int] = Counter()
        self.lost: Counter[int] = Counter()
        self.blamed: Counter[int] = Counter()
        self.schedule = hashlib.sha256()

    def came(self, event: Event) -> None:
        match event:
            case AttemptAnswered(attempt=number):
                self.ran.update(self.unfinished.pop(number))
            case AttemptFailed(attempt=number, failure=failure):
                self.failures[failure.kind] += 1
                self._failed(self.unfinished.pop(number), failure.kind)

    def went(self, action: Action, now_s: float) -> None:
        match action:
            case Launch(attempt=number, tasks=tasks):
                self.unfinished[number] = tasks
                self.most_in_flight = max(self.most_in_flight, len(self.unfinished))
                self.schedule.update(f"{now_s} {number} {tasks}".encode())
            case Deliver(outcomes=outcomes):
                found = [outcome.index for outcome in outcomes]
                self.schedule.update(f"{now_s} {found}".encode())

    def _failed(self, tasks: Sequence[int], kind: FailureKind) -> None:
        if kind in {FailureKind.THROTTLED, FailureKind.DID_NOT_RUN}:
            return
        self.ran.update(tasks)
        if kind is FailureKind.MAYBE_RAN:
            self.lost.update(tasks)
        elif len(tasks) == 1:
            self.blamed.update(tasks)


class Watched(Scheduler):
    """A scheduler that is watched from outside: by what goes in, and what comes out."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.notes = Notes()

    def handle(self, event: Event, now_s: float) -> list[Action]:
        self.notes.came(event)
        actions = super().handle(event, now_s)
        for action in actions:
            self.notes.went(action, now_s)
        return actions


def soaked(
    tasks: int, *, seed: int, mean_s: float = 1.0, is_stream: bool = False
) -> tuple[SimulatedRun, Watched]:
    """Run so many tasks, as a map or a stream on Lambda would."""
    rng, fleet = random.Random(seed), UNKIND
    limit = fleet.concurrency
    work = Work(tasks=tasks, mean_s=mean_s, kind="lognormal")
    scheduler = Watched(
        limit=limit,
        grouping=Grouping(lambda_grouping(fleet)),
        rng=random.Random(seed + 1),
        retry=RETRY,
        can_stop=False,
        guards=lambda_guards(fleet, limit, max_gb_s=1e9),
        total=None if is_stream else tasks,
    )
    return drive(scheduler, work.seconds(rng), Fleet(fleet, rng)), scheduler


def held(scheduler: Watched) -> int:
    """How many objects can be reached from a scheduler, but for the notes."""
    waiting: list[object] = [part for name, part in vars(scheduler).items() if name != "notes"]
    seen: dict[int, object] = {}
    while waiting:
        found = waiting.pop()
        if id(found) in seen or isinstance(found, type | types.ModuleType | types.FunctionType):
            continue
        seen[id(found)] = found
        waiting.extend(gc.get_referents(found))
    return len(seen)


@pytest.mark.parametrize(
    ("seed", "options"), [(1, {}), (2, {"mean_s": 0.05}), (3, {"mean_s": 0.03, "is_stream": True})]
)
def test_of_200_000_tasks_none_is_lost_or_doubled_whatever_goes_wrong(
    seed: int, options: dict[str, Any]
) -> None:
    """That each is delivered exactly once, `drive` asserts."""
    run, scheduler = soaked(200_000, seed=seed, **options)
    notes = scheduler.notes
    assert (run.failure, run.failed_tasks, run.samples[-1].delivered) == ("", 0, 200_000)
    assert set(notes.failures) >= FAULTS
    assert min(run.hedges, run.lefts) > 0
    # Attempts are bounded, and never more in flight than allowed: as launched, as the fleet counts.
    assert max(notes.blamed.values()) <= RETRY.max_attempts
    assert max(notes.lost.values()) <= RETRY.max_lost
    assert max(notes.ran.values()) <= RETRY.max_attempts + RETRY.max_lost
    assert notes.most_in_flight <= UNKIND.concurrency
    assert run.most_in_flight <= UNKIND.concurrency
    # What it still holds goes by the size of the fleet, not by how much it has done.
    assert run.attempts > 10 * UNKIND.concurrency
    assert held(scheduler) < 8 * UNKIND.concurrency


def test_the_same_seed_gives_the_same_schedule_to_the_last_launch() -> None:
    one, same, other = (soaked(10_000, seed=seed)[1].notes for seed in (1, 1, 2))
    assert one.schedule.digest() == same.schedule.digest()
    assert one.schedule.digest() != other.schedule.digest()
