"""Packing on damaged and forged messages: DecodeError, and no more memory than they may claim."""

from __future__ import annotations

import tracemalloc
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fanout.codec import Encoded
from fanout.errors import DecodeError
from fanout.packing import FAST, LIMIT_BYTES, STANDARD, Deflate, packed, unpacked
from fanout.wire import Message

if TYPE_CHECKING:
    from fanout.codec import Buffer

ENGINES = [STANDARD] if FAST is None else [STANDARD, FAST]
engines = st.sampled_from(ENGINES)


def claiming(entries: object, *parts: Buffer, body: bytes = b"[]") -> Message:
    return Message({"packed": entries}, Encoded(body, list(parts)))


DEFLATED = zlib.compress(bytes(1000), 1)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "message",
    [
        claiming(None),
        claiming({"1": 2}),
        claiming([None], DEFLATED),
        claiming([[]], DEFLATED),
        claiming([[1, 1000, 1]], DEFLATED),
        claiming([[1, 1000, 1, 1, 1]], DEFLATED),
        claiming([[1, 1000, 1, True]], DEFLATED),
        claiming([[1, 1000.0, 1, 1]], DEFLATED),
        claiming([[1, "1000", 1, 1]], DEFLATED),
        claiming([[-1, 1000, 1, 1]], DEFLATED),
        claiming([[2, 1000, 1, 1]], DEFLATED),
        claiming([[1, 1000, 1, 1], [1, 1000, 1, 1]], DEFLATED),
        claiming([[1, -1, 1, 1]], DEFLATED),
        claiming([[1, 999, 1, 1]], DEFLATED),
        claiming([[1, 1001, 1, 1]], DEFLATED),
        claiming([[1, 0, 1, 1]], DEFLATED),
        claiming([[1, 1000, 0, 0]], DEFLATED),
        claiming([[1, 1000, 3, 1]], DEFLATED, DEFLATED, DEFLATED),
        claiming([[1, 1000, 1, 2]], DEFLATED),
        claiming([[1, 1000, 1, -1]], DEFLATED),
        claiming([[1, 1000, 2, 1]], DEFLATED),
        claiming([[1, 1000, 2, 0]], bytes(501), bytes(500)),
        claiming([[1, 1000, 2, 0]], bytes(499), bytes(500)),
        claiming([[0, 1000, 2, 0]], bytes(500), body=bytes(500)),
        claiming([[1, 1000, 1, 1]], DEFLATED + b"x"),
        claiming([[1, 1000, 1, 1]], DEFLATED * 2),
        claiming([[1, 1000, 1, 1]], DEFLATED + bytes(200_000)),
        claiming([[1, 1000, 1, 1]], b""),
        claiming([[1, 1000, 1, 1]], bytes(50)),
        claiming([[1, LIMIT_BYTES + 1, 1, 1]], DEFLATED),
        claiming([[1, LIMIT_BYTES, 1, 1], [0, 1, 1, 1]], DEFLATED),
        claiming([[1, 2**70, 1, 1]], DEFLATED),
        *(claiming([[1, 1000, 1, 1]], DEFLATED[:size]) for size in range(len(DEFLATED))),
    ],
)
def test_a_damaged_message_is_refused(message: Message, engine: Deflate) -> None:
    with pytest.raises(DecodeError):
        unpacked(message, engine=engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_wrong_checksum_is_noticed(engine: Deflate) -> None:
    damaged = bytearray(DEFLATED)
    damaged[-1] ^= 1
    with pytest.raises(DecodeError):
        unpacked(claiming([[1, 1000, 1, 1]], damaged), engine=engine)


INTEGERS = np.random.default_rng(7).integers(0, 1000, 20_000)
SENT = packed(Message({}, Encoded(b"[0]" * 30_000, [INTEGERS.view(np.uint8).data])))


@settings(max_examples=200, deadline=None)
@given(st.data(), engines)
def test_flipped_bits_give_a_decode_error_or_other_values(
    data: st.DataObject, engine: Deflate
) -> None:
    parts = [bytearray(SENT.payload.body), *map(bytearray, SENT.payload.buffers)]
    for _ in range(data.draw(st.integers(1, 3))):
        part = data.draw(st.sampled_from(parts))
        at = data.draw(st.integers(0, len(part) - 1))
        part[at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        back = unpacked(
            Message(SENT.head, Encoded(bytes(parts[0]), list[Any](parts[1:]))), engine=engine
        )
    except DecodeError:
        return
    assert back.payload.nbytes == unpacked(SENT).payload.nbytes


@settings(max_examples=300, deadline=None)
@given(
    st.recursive(
        st.none()
        | st.integers(-2, 9)
        | st.sampled_from([1000, 4000, 160_000])
        | st.text(max_size=2),
        lambda inner: st.lists(inner, max_size=5),
    ),
    st.lists(st.binary(max_size=20) | st.just(DEFLATED), max_size=9),
    engines,
)
def test_forged_heads_give_a_decode_error_or_a_message(
    entries: object, parts: list[Buffer], engine: Deflate
) -> None:
    try:
        back = unpacked(claiming(entries, *parts), engine=engine)
    except DecodeError:
        return
    assert back.head == {}


@pytest.mark.parametrize("engine", ENGINES)
def test_a_bomb_takes_no_more_memory_than_it_claims(engine: Deflate) -> None:
    bomb = zlib.compress(bytes(200_000_000), 9)
    tracemalloc.start()
    try:
        for claimed in (1_000_000, 0):
            with pytest.raises(DecodeError, match="more than"):
                unpacked(claiming([[1, claimed, 1, 1]], bomb), engine=engine)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000


@pytest.mark.parametrize("engine", ENGINES)
def test_unpacking_takes_hardly_more_memory_than_the_arrays(engine: Deflate) -> None:
    sent = packed(Message({}, Encoded(b"[]", [bytes(20_000_000)])), engine=engine)
    tracemalloc.start()
    try:
        unpacked(sent, engine=engine)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 21_000_000
