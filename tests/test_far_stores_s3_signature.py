"""The far end's signature of requests to S3 is the one that botocore makes."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import re
from typing import TYPE_CHECKING
from unittest import mock
from urllib.parse import quote

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials
from hypothesis import given
from hypothesis import strategies as st

from fanout.far_stores.s3 import S3Store
from fanout.far_stores.s3_signing import quoted, signed
from fanout.sigv4 import Credentials
from tests.far_stores_checks import Fake, serving, settle, use

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch) -> None:
    settle(monkeypatch)


@pytest.fixture
def fake() -> Iterator[Fake]:
    with serving() as served:
        yield served


PRINTABLE = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)


def by_botocore(
    method: str, url: str, body: bytes, headers: dict[str, str], keys: Credentials, region: str,
    moment: dt.datetime,
) -> str:  # fmt: skip
    request = AWSRequest(method=method, url=url, data=body, headers=headers)
    boto = BotoCredentials(keys.access_key, keys.secret_key, keys.token)
    with mock.patch("botocore.auth.get_current_datetime", return_value=moment):
        S3SigV4Auth(boto, "s3", region).add_auth(request)
    return str(request.headers["Authorization"])


@given(
    method=st.sampled_from(["GET", "PUT", "DELETE"]),
    key=st.text(st.characters(codec="utf-8"), min_size=1, max_size=30),
    extra=st.dictionaries(
        st.sampled_from(["Range", "If-None-Match", "x-amz-server-side-encryption"]),
        PRINTABLE | st.just("two  words"),
    ),
    body=st.binary(max_size=100),
    access_key=PRINTABLE,
    secret_key=PRINTABLE,
    token=st.none() | PRINTABLE,
    now_s=st.integers(0, 2**32 - 1),
    region=st.sampled_from(["us-east-1", "eu-central-2", "cn-north-1"]),
)
def test_the_signature_is_the_one_botocore_makes(
    method: str,
    key: str,
    extra: dict[str, str],
    body: bytes,
    access_key: str,
    secret_key: str,
    token: str | None,
    now_s: int,
    region: str,
) -> None:
    keys = Credentials(access_key, secret_key, token)
    path = f"/bucket/{quoted(key)}"
    sent = signed(
        method=method,
        path=path,
        headers={"Host": "s3.test:8443", **extra},
        body_digest=hashlib.sha256(body).hexdigest(),
        credentials=keys,
        region=region,
        now_s=now_s,
    )
    moment = dt.datetime.fromtimestamp(now_s, dt.UTC).replace(tzinfo=None)
    url = f"https://s3.test:8443{path}"
    assert sent["Authorization"] == by_botocore(method, url, body, extra, keys, region, moment)
    assert sent.get("X-Amz-Security-Token") == token


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_what_is_sent_is_what_was_signed(fake: Fake, method: str) -> None:
    prefix = "a b/ü+~=&;%41//"
    store = S3Store(bucket="bu", prefix=prefix, region="eu-west-3", endpoint=fake.url, kms_key="k")
    fake.objects[f"/bu/{quote(prefix, safe='/~')}x-1_2.3"] = b"x"
    with contextlib.closing(store):
        use(store, method, "x-1_2.3")
    (asked,) = fake.asked
    moment = dt.datetime.strptime(asked.headers["X-Amz-Date"], "%Y%m%dT%H%M%SZ")  # noqa: DTZ007
    told = re.search("SignedHeaders=([^,]*),", asked.headers["Authorization"])
    assert told is not None
    made = {"host", "x-amz-date", "x-amz-content-sha256", "x-amz-security-token"}
    extra = {
        name: value
        for name, value in asked.headers.items()
        if name.lower() in set(told[1].split(";")) - made
    }
    keys = Credentials("AKIAFANOUT", "secret/of/the/tests", "token==")
    expected = by_botocore(
        method, fake.url + asked.path, asked.body, extra, keys, "eu-west-3", moment
    )
    assert asked.headers["Authorization"] == expected
    unsigned = {name.lower() for name in asked.headers} - set(told[1].split(";"))
    assert unsigned <= {"authorization", "content-length"}


def test_credentials_are_not_in_their_repr() -> None:
    assert "secret" not in repr(Credentials("AKIA", "secret", "token"))
