"""Connections: as few as calls at once, warm, verified, through proxies, closed in the end."""

from __future__ import annotations

import asyncio
import base64
import random
import socket
import ssl
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from fanout.invoke import CertificateError, ConnectionLostError
from fanout.invoke.pool import Origin, Pool
from tests.invoke_checks import (
    Peer,
    answer,
    answering,
    client_tls,
    others,
    pool_to,
    proxying,
    request_head,
    send,
    server_tls,
    serving,
    turns,
    until,
)

if TYPE_CHECKING:
    from collections.abc import Callable

LARGE = random.Random(2).randbytes(6_000_000)


def has_addresses(*hosts: str | OSError) -> list[str]:
    """Have DNS give these addresses for every name; returns the names that it is asked for."""
    asked: list[str] = []
    answers = [host for host in hosts if isinstance(host, OSError)]

    async def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        if host[0].isdigit():  # uvloop asks for these, too
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))]
        asked.append(host)
        await asyncio.sleep(0.01)
        if answers:
            raise answers[0]
        kinds = [socket.AF_INET6 if ":" in str(one) else socket.AF_INET for one in hosts]
        return [
            (kind, socket.SOCK_STREAM, 6, "", (one, port))
            for kind, one in zip(kinds, hosts, strict=True)
        ]

    loop: Any = asyncio.get_running_loop()
    loop.getaddrinfo = getaddrinfo
    return asked


def passes(seconds: float) -> None:
    """Let the loop's clock be later."""
    loop: Any = asyncio.get_running_loop()
    clock: Callable[[], float] = loop.time
    loop.time = lambda: clock() + seconds


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def refused(pool: Pool) -> ConnectionLostError:
    with pytest.raises(ConnectionLostError) as caught:
        await send(pool)
    assert not caught.value.was_sent
    return caught.value


# ---- as few as calls at once ----


async def test_there_are_never_more_connections_than_calls_in_flight() -> None:
    rng = random.Random(3)
    in_flight = most = 0

    async def script(peer: Peer) -> None:
        while (request := await peer.request()) is not None:
            for _ in range(rng.randrange(4)):
                await asyncio.sleep(0)
            peer.write(answer(request.body))

    async def call(number: int) -> None:
        nonlocal in_flight, most
        async with gate:
            in_flight += 1
            most = max(most, in_flight)
            body = b"%d" % number * rng.randint(1, 2000)
            assert (await send(pool, body)).body == body
            in_flight -= 1

    async with serving(script) as server, pool_to(server) as pool:
        for width in (1, 7, 3, 40, 12):
            gate = asyncio.Semaphore(width)
            await asyncio.gather(*(call(number) for number in range(rng.randint(50, 150))))
            assert server.connections <= most <= 40
        assert server.live == server.connections == pool.opened


async def test_answers_reach_their_own_call_whatever_happens_to_others() -> None:
    rng = random.Random(4)

    async def script(peer: Peer) -> None:
        while (request := await peer.request()) is not None:
            what = rng.random()
            if what < 0.1:
                return peer.reset()
            if what < 0.2:
                return peer.write(answer(request.body)[:-1])
            is_last = what < 0.3
            form = answer(request.body, headers=["Connection: close"] if is_last else [])
            await peer.piecewise(form, rng.randint(1, 200))
            if is_last:
                return None
        return None

    async def call(number: int) -> str:
        await asyncio.sleep(rng.random() / 10)
        body = b"[%d]" % number
        try:
            async with asyncio.timeout(rng.choice([0.001, 5, 5, 5])):
                found = await send(pool, body)
        except ConnectionLostError as error:
            return str(error.was_sent)
        except TimeoutError:
            return "cancelled"
        assert found.body == body
        return "answered"

    async with serving(script) as server, pool_to(server) as pool:
        ended = await asyncio.gather(*(call(number) for number in range(600)))
        assert ended.count("answered") > 200
        assert set(ended) <= {"answered", "cancelled", "True"}
        assert "0 busy" in repr(pool)


