"""Requests to one bucket: sent again where that helps, and explained where it doesn't.

aioboto3 decides what is decided once (credentials, region, endpoint, trust, proxy) and sends the
requests. Its retries are off, since they don't cover a body that breaks off half-way; and so is
its following of redirects, since the far end has to know the bucket's true region, too.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

from fanout.aws import client_of, no_credentials
from fanout.errors import StoreError
from fanout.stores.s3_errors import Refusal, Where, explained, still_failing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    import aioboto3

_T = TypeVar("_T")

ATTEMPTS: Final = 6
# Full jitter: pauses are drawn from 0 to these, doubled each time; all together 7.75 s at most.
_PAUSE_S: Final = 0.25
_MOST_PAUSE_S: Final = 8.0
# For one request with its body, the largest of which is 16 MiB: 56 KB/s. aiohttp has no timeout for
# sending, and a peer that is gone would be noticed after a quarter of an hour.
_REQUEST_S: Final = 300.0
# What botocore calls the region of a bucket when none is set.
_NO_REGION: Final = "aws-global"


class RefusedError(Exception):
    """A refusal that the caller expects."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal


class TruncatedError(Exception):
    """The body of an answer ended too early."""


class S3Client:
    """A client of S3, for one bucket.

    Args:
        bucket: Its name.
        prefix: What all keys begin with; for messages.
        region: Instead of the session's.
        profile: Instead of AWS_PROFILE.
        endpoint_url: Instead of AWS's own.
        kms_key: For messages.
        session: Credentials and settings; by default those of the environment.
        concurrency: Most requests at a time.
        rng: Draws the pauses.
        sleep: Waits.
    """

    def __init__(
        self,
        *,
        bucket: str,
        prefix: str,
        region: str | None,
        profile: str | None,
        endpoint_url: str | None,
        kms_key: str | None,
        session: aioboto3.Session | None,
        concurrency: int,
        rng: random.Random | None,
        sleep: Callable[[float], Awaitable[object]],
    ) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self._region = region
        self._profile = profile
        self._endpoint_url = endpoint_url
        self._kms_key = kms_key
        self._given = session
        self._concurrency = concurrency
        self._rng = rng or random.Random()  # noqa: S311 - spreads pauses
        self._sleep = sleep
        self._open = AsyncExitStack()
        self._slots = asyncio.Semaphore(concurrency)
        self._client: Any = None
        self._where: Where | None = None
        self.endpoint: str | None = None
        self.requests = 0

    @property
    def where(self) -> Where:
        """Bucket and region, once it is open."""
        if self._where is None:
            msg = f"the store s3://{self._bucket} isn't open: start it before it is used"
            raise StoreError(msg)
        return self._where

    async def open(self) -> None:
        """Find credentials, region and endpoint; asks nothing of S3."""
        self._slots = asyncio.Semaphore(self._concurrency)
        try:
            await self._resolve()
        except BaseException:
            await self.close()
            raise

    async def _resolve(self) -> None:
        self._client, _, _ = await self._open.enter_async_context(
            client_of(
                "s3",
                lacking=_no_credentials,
                session=self._given,
                profile=self._profile,
                region=self._region,
                endpoint_url=self._endpoint_url,
                read_timeout=60,
                max_pool_connections=self._concurrency,
                # Parts have none to compare with; whoever asked for an object checks it.
                response_checksum_validation="when_required",
            )
        )
        meta = self._client.meta
        meta.events.register_last("before-call.s3", _follow_no_redirect)
        named = meta.region_name
        self._where = Where(
            bucket=self._bucket,
            prefix=self._prefix,
            region="us-east-1" if named in {None, _NO_REGION} else named,
            partition=meta.partition,
            kms_key=self._kms_key,
        )
        self.endpoint = self._endpoint_url or _other_than_usual(meta.endpoint_url, named)

    async def close(self) -> None:
        """Close all connections."""
        self._client = None
        await self._open.aclose()

    async def call(
        self, what: str, operation: str, *, expected: Collection[str] = (), **arguments: Any
    ) -> Any:
        """Send one request until it is answered, and have the answer.

        Args:
            what: "s3://bucket/key can't be stored": how a message begins.
            operation: A method of the client.
            expected: Codes of refusals to raise as `RefusedError`, at once.
            **arguments: Of the method, but the bucket.
        """

        async def once(client: Any) -> Any:
            return await getattr(client, operation)(Bucket=self._bucket, **arguments)

        return await self.retried(what, once, expected=expected)

    async def retried(
        self,
        what: str,
        once: Callable[[Any], Awaitable[_T]],
        *,
        expected: Collection[str] = (),
    ) -> _T:
        """Do something that takes one request, again while that may help.

        Args:
            what: How a message begins.
            once: Does it, with the client.
            expected: Codes of refusals to raise as `RefusedError`, at once.

        Raises:
            StoreError: It can't be done.
            RefusedError: As expected.
        """
        attempt = 0
        while True:
            attempt += 1
            async with self._slots:
                if self._client is None:
                    raise StoreError(f"{what}: the store is closed")
                self.requests += 1
                try:
                    async with asyncio.timeout(_REQUEST_S):
                        return await once(self._client)
                except Exception as error:  # noqa: BLE001 - raised again, but what may pass
                    last = self._passing(what, error, expected)
                    cause = error
            if attempt == ATTEMPTS:
                raise StoreError(f"{what}: {still_failing(last, attempt)}") from cause
            await self.pause(attempt)

    async def pause(self, attempt: int) -> None:
        """Wait after this attempt, counted from 1."""
        most_s = min(_MOST_PAUSE_S, _PAUSE_S * 2 ** (attempt - 1))
        await self._sleep(self._rng.uniform(0, most_s))

    def _passing(self, what: str, error: Exception, expected: Collection[str]) -> Refusal | str:
        """What happened, if it may pass.

        Raises:
            StoreError: It won't.
            RefusedError: The caller knows better.
        """
        import aiohttp
        from botocore import exceptions as boto
        from botocore.parsers import ResponseParserError

        if isinstance(error, boto.ClientError):
            refusal = _refusal(error)
            if refusal.code in expected:
                raise RefusedError(refusal) from error
            if not refusal.is_passing:
                raise StoreError(f"{what}: {explained(refusal, self.where)}") from error
            return refusal
        if isinstance(error, boto.SSLError) and "CERTIFICATE" in str(error).upper():
            msg = (
                f"{what}: the certificate of the other side isn't trusted ({error}): if a proxy of "
                "your organisation is in between, set AWS_CA_BUNDLE to its certificates"
            )
            raise StoreError(msg) from error
        passing = (
            OSError,  # TimeoutError is one
            TruncatedError,
            aiohttp.ClientError,
            boto.HTTPClientError,
            boto.ConnectionError,
            ResponseParserError,  # an answer that isn't S3's: a proxy's page, or half of one
        )
        if isinstance(error, passing):
            return str(error) or type(error).__name__
        if isinstance(
            error,
            boto.NoCredentialsError
            | boto.PartialCredentialsError
            | boto.CredentialRetrievalError
            | boto.SSOError
            | boto.TokenRetrievalError,
        ):
            raise _no_credentials(error) from error
        if isinstance(error, boto.BotoCoreError):
            raise StoreError(f"{what}: {error}") from error
        raise error


def _follow_no_redirect(context: dict[str, Any], **_: Any) -> None:
    """Have botocore believe that it has done so."""
    context.setdefault("s3_redirect", {})["redirected"] = True


def _refusal(error: Any) -> Refusal:
    told = error.response.get("Error", {})
    meta = error.response.get("ResponseMetadata", {})
    region = meta.get("HTTPHeaders", {}).get("x-amz-bucket-region") or told.get("Region")
    return Refusal(
        code=str(told.get("Code", "unknown")),
        status=int(meta.get("HTTPStatusCode", 0)),
        message=str(told.get("Message", "")),
        region=region,
    )


def _other_than_usual(url: str, region: str | None) -> str | None:
    """The endpoint, unless it is what everybody would use for the region."""
    host = urlsplit(url).hostname or ""
    is_usual = host == "s3.amazonaws.com" or host in {
        f"s3.{region}.amazonaws.com",
        f"s3.{region}.amazonaws.com.cn",
    }
    return None if is_usual else url


def _no_credentials(why: object) -> StoreError:
    without = "without an account, use a directory as the store"
    return StoreError(no_credentials(why, what_for="for the store", without=without))
