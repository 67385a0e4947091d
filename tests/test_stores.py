"""Stores: a directory, what a setting may name, and how S3's faults are met."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import os
import random
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aioboto3
import numpy as np
import pytest

from fanout.errors import StoreError, UsageError
from fanout.stores import DirectoryStore, S3Store, Store, store_of
from tests.invoke_checks import (
    Peer,
    Request,
    Server,
    authority,
    others,
    server_tls,
    serving,
    until,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable

    Step = Callable[[Peer, Request], Awaitable[None]]

_MIB: Final = 2**20
_SLOW_DOWN: Final = ("SlowDown", "Please reduce your request rate.")


# A directory.


def files(path: Path) -> list[str]:
    """Names of what lies in a directory."""
    return sorted(os.listdir(path))


def mode(path: Path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


@pytest.fixture
async def directory(tmp_path: Path) -> AsyncIterator[DirectoryStore]:
    store = DirectoryStore(tmp_path / "objects")
    await store.start()
    yield store
    await store.aclose()


@pytest.mark.parametrize("size", [0, 1, 3 * _MIB])
async def test_a_directory_gives_back_what_was_put(directory: DirectoryStore, size: int) -> None:
    data = os.urandom(size)
    rest = memoryview(data)[size // 2 :]
    assert await directory.put("objects/1", [data[: size // 2], rest, b""])
    found = await directory.get("objects/1", size)
    assert found == data
    assert found.readonly
    assert directory.requests == 0


async def test_arrays_are_written_as_they_lie_in_memory(directory: DirectoryStore) -> None:
    array = np.arange(24, dtype="<f8").reshape(4, 6)
    await directory.put("array", [array.data, np.empty((0, 3)).data])
    assert await directory.get("array", array.nbytes) == array.tobytes()


async def test_a_directory_takes_an_object_once(directory: DirectoryStore, tmp_path: Path) -> None:
    assert await directory.put("objects/1", [b"first"])
    assert not await directory.put("objects/1", [b"other"])
    assert bytes(await directory.get("objects/1", 5)) == b"first"


async def test_of_many_that_write_the_same_at_once_one_does(
    directory: DirectoryStore, tmp_path: Path
) -> None:
    data = bytes(_MIB)
    done = await asyncio.gather(*(directory.put("objects/1", [data]) for _ in range(8)))
    assert sum(done) == 1
    assert files(tmp_path / "objects/objects") == ["1"]


async def test_where_links_are_unknown_a_file_is_moved_to_its_name(
    directory: DirectoryStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert await directory.put("1", [b"x"])
    assert bytes(await directory.get("1", 1)) == b"x"
    assert files(tmp_path / "objects") == ["1"]


async def test_an_object_stays_readable_after_it_was_deleted(directory: DirectoryStore) -> None:
    await directory.put("1", [b"kept"])
    found = await directory.get("1", 4)
    await directory.delete(["1", "2", "1/2"])
    assert bytes(found) == b"kept"
    with pytest.raises(StoreError, match="is not there: it was deleted under way"):
        await directory.get("1", 4)


async def test_a_file_of_another_size_is_refused(directory: DirectoryStore) -> None:
    await directory.put("1", [b"abc"])
    with pytest.raises(StoreError, match=r"holds 3 bytes instead of 4: .*put the object again"):
        await directory.get("1", 4)


async def test_deleting_a_prefix_leaves_the_rest(directory: DirectoryStore, tmp_path: Path) -> None:
    for key in ("runs/1/a", "runs/1/b/c", "runs/10/a", "runs/2", "objects/1"):
        await directory.put(key, [b"x"])
    await directory.delete_prefix("runs/1/")
    assert not (tmp_path / "objects/runs/1").exists()
    await directory.delete_prefix("runs/1")
    await directory.delete_prefix("never/was")
    assert files(tmp_path / "objects/runs") == ["2"]
    assert files(tmp_path / "objects/objects") == ["1"]


async def test_a_prefix_is_deleted_while_others_delete_there_too(
    directory: DirectoryStore, tmp_path: Path
) -> None:
    keys = [f"runs/1/{number}" for number in range(300)]
    for key in keys:
        await directory.put(key, [b"x"])
    await asyncio.gather(
        directory.delete(keys[::2]), *(directory.delete_prefix("runs/1/") for _ in range(3))
    )
    assert files(tmp_path / "objects/runs") == []


async def test_a_directory_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "objects").write_text("a file")
    store = DirectoryStore(tmp_path)
    with pytest.raises(StoreError, match=r"objects/1 can't be written: .*use another directory"):
        await store.put("objects/1", [b"x"])


@pytest.mark.parametrize(
    "key",
    ["", "/a", "a/", "a//b", "..", "a/../b", "a/.", ".a", "a/.b", "a b", "ä", "a\\b", "a" * 1025],
)
async def test_a_key_that_could_lead_elsewhere_is_refused(
    key: str, directory: DirectoryStore
) -> None:
    for act in (
        directory.put(key, [b"x"]),
        directory.get(key, 1),
        directory.delete([key]),
    ):
        with pytest.raises(UsageError, match="can't name an object: use letters, digits"):
            await act


@pytest.mark.parametrize("prefix", ["", "/", "../", "a/../", "a//"])
async def test_a_prefix_of_everything_or_of_nothing_is_refused(
    prefix: str, directory: DirectoryStore
) -> None:
    with pytest.raises(UsageError, match="pass one such as 'runs/17/'"):
        await directory.delete_prefix(prefix)


async def test_a_directory_of_its_own_is_made_when_needed_and_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store = DirectoryStore()
    path = Path(str(store.locator["path"]))
    await store.start()
    assert files(tmp_path) == []
    await store.put("objects/1", [b"x"])
    assert mode(path) == 0o700
    assert (path / "objects/1").read_bytes() == b"x"
    await store.aclose()
    assert files(tmp_path) == []


async def test_a_directory_of_its_own_goes_with_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store = DirectoryStore()
    await store.put("1", [b"x"])
    del store
    gc.collect()
    assert files(tmp_path) == []


async def test_what_a_worker_made_first_becomes_private_and_goes_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store = DirectoryStore()
    path = Path(str(store.locator["path"]))
    os.mkdir(path, 0o755)
    await store.put("1", [b"x"])
    assert mode(path) == 0o700
    await store.aclose()
    assert files(tmp_path) == []


async def test_a_link_in_place_of_its_own_directory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store = DirectoryStore()
    (tmp_path / "elsewhere").mkdir()
    os.symlink(tmp_path / "elsewhere", str(store.locator["path"]))
    with pytest.raises(StoreError, match="belongs to somebody else: set TMPDIR"):
        await store.put("1", [b"x"])


async def test_closing_waits_for_what_a_cancelled_put_still_writes(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    putting = asyncio.create_task(store.put("1", [bytes(32 * _MIB)]))
    await asyncio.sleep(0)
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    await store.aclose()
    assert files(tmp_path) == ["1"]
    assert os.stat(tmp_path / "1").st_size == 32 * _MIB


# What a setting may name.


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://bucket", "s3://bucket/fanout/,"),
        ("s3://bucket/", "s3://bucket/fanout/,"),
        ("s3://bucket/a/b", "s3://bucket/a/b/,"),
        ("S3://bucket/a/", "s3://bucket/a/,"),
        ("/tmp", "DirectoryStore /tmp>"),
        ("here/there", f"DirectoryStore {Path.cwd()}/here/there>"),
        ("~/there", f"DirectoryStore {Path.home()}/there>"),
    ],
)
def test_a_setting_names_a_bucket_or_a_directory(text: str, shown: str) -> None:
    store: Store = store_of(text)
    assert shown in repr(store)


@pytest.mark.parametrize("text", ["", "  ", "gs://bucket", "https://host/x", "a\0b"])
def test_a_setting_that_names_neither_says_what_does(text: str) -> None:
    with pytest.raises(UsageError, match="pass 's3://bucket', 's3://bucket/prefix' or the path"):
        store_of(text)


@pytest.mark.parametrize(
    ("make", "hint"),
    [
        (lambda: store_of("s3://"), "pass its name without s3://"),
        (lambda: store_of("s3://Bucket"), "pass its name without s3://"),
        (lambda: store_of("s3://bucket/a/../b"), "can't be the beginning of a key"),
        (lambda: store_of(__file__), "is a file: pass the path of a directory"),
        (lambda: S3Store("bucket", part_bytes=2**20), "pass 5242880 or more"),
        (lambda: S3Store("bucket", concurrency=0), "must be 1 or more"),
        (lambda: S3Store("bucket", profile="x", session=aioboto3.Session()), "pass one of them"),
        (lambda: S3Store("bucket", endpoint_url="http://me:pw@host"), "leave it out"),
    ],
)
def test_a_wrong_argument_says_what_to_pass(make: Callable[[], object], hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        make()


# S3's faults.


@pytest.fixture(autouse=True)
def _nobodys_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@functools.cache
def _session() -> aioboto3.Session:
    """One for all tests: it keeps the description of S3 that it has read."""
    return aioboto3.Session(aws_access_key_id="AKIAANY", aws_secret_access_key="any")


def ok(body: bytes = b"", status: int = 200, **headers: str) -> Step:
    """Answer a request as it should be."""

    async def step(peer: Peer, request: Request) -> None:
        lines = [f"HTTP/1.1 {status} Told", f"Content-Length: {len(body)}", 'ETag: "e"']
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        peer.write("\r\n".join(lines).encode(), b"\r\n\r\n", body)

    return step


def refuse(status: int, code: str, message: str = "", inner: str = "", **headers: str) -> Step:
    """Answer with an error of S3."""
    text = f"<Error><Code>{code}</Code><Message>{message}</Message>{inner}</Error>"
    return ok(text.encode(), status, **headers)


async def reset(peer: Peer, request: Request) -> None:
    peer.reset()


async def torn(peer: Peer, request: Request) -> None:
    """Reset the connection while the body comes; `bench` knows that it isn't to be read."""
    await peer.reader.readexactly(100_000)
    peer.reset()


