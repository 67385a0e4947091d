"""What each answer of Lambda means: the one table from codes to `FailureKind`.

Pure. An answer that carries what the handler returned has no failure; every other is told apart by
what may follow: the same again at once, later, perhaps, or never.

Sources: Lambda API reference, "Invoke", errors; botocore's service model (2026-11); for bodies of
function errors, awslambdaric 4.2 and the runtime's own messages.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fanout.budget import FREE_DISK_MB
from fanout.errors import BackendError, KernelLoadError, ProtocolError
from fanout.retry import Failure, FailureKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fanout.budget import Architecture


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """The function, as messages name it, and what its price depends on."""

    function: str
    region: str = ""
    memory_mb: int = 0
    timeout_s: float = 0.0
    arch: Architecture = "x86_64"
    disk_mb: int = FREE_DISK_MB


_AGAIN: Final = FailureKind.THROTTLED
_LOST: Final = FailureKind.MAYBE_RAN
_NEVER: Final = FailureKind.REFUSED

_LOGIN: Final = "log in again (`aws sso login`), or set new ones"
_CREDENTIALS: Final = "check `aws sts get-caller-identity`"
_CLOCK: Final = "check that this machine's clock is right"
_KMS: Final = "the function's KMS key can't be used: check the key and the role's rights to it"
_VPC: Final = "check the function's VPC settings; fanout needs none"
_IMAGE: Final = "build and deploy the function again"
_EFS: Final = "check the function's file system, or remove it; fanout needs none"

# By error code: what may follow, and for those that never pass: what to do.
_CODES: Final[Mapping[str, tuple[FailureKind, str]]] = {
    # 429, and what passes by itself: it did not run.
    "TooManyRequestsException": (_AGAIN, ""),
    "EC2ThrottledException": (_AGAIN, ""),
    "EC2UnexpectedException": (_AGAIN, ""),
    "ENINotReadyException": (_AGAIN, ""),
    "ENILimitReachedException": (_AGAIN, ""),
    "SubnetIPAddressLimitReachedException": (_AGAIN, ""),
    "ResourceNotReadyException": (_AGAIN, ""),
    "ResourceConflictException": (_AGAIN, ""),
    "SnapStartNotReadyException": (_AGAIN, ""),
    "SnapStartTimeoutException": (_AGAIN, ""),
    "CodeArtifactUserPendingException": (_AGAIN, ""),
    "EFSMountTimeoutException": (_AGAIN, ""),
    "S3FilesMountTimeoutException": (_AGAIN, ""),
    "ThrottlingException": (_AGAIN, ""),
    "ThrottledException": (_AGAIN, ""),
    "RequestThrottledException": (_AGAIN, ""),
    "RequestLimitExceeded": (_AGAIN, ""),
    "SlowDown": (_AGAIN, ""),
    # It may have run.
    "ServiceException": (_LOST, ""),
    "EFSIOException": (_LOST, ""),
    "InternalFailure": (_LOST, ""),
    "ServiceUnavailable": (_LOST, ""),
    "ServiceUnavailableException": (_LOST, ""),
    "RequestAbortedException": (_LOST, ""),
    "RequestTimeout": (_LOST, ""),
    "RequestTimeoutException": (_LOST, ""),
    # It will never run so.
    "AccessDeniedException": (_NEVER, "allow it lambda:InvokeFunction on this function"),
    "NotAuthorized": (_NEVER, "allow it lambda:InvokeFunction on this function"),
    "UnrecognizedClientException": (_NEVER, _CREDENTIALS),
    "InvalidClientTokenId": (_NEVER, _CREDENTIALS),
    "MissingAuthenticationTokenException": (_NEVER, _CREDENTIALS),
    "IncompleteSignature": (_NEVER, _CREDENTIALS),
    "InvalidSignatureException": (_NEVER, f"{_CREDENTIALS}, and {_CLOCK}"),
    "SignatureDoesNotMatch": (_NEVER, f"{_CREDENTIALS}, and {_CLOCK}"),
    "RequestExpired": (_NEVER, _CLOCK),
    "RequestTimeTooSkewed": (_NEVER, _CLOCK),
    "OptInRequired": (_NEVER, "enable this region for your account"),
    "EC2AccessDeniedException": (_NEVER, _VPC),
    "InvalidSubnetIDException": (_NEVER, _VPC),
    "InvalidSecurityGroupIDException": (_NEVER, _VPC),
    "KMSAccessDeniedException": (_NEVER, _KMS),
    "KMSDisabledException": (_NEVER, _KMS),
    "KMSInvalidStateException": (_NEVER, _KMS),
    "KMSNotFoundException": (_NEVER, _KMS),
    "InvalidRuntimeException": (_NEVER, _IMAGE),
    "InvalidZipFileException": (_NEVER, _IMAGE),
    "CodeArtifactUserFailedException": (_NEVER, _IMAGE),
    "CodeArtifactUserDeletedException": (_NEVER, _IMAGE),
    "RuntimeAliasDeletedException": (_NEVER, _IMAGE),
    "RuntimeVersionDeletedException": (_NEVER, _IMAGE),
    "SnapStartException": (_NEVER, "switch SnapStart off for this function"),
    "SnapStartRegenerationFailureException": (_NEVER, "switch SnapStart off for this function"),
    "EFSMountFailureException": (_NEVER, _EFS),
    "EFSMountConnectivityException": (_NEVER, _EFS),
    "S3FilesMountConnectivityException": (_NEVER, _EFS),
    "S3FilesMountFailureException": (_NEVER, _EFS),
    "NoPublishedVersionException": (_NEVER, "publish a version, or name none"),
    "ModeNotSupportedException": (_NEVER, "use a function of the ordinary kind"),
    "DurableExecutionAlreadyStartedException": (_NEVER, "use a function of the ordinary kind"),
    "RecursiveInvocationException": (_NEVER, "don't run fanout.Lambda inside its own function"),
    "ServiceQuotaExceededException": (_NEVER, "ask AWS to raise the quota that it names"),
    "InvalidParameterValueException": (_NEVER, "check the name of the function"),
    "InvalidRequestContentException": (_NEVER, "it should be JSON: is something in between?"),
    "UnsupportedMediaTypeException": (_NEVER, "it should be JSON: is something in between?"),
}
# Names that appear with and without this at their end, depending on who tells.
_SUFFIX: Final = "Exception"
_TOO_LARGE: Final = frozenset(
    {
        "RequestTooLargeException",
        "RequestEntityTooLargeException",
        "SerializedRequestEntityTooLargeException",
        "Function.ResponseSizeTooLarge",
    }
)
_EXPIRED: Final = frozenset({"ExpiredTokenException", "ExpiredToken"})
_OUT_OF_MEMORY: Final = frozenset({"Runtime.OutOfMemory", "MemoryError"})
_NOT_OUR_IMAGE: Final = frozenset(
    {
        "Runtime.ImportModuleError",
        "Runtime.HandlerNotFound",
        "Runtime.MalformedHandlerName",
        "Runtime.UserCodeSyntaxError",
        "Runtime.InvalidEntrypoint",
        "Runtime.InvalidTaskConfig",
        "Runtime.InvalidWorkingDir",
    }
)
_TIMED_OUT: Final = re.compile(r"Task timed out after ([0-9]{1,6}(?:\.[0-9]{1,6})?) seconds")
_SECONDS: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
# 137 is a shell's word for SIGKILL, where one stands between.
_KILLED: Final = re.compile(r"signal: killed|exit status 137\b")
_EXITED: Final = re.compile(r"Runtime exited with error: ([\w :]+)")


def is_expired(status: int, headers: Mapping[str, str], body: bytes) -> bool:
    """Whether the credentials are refused for their age, so that new ones will do."""
    return status in {400, 403} and _code(headers, body)[0] in _EXPIRED


def failure_of(
    status: int, headers: Mapping[str, str], body: bytes, about: About
) -> Failure | None:
    """What an answer means; None if it is what the handler returned.

    Args:
        status: HTTP status.
        headers: Their names in lower case.
        body: The body; looked at only if it tells of an error.
        about: For messages.
    """
    if status == 200:
        if "x-amz-function-error" not in headers:
            return None
        return _function_error(body, about)
    code, message, reason = _code(headers, body)
    what = ": ".join(part for part in (code or f"HTTP {status}", reason or message) if part)
    if code in _EXPIRED:
        return Failure(kind=FailureKind.DID_NOT_RUN, detail=f"{what}: {_LOGIN}", reason=code)
    if code in _TOO_LARGE or (status == 413 and not code):
        return Failure(kind=_NEVER, detail=_too_large(message))
    if code == "ResourceNotFoundException":
        return _fatal(
            f"there is no function {about.function} in {about.region} ({message}): check its name "
            "and the region, or deploy it"
        )
    kind, remedy = _CODES.get(code) or _CODES.get(f"{code}{_SUFFIX}") or _by_status(status, code)
    if kind is _NEVER:
        told = f"Lambda refuses to run {about.function}: {what}{_then(remedy)}"
        return _fatal(told, reason=code or None)
    if kind is _AGAIN:
        return Failure(kind=kind, detail=what, wait_s=_wait_s(headers), reason=reason or None)
    return Failure(kind=kind, detail=what)


def _function_error(body: bytes, about: About) -> Failure:
    """HTTP 200, but the function failed: the handler raised, or the environment ended."""
    told = _told(body)
    kind, message = _text(told, "errorType"), _text(told, "errorMessage")
    if told is None:
        message = body[:1000].decode("utf-8", "replace").strip()
    if (late := _TIMED_OUT.search(message)) or kind == "Sandbox.Timedout":
        allowed_s = float(late.group(1)) if late else about.timeout_s
        return Failure(kind=FailureKind.TIMED_OUT, detail=message, allowed_s=allowed_s)
    exited = _EXITED.search(message)
    if kind in _OUT_OF_MEMORY or (exited and _KILLED.search(exited.group(1))):
        how = f"was killed by Lambda with {about.memory_mb:,} MB"
        return Failure(kind=FailureKind.OUT_OF_MEMORY, detail=how)
    if kind in _TOO_LARGE:
        return Failure(kind=_NEVER, detail=f"its result: {_too_large(message)}")
    if kind in _NOT_OUR_IMAGE:
        return _fatal(
            f"{about.function} is no function of fanout, or its image is broken ({kind}: "
            f"{message}): deploy it again, with fanout.handler.handle as its handler"
        )
    if kind == ProtocolError.__name__:
        return _fatal(message, ProtocolError(message))
    if exited or kind.startswith(("Runtime.Exit", "Extension.", "Runtime.NodeJsExit")):
        how = f"ended ({exited.group(1).strip()})" if exited else f"ended ({kind}: {message})"
        return Failure(kind=FailureKind.CRASHED, detail=how)
    if kind.startswith(("Runtime.", "Sandbox.")):
        return Failure(kind=FailureKind.CRASHED, detail=f"failed ({kind}: {message})")
    text = f"{about.function} didn't answer as fanout's handler does ({kind}: {message})"
    hint = "is its handler fanout.handler.handle, of this version?"
    return _fatal(f"{text}: {hint}", KernelLoadError(f"{text}: {hint}"))


def _by_status(status: int, code: str) -> tuple[FailureKind, str]:
    """For codes that AWS has added since, and for answers that aren't Lambda's."""
    if status == 429:
        return _AGAIN, ""
    if status >= 500 or status == 408:
        return _LOST, ""
    return _NEVER, "" if code else "that isn't how Lambda answers: is a proxy in between?"


def _code(headers: Mapping[str, str], body: bytes) -> tuple[str, str, str]:
    """Code, message and reason of an error, where they are told."""
    told = _told(body)
    code = headers.get("x-amzn-errortype") or _text(told, "__type", "code")
    # As in "com.amazonaws.lambda#ServiceException:http://internal.amazon.com/coral/…"
    code = code.partition(":")[0].rpartition("#")[2].strip()
    if told is None:
        return code, body[:1000].decode("utf-8", "replace").strip(), ""
    return code, _text(told, "message", "Message"), _text(told, "Reason")


def _told(body: bytes) -> dict[str, object] | None:
    """What a body of JSON says; None if it isn't that."""
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) else None


def _text(told: dict[str, object] | None, *names: str) -> str:
    """The first of these that there is."""
    values = [(told or {}).get(name) for name in names]
    return next((value for value in values if isinstance(value, str) and value), "")


def _wait_s(headers: Mapping[str, str]) -> float | None:
    told = headers.get("retry-after", "").strip()
    # A date is allowed by HTTP, and not used by AWS.
    return min(float(told), 60.0) if _SECONDS.fullmatch(told) else None


def _too_large(message: str) -> str:
    return f"too large for Lambda ({message or 'limit 6 MB'}): make the chunk or its result smaller"


def _then(remedy: str) -> str:
    return f": {remedy}" if remedy else ""


def _fatal(message: str, error: Exception | None = None, *, reason: str | None = None) -> Failure:
    error = error or BackendError(message)
    return Failure(kind=_NEVER, detail=message, error=error, is_fatal=True, reason=reason)
