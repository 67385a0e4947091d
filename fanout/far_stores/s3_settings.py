"""What a worker's environment says about S3: where it is, whose requests these are, whom to trust.

Called as the AWS SDKs call it, and read without botocore, whose import alone is half a second of
every cold start:

- AWS_ENDPOINT_URL_S3 and AWS_ENDPOINT_URL, unless AWS_IGNORE_CONFIGURED_ENDPOINT_URLS is true;
  AWS_USE_FIPS_ENDPOINT and AWS_USE_DUALSTACK_ENDPOINT.
- AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, at each request.
- AWS_CA_BUNDLE, HTTPS_PROXY and NO_PROXY, at a store's first connection and at each.

Not known here: the files in ~/.aws with their profiles, SSO, credentials from a metadata server (so
neither SnapStart's), a proxy that speaks https itself, and HTTP_PROXY, as only what stands in for
S3 is spoken to without TLS.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, unquote, urlsplit

from fanout.errors import StoreError
from fanout.far_stores.s3_answers import partition
from fanout.sigv4 import Credentials

if TYPE_CHECKING:
    import ssl

_PROXY_PORT: Final = 80  # what curl and urllib take for a proxy without one


def configured_endpoint() -> str | None:
    """The URL of S3, or of what stands in for it; None for AWS's own."""
    if _is_on("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"):
        return None
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def own_host(region: str) -> str:
    """The host of AWS's own S3 in a region."""
    service = "s3-fips" if _is_on("AWS_USE_FIPS_ENDPOINT") else "s3"
    stack = ".dualstack" if _is_on("AWS_USE_DUALSTACK_ENDPOINT") else ""
    domain = "amazonaws.com.cn" if partition(region) == "aws-cn" else "amazonaws.com"
    return f"{service}{stack}.{region}.{domain}"


def credentials() -> Credentials:
    """Those of the environment, as they are now.

    Raises:
        StoreError: There are none.
    """
    access_key = os.environ.get("AWS_ACCESS_KEY_ID")
    secret_key = os.environ.get("AWS_SECRET_ACCESS_KEY")
    if not access_key or not secret_key:
        msg = (
            "there are no credentials for S3: Lambda sets AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN) from the function's role; elsewhere, "
            'set them before you start, as eval "$(aws configure export-credentials --format env)" '
            "does, since workers read no profile"
        )
        raise StoreError(msg)
    return Credentials(access_key, secret_key, os.environ.get("AWS_SESSION_TOKEN") or None)


def trust() -> ssl.SSLContext:
    """Whose certificates are believed: those of AWS_CA_BUNDLE, or the system's.

    Raises:
        StoreError: The former can't be read.
    """
    import ssl

    bundle = os.environ.get("AWS_CA_BUNDLE") or None
    try:
        return ssl.create_default_context(cafile=bundle)
    except OSError as error:  # SSLError is one
        msg = (
            f"the certificates in AWS_CA_BUNDLE={bundle} can't be read ({error}): name a file of "
            "certificates (PEM), or unset it"
        )
        raise StoreError(msg) from error


def https_proxy(host: str) -> SplitResult | None:
    """The URL of the proxy on the way to a host; None if there is none.

    Raises:
        StoreError: It is of a kind that can't be used here.
    """
    if not (os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy")):
        return None
    # As botocore asks; imported only where there is a proxy, since it takes its time.
    from urllib.request import (  # type: ignore[attr-defined]  # typeshed lacks the second
        getproxies_environment,
        proxy_bypass_environment,
    )

    told = getproxies_environment().get("https")
    if not told or proxy_bypass_environment(host):
        return None
    try:
        url = urlsplit(told if "://" in told else f"http://{told}")
        is_usable = url.scheme == "http" and bool(url.hostname) and url.port != 0
    except ValueError:
        is_usable = False
    if not is_usable:
        # Not shown: there may be a password in it.
        msg = "HTTPS_PROXY names no proxy that workers can use: set it to http://host:port"
        raise StoreError(msg)
    return url


def proxy_port(proxy: SplitResult) -> int:
    """The port of a proxy."""
    return proxy.port or _PROXY_PORT


def proxy_headers(proxy: SplitResult) -> dict[str, str]:
    """What a proxy is told, where its URL has a user."""
    if proxy.username is None:
        return {}
    import base64

    user = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(user.encode()).decode()}"}


def _is_on(name: str) -> bool:
    return os.environ.get(name, "").strip().lower() == "true"
