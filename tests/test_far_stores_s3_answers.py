"""What S3 refuses to the far end, told with the remedy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fanout.errors import StoreError
from fanout.far_stores.s3_answers import Place
from tests.far_stores_checks import Fake, answer, serving, settle, store_of, use, xml

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fanout.far_stores.s3 import S3Store


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch) -> None:
    settle(monkeypatch)


@pytest.fixture
def fake() -> Iterator[Fake]:
    with serving() as served:
        yield served


@pytest.fixture
def slept() -> list[float]:
    return []


@pytest.fixture
def s3(fake: Fake, slept: list[float]) -> Iterator[S3Store]:
    with store_of(fake, slept) as store:
        yield store


ANSWERS = {
    "no object": (xml(404, "NoSuchKey"), r"object a is not in the store \(deleted under way"),
    "no bucket": (xml(404, "NoSuchBucket"), "there is no bucket bucket: create it in eu-central-1"),
    "denied": (
        xml(403, "AccessDenied", "User x isn&apos;t allowed &amp; so on"),
        r"x isn't allowed & so on.*s3:{right} on arn:aws:s3:::bucket/pre/\*",
    ),
    "denied, in silence": (answer(403), r"s3:{right} on arn:aws:s3:::bucket/pre/\*"),
    "denied by KMS": (
        xml(403, "AccessDenied", "User x is not authorized to perform: kms:Decrypt on y"),
        "{kms_right} on the KMS key",
    ),
    "a KMS key that is off": (xml(400, "KMS.DisabledException"), "see that the key is enabled"),
    "moved": (
        xml(301, "PermanentRedirect", region="us-west-2"),
        "is in us-west-2, not in eu-central-1: name us-west-2 as the store's region",
    ),
    "malformed": (
        xml(400, "AuthorizationHeaderMalformed", extra="<Region>us-west-2</Region>"),
        "is in us-west-2, not in eu-central-1: name us-west-2",
    ),
    "moved, in silence": (answer(301), "see whether the bucket bucket is in eu-central-1"),
    "expired": (xml(400, "ExpiredToken"), "the credentials have expired: renew them"),
    "unknown key": (xml(403, "InvalidAccessKeyId"), "credentials are wrong: see to AWS_ACCESS_KEY"),
    "wrong secret": (xml(403, "SignatureDoesNotMatch"), "credentials are wrong: see to AWS_ACC"),
    "another body": (xml(400, "XAmzContentSHA256Mismatch"), "bytes changed while they were sent"),
    "wrong clock": (xml(403, "RequestTimeTooSkewed"), "clock is wrong: set it"),
    "unheard of": (xml(405, "MethodNotAllowed"), "405 MethodNotAllowed.*bucket's settings"),
}  # fmt: skip


@pytest.mark.parametrize("method", ["GET", "size", "PUT"])
@pytest.mark.parametrize("name", ANSWERS)
def test_what_s3_refuses_is_told_with_its_remedy(
    s3: S3Store, fake: Fake, method: str, name: str
) -> None:
    act, why = ANSWERS[name]
    right = "PutObject" if method == "PUT" else "GetObject"
    kms_right = "kms:GenerateDataKey" if method == "PUT" else "kms:Decrypt"
    why = why.replace("{right}", right).replace("{kms_right}", kms_right)
    fake.script = [act]
    with pytest.raises(StoreError, match=why):
        use(s3, method, "a")
    assert len(fake.asked) == 1


def test_a_denied_read_may_be_of_what_is_not_there(s3: S3Store, fake: Fake) -> None:
    fake.script = [xml(403, "AccessDenied")]
    with pytest.raises(StoreError, match="but not s3:ListBucket, a is not in the store"):
        s3.get("a")


def test_deleting_what_is_not_there_is_fine_but_not_without_a_bucket(
    s3: S3Store, fake: Fake
) -> None:
    fake.script = [xml(404, "NoSuchKey"), xml(404, "NoSuchBucket"), xml(403, "AccessDenied")]
    s3.delete("a")
    with pytest.raises(StoreError, match="there is no bucket"):
        s3.delete("a")
    with pytest.raises(StoreError, match="s3:DeleteObject"):
        s3.delete("a")


@pytest.mark.parametrize(
    ("region", "arn"),
    [
        ("eu-west-1", "arn:aws:s3:::b/p/*"),
        ("cn-north-1", "arn:aws-cn:s3:::b/p/*"),
        ("us-gov-west-1", "arn:aws-us-gov:s3:::b/p/*"),
    ],
)
def test_a_policy_names_the_objects_as_the_error_does(region: str, arn: str) -> None:
    assert Place(bucket="b", prefix="p/", region=region).arn == arn
