"""A store in S3, spoken to by requests of our own: GET with a range, PUT, DELETE.

Requests that fail for a passing reason are sent again here, and nowhere else, since all of them
may be repeated: objects never change. Credentials are those of the environment at the moment of a
request, as Lambda sets them; what else the environment says, see `s3_settings`.
"""

from __future__ import annotations

import functools
import hashlib
import random
import re
import time
from http.client import HTTPException
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import SplitResult, urlsplit

from fanout.errors import StoreError
from fanout.far_stores.checks import check_range, checked_etag, checked_key, readable_key
from fanout.far_stores.s3_answers import (
    ExchangedError,
    NoSuchRangeError,
    PassingError,
    Place,
    Refusal,
    error_of,
    refusal,
)
from fanout.far_stores.s3_download import Download, total_of
from fanout.far_stores.s3_http import Connections, error_body
from fanout.far_stores.s3_settings import (
    configured_endpoint,
    credentials,
    https_proxy,
    own_host,
)
from fanout.far_stores.s3_signing import quoted, signed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from http.client import HTTPResponse

    from fanout.codec import Buffer

_T = TypeVar("_T")

# A request answered by a 503 is cheap; the sixth comes after 1.6 s on average, 3.1 s at most.
ATTEMPTS: Final = 6
BACKOFF_S: Final = 0.1
BACKOFF_CAP_S: Final = 5.0
# S3's limit for one PUT; beyond it, an upload goes in parts.
PUT_BYTES: Final = 5 << 30
_NAME: Final = re.compile(r"[A-Za-z0-9._-]+")
_EMPTY_DIGEST: Final = hashlib.sha256(b"").hexdigest()


