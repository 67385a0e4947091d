"""How an invocation can end, and what Lambda answers to each. Pure.

Whatever the function did wrong is answered with status 200; that it failed is said in a header, and
the body says how.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TypeAlias

import fanout.emulator.quotas as quotas


@dataclass(frozen=True, slots=True)
class Returned:
    """The handler returned; any bytes."""

    body: bytes


@dataclass(frozen=True, slots=True)
class Failed:
    """The runtime reported an error: the handler's, or, in Init, of importing it."""

    body: bytes


@dataclass(frozen=True, slots=True)
class TooLarge:
    """What the handler returned exceeds the maximum."""


@dataclass(frozen=True, slots=True)
class Exited:
    """The process ended; `how` as Lambda says it."""

    how: str


@dataclass(frozen=True, slots=True)
class TimedOut:
    """It took longer than the function's timeout."""


End: TypeAlias = Returned | Failed | TooLarge | Exited | TimedOut


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What an invocation gives.

    Attributes:
        body: The payload.
        error_type: Of a function that failed, else empty.
        status: For the REPORT line: "timeout", "error" or empty.
        log: The log of this invocation.
    """

    body: bytes
    error_type: str = ""
    status: str = ""
    log: str = ""

    @property
    def is_error(self) -> bool:
        """Whether the function failed."""
        return bool(self.error_type)


def answer(end: End, request_id: str, timeout_s: float) -> Answer:
    """What is answered to an end."""
    match end:
        case Returned(body):
            return Answer(body=body)
        case Failed(body):
            # Of an error that the runtime reports the REPORT line says nothing.
            return Answer(body=body, error_type=_error_type(body))
        case TooLarge():
            name = "Function.ResponseSizeTooLarge"
            limit = quotas.SYNC_PAYLOAD_BYTES
            message = (
                f"Response payload size exceeded maximum allowed payload size ({limit} bytes)."
            )
            return _service_made(name, message, "error")
        case Exited(how):
            message = f"RequestId: {request_id} Error: {how}"
            return _service_made("Runtime.ExitError", message, "error")
        case TimedOut():
            message = f"RequestId: {request_id} Error: Task timed out after {timeout_s:.2f} seconds"
            return _service_made("Sandbox.Timedout", message, "timeout")


def _service_made(error_type: str, message: str, status: str) -> Answer:
    body = json.dumps({"errorType": error_type, "errorMessage": message}, separators=(",", ":"))
    return Answer(body=body.encode(), error_type=error_type, status=status)


def _error_type(body: bytes) -> str:
    try:
        found = json.loads(body)["errorType"]
    except (ValueError, KeyError, TypeError):
        return "Unhandled"
    return str(found) or "Unhandled"
