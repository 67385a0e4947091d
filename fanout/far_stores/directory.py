"""A store that is a directory: of this machine, or of a file system that all workers share.

An object is a file, and is there as a whole or not at all: it is written under another name in its
own directory, then linked to its own. So writers of the same object don't disturb each other, and
what was mapped stays as it was.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fanout.errors import StoreError
from fanout.far_stores.checks import check_range, checked_key, missing, range_end

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fanout.codec import Buffer

# Smaller ones are read: until Python 3.13 every map holds a file descriptor, and Lambda has 1024.
_MAPPED_BYTES: Final = 1 << 20
# What a file system answers that has no hard links (FAT, some network ones).
_NO_LINKS: Final = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_FULL: Final = {errno.ENOSPC, errno.EDQUOT}


class DirectoryStore:
    """Objects as files below a path.

    Args:
        path: The directory; made with the first object, if need be.
    """

    is_local: Final = True

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)

    def get(
        self,
        key: str,
        *,
        start: int = 0,
        stop: int | None = None,
        etag: str | None = None,  # noqa: ARG002  files have none, and here they never change
    ) -> memoryview:
        """The bytes [start, stop) of an object: its file, mapped."""
        check_range(start, stop)
        path = self._path_of(key)
        with self._told(key, "read"), path.open("rb", buffering=0) as file:
            nbytes = os.fstat(file.fileno()).st_size
            end = range_end(f"object {key}", nbytes, start, stop)
            return mapped(file.fileno(), start, end)

    def size(self, key: str) -> int:
        """How many bytes an object has."""
        path = self._path_of(key)
        with self._told(key, "read"):
            return path.stat().st_size

    def put(
        self,
        key: str,
        parts: Sequence[Buffer],
        *,
        digest: str | None = None,  # noqa: ARG002  nothing here needs it
    ) -> None:
        """Write an object, unless it is there."""
        path = self._path_of(key)
        with self._told(key, "write"):
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(path, parts)

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        path = self._path_of(key)
        with self._told(key, "delete"):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Nothing is held open."""

    def _path_of(self, key: str) -> Path:
        return self._path / checked_key(key)

    @contextlib.contextmanager
    def _told(self, key: str, verb: str) -> Iterator[None]:
        """Tell errors of the system in words."""
        try:
            yield
        except FileNotFoundError as error:
            if not self._path.is_dir():
                msg = (
                    f"the store's directory {self._path} is not there: give a path that clients "
                    "and workers share, or use S3"
                )
                raise StoreError(msg) from error
            raise missing(f"object {key}", str(self._path)) from error
        except OSError as error:
            raise StoreError(self._why(error, key, verb)) from error

    def _why(self, error: OSError, key: str, verb: str) -> str:
        said = f"can't {verb} object {key} in {self._path}"
        if error.errno in _FULL:
            return f"{said}, since its disk is full: free some space, or use another directory"
        if isinstance(error, PermissionError):
            rights = "read" if verb == "read" else "read and write"
            return f"{said}: let the user that workers run as {rights} there"
        return f"{said} ({error.strerror or error}): see to that directory, or use another"


def mapped(descriptor: int, start: int, end: int) -> memoryview:
    """The bytes [start, end) of an open file, without a copy if there are many."""
    nbytes = end - start
    if nbytes < _MAPPED_BYTES:
        return memoryview(_read(descriptor, nbytes, start))
    if sys.version_info >= (3, 13):
        whole = mmap.mmap(descriptor, end, access=mmap.ACCESS_READ, trackfd=False)
    else:
        whole = mmap.mmap(descriptor, end, access=mmap.ACCESS_READ)
    return memoryview(whole)[start:end]


def _read(descriptor: int, nbytes: int, start: int) -> bytes:
    read = b""
    while len(read) < nbytes:
        more = os.pread(descriptor, nbytes - len(read), start + len(read))
        if not more:
            raise OSError(errno.EIO, "the file became shorter")
        read += more
    return read


def write_whole(path: Path, parts: Sequence[Buffer]) -> None:
    """Make a file that is there as a whole or not at all, or leave the one that is there."""
    # os.urandom, since a fork or a thread must not come to the same name.
    temporary = path.with_name(f".{path.name[:32]}.{os.urandom(8).hex()}")
    try:
        with temporary.open("xb", buffering=0) as file:
            for part in parts:
                _write(file.fileno(), memoryview(part))
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write(descriptor: int, part: memoryview) -> None:
    if not part.nbytes:
        return  # a view of nothing can't be cast
    left = part.cast("B")
    while left:
        left = left[os.write(descriptor, left) :]
