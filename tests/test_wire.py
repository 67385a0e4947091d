"""Frames: what goes in comes out, large parts where they were received, and damage is noticed."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fanout.codec import Encoded
from fanout.errors import DecodeError
from fanout.wire import (
    MAX_FRAME_BYTES,
    PREFIX_BYTES,
    FrameReader,
    Message,
    frame,
    frame_bytes,
    joined,
    unframe,
)

if TYPE_CHECKING:
    from fanout.codec import Buffer

heads = st.dictionaries(st.text(st.characters()), st.integers() | st.text() | st.floats(0, 1))
messages = st.builds(
    lambda head, body, buffers: Message(head, Encoded(body, buffers)),
    heads,
    st.binary(),
    st.lists(st.binary(max_size=200) | st.integers(1000, 200_000).map(bytes), max_size=4),
)


def sent(message: Message) -> bytearray:
    return bytearray(b"".join(frame(message)))


def told(message: Message) -> tuple[object, bytes, list[bytes]]:
    return message.head, message.payload.body, [bytes(part) for part in message.payload.buffers]


@settings(max_examples=100, deadline=None)
@given(messages)
def test_a_message_comes_back_as_it_was(message: Message) -> None:
    memory = sent(message)
    assert frame_bytes(memory[:PREFIX_BYTES]) == len(memory)
    assert told(unframe(memoryview(memory))) == told(message)


def test_buffers_lie_at_multiples_of_64_within_the_received_memory() -> None:
    sizes = [0, 1, 64, 65, 1000, 0, 3]
    memory = np.frombuffer(sent(Message({}, Encoded(b"[]", [bytes(n) for n in sizes]))), np.uint8)
    for size, buffer in zip(sizes, unframe(memory.data).payload.buffers, strict=True):
        view = np.frombuffer(buffer, np.uint8)
        assert view.size == size
        if size:
            assert np.shares_memory(view, memory)
            assert (view.ctypes.data - memory.ctypes.data) % 64 == 0


def test_large_buffers_are_not_copied_to_be_sent() -> None:
    array = np.zeros(100_000)
    parts = joined(frame(Message({}, Encoded(b"[]", [array.data]))))
    assert any(np.shares_memory(np.frombuffer(part, np.uint8), array) for part in parts)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_small_message_is_sent_in_one_piece(count: int) -> None:
    message = Message({"a": 1}, Encoded(b"[]", [b"x" * 100] * count))
    (piece,) = joined(frame(message))
    assert told(unframe(memoryview(piece))) == told(message)


# ---- reading a stream ----


@settings(max_examples=60, deadline=None)
@given(st.lists(messages, max_size=5), st.lists(st.integers(1, 100_000), min_size=1))
def test_a_stream_gives_the_same_messages_however_it_is_cut(
    several: list[Message], cuts: list[int]
) -> None:
    stream = b"".join(part for message in several for part in frame(message))
    reader = FrameReader()
    found: list[Message] = []
    at = turn = 0
    while at < len(stream):
        space = reader.space()
        count = min(space.nbytes, cuts[turn % len(cuts)], len(stream) - at)
        space[:count] = stream[at : at + count]
        found += reader.received(count)
        at, turn = at + count, turn + 1
    assert list(map(told, found)) == list(map(told, several))


def test_messages_from_one_read_do_not_share_memory() -> None:
    one, other = (
        Message({"n": 1}, Encoded(b"", [b"a" * 9])),
        Message({"n": 2}, Encoded(b"", [b"b"])),
    )
    reader = FrameReader()
    stream = sent(one) + sent(other)
    reader.space()[: len(stream)] = stream
    first, second = reader.received(len(stream))
    reader.space()[:5] = b"zzzzz"
    assert (told(first), told(second)) == (told(one), told(other))


# ---- damage ----

SPECIMEN = sent(Message({"a": [1, "b"]}, Encoded(b"[1]", [b"c" * 100, b"d" * 7])))


def lying(total: int | None = None, head: int = 2, body: int = 0, count: int = 0) -> bytearray:
    rest = b"{}" + bytes(70)
    total = PREFIX_BYTES + len(rest) if total is None else total
    return bytearray(struct.pack("<8sQQQQ", b"fanout1\n", total, head, body, count) + rest)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(SPECIMEN) - 1), st.integers(0, 255)), max_size=4))
@example([(0, 0)])
def test_a_damaged_frame_is_an_error_or_a_message_of_disjoint_parts(
    changes: list[tuple[int, int]],
) -> None:
    memory = SPECIMEN.copy()
    for at, byte in changes:
        memory[at] = byte
    try:
        message = unframe(memoryview(memory))
    except DecodeError:
        return
    assert isinstance(message.head, dict)
    size = len(message.payload.body) + sum(len(part) for part in message.payload.buffers)
    assert size <= len(memory) - PREFIX_BYTES


@pytest.mark.parametrize("end", range(0, len(SPECIMEN), 7))
def test_a_frame_cut_short_or_prolonged_is_an_error(end: int) -> None:
    for memory in (SPECIMEN[:end], SPECIMEN + bytes(end + 1)):
        with pytest.raises(DecodeError):
            unframe(memoryview(memory))


@pytest.mark.parametrize(
    "memory",
    [
        lying(total=0),
        lying(total=PREFIX_BYTES),
        lying(total=2**40),
        lying(head=2**63),
        lying(head=3),
        lying(body=2**64 - 1),
        lying(count=2**61),
        lying(count=2**64 - 1),
        lying(count=3),
        bytearray(b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(50)),
        sent(Message({}))[:-1] + b"",
        bytearray(struct.pack("<8sQQQQ", b"fanout1\n", 43, 3, 0, 0) + b"[1]"),
        bytearray(struct.pack("<8sQQQQ", b"fanout1\n", 42, 2, 0, 0) + b"\xff{"),
        bytearray(struct.pack("<8sQQQQ", b"fanout1\n", 100_040, 100_000, 0, 0) + b"[" * 100_000),
        bytearray(),
    ],
    ids=lambda memory: bytes(memory[:40]).hex(),
)
def test_a_frame_that_lies_is_an_error(memory: bytearray) -> None:
    with pytest.raises(DecodeError):
        unframe(memoryview(memory))


@pytest.mark.parametrize("size", [0, PREFIX_BYTES - 1, MAX_FRAME_BYTES + 1, 2**64 - 1])
def test_no_memory_is_taken_for_a_length_that_cannot_be(size: int) -> None:
    with pytest.raises(DecodeError, match="can't have"):
        frame_bytes(lying(total=size))
    reader = FrameReader()
    reader.space()[:PREFIX_BYTES] = lying(total=size)[:PREFIX_BYTES]
    with pytest.raises(DecodeError, match="can't have"):
        reader.received(PREFIX_BYTES)


def test_a_prefix_that_is_too_short_or_foreign_is_an_error() -> None:
    parts: list[Buffer] = [b"", b"fanout1\n", bytes(PREFIX_BYTES)]
    for prefix in parts:
        with pytest.raises(DecodeError):
            frame_bytes(prefix)
