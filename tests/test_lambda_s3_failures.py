"""What becomes of tasks when S3 refuses, loses or spoils what is too large for an invocation.

The task that needs it fails with an error that says what to do, or gets it after all; the other
tasks of its run, of its very group, go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import resource
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest

from fanout.errors import StoreError
from fanout.stores import RunObjects
from tests import lambda_s3_checks as checks
from tests.far_stores_checks import answer, reset, xml
from tests.invoke_checks import until
from tests.lambda_s3_checks import (
    BUCKET,
    MB,
    ROOT,
    Bucket,
    Passing,
    at_once,
    cut_download,
    cut_upload,
    executor,
    lose_answer,
    random_array,
    when,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import fanout
    from fanout.emulator import Emulator
    from fanout.tasks import Outcome
    from tests.lambda_s3_checks import Act, Seen


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
    with checks.emulator(concurrency=2) as running:
        yield running


def told(outcome: Outcome[Any]) -> str:
    """What the error of a task says; it is one of the store."""
    assert isinstance(outcome.error, StoreError)
    return str(outcome.error)


async def negated(ex: fanout.Executor, group: int | None = None) -> Outcome[Any]:
    """What becomes of a task whose chunk and result go through the store, among two small ones."""
    run = await ex.run(np.negative, [np.ones(3), random_array(0), np.ones(4)], group=group)
    first, large, last = run.outcomes
    assert np.array_equal(first.result(), -np.ones(3))
    assert np.array_equal(last.result(), -np.ones(4))
    return large


# By value, as all kernels here, so that nothing of the tests' own modules goes along.
noise: Any = eval("lambda count: np.random.default_rng(0).random(count)", {"np": np})


# What S3 refuses.

_TEXTS: Final = {
    "denied": xml(403, "AccessDenied", "Access Denied"),
    "moved": xml(301, "PermanentRedirect", "Use another endpoint.", region="eu-west-1"),
    "malformed": xml(
        400,
        "AuthorizationHeaderMalformed",
        "The region 'us-east-1' is wrong; expecting 'eu-west-1'",
        extra="<Region>eu-west-1</Region>",
    ),
    "kms": xml(
        403,
        "AccessDenied",
        "User: arn:aws:sts::1:assumed-role/role/name is not authorized to perform: kms:Something "
        "on resource: arn:aws:kms:us-east-1:1:key/2",
    ),
    "disabled": xml(400, "KMS.DisabledException", "arn:aws:kms:us-east-1:1:key/2 is disabled."),
    "expired": xml(400, "ExpiredToken", "The provided token has expired."),
    "no bucket": xml(404, "NoSuchBucket", "The specified bucket does not exist"),
}
_MOVED: Final = (
    r"is in eu-west-1, not in us-east-1: .*S3Store\('fanout-end-to-end', 'test-\d+', "
    r"region='eu-west-1'\)"
)
_LACKING: Final = r"allow s3:GetObject, s3:PutObject, .* on arn:aws:s3:::fanout-end-to-end/test-"
_KEY: Final = "kms:Something on resource: arn:aws:kms:us-east-1:1:key/2"
REFUSALS: Final = [
    ("client", "PUT", "denied", rf"can't be stored: your credentials lack a right .*{_LACKING}"),
    ("client", "PUT", "moved", _MOVED),
    ("client", "PUT", "malformed", _MOVED),
    ("client", "PUT", "kms", rf"can't be stored: .*{_KEY}.*: allow kms:GenerateDataKey and kms:De"),
    ("client", "PUT", "expired", "credentials were refused .*aws sso login"),
    ("client", "GET", "denied", rf"can't be had: your credentials lack a right .*{_LACKING}"),
    ("client", "GET", "kms", rf"can't be had: .*{_KEY}.*: allow kms:GenerateDataKey and kms:Decry"),
    ("worker", "GET", "denied", "worker's role s3:GetObject on arn:aws:s3:::fanout-end-to-end/tes"),
    ("worker", "GET", "moved", _MOVED),
    ("worker", "GET", "kms", f"{_KEY}.*give the worker's role kms:Decrypt on the KMS key"),
    ("worker", "GET", "disabled", "key/2 is disabled.*see that the key is enabled"),
    ("worker", "PUT", "denied", "worker's role s3:PutObject on arn:aws:s3:::fanout-end-to-end/tes"),
    ("worker", "PUT", "malformed", _MOVED),
    ("worker", "PUT", "kms", f"{_KEY}.*give the worker's role kms:GenerateDataKey on the KMS key"),
    ("worker", "PUT", "no bucket", "no bucket fanout-end-to-end: create it in us-east-1"),
]


@pytest.mark.parametrize(
    ("who", "method", "name", "why"), REFUSALS, ids=[" ".join(one[:3]) for one in REFUSALS]
)
async def test_what_s3_refuses_fails_its_task_with_what_to_do_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
    bucket: Bucket,
    emulator: Emulator,
    who: str,
    method: str,
    name: str,
    why: str,
) -> None:
    bucket.proxy.rules.append(when(who, method, "runs/", _TEXTS[name]))
    async with executor(emulator, monkeypatch, bucket.store()) as ex:
        # As one group: the others of it are sent again, alone.
        large = await negated(ex, group=3)
    assert re.search(why, told(large))
    assert len(bucket.proxy.asked(who, method)) <= 2 + (who == "client") * 2  # none again
    assert bucket.names() == []


async def test_without_a_bucket_it_is_told_how_to_make_one_and_of_nothing_left(
    monkeypatch: pytest.MonkeyPatch,
    bucket: Bucket,
    emulator: Emulator,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with executor(emulator, monkeypatch, bucket.store("fanout-nowhere")) as ex:
        assert "aws s3 mb s3://fanout-nowhere" in told(await negated(ex))
        with pytest.raises(StoreError, match="there is no bucket fanout-nowhere"):
            await ex.put(random_array(0, 17))
        # What only the worker would have put.
        run = await ex.run(noise, [MB], group=1)
        assert "there is no bucket fanout-nowhere: create it" in told(run.outcomes[0])
    assert caplog.text == ""


@pytest.mark.parametrize("megabytes", [1, 17])
@pytest.mark.parametrize(
    ("name", "why"),
    [("denied", rf"your credentials lack a right .*{_LACKING}"), ("moved", _MOVED)],
)
async def test_what_s3_refuses_of_an_object_is_told_by_put(
    monkeypatch: pytest.MonkeyPatch,
    bucket: Bucket,
    emulator: Emulator,
    name: str,
    why: str,
    megabytes: int,
) -> None:
    for method in ("PUT", "POST"):
        bucket.proxy.rules.append(when("client", method, "objects/", _TEXTS[name]))
    # This one's answer has no body, and so no reason.
    status = {"denied": 403, "moved": 301}[name]
    bucket.proxy.rules.append(when("client", "HEAD", "objects/", answer(status)))
    async with executor(emulator, monkeypatch, bucket.store()) as ex:
        with pytest.raises(StoreError, match=f"can't be stored: .*{why}"):
            await ex.put(random_array(1, megabytes))
        assert await ex.map(abs, [-1]) == [1]


async def test_an_upload_whose_parts_are_refused_is_ended(
    monkeypatch: pytest.MonkeyPatch, bucket: Bucket, emulator: Emulator
) -> None:
    bucket.proxy.rules.append(when("client", "PUT", "objects/", _TEXTS["kms"]))
    async with executor(emulator, monkeypatch, bucket.store()) as ex:
        with pytest.raises(StoreError, match=rf"{_KEY}.*: allow kms:GenerateDataKey and kms:Decr"):
            await ex.put(random_array(1, 17))
    assert "Uploads" not in bucket.s3.list_multipart_uploads(Bucket=BUCKET)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("denied", "give the worker's role s3:GetObject on"),
        ("kms", "give the worker's role kms:Decrypt on the KMS key"),
        ("moved", _MOVED),
    ],
)
async def test_an_object_that_the_worker_may_not_read_fails_its_task_and_no_other(
    monkeypatch: pytest.MonkeyPatch, bucket: Bucket, emulator: Emulator, name: str, why: str
) -> None:
    bucket.proxy.rules.append(when("worker", "GET", "objects/", _TEXTS[name]))
    async with executor(emulator, monkeypatch, bucket.store()) as ex:
        data: Any = await ex.put(random_array(10 + len(name), 1))
        run = await ex.run(np.sum, [np.ones(3), data, np.ones(4)], group=3)
    first, large, last = run.outcomes
    assert (first.result(), last.result()) == (3, 4)
    assert re.search(why, told(large))
    assert run.attempts == 1


async def test_code_that_the_worker_may_not_read_fails_the_tasks_that_need_it(
    monkeypatch: pytest.MonkeyPatch, bucket: Bucket, emulator: Emulator
) -> None:
    table = random_array(2)
    bucket.proxy.rules.append(when("worker", "GET", "runs/", _TEXTS["denied"]))
    async with executor(emulator, monkeypatch, bucket.store()) as ex:
        run = await ex.run(lambda index: float(table[index]), range(4), group=2)
        for outcome in run.outcomes:
            assert "give the worker's role s3:GetObject on" in told(outcome)
        bucket.proxy.rules.clear()
        assert await ex.map(lambda index: float(table[index]), range(4)) == table[:4].tolist()
    assert bucket.names() == []


# What passes, and what doesn't.


def each(times: int, *acts: Act) -> Callable[[Seen], Act | None]:
    """Do these in turn with the first so many tries of each request."""
    tries: dict[tuple[str, ...], int] = {}

    def rule(seen: Seen) -> Act | None:
        same = (seen.who, seen.method, seen.key, seen.query, seen.headers.get("range", ""))
        tries[same] = tries.get(same, 0) + 1
        return acts[(tries[same] - 1) % len(acts)] if tries[same] <= times else None

    return rule


_BUSY: Final = xml(503, "SlowDown", "Please reduce your request rate.")


async def test_a_storm_that_passes_is_waited_out_by_both_sides(
    monkeypatch: pytest.MonkeyPatch, bucket: Bucket, emulator: Emulator
) -> None:
    bucket.proxy.rules.append(each(3, _BUSY, xml(500, "InternalError"), reset))
    array = random_array(3, 20)  # in parts
    async with executor(emulator, monkeypatch, bucket.store(sleep=at_once)) as ex:
        data: Any = await ex.put(array)
        run = await ex.run(np.negative, [data, random_array(0), np.ones(3)])
        for wanted, outcome in zip([array, random_array(0), np.ones(3)], run.outcomes, strict=True):
            assert np.array_equal(outcome.result(), -wanted)
        assert run.retries == 0  # to the run it was no failure
    assert bucket.names("runs/") == []


@pytest.mark.parametrize(
    ("who", "method", "why"),
    [
        ("client", "PUT", r"still refuses after 6 attempts \(SlowDown: .*fewer and larger objects"),
        ("client", "GET", r"still refuses after 6 attempts \(SlowDown: .*fewer and larger objects"),
        ("worker", "GET", "failed 6 times, .* 503 SlowDown: .*: run fewer workers at a time, or l"),
    ],
)
async def test_a_storm_that_lasts_fails_its_task_after_six_requests(
    monkeypatch: pytest.MonkeyPatch,
    bucket: Bucket,
    emulator: Emulator,
    who: str,
    method: str,
    why: str,
) -> None:
    bucket.proxy.rules.append(when(who, method, "runs/", _BUSY))
    async with executor(emulator, monkeypatch, bucket.store(sleep=at_once)) as ex:
        assert re.search(why, told(await negated(ex, group=1)))
    assert len(bucket.proxy.asked(who, method, "runs/")) == 6
    assert bucket.names() == []


async def test_a_connection_that_is_cut_in_the_middle_of_a_part_is_made_anew(
    monkeypatch: pytest.MonkeyPatch, bucket: Bucket, emulator: Emulator
) -> None:
    for who in ("client", "worker"):
        for method, act in (("PUT", cut_upload), ("GET", cut_download)):
            bucket.proxy.rules.append(when(who, method, "", act, times=2))
    array = random_array(4, 20)
    async with executor(emulator, monkeypatch, bucket.store(sleep=at_once)) as ex:
        data: Any = await ex.put(array)  # in parts, as it is fetched, and its result
        run = await ex.run(np.negative, [data])
        assert np.array_equal(run.outcomes[0].result(), -array)
        assert run.retries == 0
    assert "Uploads" not in bucket.s3.list_multipart_uploads(Bucket=BUCKET)
    assert bucket.names() == [f"objects/{data.digest}"]


async def test_what_was_done_although_its_answer_was_lost_is_found_done(
    monkeypatch: pytest.MonkeyPatch, bucket: Bucket, emulator: Emulator
) -> None:
    def of_completion(seen: Seen) -> Act | None:
        is_first = sum("uploadId" in one.query for one in bucket.proxy.asked("client", "POST")) == 1
        return lose_answer if is_first and "uploadId" in seen.query else None

    bucket.proxy.rules.append(of_completion)
    for who in ("client", "worker"):
        bucket.proxy.rules.append(when(who, "PUT", "runs/", lose_answer, times=1))
    array = random_array(5, 20)
    async with executor(emulator, monkeypatch, bucket.store(sleep=at_once)) as ex:
        data: Any = await ex.put(array)
        run = await ex.run(np.negative, [data, random_array(0)])
        for wanted, outcome in zip([array, random_array(0)], run.outcomes, strict=True):
            assert np.array_equal(outcome.result(), -wanted)
        assert run.retries == 0
    assert len(bucket.proxy.asked("client", "POST", data.digest)) == 3
    assert bucket.names() == [f"objects/{data.digest}"]


async def test_an_error_within_an_answer_that_says_fine_is_an_error(
    monkeypatch: pytest.MonkeyPatch, bucket: Bucket, emulator: Emulator
) -> None:
    """S3 begins such an answer before it knows how a completion ends."""
    fine_at_first = each(1, xml(200, "InternalError", "Please try again."))
    bucket.proxy.rules.append(lambda seen: fine_at_first(seen) if seen.method == "POST" else None)
    array = random_array(6, 20)
    async with executor(emulator, monkeypatch, bucket.store(sleep=at_once)) as ex:
        data: Any = await ex.put(array)
        assert await ex.map(np.sum, [data]) == [array.sum()]


# What was spoiled.


def altered(bucket: Bucket, key: str) -> None:
    content = bucket.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    bucket.s3.put_object(Bucket=BUCKET, Key=key, Body=content[:-1] + b"!")


def shortened(bucket: Bucket, key: str) -> None:
    content = bucket.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    bucket.s3.put_object(Bucket=BUCKET, Key=key, Body=content[:-1])


def deleted(bucket: Bucket, key: str) -> None:
    bucket.s3.delete_object(Bucket=BUCKET, Key=key)


def spoiling(bucket: Bucket, spoil: Callable[[Bucket, str], None]) -> Act:
    """Have somebody do this to an object just before it is read."""

    def act(passing: Passing) -> None:
        spoil(bucket, passing.path.removeprefix(f"/{BUCKET}/").partition("?")[0])
        passing.pass_on()

    return act


@pytest.mark.parametrize(
    ("who", "spoil", "why"),
    [
        ("worker", altered, "damaged or exchanged .*another sha256.*who else may write"),
        ("worker", shortened, "damaged or exchanged .* bytes instead of .*who else may write"),
        ("worker", deleted, "is not in the store .deleted under way.*run again"),
        ("client", altered, "damaged or exchanged .*another sha256.*who else may write"),
        ("client", shortened, "bytes instead of .*something else wrote it"),
        ("client", deleted, "it was deleted under way"),
    ],
)
async def test_a_message_that_was_spoiled_fails_its_task_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
    bucket: Bucket,
    emulator: Emulator,
    who: str,
    spoil: Callable[[Bucket, str], None],
    why: str,
) -> None:
    bucket.proxy.rules.append(when(who, "GET", "runs/", spoiling(bucket, spoil)))
    async with executor(emulator, monkeypatch, bucket.store()) as ex:
        assert re.search(why, told(await negated(ex)))
    assert bucket.names() == []


@pytest.mark.parametrize(
    ("seed", "spoil", "why"),
    [
        (20, altered, "damaged or exchanged .*another sha256.*: delete it, run again"),
        (21, shortened, "were expected: it is damaged .*delete it first"),
        (22, deleted, "is not in the store .deleted under way.*put it again if a Ref names it"),
    ],
)
async def test_an_object_that_was_spoiled_fails_its_task_and_is_right_when_it_is_put_again(
    monkeypatch: pytest.MonkeyPatch,
    bucket: Bucket,
    emulator: Emulator,
    seed: int,
    spoil: Callable[[Bucket, str], None],
    why: str,
) -> None:
    array = random_array(seed, 1)
    bucket.proxy.rules.append(when("worker", "GET", "objects/", spoiling(bucket, spoil)))
    async with executor(emulator, monkeypatch, bucket.store()) as ex:
        data: Any = await ex.put(array)
        run = await ex.run(np.sum, [np.ones(3), data, np.ones(4)])
        first, large, last = run.outcomes
        assert (first.result(), last.result()) == (3, 4)
        assert re.search(why, told(large))
        # What the message says helps.
        bucket.proxy.rules.clear()
        deleted(bucket, f"{bucket.prefix}objects/{data.digest}")
        assert await ex.put(array) == data
        assert await ex.map(np.sum, [data]) == [array.sum()]


async def test_an_object_that_is_exchanged_between_its_parts_is_refused(
    monkeypatch: pytest.MonkeyPatch, bucket: Bucket, emulator: Emulator
) -> None:
    def rule(seen: Seen) -> Act | None:
        is_later = seen.who == "worker" and seen.method == "GET" and not seen.is_first_part
        return spoiling(bucket, altered) if is_later else None

    bucket.proxy.rules.append(rule)
    async with executor(emulator, monkeypatch, bucket.store()) as ex:
        data: Any = await ex.put(random_array(23, 20))
        run = await ex.run(np.sum, [data, np.ones(4)])
    assert "was exchanged under way: run again" in told(run.outcomes[0])
    assert run.outcomes[1].result() == 4


async def test_an_object_of_another_store_is_told_from_one_of_this(
    monkeypatch: pytest.MonkeyPatch, bucket: Bucket, emulator: Emulator
) -> None:
    async with executor(emulator, monkeypatch, bucket.store()) as another:
        foreign: Any = await another.put(random_array(24, 1))
    bucket.fresh()
    async with executor(emulator, monkeypatch, bucket.store()) as ex:
        own: Any = await ex.put(np.ones(3))
        run = await ex.run(np.sum, [own, foreign, np.ones(4)])
        first, large, last = run.outcomes
        assert (first.result(), last.result()) == (3, 4)
        why = f"objects/{foreign.digest} is not in the store .*another run or store"
        assert re.search(why, told(large))
        assert f"s3://{BUCKET}/{bucket.prefix} has nothing by that name" in told(large)


# A worker's disk.


@pytest.mark.parametrize("how", ["has room", "is full", "can't be written to"])
async def test_a_disk_that_takes_no_copy_of_an_object_leaves_it_in_memory(
    monkeypatch: pytest.MonkeyPatch, bucket: Bucket, how: str
) -> None:
    def limits_files(_: int) -> None:
        """Have the disk take no more than this for a file, as a full one does."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    def kept_copies(_: int) -> list[str]:
        folder = os.path.join(os.environ["TMPDIR"], "fanout-cache")
        return os.listdir(folder) if os.path.isdir(folder) else []

    environment = {"TMPDIR": "/proc/nowhere"} if how == "can't be written to" else {}
    with checks.emulator(concurrency=1, environment=environment) as emulator:
        async with executor(emulator, monkeypatch, bucket.store()) as ex:
            if how == "is full":
                await ex.map(limits_files, [0])
            array = random_array(25, 1)
            data: Any = await ex.put(array)
            assert await ex.map(np.sum, [data] * 5, group=1) == [array.sum()] * 5
            (kept,) = await ex.map(kept_copies, [0])
    assert kept == ([data.digest] if how == "has room" else [])
    assert len(bucket.proxy.asked("worker", "GET", data.digest)) == 1


