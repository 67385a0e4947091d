"""What a worker reads and writes objects with: a directory, or S3.

Imported in a cold start, so it takes the standard library only, and of that little: `http.client`
and `ssl` come with the first S3 store. Synchronous, and safe to use from several threads. Objects
never change: what is under a key stays until it is deleted. Where a store is says its *locator*, a
small dict that travels in the envelope and holds no credential.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from fanout.errors import StoreError
from fanout.far_stores.cache import Cache

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fanout.codec import Buffer

__all__ = ["Cache", "FarStore", "open_store"]


class FarStore(Protocol):
    """Objects under keys. Every method raises `StoreError`, which says what to do."""

    @property
    def is_local(self) -> bool:
        """Whether objects are files here, so that copies on disk would gain nothing."""

    def get(self, key: str, *, start: int = 0, stop: int | None = None) -> memoryview:
        """The bytes [start, stop) of an object; read-only."""

    def size(self, key: str) -> int:
        """How many bytes an object has."""

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """Make an object of the parts, one after the other; one that is there stays as it is."""

    def delete(self, key: str) -> None:
        """Remove an object; that it isn't there is no error."""

    def close(self) -> None:
        """Close idle connections; the store can still be used, and opens others."""


def open_store(locator: Mapping[str, Any]) -> FarStore:
    """The store that a locator names; nothing is asked of it yet.

    Args:
        locator: `{"kind": "directory", "path": …}`, or `{"kind": "s3", "bucket": …, "prefix": …,
            "region": …, "endpoint": …}`, where the keys of the objects begin with the prefix as it
            is, `endpoint` is None for AWS, and a `kms` names the KMS key to encrypt with.

    Raises:
        StoreError: It is none of these.
    """
    try:
        kind = locator["kind"]
        if kind == "directory":
            from fanout.far_stores.directory import DirectoryStore

            return DirectoryStore(locator["path"])
        if kind == "s3":
            from fanout.far_stores.s3 import S3Store

            return S3Store(
                bucket=locator["bucket"],
                prefix=locator["prefix"],
                region=locator["region"],
                endpoint=locator.get("endpoint"),
                kms_key=locator.get("kms"),
            )
    except KeyError as error:
        msg = f"the locator of a store lacks {error}: use the same version of fanout on both sides"
        raise StoreError(msg) from error
    msg = (
        f"a store of the kind {kind!r} is not known here, only 'directory' and 's3' are: use the "
        "same version of fanout on both sides"
    )
    raise StoreError(msg)
