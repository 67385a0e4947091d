"""The far end as another version of fanout would have it: it speaks the next protocol."""

from __future__ import annotations

import fanout.wire

# Before the handler's modules take it from there.
vars(fanout.wire)["PROTOCOL"] = fanout.wire.PROTOCOL + 1

from fanout.handler import handle  # noqa: E402

__all__ = ["handle"]
