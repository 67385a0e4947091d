"""Stands between a client and an endpoint: passes bytes on, and keeps what the client sent."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from types import TracebackType

_CHUNK_BYTES = 64 * 1024


class Tap:
    """A port that leads to another one.

    Attributes:
        sent: What each connection's client has sent so far.
        open: How many connections clients have open.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname, parts.port
        self.sent: list[bytearray] = []
        self.open = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Where it listens."""
        port = self._server.sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"

    @property
    def bodies(self) -> list[bytes]:
        """The bodies of all requests."""
        return [body for sent in self.sent for body in _bodies(bytes(sent))]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.open += 1
        self.sent.append(kept := bytearray())
        try:
            their_reader, their_writer = await asyncio.open_connection(self._host, self._port)
            try:
                back = asyncio.create_task(_pump(their_reader, writer, None))
                await _pump(reader, their_writer, kept)
                back.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await back
            finally:
                await _closed(their_writer)
        except (OSError, asyncio.CancelledError):
            pass  # either side may go at any time
        finally:
            self.open -= 1
            self._tasks.discard(task)
            await _closed(writer)


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kept: bytearray | None
) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK_BYTES):
            if kept is not None:
                kept += data
            writer.write(data)
            await writer.drain()
    if kept is None:
        writer.close()  # the endpoint has closed: so must we


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def _bodies(sent: bytes) -> list[bytes]:
    """The bodies of requests that follow one another, each of a known length."""
    bodies = []
    while sent:
        head, _, sent = sent.partition(b"\r\n\r\n")
        length = 0
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        bodies.append(sent[:length])
        sent = sent[length:]
    return bodies