async def body_of(peer: Peer, request: Request) -> bytes:
    """What was uploaded, however it was wrapped up."""
    if request.headers.get("transfer-encoding") != "chunked":
        return await peer.reader.readexactly(int(request.headers.get("content-length", 0)))
    body = b""
    while size := int(await peer.reader.readline(), 16):
        body += await peer.reader.readexactly(size)
        await peer.reader.readexactly(2)
    await peer.reader.readline()
    if "aws-chunked" not in request.headers.get("content-encoding", ""):
        return body
    # https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming-trailers.html
    found = b""
    while True:
        length, _, body = body.partition(b"\r\n")
        if not (size := int(length, 16)):
            assert body.startswith(b"x-amz-checksum-crc32:")
            assert len(found) == int(request.headers["x-amz-decoded-content-length"])
            return found
        found, body = found + body[:size], body[size + 2 :]


def broken_off(body: bytes, after: int, status: int = 200, **headers: str) -> Step:
    """Answer with the beginning of a body."""

    async def step(peer: Peer, request: Request) -> None:
        lines = [f"HTTP/1.1 {status} Told", f"Content-Length: {len(body)}", "Connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        peer.write("\r\n".join(lines).encode(), b"\r\n\r\n", body[:after])
        await peer.writer.drain()
        peer.writer.close()

    return step


def no_head(step: Step) -> Step:
    """The step, but for HEAD, which finds nothing."""

    async def chosen(peer: Peer, request: Request) -> None:
        if request.method == "HEAD":
            peer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        else:
            await step(peer, request)

    return chosen


class Bench:
    """A store, and the server that it talks to."""

    def __init__(self, server: Server, store: S3Store, pauses_s: list[float]) -> None:
        self.server = server
        self.store = store
        self.pauses_s = pauses_s

    def sent(self) -> list[str]:
        return [request.method for request in self.server.requests]


@contextlib.asynccontextmanager
async def bench(
    *steps: Step,
    default: Step | None = None,
    tls: ssl.SSLContext | None = None,
    **options: Any,
) -> AsyncIterator[Bench]:
    """A store whose requests meet these steps, one after the other, then the default."""
    left = list(steps)
    pauses_s: list[float] = []

    async def script(peer: Peer) -> None:
        while (request := await peer.head()) is not None:
            step = left.pop(0) if left else default or ok()
            if request.headers.get("expect"):
                peer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            if step is not torn:
                request.body = await body_of(peer, request)
            await step(peer, request)
            if peer.writer.is_closing():
                return

    async def sleep(pause_s: float) -> None:
        pauses_s.append(pause_s)
        await asyncio.sleep(0)

    options.setdefault("region", "eu-central-1")
    async with serving(script, tls=tls) as server:
        scheme = "https" if tls else "http"
        store = S3Store(
            "bucket",
            session=_session(),
            endpoint_url=f"{scheme}://127.0.0.1:{server.port}",
            rng=random.Random(1),
            sleep=sleep,
            **options,
        )
        await store.start()
        try:
            yield Bench(server, store, pauses_s)
        finally:
            await store.aclose()
        assert not [task for task in others() if "S3Store" in repr(task)]


@pytest.mark.parametrize(
    "fault",
    [
        refuse(503, *_SLOW_DOWN),
        refuse(500, "InternalError"),
        refuse(400, "RequestTimeout"),
        refuse(400, "BadDigest"),
        refuse(409, "ConditionalRequestConflict"),
        ok(b"<html>Bad Gateway", 502),
        ok(b"", 503),
        broken_off(b"<Error><Code>SlowDown</Code></Error>", 9, 503),
        reset,
    ],
)
async def test_an_upload_is_sent_again_after_what_passes(fault: Step) -> None:
    async with bench(fault, fault) as at:
        assert await at.store.put("objects/1", [b"in two ", b"pieces"])
        assert len(at.sent()) == 3
        assert at.store.requests == len(at.pauses_s) + 1  # aiohttp itself meets one reset
        last = at.server.requests[-1]
        assert (last.method, last.target) == ("PUT", "/bucket/fanout/objects/1")
        assert last.body == b"in two pieces"
        assert last.headers["if-none-match"] == "*"


@pytest.mark.parametrize("is_tls", [False, True])
@pytest.mark.parametrize("size", [100, 3 * _MIB])
async def test_bodies_are_sent_again_whole(
    size: int, is_tls: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_tls:  # where botocore wraps bodies up, with a checksum behind them
        authority().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    data = os.urandom(size)
    under_way = torn if size > 100_000 else reset
    faults = (under_way, refuse(503, *_SLOW_DOWN), ok(), reset, under_way)
    async with bench(*faults, tls=server_tls() if is_tls else None) as at:
        for number in (1, 2):
            assert await at.store.put(f"objects/{number}", [data[:5], data[5:]])
            assert at.server.requests[-1].body == data


async def test_a_certificate_of_a_stranger_is_no_passing_fault() -> None:
    async with bench(tls=server_tls()) as at:
        with pytest.raises(StoreError, match="set AWS_CA_BUNDLE to its certificates"):
            await at.store.put("objects/1", [b"x"])
        assert at.pauses_s == []


async def test_pauses_are_drawn_from_a_range_that_doubles() -> None:
    async with bench(default=refuse(503, *_SLOW_DOWN)) as at:
        with pytest.raises(StoreError) as caught:
            await at.store.put("objects/1", [b"x"])
        assert at.store.requests == 6
    rng = random.Random(1)
    assert at.pauses_s == [rng.uniform(0, 0.25 * 2**n) for n in range(5)]
    assert str(caught.value) == (
        "s3://bucket/fanout/objects/1 can't be stored: S3 still refuses after 6 attempts "
        "(SlowDown: Please reduce your request rate.): lower the store's concurrency=, use fewer "
        "and larger objects, or run it again later"
    )


async def test_a_connection_that_never_holds_says_what_to_check() -> None:
    async with bench(default=reset) as at:
        with pytest.raises(StoreError, match=r"failed 6 times, .*check the connection and the end"):
            await at.store.get("objects/1", 3)


async def test_a_body_that_breaks_off_goes_on_where_it_did() -> None:
    data = os.urandom(100_000)
    rest = ok(data[60_000:], 206, Content_Range="bytes 60000-99999/100000")
    async with bench(broken_off(data, 60_000), rest) as at:
        assert await at.store.get("objects/1", len(data)) == data
        first, second = at.server.requests
        assert "range" not in first.headers
        assert second.headers["range"] == "bytes=60000-99999"


async def test_an_object_that_is_there_is_not_uploaded() -> None:
    async with bench(refuse(412, "PreconditionFailed")) as at:
        assert not await at.store.put("objects/1", [b"x"])
        assert at.pauses_s == []


async def test_a_large_object_that_is_there_costs_one_request() -> None:
    async with bench() as at:
        assert not await at.store.put("objects/1", [bytes(17 * _MIB)])
        assert at.sent() == ["HEAD"]


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (
            refuse(403, "AccessDenied", "no s3:PutObject for you"),
            r"lack a right \(AccessDenied: no s3:PutObject for you\): allow s3:GetObject, "
            r"s3:PutObject, s3:DeleteObject .* on arn:aws:s3:::bucket/fanout/\*, and "
            "s3:ListBucket on arn:aws:s3:::bucket ",
        ),
        (
            refuse(403, "AccessDenied", "not authorized to perform: kms:GenerateDataKey"),
            "the KMS key alias/mine can't be used .*allow kms:GenerateDataKey and kms:Decrypt",
        ),
        (refuse(400, "KMS.DisabledException", "off"), "KMS key alias/mine can't be used .*off"),
        (
            refuse(404, "NoSuchBucket"),
            "there is no bucket bucket: .*`aws s3 mb s3://bucket --region eu-central-1`",
        ),
        (
            refuse(301, "PermanentRedirect", x_amz_bucket_region="us-west-2"),
            "bucket is in us-west-2, not in eu-central-1: pass region='us-west-2'",
        ),
        (
            refuse(400, "AuthorizationHeaderMalformed", inner="<Region>us-west-2</Region>"),
            "bucket is in us-west-2, not in eu-central-1: pass region='us-west-2'",
        ),
        (
            refuse(400, "IllegalLocationConstraintException"),
            "bucket is not in eu-central-1 .*aws s3api get-bucket-location --bucket bucket",
        ),
        (refuse(400, "ExpiredToken", "old"), "credentials were refused .*aws sso login"),
        (refuse(403, "RequestTimeTooSkewed", "late"), "clock of this machine is wrong"),
        (refuse(400, "Odd", "as never before"), "S3 refused with Odd: as never before"),
    ],
)
@pytest.mark.parametrize("size", [1, 17 * _MIB])
async def test_a_refusal_for_good_is_asked_once_and_explained(
    fault: Step, told: str, size: int
) -> None:
    async with bench(default=no_head(fault), kms_key="alias/mine") as at:
        with pytest.raises(StoreError, match=f"s3://bucket/fanout/objects/1 can't be.*{told}"):
            await at.store.put("objects/1", [bytes(size)])
        assert at.sent() == (["PUT"] if size == 1 else ["HEAD", "POST"])


