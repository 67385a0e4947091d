"""Signature Version 4 of a request, verified: the independent half of what a client signs with.

Written from "Create a signed AWS API request", IAM User Guide, 2026-10, not from a signer's code.
Pure: the time is an argument. A request is refused as AWS refuses it, by code and message.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import fanout.emulator.quotas as quotas

if TYPE_CHECKING:
    from fanout.emulator.http_messages import Request

_ALGORITHM: Final = "AWS4-HMAC-SHA256"
_SERVICE: Final = "lambda"
_FORMAT: Final = "%Y%m%dT%H%M%SZ"


class SignatureError(Exception):
    """A request that is not signed as it must be.

    Attributes:
        code: The name of the API's error.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class _Authorization:
    """What the header Authorization says."""

    access_key: str
    scope: tuple[str, ...]  # date, region, service, "aws4_request"
    signed: tuple[str, ...]
    signature: str


class Verifier:
    """Verifies requests that are signed with one pair of keys for one region."""

    def __init__(self, access_key: str, secret_key: str, region: str) -> None:
        self._access_key = access_key
        self._secret_key = secret_key
        self._region = region
        self._key_date = ""
        self._key = b""

    def verify(self, request: Request, now_s: float) -> None:
        """Return if the request is signed as it must be; `now_s` is Unix time.

        Raises:
            SignatureError: It is not.
        """
        header = request.headers.get("authorization")
        if not header:
            raise SignatureError("MissingAuthenticationTokenException", _MISSING)
        authorization = _parsed(header)
        date = request.headers.get("x-amz-date", "")
        self._check_scope(authorization, date)
        _check_date(date, now_s)
        expected = self._signature(request, authorization, date)
        if not hmac.compare_digest(expected, authorization.signature.encode("latin-1")):
            raise SignatureError("InvalidSignatureException", _WRONG)

    def _check_scope(self, authorization: _Authorization, date: str) -> None:
        day, region, service, end = authorization.scope
        code = "InvalidSignatureException"
        if not hmac.compare_digest(
            authorization.access_key.encode("latin-1"), self._access_key.encode("latin-1")
        ):
            raise SignatureError("UnrecognizedClientException", _UNKNOWN)
        if region != self._region:
            message = f"Credential should be scoped to a valid region, not '{region}'. "
            raise SignatureError(code, message)
        if service != _SERVICE or end != "aws4_request":
            raise SignatureError(code, "Credential should be scoped to correct service: 'lambda'. ")
        if day != date[:8]:
            message = (
                "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date "
                f"from HTTP: '{day}' != '{date[:8]}', from '{date}'."
            )
            raise SignatureError(code, message)
        if "host" not in authorization.signed or "x-amz-date" not in authorization.signed:
            message = "'Host' and 'X-Amz-Date' must be 'SignedHeaders' in the AWS Authorization."
            raise SignatureError(code, message)

    def _signature(self, request: Request, authorization: _Authorization, date: str) -> bytes:
        headers = request.headers
        path, _, query = request.target.partition("?")
        signed = authorization.signed
        lines = [f"{name}:{' '.join(headers.get(name, '').split())}" for name in signed]
        canonical = "\n".join(
            (
                request.method,
                _canonical_path(path),
                _canonical_query(query) if query else "",
                *lines,
                "",
                ";".join(signed),
                hashlib.sha256(request.body).hexdigest(),
            )
        )
        digest = hashlib.sha256(canonical.encode("latin-1")).hexdigest()
        text = f"{_ALGORITHM}\n{date}\n{'/'.join(authorization.scope)}\n{digest}"
        key = self._signing_key(authorization.scope[0])
        return hmac.digest(key, text.encode("latin-1"), "sha256").hex().encode("ascii")

    def _signing_key(self, day: str) -> bytes:
        """Depends on the day only, so it is kept."""
        if day != self._key_date:
            key = f"AWS4{self._secret_key}".encode("ascii")
            for part in (day, self._region, _SERVICE, "aws4_request"):
                key = hmac.digest(key, part.encode("latin-1"), "sha256")
            self._key_date, self._key = day, key
        return self._key


def _parsed(header: str) -> _Authorization:
    algorithm, _, rest = header.partition(" ")
    if algorithm != _ALGORITHM:
        message = f"Unsupported AWS 'algorithm': '{algorithm}'. "
        raise SignatureError("IncompleteSignatureException", message)
    parts = dict(part.strip().partition("=")[::2] for part in rest.split(","))
    missing = [name for name in ("Credential", "SignedHeaders", "Signature") if not parts.get(name)]
    if missing:
        message = f"Authorization header requires '{missing[0]}' parameter. "
        raise SignatureError("IncompleteSignatureException", message)
    access_key, *scope = parts["Credential"].split("/")
    if len(scope) != 4:
        message = "Credential must have exactly 5 slash-delimited elements. "
        raise SignatureError("IncompleteSignatureException", message)
    signed = tuple(parts["SignedHeaders"].split(";"))
    return _Authorization(access_key, tuple(scope), signed, parts["Signature"])


def _check_date(date: str, now_s: float) -> None:
    try:
        at_s = _unix(date)
    except ValueError:
        message = "Date must be in ISO-8601 'basic format'. "
        raise SignatureError("IncompleteSignatureException", message) from None
    if abs(now_s - at_s) > quotas.CLOCK_SKEW_S:
        now = datetime.fromtimestamp(now_s, UTC).strftime(_FORMAT)
        how = "expired" if at_s < now_s else "not yet current"
        than = "earlier" if at_s < now_s else "later"
        message = f"Signature {how}: {date} is now {than} than {now} by more than 5 min."
        raise SignatureError("InvalidSignatureException", message)


# A client's requests bear few different dates, and its functions few different paths.
@functools.lru_cache(maxsize=64)
def _unix(date: str) -> float:
    return datetime.strptime(date, _FORMAT).replace(tzinfo=UTC).timestamp()


@functools.lru_cache(maxsize=64)
def _canonical_path(path: str) -> str:
    """The path as it was sent, quoted once more: for every service but S3."""
    return quote(path, safe="/-_.~")


def _canonical_query(query: str) -> str:
    pairs = (pair.partition("=") for pair in query.split("&") if pair)
    return "&".join(f"{name}={value}" for name, _, value in sorted(pairs))


_MISSING: Final = "Missing Authentication Token"
_UNKNOWN: Final = "The security token included in the request is invalid."
_WRONG: Final = (
    "The request signature we calculated does not match the signature you provided. Check your AWS "
    "Secret Access Key and signing method. Consult the service documentation for details."
)
