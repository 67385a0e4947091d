"""The API in front: what a client of AWS Lambda talks to.

Emulated are Invoke, with the types RequestResponse, Event and DryRun, GetFunctionConfiguration,
GetFunctionConcurrency and GetAccountSettings, for the one function there is. A request passes, in
this order: its size, its signature, its name, its payload, its fault, the limits; then it runs. It
runs to its end even if the client has gone.

An invocation of type Event waits for room as long as it takes; if the function fails it is not
tried again, where Lambda would try twice more.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import re
import time
import uuid
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, unquote

import fanout.emulator.quotas as quotas
import fanout.emulator.responses as responses
from fanout.emulator.faulty import respond_with
from fanout.emulator.function import VERSION
from fanout.emulator.http_server import HttpServer
from fanout.emulator.limits import Refusal
from fanout.emulator.runtime_api import Call
from fanout.emulator.signature import SignatureError, Verifier

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from fanout.emulator.ends import Answer
    from fanout.emulator.faults import FaultPlan
    from fanout.emulator.http_messages import Request, Response
    from fanout.emulator.http_server import Connection
    from fanout.emulator.log import LogKeeper
    from fanout.emulator.pool import Pool
    from fanout.emulator.tally import Tally

_FUNCTION: Final = re.compile(
    r"/(2015-03-31|2019-09-30)/functions/([^/?]+)/(invocations|configuration|concurrency)"
)
_ACCOUNT: Final = re.compile(r"/2016-08-19/account-settings/?")
# A name, a partial or a whole ARN, each with or without a qualifier.
_NAME: Final = re.compile(
    r"(?:arn:aws[a-z-]*:lambda:(?P<region>[a-z0-9-]+):)?(?:(?P<account>\d{12}):)?(?:function:)?"
    r"(?P<name>[a-zA-Z0-9-_.]+)(?::(?P<qualifier>\$LATEST|[a-zA-Z0-9-_]+))?"
)
# Digests let go of the interpreter: above this size another thread is worth its while.
_IN_THREAD_BYTES: Final = 256 * 1024
# Parsing holds the interpreter, in whatever thread: what is larger is parsed by the environment
# only, which does it anyway. 64 KB take 0.2 to 1 ms.
_PARSED_BYTES: Final = 64 * 1024


class InvokeApi:
    """Answers requests.

    Attributes:
        server: Where they come from.
    """

    def __init__(
        self,
        pool: Pool,
        plan: FaultPlan,
        log: LogKeeper,
        tally: Tally,
        verifier: Verifier | None,
    ) -> None:
        self.server = HttpServer(
            self._serve, self._refuse, max_body_bytes=quotas.SYNC_PAYLOAD_BYTES
        )
        self._pool = pool
        self._plan = plan
        self._log = log
        self._tally = tally
        self._verifier = verifier
        self._function = pool.function
        self._since = time.strftime("%Y-%m-%dT%H:%M:%S.000+0000", time.gmtime())
        self._tasks: set[asyncio.Task[None]] = set()

    async def aclose(self) -> None:
        """Stop answering; what is under way is given up."""
        self.server.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.server.aclose()

    # ---- requests ----

    def _serve(self, connection: Connection, request: Request) -> None:
        self.start(self._answer(connection, request))

    def start(self, work: Coroutine[None, None, None]) -> None:
        """Do something in the background, to its end."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _refuse(self, request: Request, body_bytes: int) -> Response:
        is_event = request.headers.get("x-amz-invocation-type") == "Event"
        return _marked(responses.too_large(body_bytes, is_event=is_event), str(uuid.uuid4()))

    async def _answer(self, connection: Connection, request: Request) -> None:
        request_id = str(uuid.uuid4())
        response: Response | None
        try:
            await self._verify(request)
            response = await self._route(connection, request, request_id)
        except SignatureError as problem:
            status = HTTPStatus.FORBIDDEN
            response = responses.error(status, problem.code, str(problem))
        except OSError as problem:  # an environment can't be started: out of files, or of memory
            self._log.add(_not_started(request_id, problem))
            response = responses.service_exception()
        except Exception:  # a mistake of ours: the client is not left waiting for it
            connection.respond(_marked(responses.service_exception(), request_id))
            raise
        if response is not None:
            connection.respond(_marked(response, request_id))

    async def _verify(self, request: Request) -> None:
        if self._verifier is None:
            return
        if len(request.body) > _IN_THREAD_BYTES:
            await asyncio.to_thread(self._verifier.verify, request, time.time())
        else:
            self._verifier.verify(request, time.time())

    async def _route(
        self, connection: Connection, request: Request, request_id: str
    ) -> Response | None:
        path, _, query = request.target.partition("?")
        if request.method == "GET" and _ACCOUNT.fullmatch(path):
            return responses.account_settings(self._pool.admission.limits)
        match = _FUNCTION.fullmatch(path)
        if match is None:
            return responses.unknown_operation()
        if (missing := self._missing(unquote(match[2]), query)) is not None:
            return missing
        match request.method, match[1], match[3]:
            case "POST", "2015-03-31", "invocations":
                return await self._invoke(connection, request, request_id)
            case "GET", "2015-03-31", "configuration":
                return responses.configuration(self._function, self._since)
            case "GET", "2019-09-30", "concurrency":
                return responses.concurrency(self._pool.admission.limits)
        return responses.unknown_operation()

    def _missing(self, text: str, query: str) -> Response | None:
        """The answer, if the name is not that of the function."""
        function = self._function
        if text == function.name and not query:
            return None
        asked = parse_qs(query).get("Qualifier", [""])[0]
        match = _NAME.fullmatch(text)
        if match is None:
            message = f"Value '{text}' at 'functionName' failed to satisfy constraint"
            return responses.error(HTTPStatus.BAD_REQUEST, "ValidationException", message)
        qualifier = match["qualifier"] or asked
        is_known = match["name"] == function.name and qualifier in ("", VERSION)
        if is_known and match["region"] in (None, function.region):
            return None
        arn = function.arn.removesuffix(function.name) + match["name"]
        return responses.not_found(f"{arn}:{qualifier}" if qualifier else arn)

    # ---- Invoke ----

    async def _invoke(
        self, connection: Connection, request: Request, request_id: str
    ) -> Response | None:
        call = Call(request_id=request_id, payload=request.body or b"{}")
        problem = _payload_problem(request.body) or _add_context(call, request)
        if problem is not None:
            return problem
        match request.headers.get("x-amz-invocation-type", "RequestResponse"):
            case "RequestResponse":
                pass
            case "DryRun":
                return responses.dry_run()
            case "Event":
                return self._event(call)
            case kind:
                message = f"Invocation type {kind} is not one of RequestResponse, Event, DryRun"
                code = "InvalidParameterValueException"
                return responses.error(HTTPStatus.BAD_REQUEST, code, message)
        with_log = request.headers.get("x-amz-log-type") == "Tail"
        fault = self._plan.of_invocation()
        if fault is None:
            return await self.respond_to(call, with_log=with_log)
        self._tally.fault(fault)
        return await respond_with(fault, self, self._plan, connection, call, with_log=with_log)

    async def respond_to(self, call: Call, *, with_log: bool) -> Response:
        """Run an invocation, if the limits let it in, and make a response of what it gives."""
        answer = await self.run(call)
        if isinstance(answer, Refusal):
            return responses.throttled(answer.reason, answer.retry_after_s)
        if answer.error_type == "Runtime.UnmarshalError":  # it was too large to be parsed here
            message = json.loads(answer.body).get("errorMessage", "")
            return responses.not_json(message.removeprefix("Unable to unmarshal input: "))
        return responses.answered(answer, with_log=with_log)

    async def run(self, call: Call) -> Answer | Refusal:
        """Run an invocation, if the limits let it in."""
        environment = self._pool.enter()
        if isinstance(environment, Refusal):
            self._tally.throttle(environment.reason)
            return environment
        self._tally.invocations += 1
        answer = await self._pool.run(environment, call)
        self._log.add(answer.log)
        return answer

    def _event(self, call: Call) -> Response:
        if len(call.payload) > quotas.EVENT_PAYLOAD_BYTES:
            return responses.too_large(len(call.payload), is_event=True)
        self.start(self._run_in_background(call))
        return responses.accepted()

    async def _run_in_background(self, call: Call) -> None:
        try:
            # Lambda keeps it in a queue and asks again and again, as is done here.
            while isinstance(refusal := await self.run(call), Refusal):  # noqa: ASYNC110
                await asyncio.sleep(min(refusal.retry_after_s, 1.0))
        except OSError as problem:
            self._log.add(_not_started(call.request_id, problem))