async def test_the_key_for_encryption_goes_with_each_upload() -> None:
    async with bench(kms_key="alias/mine") as at:
        assert await at.store.put("objects/1", [b"x"])
        headers = at.server.requests[0].headers
        assert headers["x-amz-server-side-encryption"] == "aws:kms"
        assert headers["x-amz-server-side-encryption-aws-kms-key-id"] == "alias/mine"
        assert at.store.locator["kms"] == "alias/mine"


def in_parts(*at_completion: Step, at_part: Step | None = None) -> Step:
    """Take an upload in parts; its completions meet these steps."""
    left = list(at_completion)
    begun = (
        b"<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>"
    )

    async def step(peer: Peer, request: Request) -> None:
        if "?uploads" in request.target:
            await ok(begun)(peer, request)
        elif request.method == "PUT":
            await (at_part or ok(x_amz_checksum_crc32="AAAAAA=="))(peer, request)
        elif request.method == "POST":
            await (left.pop(0) if left else ok(b"<CompleteMultipartUploadResult/>"))(peer, request)
        else:
            await ok(status=204)(peer, request)

    return no_head(step)


async def test_an_upload_in_parts_is_completed_with_their_checksums_and_a_condition() -> None:
    async with bench(default=in_parts(), region="us-east-1") as at:
        assert await at.store.put("objects/1", [bytes(17 * _MIB)])
        assert at.sent() == ["HEAD", "POST", "PUT", "PUT", "PUT", "POST"]
        last = at.server.requests[-1]
        assert last.headers["if-none-match"] == "*"
        assert last.body.count(b"<ChecksumCRC32>AAAAAA==</ChecksumCRC32>") == 3


