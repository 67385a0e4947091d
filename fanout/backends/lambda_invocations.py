"""Invocations of one function: a message there, and its reply, or why there is none.

What went wrong is told in the terms of `retry`; nothing is sent again here. An invocation can't be
cancelled: one that is given up runs on.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from fanout.backends import AttemptError
from fanout.backends.answer_form import AnswerForm
from fanout.backends.lambda_billing import billed_time, lost
from fanout.backends.lambda_messages import body_of, reply_of
from fanout.errors import BackendError, DecodeError
from fanout.hard_stops import GRACE_S
from fanout.invoke import CertificateError, ConnectionLostError
from fanout.invoke.answers import failure_of, is_expired
from fanout.lambda_wire import AlteredError
from fanout.retry import Failure, FailureKind
from fanout.wire import Message

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.invoke import Answer, Invoker
    from fanout.invoke.answers import About
    from fanout.lambda_wire import Accepts
    from fanout.request import Request
    from fanout.spilled import Spill


class Invocations:
    """Those of one function.

    Args:
        invoker: Sends them; who made it opens and closes it.
        about: The function.

    Attributes:
        about: The function, as far as it is known: what AWS tells of it is put here.
        in_flight: How many have no answer yet.
    """

    def __init__(self, invoker: Invoker, about: About) -> None:
        self.about = about
        self.in_flight = 0
        self._invoker = invoker
        self._form = AnswerForm()
        self._has_replied = False

    async def exchange(
        self, request: Request, message: Message, started: Callable[[], None]
    ) -> Message:
        """Invoke the function once, and have the reply.

        Args:
            request: One attempt.
            message: What is sent for it, with the code that goes along.
            started: Called when it is sent.

        Raises:
            AttemptError: There is no reply, or the message can't be carried.
        """
        wanted = self._form.wanted(may_run_twice=request.is_idempotent)
        body = await body_of(message, wanted, request.spill)
        try:
            return await self._answered(request, body.content, wanted, started)
        finally:
            # An attempt that was lost may still run, and then finds nothing: its end is nobody's
            # affair any more.
            if body.spilled is not None and request.spill is not None:
                request.spill.done([body.spilled])

    async def _answered(
        self, request: Request, body: list[bytes], wanted: Accepts, started: Callable[[], None]
    ) -> Message:
        is_probe = self._form.sent(wanted)
        sent_s = time.perf_counter()
        try:
            answer = await self._sent(body, started)
        finally:
            if is_probe:
                self._form.probe_ended()
        elapsed_s = time.perf_counter() - sent_s
        failure = self._failure(answer, request, elapsed_s)
        shown: Accepts | None = None
        if failure is None:
            reply, came_as_bytes, failure = await self._read(answer, request.spill)
            shown = "json" if failure is not None else "bytes" if came_as_bytes else None
            self._has_replied = self._has_replied or failure is None
        elif is_probe and failure.kind is FailureKind.CRASHED:
            # Some stand-ins for Lambda can't hand bytes over at all, and break the environment: so
            # the tasks may not be to blame.
            failure = replace(failure, kind=FailureKind.MAYBE_RAN)
            shown = "json"
        if is_probe and shown is not None:
            self._form.shown(shown)
        if failure is not None:
            billed = billed_time(answer, self.about, elapsed_s, None)
            if billed is None and failure.kind is FailureKind.MAYBE_RAN:
                billed = lost(self.about)
            raise AttemptError(replace(failure, billed=billed))
        billed = billed_time(answer, self.about, elapsed_s, reply)
        return Message(reply.head, reply.payload, billed)

    async def _sent(self, body: list[bytes], started: Callable[[], None]) -> Answer:
        self.in_flight += 1
        try:
            started()
            return await self._invoker.invoke(body)
        except CertificateError as error:
            raise AttemptError(self._untrusted(error)) from error
        except BackendError as error:
            failure = Failure(
                kind=FailureKind.DID_NOT_RUN, error=error, is_fatal=True, reason="NoCredentials"
            )
            raise AttemptError(failure) from error
        except ConnectionLostError as error:
            kind = FailureKind.MAYBE_RAN if error.was_sent else FailureKind.UNREACHABLE
            reason = None if error.__cause__ is None else type(error.__cause__).__name__
            billed = lost(self.about) if error.was_sent else None
            failure = Failure(kind=kind, detail=str(error), reason=reason, billed=billed)
            raise AttemptError(failure) from error
        finally:
            self.in_flight -= 1

    def _failure(self, answer: Answer, request: Request, elapsed_s: float) -> Failure | None:
        """What an answer means that holds no reply; None if it does."""
        if answer.status == 200 and answer.header(b"x-amz-function-error") is None:
            return None
        headers = answer.headers
        failure = failure_of(answer.status, headers, answer.body, self.about)
        if failure is None:
            return None
        if failure.is_fatal and answer.status == 200 and self._has_replied:
            # It is a function of ours: the error was damaged on the way, most likely.
            failure = Failure(kind=FailureKind.MAYBE_RAN, detail=failure.detail)
        if is_expired(answer.status, headers, answer.body):
            self._invoker.forget_credentials()
        if failure.kind is not FailureKind.CRASHED:
            return failure
        # The worker's watchdog ends the process when nothing else ends a task.
        if (allowed_s := request.timeout_s) is not None and elapsed_s >= allowed_s + GRACE_S:
            return replace(failure, kind=FailureKind.TIMED_OUT, timeout_s=allowed_s)
        if request.ends_s is not None and elapsed_s >= request.ends_s:
            return replace(failure, kind=FailureKind.TIMED_OUT, hard_s=request.ends_s)
        return failure

    async def _read(
        self, answer: Answer, spill: Spill | None
    ) -> tuple[Message, bool, Failure | None]:
        """The reply, and whether it came as bytes; or what it means that it can't be read."""
        try:
            return *await reply_of(answer.parts, spill), None
        except DecodeError as error:
            if isinstance(error, AlteredError):
                self._form.altered()
            failure = Failure(kind=FailureKind.MAYBE_RAN, detail=str(error))
            return Message({}), False, failure

    def _untrusted(self, error: Exception) -> Failure:
        message = (
            f"the certificate of {self._invoker.url} isn't trusted ({error}): if a proxy of your "
            "organisation is in between, set AWS_CA_BUNDLE to its certificates"
        )
        return Failure(kind=FailureKind.REFUSED, error=BackendError(message), is_fatal=True)
