"""What each answer of S3 means: passing, or for good; and then what to do.

Pure: it is told code, status and message, and returns words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# Of S3 and what stands in for it: the same request may succeed later.
# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
_PASSING_CODES: Final = frozenset(
    {
        "BadDigest",  # altered under way
        "ConditionalRequestConflict",
        "IncompleteBody",
        "InternalError",
        "KMS.ThrottlingException",
        "OperationAborted",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
        "XAmzContentSHA256Mismatch",  # altered under way
    }
)
_PASSING_STATUS: Final = frozenset({429, 500, 502, 503, 504})
_BUSY_CODES: Final = frozenset({
    "503", "ServiceUnavailable", "SlowDown", "Throttling", "ThrottlingException"
})  # fmt: skip
_NO_OBJECT: Final = frozenset({"NoSuchKey", "404", "NotFound"})
_DENIED: Final = frozenset({"AccessDenied", "AllAccessDisabled", "403", "Forbidden"})
_REGION: Final = frozenset(
    {
        "301",
        "AuthorizationHeaderMalformed",
        "IllegalLocationConstraintException",
        "PermanentRedirect",
        "TemporaryRedirect",
    }
)
_CREDENTIALS: Final = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidToken",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """The place that a store uses.

    Attributes:
        bucket: Its name.
        prefix: What all keys begin with there.
        region: As requests are signed for.
        partition: "aws", or one of the separate ones.
        kms_key: What objects are encrypted with, if it isn't S3's own key.
    """

    bucket: str
    prefix: str
    region: str
    partition: str = "aws"
    kms_key: str | None = None

    @property
    def arn(self) -> str:
        """Of the bucket."""
        return f"arn:{self.partition}:s3:::{self.bucket}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """What S3 answered instead of doing it.

    Attributes:
        code: Of the error.
        status: Of HTTP.
        message: S3's own words.
        region: Where the bucket is, if the answer tells.
    """

    code: str
    status: int = 0
    message: str = ""
    region: str | None = None

    @property
    def is_passing(self) -> bool:
        """Whether the same request may succeed later."""
        return self.code in _PASSING_CODES or self.status in _PASSING_STATUS

    def __str__(self) -> str:
        return f"{self.code}: {self.message}" if self.message else self.code


def explained(refusal: Refusal, where: Where) -> str:
    """What it means, and what to do."""
    code, bucket = refusal.code, where.bucket
    if code == "NoSuchBucket":
        return (
            f"there is no bucket {bucket}: check its name and the account, or make it with "
            f"`aws s3 mb s3://{bucket} --region {where.region}`"
        )
    if code.startswith("KMS.") or "kms:" in refusal.message.lower():
        key = where.kms_key or "that the bucket is set to"
        return (
            f"the KMS key {key} can't be used ({refusal}): allow kms:GenerateDataKey and "
            "kms:Decrypt on it, or pass another kms_key="
        )
    if code in _REGION:
        return _elsewhere(refusal, where)
    if code in _DENIED:
        return (
            f"your credentials lack a right ({refusal}): allow s3:GetObject, s3:PutObject, "
            f"s3:DeleteObject and s3:AbortMultipartUpload on {where.arn}/{where.prefix}*, and "
            f"s3:ListBucket on {where.arn} (without it, what is missing looks denied)"
        )
    if code in _NO_OBJECT:
        return "it is not there: it was deleted under way, or is of another run; put it again"
    if code in _CREDENTIALS:
        return (
            f"your AWS credentials were refused ({refusal}): renew them (`aws sso login`), or "
            "check AWS_PROFILE"
        )
    if code == "RequestTimeTooSkewed":
        return f"the clock of this machine is wrong ({refusal}): set it"
    return f"S3 refused with {refusal}"


def still_failing(last: Refusal | str, attempts: int) -> str:
    """After the last attempt: what to do when waiting didn't help."""
    if isinstance(last, Refusal) and last.code in _BUSY_CODES:
        return (
            f"S3 still refuses after {attempts} attempts ({last}): lower the store's "
            "concurrency=, use fewer and larger objects, or run it again later"
        )
    return (
        f"it failed {attempts} times, the last time with {last}: check the connection and the "
        "endpoint, then run it again"
    )


def _elsewhere(refusal: Refusal, where: Where) -> str:
    if refusal.region and refusal.region != where.region:
        return (
            f"the bucket {where.bucket} is in {refusal.region}, not in {where.region}: "
            f"pass region={refusal.region!r}, as in store=fanout.stores.S3Store("
            f"{where.bucket!r}, {where.prefix.strip('/')!r}, region={refusal.region!r})"
        )
    return (
        f"the bucket {where.bucket} is not in {where.region} ({refusal}): pass the region that "
        f"`aws s3api get-bucket-location --bucket {where.bucket}` names"
    )