async def test_a_completion_that_fails_within_status_200_is_sent_again() -> None:
    failed = ok(b"<Error><Code>InternalError</Code><Message>again</Message></Error>")
    async with bench(default=in_parts(failed)) as at:
        assert await at.store.put("objects/1", [bytes(17 * _MIB)])
        assert at.sent()[-2:] == ["POST", "POST"]


async def test_who_comes_second_with_an_upload_in_parts_removes_its_own() -> None:
    async with bench(default=in_parts(refuse(412, "PreconditionFailed"))) as at:
        assert not await at.store.put("objects/1", [bytes(17 * _MIB)])
        assert at.sent()[-1] == "DELETE"


async def test_an_upload_in_parts_that_meets_another_begins_anew() -> None:
    conflict = refuse(409, "ConditionalRequestConflict")
    async with bench(default=in_parts(conflict)) as at:
        assert await at.store.put("objects/1", [bytes(17 * _MIB)])
        once = ["HEAD", "POST", "PUT", "PUT", "PUT", "POST"]
        assert at.sent() == [*once, "DELETE", *once]


async def test_an_upload_that_others_keep_ending_gives_up() -> None:
    async with bench(default=in_parts(at_part=refuse(404, "NoSuchUpload"))) as at:
        with pytest.raises(
            StoreError, match=r"6 uploads of it were ended by others .*NoSuchUpload"
        ):
            await at.store.put("objects/1", [bytes(17 * _MIB)])


