"""One attempt is one request, and every way in which an answer can come, or not."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import TYPE_CHECKING

import pytest

from fanout.invoke import ConnectionLostError
from tests.invoke_checks import (
    Peer,
    answer,
    answering,
    others,
    pool_to,
    send,
    serving,
    turns,
    until,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fanout.invoke.pool import Pool

    Script = Callable[[Peer], Awaitable[None]]

LARGE = random.Random(1).randbytes(6_000_000)


def once(*parts: bytes) -> Script:
    """Answer the first request so, then close."""

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.write(*parts)

    return script


def and_wait(*parts: bytes) -> Script:
    """Answer the first request so, and leave the connection open."""

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.write(*parts)
        await peer.end()

    return script


async def lost(pool: Pool, body: bytes = b"{}") -> ConnectionLostError:
    """Send one request that gets no answer."""
    with pytest.raises(ConnectionLostError) as caught:
        await send(pool, body)
    return caught.value


# ---- one attempt, one request ----


async def test_a_server_slower_than_the_timeout_gets_one_request() -> None:
    may_answer = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await may_answer.wait()
        peer.write(answer())
        await peer.end()

    async with serving(script) as server, pool_to(server, timeout_s=0.1) as pool:
        error = await lost(pool)
        assert error.was_sent
        assert str(error) == "no answer after 0.1 s"
        may_answer.set()
        await until(lambda: not server.live)
        assert len(server.requests) == server.connections == 1


async def resets_at_once(peer: Peer) -> None:
    await peer.reader.read(1)
    peer.reset()


async def resets_in_the_request(peer: Peer) -> None:
    await peer.head()
    await peer.reader.read(100_000)
    peer.reset()


async def resets_after_the_request(peer: Peer) -> None:
    await peer.request()
    peer.reset()


async def resets_in_the_head(peer: Peer) -> None:
    await peer.request()
    peer.write(answer()[:20])
    await peer.writer.drain()
    peer.reset()


async def resets_in_the_body(peer: Peer) -> None:
    await peer.request()
    peer.write(answer(b"x" * 1000)[:-1])
    await peer.writer.drain()
    peer.reset()


@pytest.mark.parametrize("size", [2, 5_000_000])
@pytest.mark.parametrize(
    "script",
    [
        resets_at_once,
        resets_in_the_request,
        resets_after_the_request,
        resets_in_the_head,
        resets_in_the_body,
    ],
)
async def test_a_connection_that_is_reset_is_one_request_that_may_have_run(
    script: Script, size: int
) -> None:
    async with serving(script) as server, pool_to(server) as pool:
        assert (await lost(pool, b"x" * size)).was_sent
        await until(lambda: not server.live)
        assert server.connections == 1
        assert len(server.requests) <= 1


async def test_a_call_after_a_reset_has_a_connection_of_its_own() -> None:
    async def script(peer: Peer) -> None:
        if peer.number == 1:
            await resets_after_the_request(peer)
        else:
            await answering(peer)

    async with serving(script) as server, pool_to(server) as pool:
        await lost(pool)
        assert (await send(pool, b"[1]")).body == b"[1]"
        assert server.connections == 2


# ---- answers of every form ----


async def test_status_headers_and_body_are_what_was_sent() -> None:
    script = and_wait(answer(b'{"a":1}', 404, ["X-Amzn-ErrorType: No", "X-Twice: 1", "x-twice: 2"]))
    async with serving(script) as server, pool_to(server) as pool:
        found = await send(pool)
        assert (found.status, found.body) == (404, b'{"a":1}')
        assert found.header(b"x-amzn-errortype") == b"No"
        assert found.header(b"x-other") is None
        assert found.headers == {"content-length": "7", "x-amzn-errortype": "No", "x-twice": "2"}


CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3;name=value\r\nabc\r\n0000A\r\n0123456789\r\n0\r\nX-After: all\r\n\r\n"
)


async def test_a_chunked_answer_is_put_together() -> None:
    async def script(peer: Peer) -> None:
        while await peer.request():
            peer.write(CHUNKED)

    async with serving(script) as server, pool_to(server) as pool:
        for _ in range(3):
            found = await send(pool)
            assert found.body == b"abc0123456789"
            assert "x-after" not in found.headers
        assert server.connections == 1


@pytest.mark.parametrize("whole", [CHUNKED, answer(b"abc0123456789")])
async def test_an_answer_can_come_byte_by_byte(whole: bytes) -> None:
    async def script(peer: Peer) -> None:
        while await peer.request():
            await peer.piecewise(whole)

    async with serving(script) as server, pool_to(server) as pool:
        for _ in range(2):
            assert (await send(pool)).body == b"abc0123456789"
        assert server.connections == 1


@pytest.mark.parametrize("size", [2, 1_000_000])
async def test_answers_that_only_say_to_go_on_are_passed_over(size: int) -> None:
    early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>; rel=next\r\n\r\n"

    async def script(peer: Peer) -> None:
        while await peer.head():
            await peer.piecewise(early, 40)
            await peer.reader.readexactly(size)
            peer.write(early, answer(b"[1]"))

    async with serving(script) as server, pool_to(server) as pool:
        for _ in range(2):
            found = await send(pool, b"x" * size)
            assert (found.status, found.body) == (200, b"[1]")
            assert set(found.headers) == {"content-length"}
        assert server.connections == 1


@pytest.mark.parametrize(
    "parts",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\nA: b\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nxyz",
    ],
)
async def test_saying_to_go_on_is_no_answer(parts: bytes) -> None:
    async with serving(once(parts)) as server, pool_to(server) as pool:
        assert (await lost(pool)).was_sent


@pytest.mark.parametrize(
    ("form", "connections"),
    [
        (answer(b"[1]", version="1.0"), 2),
        (answer(b"[1]", headers=["Connection: keep-alive"], version="1.0"), 1),
        (answer(b"[1]", headers=["Connection: close"]), 2),
        (answer(b"[1]", headers=["connection: Keep-Alive, Close"]), 2),
        (answer(b"[1]", headers=["Connection: keep-alive"]), 1),
        (answer(b"[1]"), 1),
    ],
)
async def test_a_connection_is_used_again_if_the_answer_allows_it(
    form: bytes, connections: int
) -> None:
    async def script(peer: Peer) -> None:
        while await peer.request():
            peer.write(form)

    async with serving(script) as server, pool_to(server) as pool:
        for _ in range(2):
            assert (await send(pool)).body == b"[1]"
        assert server.connections == connections
        await until(lambda: server.live == (connections == 1))


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_body_without_a_length_ends_with_the_connection(version: str) -> None:
    head = f"HTTP/{version} 200 OK\r\nContent-Type: text/plain\r\n\r\n".encode()
    async with serving(once(head, b"abc" * 1000)) as server, pool_to(server) as pool:
        for _ in range(2):
            assert (await send(pool)).body == b"abc" * 1000
        assert server.connections == 2


async def test_a_body_without_a_length_does_not_end_with_a_reset() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        peer.write(b"HTTP/1.1 200 OK\r\n\r\nabc")
        await peer.writer.drain()
        await has_begun.wait()
        peer.reset()

    has_begun = asyncio.Event()
    async with serving(script) as server, pool_to(server) as pool:
        call = asyncio.create_task(lost(pool))
        await until(lambda: server.requests)
        await asyncio.sleep(0.01)
        has_begun.set()
        assert (await call).was_sent


@pytest.mark.parametrize(
    "parts",
    [
        b"",
        b"HTTP/1.1 2",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n",
    ],
)
async def test_an_answer_cut_short_is_lost(parts: bytes) -> None:
    async with serving(once(parts)) as server, pool_to(server) as pool:
        error = await lost(pool)
        assert error.was_sent
        assert str(error).startswith("the connection ended ")
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "parts",
    [
        b"garbage\r\n\r\n",
        b"\x16\x03\x01\x00\xa5" * 10,
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 two OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nab\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: \x00\r\n\r\n",
    ],
)
async def test_what_is_no_answer_of_http_is_lost(parts: bytes) -> None:
    async with serving(and_wait(parts)) as server, pool_to(server) as pool:
        error = await lost(pool)
        assert error.was_sent
        assert str(error).startswith("the answer can't be read: ")
        await until(lambda: not server.live)


async def test_a_damaged_answer_is_an_answer_or_lost() -> None:
    rng = random.Random(7)

    async def script(peer: Peer) -> None:
        await peer.request()
        data = bytearray(rng.choice([CHUNKED, answer(b"x" * 30, headers=["A: b"])]))
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        peer.write(bytes(data))

    async with serving(script) as server, pool_to(server) as pool:
        ended = await asyncio.gather(*(send(pool) for _ in range(300)), return_exceptions=True)
        kinds = {type(one).__name__ for one in ended}
        assert kinds == {"Answer", "ConnectionLostError"}
        assert server.connections == 300


# ---- too much ----


@pytest.mark.parametrize(
    "part",
    [b"X-Long: " + b"x" * 1000 + b"\r\n", b"x" * 1000, b"HTTP/1.1 100 Continue\r\n\r\n"],
)
async def test_headers_without_end_are_refused(part: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        peer.write(part if part.startswith(b"HTTP") else b"HTTP/1.1 200 OK\r\n")
        while True:
            peer.write(part * 20)
            await peer.writer.drain()

    async with serving(script) as server, pool_to(server) as pool:
        error = await lost(pool)
        assert str(error) == "the answer's headers are longer than 256 KiB"
        assert error.was_sent


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n",
    ],
)
async def test_an_answer_without_end_is_refused(head: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        peer.write(head)
        while True:
            peer.write(b"x" * 2**20)
            await peer.writer.drain()

    async with serving(script) as server, pool_to(server) as pool:
        error = await lost(pool)
        assert str(error) == "the answer is longer than 64 MiB"
        assert error.was_sent


async def test_two_answers_in_one_packet_are_one_answer_and_the_end_of_the_connection() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        peer.write(answer(b"[1]", 201), answer(b"[2]", 500, ["X-Amz-Function-Error: Handled"]))
        await peer.end()

    async with serving(script) as server, pool_to(server) as pool:
        for _ in range(2):
            found = await send(pool)
            assert (found.status, found.body) == (201, b"[1]")
            assert set(found.headers) == {"content-length"}
        assert server.connections == 2


@pytest.mark.parametrize("more", [answer(), b"x", b"HTTP/1.1 408 Request Timeout\r\n\r\n"])
async def test_what_comes_unasked_on_an_idle_connection_closes_it(more: bytes) -> None:
    go_on = asyncio.Event()

    async def script(peer: Peer) -> None:
        while await peer.request():
            peer.write(answer(b"[%d]" % peer.number))
            if peer.number == 1:
                await go_on.wait()
                peer.write(more)

    async with serving(script) as server, pool_to(server) as pool:
        assert (await send(pool)).body == b"[1]"
        go_on.set()
        await until(server.peers[0].has_ended.is_set)
        assert (await send(pool)).body == b"[2]"


# ---- large bodies ----


async def test_large_bodies_are_exact_in_both_directions() -> None:
    async with serving(answering) as server, pool_to(server) as pool:
        found = await send(pool, LARGE[:1000], b"", LARGE[1000:3_000_000], LARGE[3_000_000:])
        assert found.body == LARGE
        assert (await send(pool)).body == b"{}"
        assert server.connections == 1


async def test_a_slow_reader_gets_all_of_a_large_body() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        body = b""
        while len(body) < len(LARGE):
            body += await peer.reader.read(50_000)
            await asyncio.sleep(0)
        for at in range(0, len(body), 500_000):
            peer.write(answer(body) if not at else b"")
            await peer.writer.drain()
        await peer.end()

    async with serving(script) as server, pool_to(server) as pool:
        assert (await send(pool, LARGE)).body == LARGE


EARLY = answer(b'{"message":"too large"}', 413)


@pytest.mark.parametrize("headers", [(), ("Connection: close",)])
async def test_an_early_answer_to_an_upload_is_delivered_though_nobody_reads_on(
    headers: tuple[str, ...],
) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        peer.write(answer(b"no", 413, headers))
        await asyncio.Event().wait()

    async with serving(script) as server, pool_to(server) as pool:
        found = await send(pool, LARGE)
        assert (found.status, found.body) == (413, b"no")
        found = await send(pool, LARGE)
        assert server.connections == 2


async def test_an_early_answer_to_an_upload_is_delivered_while_the_rest_is_read() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        peer.write(EARLY)
        await peer.end()

    async with serving(script) as server, pool_to(server) as pool:
        assert (await send(pool, LARGE)).status == 413
        await until(lambda: not server.live)
        assert (await send(pool, LARGE)).status == 413
        assert server.connections == 2


async def test_an_upload_to_who_stopped_reading_ends_at_the_timeout() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.Event().wait()

    async with serving(script) as server, pool_to(server, timeout_s=0.2) as pool:
        assert (await lost(pool, LARGE)).was_sent
        assert "0 busy, 0 idle" in repr(pool)


async def test_an_early_answer_and_a_reset_are_the_answer_or_a_loss() -> None:
    """Closing with unread data resets the connection, which may overtake the answer."""

    async def script(peer: Peer) -> None:
        await peer.head()
        peer.write(answer(b"no", 413, ["Connection: close"]))

    async with serving(script) as server, pool_to(server) as pool:
        ended = [
            *await asyncio.gather(*(send(pool, LARGE) for _ in range(20)), return_exceptions=True)
        ]
        assert all(getattr(one, "status", 413) == 413 for one in ended)
        assert all(getattr(one, "was_sent", True) for one in ended)
        assert {type(one).__name__ for one in ended} <= {"Answer", "ConnectionLostError"}
        assert server.connections == 20


# ---- half-closed ----


async def test_a_server_that_says_no_more_after_its_answer_is_not_used_again() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        peer.write(answer(b"[1]"))
        peer.writer.write_eof()
        await peer.end()

    async with serving(script) as server, pool_to(server) as pool:
        for number in (1, 2):
            assert (await send(pool)).body == b"[1]"
            await until(lambda: not server.live)
            assert server.connections == number


async def test_a_server_that_says_no_more_in_the_middle_of_an_upload_is_lost() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        peer.writer.write_eof()
        await asyncio.Event().wait()

    async with serving(script) as server, pool_to(server) as pool:
        error = await lost(pool, LARGE)
        assert str(error) == "the connection ended without an answer"
        assert error.was_sent


async def test_a_body_until_the_end_may_come_in_the_middle_of_an_upload() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        peer.write(b"HTTP/1.1 413 No\r\n\r\n<html>")
        peer.writer.write_eof()
        await asyncio.Event().wait()

    async with serving(script) as server, pool_to(server) as pool:
        found = await send(pool, LARGE)
        assert (found.status, found.body) == (413, b"<html>")


# ---- cancelling ----


@pytest.mark.parametrize("body", [b"{}", LARGE])
async def test_cancelling_a_call_closes_its_connection_and_leaves_no_task(body: bytes) -> None:
    has_begun = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        has_begun.set()
        if len(body) > 2:
            peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await may_read.wait()
            peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        await peer.end()

    may_read = asyncio.Event()
    async with serving(script) as server, pool_to(server) as pool:
        before = others()
        call = asyncio.create_task(send(pool, body))
        await has_begun.wait()
        await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        may_read.set()
        await until(lambda: not server.live)
        assert others() <= before
        assert "0 busy, 0 idle" in repr(pool)


async def test_a_call_cancelled_as_its_answer_fails_reports_nothing_to_the_loop() -> None:
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

    async def script(peer: Peer) -> None:
        await peer.head()
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.Event().wait()

    for body in (b"{}", LARGE):
        async with serving(script) as server, pool_to(server) as pool:
            call = asyncio.create_task(send(pool, body))
            await until(lambda server=server: server.requests)  # type: ignore[misc]
            await asyncio.sleep(0.01)
            for connection in list(pool._deadlines):
                connection.fail("in the same turn")
            call.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionLostError):
                await call
            await turns()
    asyncio.get_running_loop().set_exception_handler(None)
    assert told == []
