"""Objects in a bucket of S3.

An object is there or not, since S3 shows none before it is complete, and `If-None-Match: *` keeps
two that store the same from doing it twice. Large ones travel in parts, several at a time.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import numpy as np

from fanout.errors import StoreError, UsageError
from fanout.stores.keys import check_key, check_prefix
from fanout.stores.s3_bodies import body_of, together
from fanout.stores.s3_client import RefusedError, S3Client, TruncatedError
from fanout.stores.s3_parts import LEAST_PART_BYTES, PartUploads

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    import aioboto3

    from fanout.codec.parts import Buffer

# Up to here in one request: it takes 0.2 s at the 85 MB/s of one connection to S3.
SINGLE_BYTES: Final = 16 * 2**20
# https://docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteObjects.html
_DELETED_AT_ONCE: Final = 1000
_READ_BYTES: Final = 2**20
_THERE: Final = "PreconditionFailed"
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


class S3Store:
    """Objects in a bucket.

    Args:
        bucket: Its name, or the alias of an access point.
        prefix: What the keys of all objects begin with.
        region: Of the bucket; by default the session's.
        profile: Instead of AWS_PROFILE; not together with `session`.
        endpoint_url: Instead of AWS's own.
        kms_key: What to encrypt with: id, alias or ARN; by default what the bucket is set to.
        session: Credentials and settings; by default those of the environment.
        part_bytes: Of what is above 16 MiB, how much goes into one request.
        concurrency: Most requests at a time.
        rng: Draws the pauses before a request is sent again.
        sleep: Waits for so many seconds.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str = "fanout/",
        *,
        region: str | None = None,
        profile: str | None = None,
        endpoint_url: str | None = None,
        kms_key: str | None = None,
        session: aioboto3.Session | None = None,
        part_bytes: int = 8 * 2**20,
        concurrency: int = 8,
        rng: random.Random | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        if _BUCKET.fullmatch(bucket) is None:
            msg = (
                f"bucket={bucket!r} can't be the name of a bucket (3 to 63 of a-z, 0-9, . and -): "
                "pass its name without s3://; for an access point, its alias"
            )
            raise UsageError(msg)
        if part_bytes < LEAST_PART_BYTES:
            msg = f"part_bytes={part_bytes} is below what S3 takes: pass {LEAST_PART_BYTES} or more"
            raise UsageError(msg)
        if concurrency < 1:
            raise UsageError(f"concurrency={concurrency} must be 1 or more")
        if session is not None and profile is not None:
            msg = f"profile={profile!r} and session=… contradict each other: pass one of them"
            raise UsageError(msg)
        if endpoint_url is not None and "@" in urlsplit(endpoint_url).netloc:
            msg = "endpoint_url=… holds a name or password, which would travel: leave it out"
            raise UsageError(msg)
        prefix = prefix.strip("/")
        self._bucket = bucket
        self._prefix = check_prefix(f"{prefix}/") if prefix else ""
        self._part_bytes = part_bytes
        self._encryption = (
            {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key} if kms_key else {}
        )
        self._s3 = S3Client(
            bucket=bucket,
            prefix=self._prefix,
            region=region,
            profile=profile,
            endpoint_url=endpoint_url,
            kms_key=kms_key,
            session=session,
            concurrency=concurrency,
            rng=rng,
            sleep=sleep,
        )
        self._parts = PartUploads(
            self._s3, bucket=bucket, part_bytes=part_bytes, encryption=self._encryption
        )

    def __repr__(self) -> str:
        return f"<S3Store s3://{self._bucket}/{self._prefix}, {self.requests} requests>"

    @property
    def locator(self) -> Mapping[str, str | None]:
        """Where the objects are; known once the store is open."""
        where = self._s3.where
        return {
            "kind": "s3",
            "bucket": self._bucket,
            "prefix": self._prefix,
            "region": where.region,
            "endpoint": self._s3.endpoint,
            "kms": where.kms_key,
        }

    @property
    def requests(self) -> int:
        """How many requests were sent, failed ones among them."""
        return self._s3.requests

    async def start(self) -> None:
        """Find credentials and region; sends nothing to S3.

        Raises:
            UsageError: A setting makes no sense.
            StoreError: There are no credentials.
        """
        await self._s3.open()

    async def aclose(self) -> None:
        """Finish removing what uploads have left, and close all connections."""
        try:
            await self._parts.aclose()
        finally:
            await self._s3.close()

    async def put(self, key: str, parts: Sequence[Buffer]) -> bool:
        """Upload an object, unless it is there."""
        name = self._prefix + check_key(key)
        views = [memoryview(part).cast("B") for part in parts if memoryview(part).nbytes]
        size = sum(view.nbytes for view in views)
        if size <= SINGLE_BYTES:
            return await self._put_at_once(name, views, size)
        return await self._parts.put(name, views, size)

    async def get(self, key: str, nbytes: int) -> memoryview:
        """Download an object into memory of its own, which can be written to."""
        name = self._prefix + check_key(key)
        into = np.empty(nbytes, np.uint8).data
        step = max(nbytes, 1) if nbytes <= SINGLE_BYTES else self._part_bytes
        await together(
            [
                self._fetch(name, into, start, min(start + step, nbytes))
                for start in range(0, max(nbytes, 1), step)
            ]
        )
        return into

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete objects, a thousand with each request."""
        await self._delete([self._prefix + check_key(key) for key in keys])

    async def delete_prefix(self, prefix: str) -> None:
        """Delete all objects whose keys begin like this."""
        async for page in self._pages(Prefix=self._prefix + check_prefix(prefix)):
            await self._delete([found["Key"] for found in page.get("Contents", ())])

    async def folders(self, prefix: str) -> list[str]:
        """The prefixes of keys, up to the next slash, that begin like this."""
        start = self._prefix + check_prefix(prefix)
        return [
            found["Prefix"].removeprefix(self._prefix)
            async for page in self._pages(Prefix=start, Delimiter="/")
            for found in page.get("CommonPrefixes", ())
        ]

    async def _pages(self, **wanted: str) -> AsyncIterator[Mapping[str, Any]]:
        """What is found, a thousand at a time."""
        what = f"{self._url(wanted['Prefix'])}* can't be listed"
        while True:
            page = await self._s3.call(what, "list_objects_v2", **wanted)
            yield page
            if not page.get("IsTruncated"):
                return
            wanted["ContinuationToken"] = page["NextContinuationToken"]

    def _url(self, name: str) -> str:
        return f"s3://{self._bucket}/{name}"

    # To S3.

    async def _put_at_once(self, name: str, views: list[memoryview], size: int) -> bool:
        async def once(client: Any) -> None:
            await client.put_object(
                Bucket=self._bucket,
                Key=name,
                Body=await body_of(views, 0, size),
                IfNoneMatch="*",
                **self._encryption,
            )

        try:
            await self._s3.retried(f"{self._url(name)} can't be stored", once, expected={_THERE})
        except RefusedError:
            return False
        return True

    # From S3.

    async def _fetch(self, name: str, into: memoryview, start: int, stop: int) -> None:
        """Download a part of an object, or all; goes on where it broke off."""
        at = start
        size = into.nbytes
        what = f"{self._url(name)} can't be had"

        async def once(client: Any) -> None:
            nonlocal at
            wanted = {} if (at, stop) == (0, size) else {"Range": f"bytes={at}-{stop - 1}"}
            answer = await client.get_object(Bucket=self._bucket, Key=name, **wanted)
            body = answer["Body"]
            async with body:  # closes the connection, if it isn't read to its end
                _check_size(what, answer, size)
                while piece := await body.read(_READ_BYTES):
                    end = at + len(piece)
                    if end > stop:
                        raise _of_another_size(what, f"more than {stop:,}", size)
                    into[at:end] = piece
                    at = end
            if at < stop:
                raise TruncatedError(f"an answer that ended after {at - start:,} bytes")

        try:
            await self._s3.retried(what, once, expected={"InvalidRange", "416"})
        except RefusedError as error:
            raise _of_another_size(what, "fewer", size) from error

    async def _delete(self, names: Sequence[str]) -> None:
        await together(
            [
                self._delete_some(list(names[at : at + _DELETED_AT_ONCE]))
                for at in range(0, len(names), _DELETED_AT_ONCE)
            ]
        )

    async def _delete_some(self, names: list[str]) -> None:
        """Delete a thousand at most; S3 may refuse each on its own."""
        what = f"{len(names)} objects of s3://{self._bucket} can't be deleted"

        async def once(client: Any) -> None:
            from botocore.exceptions import ClientError

            answer = await client.delete_objects(
                Bucket=self._bucket,
                Delete={"Objects": [{"Key": name} for name in names], "Quiet": True},
            )
            if failed := answer.get("Errors"):
                names[:] = [one["Key"] for one in failed]
                # Told as if the whole request had failed, so that the same rules apply.
                raise ClientError({"Error": failed[0]}, "DeleteObjects")

        await self._s3.retried(what, once)


def _check_size(what: str, answer: Mapping[str, Any], size: int) -> None:
    described = answer.get("ContentRange")
    found = described.rpartition("/")[2] if described else answer["ContentLength"]
    if str(found) != str(size):
        raise _of_another_size(what, f"{int(found):,}", size)


def _of_another_size(what: str, found: str, size: int) -> StoreError:
    return StoreError(
        f"{what}: it holds {found} bytes instead of {size:,}: something else wrote it; delete it, "
        "and put the object again"
    )