async def test_parts_are_removed_when_one_of_them_fails() -> None:
    async with bench(default=in_parts(at_part=refuse(403, "AccessDenied"))) as at:
        with pytest.raises(StoreError, match="lack a right"):
            await at.store.put("objects/1", [bytes(40 * _MIB)])
        assert at.server.requests[-1].method == "DELETE"
        assert "uploadId=u1" in at.server.requests[-1].target


async def test_parts_that_cannot_be_removed_are_told_of(caplog: pytest.LogCaptureFixture) -> None:
    failing = in_parts(at_part=refuse(403, "AccessDenied"))

    async def step(peer: Peer, request: Request) -> None:
        kept = request.method == "DELETE"
        await (refuse(403, "AccessDenied", "stays") if kept else failing)(peer, request)

    async with bench(default=step) as at:
        with pytest.raises(StoreError, match="lack a right"):
            await at.store.put("objects/1", [bytes(17 * _MIB)])
    assert "stays" in caplog.text
    assert "lifecycle rule with AbortIncompleteMultipartUpload" in caplog.text


async def test_an_upload_cancelled_before_its_name_is_known_is_ended() -> None:
    may_answer = asyncio.Event()
    normal = in_parts()

    async def step(peer: Peer, request: Request) -> None:
        if "?uploads" in request.target:
            await may_answer.wait()
        await normal(peer, request)

    async with bench(default=step) as at:
        putting = asyncio.create_task(at.store.put("objects/1", [bytes(17 * _MIB)]))
        await until(lambda: "POST" in at.sent())
        putting.cancel()
        await asyncio.sleep(0)
        may_answer.set()
        with pytest.raises(asyncio.CancelledError):
            await putting
        assert at.sent() == ["HEAD", "POST", "DELETE"]


