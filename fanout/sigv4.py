"""What every signature of AWS Signature Version 4 is made of. Pure; standard library only.

Lambda's requests and S3's are put together differently (`invoke.signing`, `far_stores.s3_signing`);
who signs, how headers are folded and how the key is derived is the same.

Source: "Create a signed AWS API request", IAM User Guide.
"""

from __future__ import annotations

import datetime as dt
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

ALGORITHM: Final = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """An access key; not shown by repr."""

    access_key: str
    secret_key: str
    token: str | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Scope:
    """What a signature is good for: a moment, a region, a service."""

    moment: str
    name: str

    def to_sign(self, digest: str) -> bytes:
        """The string to sign for a canonical request of this sha256."""
        return f"{ALGORITHM}\n{self.moment}\n{self.name}\n{digest}".encode()

    def key(self, credentials: Credentials) -> bytes:
        """The key to sign it with."""
        key = f"AWS4{credentials.secret_key}".encode()
        for part in self.name.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        return key

    def authorization(self, credentials: Credentials, names: str, signature: str) -> str:
        """The header that tells of it."""
        return (
            f"{ALGORITHM} Credential={credentials.access_key}/{self.name}, "
            f"SignedHeaders={names}, Signature={signature}"
        )


def scope_of(now_s: float, region: str, service: str) -> Scope:
    """The scope of a request that is made at this Unix time."""
    moment = dt.datetime.fromtimestamp(now_s, dt.UTC).strftime("%Y%m%dT%H%M%SZ")
    return Scope(moment, f"{moment[:8]}/{region}/{service}/aws4_request")


def dated(headers: Mapping[str, str], scope: Scope, credentials: Credentials) -> dict[str, str]:
    """The headers with those that every signed request has."""
    sent = {**headers, "X-Amz-Date": scope.moment}
    if credentials.token:
        sent["X-Amz-Security-Token"] = credentials.token
    return sent


def folded(headers: Mapping[str, str]) -> tuple[str, str]:
    """Headers as they stand in a canonical request, and their names."""
    lower = {name.lower(): " ".join(value.split()) for name, value in headers.items()}
    names = sorted(lower)
    return "".join(f"{name}:{lower[name]}\n" for name in names), ";".join(names)
