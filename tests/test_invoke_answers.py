"""What each answer of Lambda means: a test per row of the table, and per way of telling it."""

from __future__ import annotations

import json
import sys
from typing import Any

import botocore.session
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.errors import BackendError, KernelLoadError, ProtocolError
from fanout.invoke import answers
from fanout.invoke.answers import About, failure_of, is_expired
from fanout.retry import Failure, FailureKind, error_of

ABOUT = About(function="simulate", region="eu-central-1", memory_mb=1769, timeout_s=60.0)

THROTTLED = FailureKind.THROTTLED
LOST = FailureKind.MAYBE_RAN
REFUSED = FailureKind.REFUSED

CREDENTIALS = "check `aws sts get-caller-identity`"
CLOCK = "check that this machine's clock is right"
KMS = "check the key and the role's rights to it"
VPC = "check the function's VPC settings"
IMAGE = "build and deploy the function again"
EFS = "check the function's file system"
JSON = "it should be JSON: is something in between?"
ORDINARY = "use a function of the ordinary kind"
SNAP_START = "switch SnapStart off"

# Status, code, what may follow, hint; those that the service's model or its reference names.
ROWS = [
    (429, "TooManyRequestsException", THROTTLED, ""),
    (502, "EC2ThrottledException", THROTTLED, ""),
    (502, "EC2UnexpectedException", THROTTLED, ""),
    (502, "ENINotReadyException", THROTTLED, ""),
    (502, "ENILimitReachedException", THROTTLED, ""),
    (502, "SubnetIPAddressLimitReachedException", THROTTLED, ""),
    (502, "ResourceNotReadyException", THROTTLED, ""),
    (409, "ResourceConflictException", THROTTLED, ""),
    (409, "SnapStartNotReadyException", THROTTLED, ""),
    (408, "SnapStartTimeoutException", THROTTLED, ""),
    (409, "CodeArtifactUserPendingException", THROTTLED, ""),
    (408, "EFSMountTimeoutException", THROTTLED, ""),
    (408, "S3FilesMountTimeoutException", THROTTLED, ""),
    (400, "ThrottlingException", THROTTLED, ""),
    (400, "Throttling", THROTTLED, ""),
    (400, "ThrottledException", THROTTLED, ""),
    (400, "RequestThrottledException", THROTTLED, ""),
    (400, "RequestThrottled", THROTTLED, ""),
    (400, "RequestLimitExceeded", THROTTLED, ""),
    (503, "SlowDown", THROTTLED, ""),
    (500, "ServiceException", LOST, ""),
    (410, "EFSIOException", LOST, ""),
    (500, "InternalFailure", LOST, ""),
    (503, "ServiceUnavailable", LOST, ""),
    (503, "ServiceUnavailableException", LOST, ""),
    (400, "RequestAbortedException", LOST, ""),
    (400, "RequestTimeout", LOST, ""),
    (408, "RequestTimeoutException", LOST, ""),
    (404, "ResourceNotFoundException", REFUSED, "check its name and the region, or deploy it"),
    (403, "AccessDeniedException", REFUSED, "allow it lambda:InvokeFunction on this function"),
    (403, "AccessDenied", REFUSED, "allow it lambda:InvokeFunction on this function"),
    (400, "NotAuthorized", REFUSED, "allow it lambda:InvokeFunction on this function"),
    (403, "UnrecognizedClientException", REFUSED, CREDENTIALS),
    (403, "InvalidClientTokenId", REFUSED, CREDENTIALS),
    (403, "MissingAuthenticationTokenException", REFUSED, CREDENTIALS),
    (400, "IncompleteSignature", REFUSED, CREDENTIALS),
    (403, "InvalidSignatureException", REFUSED, CLOCK),
    (403, "SignatureDoesNotMatch", REFUSED, CLOCK),
    (400, "RequestExpired", REFUSED, CLOCK),
    (403, "RequestTimeTooSkewed", REFUSED, CLOCK),
    (403, "OptInRequired", REFUSED, "enable this region for your account"),
    (502, "EC2AccessDeniedException", REFUSED, VPC),
    (502, "InvalidSubnetIDException", REFUSED, VPC),
    (502, "InvalidSecurityGroupIDException", REFUSED, VPC),
    (502, "KMSAccessDeniedException", REFUSED, KMS),
    (502, "KMSDisabledException", REFUSED, KMS),
    (502, "KMSInvalidStateException", REFUSED, KMS),
    (502, "KMSNotFoundException", REFUSED, KMS),
    (502, "InvalidRuntimeException", REFUSED, IMAGE),
    (502, "InvalidZipFileException", REFUSED, IMAGE),
    (409, "CodeArtifactUserFailedException", REFUSED, IMAGE),
    (409, "CodeArtifactUserDeletedException", REFUSED, IMAGE),
    (409, "RuntimeAliasDeletedException", REFUSED, IMAGE),
    (409, "RuntimeVersionDeletedException", REFUSED, IMAGE),
    (400, "SnapStartException", REFUSED, SNAP_START),
    (409, "SnapStartRegenerationFailureException", REFUSED, SNAP_START),
    (403, "EFSMountFailureException", REFUSED, EFS),
    (408, "EFSMountConnectivityException", REFUSED, EFS),
    (408, "S3FilesMountConnectivityException", REFUSED, EFS),
    (403, "S3FilesMountFailureException", REFUSED, EFS),
    (400, "NoPublishedVersionException", REFUSED, "publish a version, or name none"),
    (400, "ModeNotSupportedException", REFUSED, ORDINARY),
    (409, "DurableExecutionAlreadyStartedException", REFUSED, ORDINARY),
    (400, "RecursiveInvocationException", REFUSED, "don't run fanout.Lambda inside its own"),
    (402, "ServiceQuotaExceededException", REFUSED, "ask AWS to raise the quota that it names"),
    (400, "InvalidParameterValueException", REFUSED, "check the name of the function"),
    (400, "InvalidRequestContentException", REFUSED, JSON),
    (415, "UnsupportedMediaTypeException", REFUSED, JSON),
]
TOO_LARGE = [
    "RequestTooLargeException",
    "RequestEntityTooLargeException",
    "SerializedRequestEntityTooLargeException",
]
EXPIRED = ["ExpiredTokenException", "ExpiredToken"]


