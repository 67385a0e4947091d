"""The store in a bucket, on ministack's S3."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
from typing import TYPE_CHECKING, Any, Final

import aioboto3
import anyio
import pytest

from fanout.errors import StoreError
from fanout.stores import S3Store
from tests.contract import stands
from tests.invoke_checks import others, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

_BUCKET: Final = "fanout-objects"
_ROOT_KEYS: Final = ("000000000000", "any")
_MIB: Final = 2**20


@pytest.fixture(scope="module", autouse=True)
def _nobodys_settings() -> Iterator[None]:
    """Nothing of this machine's user counts: no profile, region, endpoint or proxy."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith("AWS_"):
                patch.delenv(name)
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.setenv("no_proxy", "127.0.0.1")
        yield


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, _nobodys_settings: None) -> Iterator[str]:
    """An S3 that checks rights, with a bucket."""
    folder = tmp_path_factory.mktemp("s3")
    with stands.ministack_server(folder, checks_rights=True) as url:
        stands.client("s3", url, _ROOT_KEYS).create_bucket(Bucket=_BUCKET)
        yield url


@pytest.fixture(scope="module")
def s3(url: str) -> Iterator[Any]:
    """A client that sees what is in the bucket."""
    client = stands.client("s3", url, _ROOT_KEYS)
    yield client
    client.close()


@pytest.fixture
async def store(url: str) -> AsyncIterator[S3Store]:
    async with opened(url) as store:
        yield store


@contextlib.asynccontextmanager
async def opened(
    url: str, bucket: str = _BUCKET, keys: tuple[str, str] = _ROOT_KEYS, **options: Any
) -> AsyncIterator[S3Store]:
    session = aioboto3.Session(
        aws_access_key_id=keys[0], aws_secret_access_key=keys[1], region_name=stands.REGION
    )
    store = S3Store(bucket, endpoint_url=url, session=session, **options)
    await store.start()
    try:
        yield store
    finally:
        await store.aclose()
    assert not [task for task in others() if "S3Store" in repr(task)]


def names(s3: Any, prefix: str = "fanout/") -> list[str]:
    found = s3.list_objects_v2(Bucket=_BUCKET, Prefix=prefix)
    return [one["Key"] for one in found.get("Contents", ())]


def uploads(s3: Any) -> list[Any]:
    found: list[Any] = s3.list_multipart_uploads(Bucket=_BUCKET).get("Uploads", [])
    return found


async def test_starting_and_closing_sends_no_request(store: S3Store) -> None:
    assert store.requests == 0


async def test_the_locator_says_where_and_holds_no_credential(url: str, store: S3Store) -> None:
    assert store.locator == {
        "kind": "s3",
        "bucket": _BUCKET,
        "prefix": "fanout/",
        "region": stands.REGION,
        "endpoint": url,
        "kms": None,
    }


