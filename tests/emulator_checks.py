"""What the emulator's tests share: an emulator with AWS's client, and ways around the client."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import aioboto3
from aiobotocore.config import AioConfig
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from fanout.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

ROOT = Path(__file__).parent.parent
FUNCTION = "fanout-worker"
INVOCATIONS = f"/2015-03-31/functions/{FUNCTION}/invocations"

# Reading AWS's model takes longer than most tests: the session keeps it.
_SESSION = aioboto3.Session()


@dataclass
class Invoked:
    """What an invocation gave."""

    status: int
    error: str | None
    payload: bytes
    log: str
    response: dict[str, Any]

    @property
    def value(self) -> Any:
        return json.loads(self.payload)


@contextlib.asynccontextmanager
async def emulated(handler: str = "act", **options: Any) -> AsyncIterator[tuple[Emulator, Any]]:
    """An emulator with a handler of `emulator_handlers`, and a client of it."""
    settings: dict[str, Any] = {"path": [ROOT], **options}
    async with (
        Emulator(handler=f"tests.emulator_handlers.{handler}", **settings) as emulator,
        client_of(emulator) as client,
    ):
        yield emulator, client


@contextlib.asynccontextmanager
async def client_of(emulator: Emulator, **credentials: str) -> AsyncIterator[Any]:
    told = emulator.variables
    async with _SESSION.client(
        "lambda",
        region_name=told["AWS_REGION"],
        endpoint_url=emulator.url,
        aws_access_key_id=credentials.get("key", told["AWS_ACCESS_KEY_ID"]),
        aws_secret_access_key=credentials.get("secret", told["AWS_SECRET_ACCESS_KEY"]),
        config=AioConfig(
            max_pool_connections=50,
            read_timeout=30,
            retries={"total_max_attempts": 1, "mode": "standard"},
        ),
    ) as client:
        yield client


async def invoke(client: Any, event: Any = None, **options: Any) -> Invoked:
    payload = options.pop("payload", None)
    response = await client.invoke(
        FunctionName=options.pop("name", FUNCTION),
        Payload=json.dumps(event or {}).encode() if payload is None else payload,
        LogType="Tail",
        **options,
    )
    async with response["Payload"] as body:
        payload = await body.read()
    return Invoked(
        status=response["StatusCode"],
        error=response.get("FunctionError"),
        payload=payload,
        log=base64.b64decode(response.get("LogResult", "")).decode(),
        response=response,
    )


def signed(
    emulator: Emulator,
    method: str = "POST",
    path: str = INVOCATIONS,
    body: bytes = b"{}",
    *,
    headers: Mapping[str, str] | None = None,
    service: str = "lambda",
    region: str = "us-east-1",
) -> bytes:
    """A request as bytes, signed by botocore's signer."""
    told = emulator.variables
    request = AWSRequest(method, f"{emulator.url}{path}", data=body, headers=dict(headers or {}))
    credentials = Credentials(told["AWS_ACCESS_KEY_ID"], told["AWS_SECRET_ACCESS_KEY"])
    SigV4Auth(credentials, service, region).add_auth(request)
    lines = [f"{name}: {value}" for name, value in request.headers.items()]
    lines += [f"Host: 127.0.0.1:{emulator.port}", f"Content-Length: {len(body)}"]
    head = f"{method} {quote(path, safe='/?=&%$')} HTTP/1.1\r\n" + "\r\n".join(lines) + "\r\n\r\n"
    return head.encode() + body


@dataclass
class Raw:
    """A response, as it came over the socket."""

    status: int
    headers: dict[str, str]
    body: bytes
    is_whole: bool

    @property
    def value(self) -> Any:
        return json.loads(self.body)


async def exchange(emulator: Emulator, request: bytes) -> Raw:
    """Send bytes over a connection of its own, and read one response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", emulator.port)
    try:
        writer.write(request)
        return await read_response(reader)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def read_response(reader: asyncio.StreamReader) -> Raw:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    length = int(headers.get("content-length", 0))
    try:
        body = await reader.readexactly(length)
    except asyncio.IncompleteReadError as error:
        return Raw(int(first.split()[1]), headers, error.partial, is_whole=False)
    return Raw(int(first.split()[1]), headers, body, is_whole=True)


def is_running(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


async def until_gone(pid: int) -> None:
    """Wait until a process has ended."""
    while is_running(pid):
        await asyncio.sleep(0.01)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def listening(port: int) -> list[str]:
    """The addresses, in hexadecimal, on which this machine listens at a port."""
    table = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    local = [fields[1] for fields in table if fields[3] == "0A"]  # the state LISTEN
    return [address for address in local if address.endswith(f":{port:04X}")]
