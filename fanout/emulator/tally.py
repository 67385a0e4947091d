"""What has happened in an emulator so far: counted as it happens, shown as a record."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fanout.emulator.faults import StartFaults
    from fanout.emulator.pool import Pool


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How much there was of what.

    Attributes:
        invocations: That were let in.
        cold_starts: Environments that were started.
        throttles: Refused by the limits, by reason; those by fault injection are faults.
        faults: That befell an invocation or an environment, by name.
        running: Invocations now.
        environments: That live now.
    """

    invocations: int
    cold_starts: int
    throttles: Mapping[str, int]
    faults: Mapping[str, int]
    running: int
    environments: int


class Tally:
    """Counts.

    Attributes:
        invocations: That were let in.
    """

    def __init__(self) -> None:
        self.invocations = 0
        self._cold_starts = 0
        self._throttles: Counter[str] = Counter()
        self._faults: Counter[str] = Counter()

    def throttle(self, reason: str) -> None:
        """One more was refused."""
        self._throttles[str(reason)] += 1

    def fault(self, name: str) -> None:
        """One more was befallen."""
        self._faults[str(name)] += 1

    def cold_start(self, faults: StartFaults) -> None:
        """One more environment was started, perhaps with faults."""
        self._cold_starts += 1
        if faults.delay_s:
            self.fault("slow_start")
        if faults.factor > 1:
            self.fault("slow_environment")

    def counts(self, pool: Pool | None) -> Counts:
        """Where it stands."""
        return Counts(
            invocations=self.invocations,
            cold_starts=self._cold_starts,
            throttles=dict(self._throttles),
            faults=dict(self._faults),
            running=pool.admission.running if pool else 0,
            environments=pool.environments if pool else 0,
        )
