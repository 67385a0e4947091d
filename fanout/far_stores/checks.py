"""What every store holds its callers to: which keys there are, which ranges. Pure."""

from __future__ import annotations

import re
from typing import Final

from fanout.errors import StoreError

# Keys arrive in envelopes and become paths of files: nothing that a file system takes for more. No
# part begins with a dot: that keeps out '..', and what is being written has such a name.
_PART: Final = r"[A-Za-z0-9_-][A-Za-z0-9._-]*"
_KEY: Final = re.compile(rf"{_PART}(?:/{_PART})*")
# Of S3.
_MOST_BYTES: Final = 1024
_SHOWN: Final = 100
# It becomes part of a request, and comes from outside.
_ETAG: Final = re.compile(r'"[!#-~]+"')


def checked_key(key: str) -> str:
    """The key, if it is one.

    Raises:
        StoreError: It is absolute, leads out of the store, or has characters that no key has.
    """
    if len(key) > _MOST_BYTES or _KEY.fullmatch(key) is None:
        msg = (
            f"{key[:_SHOWN]!r} is no key of a store: use names of A-Z, a-z, 0-9, '.', '_' and '-' "
            f"that don't begin with '.', with '/' between them, {_MOST_BYTES} characters at most"
        )
        raise StoreError(msg)
    return key


def readable_key(key: str) -> str:
    """The key of an object of S3 that somebody else has named, which may be nearly anything.

    Raises:
        StoreError: No object has such a key.
    """
    if not 0 < len(key.encode()) <= _MOST_BYTES or not key.isprintable():
        msg = f"{key[:_SHOWN]!r} is no key of S3: 1 to {_MOST_BYTES} bytes, all of them printable"
        raise StoreError(msg)
    return key


def checked_etag(etag: str) -> str:
    """The ETag, if it is one that S3 gives: printable, in quotes.

    Raises:
        StoreError: It isn't.
    """
    if len(etag) > _MOST_BYTES or _ETAG.fullmatch(etag) is None:
        msg = f"{etag[:_SHOWN]!r} is no ETag: pass it as S3 gives it, with its quotes"
        raise StoreError(msg)
    return etag


def check_range(start: int, stop: int | None) -> None:
    """Return if [start, stop) can be a range of an object.

    Raises:
        StoreError: It can't.
    """
    if start < 0 or (stop is not None and stop < start):
        msg = f"[{start}, {stop}) is no range of bytes: pass 0 <= start <= stop"
        raise StoreError(msg)


def range_end(what: str, nbytes: int, start: int, stop: int | None) -> int:
    """Where the range [start, stop) of an object ends.

    Args:
        what: The object, for messages.
        nbytes: Its size.
        start: First byte asked for.
        stop: Behind the last one, or None for all.

    Raises:
        StoreError: The object ends before.
    """
    if max(start, stop or 0) > nbytes:
        msg = (
            f"{what} has {nbytes} bytes, and at least {max(start, stop or 0)} were expected: it is "
            "damaged or was exchanged; run again; if fanout put it there, delete it first, since "
            "what is there isn't put anew"
        )
        raise StoreError(msg)
    return nbytes if stop is None else stop


def missing(what: str, where: str) -> StoreError:
    """The error for an object that isn't there."""
    return StoreError(
        f"{what} is not in the store (deleted under way, or of another run or store): {where} has "
        "nothing by that name; run again, or put it again if a Ref names it"
    )
