"""HTTP/1.1 for many small POSTs to one host: a connection, and what it makes of its bytes.

asyncio's own transports carry the bytes (TLS included) and httptools (Node's parser) reads them;
what is left is what decides about a request: whether it was sent, whether an answer began, when to
stop waiting. One request at a time; nothing is ever sent twice.
"""

from __future__ import annotations

import asyncio
import select
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, cast

import httptools

if TYPE_CHECKING:
    from collections.abc import Sequence

# What a Lambda answers is 6 MB and a page of headers; more is no answer to keep in memory.
_MOST_BYTES: Final = 64 * 2**20
_MOST_HEAD_BYTES: Final = 256 * 2**10
# Up to here parts become one string: one write, one TLS record, one packet.
_JOINED_BYTES: Final = 256 * 2**10


@dataclass(slots=True)
class Answer:
    """What came back.

    Attributes:
        status: HTTP status code.
        raw_headers: Names and values, as they came.
        parts: The body, in the pieces in which it came.
    """

    status: int = 0
    raw_headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    parts: list[bytes] = field(default_factory=list)

    @property
    def headers(self) -> dict[str, str]:
        """Headers, their names in lower case; of several with one name, the last."""
        return {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in self.raw_headers
        }

    def header(self, wanted: bytes) -> bytes | None:
        """One header, by its name in lower case, without decoding them all."""
        for name, value in self.raw_headers:
            if len(name) == len(wanted) and name.lower() == wanted:
                return value
        return None

    @property
    def body(self) -> bytes:
        """The body in one piece."""
        return self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)


class ConnectionLostError(Exception):
    """There is no answer.

    Attributes:
        was_sent: Whether any of the request may have reached the other side.
    """

    def __init__(self, why: str, *, was_sent: bool) -> None:
        super().__init__(why)
        self.was_sent = was_sent


class Connection(asyncio.Protocol):
    """One connection, from when it is made until either side closes it."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answer = Answer()
        self._waiter: asyncio.Future[Answer] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._is_sending = False
        self._received_bytes = 0
        self._has_length = False
        self._is_until_end = False
        self.idle_since_s = 0.0
        self.is_open = True
        self.is_reusable = False

    async def exchange(self, head: bytes, body: Sequence[bytes]) -> Answer:
        """Send a request and wait for its answer.

        Cancelling it closes the connection.

        Raises:
            ConnectionLostError: There will be none.
        """
        transport = self._transport
        if not self.is_open or transport is None:
            raise ConnectionLostError("the connection was closed", was_sent=False)
        waiter: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiter = waiter
        self._received_bytes = 0
        self._is_until_end = False
        self.is_reusable = False
        try:
            if len(head) + sum(map(len, body)) <= _JOINED_BYTES:
                transport.write(b"".join((head, *body)))
            else:
                await self._send_large(transport, waiter, (head, *body))
            return await waiter
        finally:
            self._waiter = None
            if not self.is_reusable:
                self.close()

    async def _send_large(
        self,
        transport: asyncio.Transport,
        waiter: asyncio.Future[Answer],
        parts: Sequence[bytes],
    ) -> None:
        """Send piece by piece, until there is an answer or a failure."""
        self._is_sending = True
        try:
            for part in parts:
                view = memoryview(part)
                for at in range(0, len(view), _JOINED_BYTES):
                    transport.write(view[at : at + _JOINED_BYTES])
                    await self._writable.wait()
                    if waiter.done():
                        return
        except asyncio.CancelledError:
            if waiter.done():
                waiter.exception()  # nobody will look at it any more, which asyncio would report
            raise
        finally:
            self._is_sending = False

    def has_news(self) -> bool:
        """Whether the socket can be read although nothing is awaited: it is about to end.

        The event loop may not have come to tell yet.
        """
        if self._transport is None or not hasattr(select, "poll"):  # Windows has none
            return False
        poller = select.poll()
        poller.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poller.poll(0))

    def fail(self, why: str) -> None:
        """Stop waiting for the answer."""
        self._fail(why)
        self.close()

    def close(self) -> None:
        """Close it now."""
        self.is_open = False
        if self._transport is not None:
            self._transport.abort()

    def _fail(self, why: str) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(ConnectionLostError(why, was_sent=True))
            self._writable.set()

    def _succeed(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(self._answer)
            self._writable.set()  # what is left to send need not be sent

    def _end(self, error: Exception | None) -> None:
        """Nothing more will come: what was read ends here, or is cut short."""
        if self._is_until_end and error is None:
            self._succeed()
        else:
            began = "in the middle of its answer" if self._answer.status else "without an answer"
            self._fail(f"the connection ended {began}" + (f" ({error})" if error else ""))

    # ---- called by asyncio ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; uvloop's is an `asyncio.Transport` by its methods only."""
        self._transport = cast("asyncio.Transport", transport)
        if not self.is_open:  # after TLS through a proxy, bytes can come before
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Read on; whatever comes unasked closes the connection."""
        if self._waiter is None or self._waiter.done():
            self.close()
            return
        self._received_bytes += len(data)
        if self._received_bytes > _MOST_BYTES:
            self.fail(f"the answer is longer than {_MOST_BYTES >> 20} MiB")
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.fail(f"the answer can't be read: {error}")
        if self._received_bytes > _MOST_HEAD_BYTES and not self._answer.status:
            self.fail(f"the answer's headers are longer than {_MOST_HEAD_BYTES >> 10} KiB")

    def eof_received(self) -> None:
        """The other side sends no more, so that it need not be sent anything either."""
        self._end(None)
        self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Closed, by whomever."""
        self.is_open = False
        self._end(exc)

    def pause_writing(self) -> None:
        """Enough is on its way."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """More can be sent."""
        self._writable.set()

    # ---- called by the parser ----

    def on_message_begin(self) -> None:
        """An answer begins; a second one for the same request closes the connection."""
        if self._waiter is None or self._waiter.done():
            self.close()
        self._answer = Answer()
        self._has_length = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        if self._answer.status:  # after a chunked body: Lambda sends none
            return
        self._answer.raw_headers.append((name, value))
        if len(name) in {14, 17} and name.lower() in {b"content-length", b"transfer-encoding"}:
            self._has_length = True

    def on_headers_complete(self) -> None:
        """The headers are whole; those that only say to go on (1xx) are no answer."""
        status = self._parser.get_status_code()
        if status >= 200:
            self._answer.status = status
            self._is_until_end = not self._has_length

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        self._answer.parts.append(data)

    def on_message_complete(self) -> None:
        """The answer is whole, unless it only says to go on."""
        if not self._answer.status or self._transport is None:
            return
        # A request that isn't wholly sent would run into the next one.
        is_sent = not self._is_sending and not self._transport.get_write_buffer_size()
        self.is_reusable = is_sent and self._parser.should_keep_alive()
        self._succeed()
