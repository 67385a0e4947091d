"""Where a function is invoked and who signs: what botocore decides, decides here, too."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import re
from typing import TYPE_CHECKING, Any

import aioboto3
import botocore.session
import pytest
from aiobotocore.config import AioConfig
from aiobotocore.credentials import AioRefreshableCredentials
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials

from fanout.errors import BackendError, UsageError
from fanout.invoke import CertificateError, ConnectionLostError, Invoker
from fanout.invoke.answers import is_expired
from tests.invoke_checks import (
    Peer,
    Request,
    Server,
    answer,
    answering,
    authority,
    proxying,
    server_tls,
    serving,
    until,
)

if TYPE_CHECKING:
    from pathlib import Path

SECRETS = {
    "AKIAONE": "secret-one",
    "AKIATWO": "secret-two",
    "AKIATHREE": "secret-three",
}
SETTINGS = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "REQUESTS_CA_BUNDLE")


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of this machine's own settings counts."""
    for name in list(os.environ):
        if name.startswith("AWS_") or name.upper() in SETTINGS:
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Credentials and a region in the environment."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAONE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRETS["AKIAONE"])
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    return monkeypatch


def write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def by_botocore(function: str, qualifier: str | None = None, **client: Any) -> tuple[str, str]:
    """URL of a function's invocations and region of the signature, as botocore has them."""
    caught: list[Any] = []

    def catch(request: Any, **_: Any) -> None:
        caught.append(request)
        raise ConnectionRefusedError

    session = botocore.session.Session()
    session.set_credentials("AKIAONE", SECRETS["AKIAONE"])
    made = session.create_client("lambda", **client)
    made.meta.events.register_first("before-send.lambda.Invoke", catch)
    with pytest.raises(ConnectionRefusedError):
        made.invoke(
            FunctionName=function,
            Payload=b"{}",
            **({"Qualifier": qualifier} if qualifier else {}),
        )
    authorization = caught[0].headers["Authorization"].decode()
    return caught[0].url, authorization.split("/")[2]


async def found(**options: Any) -> tuple[str, str]:
    async with Invoker(**{"function": "simulate", **options}) as invoker:
        return invoker.url, invoker.region


def key_of(request: Request) -> str:
    return request.headers["authorization"].partition("Credential=")[2].partition("/")[0]


def verify(request: Request, *, region: str = "eu-central-1", scheme: str = "http") -> str:
    """Recompute a request's signature with botocore; returns whose key it is."""
    names = request.headers["authorization"].partition("SignedHeaders=")[2].partition(",")[0]
    target = request.target.removeprefix(f"{scheme}://{request.headers['host']}")
    signed = AWSRequest(
        method=request.method,
        url=f"{scheme}://{request.headers['host']}{target}",
        data=request.body,
        headers={name: request.headers[name] for name in names.split(";")},
    )
    signed.context["timestamp"] = request.headers["x-amz-date"]
    key = key_of(request)
    token = request.headers.get("x-amz-security-token")
    auth = SigV4Auth(BotoCredentials(key, SECRETS[key], token), "lambda", region)
    text = auth.string_to_sign(signed, auth.canonical_request(signed))
    assert request.headers["authorization"].endswith(f"Signature={auth.signature(text, signed)}")
    sent = dt.datetime.strptime(f"{request.headers['x-amz-date']}+0000", "%Y%m%dT%H%M%SZ%z")
    assert abs(dt.datetime.now(dt.UTC) - sent) < dt.timedelta(minutes=5)
    return key


def to(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}"


# ---- region and endpoint ----


async def test_the_region_is_the_arguments(aws: pytest.MonkeyPatch) -> None:
    aws.setenv("AWS_REGION", "us-west-2")
    assert await found(region="ap-south-1") == by_botocore("simulate", region_name="ap-south-1")


