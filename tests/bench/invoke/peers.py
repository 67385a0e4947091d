"""The contenders of `invoke_path.py`, and the process in which each of them runs.

A contender is opened on a target and gives a function that makes so many invocations, `in_flight`
at a time; those whose `invoke` is a coroutine share `in_lanes`. A codec says how an array travels.
Peers are imported where they are opened, so that a client's process holds none but its own.
Credentials are dummies, and what the machine is configured with is not read.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import importlib
import json
import os
import pickle
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias, cast

import numpy as np

from fanout.codec import decode, encode
from fanout.lambda_wire import read_reply, reply_body, reply_parts, request_body, request_parts
from fanout.wire import Message

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager
    from multiprocessing.connection import Connection

    Array: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
    Run: TypeAlias = Callable[[int], Awaitable[None]]
    Invoke: TypeAlias = Callable[[list[bytes]], Awaitable[bytes]]

REGION: Final = "us-east-1"
FUNCTION: Final = "stub"
KEY: Final = "AKIDEXAMPLE"
SECRET: Final = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"

# A request without a payload: as long as the body of the stub's answer.
SMALL: Final = json.dumps({"fanout": 1, "frame": "x" * 174}).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What an invocation carries besides itself: an array, in the request or in the answer."""

    direction: Literal["up", "down"]
    array_bytes: int

    def array(self) -> Array:
        """Noise, so that nothing gains by looking for what repeats."""
        return np.random.default_rng(0).standard_normal(self.array_bytes // 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A stub, and how to invoke it."""

    url: str
    ca: str
    in_flight: int
    load: Load | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What the client's process took for some invocations, all its threads together."""

    cpu_s: float
    wall_s: float


class Codec(Protocol):
    """How an array travels in the bodies of requests and answers."""

    def request(self, array: Array) -> list[bytes]:
        """The body of a request, in one or more pieces."""

    def answer(self, array: Array) -> bytes:
        """What a worker would answer."""

    def read(self, body: bytes) -> Array:
        """The array from an answer."""


class PickledJson:
    """Pickle protocol 5 in base64 in JSON: the way that needs nothing but the standard library."""

    def request(self, array: Array) -> list[bytes]:
        return [self.answer(array)]

    def answer(self, array: Array) -> bytes:
        pickled = base64.b64encode(pickle.dumps(array, protocol=5)).decode("ascii")
        return json.dumps({"pickled": pickled}).encode()

    def read(self, body: bytes) -> Array:
        array: Array = pickle.loads(base64.b64decode(json.loads(body)["pickled"]))
        return array


class OwnWire:
    """fanout's own: raw buffers, in base64 on the way there, as they are on the way back."""

    def request(self, array: Array) -> list[bytes]:
        message = Message({"kernel": {}}, encode([array]))
        return request_body(request_parts(message), accepts="bytes")

    def answer(self, array: Array) -> bytes:
        reply = reply_body(reply_parts(Message({"report": {}}, encode([array]))), "bytes")
        assert isinstance(reply, bytes)
        return reply

    def read(self, body: bytes) -> Array:
        reply = read_reply([body])
        assert isinstance(reply, Message)
        (array,) = decode(reply.payload)
        return cast("Array", array)


CODECS: Final[dict[str, Codec]] = {"fanout": OwnWire(), "aioboto3_tuned": PickledJson()}


def in_lanes(invoke: Invoke, target: Target, codec: Codec | None = None) -> Run:
    """Makes invocations from `in_flight` tasks, one after the other in each."""
    load = target.load
    array = load.array() if load else np.empty(0)

    async def once() -> None:
        if load is None or codec is None:
            await invoke([SMALL])
        elif load.direction == "up":
            await invoke(codec.request(array))
        else:
            assert codec.read(await invoke([SMALL])).nbytes == array.nbytes

    async def run(invocations: int) -> None:
        turns = iter(range(invocations))

        async def lane() -> None:
            for _ in turns:
                await once()

        async with asyncio.TaskGroup() as lanes:
            for _ in range(min(target.in_flight, invocations)):
                lanes.create_task(lane())

    return run


def _aioboto3_session() -> Any:
    return importlib.import_module("aioboto3").Session(
        aws_access_key_id=KEY, aws_secret_access_key=SECRET, region_name=REGION
    )


@asynccontextmanager
async def fanout(target: Target) -> AsyncIterator[Run]:
    """What is compared with the others; it also asks for the REPORT line, and reads it."""
    from fanout.backends.lambda_billing import billed_time
    from fanout.invoke import Invoker
    from fanout.invoke.answers import About

    about = About(function=FUNCTION, region=REGION, memory_mb=1769, timeout_s=60.0)

    async with Invoker(
        function=FUNCTION,
        session=_aioboto3_session(),
        region=REGION,
        endpoint_url=target.url,
        verify=target.ca,
        read_timeout_s=60.0,
    ) as invoker:

        async def invoke(body: list[bytes]) -> bytes:
            answer = await invoker.invoke(body)
            assert answer.status == 200
            billed = billed_time(answer, about, 0.0, None)
            assert billed is not None
            assert billed.is_reported
            return answer.body

        yield in_lanes(invoke, target, CODECS["fanout"])


@asynccontextmanager
async def _aioboto3(target: Target, config: object) -> AsyncIterator[Run]:
    async with _aioboto3_session().client(
        "lambda", endpoint_url=target.url, verify=target.ca, config=config
    ) as client:

        async def invoke(body: list[bytes]) -> bytes:
            answer = await client.invoke(FunctionName=FUNCTION, Payload=b"".join(body))
            assert answer["StatusCode"] == 200
            content: bytes = await answer["Payload"].read()
            return content

        yield in_lanes(invoke, target, CODECS["aioboto3_tuned"])


def aioboto3_default(target: Target) -> AbstractAsyncContextManager[Run]:
    """As it comes: ten connections."""
    return _aioboto3(target, None)


def aioboto3_tuned(target: Target) -> AbstractAsyncContextManager[Run]:
    """With all that its configuration can do: enough connections, no validation, no retries."""
    config = importlib.import_module("aiobotocore.config").AioConfig(
        max_pool_connections=target.in_flight,
        parameter_validation=False,
        retries={"total_max_attempts": 1},
    )
    return _aioboto3(target, config)


@asynccontextmanager
async def boto3_threads(target: Target) -> AsyncIterator[Run]:
    """One client, and as many threads and connections as there are invocations in flight."""
    config = importlib.import_module("botocore.config").Config(
        max_pool_connections=target.in_flight, retries={"total_max_attempts": 1}
    )
    session = importlib.import_module("boto3").Session(
        aws_access_key_id=KEY, aws_secret_access_key=SECRET, region_name=REGION
    )
    client = session.client("lambda", endpoint_url=target.url, verify=target.ca, config=config)
    with ThreadPoolExecutor(target.in_flight) as pool:

        async def run(invocations: int) -> None:
            turns = iter(range(invocations))

            def lane() -> None:
                for _ in turns:
                    answer = client.invoke(FunctionName=FUNCTION, Payload=SMALL)
                    assert answer["StatusCode"] == 200
                    answer["Payload"].read()

            loop = asyncio.get_running_loop()
            threads = min(target.in_flight, invocations)
            await asyncio.gather(*(loop.run_in_executor(pool, lane) for _ in range(threads)))

        yield run
    client.close()


# As long as what botocore sends.
_FLOOR_REQUEST: Final = (
    f"POST /2015-03-31/functions/{FUNCTION}/invocations HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    f"User-Agent: floor\r\nX-Amz-Date: 20260101T000000Z\r\nX-Amz-Security-Token: {'x' * 300}\r\n"
    f"Authorization: AWS4-HMAC-SHA256 {'x' * 220}\r\nContent-Length: {len(SMALL)}\r\n\r\n"
).encode() + SMALL


class _FloorConnection(asyncio.Protocol):
    """Sends the request again at the end of each answer, while there are turns left."""

    def __init__(self) -> None:
        self.turns = iter(range(0))
        self.idle = asyncio.Event()
        self.transport: asyncio.WriteTransport | None = None
        self.missing_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.WriteTransport", transport)  # uvloop's is of no such class

    def data_received(self, data: bytes) -> None:
        if self.missing_bytes == 0:
            at = data.index(b"Content-Length: ") + 16
            self.missing_bytes = data.index(b"\r\n\r\n") + 4 + int(data[at : data.index(b"\r", at)])
        self.missing_bytes -= len(data)
        if self.missing_bytes == 0:
            self.send()

    def send(self) -> None:
        if next(self.turns, None) is None:
            self.idle.set()
        elif self.transport:
            self.transport.write(_FLOOR_REQUEST)


@asynccontextmanager
async def floor(target: Target) -> AsyncIterator[Run]:
    """Not a client, but what asyncio and TLS cost any of them: a finished request, sent again."""
    _, _, port = target.url.rpartition(":")
    context = ssl.create_default_context(cafile=target.ca)
    loop = asyncio.get_running_loop()
    connections: list[_FloorConnection] = []

    async def connect() -> None:
        _, connection = await loop.create_connection(
            _FloorConnection, "127.0.0.1", int(port), ssl=context
        )
        connections.append(connection)

    async def run(invocations: int) -> None:
        wanted = min(target.in_flight, invocations)
        await asyncio.gather(*(connect() for _ in range(wanted - len(connections))))
        turns = iter(range(invocations))
        for connection in connections[:wanted]:
            connection.turns = turns
            connection.idle.clear()
            connection.send()
        for connection in connections[:wanted]:
            await connection.idle.wait()

    yield run
    for connection in connections:
        if connection.transport:
            connection.transport.close()


CONTENDERS: Final[dict[str, Callable[[Target], AbstractAsyncContextManager[Run]]]] = {
    "fanout": fanout,
    "aioboto3_tuned": aioboto3_tuned,
    "aioboto3_default": aioboto3_default,
    "boto3_threads": boto3_threads,
    "floor": floor,
}


def forget_machine() -> None:
    """Makes sure that no account, profile or proxy of this machine plays a part."""
    for name in [*os.environ]:
        if name.startswith("AWS_") or name.lower().endswith("_proxy"):
            del os.environ[name]
    os.environ |= {
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def client_process(
    orders: Connection[Any, Any], contender: str, *, core: int | None, with_uvloop: bool
) -> None:
    """Obeys `Client` in `invoke_path.py`, in a process of its own."""
    if core is not None:
        os.sched_setaffinity(0, {core})  # before there are threads, which inherit it
    factory = importlib.import_module("uvloop").new_event_loop if with_uvloop else None
    with suppress(EOFError), asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_obey(orders, contender))


async def _obey(orders: Connection[Any, Any], contender: str) -> None:
    """Waits for orders without turning the loop: nothing happens while others are measured."""
    while True:
        target: Target = orders.recv()
        async with CONTENDERS[contender](target) as run:
            orders.send(None)
            while (invocations := orders.recv()) is not None:
                gc.collect()
                began_s, cpu_began_s = time.perf_counter(), time.process_time()
                await run(invocations)
                cpu_s = time.process_time() - cpu_began_s
                orders.send(Spent(cpu_s=cpu_s, wall_s=time.perf_counter() - began_s))
        orders.send(None)
