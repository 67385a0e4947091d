"""For tests of the Invoke call: a server that follows a script, proxies, certificates."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import socket
import ssl
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import trustme

from fanout.invoke.pool import Origin, Pool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from fanout.invoke import Answer

    Script = Callable[["Peer"], Awaitable[None]]

# A test that waits for longer than this has failed, and says where.
PATIENCE_S = 60.0


@dataclass
class Request:
    """What came to a server."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes = b""


class Peer:
    """The server's end of one connection."""

    def __init__(
        self, server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.server = server
        self.reader = reader
        self.writer = writer
        self.number = server.connections
        self.has_ended = asyncio.Event()

    async def head(self) -> Request | None:
        """The head of the next request; None at the end of the connection."""
        try:
            text = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        line, *lines = text.removesuffix("\r\n\r\n").split("\r\n")
        method, target, _ = line.split(" ")
        headers = dict(one.split(": ", 1) for one in lines)
        request = Request(method, target, {name.lower(): headers[name] for name in headers})
        self.server.requests.append(request)
        return request

    async def request(self) -> Request | None:
        """The next request, with its body."""
        request = await self.head()
        if request is not None:
            request.body = await self.reader.readexactly(int(request.headers["content-length"]))
        return request

    def write(self, *parts: bytes) -> None:
        self.writer.write(b"".join(parts))

    async def piecewise(self, data: bytes, size: int = 1) -> None:
        """Write so that the other side reads small pieces."""
        for at in range(0, len(data), size):
            if self.writer.is_closing():
                return
            self.writer.write(data[at : at + size])
            await asyncio.sleep(0)

    def reset(self) -> None:
        """Close it the hard way."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def end(self) -> None:
        """Wait until the other side closes, whatever it sends before."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(2**16):
                pass


@dataclass
class Server:
    """Where it listens, and what it has seen."""

    port: int = 0
    connections: int = 0
    live: int = 0
    peers: list[Peer] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)


@contextlib.asynccontextmanager
async def serving(
    script: Script,
    *,
    tls: ssl.SSLContext | None = None,
    port: int = 0,
    host: str = "127.0.0.1",
) -> AsyncIterator[Server]:
    """A server that follows the script on each connection, and closes it at its end."""
    server = Server()
    tasks: set[asyncio.Task[None]] = set()
    failures: list[BaseException] = []

    async def follow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        server.live += 1
        peer = Peer(server, reader, writer)
        server.peers.append(peer)
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await script(peer)
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except asyncio.CancelledError:
            pass
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass  # the client went away
        except BaseException as error:
            failures.append(error)
        finally:
            server.live -= 1
            peer.has_ended.set()
            tasks.discard(task)
            writer.transport.abort()

    listening = await asyncio.start_server(follow, host, port, ssl=tls, limit=2**20, backlog=1024)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield server
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await turns(8)
        gc.collect()  # a socket left open is reported in the test that left it
    assert not failures, failures


async def turns(count: int = 5) -> None:
    """Let everything else go on."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object]) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.001)


def others() -> set[asyncio.Task[Any]]:
    """All tasks of the loop but this one."""
    return asyncio.all_tasks() - {asyncio.current_task()}


@contextlib.asynccontextmanager
async def pool_to(
    server: Server, *, host: str = "127.0.0.1", timeout_s: float = 60.0, **origin: Any
) -> AsyncIterator[Pool]:
    """A pool of connections to it."""
    pool = Pool(Origin(host=host, port=server.port, **origin), timeout_s=timeout_s)
    try:
        yield pool
    finally:
        await pool.aclose()


def request_head(size: int, target: str = "/") -> bytes:
    return f"POST {target} HTTP/1.1\r\nHost: test\r\nContent-Length: {size}\r\n\r\n".encode()


async def send(pool: Pool, body: bytes = b"{}", *more: bytes) -> Answer:
    size = len(body) + sum(map(len, more))
    return await pool.exchange(request_head(size), [body, *more])


def answer(
    body: bytes = b"{}",
    status: int = 200,
    headers: Sequence[str] = (),
    *,
    version: str = "1.1",
) -> bytes:
    """An answer with a length."""
    lines = [f"HTTP/{version} {status} So", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


async def answering(peer: Peer) -> None:
    """Answer every request with its own body."""
    while (request := await peer.request()) is not None:
        peer.write(answer(request.body))
        await peer.writer.drain()


# ---- certificates ----


@functools.cache
def authority() -> trustme.CA:
    return trustme.CA()


def server_tls(*names: str, ca: trustme.CA | None = None) -> ssl.SSLContext:
    """A server's context, with a certificate for these names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    (ca or authority()).issue_cert(*(names or ("localhost", "127.0.0.1"))).configure_cert(context)
    return context


def client_tls() -> ssl.SSLContext:
    """A client's context that trusts our authority, and no other."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority().configure_trust(context)
    return context


# ---- proxies ----


def proxying(upstream: Callable[[], int], authorization: str | None = None) -> Script:
    """The script of a proxy: CONNECT leads to a port of this machine, whatever the name."""

    async def script(peer: Peer) -> None:
        request = await peer.head()
        if request is None:
            return
        if request.headers.get("proxy-authorization") != authorization:
            peer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return
        if request.method != "CONNECT":
            request.body = await peer.reader.readexactly(int(request.headers["content-length"]))
            peer.write(answer(request.body))
            return
        reader, writer = await asyncio.open_connection("127.0.0.1", upstream())
        peer.write(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n")

        async def pipe(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(2**16):
                sink.write(data)
                await sink.drain()

        both = [
            asyncio.create_task(pipe(peer.reader, writer)),
            asyncio.create_task(pipe(reader, peer.writer)),
        ]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            writer.transport.abort()
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)

    return script