def told(status: int, headers: dict[str, str], body: bytes) -> Failure:
    failure = failure_of(status, headers, body, ABOUT)
    assert failure is not None
    return failure


def function_error(body: bytes | dict[str, Any]) -> Failure:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return told(200, {"x-amz-function-error": "Unhandled"}, text)


def ends_with(failure: Failure) -> str:
    """What the user reads in the end."""
    return str(error_of(failure, index=3, attempts=3, timeout_s=None))


TAIL = ":http://internal.amazon.com/coral/com.amazonaws.awsgirapi/"


def ways(code: str) -> list[tuple[dict[str, str], dict[str, str]]]:
    """Headers and bodies that tell of an error with this code."""
    return [
        ({"x-amzn-errortype": code}, {"Type": "User", "message": "so it is"}),
        ({"x-amzn-errortype": f"{code}{TAIL}"}, {"Type": "User", "message": "so it is"}),
        ({"x-amzn-errortype": f"com.amazonaws.lambda#{code}"}, {"Message": "so it is"}),
        ({}, {"__type": code, "Message": "so it is"}),
        ({}, {"__type": f"com.amazonaws.lambda#{code}{TAIL}", "message": "so it is"}),
        ({}, {"code": code, "message": "so it is"}),
    ]


@pytest.mark.parametrize(("status", "code", "kind", "hint"), ROWS, ids=[row[1] for row in ROWS])
def test_every_code_says_what_may_follow(
    status: int, code: str, kind: FailureKind, hint: str
) -> None:
    for headers, body in ways(code):
        failure = told(status, headers, json.dumps(body).encode())
        assert failure.kind is kind
        assert failure.is_fatal == (kind is REFUSED)
        assert failure.wait_s is None
        assert "so it is" in failure.detail
        if kind is REFUSED:
            assert isinstance(failure.error, BackendError)
            assert hint
            assert hint in str(failure.error)
            assert "simulate" in str(failure.error)
        else:
            assert failure.error is None
            assert failure.detail == f"{code}: so it is"


def test_every_row_of_the_table_is_tested() -> None:
    tested = {code for _, code, _, _ in ROWS}
    assert set(answers._CODES) <= tested
    assert {*TOO_LARGE, "Function.ResponseSizeTooLarge"} == answers._TOO_LARGE
    assert set(EXPIRED) == answers._EXPIRED