# What a killed client leaves.

_KILLED: Final = """
import asyncio, os, sys
import numpy as np
import fanout
from fanout.stores import S3Store

async def main(bucket, prefix, endpoint):
    store = S3Store(bucket, prefix, endpoint_url=endpoint)
    async with fanout.Executor(store=store) as ex:
        arrays = [np.random.default_rng(seed).random(2**20) for seed in range(3)]
        async with ex.stream(np.negative, arrays) as outcomes:
            async for outcome in outcomes:
                assert outcome.error is None
                os._exit(9)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_what_a_killed_client_left_is_removed_a_week_later(
    monkeypatch: pytest.MonkeyPatch, bucket: Bucket, emulator: Emulator
) -> None:
    for name, value in (emulator.variables | {"PYTHONPATH": str(ROOT)}).items():
        monkeypatch.setenv(name, value)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _KILLED, BUCKET, bucket.prefix, bucket.proxy.url
    )
    assert await process.wait() == 9
    await until(lambda: emulator.counts.running == 0)  # what it has begun goes on
    left = bucket.names("runs/")
    assert len(left) >= 2  # a request and its reply
    (run,) = {name.split("/")[1] for name in left}
    began, _, rest = run.partition("-")
    assert abs(int(began) - time.time()) < 600
    new, other = f"runs/{int(began) - 6 * 86_400}-{rest}/left", "runs/notes/of/somebody"
    for name in left:
        # As if it had been eight days ago.
        aged = name.replace(began, str(int(began) - 8 * 86_400))
        source = {"Bucket": BUCKET, "Key": bucket.prefix + name}
        bucket.s3.copy_object(Bucket=BUCKET, Key=bucket.prefix + aged, CopySource=source)
        deleted(bucket, bucket.prefix + name)
    for name in (new, other):
        bucket.s3.put_object(Bucket=BUCKET, Key=bucket.prefix + name, Body=b"left")

    bucket.proxy.forget()
    async with executor(emulator, monkeypatch, bucket.store()) as ex:
        await ex.map(abs, [-1])
        assert bucket.proxy.seen == []  # a run that spills nothing doesn't even look
        (result,) = await ex.map(np.negative, [random_array(0)])
        assert np.array_equal(result, -random_array(0))
    assert sorted(bucket.names()) == sorted([new, other])
    # Its own objects, the folders, those of the old one; and each found is deleted at once.
    listed = [one for one in bucket.proxy.asked("client", "GET") if "list-type" in one.query]
    assert len(listed) == 3
    assert len([one for one in bucket.proxy.asked("client", "POST") if "delete" in one.query]) == 2


async def test_more_than_a_page_of_leftovers_is_removed(bucket: Bucket) -> None:
    old = f"{bucket.prefix}runs/{int(time.time()) - 8 * 86_400}-x-1/"
    for number in range(1001):
        bucket.s3.put_object(Bucket=BUCKET, Key=f"{old}{number}", Body=b"")
    async with contextlib.AsyncExitStack() as stack:
        store = bucket.store(session=checks.session())
        await store.start()
        stack.push_async_callback(store.aclose)
        objects = RunObjects(store, "busy")
        await objects.put([b"1"])
        await objects.aclose()
    assert bucket.names() == []