async def test_the_connection_used_last_is_used_next() -> None:
    async def script(peer: Peer) -> None:
        while await peer.request():
            await gates[peer.number].wait()
            peer.write(answer(b"%d" % peer.number))

    gates = {number: asyncio.Event() for number in (1, 2, 3)}
    async with serving(script) as server, pool_to(server) as pool:
        calls = []
        for number in (1, 2, 3):
            calls.append(asyncio.create_task(send(pool)))
            await until(lambda number=number: len(server.requests) == number)  # type: ignore[misc]
        for number in (2, 3, 1):
            gates[number].set()
            await calls[number - 1]
        for _ in range(3):
            assert (await send(pool)).body == b"1"
        both = await asyncio.gather(send(pool), send(pool))
        assert [one.body for one in both] == [b"1", b"3"]
        assert repr(pool).endswith("0 busy, 3 idle, 3 opened so far>")


async def test_a_connection_that_the_server_closed_while_idle_is_not_used() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        peer.write(answer(b"%d" % peer.number))
        await may_close.wait()

    may_close = asyncio.Event()
    async with serving(script) as server, pool_to(server) as pool:
        await asyncio.gather(send(pool), send(pool))
        may_close.set()
        await until(lambda: not server.live)
        assert (await send(pool)).body == b"3"
        assert len(server.requests) == 3


async def test_a_connection_idle_for_too_long_is_closed_and_not_used() -> None:
    async with serving(answering) as server, pool_to(server) as pool:
        await asyncio.gather(send(pool), send(pool), send(pool))
        passes(14.0)
        await send(pool)
        assert server.connections == 3
        passes(2.0)
        await send(pool)  # on the one that was used two seconds ago
        assert server.connections == 3
        await until(lambda: server.live == 1)
        passes(16.0)
        await send(pool)
        assert server.connections == 4
        await until(lambda: server.live == 1)


# ---- DNS ----


async def test_addresses_are_taken_in_turn() -> None:
    async with serving(answering, host="0.0.0.0") as server, pool_to(server, host="l.test") as pool:
        asked = has_addresses("127.0.0.1", "127.0.0.2", "127.0.0.3")
        await asyncio.gather(*(send(pool) for _ in range(9)))
        ends = [peer.writer.get_extra_info("sockname")[0] for peer in server.peers]
        assert sorted(ends) == sorted(["127.0.0.1", "127.0.0.2", "127.0.0.3"] * 3)
        assert asked == ["l.test"]
        passes(31.0)
        await send(pool)
        assert asked == ["l.test"] * 2


async def test_a_dead_address_is_passed_over_and_not_tried_again() -> None:
    async with serving(answering) as server, pool_to(server, host="l.test") as pool:
        asked = has_addresses("127.0.0.2", "127.0.0.1", "127.0.0.3")
        tried: list[str] = []
        loop: Any = asyncio.get_running_loop()
        connect = loop.sock_connect

        async def sock_connect(sock: socket.socket, address: Any) -> None:
            tried.append(address[0])
            await connect(sock, address)

        loop.sock_connect = sock_connect
        for _ in range(2):
            await asyncio.gather(*(send(pool) for _ in range(4)))
            passes(20.0)  # so that connections are opened anew
        assert tried.count("127.0.0.1") == 8
        assert tried.count("127.0.0.2") + tried.count("127.0.0.3") <= 8
        assert asked == ["l.test"] * 1
        await send(pool)
        assert asked == ["l.test"] * 2


async def test_addresses_of_the_family_that_the_system_prefers_come_first() -> None:
    async with serving(answering) as server, pool_to(server, host="l.test") as pool:
        has_addresses("127.0.0.1", "2001:db8::1", "127.0.0.1", "2001:db8::2")
        assert await pool._resolved() is not None
        for _ in range(5):
            assert [one[0] for one in await pool._resolved()] == [socket.AF_INET] * 2 + [
                socket.AF_INET6
            ] * 2
        assert (await send(pool)).status == 200


async def test_a_name_that_does_not_resolve_was_sent_nothing() -> None:
    async with serving(answering) as server, pool_to(server, host="l.test") as pool:
        asked = has_addresses(socket.gaierror(-2, "Name or service not known"))
        ended = await asyncio.gather(*(refused(pool) for _ in range(5)))
        assert "the name l.test can't be resolved" in str(ended[0])
        assert "Name or service not known" in str(ended[0])
        assert asked == ["l.test"]
        await refused(pool)
        assert asked == ["l.test"] * 2
        assert not server.connections


