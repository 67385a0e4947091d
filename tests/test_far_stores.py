"""The far end's stores and its cache: a directory, and S3 as a server in this process plays it."""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import hashlib
import os
import random
import re
import socket
import ssl
import struct
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock
from urllib.parse import quote

import pytest
import trustme
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials
from hypothesis import given
from hypothesis import strategies as st

from fanout.errors import StoreError
from fanout.far_stores import Cache, FarStore, open_store
from fanout.far_stores.directory import DirectoryStore
from fanout.far_stores.s3 import ATTEMPTS, PUT_BYTES, S3Store
from fanout.far_stores.s3_answers import Place
from fanout.far_stores.s3_signing import quoted, signed
from fanout.sigv4 import Credentials

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fanout.codec import Buffer

ROOT = Path(__file__).parent.parent
MIB = 1 << 20


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAFANOUT")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret/of/the/tests")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token==")


# Both kinds


def test_import_loads_the_standard_library_only_and_no_http() -> None:
    code = (
        "import sys; before = set(sys.modules); import fanout.far_stores; "
        "print(*(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    roots = {name.partition(".")[0] for name in done.stdout.split()}
    assert roots - set(sys.stdlib_module_names) == {"fanout"}
    assert not {"http.client", "ssl", "urllib.parse"} & set(done.stdout.split())


def test_an_s3_store_loads_the_standard_library_only() -> None:
    code = (
        "import sys; before = set(sys.modules); from fanout.far_stores import open_store; "
        "open_store({'kind': 's3', 'bucket': 'b', 'prefix': '', 'region': 'r', 'endpoint': None}); "
        "print(*(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    roots = {name.partition(".")[0] for name in done.stdout.split()}
    assert roots - set(sys.stdlib_module_names) == {"fanout"}


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/a",
        "a/",
        "a//b",
        "..",
        "a/../b",
        "./a",
        "a/.",
        "a b",
        "a\n",
        "ä",
        "a\\b",
        "a\x00",
        "a?b",
        ".a",
        "a/.b",
        "...",
        "a" * 1025,
    ],
)
@pytest.mark.parametrize("kind", ["directory", "s3"])
def test_a_key_that_could_lead_elsewhere_is_refused(kind: str, key: str, tmp_path: Path) -> None:
    stores: dict[str, FarStore] = {
        "directory": DirectoryStore(tmp_path),
        "s3": S3Store(bucket="b", region="r", endpoint="http://127.0.0.1:1"),
    }
    store = stores[kind]
    uses: list[Any] = [store.delete, lambda key: store.put(key, [b"x"])]
    if kind == "directory":  # in S3 an object of somebody else may have nearly any key
        uses += [store.get, store.size]
    for use in uses:
        with pytest.raises(StoreError, match="no key of a store: use names of A-Z"):
            use(key)


@pytest.mark.parametrize("key", ["", "a\n", "a\x00", "ä" * 513])
def test_what_no_object_of_s3_has_for_a_key_is_not_asked_for(key: str) -> None:
    store = S3Store(bucket="b", region="r", endpoint="http://127.0.0.1:1")
    for use in (store.get, store.size):
        with pytest.raises(StoreError, match="is no key of S3"):
            use(key)


