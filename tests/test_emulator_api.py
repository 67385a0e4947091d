"""The emulator's front, as AWS's own client and as raw sockets see it."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import json
import sys
from typing import Any

import pytest
from botocore.exceptions import ClientError

from fanout.emulator import Emulator
from fanout.errors import BackendError, UsageError
from tests.emulator_checks import (
    FUNCTION,
    INVOCATIONS,
    ROOT,
    client_of,
    emulated,
    exchange,
    invoke,
    signed,
)

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("awslambdaric") is None, reason="needs awslambdaric"
)
ARN = f"arn:aws:lambda:us-east-1:123456789012:function:{FUNCTION}"
LIMIT = 6_291_556


async def test_an_invocation_gives_what_the_handler_returned() -> None:
    async with emulated("echo") as (_, client):
        got = await invoke(client, {"a": [1, "ü", None]})
        assert (got.status, got.error, got.value) == (200, None, {"a": [1, "ü", None]})
        assert got.response["ExecutedVersion"] == "$LATEST"
        assert len(got.response["ResponseMetadata"]["RequestId"]) == 36


async def test_a_function_is_known_by_its_name_and_by_its_arn() -> None:
    async with emulated("echo") as (_, client):
        for name in (FUNCTION, f"{FUNCTION}:$LATEST", ARN, f"{ARN}:$LATEST"):
            assert (await invoke(client, [1], name=name)).value == [1]
        assert (await invoke(client, [1], name=f"123456789012:function:{FUNCTION}")).value == [1]
        assert (await invoke(client, [1], Qualifier="$LATEST")).value == [1]


async def test_another_function_is_not_found() -> None:
    async with emulated("echo") as (_, client):
        for name, qualifier in (("other", None), (FUNCTION, "7"), (f"{ARN}:prod", None)):
            options = {"Qualifier": qualifier} if qualifier else {}
            with pytest.raises(ClientError) as caught:
                await invoke(client, name=name, **options)
            found = caught.value.response
            assert found["Error"]["Code"] == "ResourceNotFoundException"
            assert found["Error"]["Message"].startswith("Function not found: arn:aws:lambda:us-")
            assert found["ResponseMetadata"]["HTTPStatusCode"] == 404


async def test_an_invocation_without_a_payload_gets_an_empty_event() -> None:
    async with emulated("echo") as (_, client):
        assert (await invoke(client, payload=b"")).value == {}


@pytest.mark.parametrize("length", [0, 100_000])
@pytest.mark.parametrize("wrong", [b"x", b"NaN", b'"\xff"', b"-Infinity", b"1]", b"["])
async def test_a_payload_that_is_no_json_is_refused(wrong: bytes, length: int) -> None:
    """A large one is parsed by the environment only."""
    async with emulated("echo") as (_, client):
        with pytest.raises(ClientError, match="Could not parse request body into json: ") as caught:
            await invoke(client, payload=b'["%s", %s]' % (b"a" * length, wrong))
        found = caught.value.response
        assert found["Error"]["Code"] == "InvalidRequestContentException"
        assert found["ResponseMetadata"]["HTTPStatusCode"] == 400


async def test_a_payload_nested_too_deeply_is_refused() -> None:
    async with emulated("echo") as (_, client):
        with pytest.raises(ClientError, match="InvalidRequestContentException"):
            await invoke(client, payload=b"[" * 20_000 + b"]" * 20_000)


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # aiohttp's
async def test_payloads_up_to_the_limit_pass_and_larger_ones_are_refused() -> None:
    async with emulated("echo") as (_, client):
        most = b'"' + b"x" * (LIMIT - 2) + b'"'
        assert (await invoke(client, payload=most)).payload == most
        with pytest.raises(ClientError) as caught:
            await invoke(client, payload=most + b" ")
        found = caught.value.response
        assert found["Error"]["Code"] == "RequestTooLargeException"
        assert found["Error"]["Message"] == (
            f"{LIMIT + 1} byte payload is too large for the RequestResponse invocation type "
            f"(limit {LIMIT} bytes)"
        )
        assert found["ResponseMetadata"]["HTTPStatusCode"] == 413
        assert (await invoke(client, [1])).value == [1]


async def test_a_payload_that_is_too_large_is_refused_before_it_is_sent() -> None:
    async with emulated("echo") as (emulator, _):
        head = f"POST {INVOCATIONS} HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n".encode()
        got = await exchange(emulator, head)
        assert (got.status, got.headers["connection"]) == (413, "close")
        chunked = f"POST {INVOCATIONS} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        chunk = b"%x\r\n" % 4_000_000 + b"x" * 4_000_000 + b"\r\n"
        assert (await exchange(emulator, chunked + chunk + chunk)).status == 413


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
async def test_an_event_is_accepted_and_runs_in_the_background() -> None:
    async with emulated() as (emulator, client):
        got = await invoke(client, {"print": "in the background"}, InvocationType="Event")
        assert (got.status, got.payload) == (202, b"")
        while "in the background" not in emulator.log:
            await asyncio.sleep(0.01)
        with pytest.raises(ClientError, match=r"Event invocation type \(limit 1048576 bytes\)"):
            await invoke(client, payload=b'"%s"' % (b"x" * 1_048_576), InvocationType="Event")


async def test_an_event_waits_until_there_is_room() -> None:
    async with emulated(concurrency=1) as (emulator, client):
        slow = asyncio.create_task(invoke(client, {"sleep": 0.3}))
        while emulator.counts.running == 0:
            await asyncio.sleep(0.01)
        await invoke(client, {"print": "later"}, InvocationType="Event")
        await slow
        while "later" not in emulator.log:
            await asyncio.sleep(0.01)
        assert emulator.counts.throttles["ConcurrentInvocationLimitExceeded"] >= 1


async def test_a_dry_run_runs_nothing() -> None:
    async with emulated("echo") as (emulator, client):
        assert (await invoke(client, InvocationType="DryRun")).status == 204
        assert emulator.counts.invocations == 0


async def test_a_client_context_reaches_the_handler() -> None:
    async with emulated("about") as (emulator, client):
        context = base64.b64encode(json.dumps({"custom": {"run": "ü"}}, indent=1).encode())
        about = (await invoke(client, ClientContext=context.decode())).value
        assert about["client"] == {"run": "ü"}
        for wrong in ("no base64!", base64.b64encode(b"no json").decode(), "A" * 3584):
            raw = signed(emulator, headers={"X-Amz-Client-Context": wrong})
            got = await exchange(emulator, raw)
            assert (got.status, got.headers["x-amzn-errortype"]) == (
                400,
                "InvalidRequestContentException",
            )


async def test_the_function_and_the_account_are_described() -> None:
    options: dict[str, Any] = {"memory_mb": 512, "timeout_s": 7, "concurrency": 40, "reserved": 8}
    async with emulated("echo", environment={"COLOUR": "red"}, **options) as (_, client):
        found = await client.get_function_configuration(FunctionName=FUNCTION)
        assert found["FunctionName"] == FUNCTION
        assert found["FunctionArn"] == ARN
        assert (found["MemorySize"], found["Timeout"]) == (512, 7)
        assert (found["State"], found["LastUpdateStatus"]) == ("Active", "Successful")
        assert found["PackageType"] == "Image"
        assert found["Version"] == "$LATEST"
        assert found["Environment"] == {"Variables": {"COLOUR": "red"}}
        assert len(found["CodeSha256"]) == 64
        assert found["Architectures"][0] in {"x86_64", "arm64"}
        limit = (await client.get_account_settings())["AccountLimit"]
        assert limit["ConcurrentExecutions"] == 40
        assert limit["UnreservedConcurrentExecutions"] == 32
        reserved = await client.get_function_concurrency(FunctionName=FUNCTION)
        assert reserved["ReservedConcurrentExecutions"] == 8


async def test_nothing_reserved_is_told_as_nothing() -> None:
    async with emulated("echo") as (_, client):
        found = await client.get_function_concurrency(FunctionName=FUNCTION)
        assert "ReservedConcurrentExecutions" not in found


async def test_what_is_not_emulated_says_so() -> None:
    async with emulated("echo") as (_, client):
        with pytest.raises(ClientError, match="not emulated"):
            await client.list_functions()
        with pytest.raises(ClientError, match="not emulated"):
            await client.delete_function_concurrency(FunctionName=FUNCTION)


async def test_a_throttle_tells_its_reason_and_when_to_come_back() -> None:
    async with emulated(reserved=0) as (emulator, client):
        with pytest.raises(ClientError) as caught:
            await invoke(client)
        found: Any = caught.value.response
        assert found["Error"] == {"Code": "TooManyRequestsException", "Message": "Rate Exceeded."}
        assert found["Reason"] == "ReservedFunctionConcurrentInvocationLimitExceeded"
        assert (found["retryAfterSeconds"], found["Type"]) == ("1", "User")
        assert found["ResponseMetadata"]["HTTPStatusCode"] == 429
        assert emulator.counts.throttles == {found["Reason"]: 1}


async def test_concurrency_is_limited_to_what_the_account_has() -> None:
    async with emulated(concurrency=2) as (emulator, client):
        calls = [invoke(client, {"sleep": 0.4}) for _ in range(5)]
        got = await asyncio.gather(*calls, return_exceptions=True)
        refused = [found for found in got if isinstance(found, ClientError)]
        assert len(refused) == 3
        assert {found.response["Reason"] for found in refused} == {
            "ConcurrentInvocationLimitExceeded"
        }
        assert (emulator.counts.environments, emulator.counts.running) == (2, 0)


# ---- the emulator as an object ----


async def test_it_shows_what_it_does() -> None:
    emulator = Emulator(handler="tests.emulator_handlers.echo", path=[ROOT])
    assert repr(emulator) == (
        "<Emulator fanout-worker not started: 0 environments, 0 running, 0 invocations>"
    )
    with pytest.raises(UsageError, match="use it within `async with`"):
        _ = emulator.url
    async with emulator, client_of(emulator) as client:
        await invoke(client, [])
        assert f"{emulator.url}: 1 environments, 0 running, 1 invocations" in repr(emulator)
        assert emulator.variables["FANOUT_BACKEND"] == "lambda"
        assert emulator.variables["FANOUT_FUNCTION"] == FUNCTION
        assert emulator.variables["AWS_ENDPOINT_URL_LAMBDA"] == emulator.url
    assert emulator.counts.invocations == 1
    async with emulator, client_of(emulator) as client:  # once more
        assert (await invoke(client, [2])).value == [2]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"concurrency": 0}, "concurrency=0 must be a whole number from 1"),
        ({"concurrency": 2.5}, r"concurrency=2\.5 must be a whole number"),
        ({"reserved": 1001}, "reserved=1001 must be between 0 and the account's concurrency=1000"),
        ({"memory_mb": 64}, "memory_mb=64 must be a whole number from 128 to 10240"),
        ({"timeout_s": 0}, "timeout_s=0 must be above 0, at most 900"),
        ({"init_timeout_s": -1}, "init_timeout_s=-1 must be above 0"),
        ({"handler": "noop"}, "handler='noop' must be MODULE.FUNCTION"),
        ({"function": "my function"}, "function='my function' must be letters"),
        ({"port": 70000}, "port=70000 must be"),
        ({"path": ["/no/such/folder"]}, "path='/no/such/folder' must be a folder"),
        ({"path": []}, "at least one folder"),
        ({"region": "Mars"}, "region='Mars' must be like us-east-1"),
        ({"environment": {"AWS_LAMBDA_X": "1"}}, "environment='AWS_LAMBDA_X' must be a name that"),
        ({"requests_per_s": 0}, "requests_per_s=0 must be above 0"),
        ({"new_environments_per_s": 0}, "new_environments_per_s=0 must be above 0"),
        ({"python": "no-such-python"}, "python='no-such-python' must be an interpreter"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        Emulator(**options)


async def test_a_port_that_is_taken_is_a_clear_error() -> None:
    async with emulated("echo") as (emulator, _):
        second = Emulator(port=emulator.port)
        with pytest.raises(BackendError, match="pass port=0 for any"):
            await second.start()


async def test_without_the_runtime_client_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "awslambdaric", None)
    with pytest.raises(BackendError, match=r"pip install 'fanout-lambda\[emulator\]'"):
        await Emulator().start()


async def test_no_key_is_in_the_log() -> None:
    async with emulated("about") as (emulator, client):
        await invoke(client)
        assert emulator.variables["AWS_SECRET_ACCESS_KEY"] not in "\n".join(emulator.log)