async def test_a_refused_connection_was_sent_nothing() -> None:
    pool = Pool(Origin(host="127.0.0.1", port=free_port()), timeout_s=5)
    error = await refused(pool)
    assert "no connection to 127.0.0.1:" in str(error)
    assert isinstance(error.__cause__, ConnectionRefusedError)
    await pool.aclose()


async def test_an_address_that_never_answers_costs_no_more_than_two_waits() -> None:
    pool = Pool(Origin(host="l.test", port=1), timeout_s=5)
    has_addresses("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4")
    tried = []
    loop: Any = asyncio.get_running_loop()

    async def sock_connect(sock: socket.socket, address: Any) -> None:
        tried.append(address[0])
        raise TimeoutError

    loop.sock_connect = sock_connect
    assert "not connected after 10 s" in str(await refused(pool))
    assert len(tried) == 2
    await pool.aclose()


# ---- sockets ----


@pytest.mark.parametrize("is_tls", [False, True])
async def test_sockets_are_kept_alive_and_send_at_once(is_tls: bool) -> None:
    tls = (server_tls(), client_tls()) if is_tls else (None, None)
    async with serving(answering, tls=tls[0]) as server, pool_to(server, tls=tls[1]) as pool:
        await send(pool)
        transport = pool._idle[0]._transport
        assert transport is not None
        sock = transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        for name in ("TCP_KEEPIDLE", "TCP_KEEPALIVE", "TCP_KEEPINTVL"):
            if hasattr(socket, name):
                assert 0 < sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) < 350


# ---- deadlines and ends ----


async def test_calls_that_get_no_answer_end_in_the_order_in_which_they_began() -> None:
    async def script(peer: Peer) -> None:
        while (request := await peer.request()) is not None:
            if request.body != b"silent":
                peer.write(answer(request.body))

    ended: list[int] = []

    async def call(number: int) -> None:
        with pytest.raises(ConnectionLostError, match="no answer after"):
            await send(pool, b"silent")
        ended.append(number)

    async with serving(script) as server, pool_to(server, timeout_s=0.3) as pool:
        calls = []
        for number in range(5):
            calls.append(asyncio.create_task(call(number)))
            assert (await send(pool, b"[1]")).body == b"[1]"
            await asyncio.sleep(0.01)
        await asyncio.gather(*calls)
        assert ended == [0, 1, 2, 3, 4]
        assert (await send(pool, b"[1]")).body == b"[1]"
        assert "0 busy, 1 idle" in repr(pool)


@pytest.mark.parametrize("is_tls", [False, True])
async def test_closing_ends_calls_in_flight_and_leaves_nothing(is_tls: bool) -> None:
    async def script(peer: Peer) -> None:
        while (request := await peer.request()) is not None:
            if request.body == b"{}":
                peer.write(answer())

    tls = (server_tls(), client_tls()) if is_tls else (None, None)
    async with serving(script, tls=tls[0]) as server, pool_to(server, tls=tls[1]) as pool:
        before = others()
        calls = [asyncio.create_task(send(pool, body)) for body in [b"silent"] * 3 + [LARGE]]
        await until(lambda: len(server.requests) == 4)
        await asyncio.gather(*(send(pool) for _ in range(3)))
        await pool.aclose()
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert [str(one) for one in ended] == ["the client was closed"] * 4
        assert all(isinstance(one, ConnectionLostError) and one.was_sent for one in ended)
        await until(lambda: not server.live)
        assert {task for task in others() - before if not task.done()} == set()
        assert "the client was closed" in str(await refused(pool))
        await pool.aclose()


@pytest.mark.parametrize("stage", ["dns", "connect", "tls", "proxy"])
async def test_closing_ends_calls_that_are_still_being_connected(stage: str) -> None:
    async def silent(peer: Peer) -> None:
        await peer.end()

    origin: dict[str, Any] = {"host": "l.test", "tls": client_tls()}
    loop: Any = asyncio.get_running_loop()
    async with serving(silent) as server:
        if stage == "proxy":
            origin["proxy"] = f"http://127.0.0.1:{server.port}"
        async with pool_to(server, **origin) as pool:
            has_addresses("127.0.0.1")
            if stage == "dns":
                loop.getaddrinfo = lambda *_, **__: asyncio.Event().wait()
            if stage == "connect":
                loop.sock_connect = lambda *_: asyncio.Event().wait()
            before = others()
            calls = [asyncio.create_task(send(pool)) for _ in range(3)]
            if stage in {"tls", "proxy"}:
                await until(lambda: server.connections == 3)
            else:
                await until(lambda: len(pool._connecting) == 3)
                await asyncio.sleep(0.05)
            await pool.aclose()
            await turns()
            ended = await asyncio.gather(*calls, return_exceptions=True)
            assert [str(one) for one in ended] == ["the client was closed"] * 3
            assert not any(getattr(one, "was_sent", True) for one in ended)
            assert not server.requests or stage == "proxy"
            await until(lambda: not server.live)
            assert {task for task in others() - before if not task.done()} == set()