async def test_a_download_that_is_cancelled_closes_its_connections() -> None:
    async def stall(peer: Peer, request: Request) -> None:
        peer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nx")
        await peer.end()

    async with bench(default=stall) as at:
        getting = asyncio.create_task(at.store.get("objects/1", 99))
        await until(lambda: at.server.requests)
        getting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await getting
        await until(lambda: not at.server.live)


async def test_objects_that_could_not_be_deleted_for_now_are_deleted_again() -> None:
    some = b"<DeleteResult><Error><Key>fanout/b</Key><Code>SlowDown</Code></Error></DeleteResult>"
    async with bench(ok(some), ok(b"<DeleteResult/>")) as at:
        await at.store.delete(["a", "b", "c"])
        assert [request.body.count(b"<Key>") for request in at.server.requests] == [3, 1]


async def test_objects_that_may_not_be_deleted_are_an_error() -> None:
    some = (
        b"<DeleteResult><Error><Key>fanout/b</Key><Code>AccessDenied</Code></Error></DeleteResult>"
    )
    async with bench(ok(some)) as at:
        with pytest.raises(StoreError, match="can't be deleted: your credentials lack a right"):
            await at.store.delete(["a", "b"])


async def test_no_more_requests_are_under_way_than_allowed() -> None:
    most = 0

    async def slow(peer: Peer, request: Request) -> None:
        nonlocal most
        most = max(most, at.server.live)
        await asyncio.sleep(0.001)
        await ok()(peer, request)

    async with bench(default=slow, concurrency=3) as at:
        await asyncio.gather(*(at.store.put(f"objects/{n}", [b"x"]) for n in range(40)))
    assert most == 3


