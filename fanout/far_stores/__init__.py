"""What a worker reads and writes objects with: a directory, or S3.

Imported in a cold start, so it takes the standard library only, and of that little: `http.client`
and `ssl` come with the first S3 store. Synchronous, and safe to use from several threads. Objects
never change: what is under a key stays until it is deleted. Where a store is says its *locator*, a
small dict that travels in the envelope and holds no credential.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Final, Protocol

from fanout.errors import StoreError
from fanout.far_stores.cache import Cache

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fanout.codec import Buffer

__all__ = ["Cache", "FarStore", "kept_store", "open_store"]

# The one thing here that outlives a task: connections and what TLS agreed on cost 10 to 50 ms, and
# belong to the process, as the credentials do. A store holds nothing else.
_kept: Final[dict[tuple[int, str], FarStore]] = {}


class FarStore(Protocol):
    """Objects under keys. Every method raises `StoreError`, which says what to do."""

    @property
    def is_local(self) -> bool:
        """Whether objects are files here, so that copies on disk would gain nothing."""

    def get(
        self, key: str, *, start: int = 0, stop: int | None = None, etag: str | None = None
    ) -> memoryview:
        """The bytes [start, stop) of an object; read-only.

        Args:
            key: Its key.
            start: The first byte.
            stop: Behind the last one; None for all.
            etag: Of the object that is meant, where S3 has said so: refuse any other.
        """

    def size(self, key: str) -> int:
        """How many bytes an object has."""

    def put(self, key: str, parts: Sequence[Buffer], *, digest: str | None = None) -> None:
        """Make an object of the parts, one after the other; one that is there stays as it is.

        Args:
            key: Its key.
            parts: Its bytes.
            digest: Their sha256, hexadecimal, if it is known: S3 wants one.
        """

    def delete(self, key: str) -> None:
        """Remove an object; that it isn't there is no error."""

    def close(self) -> None:
        """Close idle connections; the store can still be used, and opens others."""


def kept_store(locator: Mapping[str, Any]) -> FarStore:
    """The one store of this process for a locator; whoever uses it leaves it open.

    Args:
        locator: As for `open_store`.

    Raises:
        StoreError: It is no locator.
    """
    # With the process, as a child that a kernel forks must not write into its parent's connections.
    key = os.getpid(), json.dumps(dict(locator), sort_keys=True)
    found = _kept.get(key)
    # Without a lock, which a fork might leave locked: of two threads that open one, both take the
    # first, and the other has no connection yet.
    return _kept.setdefault(key, open_store(locator)) if found is None else found


def open_store(locator: Mapping[str, Any]) -> FarStore:
    """The store that a locator names; nothing is asked of it yet.

    Args:
        locator: `{"kind": "directory", "path": …}`, or `{"kind": "s3", "bucket": …, "prefix": …,
            "region": …, "endpoint": …}`, where the keys of the objects begin with the prefix as it
            is, `endpoint` is None for what the environment says, or else AWS, and a `kms` names the
            KMS key to encrypt with.

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
