"""Large data through a bucket of S3, from the client to the workers and back, on ministack.

The emulator's environments run the image's handler; a proxy in front of S3 counts requests.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import fanout
from fanout.lambda_wire import read_request
from fanout.wire import Message
from tests import lambda_s3_checks as checks
from tests.contract.tap import Tap
from tests.lambda_s3_checks import MB, Bucket, executor, random_array, typed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fanout.emulator import Emulator
    from tests.lambda_s3_checks import Array

ENVIRONMENTS = 4


@pytest.fixture(scope="module")
def _bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    with checks.bucket(tmp_path_factory.mktemp("s3")) as bucket:
        yield bucket


@pytest.fixture
def bucket(_bucket: Bucket) -> Bucket:
    _bucket.fresh()
    return _bucket


@pytest.fixture(scope="module")
def emulator(_bucket: Bucket) -> Iterator[Emulator]:
    with checks.emulator(concurrency=ENVIRONMENTS) as running:
        yield running


async def test_an_object_is_fetched_once_by_each_environment(
    monkeypatch: pytest.MonkeyPatch, bucket: Bucket, emulator: Emulator
) -> None:
    @typed
    def picked(data: Any, index: int) -> tuple[int, float]:
        time.sleep(0.01)  # so that no environment does it all
        return os.getpid(), float(data[index])

    array = random_array(1, 20)  # goes in parts, both ways
    async with executor(emulator, monkeypatch, bucket.store()) as ex:
        data: Any = await ex.put(array)
        results = await ex.starmap(picked, [(data, index) for index in range(64)], group=1)
        assert [value for _, value in results] == array[:64].tolist()
        pids = {pid for pid, _ in results}
        assert len(pids) == ENVIRONMENTS
        fetched = bucket.proxy.asked("worker", "GET", data.digest)
        assert sum(one.is_first_part for one in fetched) == ENVIRONMENTS
        assert len(fetched) > ENVIRONMENTS  # in parts

        uploaded = bucket.proxy.asked("client", "PUT", data.digest)
        assert len(uploaded) == 3
        assert await ex.put(array.copy()) == data
    async with executor(emulator, monkeypatch, bucket.store()) as another:
        assert await another.put(array) == data
        (again,) = await another.map(lambda array: float(array[-1]), [data])
        assert again == array[-1]
    assert bucket.proxy.asked("client", "PUT", "objects/") == uploaded
    assert bucket.proxy.asked("worker", "GET", data.digest) == fetched  # even in another run
    assert bucket.names() == [f"objects/{data.digest}"]  # no run put anything


async def test_what_fits_asks_nothing_of_s3(
    monkeypatch: pytest.MonkeyPatch, bucket: Bucket, emulator: Emulator
) -> None:
    store = bucket.store()
    async with executor(emulator, monkeypatch, store) as ex:
        results = await ex.map(np.sum, [np.full(100_000, n, float) for n in range(20)])
        assert results == [100_000.0 * n for n in range(20)]
    assert bucket.proxy.seen == []
    assert bucket.proxy.connections == store.requests == 0


async def test_a_setting_names_a_bucket_as_well(
    monkeypatch: pytest.MonkeyPatch, bucket: Bucket, emulator: Emulator
) -> None:
    """The endpoint that the client's environment names travels, its workers' names none."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", bucket.proxy.url)
    async with executor(emulator, monkeypatch, f"s3://{checks.BUCKET}/{bucket.prefix}") as ex:
        data: Any = await ex.put(random_array(2, 1))
        (total, back) = await ex.map(lambda array: array * 2, [data, random_array(3)])
    assert np.array_equal(total, random_array(2, 1) * 2)
    assert np.array_equal(back, random_array(3) * 2)
    assert bucket.names() == [f"objects/{data.digest}"]


async def test_chunks_and_results_of_any_size_go_both_ways(
    monkeypatch: pytest.MonkeyPatch, bucket: Bucket, emulator: Emulator
) -> None:
    @typed
    def reversed_one(array: Array) -> Array:
        return array[::-1]

    async with executor(emulator, monkeypatch, bucket.store()) as ex:
        results = await ex.map(reversed_one, (random_array(seed) for seed in range(12)))
        assert bucket.names() == []  # at the end of the run nothing is left
    for seed, result in enumerate(results):
        wanted = hashlib.sha256(random_array(seed)[::-1].tobytes()).digest()
        assert hashlib.sha256(result.tobytes()).digest() == wanted
    for who in ("client", "worker"):
        assert len(bucket.proxy.asked(who, "PUT", "runs/")) == 12
        assert len(bucket.proxy.asked(who, "GET", "runs/")) == 12
    # Private, as the bucket has it.
    sent = [one.headers for one in bucket.proxy.seen]
    assert not [name for headers in sent for name in headers if "acl" in name or "grant" in name]
    assert not [name for headers in sent for name in headers if "encryption" in name]
    # None is written over.
    assert {
        one.headers.get("if-none-match") for one in bucket.proxy.seen if one.method == "PUT"
    } == {"*"}


async def test_a_result_in_parts_comes_back(
    monkeypatch: pytest.MonkeyPatch, bucket: Bucket, emulator: Emulator
) -> None:
    async with executor(emulator, monkeypatch, bucket.store()) as ex:
        (result,) = await ex.map(np.sqrt, [random_array(4, 24)])
    assert np.array_equal(result, np.sqrt(random_array(4, 24)))
    assert len(bucket.proxy.asked("client", "GET", "runs/")) > 1
    assert bucket.names() == []


