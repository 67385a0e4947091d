"""Input straight from storage: chunks that name bytes, which the worker reads itself.

    counts = await fanout.map(count, fanout.blocks("s3://bucket/log.txt"))     # pieces of a file
    tables = await fanout.map(load, fanout.objects("s3://bucket/day/*.parquet"))  # whole files

This is the client's side. It asks for names and sizes only, and never reads the data.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import AsyncIterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, overload

from fanout.errors import StoreError, UsageError
from fanout.stored_chunks import Block, StoredObject, blocks_of
from fanout.stored_reading import S3, parted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    import aioboto3

C_co = TypeVar("C_co", covariant=True)
Source: TypeAlias = "str | os.PathLike[str]"

_WILD: Final = "*?["
# 64 MiB: a second or so at what one Lambda reads from S3 (about 75 MB/s), so a request and the few
# KB read twice at its ends are nothing beside it, and it fits the memory of the smallest worker.
BLOCK_BYTES: Final = 64 * 2**20
# Sizes asked for at once: as many as botocore keeps connections.
_HEADS: Final = 10


class StoredChunks(AsyncIterable[C_co]):
    """Chunks that name data in storage; an input of `fanout.map`.

    Args:
        ask: Finds them; called whenever somebody iterates.
        what: How to show them.
    """

    def __init__(self, ask: Callable[[], Awaitable[Sequence[C_co]]], what: str) -> None:
        self._ask = ask
        self._what = what

    def __repr__(self) -> str:
        return f"<{self._what}>"

    async def plan(self) -> Sequence[C_co]:
        """All of them.

        Raises:
            UsageError: Nothing is there, or AWS is not set up.
            StoreError: S3 can't be asked.
        """
        return await self._ask()

    async def __aiter__(self) -> AsyncIterator[C_co]:
        for chunk in await self.plan():
            yield chunk


class LocalChunks(StoredChunks[C_co], Sequence[C_co]):
    """Chunks that name local files: a sequence, too, since their sizes are known at once.

    Args:
        chunks: These.
        what: How to show them.
    """

    def __init__(self, chunks: Sequence[C_co], what: str) -> None:
        async def known() -> Sequence[C_co]:
            return chunks

        super().__init__(known, what)
        self._chunks = chunks

    def __len__(self) -> int:
        return len(self._chunks)

    @overload
    def __getitem__(self, index: int) -> C_co: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[C_co]: ...
    def __getitem__(self, index: int | slice) -> C_co | Sequence[C_co]:
        return self._chunks[index]


Blocks: TypeAlias = StoredChunks[Block]
Objects: TypeAlias = StoredChunks[StoredObject]


def blocks(
    source: Source | Sequence[Source],
    block_bytes: int = BLOCK_BYTES,
    on: bytes | str = b"\n",
    *,
    session: aioboto3.Session | None = None,
) -> Blocks:
    r"""Blocks of files or objects, one chunk each, cut between records.

    A kernel calls `block.lines()`, `block.records()` or `block.read()`. Compressed files can't be
    cut: use `objects`, and gzip.open(stored.open()).

    Args:
        source: "s3://bucket/key", a path, or a list of them; no patterns.
        block_bytes: Size of a block; 64 MiB by default.
        on: What separates two records, such as "\n", "\r\n" or a longer mark.
        session: An `aioboto3.Session` to ask S3 with, instead of what the environment says.

    Raises:
        UsageError: An argument makes no sense, or there is no such file.
    """
    if type(block_bytes) is not int or block_bytes < 1:
        msg = f"block_bytes={block_bytes!r} must be a whole number of bytes, 1 or more"
        raise UsageError(msg)
    if not isinstance(on, bytes | str) or not on:
        msg = f"on={on!r} must be what separates two records, such as b'\\n'"
        raise UsageError(msg)
    mark = on.encode() if isinstance(on, str) else on
    if isinstance(source, str | os.PathLike):
        names = [_name(source)]
    elif isinstance(source, list | tuple):
        names = [_name(each) for each in source]
    else:
        raise UsageError(f"source={source!r} must be {_A_SOURCE}, or a list of these")
    what = f"blocks of {names[0] if len(names) == 1 else f'{len(names)} sources'}"

    def cut(found: Sequence[StoredObject]) -> list[Block]:
        return [block for stored in found for block in blocks_of(stored, block_bytes, mark)]

    if not any(name.startswith(S3) for name in names):
        return LocalChunks(cut([_on_disk(name) for name in names]), what)

    async def ask() -> Sequence[Block]:
        return cut(await _sizes(names, session))

    return StoredChunks(ask, what)


def objects(pattern: Source, *, session: aioboto3.Session | None = None) -> Objects:
    """Files or objects, one chunk each, sorted by name.

    A kernel calls `stored.read()`, or gives `stored.open()` to whatever reads files.

    Args:
        pattern: "s3://bucket/prefix/*.parquet", or a path such as "/data/*.csv". `*` and `?` stand
            for characters but "/", [a-z] for one of these, `**` for any folders.
        session: An `aioboto3.Session` to ask S3 with, instead of what the environment says.

    Raises:
        UsageError: It is no pattern, or matches no file; for S3, this is raised when it is asked.
    """
    if not isinstance(pattern, str | os.PathLike):
        msg = f"pattern={pattern!r} must be 's3://bucket/prefix/*.parquet', or such a path"
        raise UsageError(msg)
    name = _name(pattern)
    what = f"objects {name}"

    async def ask() -> Sequence[StoredObject]:
        return _some(await _listed(name, session), name)

    if name.startswith(S3):
        return StoredChunks(ask, what)

    import glob

    # A Path's glob would need the pattern cut into a folder without wildcards and the rest.
    paths = sorted(filter(os.path.isfile, glob.iglob(name, recursive=True)))  # noqa: PTH207
    return LocalChunks(_some([_on_disk(path) for path in paths], name), what)


# The plan.

_A_SOURCE: Final = "'s3://bucket/key' or a path"


def _name(source: object) -> str:
    """The name of a source, as it is understood on a worker, too."""
    name = os.fspath(source) if isinstance(source, str | os.PathLike) else None
    if not isinstance(name, str) or not name:
        raise UsageError(f"source {source!r} must be {_A_SOURCE}")
    if name.startswith(S3):
        bucket, key = parted(name)
        if not bucket or not key:
            raise UsageError(f"source {name!r} names no object: pass 's3://bucket/key'")
        return name
    if "://" in name:
        raise UsageError(f"source {name!r} is not supported: pass {_A_SOURCE}")
    # Workers have another current folder. Links stay: their names are what was asked for.
    return os.path.abspath(name)  # noqa: PTH100


def _on_disk(path: str) -> StoredObject:
    try:
        found = Path(path).stat()
    except OSError as error:
        hint = (
            "blocks takes no patterns, use a list" if set(_WILD) & set(path) else "check its path"
        )
        raise UsageError(f"{path} can't be read ({error.strerror}): {hint}") from error
    if not stat.S_ISREG(found.st_mode):
        hint = f"pass its files, as in fanout.objects({str(Path(path, '*'))!r})"
        raise UsageError(f"{path} is not a file: {hint}")
    return StoredObject(source=path, nbytes=found.st_size)


def _some(found: list[StoredObject], pattern: str) -> list[StoredObject]:
    if not found:
        hint = "check it, and that its last part matches names"
        if not set(_WILD) & set(pattern):
            hint = f"for all in that folder, pass {pattern.rstrip('/') + '/*'!r}"
        raise UsageError(f"nothing matches {pattern!r}: {hint}")
    return found


def _matches(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether the parts of a key match those of a pattern."""
    from fnmatch import fnmatchcase

    if not patterns:
        return not names
    first, rest = patterns[0], patterns[1:]
    if first == "**":
        return any(_matches(names[skipped:], rest) for skipped in range(len(names) + 1))
    return bool(names) and fnmatchcase(names[0], first) and _matches(names[1:], rest)