async def test_the_region_may_be_aws_region(aws: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write(tmp_path / "config", "[default]\nregion = sa-east-1\n")
    assert await found() == by_botocore("simulate", region_name="eu-central-1")
    aws.setenv("AWS_REGION", "us-west-2")
    assert await found() == by_botocore("simulate", region_name="us-west-2")
    aws.delenv("AWS_DEFAULT_REGION")
    assert await found() == by_botocore("simulate", region_name="us-west-2")
    aws.setenv("AWS_REGION", "")
    assert (await found())[1] == "sa-east-1"


@pytest.mark.parametrize("how", ["argument", "AWS_PROFILE", "session"])
async def test_the_region_may_be_the_profiles(
    how: str, aws: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    aws.delenv("AWS_DEFAULT_REGION")
    write(
        tmp_path / "config",
        "[default]\nregion = eu-west-1\n[profile work]\nregion = eu-north-1\n"
        "aws_access_key_id = AKIATWO\naws_secret_access_key = secret-two\n",
    )
    assert (await found())[1] == "eu-west-1"
    options: dict[str, Any] = {}
    if how == "argument":
        options["profile"] = "work"
    elif how == "session":
        options["session"] = aioboto3.Session(profile_name="work")
    else:
        aws.setenv("AWS_PROFILE", "work")
    url, region = await found(**options)
    assert region == "eu-north-1"
    assert url.startswith("https://lambda.eu-north-1.amazonaws.com/")


async def test_a_sessions_own_region_counts(aws: pytest.MonkeyPatch) -> None:
    aws.setenv("AWS_REGION", "us-west-2")
    session = aioboto3.Session(region_name="ca-central-1")
    assert (await found(session=session))[1] == "ca-central-1"


async def test_a_missing_region_says_what_to_set(aws: pytest.MonkeyPatch) -> None:
    aws.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(UsageError, match="no AWS region is set: pass region=, or set AWS_REGION"):
        await found()


@pytest.mark.parametrize(
    ("settings", "region"),
    [
        ({}, "us-east-1"),
        ({"AWS_USE_FIPS_ENDPOINT": "true"}, "us-east-1"),
        ({"AWS_USE_DUALSTACK_ENDPOINT": "true"}, "us-east-1"),
        ({"AWS_USE_FIPS_ENDPOINT": "true", "AWS_USE_DUALSTACK_ENDPOINT": "true"}, "us-east-1"),
        ({"AWS_USE_FIPS_ENDPOINT": "true"}, "us-gov-west-1"),
        ({}, "cn-north-1"),
        ({"AWS_USE_DUALSTACK_ENDPOINT": "true"}, "cn-northwest-1"),
        ({"AWS_ENDPOINT_URL": "http://one.test:9000"}, "us-east-1"),
        ({"AWS_ENDPOINT_URL_LAMBDA": "https://two.test/prefix"}, "us-east-1"),
        (
            {"AWS_ENDPOINT_URL": "http://one.test", "AWS_ENDPOINT_URL_LAMBDA": "http://two.test"},
            "us-east-1",
        ),
        (
            {"AWS_ENDPOINT_URL": "http://one.test", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"},
            "us-east-1",
        ),
    ],
)
async def test_url_and_scope_are_those_of_botocore(
    settings: dict[str, str], region: str, aws: pytest.MonkeyPatch
) -> None:
    for name, value in settings.items():
        aws.setenv(name, value)
    expected = by_botocore("simulate", region_name=region)
    assert await found(region=region) == expected
    if settings.get("AWS_USE_FIPS_ENDPOINT") and region == "us-east-1":
        assert "fips" in expected[0]


@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize(
    ("function", "qualifier"),
    [
        ("simulate", "live"),
        ("arn:aws:lambda:us-east-1:123456789012:function:simulate", "7"),
        ("123456789012:function:simulate", None),
        ("simulate:live", None),
    ],
)
async def test_a_function_may_be_named_in_every_way(function: str, qualifier: str | None) -> None:
    expected = by_botocore(function, qualifier, region_name="us-east-1")
    assert await found(function=function, qualifier=qualifier, region="us-east-1") == expected


async def test_the_endpoint_may_be_an_argument_or_of_the_configuration(
    aws: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write(
        tmp_path / "config",
        "[default]\nservices = mine\n[services mine]\nlambda =\n  endpoint_url = http://file.test\n",
    )
    assert (await found())[0].startswith("http://file.test/2015-03-31/functions/simulate/")
    aws.setenv("AWS_ENDPOINT_URL_LAMBDA", "http://env.test")
    assert (await found())[0].startswith("http://env.test/")
    assert (await found(endpoint_url="http://arg.test"))[0].startswith("http://arg.test/")


@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"function": ""}, "the function '' can't be invoked"),
        ({"endpoint_url": "no url"}, "no url"),
        ({"region": "no region"}, "no region"),
        ({"profile": "missing"}, "missing"),
        ({"verify": "/no/such/file"}, "the file of certificates '/no/such/file' can't be read"),
    ],
)
async def test_settings_that_make_no_sense_are_told(options: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=re.escape(told)):
        await found(**options)


