"""Lambda's API in front of AWS's Runtime Interface Emulator (RIE), as a process.

    python -m tests.contract.rie_router READY RIE CONCURRENCY TIMEOUT_S FUNCTION=HANDLER...

RIE is the Runtime API of AWS itself with an Invoke call in front that knows one function, one call
at a time (two that overlap end it) and no errors: what went wrong is in the body only. So each
function has as many RIE as it may have environments; a call goes to one that is free, or is
throttled; and the answer gets the status and the header that Lambda gives it. Once the router
listens, READY is written: its URL, JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
from aiohttp import web

# Of a synchronous invocation: see fanout.lambda_wire. RIE would cut a longer request off.
_LIMIT_BYTES: Final = 6_291_556
_MEMORY_MB: Final = 1769
# RIE's own timer for a call, over which the client must not give up first.
_MARGIN_S: Final = 30.0
_START_S: Final = 20.0
_TIMED_OUT: Final = re.compile(rb"Task timed out after [\d.]+ seconds")
# What AWS's runtime client reports of an exception; nothing that the handler returns has all these.
_REPORT_KEYS: Final = {"errorMessage", "errorType", "requestId", "stackTrace"}


@dataclass(slots=True)
class Function:
    """A function: the ports of its idle environments."""

    name: str
    handler: str
    idle: list[int] = field(default_factory=list)


class Router:
    """Answers as Lambda does."""

    def __init__(self, functions: list[Function], concurrency: int, timeout_s: float) -> None:
        self._functions = {function.name: function for function in functions}
        self._concurrency = concurrency
        self._timeout_s = timeout_s
        self._client: aiohttp.ClientSession | None = None

    def application(self) -> web.Application:
        """What to serve."""
        application = web.Application(client_max_size=_LIMIT_BYTES + 1)
        one = "/functions/{name}"
        application.router.add_post(f"/2015-03-31{one}/invocations", self._invoke)
        application.router.add_get(f"/2015-03-31{one}/configuration", self._configuration)
        application.router.add_get(f"/2019-09-30{one}/concurrency", self._concurrency_of)
        application.router.add_get("/2016-08-19/account-settings", self._account)
        application.cleanup_ctx.append(self._connected)
        return application

    async def _connected(self, _: web.Application) -> Any:
        timeout = aiohttp.ClientTimeout(total=self._timeout_s + _MARGIN_S)
        async with aiohttp.ClientSession(timeout=timeout) as self._client:
            yield

    def _function(self, request: web.Request) -> Function:
        name = request.match_info["name"]
        if name not in self._functions:
            message = f"Function not found: arn:aws:lambda:us-east-1:123456789012:function:{name}"
            raise _error(web.HTTPNotFound, "ResourceNotFoundException", message)
        return self._functions[name]

    async def _configuration(self, request: web.Request) -> web.Response:
        return web.json_response(
            {
                "FunctionName": self._function(request).name,
                "Timeout": int(self._timeout_s),
                "MemorySize": _MEMORY_MB,
                "State": "Active",
            }
        )

    async def _concurrency_of(self, request: web.Request) -> web.Response:
        self._function(request)
        return web.json_response({})  # none is reserved

    async def _account(self, _: web.Request) -> web.Response:
        most = self._concurrency
        limit = {"ConcurrentExecutions": most, "UnreservedConcurrentExecutions": most}
        return web.json_response({"AccountLimit": limit})

    async def _invoke(self, request: web.Request) -> web.Response:
        function = self._function(request)
        body = await request.content.read()
        if len(body) > _LIMIT_BYTES:
            message = f"{len(body)} byte payload is too large for the type RequestResponse"
            raise _error(web.HTTPRequestEntityTooLarge, "RequestTooLargeException", message)
        if not function.idle:
            reason = "ConcurrentInvocationLimitExceeded"
            raise _error(
                web.HTTPTooManyRequests, "TooManyRequestsException", "Rate Exceeded.", reason
            )
        port = function.idle.pop()
        try:
            # Goes on when the client is gone, as an invocation does.
            return await self._run(port, body)
        except aiohttp.ClientError as error:
            print(f"RIE at {port}: {error!r}", flush=True)
            raise _error(web.HTTPInternalServerError, "ServiceException", str(error)) from error
        finally:
            function.idle.append(port)

    async def _run(self, port: int, body: bytes) -> web.Response:
        assert self._client is not None
        url = f"http://127.0.0.1:{port}/2015-03-31/functions/function/invocations"
        async with self._client.post(url, data=body) as answer:
            told = await answer.read()
        failure = failure_of(answer.status, told)
        if failure is None:
            return web.Response(body=told, content_type="application/json")
        return web.Response(
            body=failure,
            content_type="application/json",
            headers={"X-Amz-Function-Error": "Unhandled"},
        )


def failure_of(status: int, body: bytes) -> bytes | None:
    """What Lambda's body would be, if this answer of RIE tells of a failed function."""
    if status != 200:
        return body
    if _TIMED_OUT.fullmatch(body):
        message = f"RequestId: 0 Error: {body.decode()}"
        return json.dumps({"errorType": "Sandbox.Timedout", "errorMessage": message}).encode()
    if body[:1] == b"{" and b'"errorType"' in body[:4096]:
        told = json.loads(body)
        if set(told) == _REPORT_KEYS:
            return body
    return None


def _error(
    kind: type[web.HTTPException], code: str, message: str, reason: str | None = None
) -> web.HTTPException:
    told = {"Type": "User", "message": message} | ({"Reason": reason} if reason else {})
    arguments: dict[str, Any] = {
        "text": json.dumps(told),
        "content_type": "application/json",
        "headers": {"x-amzn-ErrorType": code},
    }
    if kind is web.HTTPRequestEntityTooLarge:
        arguments |= {"max_size": _LIMIT_BYTES, "actual_size": _LIMIT_BYTES + 1}
    return kind(**arguments)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


async def _start_rie(rie: str, handler: str, timeout_s: float) -> int:
    """Start one RIE; returns its port when it listens there."""
    port, runtime_port = _free_port(), _free_port()
    await asyncio.create_subprocess_exec(
        rie,
        *("--log-level", "error"),
        *("--runtime-interface-emulator-address", f"127.0.0.1:{port}"),
        *("--runtime-api-address", f"127.0.0.1:{runtime_port}"),
        *(sys.executable, "-m", "awslambdaric", handler),
        env={
            **os.environ,
            "AWS_LAMBDA_FUNCTION_TIMEOUT": f"{timeout_s:g}",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(_MEMORY_MB),
        },
    )
    async with asyncio.timeout(_START_S):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.01)
            else:
                writer.close()
                return port


async def serve(
    ready: Path, rie: str, concurrency: int, timeout_s: float, functions: list[str]
) -> None:
    """Serve until cancelled."""
    pairs = (function.partition("=") for function in functions)
    made = [Function(name, handler) for name, _, handler in pairs]
    for function in made:
        starts = (_start_rie(rie, function.handler, timeout_s) for _ in range(concurrency))
        function.idle += await asyncio.gather(*starts)
    runner = web.AppRunner(Router(made, concurrency, timeout_s).application())
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        partial = ready.with_suffix(".partial")
        host, port = runner.addresses[0][:2]
        partial.write_text(json.dumps(f"http://{host}:{port}"))
        partial.rename(ready)
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    _, ready, rie, concurrency, timeout_s, *functions = sys.argv
    asyncio.run(serve(Path(ready), rie, int(concurrency), float(timeout_s), functions))
