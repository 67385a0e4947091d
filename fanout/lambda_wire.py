"""A message as Lambda carries it: a JSON document there, a document or raw bytes back.

Lambda takes nothing but JSON, so a request is `{"fanout": 1, "accepts": …, "frame": "<base64>"}`
around the very frame that a local worker gets on its socket. A reply is that frame as it is, behind
a preamble, where the endpoint lets bytes through; else the same in base64. The preamble holds every
byte value once, so that an endpoint which alters bytes is told from a damaged reply, and a
checksum of the rest. A frame that is larger than Lambda takes lies in a store, and goes by name:
`{"fanout": 1, "accepts": …, "spilled": …, "store": …}` there, `{"fanout": 1, "spilled": …}` back.
Pure; standard library + numpy only, since the worker runs it (with pybase64, if its image has
it: several times as fast on large arrays).
"""

from __future__ import annotations

import base64
import binascii
import functools
import json
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np

from fanout.errors import DecodeError, ProtocolError
from fanout.packing import ANSWER_BYTES_PER_S, REQUEST_BYTES_PER_S, packed, unpacked
from fanout.spilled import Spilled, size_of
from fanout.wire import PROTOCOL, Message, frame, frame_bytes, unframe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fanout.codec import Buffer

# Requests and replies of a synchronous invocation, bytes. AWS Lambda quotas name 6 MB; this is what
# the runtime client and AWS's messages give (2026-11).
LIMIT_BYTES: Final = 6_291_556

Accepts: TypeAlias = Literal["bytes", "json"]

_HEAD: Final = b'{"fanout":%d,"accepts":"%s","frame":"'
_TAIL: Final = b'"}'
_CHECKSUM: Final = struct.Struct("<Q")
_EVERY_BYTE: Final = bytes(range(256))
# Before the frame; a multiple of the 64 bytes to which buffers in it are aligned.
_PREAMBLE: Final = b"fanout1-reply\n\0\0".ljust(64 - _CHECKSUM.size, b"\0")
_PREAMBLE_BYTES: Final = len(_EVERY_BYTE) + len(_PREAMBLE) + _CHECKSUM.size
# Of a document around a reply in base64, as the runtime writes it.
_DOCUMENT_BYTES: Final = 64


class AlteredError(DecodeError):
    """The endpoint altered the bytes of a reply: it has to be asked for JSON."""


def _base64() -> tuple[Callable[[Buffer], bytes], Callable[[str | bytes], bytes]]:
    try:
        import pybase64
    except ImportError:
        return base64.b64encode, base64.b64decode
    # Strict, since looking for characters to ignore takes six times as long.
    return pybase64.b64encode, functools.partial(pybase64.b64decode, validate=True)


_encode64, _decode64 = _base64()


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """A request, as the function gets it.

    Attributes:
        message: It, or its name in the store.
        store: Locator of that store.
        accepts: In which form the client takes the reply.
    """

    message: Message | Spilled
    store: Mapping[str, Any] | None
    accepts: Accepts


def request_parts(message: Message) -> list[Buffer]:
    """A request as it is carried or stored, in pieces; smaller than it was, where that pays."""
    return frame(packed(message, bytes_per_s=REQUEST_BYTES_PER_S))


def reply_parts(message: Message) -> list[Buffer]:
    """The same of a reply."""
    return frame(packed(message, bytes_per_s=ANSWER_BYTES_PER_S))


def message_of(parts: Sequence[Buffer]) -> Message:
    """What came of a message in pieces, in memory of its own, so that its arrays can be written to.

    Raises:
        DecodeError: It is damaged.
    """
    return message_in(_joined(parts))


def message_in(memory: memoryview) -> Message:
    """The same, where it is in one piece; arrays of the message are views of it.

    Raises:
        DecodeError: It is damaged.
    """
    return unpacked(unframe(memory))


def request_bytes(parts: Sequence[Buffer], *, accepts: Accepts) -> int:
    """How large `request_body` is."""
    head = _HEAD % (PROTOCOL, accepts.encode("ascii"))
    return len(head) + (size_of(parts) + 2) // 3 * 4 + len(_TAIL)


def request_body(parts: Sequence[Buffer], *, accepts: Accepts) -> list[bytes]:
    """The body of an Invoke request, in pieces: to join large ones would be a copy."""
    head = _HEAD % (PROTOCOL, accepts.encode("ascii"))
    return [head, _encode64(b"".join(parts)), _TAIL]


