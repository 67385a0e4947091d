"""One attempt, carried to the backend; its reply, or what went wrong, is an event."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fanout.backends import AttemptError
from fanout.errors import DecodeError
from fanout.events import AttemptAnswered, AttemptFailed
from fanout.reply import read
from fanout.request import build
from fanout.retry import Failure, FailureKind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fanout.backends import Backend
    from fanout.events import Launch
    from fanout.request import Request
    from fanout.tasks import Environment
    from fanout.wire import Message


class Carrier:
    """Carries the attempts of one run.

    Args:
        backend: Runs them.
        request: What all its requests have in common.
        chunks: Those of tasks that are not settled, by task.
        attempts_of: How many attempts a task has had.
    """

    def __init__(
        self,
        backend: Backend,
        request: Request,
        chunks: Mapping[int, Any],
        attempts_of: Callable[[int], int],
    ) -> None:
        self._backend = backend
        self._request = request
        self._chunks = chunks
        self._attempts_of = attempts_of
        self._environments: dict[str, Environment] = {}

    async def carry(
        self, launch: Launch, started: Callable[[], None]
    ) -> AttemptAnswered | AttemptFailed:
        """Send an attempt, and tell what came of it.

        Args:
            launch: The attempt.
            started: Called when a worker has it.
        """
        number, tasks = launch.attempt, launch.tasks
        if launch.covers is not None:  # the one that it covers may have answered since
            tasks = [task for task in tasks if task in self._chunks]
        reply: Message | None = None
        try:
            request, sent, outcomes = build(
                self._request,
                tasks,
                self._chunks,
                soft_s=launch.soft_s,
                hard_s=launch.hard_s,
                ends_s=launch.ends_s,
                is_escalated=launch.is_escalated,
            )
            if not sent:
                return AttemptAnswered(number, outcomes, None)
            reply = await self._backend.invoke(request, started)
            answer = read(
                reply,
                attempt=number,
                tasks=sent,
                is_safe=request.is_safe,
                request_bytes=request.nbytes,
                attempts_of=self._attempts_of,
                environments=self._environments,
            )
        except AttemptError as error:
            return AttemptFailed(number, error.failure)
        except DecodeError as error:
            detail = f"sent a reply that can't be read ({error})"
            billed = None if reply is None else reply.billed
            failure = Failure(kind=FailureKind.CRASHED, detail=detail, billed=billed)
            return AttemptFailed(number, failure)
        if outcomes and isinstance(answer, AttemptAnswered):
            answer = replace(answer, outcomes=[*answer.outcomes, *outcomes])
        return answer
