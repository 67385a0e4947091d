"""What the Invoke API answers: statuses, headers and bodies, in AWS's shapes. Pure.

The members are those of botocore's model of Lambda, 2015-03-31; the texts are AWS's, where one is
known.
"""

from __future__ import annotations

import json
import math
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import fanout.emulator.quotas as quotas
from fanout.emulator.function import VERSION
from fanout.emulator.http_messages import Response
from fanout.emulator.log import log_result

if TYPE_CHECKING:
    from fanout.emulator.ends import Answer
    from fanout.emulator.function import Function
    from fanout.emulator.limits import Limits

_JSON: Final = "application/json"
# In the model most errors have a member Message, these have a message.
_SMALL_MESSAGE: Final = {
    "InvalidParameterValueException",
    "InvalidRequestContentException",
    "RequestTooLargeException",
    "TooManyRequestsException",
    "UnsupportedMediaTypeException",
}


def error(status: int, code: str, message: str, **headers: str) -> Response:
    """An error; whose fault it is follows from the status."""
    who = "User" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "Service"
    member = "message" if code in _SMALL_MESSAGE else "Message"
    return _error(status, code, {"Type": who, member: message}, **headers)


def throttled(reason: str, retry_after_s: float) -> Response:
    """429; seconds are whole, as the header wants them."""
    body = {"Reason": reason, "Type": "User", "message": "Rate Exceeded."}
    seconds = math.ceil(min(retry_after_s, 3600))
    headers = {"Retry-After": str(seconds)} if seconds else {}
    return _error(HTTPStatus.TOO_MANY_REQUESTS, "TooManyRequestsException", body, **headers)


def service_exception() -> Response:
    """500."""
    message = "An error occurred and the request cannot be processed."
    return error(HTTPStatus.INTERNAL_SERVER_ERROR, "ServiceException", message)


def bad_gateway(code: str) -> Response:
    """502, one of many codes."""
    message = f"Lambda could not set up the function's environment: {code}."
    return error(HTTPStatus.BAD_GATEWAY, code, message)


def unavailable() -> Response:
    """503, which comes from in front of Lambda, and says little."""
    message = "Service is unavailable. Please try again later."
    return error(HTTPStatus.SERVICE_UNAVAILABLE, "ServiceUnavailableException", message)


def not_found(arn: str) -> Response:
    """There is no such function."""
    message = f"Function not found: {arn}"
    return error(HTTPStatus.NOT_FOUND, "ResourceNotFoundException", message)


def unknown_operation() -> Response:
    """Nothing of Lambda's API that is emulated."""
    message = "This operation is not emulated: see fanout.emulator.api for those that are."
    return error(HTTPStatus.NOT_FOUND, "UnknownOperationException", message)


def not_json(why: str) -> Response:
    """The payload can't be parsed."""
    message = f"Could not parse request body into json: {why}"
    return error(HTTPStatus.BAD_REQUEST, "InvalidRequestContentException", message)


def too_large(payload_bytes: int, *, is_event: bool) -> Response:
    """The payload exceeds the limit of its invocation type."""
    kind = "Event" if is_event else "RequestResponse"
    limit = quotas.EVENT_PAYLOAD_BYTES if is_event else quotas.SYNC_PAYLOAD_BYTES
    message = (
        f"{payload_bytes} byte payload is too large for the {kind} invocation type "
        f"(limit {limit} bytes)"
    )
    return error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "RequestTooLargeException", message)


def answered(answer: Answer, *, with_log: bool) -> Response:
    """What a synchronous invocation gave; status 200 even if the function failed."""
    headers = {"Content-Type": _JSON, "X-Amz-Executed-Version": VERSION}
    if answer.is_error:
        headers["X-Amz-Function-Error"] = "Unhandled"
    if with_log:
        headers["X-Amz-Log-Result"] = log_result(answer.log)
    return Response(HTTPStatus.OK, answer.body, headers)


def accepted() -> Response:
    """An invocation of type Event."""
    return Response(HTTPStatus.ACCEPTED, b"", {"X-Amz-Executed-Version": VERSION})


def dry_run() -> Response:
    """An invocation of type DryRun."""
    return Response(HTTPStatus.NO_CONTENT, b"", {"X-Amz-Executed-Version": VERSION})


def configuration(function: Function, last_modified: str) -> Response:
    """GetFunctionConfiguration."""
    return _json(
        {
            "FunctionName": function.name,
            "FunctionArn": function.arn,
            "Role": "arn:aws:iam::123456789012:role/fanout-emulator",
            "CodeSize": 0,
            "Description": "",
            "Timeout": math.ceil(function.timeout_s),
            "MemorySize": function.memory_mb,
            "LastModified": last_modified,
            "CodeSha256": function.code_sha256,
            "Version": VERSION,
            "Environment": {"Variables": dict(function.environment)},
            "TracingConfig": {"Mode": "PassThrough"},
            "RevisionId": "00000000-0000-0000-0000-000000000000",
            "State": "Active",
            "LastUpdateStatus": "Successful",
            "PackageType": "Image",
            "ImageConfigResponse": {"ImageConfig": {"Command": [function.handler]}},
            "Architectures": [function.architecture],
            "EphemeralStorage": {"Size": 512},
            "SnapStart": {"ApplyOn": "None", "OptimizationStatus": "Off"},
            "LoggingConfig": {"LogFormat": "Text", "LogGroup": f"/aws/lambda/{function.name}"},
        }
    )


def account_settings(limits: Limits) -> Response:
    """GetAccountSettings."""
    return _json(
        {
            "AccountLimit": {
                "TotalCodeSize": 80_530_636_800,
                "CodeSizeUnzipped": 262_144_000,
                "CodeSizeZipped": 52_428_800,
                "ConcurrentExecutions": limits.concurrency,
                "UnreservedConcurrentExecutions": limits.concurrency - (limits.reserved or 0),
            },
            "AccountUsage": {"TotalCodeSize": 0, "FunctionCount": 1},
        }
    )


def concurrency(limits: Limits) -> Response:
    """GetFunctionConcurrency; empty if nothing is reserved."""
    reserved = limits.reserved
    return _json({} if reserved is None else {"ReservedConcurrentExecutions": reserved})


def _error(status: int, code: str, body: dict[str, str], **headers: str) -> Response:
    response = _json(body, status)
    response.headers.update({"x-amzn-ErrorType": code, **headers})
    return response


def _json(body: dict[str, Any], status: int = HTTPStatus.OK) -> Response:
    return Response(status, json.dumps(body).encode(), {"Content-Type": _JSON})
