"""The far end's requests to S3: what is put, what is sent again, over which connections."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from fanout.errors import StoreError
from fanout.far_stores import open_store
from fanout.far_stores.s3 import ATTEMPTS, PUT_BYTES, S3Store
from fanout.far_stores.s3_http import Connections
from tests.far_stores_checks import MIB, Fake, answer, reset, serving, settle, store_of, xml

if TYPE_CHECKING:
    from collections.abc import Iterator
    from http.server import BaseHTTPRequestHandler


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch) -> None:
    settle(monkeypatch)


@pytest.fixture
def fake() -> Iterator[Fake]:
    with serving() as served:
        yield served


@pytest.fixture
def slept() -> list[float]:
    return []


@pytest.fixture
def s3(fake: Fake, slept: list[float]) -> Iterator[S3Store]:
    with store_of(fake, slept) as store:
        yield store


def test_s3_gives_what_was_put_over_one_connection(s3: S3Store, fake: Fake) -> None:
    s3.put("a", [b"12", bytearray(b"34"), b"", memoryview(b"5")])
    assert fake.objects == {"/bucket/pre/a": b"12345"}
    assert bytes(s3.get("a")) == b"12345"
    assert s3.get("a").readonly
    assert bytes(s3.get("a", start=1, stop=3)) == b"23"
    assert bytes(s3.get("a", start=5)) == b""
    assert s3.size("a") == 5
    s3.delete("a")
    assert not fake.objects
    assert fake.connections == 1


def test_an_empty_object_is_one_in_s3_too(s3: S3Store) -> None:
    s3.put("a", [])
    assert bytes(s3.get("a")) == b""
    assert s3.size("a") == 0


def test_a_storm_of_refusals_is_waited_out(s3: S3Store, fake: Fake, slept: list[float]) -> None:
    fake.objects["/bucket/pre/a"] = b"x"
    fake.script = [reset, xml(503, "SlowDown"), answer(500), answer(502), answer(504)]
    assert bytes(s3.get("a")) == b"x"
    assert len(fake.asked) == 6
    for waited_s, longest_s in zip(slept, [0.1, 0.2, 0.4, 0.8, 1.6], strict=True):
        assert 0 <= waited_s <= longest_s


def test_a_storm_that_lasts_is_told(s3: S3Store, fake: Fake) -> None:
    fake.script = [xml(503, "SlowDown", "Reduce your rate.")] * ATTEMPTS
    with pytest.raises(
        StoreError, match=r"6 times.*503 SlowDown: Reduce your rate.*run fewer workers at a time"
    ):
        s3.get("a")
    assert len(fake.asked) == ATTEMPTS


def test_a_connection_that_always_breaks_is_told(s3: S3Store, fake: Fake) -> None:
    fake.script = [reset] * ATTEMPTS
    with pytest.raises(StoreError, match=r"see whether 127\.0\.0\.1:.* a gateway endpoint for S3"):
        s3.put("a", [b"x"])
    assert len(fake.asked) == ATTEMPTS


def test_nobody_there_is_told(slept: list[float]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        store = S3Store(bucket="b", region="r", endpoint=endpoint, sleep=slept.append)
        with pytest.raises(StoreError, match="ConnectionRefusedError"):
            store.get("a")
    assert len(slept) == ATTEMPTS - 1


def test_an_idle_connection_that_was_closed_costs_no_attempt(
    s3: S3Store, fake: Fake, slept: list[float]
) -> None:
    fake.script = [answer(200), reset]
    s3.put("a", [b"x"])
    s3.put("b", [b"y"])
    assert not slept
    assert [one.path[-1] for one in fake.asked] == ["a", "b", "b"]


def test_an_object_that_is_there_stays(s3: S3Store, fake: Fake) -> None:
    s3.put("a", [b"first"])
    s3.put("a", [b"second"])
    assert bytes(s3.get("a")) == b"first"
    assert {one.headers.get("If-None-Match") for one in fake.asked[:2]} == {"*"}


def test_a_put_whose_answer_was_lost_is_there(s3: S3Store, fake: Fake) -> None:
    def lost(handler: BaseHTTPRequestHandler) -> None:
        fake.objects[handler.path] = b"x"
        reset(handler)

    fake.script = [lost]
    s3.put("a", [b"x"])
    assert [one.method for one in fake.asked] == ["PUT", "PUT"]


def test_another_writer_at_the_same_time_is_waited_for(s3: S3Store, fake: Fake) -> None:
    fake.script = [xml(409, "ConditionalRequestConflict")]
    s3.put("a", [b"x"])
    assert fake.objects["/bucket/pre/a"] == b"x"


def test_what_is_too_large_for_one_put_is_refused(s3: S3Store, fake: Fake) -> None:
    block = bytes(64 * MIB)  # many times the same, so that 5 GiB need no memory
    parts = [*[block] * (PUT_BYTES // len(block)), b"x"]
    with pytest.raises(StoreError, match=r"has 5.4 GB, and S3 takes .* make chunks smaller"):
        s3.put("a", parts)
    assert not fake.asked


def test_a_kms_key_is_named_with_each_put(fake: Fake) -> None:
    store = open_store(
        {"kind": "s3", "bucket": "b", "prefix": "", "region": "r", "endpoint": fake.url, "kms": "k"}
    )
    with contextlib.closing(store):
        store.put("a", [b"x"])
        store.get("a")
    put, get = fake.asked
    assert put.headers["x-amz-server-side-encryption"] == "aws:kms"
    assert put.headers["x-amz-server-side-encryption-aws-kms-key-id"] == "k"
    assert not [name for name in get.headers if "encryption" in name]


def test_a_body_that_is_refused_early_leaves_its_reason() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        store = S3Store(
            bucket="b", region="r", endpoint=f"http://127.0.0.1:{listener.getsockname()[1]}"
        )

        def refuse() -> None:
            """Answer without having read the body, then break the connection."""
            peer, _ = listener.accept()
            with peer:
                peer.recv(1000)
                body = b"<Error><Code>AccessDenied</Code><Message>No entry.</Message></Error>"
                size = f"Content-Length: {len(body)}\r\n".encode()
                peer.sendall(b"HTTP/1.1 403 Forbidden\r\n" + size + b"\r\n" + body)

        thread = threading.Thread(target=refuse)
        thread.start()
        with contextlib.closing(store), pytest.raises(StoreError, match="No entry"):
            store.put("a", [bytes(64 * MIB)])
        thread.join()


def test_a_sha256_that_is_known_is_not_computed_again(s3: S3Store, fake: Fake) -> None:
    """What the caller says is what S3 is told; S3 compares it."""
    s3.put("a", [b"1", b"2"])
    s3.put("b", [b"1", b"2"], digest="0f" * 32)
    told = [asked.headers["X-Amz-Content-SHA256"] for asked in fake.asked]
    assert told == [hashlib.sha256(b"12").hexdigest(), "0f" * 32]


def test_a_connection_that_was_idle_for_long_is_not_used_again(fake: Fake) -> None:
    """Nobody may be there any more, without having said so."""
    now_s = 0.0
    host, _, port = fake.url.removeprefix("http://").partition(":")
    connections = Connections(host, int(port), is_tls=False, clock=lambda: now_s)
    fake.objects["/a"] = b"x"

    def ask() -> int:
        with connections.answer("GET", "/a", {"Range": "bytes=0-0"}, ()) as response:
            response.read()
        return fake.connections

    assert ask() == 1
    now_s += 59
    assert ask() == 1
    now_s += 60
    assert ask() == 2
    connections.close()
