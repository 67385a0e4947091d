"""How the far end gets a range of an object in S3: in parts, and all of one object."""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

from fanout.errors import StoreError
from tests.far_stores_checks import (
    MIB,
    Fake,
    answer,
    etag_of,
    reset,
    serving,
    settle,
    store_of,
    xml,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from http.server import BaseHTTPRequestHandler

    from fanout.far_stores.s3 import S3Store


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


def test_a_large_object_comes_in_parts_and_no_byte_twice(s3: S3Store, fake: Fake) -> None:
    content = random.Random(0).randbytes(40 * MIB + 5)
    fake.objects["/bucket/pre/a"] = content
    assert bytes(s3.get("a")) == content
    asked = sorted(
        tuple(map(int, one.headers["Range"].removeprefix("bytes=").split("-")))
        for one in fake.asked
    )
    assert [(start // MIB, (stop + 1) // MIB) for start, stop in asked] == [
        (0, 16), (16, 24), (24, 32), (32, 40), (40, 40)
    ]  # fmt: skip
    assert fake.connections <= 4


def test_a_large_range_comes_in_parts(s3: S3Store, fake: Fake) -> None:
    content = random.Random(0).randbytes(30 * MIB)
    fake.objects["/bucket/pre/a"] = content
    assert bytes(s3.get("a", start=7, stop=29 * MIB)) == content[7 : 29 * MIB]
    assert len(fake.asked) == 3


def test_what_is_16_mib_takes_one_request(s3: S3Store, fake: Fake) -> None:
    fake.objects["/bucket/pre/a"] = bytes(16 * MIB)
    assert len(s3.get("a")) == 16 * MIB
    assert len(fake.asked) == 1


def test_parts_that_break_off_are_fetched_again(s3: S3Store, fake: Fake) -> None:
    content = random.Random(0).randbytes(33 * MIB)
    fake.objects["/bucket/pre/a"] = content
    fake.script = [fake.truncated, fake.truncated, reset, answer(503), fake.truncated]
    assert bytes(s3.get("a")) == content


def test_a_part_that_fails_ends_the_download(s3: S3Store, fake: Fake) -> None:
    fake.objects["/bucket/pre/a"] = bytes(60 * MIB)
    fake.script = [fake.give, *[xml(403, "AccessDenied")] * 8]
    with pytest.raises(StoreError, match="s3:GetObject"):
        s3.get("a")
    assert len(fake.asked) <= 1 + 4


def test_an_object_that_is_exchanged_under_way_is_refused(s3: S3Store, fake: Fake) -> None:
    fake.objects["/bucket/pre/a"] = bytes(17 * MIB)

    def exchange(handler: BaseHTTPRequestHandler) -> None:
        fake.give(handler)
        fake.objects["/bucket/pre/a"] = bytes(18 * MIB)

    def given_later(handler: BaseHTTPRequestHandler) -> None:
        fake.objects["/bucket/pre/a"] = bytes(18 * MIB)
        fake.give(handler)

    fake.script = [exchange, given_later]
    with pytest.raises(StoreError, match="exchanged under way: run again"):
        s3.get("a")


def test_a_download_needs_no_threads(s3: S3Store, fake: Fake) -> None:
    content = random.Random(0).randbytes(33 * MIB)
    fake.objects["/bucket/pre/a"] = content
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "fanout-download":
            msg = "can't start new thread"
            raise RuntimeError(msg)
        start(thread)

    with mock.patch("threading.Thread.start", refuse):
        assert bytes(s3.get("a")) == content
    assert len(fake.asked) == 4


def test_an_endpoint_that_knows_no_ranges_serves_whole_objects_only(
    s3: S3Store, fake: Fake
) -> None:
    fake.script = [answer(200, body=b"12345")] * 2
    assert bytes(s3.get("a")) == b"12345"
    with pytest.raises(StoreError, match="another range than bytes=2-3"):
        s3.get("a", start=2, stop=4)


def test_s3_says_how_large_an_object_is_when_it_refuses_a_range(s3: S3Store, fake: Fake) -> None:
    fake.script = [
        xml(416, "InvalidRange", extra=f"<ActualObjectSize>{n}</ActualObjectSize>") for n in (0, 5)
    ]
    assert s3.size("a") == 0
    with pytest.raises(StoreError, match="has 5 bytes, and at least 9 were expected"):
        s3.get("a", start=9)


ANOTHER = etag_of(b"another")


def test_an_object_that_is_still_the_planned_one_is_given(s3: S3Store, fake: Fake) -> None:
    content = random.Random(0).randbytes(33 * MIB)
    fake.objects["/bucket/pre/a"] = content
    etag = etag_of(content)
    assert bytes(s3.get("a", etag=etag)) == content
    assert bytes(s3.get("a", start=3, stop=9, etag=etag)) == content[3:9]
    assert [asked.headers["If-Match"] for asked in fake.asked] == [etag] * 5


@pytest.mark.parametrize("knows_if_match", [True, False])
@pytest.mark.parametrize("bounds", [{}, {"start": 1, "stop": 3}, {"start": 7}, {"stop": 9}])
def test_an_object_that_changed_since_it_was_planned_is_refused(
    s3: S3Store, fake: Fake, bounds: dict[str, Any], knows_if_match: bool
) -> None:
    fake.knows_if_match = knows_if_match
    fake.objects["/bucket/pre/a"] = b"12345"
    why = "object a in s3://bucket/pre/ changed since it was planned: plan again"
    with pytest.raises(StoreError, match=why):
        s3.get("a", etag=ANOTHER, **bounds)
    assert len(fake.asked) == 1
    assert fake.connections == 1


@pytest.mark.parametrize("knows_if_match", [True, False])
@pytest.mark.parametrize("is_planned", [True, False])
def test_an_object_of_the_same_size_does_not_come_half(
    s3: S3Store, fake: Fake, knows_if_match: bool, is_planned: bool
) -> None:
    """Whichever of its parts come first."""
    fake.knows_if_match = knows_if_match
    fake.objects["/bucket/pre/a"] = old = bytes(40 * MIB)

    def exchange(handler: BaseHTTPRequestHandler) -> None:
        fake.objects["/bucket/pre/a"] = b"x" * len(old)
        fake.give(handler)

    why = "changed since it was planned" if is_planned else "exchanged under way: run again"
    fake.script = [fake.give, exchange]
    with pytest.raises(StoreError, match=why):
        s3.get("a", etag=etag_of(old) if is_planned else None)
    assert [one.headers.get("If-Match") for one in fake.asked[1:]] == [etag_of(old)] * (
        len(fake.asked) - 1
    )


def test_an_object_that_is_exchanged_while_its_first_part_is_sent_again_is_refused(
    s3: S3Store, fake: Fake
) -> None:
    fake.objects["/bucket/pre/a"] = b"12345"

    def exchange(handler: BaseHTTPRequestHandler) -> None:
        fake.objects["/bucket/pre/a"] = b"abcde"
        fake.give(handler)

    fake.script = [fake.truncated, exchange]
    with pytest.raises(StoreError, match="exchanged under way: run again"):
        s3.get("a")


def test_what_gives_no_etags_is_read_all_the_same(s3: S3Store, fake: Fake) -> None:
    fake.has_etags = False
    content = random.Random(0).randbytes(20 * MIB)
    fake.objects["/bucket/pre/a"] = content
    assert bytes(s3.get("a")) == content
    assert "If-Match" not in fake.asked[1].headers


def test_a_weak_etag_is_not_asked_by(s3: S3Store, fake: Fake) -> None:
    headers = {"ETag": 'W/"a"', "Content-Range": "bytes 0-4/5"}
    fake.script = [answer(206, headers, b"12345")]
    assert bytes(s3.get("a", etag=ANOTHER)) == b"12345"


@pytest.mark.parametrize("etag", ["", "a", '""', '"a"\r\nX: y', '"ä"', '"a b"', f'"{"a" * 1023}"'])
def test_what_is_no_etag_is_not_sent(s3: S3Store, fake: Fake, etag: str) -> None:
    with pytest.raises(StoreError, match="is no ETag: pass it as S3 gives it"):
        s3.get("a", etag=etag)
    assert not fake.asked
