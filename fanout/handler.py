"""The entry of the container image: what AWS's runtime client calls for each invocation.

    CMD ["fanout.handler.handle"]

`Worker.run` between a document in and bytes out. The environment keeps its worker, and so its
kernels, from one invocation to the next. Like the worker, it imports the standard library and numpy
only: what is imported here is part of every cold start.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

from fanout.lambda_wire import LIMIT_BYTES, read_request, reply_body
from fanout.stopping import Allowance
from fanout.worker import Worker

if TYPE_CHECKING:
    from fanout.lambda_wire import Accepts

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
    message, accepts = read_request(event)
    left_s = context.get_remaining_time_in_millis() / 1000
    reply = _WORKER.run(message, _allowance(left_s, accepts))
    return reply_body(reply, accepts)


def _allowance(left_s: float, accepts: Accepts) -> Allowance:
    room = LIMIT_BYTES if accepts == "bytes" else LIMIT_BYTES * 3 // 4
    return Allowance(
        until_s=time.perf_counter() + left_s - min(_REPORT_S, left_s / 5),
        service_s=math.ceil(left_s),  # a function's timeout is in whole seconds
        reply_bytes=room - _HEAD_BYTES,
    )
