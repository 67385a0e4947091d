"""A message between client and worker, and its form on a byte stream.

A message is a head (what this is about, JSON), a body (the values, as `codec` writes them) and the
buffers that the body refers to. On a stream it is one frame:

    magic  total head body count | size... | head | body | buffer... (each at a multiple of 64)

so that a reader knows after 40 bytes how much memory to take, and can receive large arrays into
the very place where they stay. Pure; standard library + numpy only, since the worker runs it.
"""

from __future__ import annotations

import json
import struct
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fanout.codec import Encoded
from fanout.errors import DecodeError

if TYPE_CHECKING:
    from fanout.codec import Buffer
    from fanout.tasks import BilledTime

# Raised whenever an older worker could misunderstand a request, or an older client a reply.
PROTOCOL: Final = 1

_MAGIC: Final = b"fanout1\n"
_PREFIX: Final = struct.Struct("<8sQQQQ")
PREFIX_BYTES: Final = _PREFIX.size
# Enough for every numpy dtype, and a cache line.
_ALIGNMENT: Final = 64
_JOINED_BYTES: Final = 256 * 1024
_SCRATCH_BYTES: Final = 64 * 1024
_ZEROS: Final = bytes(_ALIGNMENT)
# No frame is larger: a length beyond this is damage, and no reason to ask for so much memory.
MAX_FRAME_BYTES: Final = 2**40

_text: Final = json.JSONEncoder(separators=(",", ":")).encode


def python_minor() -> str:
    """The Python here, such as "3.12": code and pickles of classes are its own."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True, slots=True)
class Message:
    """A request or a reply.

    Attributes:
        head: What it is about.
        payload: The values.
        billed: What a reply is billed for; it is never sent, the client's backend sets it.
    """

    head: dict[str, Any]
    payload: Encoded = field(default_factory=lambda: Encoded(b"null"))
    billed: BilledTime | None = None


def frame(message: Message) -> list[Buffer]:
    """The message as a list of byte strings to send one after the other."""
    head = _text(message.head).encode("ascii")
    body = message.payload.body
    if not message.payload.buffers:
        total = PREFIX_BYTES + len(head) + len(body)
        return [_PREFIX.pack(_MAGIC, total, len(head), len(body), 0) + head + body]
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


def joined(parts: list[Buffer]) -> list[Buffer]:
    """One byte string in place of several, where that is cheaper than a system call for each."""
    if len(parts) > 1 and sum(memoryview(part).nbytes for part in parts) <= _JOINED_BYTES:
        return [b"".join(parts)]
    return parts


def frame_bytes(prefix: Buffer) -> int:
    """Length of the whole frame, from its first `PREFIX_BYTES` bytes.

    Raises:
        DecodeError: They are not the beginning of a frame.
    """
    total, _, _, _ = _prefix(prefix)
    return total


def _prefix(prefix: Buffer) -> tuple[int, int, int, int]:
    """Lengths of frame, head and body, and number of buffers; they fit each other."""
    if memoryview(prefix).nbytes < PREFIX_BYTES:
        raise DecodeError("damaged message: it ends within its prefix")
    magic, total, head_bytes, body_bytes, count = _PREFIX.unpack_from(prefix)
    if magic != _MAGIC:
        raise DecodeError(f"not a fanout message: it begins with {bytes(magic)!r}")
    if not PREFIX_BYTES + head_bytes + body_bytes + 8 * count <= total <= MAX_FRAME_BYTES:
        raise DecodeError(f"damaged message: it can't have {total} bytes")
    return total, head_bytes, body_bytes, count


def unframe(memory: memoryview) -> Message:
    """Read a whole frame; the message's buffers are views of `memory`.

    Raises:
        DecodeError: The frame is cut short or contradicts itself.
    """
    total, head_bytes, body_bytes, count = _prefix(memory)
    if total != memory.nbytes:
        raise DecodeError(f"a message of {total} bytes came as {memory.nbytes}")
    try:
        sizes = struct.unpack_from(f"<{count}Q", memory, PREFIX_BYTES)
        at = PREFIX_BYTES + 8 * count
        head = json.loads(str(memory[at : at + head_bytes], "ascii"))
        at += head_bytes
        body = bytes(memory[at : at + body_bytes])
        at += body_bytes
        buffers: list[Buffer] = []
        for size in sizes:
            at += -at % _ALIGNMENT
            buffers.append(memory[at : at + size])
            at += size
    except (struct.error, ValueError, RecursionError) as error:
        raise DecodeError(f"damaged message: {error}") from error
    if at != total or not isinstance(head, dict):
        raise DecodeError("damaged message: its parts don't add up")
    return Message(head, Encoded(body, buffers))


class FrameReader:
    """Cuts a byte stream into messages: receive into `space()`, then tell `received` how much.

    What is larger than the scratch memory is received into the very memory where it stays.
    """

    def __init__(self) -> None:
        self._scratch = _memory(_SCRATCH_BYTES)
        self._filled = 0  # of the scratch, or of the large frame
        self._large: memoryview | None = None  # a frame that is not complete yet

    def space(self) -> memoryview:
        """Where the next bytes are to be put."""
        return (self._scratch if self._large is None else self._large)[self._filled :]

    def received(self, count: int) -> list[Message]:
        """The messages that `count` more bytes complete.

        Raises:
            DecodeError: The bytes are not what `frame` makes.
        """
        self._filled += count
        if self._large is None:
            return self._from_scratch()
        if self._filled < self._large.nbytes:
            return []
        memory, self._large = self._large, None
        self._filled = 0
        return [unframe(memory)]

    def _from_scratch(self) -> list[Message]:
        messages: list[Message] = []
        at = 0
        while self._filled - at >= PREFIX_BYTES:
            size = frame_bytes(self._scratch[at:])
            # The message's buffers stay where they are, so each frame has memory of its own.
            memory = _memory(size)
            here = min(size, self._filled - at)
            memory[:here] = self._scratch[at : at + here]
            if here < size:
                self._large, self._filled = memory, here
                return messages
            messages.append(unframe(memory))
            at += size
        rest = bytes(self._scratch[at : self._filled])
        self._scratch[: len(rest)] = rest
        self._filled = len(rest)
        return messages


def _memory(size: int) -> memoryview:
    """Memory that isn't cleared first, unlike a bytearray's."""
    try:
        return np.empty(size, np.uint8).data
    except MemoryError as error:
        raise DecodeError(f"no memory for a message of {size} bytes") from error
