"""Where a function is invoked: URL, signature's scope, trust and proxy, as botocore resolves them.

A client of botocore is asked for one Invoke request, which is caught before it is sent. So whatever
decides about it (region, profile, `endpoint_url` and AWS_ENDPOINT_URL_LAMBDA, FIPS, dual-stack, a
function named by its ARN) decides here, too, by the same code.
"""

from __future__ import annotations

import os
import re
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from fanout.errors import BackendError, UsageError
from fanout.invoke.pool import Origin, proxy_headers
from fanout.invoke.signing import Signer

if TYPE_CHECKING:
    import aioboto3

_SCOPE: Final = re.compile(r"Credential=[^/]+/\d{8}/([^/]+)/([^/]+)/aws4_request")


@dataclass(frozen=True, slots=True)
class Target:
    """One function, ready to be invoked.

    Attributes:
        url: Of its invocations.
        origin: Where to connect to.
        signer: Makes the heads of requests.
        region: As the signature names it.
    """

    url: str
    origin: Origin
    signer: Signer
    region: str


async def resolve(
    client: Any,
    session: aioboto3.Session,
    *,
    function: str,
    qualifier: str | None,
    verify: bool | str | None,
    user_agent: str,
) -> Target:
    """Find out where and how to invoke a function; nothing is sent.

    Args:
        client: Of the session, for Lambda, with retries off.
        session: Whose settings count.
        function: Name or ARN.
        qualifier: Version or alias.
        verify: As for a client of boto: a file of certificates, or False not to verify.
        user_agent: How to present ourselves.

    Raises:
        UsageError: The name of the function can't be one, or a setting makes no sense.
        BackendError: botocore would do something that isn't known here.
    """
    url, authorization = await _caught(client, function, qualifier)
    scope = _SCOPE.search(authorization)
    if scope is None:
        scheme = authorization.partition(" ")[0]  # no more of it: it may be a token
        raise BackendError(f"botocore signs Lambda requests in an unknown way: {scheme!r}")
    region, service = scope.groups()
    parts = urlsplit(url)
    is_tls = parts.scheme == "https"
    host, port = parts.hostname or "", parts.port or (443 if is_tls else 80)
    named = f"[{host}]" if ":" in host else host
    named += "" if port == (443 if is_tls else 80) else f":{port}"
    proxy = _proxy(client, url)
    speaks_tls_to_proxy = proxy is not None and urlsplit(proxy).scheme == "https"
    trusted = _trust(session, verify) if is_tls or speaks_tls_to_proxy else None
    origin = Origin(
        host=host,
        port=port,
        tls=trusted if is_tls else None,
        proxy=proxy,
        proxy_tls=trusted if speaks_tls_to_proxy else None,
    )
    forwards = proxy is not None and not is_tls
    signer = Signer(
        host=named,
        path=parts.path,
        query=parts.query,
        # The end of the log, for its REPORT line.
        headers={"Content-Type": "application/json", "X-Amz-Log-Type": "Tail"},
        unsigned={"User-Agent": user_agent, **(proxy_headers(proxy or "") if forwards else {})},
        origin=f"{parts.scheme}://{named}" if forwards else "",
        region=region,
        service=service,
    )
    return Target(url, origin, signer, region)


class _CaughtError(Exception):
    """Carries the request out of the client."""

    def __init__(self, request: Any) -> None:
        super().__init__()
        self.request = request


async def _caught(client: Any, function: str, qualifier: str | None) -> tuple[str, str]:
    from botocore.exceptions import ParamValidationError

    def catch(request: Any, **_: Any) -> None:
        raise _CaughtError(request)

    event = "before-send.lambda.Invoke"
    client.meta.events.register_first(event, catch)
    arguments: dict[str, Any] = {"FunctionName": function, "Payload": b"{}"}
    if qualifier is not None:
        arguments["Qualifier"] = qualifier
    try:
        await client.invoke(**arguments)
    except _CaughtError as caught:
        authorization = caught.request.headers.get("Authorization", "")
        text = authorization.decode() if isinstance(authorization, bytes) else authorization
        return caught.request.url, text
    except (ParamValidationError, ValueError) as error:
        msg = f"the function {function!r} can't be invoked: {error}"
        raise UsageError(msg) from error
    finally:
        client.meta.events.unregister(event, catch)
    raise BackendError("botocore sent a request that should have been caught")


def _proxy(client: Any, url: str) -> str | None:
    from botocore.utils import get_environ_proxies

    proxies = client.meta.config.proxies
    if proxies is None:
        proxies = get_environ_proxies(url)
    proxy = proxies.get(urlsplit(url).scheme)
    if not proxy:
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    scheme = urlsplit(proxy).scheme
    if scheme not in {"http", "https"}:
        msg = f"the proxy {scheme}://… is none that fanout can use: http or https"
        raise UsageError(msg)
    return str(proxy)


def _trust(session: aioboto3.Session, verify: bool | str | None) -> ssl.SSLContext:
    """Whom botocore would trust: an argument, AWS_CA_BUNDLE or the profile, or its own bundle."""
    from botocore.httpsession import get_cert_path

    if verify is None:
        verify = session._session.get_config_variable("ca_bundle")
    if verify is None:
        verify = os.environ.get("REQUESTS_CA_BUNDLE") or True
    if verify is False:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    path = get_cert_path(verify)
    try:
        context = ssl.create_default_context(cafile=path)
    except (OSError, ssl.SSLError) as error:
        msg = f"the file of certificates {path!r} can't be read: {error}"
        raise UsageError(msg) from error
    return context
