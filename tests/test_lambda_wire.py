"""Messages as Lambda carries them."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.codec import Encoded, encode
from fanout.errors import DecodeError, ProtocolError
from fanout.lambda_wire import (
    LIMIT_BYTES,
    AlteredError,
    Arrived,
    read_reply,
    read_request,
    reply_body,
    reply_parts,
    reply_room,
    request_body,
    request_bytes,
    request_parts,
    spilled_reply,
    spilled_request,
)
from fanout.spilled import Spilled
from fanout.wire import Message

BUFFERS = st.lists(st.binary(max_size=300), max_size=4)


def message(buffers: list[bytes], *, body: bytes = b'{"x":[1,2.5]}') -> Message:
    return Message({"kernel": "k", "n": 7}, Encoded(body, [*buffers]))


def same(a: Message, b: Message) -> bool:
    return (
        a.head == b.head
        and a.payload.body == b.payload.body
        and [bytes(x) for x in a.payload.buffers] == [bytes(x) for x in b.payload.buffers]
    )


def read(pieces: list[bytes]) -> Message:
    reply = read_reply(pieces)
    assert isinstance(reply, Message)
    return reply


def returned(reply: bytes | dict[str, Any]) -> bytes:
    """What the client gets of what a handler returns."""
    return reply if isinstance(reply, bytes) else json.dumps(reply).encode()


@given(BUFFERS, st.sampled_from(["bytes", "json"]))
def test_a_request_arrives_as_it_was_sent(buffers: list[bytes], accepts: Any) -> None:
    sent = message(buffers)
    body = b"".join(request_body(request_parts(sent), accepts=accepts))
    assert len(body) == request_bytes(request_parts(sent), accepts=accepts)
    arrived = read_request(json.loads(body))
    assert isinstance(arrived.message, Message)
    assert same(arrived.message, sent)
    assert arrived.accepts == accepts


@given(BUFFERS, st.sampled_from(["bytes", "json"]), st.integers(1, 50))
def test_a_reply_arrives_as_it_was_sent_in_however_many_pieces(
    buffers: list[bytes], accepts: Any, piece: int
) -> None:
    sent = message(buffers)
    body = returned(reply_body(reply_parts(sent), accepts))
    pieces = [body[at : at + piece * 20] for at in range(0, len(body), piece * 20)]
    assert same(read(pieces), sent)


@given(st.data())
def test_no_damage_of_a_reply_goes_unnoticed(data: st.DataObject) -> None:
    body = bytearray(returned(reply_body(reply_parts(message([bytes(100)])), "bytes")))
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(DecodeError):
        read_reply([bytes(body)])


@given(st.integers(0, 400))
def test_a_reply_cut_short_is_noticed(kept: int) -> None:
    body = returned(reply_body(reply_parts(message([bytes(100)])), "bytes"))
    with pytest.raises(DecodeError):
        read_reply([body[:kept]])


@given(st.binary(max_size=700))
def test_bytes_of_somebody_else_are_no_reply(body: bytes) -> None:
    with pytest.raises(DecodeError):
        read_reply([body])


@pytest.mark.parametrize(
    "alter",
    [
        lambda body: body.decode("utf-8", "replace").encode(),
        base64.b64encode,
        lambda body: json.dumps(body.decode("latin-1")).encode(),
    ],
    ids=["read as UTF-8", "in base64", "as a JSON string"],
)
def test_an_endpoint_that_alters_bytes_is_told_from_damage(alter: Any) -> None:
    body = returned(reply_body(reply_parts(message([])), "bytes"))
    with pytest.raises(AlteredError):
        read_reply([alter(body)])


def test_a_reply_in_json_survives_what_alters_bytes() -> None:
    body = returned(reply_body(reply_parts(message([bytes(range(256))])), "json"))
    assert same(read([body.decode("ascii").encode("utf-8")]), message([bytes(range(256))]))


def test_arrays_of_a_reply_are_aligned_and_can_be_written_to() -> None:
    from fanout.codec import decode

    sent = Message({}, encode([np.arange(100_000.0), np.arange(20_000, dtype=np.complex128)]))
    first, second = decode(read([returned(reply_body(reply_parts(sent), "bytes"))]).payload)
    first[0] = second[0] = 5
    assert first.flags.aligned
    assert second.flags.aligned


@pytest.mark.parametrize("event", [None, [], "x", 7, {"key1": "value1"}, {}])
def test_what_is_no_request_is_refused_with_a_hint(event: object) -> None:
    with pytest.raises(ProtocolError, match=r"invoke it by fanout\.Lambda"):
        read_request(event)


def test_a_request_of_another_version_says_what_to_do() -> None:
    event = json.loads(b"".join(request_body(request_parts(message([])), accepts="json")))
    event |= {"fanout": 99}
    with pytest.raises(ProtocolError, match="install the same version of fanout on both"):
        read_request(event)


@pytest.mark.parametrize("text", [None, 5, "", "?", "AAAA", ["x"]])
def test_a_damaged_request_is_refused(text: object) -> None:
    with pytest.raises(DecodeError):
        read_request({"fanout": 1, "frame": text})


@pytest.mark.parametrize("accepts", ["bytes", "json"])
def test_the_room_of_a_reply_is_what_lambda_takes(accepts: Any) -> None:
    full = [bytes(reply_room(accepts))]
    assert LIMIT_BYTES - 100 <= len(returned(reply_body(full, accepts))) <= LIMIT_BYTES


def test_the_names_of_stored_messages_arrive() -> None:
    spilled = Spilled(key="runs/1/2", nbytes=7, digest="ab")
    store = {"kind": "directory", "path": "/x"}
    (body,) = spilled_request(spilled, store, accepts="json")
    assert read_request(json.loads(body)) == Arrived(message=spilled, store=store, accepts="json")
    assert read_reply([json.dumps(spilled_reply(spilled)).encode()]) == spilled


@pytest.mark.parametrize(
    "told", [None, 5, {}, {"key": "k", "nbytes": "7", "digest": "d"}, {"key": "k", "nbytes": 7}]
)
def test_a_damaged_name_of_a_stored_message_is_refused(told: object) -> None:
    with pytest.raises(DecodeError):
        read_request({"fanout": 1, "spilled": told, "store": {}})
    with pytest.raises(DecodeError):
        read_reply([json.dumps({"fanout": 1, "spilled": told}).encode()])


def test_a_stored_message_needs_its_store() -> None:
    (body,) = spilled_request(Spilled(key="k", nbytes=1, digest="d"), {}, accepts="json")
    event = json.loads(body)
    with pytest.raises(DecodeError, match="store"):
        read_request({**event, "store": None})


def test_without_pybase64_the_bytes_are_the_same() -> None:
    """An image may lack it."""
    script = (
        "import sys; sys.modules['pybase64'] = None\n"
        "from fanout.lambda_wire import *; from fanout.wire import Message\n"
        "PARTS = request_parts(Message({'a': 1}))\n"
        "sys.stdout.writelines(map(bytes.decode, request_body(PARTS, accepts='bytes')))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout == b"".join(request_body(request_parts(Message({"a": 1})), accepts="bytes"))


def test_the_limit_is_that_of_a_synchronous_invocation() -> None:
    assert LIMIT_BYTES == 6_291_556
