"""When to launch nothing: the service throttles, or can't be reached.

Pure. The first refusal of a wave decides how long to wait (those that were on their way with it say
nothing new); waves that follow each other wait longer, until an answer comes. A refusal costs no
task anything; but when nothing else comes for too long, the run is given up.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from fanout.retry import Failure, FailureKind, RetryPolicy

if TYPE_CHECKING:
    from random import Random

# For how long nothing but refusals of a kind may come before the run is given up, seconds. A
# throttle ends when other work of the account does, and the longest invocation is a quarter of an
# hour: twice that. A connection comes back within seconds, or not at all.
PATIENCE_S: Final = {FailureKind.THROTTLED: 1800.0, FailureKind.UNREACHABLE: 120.0}
_REMEDIES: Final = {
    FailureKind.THROTTLED: "look for what else uses the account's or the function's concurrency",
    FailureKind.UNREACHABLE: "check the network and the endpoint, then run it again",
}


class Throttle:
    """Learns from refusals, and answers from when on attempts may be launched again."""

    def __init__(self, retry: RetryPolicy, rng: Random) -> None:
        self._retry = retry
        self._rng = rng
        self._since_s: dict[FailureKind, float] = {}
        self._waves = 0
        self.until_s = -math.inf

    def __repr__(self) -> str:
        return f"<Throttle: {self._waves} waves since the last answer, until {self.until_s:.3f} s>"

    def answered(self) -> None:
        """A worker had an attempt, whatever became of it: the service is there."""
        self._waves = 0
        self._since_s.clear()

    def refused(self, failure: Failure, now_s: float, *, pauses: bool = True) -> None:
        """Wait after this refusal: longer each time, and at least as long as the service says.

        Args:
            failure: Why, and how long to wait.
            now_s: When.
            pauses: Whether to wait at all; if not, somebody else sees to that (`capacity`).
        """
        if failure.kind is FailureKind.THROTTLED:  # so it can be reached
            self._since_s.pop(FailureKind.UNREACHABLE, None)
        self._since_s.setdefault(failure.kind, now_s)
        if not pauses:
            return
        if now_s >= self.until_s:  # the first of a wave
            self._waves += 1
            self.until_s = now_s + self._retry.delay_s(self._waves, self._rng)
        if failure.wait_s is not None:
            self.until_s = max(self.until_s, now_s + failure.wait_s)

    def is_hopeless(self, kind: FailureKind, now_s: float) -> bool:
        """Whether such refusals have been all there is for too long."""
        return now_s - self._since_s.get(kind, now_s) > PATIENCE_S[kind]

    def why(self, failure: Failure) -> str:
        """Why the run is given up, and what to do."""
        last = f", the last time: {failure.detail}" if failure.detail else ""
        waited = f"{failure.kind.value} for more than {PATIENCE_S[failure.kind]:g} s{last}"
        return f"{waited}: {_REMEDIES[failure.kind]}"
