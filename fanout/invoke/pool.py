"""Connections to one host: as many as there are calls at once, kept warm between them.

It opens a connection when no idle one is left, so there are never more than calls in flight; turns
through the addresses that DNS gives; keeps the sockets alive through a NAT gateway, which forgets a
silent connection after 350 s; and stops waiting when a call takes too long, with one timer for all.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import socket
import ssl
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import unquote, urlsplit

from fanout.invoke.http1 import Connection, ConnectionLostError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanout.invoke.http1 import Answer

# An idle connection is used again for so long. What Lambda's own limit is isn't documented; a call
# on a connection that the other side closes at that moment can't be told from one that ran.
_IDLE_S: Final = 15.0
_CONNECT_TIMEOUT_S: Final = 10.0
# A TLS handshake takes the client a millisecond: more of them at once would only time out together.
_MOST_CONNECTING: Final = 256
# How long an answer of DNS is used. AWS's own has a TTL of 60 s or less.
_DNS_S: Final = 30.0
# Addresses that don't answer at all cost that much time each; others that refuse cost none.
_MOST_TIMEOUTS: Final = 2
# First probe after so long, below the 350 s of NAT gateways and of interface endpoints
# (VPC user guide, "NAT gateway basics"), then as often again.
_KEEPALIVE_S: Final = 60
_MOST_PROXY_BYTES: Final = 64 * 2**10


# Family and socket address.
_Address = tuple[int, tuple[Any, ...]]


class CertificateError(Exception):
    """The other side's certificate isn't trusted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where to connect to.

    Attributes:
        host: Name or address.
        port: Port.
        tls: For TLS: whom to trust; None for plain HTTP.
        proxy: URL of a proxy to go through; not shown by repr, for there may be a password in it.
        proxy_tls: For a proxy to which one speaks TLS: whom to trust.
    """

    host: str
    port: int
    tls: ssl.SSLContext | None = None
    proxy: str | None = field(default=None, repr=False)
    proxy_tls: ssl.SSLContext | None = None


class Pool:
    """Carries requests to one origin.

    Args:
        origin: Where to.
        timeout_s: How long to wait for an answer, from when the request was sent.
    """

    def __init__(self, origin: Origin, *, timeout_s: float) -> None:
        self._origin = origin
        self._timeout_s = timeout_s
        self._idle: deque[Connection] = deque()
        self._deadlines: OrderedDict[Connection, float] = OrderedDict()
        self._sweeper: asyncio.TimerHandle | None = None
        self._connecting: set[asyncio.Timeout] = set()
        self._places = asyncio.Semaphore(_MOST_CONNECTING)
        self._lookup: asyncio.Task[list[_Address]] | None = None
        self._addresses: list[_Address] = []
        self._addresses_until_s = 0.0
        self._turn = itertools.count()
        self._is_closed = False
        self.opened = 0

    def __repr__(self) -> str:
        return (
            f"<Pool to {self._origin.host}:{self._origin.port}: {len(self._deadlines)} busy, "
            f"{len(self._idle)} idle, {self.opened} opened so far>"
        )

    async def exchange(self, head: bytes, body: Sequence[bytes]) -> Answer:
        """Send one request and wait for its answer.

        Cancelling it closes the connection.

        Raises:
            ConnectionLostError: There will be no answer; says whether any of it was sent.
            CertificateError: The other side isn't who it should be.
        """
        connection = self._take() or await self._connect()
        now_s = asyncio.get_running_loop().time()
        self._deadlines[connection] = now_s + self._timeout_s
        if self._sweeper is None:
            self._sweep()
        try:
            return await connection.exchange(head, body)
        finally:
            del self._deadlines[connection]
            if connection.is_reusable and connection.is_open:
                connection.idle_since_s = asyncio.get_running_loop().time()
                self._idle.append(connection)

    def _take(self) -> Connection | None:
        """The connection that was used last, if it can be used again."""
        newest_s = asyncio.get_running_loop().time() - _IDLE_S
        while self._idle and self._idle[0].idle_since_s < newest_s:
            self._idle.popleft().close()
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open and not connection.has_news():
                return connection
            connection.close()
        return None

    def _sweep(self) -> None:
        """Give up what took too long; come again when the next one may."""
        loop = asyncio.get_running_loop()
        self._sweeper = None
        now_s = loop.time()
        for connection, deadline_s in list(self._deadlines.items()):
            if deadline_s > now_s:
                self._sweeper = loop.call_at(deadline_s, self._sweep)
                return
            connection.fail(f"no answer after {self._timeout_s:g} s")

    async def _connect(self) -> Connection:
        if self._is_closed:
            raise ConnectionLostError("the client was closed", was_sent=False)
        try:
            async with asyncio.timeout(None) as until_closed:
                self._connecting.add(until_closed)
                async with self._places:
                    connection = await self._connect_to_any()
        except TimeoutError:
            raise ConnectionLostError("the client was closed", was_sent=False) from None
        finally:
            self._connecting.discard(until_closed)
        if self._is_closed:
            connection.close()
            raise ConnectionLostError("the client was closed", was_sent=False)
        self.opened += 1
        return connection

    async def _connect_to_any(self) -> Connection:
        error: Exception | None = None
        timeouts = 0
        for address in await self._resolved():
            try:
                return await self._connect_to(address)
            except ssl.SSLCertVerificationError as untrusted:
                raise CertificateError(str(untrusted)) from untrusted
            except TimeoutError:
                error = TimeoutError(f"not connected after {_CONNECT_TIMEOUT_S:g} s")
                timeouts += 1
            except OSError as refused:
                error = refused
            # Others need not try it, until DNS is asked again.
            self._addresses = [other for other in self._addresses if other != address]
            if timeouts == _MOST_TIMEOUTS:
                break
        raise ConnectionLostError(
            f"no connection to {self._origin.host}:{self._origin.port}: {error}", was_sent=False
        ) from error

    async def _resolved(self) -> list[_Address]:
        """Addresses to try, in this order: each call begins with another one."""
        found = self._addresses
        if not found or asyncio.get_running_loop().time() >= self._addresses_until_s:
            if self._lookup is None:
                self._lookup = asyncio.create_task(self._look_up())
            try:
                found = await asyncio.shield(self._lookup)  # one for all that wait for it
            except OSError as error:
                why = f"the name {self._first_hop()[0]} can't be resolved: {error}"
                raise ConnectionLostError(why, was_sent=False) from error
        first = next(self._turn) % len(found)
        # IPv4 and IPv6 aren't mixed: where one of them leads nowhere, the system lists it last.
        return sorted(found[first:] + found[:first], key=lambda one: one[0] != found[0][0])

    async def _look_up(self) -> list[_Address]:
        loop = asyncio.get_running_loop()
        host, port = self._first_hop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            self._addresses = [(family, address) for family, _, _, _, address in found]
            self._addresses_until_s = loop.time() + _DNS_S
            return self._addresses
        finally:
            self._lookup = None

    def _first_hop(self) -> tuple[str, int]:
        if self._origin.proxy is None:
            return self._origin.host, self._origin.port
        proxy = urlsplit(self._origin.proxy)
        return proxy.hostname or "", proxy.port or (443 if proxy.scheme == "https" else 80)

    async def _connect_to(self, address: _Address) -> Connection:
        family, at = address
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                sock.setblocking(False)
                _keep_alive(sock)
                await asyncio.get_running_loop().sock_connect(sock, at)
            except BaseException:
                sock.close()
                raise
            return await self._over(sock)  # whose transport closes it

    async def _over(self, sock: socket.socket) -> Connection:
        """A connection over a socket, through the proxy if there is one."""
        loop = asyncio.get_running_loop()
        origin = self._origin
        tls = origin.tls if origin.proxy is None else origin.proxy_tls
        name = self._first_hop()[0] if tls else None
        if origin.proxy is None or origin.tls is None:
            _, connection = await loop.create_connection(
                Connection, sock=sock, ssl=tls, server_hostname=name
            )
            return connection
        transport, tunnel = await loop.create_connection(
            _Tunnel, sock=sock, ssl=tls, server_hostname=name
        )
        try:
            await tunnel.open(origin, proxy_headers(origin.proxy))
            connection = Connection()
            secured = await loop.start_tls(
                transport, connection, origin.tls, server_hostname=origin.host
            )
        except BaseException:
            transport.abort()
            raise
        assert secured is not None
        connection.connection_made(secured)
        return connection

    async def aclose(self) -> None:
        """Close all connections, those in use too, and those that are being opened."""
        self._is_closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in [*self._idle, *self._deadlines]:
            connection.fail("the client was closed")
        self._idle.clear()
        while self._connecting:
            self._connecting.pop().reschedule(0.0)
        # Calls end in the next turns of the loop; transports tell their protocol in a later one, in
        # another one for each TLS in between.
        for _ in range(8):
            await asyncio.sleep(0)
        if self._lookup is not None:
            self._lookup.cancel()
            await asyncio.wait([self._lookup])


class _Tunnel(asyncio.Protocol):
    """Asks a proxy for a way to the origin."""

    def __init__(self) -> None:
        self._received = b""
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def open(self, origin: Origin, headers: dict[str, str]) -> None:
        """Wait until the proxy has connected.

        Raises:
            OSError: It refuses.
        """
        host = f"[{origin.host}]" if ":" in origin.host else origin.host
        target = f"{host}:{origin.port}"
        lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._transport.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        await self._opened

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._opened.done() or (
            b"\r\n\r\n" not in self._received and len(self._received) < _MOST_PROXY_BYTES
        ):
            return
        line = self._received.partition(b"\r\n")[0].decode("latin-1")
        status = line.split(" ")[1:2]
        if status == ["200"]:
            self._opened.set_result(None)
            return
        hint = ": check user and password in HTTPS_PROXY" if status == ["407"] else ""
        self._opened.set_exception(OSError(f"the proxy answered {line[:200]!r}{hint}"))

    def connection_lost(self, _: Exception | None) -> None:
        if not self._opened.done():
            self._opened.set_exception(OSError("the proxy closed the connection"))


def proxy_headers(proxy: str) -> dict[str, str]:
    """What to tell a proxy: user and password of its URL."""
    parts = urlsplit(proxy)
    if parts.username is None:
        return {}
    user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(user.encode()).decode()}"}


def _keep_alive(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for name in ("TCP_KEEPIDLE", "TCP_KEEPALIVE", "TCP_KEEPINTVL"):  # Linux, macOS, both
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, _KEEPALIVE_S)
