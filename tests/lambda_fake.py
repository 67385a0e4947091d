"""A Lambda that runs the handler in this very process, for tests of the client's side.

Real sockets, real signatures, the real handler; what befalls a request is decided by a plan. The
emulator is the real thing, with processes; this one answers what no test could make Lambda answer.
"""

from __future__ import annotations

import contextlib
import json
import logging
from typing import TYPE_CHECKING, Any, TypeAlias

import aioboto3

from fanout import Executor, Lambda
from fanout.emulator.http_messages import Request, Response
from fanout.emulator.http_server import Connection, HttpServer
from fanout.handler import handle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import pytest

# From the request's number (from 0) and the reply of the handler: what to answer instead.
# None: never answer.
Plan: TypeAlias = "Callable[[int, Callable[[], Response]], Response | None]"


def as_it_is(_number: int, run: Callable[[], Response]) -> Response:
    return run()


def error(
    status: int, code: str, *, headers: dict[str, str] | None = None, **body: str
) -> Response:
    """An error as Lambda answers it."""
    told = {"Type": "User", "message": f"{code} it is", **body}
    return Response(
        status, json.dumps(told).encode(), {"x-amzn-ErrorType": code, **(headers or {})}
    )


def function_error(kind: str, message: str) -> Response:
    """A failure of the function, which comes with status 200."""
    body = json.dumps({"errorType": kind, "errorMessage": message}).encode()
    return Response(200, body, {"X-Amz-Function-Error": "Unhandled"})


class FakeLambda:
    """The service.

    Attributes:
        plan: What befalls each invocation.
        configuration: What GetFunctionConfiguration answers.
        reserved: What GetFunctionConcurrency answers.
        unreserved: What GetAccountSettings answers.
        refusals: Answers to other requests, by the end of their path.
        invocations: The bodies of all invocations so far.
        keys: The access key that signed each of them.
        most_open: The most connections there ever were at once.
    """

    def __init__(self, plan: Plan = as_it_is, *, timeout_s: int = 60) -> None:
        self.plan = plan
        self.configuration: dict[str, Any] = {"Timeout": timeout_s, "MemorySize": 512}
        self.reserved: int | None = None
        self.unreserved = 8
        self.refusals: dict[str, Response] = {}
        self.invocations: list[bytes] = []
        self.targets: list[str] = []
        self.keys: list[str] = []
        self.hung: list[Connection] = []
        self.lost = 0
        self.most_open = 0
        self._timeout_s = timeout_s
        self._server = HttpServer(
            self._serve,
            lambda _request, _size: error(413, "RequestTooLargeException"),
            max_body_bytes=6_291_556,
            lost=self._on_lost,
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.port}"

    @property
    def open_connections(self) -> int:
        return len(self._server.connections)

    def get_remaining_time_in_millis(self) -> int:
        """The handler's context is this very object."""
        return 1000 * self._timeout_s

    def backend(self, **options: Any) -> Lambda:
        session = aioboto3.Session(
            aws_access_key_id="AKIATEST", aws_secret_access_key="not-so-secret"
        )
        options = {"region": "us-east-1", "session": session, **options}
        return Lambda(options.pop("function", "f"), endpoint_url=self.url, **options)

    async def go_away(self) -> int:
        """Close the port, and say which it was."""
        port = self._server.port
        await self._server.aclose()
        return port

    async def come_back(self, port: int) -> None:
        """Listen there again."""
        await self._server.start(port)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[FakeLambda]:
        await self._server.start()
        try:
            yield self
        finally:
            await self._server.aclose()

    def _on_lost(self, connection: Connection) -> None:
        self.lost += connection in self.hung

    def _serve(self, connection: Connection, request: Request) -> None:
        self.most_open = max(self.most_open, self.open_connections)
        path = request.target.partition("?")[0].rstrip("/")
        self.targets.append(request.target)
        refusal = self.refusals.get(path.rpartition("/")[2])
        answer = refusal or self._answer(path, request)
        if answer is None:
            self.hung.append(connection)
        else:
            connection.respond(answer)

    def _answer(self, path: str, request: Request) -> Response | None:
        if path.endswith("/configuration"):
            return _document(self.configuration)
        if path.endswith("/concurrency"):
            return _document(
                {"ReservedConcurrentExecutions": self.reserved} if self.reserved is not None else {}
            )
        if path.endswith("/account-settings"):
            return _document({"AccountLimit": {"UnreservedConcurrentExecutions": self.unreserved}})
        number = len(self.invocations)
        self.invocations.append(request.body)
        scope = request.headers["authorization"].partition("Credential=")[2]
        self.keys.append(scope.partition("/")[0])
        return self.plan(number, lambda: self._run(request.body))

    def _run(self, body: bytes) -> Response:
        try:
            returned = handle(json.loads(body), self)
        except Exception as failed:
            return function_error(type(failed).__name__, str(failed))
        reply = returned if isinstance(returned, bytes) else json.dumps(returned).encode()
        return Response(200, reply)


def _document(content: dict[str, Any]) -> Response:
    return Response(200, json.dumps(content).encode(), {"Content-Type": "application/json"})


@contextlib.asynccontextmanager
async def opened(
    plan: Plan = as_it_is, *, timeout_s: int = 60, **options: Any
) -> AsyncIterator[tuple[Executor, FakeLambda]]:
    """An executor on such a service; all connections must be closed with it."""
    async with (
        FakeLambda(plan, timeout_s=timeout_s).serving() as service,
        Executor(service.backend(**options)) as ex,
    ):
        yield ex, service


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged for the user."""
    return [
        r.getMessage()
        for r in caplog.records
        if r.name == "fanout" and r.levelno >= logging.WARNING
    ]
