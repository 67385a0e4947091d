"""The far end's S3 against an S3 that checks signatures and rights: ministack."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import threading
import uuid
from typing import TYPE_CHECKING, Any, Final

import pytest

from fanout.errors import StoreError
from fanout.far_stores import Cache, FarStore, open_store
from tests.contract import stands

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# An account's number is a key of ministack's for its root.
_ROOT_KEYS: Final = ("000000000000", "any")
_BUCKET: Final = "fanout-far-stores"
MIB: Final = 1 << 20


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An S3 with one bucket."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.setenv("no_proxy", "127.0.0.1")
        folder = tmp_path_factory.mktemp("ministack")
        with stands.ministack_server(folder, checks_rights=True) as started:
            with contextlib.closing(stands.client("s3", started, _ROOT_KEYS)) as boto:
                boto.create_bucket(Bucket=_BUCKET)
            yield started


@pytest.fixture
def boto(url: str) -> Iterator[Any]:
    with contextlib.closing(stands.client("s3", url, _ROOT_KEYS)) as client:
        yield client


@pytest.fixture
def locator(url: str) -> dict[str, Any]:
    """A part of the bucket that no other test has."""
    prefix = f"of {uuid.uuid4().hex}/"  # with a space, which is quoted on its way
    return {
        "kind": "s3", "bucket": _BUCKET, "prefix": prefix, "region": stands.REGION, "endpoint": url
    }  # fmt: skip


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", _ROOT_KEYS[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", _ROOT_KEYS[1])


@pytest.fixture
def store(locator: dict[str, Any]) -> Iterator[FarStore]:
    with contextlib.closing(open_store(locator)) as opened:
        yield opened


def become(url: str, monkeypatch: pytest.MonkeyPatch, *actions: str, prefix: str = "") -> None:
    """Be a user who may do this and nothing else."""
    user = f"user-{uuid.uuid4().hex}"
    statement = {
        "Effect": "Allow",
        "Action": list(actions),
        "Resource": f"arn:aws:s3:::{_BUCKET}/{prefix}*",
    }
    policy = {"Version": "2012-10-17", "Statement": [statement]}
    with contextlib.closing(stands.client("iam", url, _ROOT_KEYS)) as iam:
        iam.create_user(UserName=user)
        iam.put_user_policy(UserName=user, PolicyName="p", PolicyDocument=json.dumps(policy))
        key = iam.create_access_key(UserName=user)["AccessKey"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])


@pytest.mark.parametrize("nbytes", [0, 1, 100_000, 3 * MIB, 16 * MIB, 40 * MIB + 3])
def test_what_was_put_is_had_whole_and_in_ranges(store: FarStore, nbytes: int) -> None:
    content = random.Random(nbytes).randbytes(nbytes)
    half = nbytes // 2
    store.put("objects/a", [content[:half], memoryview(content)[half:]])
    assert store.size("objects/a") == nbytes
    found = store.get("objects/a")
    assert bytes(found) == content
    assert found.readonly
    assert bytes(store.get("objects/a", start=half)) == content[half:]
    assert (
        bytes(store.get("objects/a", start=nbytes // 3, stop=half)) == content[nbytes // 3 : half]
    )


def test_botocore_reads_what_was_put(store: FarStore, locator: dict[str, Any], boto: Any) -> None:
    store.put("runs/1/a-b_c.d", [b"12", b"345"])
    answer = boto.get_object(Bucket=_BUCKET, Key=f"{locator['prefix']}runs/1/a-b_c.d")
    with answer["Body"] as body:
        assert body.read() == b"12345"


def test_what_is_there_stays(store: FarStore) -> None:
    store.put("a", [b"first"])
    store.put("a", [b"second"])
    assert bytes(store.get("a")) == b"first"


def test_concurrent_writers_of_an_object_agree(store: FarStore) -> None:
    contents = [bytes([n]) * MIB for n in range(6)]
    threads = [threading.Thread(target=store.put, args=["a", [content]]) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bytes(store.get("a")) in contents


def test_what_was_deleted_is_not_there(store: FarStore) -> None:
    store.put("a", [b"x"])
    store.delete("a")
    store.delete("a")
    for ask in (store.get, store.size):
        with pytest.raises(StoreError, match=r"object a is not in the store \(deleted under way"):
            ask("a")


def test_a_range_beyond_the_end_is_refused(store: FarStore) -> None:
    store.put("a", [b"12345"])
    assert bytes(store.get("a", start=5)) == b""
    each: list[dict[str, Any]] = [{"start": 6}, {"stop": 6}]
    for bounds in each:
        with pytest.raises(StoreError, match=r"has 5 bytes, and at least 6 were expected"):
            store.get("a", **bounds)


def test_a_bucket_that_is_not_there_is_named(locator: dict[str, Any]) -> None:
    with contextlib.closing(open_store(locator | {"bucket": "no-such-bucket"})) as store:
        for use in (store.get, store.size, store.delete, lambda key: store.put(key, [b"x"])):
            with pytest.raises(StoreError, match="no bucket no-such-bucket: create it in us-east"):
                use("a")


def test_an_object_is_encrypted_with_the_key_that_the_locator_names(
    url: str, locator: dict[str, Any], boto: Any
) -> None:
    with contextlib.closing(stands.client("kms", url, _ROOT_KEYS)) as kms:
        key = kms.create_key()["KeyMetadata"]["KeyId"]
    with contextlib.closing(open_store(locator | {"kms": key})) as store:
        store.put("a", [b"x"])
        assert bytes(store.get("a")) == b"x"
    told = boto.head_object(Bucket=_BUCKET, Key=f"{locator['prefix']}a")
    assert told["ServerSideEncryption"] == "aws:kms"
    assert key in told["SSEKMSKeyId"]


def test_without_a_right_the_error_names_it(
    url: str, store: FarStore, locator: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("a", [b"x"])
    place = rf"arn:aws:s3:::{_BUCKET}/{locator['prefix']}\*"
    become(url, monkeypatch, "s3:GetObject")
    assert bytes(store.get("a")) == b"x"
    with pytest.raises(StoreError, match=f"give the worker's role s3:PutObject on {place}"):
        store.put("b", [b"x"])
    with pytest.raises(StoreError, match=f"give the worker's role s3:DeleteObject on {place}"):
        store.delete("a")
    become(url, monkeypatch, "s3:PutObject")
    store.put("b", [b"x"])
    with pytest.raises(StoreError, match=f"give the worker's role s3:GetObject on {place}"):
        store.get("a")


def test_the_rights_that_errors_name_are_enough(
    url: str, store: FarStore, locator: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rights = ("s3:GetObject", "s3:PutObject", "s3:DeleteObject")
    become(url, monkeypatch, *rights, prefix=locator["prefix"])
    store.put("a", [b"x"])
    assert (bytes(store.get("a")), store.size("a")) == (b"x", 1)
    store.delete("a")


def test_wrong_keys_are_told(store: FarStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAUNKNOWN000000000")
    with pytest.raises(StoreError, match="the credentials are wrong: see to AWS_ACCESS_KEY_ID"):
        store.get("a")


def test_a_wrong_secret_is_told(url: str, store: FarStore, monkeypatch: pytest.MonkeyPatch) -> None:
    become(url, monkeypatch, "s3:GetObject")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    with pytest.raises(StoreError, match=r"SignatureDoesNotMatch.* the credentials are wrong"):
        store.get("a")


def test_an_object_is_fetched_once_per_environment(store: FarStore, tmp_path: Path) -> None:
    content = random.Random(0).randbytes(20 * MIB)
    digest = hashlib.sha256(content).hexdigest()
    store.put(f"objects/{digest}", [content])
    assert bytes(Cache(disk=tmp_path / "disk").object(store, digest, len(content))) == content
    store.delete(f"objects/{digest}")
    assert bytes(Cache(disk=tmp_path / "disk").object(store, digest, len(content))) == content


def test_another_object_than_the_planned_one_is_refused(
    store: FarStore, locator: dict[str, Any], boto: Any
) -> None:
    key = f"{locator['prefix']}a"
    etag = boto.put_object(Bucket=_BUCKET, Key=key, Body=bytes(20 * MIB))["ETag"]
    assert store.get("a", etag=etag).nbytes == 20 * MIB
    boto.put_object(Bucket=_BUCKET, Key=key, Body=b"x" * (20 * MIB))
    with pytest.raises(
        StoreError, match=r"object a in .* changed since it was planned: plan again"
    ):
        store.get("a", etag=etag)


def test_a_sha256_that_is_known_is_taken(store: FarStore) -> None:
    store.put("a", [b"12"], digest=hashlib.sha256(b"12").hexdigest())
    assert bytes(store.get("a")) == b"12"
