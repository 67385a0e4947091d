"""What the journal's tests share: runs on a fake backend, and a look into what is kept."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from typing import TYPE_CHECKING, Any

from fanout import Executor
from fanout.budget import Billed
from fanout.journal import Folder, Limits
from fanout.run_setup import RunSetup
from tests.fakes import FakeBackend, Fate, always

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.journal import RunRecord
    from fanout.outcomes import Run


def backend(**options: Any) -> FakeBackend:
    """One that takes no time."""
    return FakeBackend(2, **{"plan": always(Fate(task_s=0.0)), **options})


class BilledBackend(FakeBackend):
    """One that costs money."""

    @property
    def billed(self) -> Billed:  # type: ignore[override]  # this one costs something
        return Billed(gb=1.0, timeout_s=60.0)


def limited(limits: Limits, where: Any = None, store: Any = None) -> Executor:
    """An executor whose journals keep no more than that."""
    ex = Executor(backend() if where is None else where, store=store)
    ex._setup = RunSetup(ex.backend, ex._objects, shows_progress=False, limits=limits)
    return ex


def run(
    kernel: Callable[[Any], Any],
    chunks: Any,
    name: str | None = "sweep",
    *,
    limits: Limits | None = None,
    store: Any = None,
    **options: Any,
) -> Run[Any]:
    """A map from start to finish, in a loop of its own."""

    async def whole() -> Run[Any]:
        async with limited(limits or Limits(), store=store) as ex:
            return await ex.run(kernel, chunks, name=name, **options)

    return asyncio.run(whole())


def only() -> RunRecord:
    """The run that is kept, of which there is one."""
    (record,) = Folder().runs()
    return record


def rows(query: str, *values: object) -> list[Any]:
    """Of the only journal."""
    with contextlib.closing(sqlite3.connect(only().path)) as database:
        return database.execute(query, values).fetchall()


def change(statement: str, *values: object) -> None:
    """The only journal, behind its back."""
    with contextlib.closing(sqlite3.connect(only().path)) as database:
        database.execute(statement, values)
        database.commit()
