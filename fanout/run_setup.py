"""Sets up runs: from a kernel, its input and the options to the engine that will do it all.

Here the options of a map, what the backend is like, and what earlier runs have found become the
arguments of scheduler and engine. Nothing is done yet.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import json
import random
import secrets
import sys
import time
from collections.abc import Sequence, Sized
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fanout.backends.chosen import recipe_of, site_of
from fanout.budget import check_cap
from fanout.engine import Engine
from fanout.errors import UsageError
from fanout.findings import Findings
from fanout.grouping import Grouping
from fanout.guards import Guards, guards_of
from fanout.intake import checked_input
from fanout.kernel_spec import prepare
from fanout.options import check
from fanout.request import Request
from fanout.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Iterable

    from fanout.backends import Backend
    from fanout.budget import Rates
    from fanout.cost.ledger import Ledger
    from fanout.events import RunEvent
    from fanout.journal import Limits, RunJournal
    from fanout.kernel_spec import KernelSpec
    from fanout.large_objects import LargeObjects
    from fanout.options import MapOptions
    from fanout.tasks import Outcome

# Options that are the affair of the call alone.
_OF_THE_CALL: Final = {"name", "on_change", "journal", "weight", "progress", "on_event"}


class RunSetup:
    """Sets up the runs of one executor, which share its backend.

    Args:
        backend: Already started when a run is set up.
        objects: The executor's store.
        shows_progress: Whether progress is shown where the options don't say.
        limits: How much journals keep, if not as usual.
    """

    def __init__(
        self,
        backend: Backend,
        objects: LargeObjects,
        *,
        shows_progress: bool,
        limits: Limits | None = None,
    ) -> None:
        self._limits = limits
        self._backend = backend
        self._objects = objects
        self._shows_progress = shows_progress
        self._orphans: set[asyncio.Task[None]] = set()
        self._findings = Findings()

    async def start(self) -> None:
        """Begin with what earlier processes have found."""
        if (site := site_of(self._backend)) is not None:
            await self._findings.recall(site)

    def engine(
        self,
        kernel: Callable[..., Any] | KernelSpec,
        chunks: Iterable[Any] | AsyncIterable[Any],
        deliver: Callable[[Sequence[Outcome[Any]]], None],
        options: MapOptions,
        *,
        is_star: bool = False,
        is_ordered: bool = False,
        is_consumed: bool = False,
        is_own: bool = False,
        stops_on_failure: bool = False,
        ledger: Ledger | None = None,
        observers: Sequence[Callable[[RunEvent], None]] = (),
    ) -> Engine:
        """The engine of a run; entering it begins the run.

        Args:
            kernel: What to run.
            chunks: The input.
            deliver: Takes the outcomes.
            options: Of the map.
            is_star: Whether each chunk is a tuple of arguments.
            is_ordered: Whether outcomes are delivered in the order of the input.
            is_consumed: Whether the caller says which it took, and no more shall wait for it than
                the workers need to stay busy.
            is_own: Whether the input comes out of the run's own journal.
            stops_on_failure: Whether the first failure ends the run.
            ledger: Keeps the books of what it costs; an observer, too.
            observers: Told everything before those of the options are.

        Raises:
            UsageError: An argument is wrong.
            FanoutError: The kernel can't be sent.
        """
        check(options)
        source = checked_input(chunks)
        is_safe = options.get("codec", "auto") == "safe"
        run = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        timeout_s = options.get("timeout_s")
        weight = options.get("weight")
        spec = prepare(kernel, is_safe=is_safe)
        total = len(source) if isinstance(source, Sized) else None
        rates = self._rates(options)
        self._guards(options, rates)  # what is wrong with them shall leave no journal behind
        # Weights may be in another unit the next time.
        known = self._findings.key(spec, kernel) if weight is None else None
        journal = self._journal(options, spec, run, total, known, is_star=is_star, is_own=is_own)
        try:
            guards = self._guards(options, rates, journal)
            if journal is not None:
                run, journal.budget = journal.run, guards.budget
                if ledger is not None:
                    journal.costs.follow(ledger)
            # The heaviest of all go first; a journal should have the whole input as soon as
            # possible, if it is in memory anyhow.
            is_whole = weight is not None or (
                journal is not None and isinstance(source, list | tuple | range)
            )
            grouping = self._grouping(options, known)
            is_idempotent = options.get("idempotent", True)
            stops_tasks = self._backend.stops_tasks
            scheduler = Scheduler(
                limit=self._backend.limit,
                grouping=grouping,
                rng=random.Random(run),  # noqa: S311  # jitter, not secrets; the same if run again
                retry=options.get("retry"),
                timeout_s=None if stops_tasks else timeout_s,
                is_idempotent=is_idempotent,
                can_escalate=self._backend.can_escalate,
                can_stop=not stops_tasks,
                guards=guards,
                total=total,
                least_window=len(source) if is_whole and isinstance(source, Sequence) else 0,
                is_ordered=is_ordered,
                is_consumed=is_consumed,
                stops_on_failure=stops_on_failure,
            )
            return Engine(
                run=run,
                scheduler=scheduler,
                backend=self._backend,
                request=Request(
                    kernel=spec,
                    is_star=is_star,
                    is_safe=is_safe,
                    timeout_s=timeout_s if stops_tasks else None,
                    store=self._objects.locator,
                    spill=self._objects.of_run(run, None if ledger is None else ledger.stored),
                    is_idempotent=is_idempotent,
                ),
                chunks=source,
                deliver=deliver,
                weight=weight,
                drains=is_consumed,
                orphans=self._orphans if stops_tasks else None,
                on_end=functools.partial(
                    self._findings.keep,
                    known,
                    grouping,
                    is_private=options.get("journal") is False,
                ),
                journal=journal,
                observers=[*observers, *self._observers(options, ledger)],
            )
        except BaseException:
            if journal is not None:
                journal.abandon()
            raise

    async def aclose(self) -> None:
        """Give up what is in flight for runs that are over, and keep what was found."""
        orphans = [*self._orphans]
        for task in orphans:
            task.cancel()
        if orphans:
            await asyncio.wait(orphans)
        await self._findings.aclose()

    def _grouping(self, options: MapOptions, known: str | None) -> Grouping:
        """How tasks are grouped: by the backend's policy, and what an earlier run has found."""
        group = options.get("group")
        if group is None and not options.get("idempotent", True):
            group = 1  # of a group that is lost, nobody knows which of its tasks ran
        return Grouping(
            replace(self._backend.grouping, fixed=group),
            timeout_s=options.get("timeout_s"),
            estimate=self._findings.estimate(known) if known else None,
            launches_per_s=self._findings.launches_per_s,
        )

    def _journal(
        self,
        options: MapOptions,
        spec: KernelSpec,
        run: str,
        total: int | None,
        known: str | None,
        *,
        is_star: bool,
        is_own: bool,
    ) -> RunJournal | None:
        """Where what is done is written down: if the run has a name, or costs money."""
        name, billed = options.get("name"), self._backend.billed
        is_wanted = options.get("journal")
        if is_wanted is None:
            is_wanted = name is not None or billed is not None
        if not is_wanted:
            return None
        from fanout.journal import About, journal_of

        return journal_of(
            About(
                run=run,
                name=name,
                spec=spec,
                backend=self._backend.name,
                total=total,
                is_safe=options.get("codec", "auto") == "safe",
                is_own=is_own,
                recipe={
                    "is_star": is_star,
                    "options": _kept(options),
                    "backend": recipe_of(self._backend),
                    "store": self._objects.named,
                    "folders": [str(Path.cwd()), *filter(None, sys.path[:1])],
                    "knew": self._knew(known),
                },
            ),
            on_change=options.get("on_change", "refuse"),
            billed=billed,
            limits=self._limits,
            store=self._objects.store,
        )

    def _knew(self, known: str | None) -> dict[str, Any]:
        """What is known as a run begins, for those who simulate it later."""
        billed = self._backend.billed
        estimate = self._findings.estimate(known) if known else None
        return {
            "limit": self._backend.limit,
            "memory_mb": None if billed is None else round(billed.gb * 1024),
            "timeout_s": None if billed is None else billed.timeout_s,
            "is_weighted": known is None,
            "unit_s": None if estimate is None else estimate.unit_s,
        }

    def _rates(self, options: MapOptions) -> Rates | None:
        """What dollars are counted by, if there is a cap on them."""
        billed, max_usd = self._backend.billed, options.get("max_usd")
        if max_usd is None or billed is None:
            return None
        check_cap("max_usd", max_usd)
        from fanout.cost.pricing import rates_of

        return rates_of(billed)

    def _guards(
        self, options: MapOptions, rates: Rates | None, journal: RunJournal | None = None
    ) -> Guards:
        """What keeps an eye on attempts that are billed."""
        billed = self._backend.billed
        max_gb_s, max_usd = options.get("max_gb_s"), options.get("max_usd")
        if billed is not None:
            return guards_of(
                billed,
                self._backend.capacity,
                hedges=options.get("hedge", True),
                is_idempotent=options.get("idempotent", True),
                max_gb_s=max_gb_s,
                spent_gb_s=0.0 if journal is None else journal.spent_gb_s,
                max_usd=max_usd,
                rates=rates,
                spent_requests=0 if journal is None else journal.spent_requests,
                timeout_s=options.get("timeout_s"),
                starts=self._findings.starts,
            )
        for name, cap in (("max_gb_s", max_gb_s), ("max_usd", max_usd)):
            if cap is not None:
                msg = f"{name}={cap!r} is for Lambda: {self._backend.name} costs nothing"
                raise UsageError(msg)
        return Guards()

    def _observers(
        self, options: MapOptions, ledger: Ledger | None
    ) -> list[Callable[[RunEvent], None]]:
        shown = options.get("progress")
        is_billed = ledger is not None and self._backend.billed is not None
        observers: list[Callable[[RunEvent], None]] = [ledger] if ledger and is_billed else []
        if self._shows_progress if shown is None else shown:
            from fanout.progress import Progress

            observers.append(Progress(ledger if is_billed else None))
        if (on_event := options.get("on_event")) is not None:
            observers.append(on_event)
        return observers


def _kept(options: MapOptions) -> dict[str, Any] | None:
    """Options that hold for a run when it is resumed; None if one can't be written down."""
    kept = {name: value for name, value in options.items() if name not in _OF_THE_CALL}
    if options.get("retry") is not None:
        policy = dataclasses.asdict(options["retry"])
        if policy.pop("on"):
            return None
        kept["retry"] = policy
    try:
        json.dumps(kept)
    except (TypeError, ValueError):  # a number of numpy's, say
        return None
    return kept