def test_a_profile_and_a_session_contradict_each_other() -> None:
    with pytest.raises(UsageError, match="pass one of them"):
        Invoker(function="simulate", profile="work", session=aioboto3.Session())


# ---- requests as they arrive ----


@pytest.mark.parametrize("token", [None, "a/token+with=signs"])
async def test_requests_are_accepted_by_who_verifies_them(
    token: str | None, aws: pytest.MonkeyPatch
) -> None:
    if token:
        aws.setenv("AWS_SESSION_TOKEN", token)
    name = "arn:aws:lambda:eu-central-1:123456789012:function:simulate"
    async with serving(answering) as server:
        async with Invoker(
            function=name, qualifier="live", endpoint_url=f"{to(server)}/prefix"
        ) as invoker:
            for body in ([b"{}"], [], [b'{"x":', b"1}"], [b"x" * 300_000, b"y" * 300_000]):
                assert (await invoker.invoke(body)).body == b"".join(body)
        for request in server.requests:
            assert verify(request) == "AKIAONE"
            assert request.headers["content-type"] == "application/json"
            assert request.headers["user-agent"].startswith("fanout/")
            assert request.headers.get("x-amz-security-token") == token
        assert server.requests[0].target == (
            "/prefix/2015-03-31/functions/arn%3Aaws%3Alambda%3Aeu-central-1%3A123456789012"
            "%3Afunction%3Asimulate/invocations?Qualifier=live"
        )
        assert len(server.requests) == 4


@pytest.mark.usefixtures("aws")
async def test_the_host_is_named_as_botocore_names_it() -> None:
    async with Invoker(function="f", endpoint_url="https://u:p@LOCALHOST:443/") as invoker:
        assert invoker._target is not None
        assert invoker._target.signer._headers["Host"] == "localhost"
        assert (invoker._target.origin.host, invoker._target.origin.port) == ("localhost", 443)
    async with Invoker(function="f", endpoint_url="http://[::1]:8080") as invoker:
        assert invoker._target is not None
        assert invoker._target.signer._headers["Host"] == "[::1]:8080"
        assert (invoker._target.origin.host, invoker._target.origin.port) == ("::1", 8080)


@pytest.mark.usefixtures("aws")
async def test_one_call_is_one_request_and_opening_sends_none() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        peer.write(answer(b"{}", 500))

    async with serving(script) as server:
        async with Invoker(function="simulate", endpoint_url=to(server)) as invoker:
            assert not server.connections
            assert (await invoker.invoke([b"{}"])).status == 500
        assert len(server.requests) == 1


@pytest.mark.usefixtures("aws")
async def test_a_closed_invoker_sends_nothing() -> None:
    async with serving(answering) as server:
        invoker = Invoker(function="simulate", endpoint_url=to(server))
        for number in (1, 2):
            async with invoker:
                await invoker.invoke([b"{}"])
            for body in (b"{}", b"x" * 300_000):
                with pytest.raises(ConnectionLostError) as caught:
                    await invoker.invoke([body])
                assert not caught.value.was_sent
            assert len(server.requests) == server.connections == number
        await until(lambda: not server.live)


@pytest.mark.usefixtures("aws")
async def test_closing_while_a_body_is_hashed_sends_nothing() -> None:
    async with serving(answering) as server:
        async with Invoker(function="simulate", endpoint_url=to(server)) as invoker:
            await invoker.invoke([b"{}"])
            call = asyncio.create_task(invoker.invoke([b"x" * 6_000_000]))
            await asyncio.sleep(0)
        with pytest.raises(ConnectionLostError) as caught:
            await call
        assert not caught.value.was_sent
        assert len(server.requests) == 1


# ---- trust ----


async def tls_call(**options: Any) -> bytes:
    async with serving(answering, tls=server_tls("localhost")) as server:
        url = f"https://localhost:{server.port}"
        async with Invoker(function="simulate", endpoint_url=url, **options) as invoker:
            body = (await invoker.invoke([b"[1]"])).body
        verify(server.requests[0], scheme="https")
    return body