@pytest.mark.parametrize("is_tls", [False, True])
async def test_cancelling_a_call_while_it_connects_leaves_nothing(is_tls: bool) -> None:
    async def silent(peer: Peer) -> None:
        await peer.end()

    async with serving(silent) as server:
        origin: dict[str, Any] = {"tls": client_tls() if is_tls else None}
        async with pool_to(server, **origin) as pool:
            for rounds in range(12):
                call = asyncio.create_task(send(pool))
                await turns(rounds)
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
            await until(lambda: not server.live)
            assert "0 busy, 0 idle" in repr(pool)


# ---- TLS ----


async def test_tls_to_a_trusted_server_carries_large_bodies_exactly() -> None:
    async with (
        serving(answering, tls=server_tls()) as server,
        pool_to(server, host="localhost", tls=client_tls()) as pool,
    ):
        assert (await send(pool, LARGE)).body == LARGE
        assert (await send(pool, b"[1]")).body == b"[1]"
        assert server.connections == 1


async def test_a_server_that_nobody_vouches_for_is_sent_nothing() -> None:
    async with (
        serving(answering, tls=server_tls(ca=trustme.CA())) as server,
        pool_to(server, host="localhost", tls=client_tls()) as pool,
    ):
        for _ in range(2):
            with pytest.raises(CertificateError, match=r"self-signed|unable to get local issuer"):
                await send(pool)
        assert not server.requests


async def test_a_certificate_for_another_name_is_refused() -> None:
    async with (
        serving(answering, tls=server_tls("other.test")) as server,
        pool_to(server, host="localhost", tls=client_tls()) as pool,
    ):
        with pytest.raises(CertificateError, match="mismatch"):
            await send(pool)
        assert not server.requests


async def test_a_server_that_speaks_no_tls_was_sent_nothing() -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.read(1)
        peer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with serving(script) as server, pool_to(server, tls=client_tls()) as pool:
        assert "no connection to" in str(await refused(pool))


async def test_the_end_of_a_tls_connection_is_noticed() -> None:
    async def script(peer: Peer) -> None:
        request = await peer.request()
        assert request is not None
        if request.body == b"until the end":
            peer.write(b"HTTP/1.1 200 OK\r\n\r\nabc")
        elif request.body == b"cut":
            peer.write(answer()[:-1])
        elif request.body == b"reset":
            peer.reset()
        elif len(request.body) > 100:
            peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
            peer.write(answer(b"no", 413))
            await asyncio.Event().wait()
        else:
            peer.write(answer())

    async with (
        serving(script, tls=server_tls()) as server,
        pool_to(server, host="localhost", tls=client_tls()) as pool,
    ):
        assert (await send(pool, b"until the end")).body == b"abc"
        for body in (b"cut", b"reset"):
            with pytest.raises(ConnectionLostError) as caught:
                await send(pool, body)
            assert caught.value.was_sent
        await send(pool)
        await until(lambda: not server.live)
        await send(pool)
        assert server.connections == 5


async def test_an_early_answer_over_tls_is_delivered_though_nobody_reads_on() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        peer.write(answer(b"no", 413))
        await asyncio.Event().wait()

    async with (
        serving(script, tls=server_tls()) as server,
        pool_to(server, host="localhost", tls=client_tls()) as pool,
    ):
        for number in (1, 2):
            assert (await send(pool, LARGE)).status == 413
            assert server.connections == number


# ---- proxies ----

