"""Uploads in parts: several at a time, and none of them left when the whole isn't finished.

S3 keeps the parts of an upload, and bills them, until it is completed or aborted. So each one that
is begun comes to one of these ends, also when it is cancelled, for as long as the process lives.
"""

from __future__ import annotations

import asyncio
import logging
import re
from typing import TYPE_CHECKING, Any, Final

from fanout.errors import StoreError
from fanout.stores.s3_bodies import body_of, together
from fanout.stores.s3_client import ATTEMPTS, RefusedError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from fanout.stores.s3_client import S3Client

_LOG: Final = logging.getLogger("fanout")

# https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
LEAST_PART_BYTES: Final = 5 * 2**20
_MOST_PARTS: Final = 10_000
# To end an unfinished upload, while somebody waits for a cancellation.
_ABORT_S: Final = 10.0
_THERE: Final = "PreconditionFailed"
_CONFLICT: Final = "ConditionalRequestConflict"
_GONE: Final = "NoSuchUpload"
_CHECKSUM: Final = re.compile("Checksum(CRC|SHA)")


class PartUploads:
    """Uploads objects in parts.

    Args:
        s3: Sends the requests.
        bucket: Where to.
        part_bytes: How much goes into one request.
        encryption: What an upload is begun with.
    """

    def __init__(
        self, s3: S3Client, *, bucket: str, part_bytes: int, encryption: Mapping[str, str]
    ) -> None:
        self._s3 = s3
        self._bucket = bucket
        self._part_bytes = part_bytes
        self._encryption = encryption
        self._ending: set[asyncio.Task[None]] = set()

    async def aclose(self) -> None:
        """Wait until all that were given up are removed."""
        while self._ending:
            await asyncio.wait(self._ending)

    async def put(self, name: str, views: list[memoryview], size: int) -> bool:
        """Upload an object, unless it is there; returns whether it was."""
        for attempt in range(1, ATTEMPTS + 1):
            if await self._is_there(name):
                return False
            try:
                return await self._upload(name, views, size)
            except RefusedError as error:
                if error.refusal.code == _THERE:
                    return False
                # Another upload of the same was faster, or somebody ended this one.
                last = error
            await self._s3.pause(attempt)
        msg = (
            f"{self._url(name)} can't be stored: {ATTEMPTS} uploads of it were ended by others "
            f"({last.refusal}): run it again, and look for a rule that ends uploads"
        )
        raise StoreError(msg) from last

    async def _is_there(self, name: str) -> bool:
        """Ask; a refusal means no, since the upload will tell what is wrong."""
        what = f"{self._url(name)} can't be looked for"
        unknown = {"404", "NotFound", "403", "Forbidden", "400", "Bad Request", "301"}
        try:
            await self._s3.call(what, "head_object", Key=name, expected=unknown)
        except RefusedError:
            return False
        return True

    async def _upload(self, name: str, views: list[memoryview], size: int) -> bool:
        upload = await self._begun(name)
        try:
            step = max(self._part_bytes, -(-size // _MOST_PARTS))
            parts = await together(
                [
                    self._sent(name, upload, views, number, start, min(start + step, size))
                    for number, start in enumerate(range(0, size, step), 1)
                ]
            )
            return await self._completed(name, upload, parts)
        except BaseException:
            await self._end(self._abort(name, upload))
            raise

    async def _begun(self, name: str) -> str:
        """Begin an upload; when this is cancelled, the upload is ended all the same."""
        what = f"{self._url(name)} can't be stored"
        begin = self._s3.call(what, "create_multipart_upload", Key=name, **self._encryption)
        task: asyncio.Task[Any] = asyncio.create_task(begin)
        try:
            answer = await asyncio.shield(task)
        except asyncio.CancelledError:
            await self._end(self._abort_begun(name, task))
            raise
        upload: str = answer["UploadId"]
        return upload

    async def _sent(
        self, name: str, upload: str, views: list[memoryview], number: int, start: int, stop: int
    ) -> dict[str, Any]:
        """Upload one part; returns what completes the upload."""

        async def once(client: Any) -> Any:
            return await client.upload_part(
                Bucket=self._bucket,
                Key=name,
                UploadId=upload,
                PartNumber=number,
                Body=await body_of(views, start, stop),
            )

        what = f"{self._url(name)} can't be stored"
        answer = await self._s3.retried(what, once, expected={_GONE})
        about = {"PartNumber": number, "ETag": answer["ETag"]}
        # S3 wants the checksums again that botocore has sent along.
        return about | {key: answer[key] for key in answer if _CHECKSUM.match(key)}

    async def _completed(self, name: str, upload: str, parts: list[dict[str, Any]]) -> bool:
        try:
            await self._s3.call(
                f"{self._url(name)} can't be stored",
                "complete_multipart_upload",
                Key=name,
                UploadId=upload,
                MultipartUpload={"Parts": parts},
                IfNoneMatch="*",
                expected={_THERE, _CONFLICT, _GONE},
            )
        except RefusedError as error:
            # Completed, but the answer was lost, and this was the second attempt?
            if error.refusal.code == _GONE and await self._is_there(name):
                return True
            raise
        return True

    async def _abort_begun(self, name: str, begun: asyncio.Task[Any]) -> None:
        await asyncio.wait([begun], timeout=_ABORT_S)
        if not begun.done():
            begun.cancel()
            await asyncio.wait([begun])
        if not begun.cancelled() and begun.exception() is None:
            await self._abort(name, begun.result()["UploadId"])

    async def _abort(self, name: str, upload: str) -> None:
        """End an upload, so that its parts aren't kept, and billed."""
        what = f"the unfinished upload of {self._url(name)} can't be ended"
        abort = self._s3.call(
            what, "abort_multipart_upload", Key=name, UploadId=upload, expected={_GONE}
        )
        try:
            async with asyncio.timeout(_ABORT_S):
                await abort
        except RefusedError:
            return
        except (StoreError, TimeoutError) as error:
            _LOG.warning(
                "fanout: %s; its parts are billed until they are deleted: set the bucket a "
                "lifecycle rule with AbortIncompleteMultipartUpload",
                error if str(error) else f"{what} within {_ABORT_S:g} s",
            )

    async def _end(self, work: Coroutine[Any, Any, None]) -> None:
        """Have something done that must be; if this is cancelled, by the time of `aclose`."""
        task = asyncio.create_task(work)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        await asyncio.shield(task)

    def _url(self, name: str) -> str:
        return f"s3://{self._bucket}/{name}"
