"""The signature is botocore's, byte for byte."""

from __future__ import annotations

import datetime as dt
import hashlib
from unittest import mock
from urllib.parse import quote, urlencode

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials
from hypothesis import given
from hypothesis import strategies as st

from fanout.invoke.signing import Signer
from fanout.sigv4 import Credentials

PRINTABLE = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)
TEXTS = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=0, max_size=40).filter(
    lambda text: text == text.strip()
)
HEADERS = st.dictionaries(
    st.from_regex(r"[A-Za-z][A-Za-z0-9-]{0,20}", fullmatch=True).filter(
        # Those that are made for every request, or that botocore leaves out.
        lambda name: name.lower()
        not in {"host", "x-amz-date", "x-amz-security-token", "authorization", "expect",
                "user-agent", "x-amzn-trace-id", "transfer-encoding", "content-length"}
    ),
    TEXTS,
    max_size=4,
).filter(lambda headers: len({name.lower() for name in headers}) == len(headers))  # fmt: skip


def signed_by_botocore(
    url: str,
    body: bytes,
    headers: dict[str, str],
    credentials: Credentials,
    now_s: int,
    region: str,
) -> str:
    request = AWSRequest(method="POST", url=url, data=body, headers=headers)
    boto = BotoCredentials(credentials.access_key, credentials.secret_key, credentials.token)
    moment = dt.datetime.fromtimestamp(now_s, dt.UTC).replace(tzinfo=None)
    with mock.patch("botocore.auth.get_current_datetime", return_value=moment):
        SigV4Auth(boto, "lambda", region).add_auth(request)
    return str(request.headers["Authorization"])


def parsed(head: bytes) -> tuple[str, dict[str, str]]:
    line, *lines = head.decode("ascii").removesuffix("\r\n\r\n").split("\r\n")
    return line, dict(text.split(": ", 1) for text in lines)


@given(
    name=st.text(min_size=1, max_size=30),
    query=st.dictionaries(PRINTABLE, TEXTS, max_size=3),
    headers=HEADERS,
    body=st.binary(max_size=200),
    key=PRINTABLE,
    secret=PRINTABLE,
    token=st.none() | PRINTABLE,
    now_s=st.integers(0, 2**32 - 1),
    region=st.sampled_from(["us-east-1", "eu-central-2", "cn-north-1"]),
)
def test_the_authorization_is_the_one_botocore_makes(
    name: str,
    query: dict[str, str],
    headers: dict[str, str],
    body: bytes,
    key: str,
    secret: str,
    token: str | None,
    now_s: int,
    region: str,
) -> None:
    path = f"/2015-03-31/functions/{quote(name, safe='')}/invocations"
    text = urlencode(query, quote_via=quote)
    credentials = Credentials(key, secret, token)
    signer = Signer(host="lambda.test:8443", path=path, query=text, headers=headers, region=region)
    head = signer.head(hashlib.sha256(body).hexdigest(), len(body), credentials, now_s)
    line, sent = parsed(head)
    expected = signed_by_botocore(
        f"https://lambda.test:8443{path}{'?' if text else ''}{text}",
        body, headers, credentials, now_s, region,
    )  # fmt: skip
    assert sent["Authorization"] == expected
    assert line == f"POST {path}{'?' if text else ''}{text} HTTP/1.1"
    assert sent["Content-Length"] == str(len(body))
    assert sent.get("X-Amz-Security-Token") == token


def signer() -> Signer:
    return Signer(host="h", path="/p", headers={"Content-Type": "application/json"}, region="r-1")


def test_a_signature_made_from_what_is_kept_is_the_one_made_anew() -> None:
    kept, credentials = signer(), Credentials("AKIA", "secret", "token")
    digests = [hashlib.sha256(bytes([n])).hexdigest() for n in range(5)]
    moments = [7, 7, 8, 8, 7]
    again = [kept.head(d, 1, credentials, s) for d, s in zip(digests, moments, strict=True)]
    anew = [signer().head(d, 1, credentials, s) for d, s in zip(digests, moments, strict=True)]
    assert again == anew
    assert len(set(again)) == 5


def test_new_credentials_sign_at_once() -> None:
    kept, digest = signer(), hashlib.sha256(b"").hexdigest()
    old = kept.head(digest, 0, Credentials("OLD", "a"), 7)
    new = kept.head(digest, 0, Credentials("NEW", "b"), 7)
    assert b"Credential=OLD/" in old
    assert new == signer().head(digest, 0, Credentials("NEW", "b"), 7)


def test_what_is_not_to_be_signed_is_sent_all_the_same() -> None:
    plain = Signer(host="h", path="/p", region="r-1")
    through = Signer(
        host="h", path="/p", region="r-1", unsigned={"User-Agent": "fanout"}, origin="http://h"
    )
    credentials, digest = Credentials("AKIA", "secret"), hashlib.sha256(b"").hexdigest()
    _, expected = parsed(plain.head(digest, 0, credentials, 7))
    line, sent = parsed(through.head(digest, 0, credentials, 7))
    assert sent == expected | {"User-Agent": "fanout"}
    assert line == "POST http://h/p HTTP/1.1"


def test_credentials_are_not_in_their_repr() -> None:
    assert "secret" not in repr(Credentials("AKIA", "secret", "token"))
