"""The entry of the container image: what AWS's runtime client calls for each invocation.

    CMD ["fanout.handler.handle"]

`Worker.run` between a document in and bytes out. The environment keeps its worker, and so its
kernels, from one invocation to the next. What is too large for an invocation goes through a store,
if the client has one. Like the worker, it imports the standard library and numpy
only: what is imported here is part of every cold start.
"""

from __future__ import annotations

import math
import time
import uuid
from typing import TYPE_CHECKING, Any, Final, Protocol

from fanout.errors import StoreError
from fanout.lambda_wire import (
    message_of,
    read_request,
    reply_body,
    reply_parts,
    reply_room,
    spilled_reply,
)
from fanout.spilled import Spilled, digest_of, size_of
from fanout.stopping import Allowance
from fanout.wire import Message
from fanout.worker import Worker, refused

if TYPE_CHECKING:
    from fanout.codec import Buffer
    from fanout.lambda_wire import Arrived

# Kept back from the function's timeout, to write the reply and hand it over: this, or a fifth of
# what is left if that is less.
_REPORT_S: Final = 0.5
# For all of a reply that grows with nothing: what the worker says of itself.
_HEAD_BYTES: Final = 16 * 1024

_WORKER: Final = Worker()


class Context(Protocol):
    """What the runtime tells of an invocation; of it, what is used here."""

    def get_remaining_time_in_millis(self) -> int:
        """Until the function's timeout."""
        ...


def handle(event: object, context: Context) -> bytes | dict[str, Any]:
    """Run the kernel of a request on its chunks.

    Raises:
        ProtocolError: It is not a request of this version of fanout.
        DecodeError: It is damaged.
    """
    left_s = context.get_remaining_time_in_millis() / 1000
    until_s = time.perf_counter() + left_s - min(_REPORT_S, left_s / 5)
    arrived = read_request(event)
    try:
        message = _message(arrived)
        prefix = message.head.get("spill")
        reply = _WORKER.run(
            message,
            Allowance(
                until_s=until_s,
                service_s=math.ceil(left_s),  # a function's timeout is in whole seconds
                reply_bytes=math.inf if prefix else reply_room(arrived.accepts) - _HEAD_BYTES,
            ),
        )
        parts = reply_parts(reply)
        if prefix and size_of(parts) > reply_room(arrived.accepts):
            return spilled_reply(_stored(parts, prefix, message.head["store"]))
    except StoreError as error:
        parts = reply_parts(refused("store", str(error)))
    return reply_body(parts, arrived.accepts)


def _message(arrived: Arrived) -> Message:
    """The request itself, wherever it is."""
    if isinstance(arrived.message, Message):
        return arrived.message
    from fanout.far_stores import kept_store

    assert arrived.store is not None  # as `read_request` has seen to
    spilled = arrived.message
    content = kept_store(arrived.store).get(spilled.key)
    spilled.check(content)
    return message_of([content])


def _stored(parts: list[Buffer], prefix: str, locator: dict[str, Any]) -> Spilled:
    """Put a reply into the store."""
    from fanout.far_stores import kept_store

    spilled = Spilled(
        key=f"{prefix}{uuid.uuid4().hex}", nbytes=size_of(parts), digest=digest_of(parts)
    )
    kept_store(locator).put(spilled.key, parts, digest=spilled.digest)
    return spilled