# What S3 is asked.


async def _sizes(names: Sequence[str], session: aioboto3.Session | None) -> list[StoredObject]:
    """The sources, in their order, with the sizes of those in S3."""
    import asyncio

    turns = asyncio.Semaphore(_HEADS)

    async def size(client: Any, name: str) -> StoredObject:
        if not name.startswith(S3):
            return _on_disk(name)
        bucket, key = parted(name)
        async with turns:
            with _translated("s3:GetObject", name):
                head = await client.head_object(Bucket=bucket, Key=key)
        return _stored(client, name, head["ContentLength"], head, regions[bucket])

    buckets = {parted(name)[0] for name in names if name.startswith(S3)}
    async with _client(session) as client:
        regions = {bucket: await _region(client, bucket) for bucket in buckets}
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(size(client, name)) for name in names]
        except BaseExceptionGroup as failed:  # the first stands for all
            raise failed.exceptions[0] from failed.exceptions[0].__cause__
    return [task.result() for task in tasks]


async def _listed(pattern: str, session: aioboto3.Session | None) -> list[StoredObject]:
    """The objects that match, sorted by name."""
    bucket, wanted = parted(pattern)
    prefix = wanted[: min((wanted.find(c) for c in _WILD if c in wanted), default=len(wanted))]
    found = []
    async with _client(session) as client:
        with _translated("s3:ListBucket", f"{S3}{bucket}"):
            pages = client.get_paginator("list_objects_v2")
            async for page in pages.paginate(Bucket=bucket, Prefix=prefix):
                region = _told_region(page)
                found += [
                    _stored(client, f"{S3}{bucket}/{entry['Key']}", entry["Size"], entry, region)
                    for entry in page.get("Contents", ())
                    # Consoles make an empty object "folder/" for each folder.
                    if not entry["Key"].endswith("/")
                    and _matches(entry["Key"].split("/"), wanted.split("/"))
                ]
    return sorted(found, key=lambda stored: stored.source)


