"""Connections to one host, kept alive, over `http.client`.

They outlive the tasks that made them, and a connection that was idle may have been closed by the
other side, most of all when Lambda froze the environment in between; a request that finds it so is
sent again on another one. Every other failure is the caller's to judge.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from http.client import (
    HTTPS_PORT,
    HTTPConnection,
    HTTPException,
    HTTPResponse,
    HTTPSConnection,
)
from typing import TYPE_CHECKING, Final

from fanout.far_stores.s3_settings import https_proxy, proxy_headers, proxy_port, trust

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator, Mapping, Sequence

# Without a way to S3 (a VPC with no endpoint) nothing answers at all: say so soon.
_CONNECT_S: Final = 5.0
# Without a byte in either direction.
_SILENT_S: Final = 30.0
# S3 closes what is idle after some seconds, and says so; a NAT forgets it after 350 s, and may not:
# then a request would be silent for the time above. AWS's SDK for Java lets go after as long.
_IDLE_S: Final = 60.0
# `sendall` must end within the timeout, so a body goes in pieces.
_PIECE_BYTES: Final = 1 << 20
# So much of an error is read, that its connection can be used again.
_ERROR_BYTES: Final = 64 << 10


class Connections:
    """As many connections as there are requests at a time.

    Args:
        host: Name or address.
        port: None for the scheme's own.
        is_tls: Whether it speaks https.
        clock: Seconds, for how long they were idle.
    """

    def __init__(
        self,
        host: str,
        port: int | None,
        *,
        is_tls: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host = host
        self._port = port
        self._is_tls = is_tls
        self._context: ssl.SSLContext | None = None
        self._clock = clock
        # With the time when they were idle first; its append and pop are atomic.
        self._idle: deque[tuple[HTTPConnection, float]] = deque()

    @contextlib.contextmanager
    def answer(
        self, method: str, path: str, headers: Mapping[str, str], body: Sequence[memoryview]
    ) -> Iterator[HTTPResponse]:
        """Send a request; gives the answer, whose body is to be read within the block.

        Raises:
            OSError: The connection can't be made, or breaks.
            HTTPException: What comes back is not HTTP.
        """
        connection, response = self._asked(method, path, headers, body)
        try:
            yield response
        finally:
            # An answer closes itself when all of it has been read, whatever was thought of it.
            if response.isclosed() and not response.will_close:
                self._idle.append((connection, self._clock()))
            else:
                response.close()
                connection.close()

    def close(self) -> None:
        """Close what is idle."""
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop()[0].close()

    def _asked(
        self, method: str, path: str, headers: Mapping[str, str], body: Sequence[memoryview]
    ) -> tuple[HTTPConnection, HTTPResponse]:
        while True:
            connection, is_used = self._taken()
            try:
                return connection, _ask(connection, method, path, headers, body)
            except (ConnectionError, HTTPException):  # RemoteDisconnected is both
                connection.close()
                if not is_used:
                    raise
            except BaseException:  # also what a kernel is stopped with
                connection.close()
                raise

    def _taken(self) -> tuple[HTTPConnection, bool]:
        with contextlib.suppress(IndexError):
            while True:
                connection, since_s = self._idle.pop()
                if self._clock() - since_s < _IDLE_S:
                    return connection, True
                connection.close()
        connection = self._new()
        try:
            connection.connect()
        except BaseException:
            connection.close()
            raise
        connection.sock.settimeout(_SILENT_S)
        return connection, False

    def _new(self) -> HTTPConnection:
        if not self._is_tls:
            return HTTPConnection(self._host, self._port, timeout=_CONNECT_S)
        if self._context is None:
            self._context = trust()
        proxy = https_proxy(self._host)
        if proxy is None or proxy.hostname is None:
            return HTTPSConnection(
                self._host, self._port, timeout=_CONNECT_S, context=self._context
            )
        connection = HTTPSConnection(
            proxy.hostname, proxy_port(proxy), timeout=_CONNECT_S, context=self._context
        )
        # TLS is spoken with the host, through the proxy.
        connection.set_tunnel(self._host, self._port or HTTPS_PORT, proxy_headers(proxy))
        return connection


def error_body(response: HTTPResponse) -> bytes:
    """What an answer says of an error; a connection whose answer is longer isn't used again."""
    return response.read(_ERROR_BYTES)


def _ask(
    connection: HTTPConnection,
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: Sequence[memoryview],
) -> HTTPResponse:
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    try:
        for part in body:
            for at in range(0, part.nbytes, _PIECE_BYTES):
                connection.send(part[at : at + _PIECE_BYTES])
    except (ConnectionError, TimeoutError) as error:
        # S3 answers a request that it refuses before it has all of it, then closes.
        try:
            response = connection.getresponse()
        except (OSError, HTTPException):
            raise error from None
        response.will_close = True  # half a body was sent: nothing may follow it
        return response
    return connection.getresponse()