class S3Store:
    """Objects in a bucket, under keys that begin with a prefix.

    Args:
        bucket: Its name.
        prefix: What keys begin with; taken as it is, so it ends with a slash if it is a folder.
        region: Where the bucket is.
        endpoint: URL of what stands in for S3; None for what the environment says, or AWS.
        kms_key: Id of the KMS key to encrypt with; None leaves that to the bucket.
        rng: For the back-off.
        sleep: For the back-off, seconds.
    """

    is_local: Final = False

    def __init__(
        self,
        *,
        bucket: str,
        prefix: str = "",
        region: str,
        endpoint: str | None = None,
        kms_key: str | None = None,
        rng: random.Random | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        for name, value in (("bucket", bucket), ("region", region)):
            # They become part of a host's name, and a locator comes from outside.
            if _NAME.fullmatch(value) is None:
                msg = f"{value[:80]!r} is no {name}: use letters, digits, '.', '_' and '-'"
                raise StoreError(msg)
        self._place = Place(bucket=bucket, prefix=prefix, region=region)
        self._kms_key = kms_key
        self._rng = rng or random.Random()  # noqa: S311  jitter
        self._sleep = sleep
        endpoint = endpoint or configured_endpoint()
        # A certificate covers one name before the region, so a name with dots goes into the path.
        is_in_path = bool(endpoint) or "." in bucket
        own = own_host(region)
        url, port = _parsed(endpoint or f"https://{own if is_in_path else f'{bucket}.{own}'}")
        folder = url.path.rstrip("/")
        self._root = f"{folder}/{quoted(bucket)}/" if is_in_path else "/"
        self._host = url.netloc.rpartition("@")[2]
        self._name = url.hostname or ""
        self._is_tls = url.scheme == "https"
        self._connections = Connections(self._name, port, is_tls=self._is_tls)

    def get(
        self, key: str, *, start: int = 0, stop: int | None = None, etag: str | None = None
    ) -> memoryview:
        """The bytes [start, stop) of an object; many come in parts, several at a time."""
        check_range(start, stop)
        readable_key(key)
        meant = None if etag is None else checked_etag(etag)
        if stop == start:
            return memoryview(b"")
        ask = functools.partial(self._ask_range, key)
        return Download(ask, self._shown(key), start, stop, meant).run()

    def size(self, key: str) -> int:
        """How many bytes an object has."""

        def read(response: HTTPResponse) -> int:
            response.read()
            return total_of(response)

        try:
            # Not HEAD, whose errors have no body that says what is wrong.
            return self._ask_range(readable_key(key), 0, 1, read)
        except NoSuchRangeError as error:
            return error.nbytes

    def put(self, key: str, parts: Sequence[Buffer], *, digest: str | None = None) -> None:
        """Make an object, unless it is there."""
        views = [memoryview(part) for part in parts]
        body = [view.cast("B") for view in views if view.nbytes]  # nothing can't be cast
        nbytes = sum(part.nbytes for part in body)
        if nbytes > PUT_BYTES:
            msg = (
                f"object {key} has {nbytes / 1e9:.1f} GB, and S3 takes {PUT_BYTES / 1e9:.1f} GB at "
                "a time: return less from a kernel, or make chunks smaller"
            )
            raise StoreError(msg)
        headers = {"If-None-Match": "*"}
        if self._kms_key:
            headers["x-amz-server-side-encryption"] = "aws:kms"
            headers["x-amz-server-side-encryption-aws-kms-key-id"] = self._kms_key

        def read(response: HTTPResponse) -> None:
            # 412: it is there, perhaps by an attempt whose answer was lost.
            if response.status != 412:
                self._expect(response, {200, 201, 204}, "PUT", key)
            error_body(response)

        self._repeated("PUT", checked_key(key), headers, body, digest or _sha256(body), read)

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""

        def read(response: HTTPResponse) -> None:
            if response.status == 404:
                refused = _refused(response)
                if refused.code == "NoSuchBucket":
                    raise error_of(refused, "DELETE", key, self._place)
                return
            self._expect(response, {200, 202, 204}, "DELETE", key)
            error_body(response)

        self._repeated("DELETE", checked_key(key), {}, (), _EMPTY_DIGEST, read)

    def close(self) -> None:
        """Close idle connections."""
        self._connections.close()

    def _ask_range(
        self,
        key: str,
        start: int,
        stop: int,
        read: Callable[[HTTPResponse], _T],
        etag: str | None = None,
    ) -> _T:
        """GET a range, as often as it takes; gives what `read` makes of the answer.

        Raises:
            StoreError: It can't be had.
            NoSuchRangeError: The object ends before it.
            ExchangedError: It has another ETag.
        """
        headers = {"Range": f"bytes={start}-{stop - 1}"}
        if etag is not None:
            headers["If-Match"] = etag

        def checked(response: HTTPResponse) -> _T:
            if response.status == 412 and etag is not None:
                error_body(response)
                raise ExchangedError
            if response.status == 416:
                refused = _refused(response)
                if refused.nbytes is None:
                    raise error_of(refused, "GET", key, self._place)
                raise NoSuchRangeError(refused.nbytes)
            self._expect(response, {200, 206}, "GET", key)
            if _first(response) != start:
                msg = f"the endpoint answered another range than {headers['Range']}: use S3 itself"
                raise StoreError(msg)
            return read(response)

        return self._repeated("GET", key, headers, (), _EMPTY_DIGEST, checked)

    def _shown(self, key: str) -> str:
        """An object, for messages."""
        return f"object {key} in {self._place}"

    def _expect(
        self, response: HTTPResponse, statuses: Iterable[int], method: str, key: str
    ) -> None:
        if response.status in statuses:
            return
        refused = _refused(response)
        if refused.may_pass:
            raise PassingError(str(refused))
        raise error_of(refused, method, key, self._place)

    def _repeated(
        self,
        method: str,
        key: str,
        headers: dict[str, str],
        body: Sequence[memoryview],
        body_digest: str,
        read: Callable[[HTTPResponse], _T],
    ) -> _T:
        """Send a request until it is answered for good."""
        path = self._root + quoted(self._place.prefix + key)
        error: Exception | None = None
        for attempt in range(ATTEMPTS):
            if attempt:
                longest_s = min(BACKOFF_CAP_S, BACKOFF_S * 2 ** (attempt - 1))
                self._sleep(self._rng.uniform(0, longest_s))
            sent = signed(
                method=method,
                path=path,
                headers={"Host": self._host, **headers},
                body_digest=body_digest,
                credentials=credentials(),
                region=self._place.region,
                now_s=time.time(),
            )
            if method == "PUT":
                sent["Content-Length"] = str(sum(part.nbytes for part in body))
            try:
                with self._connections.answer(method, path, sent, body) as response:
                    return read(response)
            except (PassingError, OSError, HTTPException) as failed:
                error = failed
                if _is_distrust(failed):
                    break
        raise self._given_up(method, key, error) from error

    def _given_up(self, method: str, key: str, error: Exception | None) -> StoreError:
        said = f"{method} of {self._shown(key)} failed"
        if isinstance(error, PassingError):
            return StoreError(
                f"{said} {ATTEMPTS} times, the last time by {error}: run fewer workers at a time, "
                "or later"
            )
        how = f"{type(error).__name__}: {error}".removesuffix(": ")
        if _is_distrust(error):
            return StoreError(
                f"{said} ({how}): name the certificates to trust in AWS_CA_BUNDLE, or see who "
                f"answers at {self._host}"
            )
        said = f"{said} {ATTEMPTS} times, the last time by {how}"
        if self._is_tls and https_proxy(self._name):
            return StoreError(
                f"{said}: see whether {self._host} can be reached through the proxy that "
                "HTTPS_PROXY names, or add it to NO_PROXY"
            )
        return StoreError(
            f"{said}: see whether {self._host} can be reached from there; a function in a VPC "
            "needs a gateway endpoint for S3"
        )


def _parsed(endpoint: str) -> tuple[SplitResult, int | None]:
    """An endpoint, and its port."""
    try:
        url = urlsplit(endpoint)
        port = url.port
    except ValueError:
        url, port = SplitResult("", "", "", "", ""), None
    if url.scheme not in {"http", "https"} or not url.hostname:
        msg = (
            f"{endpoint!r} is no endpoint: pass a URL like https://host:port, or None for AWS (and "
            "see AWS_ENDPOINT_URL_S3 and AWS_ENDPOINT_URL at the worker)"
        )
        raise StoreError(msg)
    return url, port


def _sha256(body: Iterable[memoryview]) -> str:
    digest = hashlib.sha256()
    for part in body:
        digest.update(part)
    return digest.hexdigest()


def _refused(response: HTTPResponse) -> Refusal:
    return refusal(response.status, dict(response.getheaders()), error_body(response))


def _first(response: HTTPResponse) -> int:
    """The first byte of the range that this is."""
    if response.status == 200:
        return 0
    told = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    return int(told) if told.isdecimal() else -1


def _is_distrust(error: BaseException | None) -> bool:
    """Whether the other side's certificate isn't trusted: that doesn't pass."""
    return type(error).__name__ == "SSLCertVerificationError"
