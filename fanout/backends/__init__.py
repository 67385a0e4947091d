"""Where attempts run. A backend carries one request to a worker and brings back its reply.

It knows nothing of tasks, retries or order: those are the scheduler's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.budget import Billed
    from fanout.capacity import Capacity
    from fanout.grouping import GroupPolicy
    from fanout.request import Request
    from fanout.retry import Failure
    from fanout.wire import Message


class AttemptError(Exception):
    """The attempt brought no reply; `failure` says why, in the terms of `retry`."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.detail or failure.kind.value)
        self.failure = failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where attempts run, by what decides how long they take.

    Attributes:
        kind: Of backend; with the host, if that is not the provider's own.
        function: Names the function, and the version of its code.
        memory_mb: Of an environment, MB.
        architecture: Of its processor; empty if that is not told.
    """

    kind: str
    function: str
    memory_mb: int
    architecture: str = ""


class Backend(Protocol):
    """What the executor needs of a backend."""

    @property
    def name(self) -> str:
        """For people: progress, summaries, reports."""
        ...

    @property
    def concurrency(self) -> int:
        """Most attempts that can run at once."""
        ...

    @property
    def limit(self) -> int:
        """Most attempts to launch at once: those that run, and those that wait at the door."""
        ...

    @property
    def stops_tasks(self) -> bool:
        """Whether the worker itself stops tasks at `timeout_s`.

        If not, `started` is called, and an attempt that takes longer from there is cancelled.
        """
        ...

    @property
    def is_remote(self) -> bool:
        """Whether workers are on other machines, and can't see files of this one."""
        ...

    @property
    def capacity(self) -> Capacity | None:
        """What the service takes, of all runs together; None: `limit` is all there is to know."""
        ...

    @property
    def billed(self) -> Billed | None:
        """What an attempt may cost; None: nothing."""
        ...

    @property
    def can_escalate(self) -> bool:
        """Whether `Request.is_escalated` leads to where there is more memory, or more time."""
        ...

    @property
    def grouping(self) -> GroupPolicy:
        """How much an attempt should carry, by what one costs here."""
        ...

    async def start(self) -> None:
        """Get ready; called once, before the first `invoke`."""
        ...

    async def invoke(self, request: Request, started: Callable[[], None]) -> Message:
        """Run one attempt and return its reply.

        Args:
            request: What to send.
            started: To be called when a worker takes the attempt: its time runs from there.

        Cancelling it gives the attempt up: its work is stopped where that is possible.

        Raises:
            AttemptError: There is no reply, or there will be none.
        """
        ...

    async def aclose(self) -> None:
        """Let everything go that `start` and `invoke` took. Leaves no process, task or socket."""
        ...