BASIC = f"Basic {base64.b64encode(b'me:p@ss').decode()}"


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("user", ["", "me:p%40ss@"])
async def test_tls_goes_through_a_proxy(scheme: str, user: str) -> None:
    is_tls = scheme == "https"
    async with serving(answering, tls=server_tls("lambda.test")) as server:
        script = proxying(lambda: server.port, BASIC if user else None)
        async with serving(script, tls=server_tls() if is_tls else None) as proxy:
            origin: dict[str, Any] = {
                "host": "lambda.test",
                "tls": client_tls(),
                "proxy": f"{scheme}://{user}localhost:{proxy.port}",
                "proxy_tls": client_tls() if is_tls else None,
            }
            async with pool_to(server, **origin) as pool:
                for body in (b"[1]", LARGE, b"[2]"):
                    assert (await send(pool, body)).body == body
                assert [one.target for one in proxy.requests] == [f"lambda.test:{server.port}"]
                assert proxy.requests[0].headers["host"] == f"lambda.test:{server.port}"
                assert server.connections == 1
                assert "p%40ss" not in repr(pool._origin)


async def test_a_server_behind_a_proxy_is_verified() -> None:
    async with (
        serving(answering, tls=server_tls("other.test")) as server,
        serving(proxying(lambda: server.port)) as proxy,
        pool_to(
            server, host="lambda.test", tls=client_tls(), proxy=f"http://127.0.0.1:{proxy.port}"
        ) as pool,
    ):
        with pytest.raises(CertificateError, match="mismatch"):
            await send(pool)
        assert not server.requests


async def test_a_proxy_is_verified() -> None:
    async with (
        serving(proxying(lambda: 1), tls=server_tls(ca=trustme.CA())) as proxy,
        pool_to(
            proxy,
            host="lambda.test",
            tls=client_tls(),
            proxy=f"https://localhost:{proxy.port}",
            proxy_tls=client_tls(),
        ) as pool,
    ):
        with pytest.raises(CertificateError):
            await send(pool)
        assert not proxy.requests


async def closes(peer: Peer) -> None:
    await peer.head()


async def floods(peer: Peer) -> None:
    await peer.head()
    peer.write(b"x" * 200_000)
    await peer.end()


async def is_unavailable(peer: Peer) -> None:
    await peer.head()
    peer.write(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")


@pytest.mark.parametrize(
    ("script", "told"),
    [
        (proxying(lambda: 1, BASIC), "407 Proxy Authentication Required': check user and password"),
        (is_unavailable, "the proxy answered 'HTTP/1.1 503 Service Unavailable'"),
        (closes, "the proxy closed the connection"),
        (floods, "the proxy answered 'xxx"),
    ],
)
async def test_a_proxy_that_refuses_says_why(script: Callable[[Peer], Any], told: str) -> None:
    async with (
        serving(script) as proxy,
        pool_to(
            proxy, host="lambda.test", tls=client_tls(), proxy=f"http://127.0.0.1:{proxy.port}"
        ) as pool,
    ):
        assert told in str(await refused(pool))
        assert proxy.connections == 1


async def test_plain_http_is_forwarded_by_a_proxy() -> None:
    async with (
        serving(proxying(lambda: 1)) as proxy,
        pool_to(proxy, host="lambda.test", proxy=f"http://127.0.0.1:{proxy.port}") as pool,
    ):
        found = await pool.exchange(request_head(3, "http://lambda.test/path"), [b"[1]"])
        assert found.body == b"[1]"
        assert proxy.requests[0].target == "http://lambda.test/path"


async def test_plain_http_is_forwarded_by_a_proxy_that_speaks_tls() -> None:
    async with (
        serving(proxying(lambda: 1), tls=server_tls()) as proxy,
        pool_to(
            proxy,
            host="lambda.test",
            proxy=f"https://localhost:{proxy.port}",
            proxy_tls=client_tls(),
        ) as pool,
    ):
        found = await pool.exchange(request_head(3, "http://lambda.test/path"), [b"[1]"])
        assert found.body == b"[1]"


def test_a_trusting_context_verifies() -> None:
    assert client_tls().verify_mode is ssl.CERT_REQUIRED
    assert client_tls().check_hostname


async def test_a_connection_that_ended_while_the_loop_was_busy_is_not_used() -> None:
    """Its end has arrived, but asyncio could not tell of it yet."""
    async with serving(answering) as server, pool_to(server) as pool:
        await send(pool)
        (idle,) = pool._idle
        server.peers[0].writer.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        while not idle.has_news():  # not a turn of the loop in between
            pass
        assert idle.is_open
        await send(pool)
        assert pool.opened == 2
