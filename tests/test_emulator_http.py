"""The emulator's HTTP server, over raw sockets."""

from __future__ import annotations

import asyncio
import importlib.util

import pytest

from tests.emulator_checks import (
    INVOCATIONS,
    emulated,
    exchange,
    listening,
    read_response,
    signed,
)

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("awslambdaric") is None, reason="needs awslambdaric"
)


async def test_a_connection_is_used_again() -> None:
    async with emulated("echo") as (emulator, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", emulator.port)
        for number in range(3):
            writer.write(signed(emulator, body=b"%d" % number))
            assert (await read_response(reader)).value == number
        writer.close()
        await writer.wait_closed()


async def test_requests_sent_ahead_are_answered_in_order() -> None:
    async with emulated() as (emulator, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", emulator.port)
        acts = [b'{"sleep":0.1,"json":0}', b'{"json":1}', b'{"json":2}']
        writer.write(b"".join(signed(emulator, body=act) for act in acts))
        assert [(await read_response(reader)).value for _ in acts] == ["0", "1", "2"]
        writer.close()
        await writer.wait_closed()


async def test_a_request_may_come_in_pieces_and_in_chunks() -> None:
    async with emulated("echo", verify=False) as (emulator, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", emulator.port)
        raw = (
            f"POST {INVOCATIONS} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n"
            "Expect: 100-continue\r\n\r\n"
        ).encode()
        for byte in raw:
            writer.write(bytes([byte]))
            await writer.drain()
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"2\r\n[1\r\n2\r\n2]\r\n0\r\n\r\n")
        assert (await read_response(reader)).value == [12]
        writer.close()
        await writer.wait_closed()


async def test_what_is_no_http_is_answered_with_400() -> None:
    async with emulated("echo") as (emulator, _):
        assert (await exchange(emulator, b"\x16\x03\x01 hello\r\n\r\n")).status == 400


async def test_it_listens_on_loopback_only() -> None:
    async with emulated("echo") as (emulator, _):
        assert emulator.url == f"http://127.0.0.1:{emulator.port}"
        assert listening(emulator.port) == [f"0100007F:{emulator.port:04X}"]
