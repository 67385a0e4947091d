"""Whether the emulator sees through requests that are not signed as they must be."""

from __future__ import annotations

import hmac
import importlib.util

import pytest
from botocore.exceptions import ClientError

from fanout.emulator.http_messages import Request
from fanout.emulator.signature import SignatureError, Verifier
from tests.emulator_checks import (
    FUNCTION,
    INVOCATIONS,
    client_of,
    emulated,
    exchange,
    invoke,
    signed,
)

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("awslambdaric") is None, reason="needs awslambdaric"
)
ARN = f"arn:aws:lambda:us-east-1:123456789012:function:{FUNCTION}"


@pytest.mark.parametrize(
    ("credentials", "code"),
    [
        ({"key": "AKIASOMEBODYELSE0000"}, "UnrecognizedClientException"),
        ({"secret": "wrong"}, "InvalidSignatureException"),
    ],
)
async def test_foreign_keys_are_refused(credentials: dict[str, str], code: str) -> None:
    async with emulated("echo") as (emulator, _), client_of(emulator, **credentials) as client:
        with pytest.raises(ClientError) as caught:
            await invoke(client)
        assert caught.value.response["Error"]["Code"] == code
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403


async def test_a_request_that_is_not_signed_is_refused() -> None:
    async with emulated("echo") as (emulator, _):
        plain = f"POST {INVOCATIONS} HTTP/1.1\r\nContent-Length: 2\r\n\r\n{{}}".encode()
        got = await exchange(emulator, plain)
        assert got.status == 403
        assert got.headers["x-amzn-errortype"] == "MissingAuthenticationTokenException"
    async with emulated("echo", verify=False) as (emulator, _):
        assert (await exchange(emulator, plain)).status == 200


async def test_a_body_or_path_changed_on_the_way_is_noticed() -> None:
    async with emulated("echo") as (emulator, _):
        raw = signed(emulator, body=b'{"a":1}')
        assert (await exchange(emulator, raw)).value == {"a": 1}
        for changed in (
            raw.replace(b'{"a":1}', b'{"a":2}'),
            raw.replace(b"/invocations", b"/invocations?Qualifier=$LATEST", 1),
            raw.replace(b"POST", b"GET", 1),
        ):
            got = await exchange(emulator, changed)
            assert got.headers["x-amzn-errortype"] == "InvalidSignatureException"
            assert "does not match the signature you provided" in got.value["Message"]


async def test_a_signature_for_elsewhere_is_refused() -> None:
    async with emulated("echo") as (emulator, _):
        for raw, text in (
            (signed(emulator, service="s3"), "correct service: 'lambda'"),
            (signed(emulator, region="eu-west-1"), "valid region, not 'eu-west-1'"),
        ):
            got = await exchange(emulator, raw)
            assert (got.status, text in got.value["Message"]) == (403, True)


async def test_names_and_queries_are_signed_as_botocore_signs_them() -> None:
    async with emulated("echo") as (emulator, _):
        for path in (
            f"/2015-03-31/functions/{ARN.replace(':', '%3A')}/invocations",
            f"{INVOCATIONS}?Qualifier=%24LATEST",
        ):
            assert (await exchange(emulator, signed(emulator, path=path))).status == 200


def _request(**headers: str) -> Request:
    scope = f"KEY/20260101/us-east-1/{headers.pop('service', 'lambda')}/aws4_request"
    named = headers.pop("signed", "host;x-amz-date")
    values = {
        "host": "h",
        "x-amz-date": "20260101T000000Z",
        "authorization": f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders={named}, Signature=0",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    return Request("POST", "/", values, b"{}")


NEW_YEAR_S = 1_767_225_600.0


@pytest.mark.parametrize(
    ("request_", "now_s", "text"),
    [
        (_request(), NEW_YEAR_S, "does not match the signature"),
        (_request(), NEW_YEAR_S + 301, "Signature expired: 20260101T000000Z is now earlier"),
        (_request(), NEW_YEAR_S - 301, "Signature not yet current"),
        (_request(x_amz_date="20260102T000000Z"), NEW_YEAR_S, "Date in Credential scope"),
        (_request(x_amz_date="20260101 noon"), NEW_YEAR_S, "basic format"),
        (_request(signed="host"), NEW_YEAR_S, "must be 'SignedHeaders'"),
        (_request(authorization="Bearer x"), NEW_YEAR_S, "Unsupported AWS 'algorithm': 'Bearer'"),
        (_request(authorization="AWS4-HMAC-SHA256 x=1"), NEW_YEAR_S, "requires 'Credential'"),
        (
            _request(authorization="AWS4-HMAC-SHA256 Credential=a/b,SignedHeaders=a,Signature=b"),
            NEW_YEAR_S,
            "exactly 5",
        ),
    ],
)
def test_a_wrong_signature_tells_what_is_wrong(request_: Request, now_s: float, text: str) -> None:
    with pytest.raises(SignatureError, match=text):
        Verifier("KEY", "SECRET", "us-east-1").verify(request_, now_s)


def test_the_example_of_the_documentation_has_the_documented_signature() -> None:
    """The signing key of "Deriving the signing key", AWS General Reference."""
    verifier = Verifier("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "us-east-1")
    key = b"AWS4wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
    for part in (b"20260101", b"us-east-1", b"lambda", b"aws4_request"):
        key = hmac.digest(key, part, "sha256")
    assert verifier._signing_key("20260101") == key
