"""Messages to and from a function: in an invocation itself, or through the store if too large."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fanout.backends import AttemptError
from fanout.errors import StoreError
from fanout.lambda_wire import (
    LIMIT_BYTES,
    message_in,
    read_reply,
    request_body,
    request_bytes,
    request_parts,
    spilled_request,
)
from fanout.retry import Failure, FailureKind
from fanout.spilled import Spilled, size_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanout.codec import Buffer
    from fanout.lambda_wire import Accepts
    from fanout.spilled import Spill
    from fanout.wire import Message

# What is larger is encoded, or decoded, in a thread.
_LARGE_BYTES: Final = 256 * 2**10


@dataclass(frozen=True, slots=True)
class Body:
    """The body of an Invoke request.

    Attributes:
        content: It, in pieces.
        spilled: The message in the store, if that is where it is.
    """

    content: list[bytes]
    spilled: Spilled | None = None


async def body_of(message: Message, accepts: Accepts, spill: Spill | None) -> Body:
    """A request as it is sent.

    Raises:
        AttemptError: It is larger than Lambda takes, and there is no store; or that failed.
    """
    if message.payload.nbytes < _LARGE_BYTES:
        parts = request_parts(message)
    else:
        parts = await asyncio.to_thread(request_parts, message)
    size = request_bytes(parts, accepts=accepts)
    if size > LIMIT_BYTES:
        return await _spilled(parts, size, accepts, spill)
    if size < _LARGE_BYTES:
        return Body([b"".join(request_body(parts, accepts=accepts))])
    return Body(await asyncio.to_thread(request_body, parts, accepts=accepts))


async def _spilled(
    parts: Sequence[Buffer], size: int, accepts: Accepts, spill: Spill | None
) -> Body:
    if spill is None:
        raise AttemptError(_too_large(size))
    try:
        spilled = await spill.put(parts)
    except StoreError as error:
        raise AttemptError(Failure(kind=FailureKind.REFUSED, error=error)) from error
    return Body(spilled_request(spilled, spill.locator, accepts=accepts), spilled)


def _too_large(size: int) -> Failure:
    detail = (
        f"its chunk and kernel are {size / 1e6:,.1f} MB encoded, and a request of Lambda holds "
        f"{LIMIT_BYTES / 1e6:,.1f} MB: name a store that it can go through (fanout.Executor("
        "backend, store='s3://bucket/prefix'), or FANOUT_STORE), or make chunks smaller"
    )
    return Failure(kind=FailureKind.REFUSED, detail=detail)


async def reply_of(parts: Sequence[bytes], spill: Spill | None) -> tuple[Message, bool]:
    """The reply that an answer holds, and whether it came as bytes.

    Raises:
        AlteredError: It went through something that changes bytes.
        DecodeError: It is damaged.
        AttemptError: It lies in the store, and can't be had.
    """
    if size_of(parts) < _LARGE_BYTES:
        reply = read_reply(parts)
    else:
        reply = await asyncio.to_thread(read_reply, parts)
    if not isinstance(reply, Spilled):
        return reply, parts[0][:1] != b"{"
    assert spill is not None  # else the worker would not have known where to
    try:
        content = await spill.get(reply)
    except StoreError as error:
        raise AttemptError(Failure(kind=FailureKind.REFUSED, error=error)) from error
    spill.done([reply])
    return message_in(content), False