def _payload_problem(body: bytes) -> Response | None:
    if not body or len(body) > _PARSED_BYTES:
        return None
    try:
        # UTF-8 only, and no NaN: Lambda is stricter than Python.
        json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        return responses.not_json(str(error))
    return None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"Non-standard token '{name}'")


def _add_context(call: Call, request: Request) -> Response | None:
    """Take over what the headers say about the call."""
    call.trace_id = request.headers.get("x-amzn-trace-id") or _trace_id(call.request_id)
    context = request.headers.get("x-amz-client-context")
    if not context:
        return None
    try:
        if len(context) > quotas.CLIENT_CONTEXT_BYTES:
            raise ValueError(f"it has {len(context)} bytes")
        document = json.loads(base64.b64decode(context, validate=True))
    except (ValueError, binascii.Error) as error:
        message = f"Client context must be a valid Base64-encoded JSON object: {error}"
        code = "InvalidRequestContentException"
        return responses.error(HTTPStatus.BAD_REQUEST, code, message)
    call.client_context = json.dumps(document)  # without line breaks: it becomes a header
    return None


def _trace_id(request_id: str) -> str:
    digits = request_id.replace("-", "")
    return f"Root=1-{int(time.time()):08x}-{digits[:24]};Parent={digits[16:]};Sampled=0"


def _not_started(request_id: str, problem: OSError) -> str:
    return (
        f"{request_id} an environment could not be started ({problem}): lower the concurrency, or "
        "raise what the system allows (ulimit -a)\n"
    )


def _marked(response: Response, request_id: str) -> Response:
    response.headers["x-amzn-RequestId"] = request_id
    return response