def test_every_error_that_the_service_model_names_is_in_the_table() -> None:
    service = botocore.session.get_session().get_service_model("lambda")
    known = {*answers._CODES, *answers._TOO_LARGE, "ResourceNotFoundException"}
    shapes = service.operation_model("Invoke").error_shapes
    assert len(shapes) > 30
    for shape in shapes:
        assert shape.name in known
        status = shape.metadata["error"]["httpStatusCode"]
        row = [row for row in ROWS if row[1] == shape.name]
        assert not row or row[0][0] == status


@pytest.mark.parametrize(
    "reason",
    [
        "ConcurrentInvocationLimitExceeded",
        "ReservedFunctionConcurrentInvocationLimitExceeded",
        "FunctionInvocationRateLimitExceeded",
        "ReservedFunctionInvocationRateLimitExceeded",
        "CallerRateLimitExceeded",
        "ConcurrentSnapshotCreateLimitExceeded",
    ],
)
def test_a_throttle_tells_its_reason_and_when_to_come_again(reason: str) -> None:
    body = {"Reason": reason, "Type": "User", "message": "Rate Exceeded."}
    headers = {"x-amzn-errortype": "TooManyRequestsException", "retry-after": "7"}
    failure = told(429, headers, json.dumps(body).encode())
    assert failure == Failure(
        kind=THROTTLED, detail=f"TooManyRequestsException: {reason}", wait_s=7.0, reason=reason
    )


@pytest.mark.parametrize(
    ("text", "wait_s"),
    [
        ("1", 1.0),
        (" 0.5 ", 0.5),
        ("0", 0.0),
        ("86400", 60.0),
        ("999999999999999999999", None),
        ("-3", None),
        ("nan", None),
        ("inf", None),
        ("1e3", None),
        ("٣", None),
        ("", None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
    ],
)
def test_when_to_come_again_is_a_sane_number_or_unknown(text: str, wait_s: float | None) -> None:
    assert told(429, {"retry-after": text}, b"").wait_s == wait_s


@pytest.mark.parametrize("code", TOO_LARGE)
def test_a_request_too_large_is_its_own_tasks_affair(code: str) -> None:
    body = (
        b'{"message":"6312345 byte payload is too large for the RequestResponse invocation type"}'
    )
    failure = told(413, {"x-amzn-errortype": code}, body)
    assert failure.kind is REFUSED
    assert not failure.is_fatal
    assert "6312345 byte" in ends_with(failure)
    assert "make the chunk or its result smaller" in ends_with(failure)


def test_a_request_too_large_for_a_proxy_is_told_the_same() -> None:
    failure = told(413, {}, b"")
    assert (failure.kind, failure.is_fatal) == (REFUSED, False)
    assert ends_with(failure).startswith("task 3: too large for Lambda (limit 6 MB)")


@pytest.mark.parametrize("status", [400, 403])
@pytest.mark.parametrize("code", EXPIRED)
def test_expired_credentials_cost_nothing_and_are_asked_for_again(code: str, status: int) -> None:
    headers = {"x-amzn-errortype": code}
    body = b'{"message":"The security token included in the request is expired"}'
    failure = told(status, headers, body)
    assert failure.kind is FailureKind.DID_NOT_RUN
    assert not failure.is_fatal
    assert "is expired: log in again (`aws sso login`)" in ends_with(failure)
    assert is_expired(status, headers, body)


def test_other_answers_are_no_reason_to_ask_for_credentials_again() -> None:
    assert not is_expired(403, {"x-amzn-errortype": "AccessDeniedException"}, b"{}")
    assert not is_expired(403, {}, b"<html>")
    assert not is_expired(200, {"x-amzn-errortype": "ExpiredTokenException"}, b"")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (429, THROTTLED),
        (500, LOST),
        (502, LOST),
        (503, LOST),
        (504, LOST),
        (599, LOST),
        (408, LOST),
        (400, REFUSED),
        (401, REFUSED),
        (403, REFUSED),
        (404, REFUSED),
        (418, REFUSED),
        (202, REFUSED),
        (302, REFUSED),
    ],
)
@pytest.mark.parametrize("code", ["BrandNewException", ""])
def test_unknown_codes_are_judged_by_their_status(
    code: str, status: int, kind: FailureKind
) -> None:
    failure = told(status, {"x-amzn-errortype": code} if code else {}, b"")
    assert failure.kind is kind
    assert failure.is_fatal == (kind is REFUSED)
    assert (code or f"HTTP {status}") in failure.detail


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (502, b"<html><h1>502 Bad Gateway</h1></html>", LOST),
        (503, b"upstream connect error", LOST),
        (403, b"<html><h1>Access to this site is blocked</h1></html>", REFUSED),
        (302, b"<a href='http://login.hotel.test'>", REFUSED),
        (407, b"", REFUSED),
    ],
)
def test_an_answer_that_is_not_lambdas_says_so(status: int, body: bytes, kind: FailureKind) -> None:
    failure = told(status, {"content-type": "text/html"}, body)
    assert failure.kind is kind
    assert body.decode() in failure.detail
    if kind is REFUSED:
        assert "that isn't how Lambda answers: is a proxy in between?" in str(failure.error)


