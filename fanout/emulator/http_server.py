"""A small, fast HTTP/1.1 server: what the Invoke API and the Runtime APIs are spoken over.

`httptools` parses; a request with its whole body goes to a plain function, which answers on the
connection now or later. One request at a time per connection; connections stay open between
requests. A body above the maximum is refused before it is read. For tests of clients a connection
can also misbehave: end by RST, before an answer or in the middle of one.

It knows nothing of Lambda. It listens on 127.0.0.1, and on nothing else.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, TypeAlias, cast

import httptools

from fanout.emulator.http_messages import Request, Response

if TYPE_CHECKING:
    from collections.abc import Callable

HOST: Final = "127.0.0.1"

# SO_LINGER, on, 0 s: closing drops what is unsent and sends RST.
_AT_ONCE: Final = struct.pack("ii", 1, 0)
# What is sent together with the head; above that a copy would cost more than a second send.
_JOINED_BYTES: Final = 64 * 1024
# A client that is refused while it still sends has to read the answer before the connection ends.
_LINGER_S: Final = 2.0
# A client may open a thousand connections at once. Of these asyncio takes so many at a time; with
# as many as the system keeps, it would complain a thousand times when files run out.
_BACKLOG: Final = 1024
_ACCEPTED_AT_ONCE: Final = 64
_READ_BYTES: Final = 64 * 1024
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


Serve: TypeAlias = "Callable[[Connection, Request], None]"
Refuse: TypeAlias = "Callable[[Request, int], Response]"


class Connection(asyncio.BufferedProtocol):
    """One connection: requests in, one at a time; answers out."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[tuple[Request, bool]] = deque()  # sent ahead, not yet served
        self._is_busy = False
        self._is_refused = False  # answered before its body was read; the rest is thrown away
        self._is_last = False
        self._target = b""
        self._headers: dict[str, str] = {}
        self._parts: list[bytes] = []
        self._body_bytes = 0

    # ---- for whoever serves the request ----

    def respond(self, response: Response) -> None:
        """Answer the request at hand."""
        self._send(response)
        if self._is_last:
            self._transport.close()
        else:
            self._next()

    def respond_partly(self, response: Response, body_bytes: int) -> None:
        """Promise the whole body, send the beginning of it, and close."""
        head = response.head(is_last=False)
        self._transport.write(head + response.body[:body_bytes])
        self._transport.close()

    def reset(self) -> None:
        """End the connection with RST."""
        if not self._transport.is_closing():
            self._transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE
            )
        self._transport.abort()

    def abort(self) -> None:
        """End the connection, whatever is under way."""
        self._transport.abort()

    @property
    def is_open(self) -> bool:
        """Whether an answer could still arrive."""
        return not self._transport.is_closing()

    # ---- within ----

    def _send(self, response: Response) -> None:
        if self._transport.is_closing():
            return
        head = response.head(is_last=self._is_last)
        if len(response.body) <= _JOINED_BYTES:
            self._transport.write(head + response.body)
        else:
            self._transport.write(head)
            self._transport.write(response.body)

    def _next(self) -> None:
        self._is_busy = False
        if self._waiting:
            self._serve(*self._waiting.popleft())
        else:
            self._transport.resume_reading()

    def _serve(self, request: Request, is_last: bool) -> None:
        self._is_busy = True
        self._is_last = is_last
        self._server.serve(self, request)

    def _refuse(self, body_bytes: int) -> None:
        """Answer now, and let the client notice while the rest of its body goes nowhere."""
        self._is_refused = self._is_last = True
        self._send(self._server.refuse(self._request(b""), body_bytes))
        asyncio.get_running_loop().call_later(_LINGER_S, self._transport.abort)

    def _request(self, body: bytes) -> Request:
        method = self._parser.get_method().decode("ascii")
        return Request(method, self._target.decode("latin-1"), self._headers, body)

    # ---- called by asyncio ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self._server.lost(self)
        del self._parser  # it refers to this object

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._server.buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._is_last:  # refused, or announced as the last request
            return
        try:
            self._parser.feed_data(self._server.buffer[:nbytes])
        except httptools.HttpParserError:
            self._is_refused = self._is_last = True
            self._send(Response(HTTPStatus.BAD_REQUEST))
            self._transport.close()

    # ---- called by httptools ----

    def on_message_begin(self) -> None:
        self._target = b""
        self._headers = {}
        self._parts = []
        self._body_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        key = name.decode("latin-1").lower()
        text = value.decode("latin-1")
        self._headers[key] = f"{self._headers[key]},{text}" if key in self._headers else text

    def on_headers_complete(self) -> None:
        announced = int(self._headers.get("content-length", 0))
        if announced > self._server.max_body_bytes:
            self._refuse(announced)
        elif self._headers.get("expect", "").lower() == "100-continue":
            self._transport.write(_CONTINUE)

    def on_body(self, body: bytes) -> None:
        if self._is_refused:
            return
        self._parts.append(body)
        self._body_bytes += len(body)
        if self._body_bytes > self._server.max_body_bytes:  # it came in chunks, unannounced
            self._refuse(self._body_bytes)

    def on_message_complete(self) -> None:
        if self._is_refused:
            return
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts = []
        request, is_last = self._request(body), not self._parser.should_keep_alive()
        if self._is_busy:
            self._waiting.append((request, is_last))
            self._transport.pause_reading()
        else:
            self._serve(request, is_last)


class HttpServer:
    """Listens on 127.0.0.1 and gives each request to `serve`.

    Attributes:
        serve: Called with the connection and the request; answers on the connection.
        refuse: What to answer to a body above the maximum, whose length it is given.
        max_body_bytes: That maximum.
        connections: Those that are open.
        port: Where it listens, once it does.
    """

    def __init__(
        self,
        serve: Serve,
        refuse: Refuse,
        *,
        max_body_bytes: int,
        lost: Callable[[Connection], None] = lambda _: None,
    ) -> None:
        self.serve = serve
        self.refuse = refuse
        self.lost = lost
        self.max_body_bytes = max_body_bytes
        self.connections: set[Connection] = set()
        # One for all connections: what is in it is parsed before the next one reads.
        self.buffer = memoryview(bytearray(_READ_BYTES))
        self.port = 0
        self._server: asyncio.Server | None = None

    async def start(self, port: int = 0) -> None:
        """Listen; port 0 takes any that is free.

        Raises:
            OSError: It can't, for example since the port is taken.
        """
        sock = socket.create_server((HOST, port))
        self.port = sock.getsockname()[1]
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Connection(self), sock=sock, backlog=_ACCEPTED_AT_ONCE, start_serving=False
        )
        await self._server.start_serving()
        sock.listen(_BACKLOG)

    def stop(self) -> None:
        """Close the port and every connection, without waiting for the event loop."""
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.abort()

    async def aclose(self) -> None:
        """Close the port and every connection."""
        self.stop()
        while self.connections:  # noqa: ASYNC110 - they are gone within a turn of the loop
            await asyncio.sleep(0)
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None
