"""AWS Signature Version 4 as S3 wants it. Pure.

S3 differs from the other services in that the path is signed as it is sent, quoted once, and in
that the body's digest is a header. That the signature is the one which botocore makes is tested
over random requests.

Source: "Authenticating Requests (AWS Signature Version 4)", Amazon S3 API Reference.
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


def quoted(key: str) -> str:
    """A key as it stands in a path."""
    return quote(key, safe="/~")


def signed(
    *,
    method: str,
    path: str,
    headers: Mapping[str, str],
    body_digest: str,
    credentials: Credentials,
    region: str,
    now_s: float,
) -> dict[str, str]:
    """All headers of a request: those given, which have the host, and those that sign it.

    Args:
        method: Of the request line.
        path: Of the request line, quoted, without a query.
        headers: What to send and to sign.
        body_digest: sha256 of the body, hexadecimal.
        credentials: Whose request it is.
        region: Where the bucket is.
        now_s: Unix time.
    """
    scope = scope_of(now_s, region, "s3")
    sent = dated({**headers, "X-Amz-Content-SHA256": body_digest}, scope, credentials)
    lines, names = folded(sent)
    canonical = f"{method}\n{path}\n\n{lines}\n{names}\n{body_digest}"
    to_sign = scope.to_sign(hashlib.sha256(canonical.encode()).hexdigest())
    signature = hmac.digest(scope.key(credentials), to_sign, "sha256").hex()
    sent["Authorization"] = scope.authorization(credentials, names, signature)
    return sent
