"""A stand-in for S3 that costs next to nothing: it discards what is put, and serves one object.

    python -m tests.bench.data.sink READY OBJECT [CERTIFICATE]

OBJECT is a file, and answers a GET of every key that ends with its name. Once it listens, READY is
written: its URL. No signature is verified, no checksum is computed: whatever time passes is the
client's. It answers what the clients of the bench ask, and is no S3 beyond that.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import httptools

if TYPE_CHECKING:
    from collections.abc import Mapping

_RANGE: Final = re.compile(rb"bytes=(\d+)-(\d*)")
_BEGUN: Final = (
    b"<InitiateMultipartUploadResult><UploadId>upload</UploadId></InitiateMultipartUploadResult>"
)
_COMPLETED: Final = (
    b"<CompleteMultipartUploadResult><ETag>&quot;0&quot;</ETag></CompleteMultipartUploadResult>"
)
_REASONS: Final = {200: "OK", 204: "No Content", 206: "Partial Content", 404: "Not Found"}


class Sink(asyncio.Protocol):
    """One connection.

    Args:
        served: The object.
    """

    def __init__(self, served: Path) -> None:
        self._served = served
        self._name = served.name.encode()
        self._nbytes = served.stat().st_size
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._sending: asyncio.Task[None] | None = None

    # From asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    # From the parser.

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers = {}

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        if self._headers.get(b"expect", b"").lower() == b"100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_message_complete(self) -> None:
        method = self._parser.get_method()
        path, _, query = self._url.partition(b"?")
        is_there = path.endswith(self._name)
        if method == b"PUT":
            self._answer(200, {"ETag": '"0"'})
        elif method == b"POST":
            is_begun = query.startswith(b"uploads")
            self._answer(
                200, {"Content-Type": "application/xml"}, _BEGUN if is_begun else _COMPLETED
            )
        elif method == b"DELETE":
            self._answer(204, {})
        elif not is_there:
            self._answer(404, {})
        elif method == b"HEAD":
            self._head(200, {"Content-Length": str(self._nbytes), "ETag": '"0"'})
        else:
            self._serve()

    # What is answered.

    def _serve(self) -> None:
        asked = _RANGE.fullmatch(self._headers.get(b"range", b""))
        start = int(asked[1]) if asked else 0
        stop = min(int(asked[2]) + 1 if asked and asked[2] else self._nbytes, self._nbytes)
        about = {"Content-Length": str(stop - start), "ETag": '"0"'}
        if asked:
            about["Content-Range"] = f"bytes {start}-{stop - 1}/{self._nbytes}"
        self._head(206 if asked else 200, about)
        self._sending = asyncio.create_task(self._send(start, stop - start))

    async def _send(self, start: int, count: int) -> None:
        loop = asyncio.get_running_loop()
        # Opened anew: over TLS the file is read, and each of several that read it has a position.
        with self._served.open("rb") as file, suppress(ConnectionError):  # the client may have gone
            await loop.sendfile(self._transport, file, start, count)

    def _answer(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        self._head(status, {**headers, "Content-Length": str(len(body))})
        if body:
            self._transport.write(body)

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._transport.write(f"HTTP/1.1 {status} {_REASONS[status]}\r\n{lines}\r\n".encode())


async def serve(ready: Path, served: Path, certificate: Path | None) -> None:
    """Serve until cancelled."""
    context: ssl.SSLContext | None = None
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Sink(served), "127.0.0.1", 0, ssl=context)
    port: int = server.sockets[0].getsockname()[1]
    partial = ready.with_suffix(".partial")
    partial.write_text(f"{'https' if context else 'http'}://127.0.0.1:{port}")
    partial.rename(ready)
    await server.serve_forever()


if __name__ == "__main__":
    _, ready, served, *certificate = map(Path, sys.argv)
    asyncio.run(serve(ready, served, certificate[0] if certificate else None))
