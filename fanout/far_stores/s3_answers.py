"""What S3's errors mean, in words that say what to do. Pure.

Source: "Error responses", Amazon S3 API Reference.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fanout.errors import StoreError
from fanout.far_stores.checks import missing

if TYPE_CHECKING:
    from collections.abc import Mapping

# The right that a request needs, by its method.
_RIGHTS: Final = {"GET": "s3:GetObject", "PUT": "s3:PutObject", "DELETE": "s3:DeleteObject"}
_KMS_RIGHTS: Final = {"GET": "kms:Decrypt", "PUT": "kms:GenerateDataKey"}
# RequestTimeout: the body came too slowly. ConditionalRequestConflict: another writer of the same
# object is at work, and S3 says to try again.
_PASSING: Final = {
    "ConditionalRequestConflict",
    "InternalError",
    "OperationAborted",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
}
_PASSING_STATUSES: Final = {500, 502, 503, 504}
_EXPIRED: Final = {"ExpiredToken", "TokenRefreshRequired", "ExpiredTokenException"}
_WRONG_KEYS: Final = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidToken",
    "InvalidSecurity",
}
_SHOWN: Final = 500


class PassingError(Exception):
    """A request that failed for a reason that may pass: it can be sent again."""


class NoSuchRangeError(Exception):
    """An object that ends before the range begins.

    Attributes:
        nbytes: Its size.
    """

    def __init__(self, nbytes: int) -> None:
        super().__init__(nbytes)
        self.nbytes = nbytes


class ExchangedError(Exception):
    """An object that no longer is the one that is meant, by its ETag."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A part of a bucket.

    Attributes:
        bucket: Its name.
        prefix: What all keys in it begin with.
        region: Where the bucket is said to be.
    """

    bucket: str
    prefix: str
    region: str

    @property
    def arn(self) -> str:
        """As a policy names its objects."""
        return f"arn:{partition(self.region)}:s3:::{self.bucket}/{self.prefix}*"

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An answer that is not what was asked for.

    Attributes:
        status: Of HTTP.
        code: S3's name of the error, or nothing.
        message: S3's text.
        region: Where the bucket really is, if S3 says so.
        nbytes: The object's size, if S3 says so.
    """

    status: int
    code: str = ""
    message: str = ""
    region: str = ""
    nbytes: int | None = None

    def __str__(self) -> str:
        return f"{self.status} {self.code}: {self.message}".removesuffix(": ").rstrip()

    @property
    def may_pass(self) -> bool:
        """Whether the same request may succeed in a moment."""
        return self.status in _PASSING_STATUSES or self.code in _PASSING


def partition(region: str) -> str:
    """The part of AWS that a region belongs to."""
    if region.startswith("cn-"):
        return "aws-cn"
    return "aws-us-gov" if region.startswith("us-gov-") else "aws"


def refusal(status: int, headers: Mapping[str, str], body: bytes) -> Refusal:
    """An answer, read."""
    text = body.decode("utf-8", errors="replace")
    size = _element(text, "ActualObjectSize") or headers.get("Content-Range", "").rpartition("/")[2]
    return Refusal(
        status=status,
        code=_element(text, "Code"),
        message=_element(text, "Message")[:_SHOWN],
        region=headers.get("x-amz-bucket-region", "") or _element(text, "Region"),
        nbytes=int(size) if size.isdecimal() else None,
    )


def error_of(refused: Refusal, method: str, key: str, place: Place) -> StoreError:
    """The error that tells of a refusal.

    Args:
        refused: What S3 answered.
        method: Of the request.
        key: Of the object, without the prefix.
        place: Where it was looked for.
    """
    if refused.code == "NoSuchBucket":
        return StoreError(
            f"there is no bucket {place.bucket}: create it in {place.region}, or name another "
            "bucket for the store"
        )
    if refused.code == "NoSuchKey" or refused.status == 404:
        return missing(f"object {key}", str(place))
    said = f"S3 refused {method} of {key} in {place} ({refused})"
    return StoreError(f"{said}: {_remedy(refused, method, key, place)}")


def _remedy(refused: Refusal, method: str, key: str, place: Place) -> str:
    if refused.code in _EXPIRED:
        return "the credentials have expired: renew them (on Lambda they last as long as it does)"
    if refused.code in _WRONG_KEYS:
        return (
            "the credentials are wrong: see to AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and "
            "AWS_SESSION_TOKEN, which belong together"
        )
    if refused.code == "XAmzContentSHA256Mismatch":
        return "the bytes changed while they were sent: leave them alone until the call returns"
    if refused.code == "RequestTimeTooSkewed":
        return "this machine's clock is wrong: set it"
    if "kms" in f"{refused.code} {refused.message}".lower():
        right = _KMS_RIGHTS.get(method, "kms:Decrypt")
        return f"give the worker's role {right} on the KMS key, and see that the key is enabled"
    if refused.region and refused.region != place.region:
        return (
            f"the bucket {place.bucket} is in {refused.region}, not in {place.region}: name "
            f"{refused.region} as the store's region, as in store=fanout.stores.S3Store("
            f"{place.bucket!r}, {place.prefix.strip('/')!r}, region={refused.region!r})"
        )
    if refused.status == 403:
        right = _RIGHTS.get(method, "s3:GetObject")
        remedy = f"give the worker's role {right} on {place.arn}"
        if method != "GET":
            return remedy
        return f"{remedy}; where it has that but not s3:ListBucket, {key} is not in the store"
    if refused.status in {301, 307, 400}:
        return f"see whether the bucket {place.bucket} is in {place.region}"
    return "see to the bucket's settings"


def _element(text: str, name: str) -> str:
    found = re.search(f"<{name}>([^<]*)</{name}>", text)
    if found is None:
        return ""
    plain = found[1].strip()
    for entity, character in (("lt", "<"), ("gt", ">"), ("quot", '"'), ("apos", "'"), ("amp", "&")):
        plain = plain.replace(f"&{entity};", character)
    return plain