async def test_without_credentials_a_store_says_how_to_have_some() -> None:
    store = S3Store("bucket", region="us-east-1")
    with pytest.raises(StoreError, match=r"no AWS credentials for the store .*aws sso login"):
        await store.start()


async def test_an_unknown_profile_is_a_wrong_setting() -> None:
    store = S3Store("bucket", profile="nobody")
    with pytest.raises(UsageError, match=r"can't be used as it is set up: .*nobody"):
        await store.start()


@pytest.mark.parametrize("region", ["us-east-1", "eu-central-1", "cn-north-1", None])
async def test_the_usual_endpoint_of_a_region_does_not_travel(region: str | None) -> None:
    store = S3Store("bucket", "", region=region, session=_session())
    await store.start()
    assert store.locator["endpoint"] is None
    assert store.locator["region"] == (region or "us-east-1")
    assert store.locator["prefix"] == ""
    await store.aclose()


async def test_an_endpoint_from_the_environment_travels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    store = S3Store("bucket", session=_session())
    await store.start()
    assert store.locator["endpoint"] == "http://127.0.0.1:1"
    await store.aclose()


async def test_a_closed_store_says_so() -> None:
    async with bench() as at:
        pass
    with pytest.raises(StoreError, match="the store is closed"):
        await at.store.put("objects/1", [b"x"])
    with pytest.raises(StoreError, match="isn't open: start it"):
        S3Store("bucket").locator