@pytest.mark.parametrize("how", ["verify", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "config", "no"])
async def test_whom_to_trust_is_set_as_for_botocore(
    how: str, aws: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle = tmp_path / "ca.pem"
    authority().cert_pem.write_to_path(str(bundle))
    options: dict[str, Any] = {}
    if how == "verify":
        options["verify"] = str(bundle)
    elif how == "no":
        options["verify"] = False
    elif how == "config":
        write(tmp_path / "config", f"[default]\nca_bundle = {bundle}\n")
    else:
        aws.setenv(how, str(bundle))
    assert await tls_call(**options) == b"[1]"


@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize("verify", [None, True])
async def test_whom_nobody_vouches_for_is_not_trusted(verify: bool | None) -> None:
    with pytest.raises(CertificateError):
        await tls_call(verify=verify)


# ---- proxies ----


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_of_the_environment_is_used(
    scheme: str, aws: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle = tmp_path / "ca.pem"
    authority().cert_pem.write_to_path(str(bundle))
    aws.setenv("AWS_CA_BUNDLE", str(bundle))
    is_tls = scheme == "https"
    async with serving(answering, tls=server_tls("lambda.test")) as server:
        script = proxying(lambda: server.port, "Basic bWU6cEBzcw==")
        async with serving(script, tls=server_tls() if is_tls else None) as proxy:
            aws.setenv("HTTPS_PROXY", f"{scheme}://me:p%40ss@localhost:{proxy.port}")
            url = f"https://lambda.test:{server.port}"
            async with Invoker(function="simulate", endpoint_url=url) as invoker:
                assert (await invoker.invoke([b"[1]"])).body == b"[1]"
                assert "p%40ss" not in f"{invoker!r} {invoker._target!r} {vars(invoker._pool)!r}"
            assert [one.target for one in proxy.requests] == [f"lambda.test:{server.port}"]
            request = server.requests[0]
            verify(request, scheme="https")
            assert "proxy-authorization" not in request.headers


async def test_plain_http_is_forwarded_by_a_proxy(aws: pytest.MonkeyPatch) -> None:
    async with serving(proxying(lambda: 1, "Basic bWU6cEBzcw==")) as proxy:
        aws.setenv("http_proxy", f"me:p%40ss@127.0.0.1:{proxy.port}")
        async with Invoker(function="simulate", endpoint_url="http://lambda.test") as invoker:
            assert (await invoker.invoke([b"[1]"])).body == b"[1]"
        request = proxy.requests[0]
        path = "/2015-03-31/functions/simulate/invocations"
        assert request.target == f"http://lambda.test{path}"
        verify(request)


async def test_no_proxy_is_honoured(aws: pytest.MonkeyPatch) -> None:
    aws.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    aws.setenv("NO_PROXY", "example.test,127.0.0.1")
    async with (
        serving(answering) as server,
        Invoker(function="simulate", endpoint_url=to(server)) as invoker,
    ):
        assert (await invoker.invoke([b"[1]"])).body == b"[1]"


@pytest.mark.usefixtures("aws")
async def test_the_proxy_of_a_session_is_used() -> None:
    async with serving(proxying(lambda: 1)) as proxy:
        session = aioboto3.Session()
        session._session.set_default_client_config(
            AioConfig(proxies={"http": f"http://127.0.0.1:{proxy.port}"})
        )
        async with Invoker(
            function="simulate", endpoint_url="http://lambda.test", session=session
        ) as invoker:
            assert (await invoker.invoke([b"[1]"])).body == b"[1]"
        assert len(proxy.requests) == 1


async def test_a_proxy_of_another_kind_is_refused(aws: pytest.MonkeyPatch) -> None:
    aws.setenv("HTTPS_PROXY", "socks5://me:secret@127.0.0.1:1080")
    with pytest.raises(UsageError, match="socks5://") as caught:
        await found()
    assert "http or https" in str(caught.value)
    assert "secret" not in str(caught.value)


# ---- credentials ----

HINT = r"run `aws configure` or `aws sso login`, or set AWS_PROFILE"


async def test_no_credentials_say_what_to_do() -> None:
    with pytest.raises(BackendError, match=HINT) as caught:
        await found(region="eu-central-1")
    assert "fanout emulate" in str(caught.value)


async def test_half_credentials_say_what_to_do(aws: pytest.MonkeyPatch) -> None:
    aws.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(BackendError, match=HINT):
        await found()


async def test_a_login_that_has_expired_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write(
        tmp_path / "config",
        "[default]\nregion = eu-central-1\nsso_session = s\nsso_account_id = 123456789012\n"
        "sso_role_name = r\n[sso-session s]\nsso_region = eu-central-1\n"
        "sso_start_url = https://sso.test/start\n",
    )
    with pytest.raises(BackendError, match=HINT):
        await found()


async def test_a_credential_process_that_fails_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write(tmp_path / "config", "[default]\nregion = eu-central-1\ncredential_process = false\n")
    with pytest.raises(BackendError, match=HINT):
        await found()


def in_minutes(minutes: float) -> str:
    return (dt.datetime.now(dt.UTC) + dt.timedelta(minutes=minutes)).isoformat()


class Vendor:
    """Refreshable credentials, and what becomes of asking for new ones."""

    def __init__(self, minutes: float) -> None:
        self.asked = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.error: Exception | None = None
        self.next = "AKIATWO"
        self.minutes = 60.0
        self.session = aioboto3.Session(region_name="eu-central-1")
        self.session._session._credentials = AioRefreshableCredentials.create_from_metadata(
            self.metadata("AKIAONE", minutes), refresh_using=self.refresh, method="test"
        )

    def metadata(self, key: str, minutes: float) -> dict[str, str]:
        return {
            "access_key": key,
            "secret_key": SECRETS[key],
            "token": f"token of {key}",
            "expiry_time": in_minutes(minutes),
        }

    async def refresh(self) -> dict[str, str]:
        self.asked += 1
        await self.may_answer.wait()
        if self.error is not None:
            raise self.error
        return self.metadata(self.next, self.minutes)

    def expire(self, minutes: float) -> None:
        self.session._session._credentials._expiry_time = dt.datetime.fromisoformat(
            in_minutes(minutes)
        )


def ask_again(invoker: Invoker) -> None:
    """As if a second had passed."""
    invoker._ask_at_s = 0.0


async def test_requests_are_signed_with_the_credentials_that_hold() -> None:
    vendor = Vendor(60)
    async with (
        serving(answering) as server,
        Invoker(function="f", session=vendor.session, endpoint_url=to(server)) as invoker,
    ):
        await invoker.invoke([b"{}"])
        vendor.expire(5)
        await invoker.invoke([b"{}"])  # within the same second
        ask_again(invoker)
        await invoker.invoke([b"{}"])
        assert [verify(one) for one in server.requests] == ["AKIAONE", "AKIAONE", "AKIATWO"]
        tokens = [one.headers["x-amz-security-token"] for one in server.requests]
        assert tokens == ["token of AKIAONE"] * 2 + ["token of AKIATWO"]
        assert vendor.asked == 1


async def test_many_calls_at_once_cause_one_refresh_and_do_not_wait_for_it() -> None:
    vendor = Vendor(60)
    async with (
        serving(answering) as server,
        Invoker(function="f", session=vendor.session, endpoint_url=to(server)) as invoker,
    ):
        await invoker.invoke([b"{}"])
        vendor.expire(5)
        vendor.may_answer.clear()
        ask_again(invoker)
        calls = [asyncio.create_task(invoker.invoke([b"[%d]" % number])) for number in range(50)]
        await until(lambda: sum(call.done() for call in calls) == 49)
        assert vendor.asked == 1
        vendor.may_answer.set()
        await asyncio.gather(*calls)
        await asyncio.gather(*(invoker.invoke([b"{}"]) for _ in range(10)))
        assert vendor.asked == 1
        keys = [verify(one) for one in server.requests]
        assert keys == ["AKIAONE"] * 50 + ["AKIATWO"] * 11


async def test_forgotten_credentials_are_asked_for_once_for_all_that_wait() -> None:
    vendor = Vendor(60)
    async with (
        serving(answering) as server,
        Invoker(function="f", session=vendor.session, endpoint_url=to(server)) as invoker,
    ):
        await invoker.invoke([b"{}"])
        vendor.expire(-1)
        vendor.may_answer.clear()
        invoker.forget_credentials()
        calls = [asyncio.create_task(invoker.invoke([b"{}"])) for _ in range(50)]
        await until(lambda: vendor.asked)
        assert len(server.requests) == 1
        vendor.may_answer.set()
        await asyncio.gather(*calls)
        assert vendor.asked == 1
        assert [verify(one) for one in server.requests] == ["AKIAONE"] + ["AKIATWO"] * 50


@pytest.mark.parametrize("minutes", [12, 5])
async def test_a_refresh_that_fails_stops_no_call_while_the_old_credentials_hold(
    minutes: float, caplog: pytest.LogCaptureFixture
) -> None:
    vendor = Vendor(60)
    async with (
        serving(answering) as server,
        Invoker(function="f", session=vendor.session, endpoint_url=to(server)) as invoker,
    ):
        await invoker.invoke([b"{}"])
        vendor.expire(minutes)
        vendor.error = OSError("no way to the vendor")
        for _ in range(2):
            ask_again(invoker)
            await asyncio.gather(*(invoker.invoke([b"{}"]) for _ in range(5)))
        assert {verify(one) for one in server.requests} == {"AKIAONE"}
        asked = vendor.asked
        await invoker.invoke([b"{}"])
        assert vendor.asked == asked  # not again at once
        vendor.error = None
        ask_again(invoker)
        await invoker.invoke([b"{}"])
        assert verify(server.requests[-1]) == "AKIATWO"
    told = [one for one in caplog.messages if "can't be refreshed: no way" in one]
    assert len(told) == (2 if minutes == 5 else 0)


async def test_credentials_that_were_refused_and_cannot_be_refreshed_end_calls() -> None:
    async def script(peer: Peer) -> None:
        while await peer.request():
            headers = ["X-Amzn-ErrorType: ExpiredTokenException"]
            peer.write(answer(b"{}", 403, headers))

    vendor = Vendor(60)
    async with (
        serving(script) as server,
        Invoker(function="f", session=vendor.session, endpoint_url=to(server)) as invoker,
    ):
        vendor.expire(-1)
        vendor.next, vendor.minutes = "AKIATHREE", -1
        vendor.error = OSError("no way to the vendor")
        with pytest.raises(BackendError, match=HINT):
            await invoker.invoke([b"{}"])
        assert not server.requests
        vendor.expire(60)
        found = await invoker.invoke([b"{}"])
        assert is_expired(found.status, found.headers, found.body)
        invoker.forget_credentials()
        vendor.expire(-1)
        with pytest.raises(BackendError, match="no way to the vendor"):
            await invoker.invoke([b"{}"])
        assert len(server.requests) == 1


async def test_a_credential_process_is_asked_again_when_its_credentials_get_old(
    tmp_path: Path,
) -> None:
    def give(key: str, minutes: float) -> None:
        write(
            tmp_path / "now.json",
            f'{{"Version": 1, "AccessKeyId": "{key}", "SecretAccessKey": "{SECRETS[key]}", '
            f'"SessionToken": "t", "Expiration": "{in_minutes(minutes)}"}}',
        )

    give("AKIAONE", 5)
    write(
        tmp_path / "config",
        f"[profile p]\nregion = eu-central-1\ncredential_process = cat {tmp_path / 'now.json'}\n",
    )
    async with (
        serving(answering) as server,
        Invoker(function="f", profile="p", endpoint_url=to(server)) as invoker,
    ):
        await invoker.invoke([b"{}"])
        give("AKIATWO", 60)
        ask_again(invoker)
        await invoker.invoke([b"{}"])
        give("AKIATHREE", 60)
        ask_again(invoker)
        await invoker.invoke([b"{}"])
        assert [verify(one) for one in server.requests] == ["AKIAONE", "AKIATWO", "AKIATWO"]


async def test_nothing_shows_credentials(aws: pytest.MonkeyPatch) -> None:
    aws.setenv("AWS_SESSION_TOKEN", "token-of-one")
    aws.setenv("NO_PROXY", "*")
    async with (
        serving(answering) as server,
        Invoker(function="f", endpoint_url=to(server)) as invoker,
    ):
        found = await invoker.invoke([b"{}"])
        assert invoker._target is not None
        shown = [invoker, invoker._target, invoker._target.signer, invoker._target.origin]
        shown += [invoker._pool, invoker._credentials, found, *vars(invoker).values()]
        text = " ".join(map(repr, shown))
        assert SECRETS["AKIAONE"] not in text
        assert "AKIAONE" not in text
        assert "token-of-one" not in text


@pytest.mark.usefixtures("aws")
async def test_an_unknown_signature_is_told_without_showing_it() -> None:
    session = aioboto3.Session()
    session._session.set_default_client_config(AioConfig(signature_version="v4a"))
    async with serving(answering):
        with pytest.raises((BackendError, UsageError)) as caught:
            await found(session=session)
    assert "AKIAONE" not in str(caught.value)