def spilled_request(spilled: Spilled, store: Mapping[str, Any], *, accepts: Accepts) -> list[bytes]:
    """The body of an Invoke request whose message lies in a store."""
    told = {"fanout": PROTOCOL, "accepts": accepts, "spilled": spilled.told(), "store": dict(store)}
    return [json.dumps(told).encode("ascii")]


def read_request(event: object) -> Arrived:
    """What `request_body` was given, from the document as the runtime has parsed it.

    Raises:
        ProtocolError: It is not a request, or one of another version.
        DecodeError: It is damaged.
    """
    if not isinstance(event, dict) or "fanout" not in event:
        raise ProtocolError(
            "this function runs fanout kernels and got something else; invoke it by fanout.Lambda"
        )
    if event["fanout"] != PROTOCOL:
        raise ProtocolError(
            f"the client speaks protocol {event['fanout']}, this function {PROTOCOL}: "
            "install the same version of fanout on both"
        )
    store = event.get("store")
    if "spilled" in event and not isinstance(store, dict):
        raise DecodeError("a stored message without its store")
    return Arrived(
        message=Spilled.read(event["spilled"])
        if "spilled" in event
        else message_of([_decoded(event.get("frame"))]),
        store=store,
        accepts="bytes" if event.get("accepts") == "bytes" else "json",
    )


def reply_room(accepts: Accepts) -> int:
    """The largest message that a reply holds, bytes."""
    room = LIMIT_BYTES if accepts == "bytes" else (LIMIT_BYTES - _DOCUMENT_BYTES) // 4 * 3
    return room - _PREAMBLE_BYTES


def reply_body(parts: Sequence[Buffer], accepts: Accepts) -> bytes | dict[str, Any]:
    """What the handler returns: bytes go out as they are, a document is written as JSON."""
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    body = b"".join((_EVERY_BYTE, _PREAMBLE, _CHECKSUM.pack(checksum), *parts))
    return body if accepts == "bytes" else {"fanout": PROTOCOL, "reply": _encode64(body).decode()}


def spilled_reply(spilled: Spilled) -> dict[str, Any]:
    """What the handler returns when the reply lies in a store."""
    return {"fanout": PROTOCOL, "spilled": spilled.told()}


def read_reply(parts: Sequence[bytes]) -> Message | Spilled:
    """What `reply_body` was given, from the body of an answer, in one or more pieces.

    Raises:
        AlteredError: It went through something that changes bytes.
        DecodeError: It is damaged.
    """
    if parts and parts[0][:1] == b"{":
        try:
            document = json.loads(b"".join(parts))
            if "spilled" in document:
                return Spilled.read(document["spilled"])
            parts = [_decoded(document["reply"])]
        except (ValueError, LookupError, TypeError) as error:
            raise DecodeError(f"not a reply: {error}") from error
    memory = _joined(parts)
    content = memory[_PREAMBLE_BYTES:]
    _check(bytes(memory[:_PREAMBLE_BYTES]), content)
    return message_in(content)


def _decoded(text: object) -> bytes:
    try:
        return _decode64(text)  # type: ignore[arg-type]  # what isn't text raises, too
    except (TypeError, ValueError, binascii.Error) as error:
        raise DecodeError(f"damaged message: {error}") from error


def _joined(parts: Sequence[Buffer]) -> memoryview:
    memory = np.empty(size_of(parts), np.uint8).data
    at = 0
    for part in parts:
        end = at + memoryview(part).nbytes
        memory[at:end] = memoryview(part).cast("B")
        at = end
    return memory


def _check(preamble: bytes, content: memoryview) -> None:
    if "\ufffd".encode() in preamble or preamble.startswith((b'"', base64.b64encode(b"\0\1\2"))):
        raise AlteredError("the endpoint doesn't let bytes through as they are")
    expected = _EVERY_BYTE + _PREAMBLE
    if len(preamble) < _PREAMBLE_BYTES or preamble[: len(expected)] != expected:
        raise DecodeError(f"not a fanout reply: it begins with {preamble[:40]!r}")
    (checksum,) = _CHECKSUM.unpack(preamble[len(expected) :])
    if content.nbytes != frame_bytes(content):
        raise DecodeError(f"a reply of {frame_bytes(content)} bytes came as {content.nbytes}")
    if zlib.crc32(content) != checksum:
        raise DecodeError("damaged reply: its checksum is wrong")
