"""What the emulator writes about each invocation."""

from __future__ import annotations

import importlib.util
import re

import pytest

from tests.emulator_checks import FUNCTION, emulated, invoke

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("awslambdaric") is None, reason="needs awslambdaric"
)


async def test_the_log_has_what_lambda_writes() -> None:
    async with emulated() as (emulator, client):
        got = await invoke(client, {"print": "to stdout", "print_error": "to stderr"})
        request_id = got.response["ResponseMetadata"]["RequestId"]
        start, out, err, end, report = got.log.splitlines()
        assert start == f"START RequestId: {request_id} Version: $LATEST"
        assert (out, err) == ("to stdout", "to stderr")
        assert end == f"END RequestId: {request_id}"
        cold = re.fullmatch(
            rf"REPORT RequestId: {request_id}\tDuration: (\d+\.\d\d) ms\tBilled Duration: (\d+) ms"
            r"\tMemory Size: 1769 MB\tMax Memory Used: (\d+) MB\tInit Duration: (\d+\.\d\d) ms",
            report,
        )
        assert cold is not None
        billed_ms = float(cold[1]) + float(cold[4])
        assert billed_ms - 0.01 <= int(cold[2]) <= billed_ms + 1.01
        assert 5 < int(cold[3]) < 200
        warm = (await invoke(client, {"spin": 0.05})).log.splitlines()[-1]
        assert "Init Duration" not in warm
        duration = re.search(r"\tBilled Duration: (\d+) ms", warm)
        assert duration is not None
        assert int(duration[1]) >= 50
        assert emulator.log == [*got.log.splitlines(), *emulator.log[5:]]


async def test_only_the_end_of_a_long_log_is_sent() -> None:
    async with emulated() as (emulator, client):
        got = await invoke(client, {"print": "first\n" + "x" * 200_000 + "\nlast"})
        assert len(got.log) == 4096
        assert "last\nEND RequestId" in got.log
        assert "first" in emulator.log


async def test_no_log_is_sent_unless_it_is_asked_for() -> None:
    async with emulated() as (_, client):
        response = await client.invoke(FunctionName=FUNCTION, Payload=b'{"print": "hello"}')
        await response["Payload"].read()
        assert "LogResult" not in response


async def test_every_invocation_has_its_own_output() -> None:
    async with emulated() as (_, client):
        for number in range(30):
            got = await invoke(client, {"print": f"number {number}"})
            assert re.findall(r"number \d+", got.log) == [f"number {number}"]


async def test_whoever_listens_is_told_the_log_of_each_invocation() -> None:
    heard: list[str] = []
    async with emulated(on_log=heard.append) as (_, client):
        got = [await invoke(client, {"print": text}) for text in ("one", "two")]
    assert heard == [each.log for each in got]