@pytest.mark.parametrize("key", ["a", "objects/0f", "runs/r-1/17", "a..b", "a.", "a_b.C-9", "-/_"])
def test_a_plain_key_is_taken(key: str, tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.put(key, [b"x"])
    assert bytes(store.get(key)) == b"x"


@pytest.mark.parametrize(
    ("locator", "why"),
    [
        ({}, "lacks 'kind': use the same version"),
        ({"kind": "directory"}, "lacks 'path': use the same version"),
        ({"kind": "s3", "bucket": "b"}, "lacks 'prefix': use the same version"),
        ({"kind": "tape"}, "'tape' is not known here.*same version"),
        (
            {"kind": "s3", "bucket": "b", "prefix": "", "region": "r", "endpoint": "host:1"},
            "'host:1' is no endpoint: pass a URL",
        ),
        (
            {"kind": "s3", "bucket": "evil.test/", "prefix": "", "region": "r", "endpoint": None},
            "'evil.test/' is no bucket: use letters",
        ),
        (
            {"kind": "s3", "bucket": "b", "prefix": "", "region": "evil.test#", "endpoint": None},
            "'evil.test#' is no region: use letters",
        ),
    ],
)
def test_a_locator_that_is_none_is_refused(locator: dict[str, Any], why: str) -> None:
    with pytest.raises(StoreError, match=why):
        open_store(locator)


# A directory


@pytest.fixture
def folder(tmp_path: Path) -> FarStore:
    return open_store({"kind": "directory", "path": str(tmp_path / "store")})


@pytest.mark.parametrize("nbytes", [0, 1, 1000, MIB - 1, MIB, 3 * MIB + 1])
def test_a_directory_gives_what_was_put(folder: FarStore, nbytes: int) -> None:
    content = random.Random(nbytes).randbytes(nbytes)
    folder.put("a/b", [content[:10], bytearray(), memoryview(content)[10:]])
    assert folder.size("a/b") == nbytes
    found = folder.get("a/b")
    assert bytes(found) == content
    assert found.readonly
    assert bytes(folder.get("a/b", start=nbytes // 3)) == content[nbytes // 3 :]
    assert (
        folder.get("a/b", start=nbytes // 3, stop=nbytes // 2) == content[nbytes // 3 : nbytes // 2]
    )
    assert bytes(folder.get("a/b", start=nbytes)) == b""


def test_a_directory_maps_what_is_large(folder: FarStore) -> None:
    folder.put("a", [bytes(2 * MIB)])
    assert type(folder.get("a").obj).__name__ == "mmap"
    assert type(folder.get("a", start=5).obj).__name__ == "mmap"


def test_a_mapped_object_outlives_its_deletion(folder: FarStore) -> None:
    folder.put("a", [b"x" * (2 * MIB)])
    found = folder.get("a")
    folder.delete("a")
    assert bytes(found) == b"x" * (2 * MIB)


def test_a_directory_takes_parts_that_are_no_plain_bytes(folder: FarStore) -> None:
    import numpy as np

    array = np.arange(6.0).reshape(2, 3)
    folder.put("a", [array.data, np.empty((0, 3)).data])
    assert bytes(folder.get("a")) == array.tobytes()


def test_a_directory_leaves_what_is_there(folder: FarStore) -> None:
    folder.put("a", [b"first"])
    folder.put("a", [b"second"])
    assert bytes(folder.get("a")) == b"first"


def test_a_directory_deletes_what_is_there_or_not(folder: FarStore) -> None:
    folder.put("a", [b"x"])
    folder.delete("a")
    folder.delete("a")
    with pytest.raises(StoreError, match="object a is not in the store"):
        folder.size("a")


def test_a_directory_leaves_nothing_but_its_objects(folder: FarStore, tmp_path: Path) -> None:
    for content in (b"1", b"2"):
        folder.put("a/b", [content])
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files == [tmp_path / "store" / "a" / "b"]


def test_concurrent_writers_and_readers_of_an_object_see_it_whole(folder: FarStore) -> None:
    contents = [bytes([n]) * (2 * MIB) for n in range(4)]
    seen: list[bytes] = []

    def write(content: bytes) -> None:
        folder.put("a", [content[:MIB], content[MIB:]])
        seen.append(bytes(folder.get("a")))

    threads = [threading.Thread(target=write, args=[content]) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 4
    assert len(set(seen)) == 1
    assert seen[0] in contents


def test_a_directory_without_hard_links_is_written_all_the_same(folder: FarStore) -> None:
    refused = OSError(errno.EPERM, "no links")
    with mock.patch("os.link", side_effect=refused):
        folder.put("a", [b"x"])
    assert bytes(folder.get("a")) == b"x"


def test_an_object_that_is_not_there_is_named(folder: FarStore) -> None:
    folder.put("a", [b"x"])
    with pytest.raises(StoreError, match=r"b is not in the store \(deleted under way, or of anoth"):
        folder.get("b")


def test_a_directory_that_is_not_there_is_named(folder: FarStore) -> None:
    with pytest.raises(
        StoreError, match="store is not there: give a path that clients and workers"
    ):
        folder.get("a")


@pytest.mark.parametrize("bounds", [{"start": 6}, {"stop": 6}, {"start": 2, "stop": 9}])
def test_a_range_beyond_the_end_is_refused(folder: FarStore, bounds: dict[str, int]) -> None:
    folder.put("a", [b"12345"])
    with pytest.raises(StoreError, match=r"5 bytes, and at least \d were expected.*run again"):
        folder.get("a", **bounds)


@pytest.mark.parametrize("bounds", [{"start": -1}, {"start": 3, "stop": 2}, {"stop": -1}])
def test_a_range_that_is_none_is_refused(folder: FarStore, bounds: dict[str, int]) -> None:
    with pytest.raises(StoreError, match="pass 0 <= start <= stop"):
        folder.get("a", **bounds)


@pytest.mark.parametrize(
    ("number", "why"),
    [
        (errno.ENOSPC, "its disk is full: free some space"),
        (errno.EDQUOT, "its disk is full: free some space"),
        (errno.EACCES, "let the user that workers run as read and write there"),
        (errno.EIO, "can't write object a in .*see to that directory"),
    ],
)
def test_what_the_system_refuses_is_told(
    folder: FarStore, tmp_path: Path, number: int, why: str
) -> None:
    with (
        mock.patch("os.write", side_effect=OSError(number, "refused")),
        pytest.raises(StoreError, match=why),
    ):
        folder.put("a", [b"x"])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


# S3: a server that follows a script, then serves


@dataclass
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Fake:
    """S3 on one port; a script of answers comes first."""

    url: str = ""
    objects: dict[str, bytes] = field(default_factory=dict)
    script: list[Callable[[BaseHTTPRequestHandler], None]] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", "0")))
        with self.lock:
            self.asked.append(
                Asked(handler.command, handler.path, dict(handler.headers.items()), body)
            )
            act = self.script.pop(0) if self.script else None
        if act is not None:
            act(handler)
        elif handler.command == "PUT":
            is_new = self.objects.setdefault(handler.path, body) is body
            answer(200 if is_new else 412)(handler)
        elif handler.command == "DELETE":
            self.objects.pop(handler.path, None)
            answer(204)(handler)
        elif handler.path not in self.objects:
            xml(404, "NoSuchKey")(handler)
        else:
            self.give(handler)

    def give(self, handler: BaseHTTPRequestHandler, *, missing: int = 0) -> None:
        """A range; `missing` bytes of it are not sent."""
        content = self.objects[handler.path]
        start, stop = map(int, handler.headers["Range"].removeprefix("bytes=").split("-"))
        if start >= len(content):
            answer(416, {"Content-Range": f"bytes */{len(content)}"})(handler)
            return
        part = content[start : stop + 1]
        handler.send_response(206)
        handler.send_header("Content-Length", str(len(part)))
        told = f"bytes {start}-{start + len(part) - 1}/{len(content)}"
        handler.send_header("Content-Range", told)
        handler.end_headers()
        handler.wfile.write(part[: len(part) - missing])
        handler.close_connection = missing > 0

    def truncated(self, handler: BaseHTTPRequestHandler) -> None:
        self.give(handler, missing=3)


def answer(
    status: int, headers: dict[str, str] | None = None, body: bytes = b""
) -> Callable[[BaseHTTPRequestHandler], None]:
    def act(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        if status != 204:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return act


def xml(
    status: int, code: str, message: str = "Some text.", *, extra: str = "", region: str = ""
) -> Callable[[BaseHTTPRequestHandler], None]:
    text = f"<Error><Code>{code}</Code><Message>{message}</Message>{extra}</Error>"
    headers = {"x-amz-bucket-region": region} if region else {}
    return answer(status, headers, f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'.encode())


def reset(handler: BaseHTTPRequestHandler) -> None:
    """Break the connection, with no answer."""
    linger = struct.pack("ii", 1, 0)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    handler.connection.close()
    handler.close_connection = True
    raise ConnectionAbortedError


@contextlib.contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[Fake]:
    served = Fake()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            served.connections += 1

        def handle_any(self) -> None:
            served.handle(self)

        do_GET = do_PUT = do_DELETE = handle_any  # noqa: N815

        def log_message(self, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = False  # so that server_close waits for them

        def handle_error(self, request: object, client_address: object) -> None:
            pass

    with Server(("127.0.0.1", 0), Handler) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        served.url = f"http{'s' if context else ''}://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield served
        server.shutdown()
        thread.join()


@pytest.fixture
def fake() -> Iterator[Fake]:
    with serving() as served:
        yield served


@pytest.fixture
def slept() -> list[float]:
    return []


@pytest.fixture
def s3(fake: Fake, slept: list[float]) -> Iterator[S3Store]:
    store = S3Store(
        bucket="bucket",
        prefix="pre/",
        region="eu-central-1",
        endpoint=fake.url,
        rng=random.Random(1),
        sleep=slept.append,
    )
    with contextlib.closing(store):
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


def test_https_is_spoken_with_whom_the_certificates_trust(
    slept: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    with serving(context) as fake:
        content = random.Random(0).randbytes(20 * MIB)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "authority.pem"))
        store = S3Store(bucket="b", region="r", endpoint=fake.url, sleep=slept.append)
        with contextlib.closing(store):
            store.put("a", [content])
            assert bytes(store.get("a")) == content
        monkeypatch.delenv("AWS_CA_BUNDLE")
        store = S3Store(bucket="b", region="r", endpoint=fake.url, sleep=slept.append)
        with pytest.raises(StoreError, match="name the certificates to trust in AWS_CA_BUNDLE"):
            store.get("a")
    assert not slept


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


ANSWERS = {
    "no object": (xml(404, "NoSuchKey"), r"object a is not in the store \(deleted under way"),
    "no bucket": (xml(404, "NoSuchBucket"), "there is no bucket bucket: create it in eu-central-1"),
    "denied": (
        xml(403, "AccessDenied", "User x isn&apos;t allowed &amp; so on"),
        r"x isn't allowed & so on.*s3:{right} on arn:aws:s3:::bucket/pre/\*",
    ),
    "denied, in silence": (answer(403), r"s3:{right} on arn:aws:s3:::bucket/pre/\*"),
    "denied by KMS": (
        xml(403, "AccessDenied", "User x is not authorized to perform: kms:Decrypt on y"),
        "{kms_right} on the KMS key",
    ),
    "a KMS key that is off": (xml(400, "KMS.DisabledException"), "see that the key is enabled"),
    "moved": (
        xml(301, "PermanentRedirect", region="us-west-2"),
        "is in us-west-2, not in eu-central-1: name us-west-2 as the store's region",
    ),
    "malformed": (
        xml(400, "AuthorizationHeaderMalformed", extra="<Region>us-west-2</Region>"),
        "is in us-west-2, not in eu-central-1: name us-west-2",
    ),
    "moved, in silence": (answer(301), "see whether the bucket bucket is in eu-central-1"),
    "expired": (xml(400, "ExpiredToken"), "the credentials have expired: renew them"),
    "unknown key": (xml(403, "InvalidAccessKeyId"), "credentials are wrong: see to AWS_ACCESS_KEY"),
    "wrong secret": (xml(403, "SignatureDoesNotMatch"), "credentials are wrong: see to AWS_ACC"),
    "wrong clock": (xml(403, "RequestTimeTooSkewed"), "clock is wrong: set it"),
    "unheard of": (xml(405, "MethodNotAllowed"), "405 MethodNotAllowed.*bucket's settings"),
}  # fmt: skip


def use(store: FarStore, how: str, key: str) -> None:
    if how == "PUT":
        store.put(key, [b"x"])
    elif how == "DELETE":
        store.delete(key)
    elif how == "size":
        store.size(key)
    else:
        store.get(key)


@pytest.mark.parametrize("method", ["GET", "size", "PUT"])
@pytest.mark.parametrize("name", ANSWERS)
def test_what_s3_refuses_is_told_with_its_remedy(
    s3: S3Store, fake: Fake, method: str, name: str
) -> None:
    act, why = ANSWERS[name]
    right = "PutObject" if method == "PUT" else "GetObject"
    kms_right = "kms:GenerateDataKey" if method == "PUT" else "kms:Decrypt"
    why = why.replace("{right}", right).replace("{kms_right}", kms_right)
    fake.script = [act]
    with pytest.raises(StoreError, match=why):
        use(s3, method, "a")
    assert len(fake.asked) == 1


def test_a_denied_read_may_be_of_what_is_not_there(s3: S3Store, fake: Fake) -> None:
    fake.script = [xml(403, "AccessDenied")]
    with pytest.raises(StoreError, match="but not s3:ListBucket, a is not in the store"):
        s3.get("a")


def test_deleting_what_is_not_there_is_fine_but_not_without_a_bucket(
    s3: S3Store, fake: Fake
) -> None:
    fake.script = [xml(404, "NoSuchKey"), xml(404, "NoSuchBucket"), xml(403, "AccessDenied")]
    s3.delete("a")
    with pytest.raises(StoreError, match="there is no bucket"):
        s3.delete("a")
    with pytest.raises(StoreError, match="s3:DeleteObject"):
        s3.delete("a")


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


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_missing_credentials_are_named(
    s3: S3Store, fake: Fake, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(name)
    with pytest.raises(StoreError, match="no credentials for S3: Lambda sets AWS_ACCESS_KEY_ID"):
        s3.get("a")
    assert not fake.asked


def test_credentials_are_read_anew_for_each_request(
    s3: S3Store, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.put("a", [])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIANEW")
    monkeypatch.delenv("AWS_SESSION_TOKEN")
    s3.put("b", [])
    old, new = fake.asked
    assert "Credential=AKIAFANOUT/" in old.headers["Authorization"]
    assert old.headers["X-Amz-Security-Token"] == "token=="
    assert "Credential=AKIANEW/" in new.headers["Authorization"]
    assert "X-Amz-Security-Token" not in new.headers


@pytest.mark.parametrize(
    ("bucket", "region", "host", "path"),
    [
        ("b-1", "eu-west-1", "b-1.s3.eu-west-1.amazonaws.com", "/p%20q/a"),
        ("b.1", "eu-west-1", "s3.eu-west-1.amazonaws.com", "/b.1/p%20q/a"),
        ("b-1", "cn-north-1", "b-1.s3.cn-north-1.amazonaws.com.cn", "/p%20q/a"),
    ],
)
def test_a_bucket_of_aws_has_its_own_host_unless_its_name_has_dots(
    bucket: str, region: str, host: str, path: str
) -> None:
    store = S3Store(bucket=bucket, prefix="p q/", region=region)
    assert (store._host, store._root + quoted(store._place.prefix + "a")) == (host, path)


@pytest.mark.parametrize(
    ("region", "arn"),
    [
        ("eu-west-1", "arn:aws:s3:::b/p/*"),
        ("cn-north-1", "arn:aws-cn:s3:::b/p/*"),
        ("us-gov-west-1", "arn:aws-us-gov:s3:::b/p/*"),
    ],
)
def test_a_policy_names_the_objects_as_the_error_does(region: str, arn: str) -> None:
    assert Place(bucket="b", prefix="p/", region=region).arn == arn


# The signature

PRINTABLE = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)


def by_botocore(
    method: str, url: str, body: bytes, headers: dict[str, str], keys: Credentials, region: str,
    moment: dt.datetime,
) -> str:  # fmt: skip
    request = AWSRequest(method=method, url=url, data=body, headers=headers)
    boto = BotoCredentials(keys.access_key, keys.secret_key, keys.token)
    with mock.patch("botocore.auth.get_current_datetime", return_value=moment):
        S3SigV4Auth(boto, "s3", region).add_auth(request)
    return str(request.headers["Authorization"])


@given(
    method=st.sampled_from(["GET", "PUT", "DELETE"]),
    key=st.text(st.characters(codec="utf-8"), min_size=1, max_size=30),
    extra=st.dictionaries(
        st.sampled_from(["Range", "If-None-Match", "x-amz-server-side-encryption"]),
        PRINTABLE | st.just("two  words"),
    ),
    body=st.binary(max_size=100),
    access_key=PRINTABLE,
    secret_key=PRINTABLE,
    token=st.none() | PRINTABLE,
    now_s=st.integers(0, 2**32 - 1),
    region=st.sampled_from(["us-east-1", "eu-central-2", "cn-north-1"]),
)
def test_the_signature_is_the_one_botocore_makes(
    method: str,
    key: str,
    extra: dict[str, str],
    body: bytes,
    access_key: str,
    secret_key: str,
    token: str | None,
    now_s: int,
    region: str,
) -> None:
    keys = Credentials(access_key, secret_key, token)
    path = f"/bucket/{quoted(key)}"
    sent = signed(
        method=method,
        path=path,
        headers={"Host": "s3.test:8443", **extra},
        body_digest=hashlib.sha256(body).hexdigest(),
        credentials=keys,
        region=region,
        now_s=now_s,
    )
    moment = dt.datetime.fromtimestamp(now_s, dt.UTC).replace(tzinfo=None)
    url = f"https://s3.test:8443{path}"
    assert sent["Authorization"] == by_botocore(method, url, body, extra, keys, region, moment)
    assert sent.get("X-Amz-Security-Token") == token


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_what_is_sent_is_what_was_signed(fake: Fake, method: str) -> None:
    prefix = "a b/ü+~=&;%41//"
    store = S3Store(bucket="bu", prefix=prefix, region="eu-west-3", endpoint=fake.url, kms_key="k")
    fake.objects[f"/bu/{quote(prefix, safe='/~')}x-1_2.3"] = b"x"
    with contextlib.closing(store):
        use(store, method, "x-1_2.3")
    (asked,) = fake.asked
    moment = dt.datetime.strptime(asked.headers["X-Amz-Date"], "%Y%m%dT%H%M%SZ")  # noqa: DTZ007
    told = re.search("SignedHeaders=([^,]*),", asked.headers["Authorization"])
    assert told is not None
    made = {"host", "x-amz-date", "x-amz-content-sha256", "x-amz-security-token"}
    extra = {
        name: value
        for name, value in asked.headers.items()
        if name.lower() in set(told[1].split(";")) - made
    }
    keys = Credentials("AKIAFANOUT", "secret/of/the/tests", "token==")
    expected = by_botocore(
        method, fake.url + asked.path, asked.body, extra, keys, "eu-west-3", moment
    )
    assert asked.headers["Authorization"] == expected
    unsigned = {name.lower() for name in asked.headers} - set(told[1].split(";"))
    assert unsigned <= {"authorization", "content-length"}


def test_credentials_are_not_in_their_repr() -> None:
    assert "secret" not in repr(Credentials("AKIA", "secret", "token"))


# The cache


@dataclass
class Counting:
    """A store in memory that counts."""

    objects: dict[str, bytes] = field(default_factory=dict)
    gets: list[str] = field(default_factory=list)
    is_local: bool = False

    def add(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        self.objects[f"objects/{digest}"] = content
        return digest

    def get(self, key: str, *, start: int = 0, stop: int | None = None) -> memoryview:
        self.gets.append(key)
        if key not in self.objects:
            msg = f"{key} is missing"
            raise StoreError(msg)
        return memoryview(self.objects[key])[start:stop]

    def size(self, key: str) -> int:
        return len(self.objects[key])

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        raise NotImplementedError

    def delete(self, key: str) -> None:
        raise NotImplementedError

    def close(self) -> None:
        pass


def test_an_object_is_fetched_once(tmp_path: Path) -> None:
    store = Counting()
    digest = store.add(b"12345")
    cache = Cache(store, disk=tmp_path / "disk")
    assert bytes(cache.object(digest, 5)) == b"12345"
    assert bytes(cache.object(digest, 5)) == b"12345"
    assert store.gets == [f"objects/{digest}"]


def test_threads_that_want_the_same_object_fetch_it_once(tmp_path: Path) -> None:
    may_go = threading.Event()

    class Slow(Counting):
        def get(self, key: str, *, start: int = 0, stop: int | None = None) -> memoryview:
            may_go.wait(10)
            return super().get(key, start=start, stop=stop)

    store = Slow()
    digest = store.add(b"12345")
    cache = Cache(store, disk=tmp_path / "disk")
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(bytes(cache.object(digest, 5))))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    may_go.set()
    for thread in threads:
        thread.join()
    assert found == [b"12345"] * 8
    assert len(store.gets) == 1


@pytest.mark.parametrize("content", [b"123456", b"12346", b"1234"])
def test_an_object_that_is_not_what_its_digest_says_is_refused(
    content: bytes, tmp_path: Path
) -> None:
    store = Counting()
    digest = store.add(b"12345")
    store.objects[f"objects/{digest}"] = content
    cache = Cache(store, disk=tmp_path / "disk")
    if content.startswith(b"12345"):
        assert bytes(cache.object(digest, 5)) == b"12345"  # more was never asked for
        return
    with pytest.raises(StoreError, match=f"{digest} is damaged or exchanged.*delete it, run again"):
        cache.object(digest, 5)
    assert not list((tmp_path).rglob(digest))


def test_a_failed_fetch_is_tried_again_by_the_next_who_asks(tmp_path: Path) -> None:
    store = Counting()
    digest = store.add(b"12345")
    content = store.objects.pop(f"objects/{digest}")
    cache = Cache(store, disk=tmp_path / "disk")
    with pytest.raises(StoreError, match="missing"):
        cache.object(digest, 5)
    store.objects[f"objects/{digest}"] = content
    assert bytes(cache.object(digest, 5)) == b"12345"


@pytest.mark.parametrize("digest", ["", "..", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 65])
def test_a_digest_that_is_none_is_refused(digest: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is no sha256: use the same version"):
        Cache(Counting(), disk=tmp_path / "disk").object(digest, 5)


def test_what_was_used_longest_ago_makes_room_in_memory(tmp_path: Path) -> None:
    store = Counting()
    a, b, c = (store.add(bytes([n]) * 10) for n in range(3))
    cache = Cache(store, memory_bytes=20, disk=tmp_path / "disk", disk_bytes=0)
    for digest in (a, b, a, c, a, b):
        cache.object(digest, 10)
    assert store.gets == [f"objects/{digest}" for digest in (a, b, c, b)]


def test_one_object_stays_however_large_it_is(tmp_path: Path) -> None:
    store = Counting()
    digest = store.add(bytes(100))
    cache = Cache(store, memory_bytes=20, disk=tmp_path / "disk", disk_bytes=0)
    for _ in range(3):
        cache.object(digest, 100)
    assert len(store.gets) == 1


def test_a_quarter_of_the_functions_memory_is_for_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "4")
    store = Counting()
    a, b = (store.add(bytes([n]) * (MIB // 2 + 1)) for n in range(2))
    cache = Cache(store, disk=tmp_path / "disk", disk_bytes=0)
    for digest in (a, b, a):
        cache.object(digest, MIB // 2 + 1)
    assert len(store.gets) == 3


def test_a_restarted_worker_finds_the_copies(tmp_path: Path) -> None:
    store = Counting()
    contents = [b"12345", bytes(2 * MIB), b""]
    digests = [store.add(content) for content in contents]
    for _ in range(2):
        cache = Cache(store, disk=tmp_path / "disk")
        for digest, content in zip(digests, contents, strict=True):
            found = cache.object(digest, len(content))
            assert bytes(found) == content
            assert found.readonly
    assert len(store.gets) == 3


def test_a_damaged_copy_is_fetched_anew(tmp_path: Path) -> None:
    store = Counting()
    digest = store.add(b"12345")
    Cache(store, disk=tmp_path / "disk").object(digest, 5)
    for damage in (b"1234", b"12346", b""):
        (tmp_path / "disk" / digest).write_bytes(damage)
        assert bytes(Cache(store, disk=tmp_path / "disk").object(digest, 5)) == b"12345"
        assert (tmp_path / "disk" / digest).read_bytes() == b"12345"
    assert len(store.gets) == 4


def test_what_was_used_longest_ago_makes_room_on_disk(tmp_path: Path) -> None:
    store = Counting()
    disk = tmp_path / "disk"
    a, b, c = (store.add(bytes([n]) * 10) for n in range(3))
    for age_s, digest in ((20, a), (10, b)):
        Cache(store, disk=disk, disk_bytes=20).object(digest, 10)
        os.utime(disk / digest, (10**9 - age_s, 10**9 - age_s))
    Cache(store, disk=disk, disk_bytes=20).object(a, 10)  # from disk: now the last one used
    Cache(store, disk=disk, disk_bytes=20).object(c, 10)
    assert {path.name for path in disk.iterdir()} == {a, c}
    Cache(store, disk=disk, disk_bytes=5).object(b, 10)  # will never fit: nothing goes for it
    assert {path.name for path in disk.iterdir()} == {a, c}


@pytest.mark.parametrize("what", ["full", "no directory", "open to others", "a link"])
def test_without_a_disk_memory_is_enough(tmp_path: Path, what: str) -> None:
    store = Counting()
    digest = store.add(b"12345")
    disk = tmp_path / "disk"
    full: Any = contextlib.nullcontext()
    if what == "full":
        full = mock.patch("os.write", side_effect=OSError(errno.ENOSPC, "full"))
    elif what == "no directory":
        disk.write_bytes(b"")
    elif what == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        disk.symlink_to(tmp_path / "elsewhere")
    else:
        disk.mkdir()
        disk.chmod(0o777)
    cache = Cache(store, disk=disk)
    with full:
        for _ in range(2):
            assert bytes(cache.object(digest, 5)) == b"12345"
    assert len(store.gets) == 1
    assert not list(tmp_path.rglob(f"*{digest[:10]}*"))


def test_nothing_is_copied_from_a_directory(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store")
    content = bytes(2 * MIB)
    digest = hashlib.sha256(content).hexdigest()
    store.put(f"objects/{digest}", [content])
    found = Cache(store, disk=tmp_path / "disk").object(digest, len(content))
    assert type(found.obj).__name__ == "mmap"
    assert not (tmp_path / "disk").exists()
