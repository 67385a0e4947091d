"""What the emulator does wrong on purpose, and how often."""

from __future__ import annotations

import asyncio
import collections
import importlib.util
import re
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from fanout.emulator import Faults
from fanout.emulator.faults import CODES_502, Fault, StartFaults
from fanout.emulator.faulty import seeded
from fanout.errors import UsageError
from tests.emulator_checks import emulated, exchange, invoke, signed

if TYPE_CHECKING:
    from pathlib import Path

needs_runtime = pytest.mark.skipif(
    importlib.util.find_spec("awslambdaric") is None, reason="needs awslambdaric"
)


# ---- the plan, which is pure ----


def drawn(faults: Faults, count: int) -> list[Fault | None]:
    plan = seeded(faults)
    return [plan.of_invocation() for _ in range(count)]


def test_nothing_goes_wrong_unless_asked_for() -> None:
    assert drawn(Faults(), 1000) == [None] * 1000
    assert seeded(Faults()).of_environment() == StartFaults()


def test_each_fault_is_as_frequent_as_it_says() -> None:
    faults = Faults(throttle=0.3, hang=0.2, corrupt=0.1, seed=5)
    found = collections.Counter(drawn(faults, 20_000))
    for fault, probability in ((Fault.THROTTLE, 0.3), (Fault.HANG, 0.2), (Fault.CORRUPT, 0.1)):
        assert found[fault] / 20_000 == pytest.approx(probability, abs=0.015)
    assert found[None] / 20_000 == pytest.approx(0.4, abs=0.015)


def test_a_probability_of_one_is_always() -> None:
    assert set(drawn(Faults(duplicate=1), 1000)) == {Fault.DUPLICATE}


def test_the_same_seed_gives_the_same_faults() -> None:
    faults = Faults(throttle=0.2, reset_after=0.2, seed=3)
    assert drawn(faults, 200) == drawn(faults, 200)
    assert drawn(faults, 200) != drawn(Faults(throttle=0.2, reset_after=0.2, seed=4), 200)


def test_environments_do_not_shift_the_faults_of_invocations() -> None:
    faults = Faults(throttle=0.5, slow_start=0.5)
    plan = seeded(faults)
    mixed = []
    for _ in range(100):
        plan.of_environment()
        mixed.append(plan.of_invocation())
    assert mixed == drawn(faults, 100)


def test_corruption_keeps_the_length_and_changes_a_few_bits() -> None:
    plan = seeded(Faults())
    body = bytes(range(256)) * 8
    for _ in range(200):
        damaged = plan.corrupted(body)
        assert len(damaged) == len(body)
        pairs = zip(body, damaged, strict=True)
        assert 1 <= sum((one ^ other).bit_count() for one, other in pairs) <= 8
    assert plan.corrupted(b"x") != b"x"
    assert plan.corrupted(b"") == b""