async def test_a_kms_key_encrypts_what_either_side_puts(
    monkeypatch: pytest.MonkeyPatch, bucket: Bucket, emulator: Emulator
) -> None:
    key = "arn:aws:kms:us-east-1:123456789012:key/fanout"
    async with executor(emulator, monkeypatch, bucket.store(kms_key=key)) as ex:
        data: Any = await ex.put(random_array(5, 20))  # in parts
        doubled = await ex.map(typed(lambda array: array[:MB] * 2), [data, random_array(6)])
    assert [array.nbytes for array in doubled] == [8 * MB, 8 * MB]
    told = [
        (
            one.headers.get("x-amz-server-side-encryption"),
            one.headers.get("x-amz-server-side-encryption-aws-kms-key-id"),
        )
        for one in bucket.proxy.seen
        if one.method in {"PUT", "POST"} and not {"uploadId", "delete"} & set(one.query.split("="))
    ]
    assert told == [("aws:kms", key)] * 4  # a begun upload, a request, two replies
    stored = bucket.s3.head_object(
        Bucket=checks.BUCKET, Key=f"{bucket.prefix}objects/{data.digest}"
    )
    assert stored["SSEKMSKeyId"] == key


async def test_a_large_closure_is_stored_once_and_fetched_once_by_each_environment(
    monkeypatch: pytest.MonkeyPatch, bucket: Bucket, emulator: Emulator
) -> None:
    table = random_array(7)

    @typed
    def picked(index: int) -> tuple[int, float]:
        time.sleep(0.01)
        return os.getpid(), float(table[index])

    async with executor(emulator, monkeypatch, bucket.store()) as ex:
        results = await ex.map(picked, range(32), group=1)
    assert [value for _, value in results] == table[:32].tolist()
    assert len(bucket.proxy.asked("client", "PUT")) == 1
    fetched = bucket.proxy.asked("worker", "GET")
    assert len(fetched) == len({pid for pid, _ in results})
    assert bucket.names() == []


async def test_a_task_whose_worker_died_is_tried_again_and_nothing_is_left(
    monkeypatch: pytest.MonkeyPatch, bucket: Bucket, emulator: Emulator, tmp_path: Path
) -> None:
    @typed
    def dies_once(array: Array) -> Array:
        if not marker.exists():
            marker.touch()
            os._exit(1)
        return -array

    marker = tmp_path / "died"
    async with executor(emulator, monkeypatch, bucket.store()) as ex:
        await ex.map(abs, [1])  # else it might be the way back that breaks environments
        run = await ex.run(dies_once, [random_array(8)])
    (outcome,) = run.outcomes
    assert np.array_equal(outcome.result(), -random_array(8))
    assert outcome.attempts == 2
    # Each attempt has an object of its own: that of the first may have gone already.
    assert len({one.key for one in bucket.proxy.asked("client", "PUT")}) == 2
    assert bucket.names() == []


async def test_no_message_holds_a_credential(
    monkeypatch: pytest.MonkeyPatch, bucket: Bucket, emulator: Emulator
) -> None:
    """Neither those to Lambda nor what lies in the bucket: not the store's, not Lambda's."""
    import aioboto3

    secret, token = "store/secret/5c0ffee", "store+token+5c0ffee"
    session = aioboto3.Session(
        aws_access_key_id="AKIASTORE00000000000",
        aws_secret_access_key=secret,
        aws_session_token=token,
        region_name=emulator.variables["AWS_REGION"],
    )
    store = bucket.store(session=session)
    async with Tap(emulator.url) as tap:
        backend = fanout.Lambda("fanout-worker", endpoint_url=tap.url)
        async with executor(emulator, monkeypatch, store, backend=backend) as ex:
            data: Any = await ex.put(np.arange(1000.0))
            table = random_array(9)
            kernel: Any = lambda chunk: chunk[0].sum() * table[0] + chunk[1]  # noqa: E731
            results = await ex.map(kernel, [(data, 1.0), (data, random_array(10))], group=1)
        assert results[0] == np.arange(1000.0).sum() * table[0] + 1
    assert json.dumps(dict(store.locator)).count(checks.BUCKET) == 1
    signed = [one for one in bucket.proxy.seen if one.who == "client"]
    assert {one.headers["x-amz-security-token"] for one in signed} == {token}  # it was used
    sent = [json.loads(body) for body in tap.bodies if body]
    assert [event for event in sent if "spilled" in event]
    assert [event for event in sent if "spilled" not in event]
    written = [json.dumps(event).encode() for event in sent] + tap.bodies
    written += [body for event in sent for body in _decoded(event)]
    written += [one.body for one in bucket.proxy.seen]
    written.append(repr(store).encode() + repr(ex).encode())
    for hidden in (secret, token, emulator.variables["AWS_SECRET_ACCESS_KEY"]):
        forms = [hidden.encode(), base64.b64encode(hidden.encode()).rstrip(b"=")]
        assert not [text for text in written for form in forms if form in text]


def _decoded(event: dict[str, Any]) -> list[bytes]:
    """What the worker makes of an event."""
    arrived = read_request(event).message
    if not isinstance(arrived, Message):
        return [json.dumps(arrived.told()).encode()]
    payload = arrived.payload
    return [json.dumps(arrived.head).encode(), payload.body, *map(bytes, payload.buffers)]


async def test_runs_at_the_same_time_delete_nothing_of_each_other(
    monkeypatch: pytest.MonkeyPatch, bucket: Bucket, emulator: Emulator
) -> None:
    async with executor(emulator, monkeypatch, bucket.store()) as ex:
        arrays = [random_array(seed) for seed in range(4)]
        found = await asyncio.gather(*(ex.map(np.negative, [array]) for array in arrays))
    for array, (result,) in zip(arrays, found, strict=True):
        assert np.array_equal(result, -array)
    assert bucket.names() == []
