"""Where the client puts large objects: a directory, or a bucket of S3.

An object is a run of bytes under a key, and never changes once it is there: keys are made of the
digest of what they name, or belong to one run. What is put twice is uploaded once. The far end
reads and writes the same objects, in a way of its own; a store's *locator* tells it where.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from fanout.errors import UsageError
from fanout.stores.directory import DirectoryStore
from fanout.stores.run_objects import RunObjects
from fanout.stores.s3 import S3Store

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fanout.codec.parts import Buffer

__all__ = ["DirectoryStore", "RunObjects", "S3Store", "Store", "store_at", "store_of"]

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)


class Store(Protocol):
    """Holds objects under keys; safe to use from many tasks of one event loop."""

    @property
    def locator(self) -> Mapping[str, str | None]:
        """Where the objects are, for the far end; holds no credential.

        Either {"kind": "directory", "path"}, or
        {"kind": "s3", "bucket", "prefix", "region", "endpoint", "kms"}.
        """

    @property
    def requests(self) -> int:
        """How many requests were sent to a service, failed ones among them."""

    async def start(self) -> None:
        """Get ready; sends no request to the service that holds the objects.

        Raises:
            UsageError: A setting makes no sense.
            StoreError: There are no credentials.
        """

    async def aclose(self) -> None:
        """Finish what must be finished, and close all connections."""

    async def put(self, key: str, parts: Sequence[Buffer]) -> bool:
        """Store an object, whole or not at all.

        Args:
            key: Its name.
            parts: Its content, in one or more pieces.

        Returns:
            Whether it was uploaded: False if it was there already.

        Raises:
            StoreError: It can't be stored; says what to do.
        """

    async def get(self, key: str, nbytes: int) -> memoryview:
        """Have an object.

        Args:
            key: Its name.
            nbytes: Its size.

        Raises:
            StoreError: It can't be had, or has another size; says what to do.
        """

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; those that aren't there don't matter.

        Raises:
            StoreError: Some can't be removed; says what to do.
        """

    async def delete_prefix(self, prefix: str) -> None:
        """Remove all objects whose keys begin like this.

        Raises:
            StoreError: Some can't be removed; says what to do.
        """

    async def folders(self, prefix: str) -> list[str]:
        """The prefixes of keys, up to the next slash and with it, that begin like this.

        Args:
            prefix: Ends in a slash.

        Raises:
            StoreError: It can't be listed; says what to do.
        """


def store_of(text: str) -> Store:
    """The store that a setting names.

    Args:
        text: `s3://bucket`, `s3://bucket/prefix`, or the path of a directory, which is made
            when something is put there.

    Raises:
        UsageError: It is none of these.
    """
    found = _SCHEME.fullmatch(text)
    if found is not None:
        scheme, rest = found.groups()
        bucket, _, prefix = rest.partition("/")
        if scheme.lower() != "s3":
            msg = (
                f"store={text!r} is none that fanout knows ({scheme}://…): pass 's3://bucket', "
                "'s3://bucket/prefix' or the path of a directory"
            )
            raise UsageError(msg)
        return S3Store(bucket, prefix=prefix) if prefix.strip("/") else S3Store(bucket)
    if not text.strip() or "\0" in text:
        msg = (
            f"store={text!r} names no store: pass 's3://bucket', 's3://bucket/prefix' or the path "
            "of a directory"
        )
        raise UsageError(msg)
    return DirectoryStore(Path(text))


def store_at(locator: Mapping[str, str | None]) -> Store:
    """The store that a locator names, with the credentials of the environment.

    Raises:
        UsageError: It names none.
    """
    match locator:
        case {"kind": "directory", "path": str(path)}:
            return DirectoryStore(path)
        case {"kind": "s3", "bucket": str(bucket), "prefix": str(prefix)}:
            return S3Store(
                bucket,
                prefix,
                region=locator.get("region"),
                endpoint_url=locator.get("endpoint"),
                kms_key=locator.get("kms"),
            )
    raise UsageError(f"{dict(locator)!r} names no store that fanout can open")
