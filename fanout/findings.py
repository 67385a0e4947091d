"""What the runs of an executor find out for those after them, in this process and in later ones.

Three things: what the tasks of a kernel take, what starts take, how fast the client launches. They
are passed on in memory; where attempts are billed (`Site`) they also come out of the file that
`journal.knowledge` keeps, before the first run, and go there when the executor closes. On this
machine that brings nothing: 100,000 tasks that do nothing take as long with it as without.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from fanout.lateness import Starts

if TYPE_CHECKING:
    from fanout.backends import Site
    from fanout.grouping import Estimate, Grouping
    from fanout.journal.knowledge import Knowledge
    from fanout.kernel_spec import KernelSpec

# Kernels of which it is remembered how long their tasks take.
_ESTIMATES_KEPT: Final = 256


class Estimates:
    """How long the tasks of kernels take, of those that ran last: the next run begins with it."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Estimate] = OrderedDict()

    def of(self, kernel: str) -> Estimate | None:
        """What is known of a kernel."""
        return self._kept.get(kernel)

    def keep(self, kernel: str, grouping: Grouping) -> None:
        """Remember what a run has found, if it has."""
        if grouping.estimate is None:
            return
        self._kept[kernel] = grouping.estimate
        self._kept.move_to_end(kernel)
        if len(self._kept) > _ESTIMATES_KEPT:
            self._kept.popitem(last=False)


class Findings:
    """What is known, and what was found since.

    Attributes:
        starts: What starts take; runs add to it.
        launches_per_s: What the client can do; None if that was not measured.
    """

    def __init__(self) -> None:
        self._estimates = Estimates()
        self.starts = Starts()
        self.launches_per_s: float | None = None
        self._knowledge: tuple[Knowledge, Site] | None = None
        self._recalled: dict[str, Estimate] = {}
        self._tasks: dict[str, int] = {}  # by kernel, how many were measured
        self._is_measured = False  # launches
        self._is_private = False

    async def recall(self, site: Site) -> None:
        """Begin with what earlier processes have measured there."""
        from fanout.journal.knowledge import Knowledge

        if self._knowledge is not None:  # the executor was open before
            return
        knowledge = Knowledge()
        known = await asyncio.to_thread(knowledge.recall, site)
        self._knowledge = knowledge, site
        self._recalled = {kernel: time.estimate for kernel, time in known.kernels.items()}
        cold, warm = (
            known.starts[is_warm].bins if is_warm in known.starts else {}
            for is_warm in (False, True)
        )
        self.starts = Starts(cold, warm)
        self.launches_per_s = known.launches_per_s

    def key(self, spec: KernelSpec, kernel: object) -> str:
        """Names a kernel, by how it travels and as the caller passed it."""
        if self._knowledge is None:
            return spec.digest
        from fanout.journal.knowledge import kernel_key

        return kernel_key(spec, kernel)

    def estimate(self, kernel: str) -> Estimate | None:
        """What the tasks of a kernel take."""
        return self._estimates.of(kernel) or self._recalled.get(kernel)

    def keep(self, kernel: str | None, grouping: Grouping, *, is_private: bool = False) -> None:
        """A run has ended.

        Args:
            kernel: Of which this is known for later runs; None: it isn't.
            grouping: What the run has found.
            is_private: Nothing of it shall be in a file.
        """
        if grouping.measured_launches_per_s is not None:
            self.launches_per_s = grouping.measured_launches_per_s
            self._is_measured = True
        self._is_private |= is_private
        if kernel is not None and grouping.measured_tasks:
            self._estimates.keep(kernel, grouping)
            if is_private:
                self._tasks.pop(kernel, None)
            else:
                self._tasks[kernel] = self._tasks.get(kernel, 0) + grouping.measured_tasks

    async def aclose(self) -> None:
        """Keep what was measured for later processes."""
        if self._knowledge is None:
            return
        from fanout.journal.knowledge import Known, StartTimes, TaskTime

        kernels = {
            kernel: TaskTime(estimate=estimate, tasks=tasks)
            for kernel, tasks in self._tasks.items()
            if (estimate := self._estimates.of(kernel)) is not None
        }
        found = Known(kernels=kernels)
        if not self._is_private:  # else it can't be told which are whose
            starts = {}
            if self.starts.seen:
                starts = {
                    is_warm: StartTimes(bins=bins, answers=self.starts.seen)
                    for is_warm in (False, True)
                    if (bins := self.starts.thinned(is_warm=is_warm))
                }
            rate = self.launches_per_s if self._is_measured else None
            found = Known(kernels=kernels, starts=starts, launches_per_s=rate)
        if found != Known():
            self._tasks.clear()
            self.starts.seen, self._is_measured = 0, False
            knowledge, site = self._knowledge
            await asyncio.to_thread(knowledge.keep, site, found)