def test_an_answer_without_an_error_is_not_looked_into() -> None:
    assert failure_of(200, {"content-type": "application/json"}, b"garbage", ABOUT) is None


# ---- the function failed ----


@pytest.mark.parametrize(
    ("body", "allowed_s"),
    [
        (
            {
                "errorType": "Sandbox.Timedout",
                "errorMessage": "RequestId: 1-2 Error: Task timed out after 30.00 seconds",
            },
            30.0,
        ),
        ({"errorMessage": "2026-11-21T07:00:00.000Z 1-2 Task timed out after 3.01 seconds"}, 3.01),
        ({"errorType": "Sandbox.Timedout", "errorMessage": "RequestId: 1-2"}, 60.0),
        ({"errorType": "Sandbox.Timedout"}, 60.0),
        ({"errorMessage": "Task timed out after 900 seconds"}, 900.0),
        (b"2026-11-21T07:00:00Z 1-2 Task timed out after 4.00 seconds\n\n", 4.0),
        (
            {"errorType": "Sandbox.Timedout", "errorMessage": "Task timed out after 1.2.3 seconds"},
            60.0,
        ),
    ],
)
def test_the_functions_timeout_is_one(body: bytes | dict[str, str], allowed_s: float) -> None:
    failure = function_error(body)
    assert failure.kind is FailureKind.TIMED_OUT
    assert failure.allowed_s == allowed_s
    assert f"after {allowed_s:g} s" in ends_with(failure)
    assert "deploy it with a longer one" in ends_with(failure)


@pytest.mark.parametrize(
    "body",
    [
        {
            "errorType": "Runtime.ExitError",
            "errorMessage": "RequestId: 1-2 Error: Runtime exited with error: signal: killed",
        },
        {"errorMessage": "RequestId: 1-2 Error: Runtime exited with error: signal: killed"},
        {"errorMessage": "RequestId: 1-2 Error: Runtime exited with error: exit status 137"},
        {"errorType": "Runtime.OutOfMemory", "errorMessage": "RequestId: 1-2 Error: out of memory"},
        {"errorType": "MemoryError", "errorMessage": "", "stackTrace": ["  File …"]},
    ],
)
def test_memory_that_ran_out_is_told_with_how_much_there_was(body: dict[str, str]) -> None:
    failure = function_error(body)
    assert failure.kind is FailureKind.OUT_OF_MEMORY
    assert "was killed by Lambda with 1,769 MB" in ends_with(failure)
    assert "deploy the function with more memory" in ends_with(failure)


@pytest.mark.parametrize(
    ("kind", "message", "how"),
    [
        ("Runtime.ExitError", "Runtime exited with error: exit status 1", "ended (exit status 1)"),
        (
            "Runtime.ExitError",
            "RequestId: 1-2 Error: Runtime exited with error: signal: segmentation fault",
            "ended (signal: segmentation fault)",
        ),
        (
            "Runtime.ExitError",
            "RequestId: 1-2 Error: Runtime exited with error: signal: aborted (core dumped)",
            "ended (signal: aborted)",
        ),
        (
            "Runtime.ExitError",
            "RequestId: 1-2 Error: Runtime exited without providing a reason",
            "Runtime exited without providing a reason",
        ),
        ("", "Runtime exited with error: exit status 3", "ended (exit status 3)"),
        ("Extension.Crash", "RequestId: 1-2 Error: exit code 3", "ended (Extension.Crash: "),
        ("Runtime.Unknown", "RequestId: 1-2 Error: unknown", "failed (Runtime.Unknown: "),
        ("Sandbox.Failure", "A system failure", "failed (Sandbox.Failure: A system failure)"),
    ],
)
def test_an_environment_that_ended_crashed(kind: str, message: str, how: str) -> None:
    failure = function_error({"errorType": kind, "errorMessage": message})
    assert failure.kind is FailureKind.CRASHED
    assert not failure.is_fatal
    assert how in ends_with(failure)
    assert "run the kernel on this chunk alone" in ends_with(failure)


