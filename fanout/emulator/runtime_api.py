"""The Runtime API of one environment, version 2018-06-01: what its runtime client talks to.

`GET …/invocation/next` waits for work, `POST …/invocation/{id}/response` and `…/error` answer it,
`POST …/init/error` says that the handler can't be imported. Each environment has a port of its
own: so there is no doubt who is speaking. What it hears it tells by two functions; it decides
nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import fanout.emulator.quotas as quotas
from fanout.emulator.ends import End, Failed, Returned, TooLarge
from fanout.emulator.http_messages import Request, Response
from fanout.emulator.http_server import HOST, Connection, HttpServer

if TYPE_CHECKING:
    from collections.abc import Callable

_ROOT: Final = "/2018-06-01/runtime/"
_NEXT: Final = f"{_ROOT}invocation/next"
_INIT_ERROR: Final = f"{_ROOT}init/error"
_JSON: Final = {"Content-Type": "application/json"}


@dataclass(slots=True, kw_only=True)
class Call:
    """An invocation as an environment gets it.

    Attributes:
        request_id: Of the invocation.
        payload: The event, JSON.
        trace_id: For X-Ray.
        client_context: JSON, if the client gave one.
        is_hung: The environment takes it and never answers.
    """

    request_id: str
    payload: bytes
    trace_id: str = ""
    client_context: str = ""
    is_hung: bool = False


class RuntimeApi:
    """The server, and at most one call: waiting to be asked for, or being worked on.

    Attributes:
        has_asked: Whether the runtime has ever asked for work: it has started.
        is_delivered: Whether the last call has reached the runtime.
    """

    def __init__(
        self, arn: str, *, on_next: Callable[[], None], on_end: Callable[[End], None]
    ) -> None:
        self.has_asked = False
        self.is_delivered = False
        self._arn = arn
        self._on_next = on_next
        self._on_end = on_end
        self._server = HttpServer(
            self._serve, self._refuse, max_body_bytes=quotas.SYNC_PAYLOAD_BYTES, lost=self._lost
        )
        self._asking: Connection | None = None  # it has asked for work and waits
        self._call: Call | None = None
        self._deadline_ms = 0

    async def start(self) -> str:
        """Listen; returns host and port."""
        await self._server.start()
        return f"{HOST}:{self._server.port}"

    async def aclose(self) -> None:
        """Stop listening."""
        await self._server.aclose()

    @property
    def is_waiting(self) -> bool:
        """Whether the runtime waits for work."""
        return self._asking is not None

    def give(self, call: Call, deadline_ms: int) -> None:
        """Have the runtime get this call, now or as soon as it asks."""
        self._call = call
        self._deadline_ms = deadline_ms
        self.is_delivered = False
        if self._asking is not None:
            self._deliver(self._asking)

    def _deliver(self, connection: Connection) -> None:
        assert self._call is not None
        self._asking = None
        self.is_delivered = True
        headers = {
            "Content-Type": "application/json",
            "Lambda-Runtime-Aws-Request-Id": self._call.request_id,
            "Lambda-Runtime-Deadline-Ms": str(self._deadline_ms),
            "Lambda-Runtime-Invoked-Function-Arn": self._arn,
            "Lambda-Runtime-Trace-Id": self._call.trace_id,
        }
        if self._call.client_context:
            headers["Lambda-Runtime-Client-Context"] = self._call.client_context
        connection.respond(Response(HTTPStatus.OK, self._call.payload, headers))

    # ---- called by the server ----

    def _serve(self, connection: Connection, request: Request) -> None:
        target = request.target
        if request.method == "GET" and target == _NEXT:
            self._next(connection)
        elif request.method == "POST" and target == _INIT_ERROR:
            connection.respond(_accepted())
            self._on_end(Failed(request.body))
        elif request.method == "POST" and target.startswith(_ROOT):
            self._answered(connection, request)
        else:
            connection.respond(Response(HTTPStatus.NOT_FOUND, b"404 page not found"))

    def _next(self, connection: Connection) -> None:
        self._asking = connection
        self.has_asked = True
        if self._call is not None and not self.is_delivered:
            self._deliver(connection)
        else:
            self._on_next()

    def _answered(self, connection: Connection, request: Request) -> None:
        kind = self._kind(request)
        if kind is None:
            connection.respond(_refused("InvalidRequestID", "Invalid request ID"))
            return
        self._call = None
        # Told before the runtime may go on: so what it has printed until now belongs to this call.
        self._on_end(Returned(request.body) if kind == "response" else Failed(request.body))
        connection.respond(_accepted())

    def _kind(self, request: Request) -> str | None:
        """Whether it is about the call that is being worked on, and what it says."""
        if self._call is None or not self.is_delivered:
            return None
        prefix = f"{_ROOT}invocation/{self._call.request_id}/"
        kind = request.target.removeprefix(prefix)
        return kind if kind in {"response", "error"} else None

    def _refuse(self, request: Request, _: int) -> Response:
        """An answer that is too large is the end of its invocation."""
        if self._kind(request) is not None:
            self._call = None
            self._on_end(TooLarge())
        limit = quotas.SYNC_PAYLOAD_BYTES
        text = f"Exceeded maximum allowed payload size ({limit} bytes)."
        return _refused("RequestEntityTooLarge", text, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)

    def _lost(self, connection: Connection) -> None:
        if self._asking is connection:
            self._asking = None


def _accepted() -> Response:
    return Response(HTTPStatus.ACCEPTED, b'{"status":"OK"}\n', _JSON)


def _refused(
    error_type: str, message: str, status: HTTPStatus = HTTPStatus.BAD_REQUEST
) -> Response:
    body = json.dumps({"errorMessage": message, "errorType": error_type})
    return Response(status, body.encode(), _JSON)
