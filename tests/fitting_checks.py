"""What the tests of fitting share: simulated runs, written down as a journal has them."""

from __future__ import annotations

import contextlib
import json
import random
import sqlite3
from typing import TYPE_CHECKING, Any

import fanout.events as events
from fanout.fleet import Fleet, FleetModel, Invocation, Refusal, fork
from fanout.grouping import Grouping
from fanout.journal import Folder
from fanout.journal.schema import (
    PUT_ATTEMPT,
    PUT_CHUNK,
    PUT_META,
    PUT_OUTCOME,
    TABLES,
    VERSION,
)
from fanout.past_run import PastAttempt, PastRun, PastTask
from fanout.scheduler import Scheduler
from fanout.simulator import SimulatedRun, Work, drive, lambda_grouping, lambda_guards

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanout.events import Action, Event


class _Noted(Fleet):
    """A fleet that notes how fast the environment of its newest invocation was."""

    def __init__(self, model: FleetModel, rng: random.Random) -> None:
        super().__init__(model, rng)
        self.paces: dict[str, float] = {}

    def invoke(
        self,
        now_s: float,
        seconds: Sequence[float],
        soft_s: float | None = None,
        hard_s: float | None = None,
    ) -> Invocation | Refusal:
        what = super().invoke(now_s, seconds, soft_s, hard_s)
        if isinstance(what, Invocation):
            self.paces[str(what.environment.number)] = what.environment.pace
        return what


class _Book(Scheduler):
    """A scheduler that keeps the rows of a journal."""

    def begin(self, fleet: _Noted, seconds: Sequence[float]) -> None:
        self.fleet, self.seconds = fleet, seconds
        self.rows: dict[int, dict[str, Any]] = {}
        self.done: dict[int, PastTask] = {}

    def handle(self, event: Event, now_s: float) -> list[Action]:
        self.put_event(event, now_s)
        actions = super().handle(event, now_s)
        for action in actions:
            match action:
                case events.Launch(attempt=number, tasks=tasks, covers=covers):
                    self.rows[number] = {
                        "session": 0,
                        "attempt": number,
                        "tasks": len(tasks),
                        "covers": covers,
                        "launched_s": now_s,
                    }
                case events.Ignore(attempt=number):
                    self.put_end(number, now_s, failure="ignored: its tasks are settled")
        return actions

    def put_end(self, number: int, now_s: float, **told: Any) -> None:
        if "ended_s" not in self.rows[number]:
            self.rows[number] |= {"ended_s": now_s, **told}

    def put_event(self, event: Event, now_s: float) -> None:
        match event:
            case events.AttemptStarted(attempt=number):
                self.rows[number]["started_s"] = now_s
            case events.AttemptFailed(attempt=number, failure=failure):
                told = f"{failure.kind.value}: {failure.reason or failure.detail}"
                self.put_end(number, now_s, done=0, failure=told)
            case events.AttemptAnswered(attempt=number, outcomes=outcomes, report=report):
                assert report is not None
                total_s = report.total_s + self.fleet.model.overhead_s
                where = report.environment.id
                self.put_end(
                    number,
                    now_s,
                    done=len(outcomes),
                    environment=where,
                    is_cold=int(report.is_cold),
                    setup_s=0.0,
                    compile_s=0.0,
                    total_s=total_s,
                )
                pace = self.fleet.paces[where]
                for outcome in outcomes:
                    task = outcome.index
                    seconds = self.seconds[task] * pace
                    self.done.setdefault(task, PastTask(task, seconds, 0, number))


def recorded(
    work: Work, fleet: FleetModel, *, seed: int = 0, limit: int | None = None
) -> tuple[SimulatedRun, PastRun]:
    """A simulated run, and what its journal would tell."""
    limit = limit or fleet.concurrency
    rng = random.Random(seed)
    seconds = work.seconds(fork(rng))
    service = _Noted(fleet, fork(rng))
    book = _Book(
        limit=limit,
        grouping=Grouping(lambda_grouping(fleet)),
        rng=fork(rng),
        can_stop=False,
        guards=lambda_guards(fleet, limit),
        total=len(seconds),
    )
    book.begin(service, seconds)
    run = drive(book, seconds, service)
    past = PastRun(
        attempts=[PastAttempt(**row) for _, row in sorted(book.rows.items())],
        tasks=[task for _, task in sorted(book.done.items())],
        total=len(seconds),
        limit=limit,
        memory_mb=fleet.memory_mb,
        timeout_s=fleet.timeout_s,
    )
    return run, past


def write(
    past: PastRun,
    name: str,
    *,
    backend: str = "lambda, worker in us-east-1, 1,769 MB",
    options: dict[str, Any] | None = None,
) -> None:
    """A journal that tells of this run."""
    folder = Folder()
    folder.path.mkdir(parents=True, exist_ok=True)
    knew = {key: getattr(past, key) for key in ("limit", "memory_mb", "timeout_s", "unit_s")}
    meta = {
        "version": VERSION,
        "run": "20261121-100000-ab12",
        "name": name,
        "kernel": "simulate",
        "backend": backend,
        "total": past.total,
        "state": "done",
        "recipe": {"options": options or {}, "knew": {**knew, "is_weighted": past.is_weighted}},
    }
    path = folder.path_of("20261121-100000-ab12", name)
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.executescript(TABLES)
        database.executemany(PUT_META, [(key, json.dumps(value)) for key, value in meta.items()])
        database.executemany(PUT_CHUNK, [(task.task, b"", None) for task in past.tasks])
        database.executemany(
            PUT_OUTCOME,
            [
                (t.task, b"", b"", 1, t.kernel_s, "", "", None, t.session, t.attempt)
                for t in past.tasks
            ],
        )
        database.executemany(PUT_ATTEMPT, past.attempts)
        database.commit()