def test_a_result_too_large_is_its_own_tasks_affair() -> None:
    message = "Response payload size exceeded maximum allowed payload size (6291556 bytes)."
    failure = function_error(
        {"errorType": "Function.ResponseSizeTooLarge", "errorMessage": message}
    )
    assert (failure.kind, failure.is_fatal) == (REFUSED, False)
    assert "its result: too large for Lambda" in ends_with(failure)
    assert "6291556 bytes" in ends_with(failure)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("Runtime.ImportModuleError", "Unable to import module 'app': No module named 'app'"),
        ("Runtime.HandlerNotFound", "Handler 'handle' missing on module 'app'"),
        ("Runtime.MalformedHandlerName", "Bad handler 'handle': not enough values to unpack"),
        ("Runtime.UserCodeSyntaxError", "Syntax error in module 'app': invalid syntax"),
        ("Runtime.InvalidEntrypoint", "RequestId: 1-2 Error: fork/exec /lambda-entrypoint.sh"),
        ("Runtime.InvalidTaskConfig", "RequestId: 1-2 Error: invalid"),
        ("Runtime.InvalidWorkingDir", "RequestId: 1-2 Error: no such directory"),
    ],
)
def test_a_function_that_is_not_ours_ends_the_run(kind: str, message: str) -> None:
    failure = function_error({"errorType": kind, "errorMessage": message, "stackTrace": "x"})
    assert failure.is_fatal
    assert isinstance(failure.error, BackendError)
    assert message in str(failure.error)
    assert "deploy it again, with fanout.handler.handle as its handler" in str(failure.error)


def test_a_handler_of_another_version_ends_the_run() -> None:
    message = "this worker runs fanout 0.2.0, the client 0.3.0: deploy it again"
    failure = function_error({"errorType": "ProtocolError", "errorMessage": message})
    assert failure.is_fatal
    assert isinstance(failure.error, ProtocolError)
    assert str(failure.error) == message


@pytest.mark.parametrize(
    "body",
    [
        {"errorType": "KeyError", "errorMessage": "'x'", "requestId": "1-2", "stackTrace": []},
        {"errorType": None, "errorMessage": ["?"]},
        {},
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        b"<html>",
    ],
)
def test_a_handler_that_raises_is_not_ours(body: bytes | dict[str, Any]) -> None:
    failure = function_error(body)
    assert failure.is_fatal
    assert isinstance(failure.error, KernelLoadError)
    assert "is its handler fanout.handler.handle, of this version?" in str(failure.error)


# ---- whatever comes ----

DEEP = b"[" * (sys.getrecursionlimit() * 50)
HOSTILE = st.binary(max_size=300) | st.sampled_from(
    [DEEP, b'{"message":' + DEEP, b'{"a":' * 100_000, b'{"message": 1e400}', b"9" * 10_000]
)
JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["errorType", "errorMessage", "__type", "code", "message", "Message", "Reason"]
            )
            | st.text(max_size=5),
            inner,
            max_size=5,
        )
    ),
    max_leaves=10,
)


@given(
    status=st.integers(100, 999),
    body=HOSTILE
    | JSONISH.map(lambda value: json.dumps(value).encode())
    | st.from_regex(rb'\{"errorMessage": "Task timed out after [0-9.]{1,400} seconds"\}').filter(
        lambda body: len(body) < 1000
    ),
    headers=st.dictionaries(
        st.sampled_from(["x-amz-function-error", "x-amzn-errortype", "retry-after"]),
        st.text(max_size=40),
    ),
)
def test_no_answer_makes_it_raise(status: int, body: bytes, headers: dict[str, str]) -> None:
    failure = failure_of(status, headers, body, ABOUT)
    assert (failure is None) == (status == 200 and "x-amz-function-error" not in headers)
    is_expired(status, headers, body)
    if failure is not None:
        assert ends_with(failure)
        assert failure.wait_s is None or 0.0 <= failure.wait_s <= 60.0
        assert failure.is_fatal <= (failure.kind is REFUSED)