def test_faults_are_read_from_a_text() -> None:
    text = "throttle=0.05, seed=3,reason=CallerRateLimitExceeded"
    assert Faults.parse(text) == Faults(throttle=0.05, seed=3, reason="CallerRateLimitExceeded")
    assert Faults.parse("") == Faults()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "throtle=0.1",
            "fault 'throtle=0.1' must be NAME=VALUE with a name of throttle, error_500",
        ),
        ("throttle", "fault 'throttle' must be NAME=VALUE"),
        ("throttle=often", "fault throttle='often' must be a number"),
        ("throttle=1.5", r"throttle=1\.5 must be a probability from 0 to 1"),
        ("hang=nan", "hang=nan must be a probability"),
        ("reason=Because", "reason='Because' must be one of ConcurrentInvocationLimitExceeded"),
        ("code_502=Oops", "code_502='Oops' must be one of EC2AccessDeniedException"),
        ("slow_factor=0.5", r"slow_factor=0\.5 must be from 1"),
        ("throttle=0.7,hang=0.5", r"add up to 1\.2.*lower them"),
    ],
)
def test_faults_that_make_no_sense_are_refused(text: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        Faults.parse(text)


# ---- what they do ----


async def code_of(client: Any) -> dict[str, Any]:
    with pytest.raises(ClientError) as caught:
        await invoke(client)
    found: dict[str, Any] = caught.value.response
    return found


@needs_runtime
async def test_a_throttle_has_the_reason_that_was_asked_for() -> None:
    faults = Faults(throttle=1, reason="CallerRateLimitExceeded", retry_after_s=7)
    async with emulated(faults=faults) as (emulator, client):
        found = await code_of(client)
        assert (found["Reason"], found["retryAfterSeconds"]) == ("CallerRateLimitExceeded", "7")
        assert emulator.counts.faults == {"throttle": 1}
        assert (emulator.counts.throttles, emulator.counts.invocations) == ({}, 0)


@needs_runtime
@pytest.mark.parametrize(
    ("faults", "status", "code"),
    [
        (Faults(error_502=1), 502, "EC2ThrottledException"),
        (Faults(error_502=1, code_502="KMSDisabledException"), 502, "KMSDisabledException"),
        (Faults(error_503=1), 503, "ServiceUnavailableException"),
    ],
)
async def test_an_error_in_front_runs_nothing(faults: Faults, status: int, code: str) -> None:
    async with emulated(faults=faults) as (emulator, client):
        found = await code_of(client)
        assert found["Error"]["Code"] == code
        assert found["ResponseMetadata"]["HTTPStatusCode"] == status
        assert emulator.counts.invocations == 0


def test_all_codes_of_502_are_those_of_the_model() -> None:
    import gzip
    import json
    from pathlib import Path

    import botocore

    file = Path(botocore.__file__).parent / "data/lambda/2015-03-31/service-2.json.gz"
    shapes = json.loads(gzip.decompress(file.read_bytes()))["shapes"]
    known = {
        name
        for name, shape in shapes.items()
        if shape.get("error", {}).get("httpStatusCode") == 502
    }
    assert known <= set(CODES_502)


@needs_runtime
async def test_after_a_500_nobody_knows_whether_it_ran() -> None:
    async with emulated("echo", faults=Faults(error_500=1, seed=1)) as (emulator, client):
        for _ in range(20):
            assert (await code_of(client))["Error"]["Code"] == "ServiceException"
        assert 3 <= emulator.counts.invocations <= 17


@needs_runtime
@pytest.mark.parametrize(
    ("fault", "ran"), [("reset_before", 0), ("reset_during", 1), ("reset_after", 1)]
)
async def test_a_connection_is_reset(fault: str, ran: int, tmp_path: Path) -> None:
    file = tmp_path / "ran"
    faults = Faults.parse(f"{fault}=1")
    async with emulated(faults=faults) as (emulator, _):
        act = b'{"append": "%s"}' % str(file).encode()
        with pytest.raises(ConnectionResetError):
            await exchange(emulator, signed(emulator, body=act))
        while emulator.counts.running:
            await asyncio.sleep(0.01)
        assert emulator.counts.invocations == ran
        assert file.exists() == bool(ran)
        assert emulator.counts.faults == {fault: 1}


@needs_runtime
async def test_a_reset_during_the_run_comes_before_its_end() -> None:
    async with emulated(faults=Faults(reset_during=1)) as (emulator, _):
        with pytest.raises(ConnectionResetError):
            await exchange(emulator, signed(emulator, body=b'{"sleep": 0.5}'))
        assert emulator.counts.running == 1
        while emulator.counts.running:
            await asyncio.sleep(0.01)
        assert emulator.log[-1].startswith("REPORT")


@needs_runtime
async def test_a_hung_environment_is_ended_by_the_timeout() -> None:
    async with emulated("echo", faults=Faults(hang=1), timeout_s=0.3) as (emulator, client):
        for _ in range(2):
            got = await invoke(client)
            assert got.value["errorType"] == "Sandbox.Timedout"
        assert emulator.counts.cold_starts == 2


@needs_runtime
async def test_a_truncated_answer_promises_more_than_it_has() -> None:
    async with emulated(faults=Faults(truncate=1)) as (emulator, client):
        got = await exchange(emulator, signed(emulator, body=b'{"text": 1000}'))
        assert (got.status, got.headers["content-length"], got.is_whole) == (200, "1002", False)
        assert got.body == b'"' + b"x" * 500
        with pytest.raises(Exception, match=r"Not enough data"):
            await invoke(client, {"text": 1000})


@needs_runtime
async def test_a_corrupted_answer_is_as_long_as_it_says() -> None:
    async with emulated(faults=Faults(corrupt=1)) as (_, client):
        got = await invoke(client, {"text": 1000})
        assert got.error is None
        assert len(got.payload) == 1002
        assert got.payload != b'"' + b"x" * 1000 + b'"'


@needs_runtime
async def test_a_duplicate_is_delivered_twice_and_answered_once(tmp_path: Path) -> None:
    file = tmp_path / "ran"
    async with emulated(faults=Faults(duplicate=1)) as (emulator, client):
        got = await invoke(client, {"append": str(file), "json": 1})
        assert got.value == "1"
        while emulator.counts.running:
            await asyncio.sleep(0.01)
        assert len(set(file.read_text().split())) == 2
        ids = re.findall(r"START RequestId: (\S+)", "\n".join(emulator.log))
        assert len(ids) == 2
        assert len(set(ids)) == 1


@needs_runtime
async def test_a_duplicate_for_which_there_is_no_room_is_not_missed() -> None:
    async with emulated(faults=Faults(duplicate=1), concurrency=1) as (emulator, client):
        assert (await invoke(client, {"sleep": 0.1, "json": 1})).value == "1"
        assert emulator.counts.invocations == 1


@needs_runtime
async def test_a_slow_start_takes_longer() -> None:
    faults = Faults(slow_start=1, start_delay_s=0.6)
    async with emulated("echo", faults=faults) as (emulator, client):
        call = asyncio.create_task(invoke(client, [1]))
        done, _ = await asyncio.wait({call}, timeout=0.2)
        assert not done
        assert (await call).value == [1]
        assert emulator.counts.faults == {"slow_start": 1}


@needs_runtime
async def test_a_slow_environment_is_slow_each_time() -> None:
    faults = Faults(slow_environment=1, slow_factor=4)
    async with emulated(faults=faults) as (emulator, client):
        for _ in range(2):
            report = (await invoke(client, {"sleep": 0.1})).log.splitlines()[-1]
            duration = re.search(r"\tDuration: (\S+) ms", report)
            assert duration is not None
            assert float(duration[1]) >= 400
        assert emulator.counts.faults == {"slow_environment": 1}


@needs_runtime
async def test_with_many_faults_at_once_whoever_tries_again_gets_there() -> None:
    """And nothing of it is left."""
    faults = Faults.parse(
        "throttle=0.1,error_500=0.05,error_502=0.05,error_503=0.05,reset_before=0.05,"
        "reset_during=0.05,reset_after=0.05,truncate=0.05,duplicate=0.1,seed=7"
    )

    async def persistent(client: Any, number: int) -> int:
        for _ in range(100):
            try:
                got = await invoke(client, {"json": number})
            except Exception:
                continue
            return int(got.value)
        raise AssertionError

    async with emulated(faults=faults, concurrency=8, requests_per_s=10_000) as (emulator, client):
        got = await asyncio.gather(*(persistent(client, number) for number in range(60)))
        assert got == list(range(60))
        assert len(emulator.counts.faults) >= 8
        while emulator.counts.running:
            await asyncio.sleep(0.01)