async def _region(client: Any, bucket: str) -> str | None:
    """Where a bucket is, if S3 says it: botocore follows a bucket to its region without telling."""
    from botocore.exceptions import ClientError

    with _translated("s3:ListBucket", f"{S3}{bucket}"):
        try:
            return _told_region(await client.head_bucket(Bucket=bucket))
        except ClientError as error:  # a refusal says it, too; what is wrong, the objects will tell
            return _told_region(error.response)


def _told_region(answer: Any) -> str | None:
    region: str | None = answer["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region")
    return region


def _stored(client: Any, source: str, nbytes: int, told: Any, region: str | None) -> StoredObject:
    """An object, with what S3 told of it, and the way to it for workers."""
    import re

    etag = told.get("ETag", "").strip('"')  # not all that stand in for S3 quote it
    url = client.meta.endpoint_url
    is_own = re.fullmatch(r"https://s3([.-][a-z0-9-]+)*\.amazonaws\.com(\.cn)?/?", url)
    return StoredObject(
        source=source,
        nbytes=nbytes,
        region=region or client.meta.region_name,
        endpoint=None if is_own else url,
        etag=f'"{etag}"' if etag and not etag.startswith("W/") else None,
    )


@contextlib.asynccontextmanager
async def _client(session: aioboto3.Session | None) -> AsyncIterator[Any]:
    """A client of S3, by the settings that every AWS tool takes."""
    import asyncio
    import importlib

    # Half a second of imports, which the event loop need not wait for.
    library = await asyncio.to_thread(importlib.import_module, "aioboto3")
    if session is None:
        # Read by every tool of AWS but boto, which knows AWS_DEFAULT_REGION only.
        session = library.Session(region_name=os.environ.get("AWS_REGION") or None)
    async with contextlib.AsyncExitStack() as stack:
        with _translated("s3", "S3"):
            client = await stack.enter_async_context(session.client("s3"))
        yield client


@contextlib.contextmanager
def _translated(action: str, what: str) -> Iterator[None]:
    """Raise what botocore raises as an error of ours, with what to do."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        told = error.response["Error"]
        code, message = told.get("Code", ""), told.get("Message", "")
        if code in {"404", "NoSuchKey", "NoSuchBucket"}:
            msg = (
                f"{what} is not there ({code}): check its name, and the account of your credentials"
            )
        elif code in {"403", "AccessDenied"}:
            msg = (
                f"your credentials may not see {what} ({code} {message}): add the right {action}, "
                "and s3:ListBucket, without which what is missing looks the same"
            )
        else:
            msg = f"S3 can't be asked about {what} ({code} {message}): see {action}; try it again"
        raise StoreError(msg) from error
    except BotoCoreError as error:
        msg = f"S3 can't be asked about {what} ({error}): check credentials, region and connection"
        raise StoreError(msg) from error
