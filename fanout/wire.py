"""A message between client and worker, and its form on a byte stream.

A message is a head (what this is about, JSON), a body (the values, as `codec` writes them) and the
buffers that the body refers to. On a stream it is one frame:

    magic  total head body count | size... | head | body | buffer... (each at a multiple of 64)

so that a reader knows after 40 bytes how much memory to take, and can receive large arrays into
the very place where they stay. Pure; standard library only, since the worker runs it.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from fanout.codec import Encoded
from fanout.errors import DecodeError

if TYPE_CHECKING:
    from fanout.codec import Buffer

# Raised whenever an older worker could misunderstand a request, or an older client a reply.
PROTOCOL: Final = 1

_MAGIC: Final = b"fanout1\n"
_PREFIX: Final = struct.Struct("<8sQQQQ")
PREFIX_BYTES: Final = _PREFIX.size
# Enough for every numpy dtype, and a cache line.
_ALIGNMENT: Final = 64
_ZEROS: Final = bytes(_ALIGNMENT)


@dataclass(frozen=True, slots=True)
class Message:
    """A request or a reply."""

    head: dict[str, Any]
    payload: Encoded = field(default_factory=lambda: Encoded(b"null"))


def frame(message: Message) -> list[Buffer]:
    """The message as a list of byte strings to send one after the other."""
    head = json.dumps(message.head, separators=(",", ":")).encode("ascii")
    body = message.payload.body
    views = [memoryview(buffer).cast("B") for buffer in message.payload.buffers]
    sizes = struct.pack(f"<{len(views)}Q", *(view.nbytes for view in views))
    start = PREFIX_BYTES + len(sizes) + len(head) + len(body)
    parts: list[Buffer] = [sizes, head, body]
    total = start
    for view in views:
        gap = -total % _ALIGNMENT
        parts += [_ZEROS[:gap], view]
        total += gap + view.nbytes
    prefix = _PREFIX.pack(_MAGIC, total, len(head), len(body), len(views))
    return [prefix, *parts]


def frame_bytes(prefix: Buffer) -> int:
    """Length of the whole frame, from its first `PREFIX_BYTES` bytes."""
    magic, total, *_ = _PREFIX.unpack_from(prefix)
    if magic != _MAGIC:
        raise DecodeError(f"not a fanout message: it begins with {bytes(magic)!r}")
    return int(total)


def unframe(memory: memoryview) -> Message:
    """Read a whole frame; the message's buffers are views of `memory`.

    Raises:
        DecodeError: The frame is cut short or contradicts itself.
    """
    try:
        _, total, head_bytes, body_bytes, count = _PREFIX.unpack_from(memory)
        if total != memory.nbytes:
            raise DecodeError(f"a message of {total} bytes came as {memory.nbytes}")
        sizes = struct.unpack_from(f"<{count}Q", memory, PREFIX_BYTES)
        at = PREFIX_BYTES + 8 * count
        head = json.loads(bytes(memory[at : at + head_bytes]))
        at += head_bytes
        body = bytes(memory[at : at + body_bytes])
        at += body_bytes
        buffers: list[Buffer] = []
        for size in sizes:
            at += -at % _ALIGNMENT
            buffers.append(memory[at : at + size])
            at += size
    except (struct.error, ValueError) as error:
        raise DecodeError(f"damaged message: {error}") from error
    if at != total or not isinstance(head, dict):
        raise DecodeError("damaged message: its parts don't add up")
    return Message(head, Encoded(body, buffers))
