"""The contenders that carry an object: into a bucket or a directory, and back.

Each is a function of a key. Peers have the settings that they come with. What blocks runs in a
thread, as an asyncio program would have it. Credentials are dummies.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from fanout.far_stores import open_store
from fanout.stores import DirectoryStore, S3Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from pathlib import Path

    Put: TypeAlias = Callable[[str], Awaitable[object]]
    Get: TypeAlias = Callable[[str], Awaitable[memoryview]]

BUCKET: Final = "bench"
# Of S3Store, which puts it before every key.
PREFIX: Final = "fanout/"
_REGION: Final = "us-east-1"
CREDENTIALS: Final = {
    "AWS_ACCESS_KEY_ID": "000000000000",  # ministack takes it for an account
    "AWS_SECRET_ACCESS_KEY": "any",
    "AWS_DEFAULT_REGION": _REGION,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Contenders:
    """Who takes turns.

    Attributes:
        puts: Store the object under a key that is new.
        gets: Have the object that is stored under a key.
        remove: Removes what was put; not measured.
    """

    puts: Mapping[str, Put]
    gets: Mapping[str, Get]
    remove: Callable[[str], Awaitable[object]]


@asynccontextmanager
async def of_s3(url: str, content: bytes) -> AsyncIterator[Contenders]:
    """Ours, both sides, and the two clients of AWS.

    Args:
        url: What stands in for S3.
        content: The object.
    """
    import aioboto3
    import boto3

    digest = hashlib.sha256(content).digest()
    async with AsyncExitStack() as running:
        peer = running.enter_context(closing(boto3.client("s3", endpoint_url=url)))
        aio = await running.enter_async_context(aioboto3.Session().client("s3", endpoint_url=url))
        await asyncio.to_thread(peer.create_bucket, Bucket=BUCKET)
        store = S3Store(BUCKET, PREFIX, endpoint_url=url)
        await store.start()
        running.push_async_callback(store.aclose)
        far = open_store(store.locator)
        running.callback(far.close)

        async def by_boto3(key: str) -> None:
            await asyncio.to_thread(peer.upload_fileobj, io.BytesIO(content), BUCKET, PREFIX + key)

        async def by_aioboto3(key: str) -> None:
            await aio.upload_fileobj(io.BytesIO(content), BUCKET, PREFIX + key)

        async def got_by_boto3(key: str) -> memoryview:
            into = io.BytesIO()
            await asyncio.to_thread(peer.download_fileobj, BUCKET, PREFIX + key, into)
            return into.getbuffer()

        async def got_by_aioboto3(key: str) -> memoryview:
            into = io.BytesIO()
            await aio.download_fileobj(BUCKET, PREFIX + key, into)
            return into.getbuffer()

        async def far_checked(key: str) -> memoryview:
            found = await asyncio.to_thread(far.get, key)
            hashed = await asyncio.to_thread(hashlib.sha256, found)
            assert hashed.digest() == digest
            return found

        yield Contenders(
            puts={
                "fanout": lambda key: store.put(key, [content]),
                "fanout_far": lambda key: asyncio.to_thread(far.put, key, [content]),
                "boto3": by_boto3,
                "aioboto3": by_aioboto3,
            },
            gets={
                "fanout_far": lambda key: asyncio.to_thread(far.get, key),
                "fanout_far_checked": far_checked,
                "fanout": lambda key: store.get(key, len(content)),
                "boto3": got_by_boto3,
                "aioboto3": got_by_aioboto3,
            },
            remove=lambda key: store.delete([key]),
        )


@asynccontextmanager
async def of_directory(folder: Path, content: bytes) -> AsyncIterator[Contenders]:
    """Ours, both sides, and a plain file. What is got is read once, since a map alone is nothing.

    Args:
        folder: Where the files go.
        content: The object.
    """
    store = DirectoryStore(folder)
    await store.start()
    far = open_store(store.locator)

    async def by_plain_file(key: str) -> None:
        await asyncio.to_thread((folder / key).write_bytes, content)

    async def got_by_fanout(key: str) -> memoryview:
        return read_through(await store.get(key, len(content)))

    async def got_by_far(key: str) -> memoryview:
        return read_through(far.get(key))

    async def got_by_plain_file(key: str) -> memoryview:
        return read_through(memoryview((folder / key).read_bytes()))

    yield Contenders(
        puts={
            "fanout": lambda key: store.put(key, [content]),
            "fanout_far": lambda key: asyncio.to_thread(far.put, key, [content]),
            "plain_file": by_plain_file,
        },
        gets={
            "fanout": got_by_fanout,
            "fanout_far": got_by_far,
            "plain_file": got_by_plain_file,
        },
        remove=lambda key: store.delete([key]),
    )
    await store.aclose()


def read_through(found: memoryview) -> memoryview:
    """It, after each of its bytes was looked at."""
    np.frombuffer(found, np.uint64, found.nbytes // 8).sum()
    return found


def set_credentials() -> None:
    """Have all clients use the dummies."""
    os.environ |= CREDENTIALS
