"""Large results of runs in a bucket, on ministack's S3."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fanout import config
from fanout.backends.chosen import chosen
from fanout.journal import Folder, Limits
from fanout.journal.removal import remove_results
from tests import lambda_s3_checks as checks
from tests.contract import stands
from tests.journal_checks import backend, limited, only, rows, run
from tests.lambda_s3_checks import MB, Bucket, Passing, at_once, when
from tests.test_cli import cli

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fanout.stores import S3Store

CALLS: list[int] = []  # workers of the fake backend run in this process
LIMITS = Limits(value_bytes=MB, cancelled_s=0.05)


@pytest.fixture(scope="module")
def _bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    with checks.bucket(tmp_path_factory.mktemp("s3")) as bucket:
        yield bucket


@pytest.fixture
def bucket(_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """With credentials in the environment, as whoever removes results has them."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "000000000000")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    monkeypatch.setenv("AWS_DEFAULT_REGION", stands.REGION)
    _bucket.fresh()
    CALLS.clear()
    return _bucket


def numbers(chunk: int) -> Any:
    CALLS.append(chunk)
    return np.full(MB // 4, float(chunk))  # 2 MB


def refuse(passing: Passing) -> None:
    """Nobody may do that."""
    passing.send_response_only(403)
    passing.send_header("Content-Length", "0")
    passing.end_headers()


def same(found: list[Any], chunks: list[int]) -> bool:
    return [float(one[0]) for one in found] == chunks and all(one.size == MB // 4 for one in found)


def test_results_go_into_the_bucket_and_come_back(bucket: Bucket) -> None:
    chunks = [1, 2, 3]
    run(numbers, chunks, limits=LIMITS, store=bucket.store())
    prefix = f"results/{only().id}/"
    assert len(bucket.names(prefix)) == len(bucket.names()) == 3
    assert only().nbytes < MB
    again = run(numbers, chunks, limits=LIMITS, store=bucket.store())
    assert (again.attempts, CALLS) == (0, chunks)
    assert same(again.results, chunks)
    again.results[0][0] = 7.0


def test_an_object_that_is_damaged_is_replaced(
    bucket: Bucket, caplog: pytest.LogCaptureFixture
) -> None:
    run(numbers, [1, 2, 3], limits=LIMITS, store=bucket.store())
    first, second, _ = (bucket.prefix + name for name in bucket.names())
    content = bytearray(bucket.s3.get_object(Bucket=checks.BUCKET, Key=first)["Body"].read())
    content[-1] ^= 1
    bucket.s3.put_object(Bucket=checks.BUCKET, Key=first, Body=bytes(content))
    bucket.s3.delete_object(Bucket=checks.BUCKET, Key=second)
    again = run(numbers, [1, 2, 3], limits=LIMITS, store=bucket.store())
    assert same(again.results, [1, 2, 3])
    assert len(CALLS) == 5
    assert "have another sha256" in caplog.text
    assert caplog.text.count("it is computed again") == 2
    assert run(numbers, [1, 2, 3], limits=LIMITS, store=bucket.store()).attempts == 0


def test_a_bucket_that_refuses_costs_what_is_kept_and_not_the_run(
    bucket: Bucket, caplog: pytest.LogCaptureFixture
) -> None:
    bucket.proxy.rules.append(when("client", "PUT", "results/", refuse))
    done = run(numbers, [1, 2, 3], limits=LIMITS, store=bucket.store(sleep=at_once))
    assert same(done.results, [1, 2, 3])
    assert caplog.text.count("not all of its results above 1 MiB are kept") == 1
    assert rows("SELECT count(*) FROM outcomes") == [(0,)]


def test_a_run_that_is_cancelled_leaves_no_half_upload(bucket: Bucket) -> None:
    """What goes in parts is given up by the store, and removed."""

    def huge(chunk: int) -> Any:
        CALLS.append(chunk)
        return np.random.default_rng(chunk).random(20 * MB // 8)

    async def cancelled() -> None:
        store = bucket.store()
        async with limited(LIMITS, backend(), store) as ex:
            task = asyncio.ensure_future(ex.map(huge, [1, 2], name="sweep", group=1))
            while not bucket.proxy.asked("client", "POST", "results/"):
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(cancelled())
    found = bucket.s3.list_multipart_uploads(Bucket=checks.BUCKET).get("Uploads", [])
    assert found == []
    names = {name.rpartition("/")[2] for name in bucket.names()}
    kept = [bytes(value) for (value,) in rows("SELECT value FROM outcomes")]
    assert all(any(name.encode() in value for name in names) for value in kept)


def test_prune_removes_them_from_the_bucket(bucket: Bucket, tmp_path: Path) -> None:
    run(numbers, [1, 2], "one", limits=LIMITS, store=bucket.store())
    run(numbers, [3], "two", limits=LIMITS, store=bucket.store())
    assert len(bucket.names("results/")) == 3
    pruned = cli("runs", "--prune", "one", cwd=tmp_path)
    assert pruned.returncode == 0, pruned.stderr
    assert pruned.stderr.startswith("fanout: 1 journals removed")
    assert "left" not in pruned.stderr
    assert only().name == "two"
    (name,) = bucket.names("results/")
    assert only().id in name


async def test_what_cannot_be_removed_is_named_with_what_to_do(bucket: Bucket) -> None:
    async with limited(LIMITS, backend(), bucket.store()) as ex:
        await ex.map(numbers, [1], name="s")
    record = only()
    left = [(record.id, store) for store in Folder().remove(record)]
    bucket.proxy.rules.append(when("client", "GET", "", refuse))
    (message,) = await remove_results(left)
    where = f"s3://{checks.BUCKET}/{bucket.prefix}results/{record.id}/"
    assert message.startswith(f"results of run {record.id} are left under {where} (")
    assert message.endswith("a lifecycle rule removes them, as in docs/s3-lifecycle.json")
    (other,) = await remove_results([(record.id, {"kind": "tape"})])
    assert "names no store that fanout can open" in other
    assert Folder().runs() == []
    bucket.proxy.forget()
    assert await remove_results(left) == []
    assert bucket.names() == []


def test_results_of_lambda_are_kept_beyond_the_run(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come through `runs/`, where nothing stays, and are recalled from `results/`."""

    @checks.typed
    def grown(seed: int) -> Any:
        import numpy as np

        return np.random.default_rng(seed).random(MB)  # 8 MB

    async def mapped() -> Any:
        async with limited(LIMITS, chosen(config.load()), bucket.store()) as ex:
            return await ex.run(grown, [1, 2, 3], name="sweep")

    with checks.emulator(concurrency=2) as emulator:
        for name, value in emulator.variables.items():
            monkeypatch.setenv(name, value)
        first = asyncio.run(mapped())
        assert len(bucket.names("results/")) == len(bucket.names()) == 3
        again = asyncio.run(mapped())
    assert (first.attempts > 0, again.attempts) == (True, 0)
    for one, other in zip(first.results, again.results, strict=True):
        assert np.array_equal(one, other)


def test_a_store_is_known_by_where_it_is(bucket: Bucket) -> None:
    """What the journal holds is enough to find it again, and holds no credential."""
    from fanout.stores import store_at

    async def located(store: S3Store) -> Any:
        await store.start()
        try:
            again = store_at(store.locator)
            await again.start()
            try:
                return store.locator, again.locator
            finally:
                await again.aclose()
        finally:
            await store.aclose()

    first, second = asyncio.run(located(bucket.store(kms_key="alias/mine")))
    assert first == second