@pytest.mark.parametrize("size", [0, 1, 255 * 1024, 3 * _MIB + 7])
async def test_what_was_put_is_got(store: S3Store, size: int) -> None:
    data = os.urandom(size)
    assert await store.put(f"objects/of-{size}", [data[: size // 3], data[size // 3 :]])
    found = await store.get(f"objects/of-{size}", size)
    assert found == data
    assert not found.readonly
    assert store.requests == 2


async def test_what_is_put_twice_is_uploaded_once(store: S3Store) -> None:
    assert await store.put("objects/twice", [b"first"])
    assert not await store.put("objects/twice", [b"other"])
    assert bytes(await store.get("objects/twice", 5)) == b"first"


async def test_of_many_that_put_the_same_at_once_one_uploads_it(store: S3Store) -> None:
    done = await asyncio.gather(*(store.put("objects/same", [b"x" * 5000]) for _ in range(12)))
    assert sum(done) == 1


async def test_forty_megabytes_go_up_in_parts_and_come_back_in_ranges(
    store: S3Store, s3: Any
) -> None:
    data = os.urandom(40_000_001)
    pieces = [memoryview(data)[at : at + 9_999_999] for at in range(0, len(data), 9_999_999)]
    assert await store.put("objects/large", pieces)
    assert store.requests == 1 + 1 + 5 + 1  # HEAD, begin, parts, complete
    found = await store.get("objects/large", len(data))
    assert store.requests == 8 + 5
    assert hashlib.sha256(found).digest() == hashlib.sha256(data).digest()
    assert not await store.put("objects/large", pieces)
    assert store.requests == 8 + 5 + 1  # HEAD
    assert uploads(s3) == []


async def test_two_that_upload_the_same_in_parts_leave_one_object(
    url: str, store: S3Store, s3: Any
) -> None:
    data = bytes(17 * _MIB)
    async with opened(url) as other:
        done = await asyncio.gather(*(one.put("objects/raced", [data]) for one in (store, other)))
    assert True in done
    assert uploads(s3) == []
    assert await store.get("objects/raced", len(data)) == data


async def test_deleted_objects_are_gone_and_missing_ones_do_not_matter(
    store: S3Store, s3: Any
) -> None:
    for key in ("gone/1", "gone/2", "gone/3"):
        await store.put(key, [b"x"])
    await store.delete(["gone/1", "gone/3", "gone/never-was"])
    assert names(s3, "fanout/gone/") == ["fanout/gone/2"]
    sent = store.requests
    await store.delete([])
    assert store.requests == sent


async def test_more_than_a_thousand_are_deleted_in_several_requests(store: S3Store) -> None:
    await store.delete([f"gone/{number}" for number in range(2500)])
    assert store.requests == 3


async def test_deleting_a_prefix_leaves_everything_else(store: S3Store, s3: Any) -> None:
    for key in ("runs/1/a", "runs/1/b/c", "runs/10/a", "objects/stays"):
        await store.put(key, [b"x"])
    await store.delete_prefix("runs/1/")
    assert names(s3, "fanout/runs/") == ["fanout/runs/10/a"]
    assert "fanout/objects/stays" in names(s3)


async def test_a_missing_object_says_that_it_may_have_been_deleted(store: S3Store) -> None:
    match = f"s3://{_BUCKET}/fanout/objects/none can't be had: it is not there: it was deleted"
    with pytest.raises(StoreError, match=match):
        await store.get("objects/none", 3)


@pytest.mark.parametrize("size", [4, 6, 17 * _MIB])
async def test_an_object_of_another_size_is_refused(store: S3Store, size: int) -> None:
    await store.put("objects/five", [b"fives"])
    with pytest.raises(
        StoreError, match=r"holds (5|fewer) bytes instead of .*put the object again"
    ):
        await store.get("objects/five", size)


@pytest.mark.parametrize("size", [100, 17 * _MIB])
async def test_a_missing_bucket_says_how_to_make_it(url: str, size: int) -> None:
    async with opened(url, "fanout-nowhere") as store:
        match = (
            f"no bucket fanout-nowhere: .*aws s3 mb s3://fanout-nowhere --region {stands.REGION}"
        )
        with pytest.raises(StoreError, match=match):
            await store.put("objects/x", [bytes(size)])


@pytest.mark.parametrize("are_begun", [0, 2])
async def test_a_cancelled_upload_leaves_no_parts(url: str, s3: Any, are_begun: int) -> None:
    async with opened(url, concurrency=2) as store:
        putting = asyncio.create_task(store.put("objects/given-up", [os.urandom(64 * _MIB)]))
        await until(lambda: store.requests >= 2 + are_begun)
        putting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await putting
        assert uploads(s3) == []
    assert "fanout/objects/given-up" not in names(s3)


async def test_an_upload_in_a_cancelled_scope_leaves_no_parts_once_the_store_is_closed(
    url: str, s3: Any
) -> None:
    # Such a scope cancels each further await, too, so that `put` can't wait for the end.
    async with opened(url, concurrency=2) as store, anyio.create_task_group() as group:
        group.start_soon(store.put, "objects/given-up", [os.urandom(64 * _MIB)])
        await until(lambda: store.requests >= 4)
        group.cancel_scope.cancel()
    assert uploads(s3) == []


@pytest.fixture(scope="module")
def reader(url: str) -> tuple[str, str]:
    """Keys of somebody who may read, and nothing else."""
    iam = stands.client("iam", url, _ROOT_KEYS)
    iam.create_user(UserName="reader")
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{_BUCKET}/*"}
        ],
    }
    iam.put_user_policy(UserName="reader", PolicyName="reads", PolicyDocument=json.dumps(policy))
    made = iam.create_access_key(UserName="reader")["AccessKey"]
    iam.close()
    return made["AccessKeyId"], made["SecretAccessKey"]


async def test_who_lacks_a_right_is_told_which_to_allow(
    url: str, store: S3Store, reader: tuple[str, str]
) -> None:
    await store.put("objects/read-only", [b"x"])
    async with opened(url, keys=reader) as denied:
        assert bytes(await denied.get("objects/read-only", 1)) == b"x"
        told = (
            "lack a right .*allow s3:GetObject, s3:PutObject, s3:DeleteObject.* on "
            rf"arn:aws:s3:::{_BUCKET}/fanout/\*, and s3:ListBucket on arn:aws:s3:::{_BUCKET} "
        )
        for size in (1, 17 * _MIB):
            with pytest.raises(StoreError, match=told):
                await denied.put("objects/another", [bytes(size)])
        with pytest.raises(StoreError, match=told):
            await denied.delete(["objects/read-only"])
        with pytest.raises(StoreError, match=told):
            await denied.delete_prefix("objects/")


async def test_unknown_keys_say_how_to_renew_them(url: str) -> None:
    async with opened(url, keys=("AKIANOBODYKNOWSTHIS0", "secret")) as store:
        with pytest.raises(StoreError, match=r"credentials were refused .*aws sso login"):
            await store.put("objects/x", [b"x"])
