"""AWS Signature Version 4 for one kind of request, with all that is constant prepared.

Of two requests to the same function only the body, the moment and the signature differ. So the key,
the credential scope and the constant headers are made once a second, and a signature costs three
hashes. That it is the signature which botocore makes is tested over random requests. Pure: the
moment is an argument.

Source: "Create a signed AWS API request", IAM User Guide.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING
from urllib.parse import quote

from fanout.sigv4 import dated, folded, scope_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fanout.sigv4 import Credentials


class Signer:
    """Signs POST requests to one URL.

    Args:
        host: Value of the Host header.
        path: Path of the request line, quoted.
        query: Query of the request line, quoted; without the question mark.
        headers: Constant headers to send and to sign.
        unsigned: Constant headers to send without.
        origin: What the request line has before the path, for a proxy that forwards.
        region: Of the credential scope.
        service: Of the credential scope.
    """

    def __init__(
        self,
        *,
        host: str,
        path: str,
        query: str = "",
        headers: Mapping[str, str] | None = None,
        unsigned: Mapping[str, str] | None = None,
        origin: str = "",
        region: str,
        service: str = "lambda",
    ) -> None:
        self._region = region
        self._service = service
        self._headers = {"Host": host, **(headers or {})}
        # What is quoted already is quoted again: Lambda is no exception to that rule, as S3 is.
        canonical_path = quote(path, safe="/~")
        self._begin = f"POST\n{canonical_path}\n{_canonical_query(query)}\n"
        self._unsigned = _lines(unsigned or {})
        target = f"{origin}{path}?{query}" if query else f"{origin}{path}"
        self._request_line = f"POST {target} HTTP/1.1\r\n"
        self._second = -1
        self._credentials: Credentials | None = None

    def head(
        self, body_digest: str, body_bytes: int, credentials: Credentials, now_s: int
    ) -> bytes:
        """The head of a request: its line and its headers, signed.

        Args:
            body_digest: sha256 of the body, hexadecimal.
            body_bytes: Length of the body.
            credentials: Whose request it is.
            now_s: Unix time, whole seconds.
        """
        if now_s != self._second or credentials is not self._credentials:
            self._prepare(credentials, now_s)
        request = self._canonical.copy()
        request.update(body_digest.encode("ascii"))
        to_sign = self._to_sign + request.hexdigest().encode("ascii")
        signature = hmac.digest(self._key, to_sign, "sha256").hex()
        return f"{self._head}{signature}\r\nContent-Length: {body_bytes}\r\n\r\n".encode("ascii")

    def _prepare(self, credentials: Credentials, now_s: int) -> None:
        scope = scope_of(now_s, self._region, self._service)
        headers = dated(self._headers, scope, credentials)
        lines, names = folded(headers)
        self._canonical = hashlib.sha256(f"{self._begin}{lines}\n{names}\n".encode())
        self._to_sign = scope.to_sign("")
        self._key = scope.key(credentials)
        authorization = scope.authorization(credentials, names, "")
        self._head = (
            f"{self._request_line}{_lines(headers)}{self._unsigned}Authorization: {authorization}"
        )
        self._second = now_s
        self._credentials = credentials


def _lines(headers: Mapping[str, str]) -> str:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items())


def _canonical_query(query: str) -> str:
    pairs = [part.partition("=")[::2] for part in query.split("&")] if query else []
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))
