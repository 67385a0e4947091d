"""What failures hold a run up, and how they are told: in words, with what to do.

Pure. By the kind and the reason of a failure; its text is only shown.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from fanout.retry import FailureKind

if TYPE_CHECKING:
    from fanout.retry import Failure

_MOST_CHARACTERS: Final = 120  # of a failure's detail


class Cause(enum.Enum):
    """What a run may wait for; the most telling first."""

    CREDENTIALS = "credentials"
    NO_NAME = "DNS"
    NOT_REACHED = "not reached"
    THROTTLED = "throttled"
    FAILING = "failing"
    NOT_STARTED = "not started"
    NO_ANSWER = "no answer yet"
    SLOW = "slow"
    BUDGET = "budget"
    NO_ROOM = "no room"
    CONSUMER = "consumer"
    INPUT = "input"


_NETWORK: Final = "check the network, a proxy, and the endpoint"
# The reasons of refusals of connections are the names of the exceptions behind them.
_UNREACHABLE: Final = {
    "gaierror": (
        Cause.NO_NAME,
        "the endpoint's name can't be resolved",
        "check the region, AWS_ENDPOINT_URL, DNS, and the network",
    ),
    "ConnectionRefusedError": (
        Cause.NOT_REACHED,
        "the endpoint refuses connections",
        "nothing listens there: check AWS_ENDPOINT_URL, or start it (`fanout emulate`)",
    ),
    "TimeoutError": (
        Cause.NOT_REACHED,
        "the endpoint takes no connection",
        f"a firewall may be in between: {_NETWORK}",
    ),
}
# Reasons of a 429 (Lambda API reference, TooManyRequestsException, 2026-11).
_THROTTLED: Final = {
    "ConcurrentInvocationLimitExceeded": (
        "the account's concurrency is used up",
        "see what else runs in this account and region, or ask AWS for a higher quota",
    ),
    "ReservedFunctionConcurrentInvocationLimitExceeded": (
        "all of the function's reserved concurrency is used",
        "reserve more for it, or see who else invokes it",
    ),
    "FunctionInvocationRateLimitExceeded": (
        "more requests or new environments a second than Lambda takes",
        "it goes on by itself; rate= keeps below the limit",
    ),
    "ReservedFunctionInvocationRateLimitExceeded": (
        "more requests a second than ten times the function's reserved concurrency",
        "reserve more for it, or make larger groups",
    ),
    "CallerRateLimitExceeded": (
        "more requests a second than this caller may send",
        "it goes on by itself; rate= keeps below the limit",
    ),
    "ConcurrentSnapshotCreateLimitExceeded": (
        "too many snapshots are being created in the account",
        "it goes on by itself",
    ),
}
_EXPIRED: Final = frozenset({"ExpiredToken", "ExpiredTokenException"})
_DENIED: Final = frozenset({"AccessDenied", "AccessDeniedException", "NotAuthorized"})
_CREDENTIALS: Final = _EXPIRED | _DENIED | {"NoCredentials"}
_FAILING: Final = {
    FailureKind.CRASHED: "run the kernel on one chunk here, to see why its process ends",
    FailureKind.OUT_OF_MEMORY: "give the function more memory, or make chunks smaller",
    FailureKind.TIMED_OUT: "make chunks smaller, or the timeout longer",
    FailureKind.MAYBE_RAN: f"answers are lost on the way: {_NETWORK}",
    FailureKind.DID_NOT_RUN: "workers can't start: see why the last one did not",
    FailureKind.KERNEL_RAISED: "RetryPolicy(on=...) has it tried again: is what it asks down?",
}


def cause_of(failure: Failure) -> Cause:
    """What holds a run up that fails so."""
    if failure.reason in _CREDENTIALS:
        return Cause.CREDENTIALS
    if failure.kind is FailureKind.THROTTLED:
        return Cause.THROTTLED
    if failure.kind is FailureKind.UNREACHABLE:
        return _UNREACHABLE.get(failure.reason or "", (Cause.NOT_REACHED,))[0]
    return Cause.FAILING


def told(cause: Cause, failure: Failure) -> tuple[str, str]:
    """What failed, and what to do, of the last failure of a cause."""
    detail = (failure.detail or str(failure.error or "")).strip().partition("\n")[0]
    detail = detail[:_MOST_CHARACTERS]
    if cause is Cause.CREDENTIALS:
        if failure.reason in _EXPIRED:
            return "the AWS credentials have expired", "log in again (`aws sso login`)"
        if failure.reason in _DENIED:
            return "AWS denies it", "allow lambda:InvokeFunction on this function"
        return "there are no AWS credentials", "run `aws configure` or `aws sso login`"
    if cause is Cause.THROTTLED:
        usual = ("the service takes no more", "it goes on by itself, once there is room")
        why, remedy = _THROTTLED.get(failure.reason or "", usual)
        return f"throttled, {why}", remedy
    if cause in {Cause.NO_NAME, Cause.NOT_REACHED}:
        usual_one = (cause, "the endpoint can't be reached", _NETWORK)
        _, why, remedy = _UNREACHABLE.get(failure.reason or "", usual_one)
        return f"{why}, {detail}" if detail else why, remedy
    why = ": ".join(part for part in (failure.kind.value, detail) if part)
    remedy = _FAILING.get(failure.kind, "run the kernel on one chunk, to see why")
    return f"tried again after errors, the last: {why}", remedy
