"""The objects that an environment has fetched, from whatever stores, so that each is fetched once.

They are kept in memory, those used longest ago making room, and as files, which a restarted worker
of the same environment finds again. Whatever comes from outside this process is checked against
its digest, the files, too. That the disk is full, or can't be used at all, only means that less is
kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import threading
import weakref
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fanout.errors import StoreError
from fanout.far_stores.directory import mapped, write_whole

if TYPE_CHECKING:
    from fanout.far_stores import FarStore

# Only used if it is our own: see `_is_ours`.
DISK: Final = Path(os.environ.get("TMPDIR") or "/tmp", "fanout-cache")  # noqa: S108
# Where nothing says how much memory there is.
_MEMORY_BYTES: Final = 512 << 20
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class Cache:
    """Objects by their digest: what has the same one is the same, wherever it came from.

    Args:
        memory_bytes: How many bytes of them stay in memory; default a quarter of the function's
            memory, 512 MiB outside Lambda. One object stays even if it is larger.
        disk: Directory for copies; none is made of what comes from a local store.
        disk_bytes: How many bytes of copies; default half of what the disk has left for them.
    """

    def __init__(
        self,
        *,
        memory_bytes: int | None = None,
        disk: Path = DISK,
        disk_bytes: int | None = None,
    ) -> None:
        self._memory_bytes = _quarter_of_memory() if memory_bytes is None else memory_bytes
        self._disk = _Disk(disk, disk_bytes)
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, memoryview] = OrderedDict()
        self._fetching: weakref.WeakValueDictionary[str, _Turn] = weakref.WeakValueDictionary()

    def object(self, store: FarStore, digest: str, nbytes: int) -> memoryview:
        """An object, read-only: from memory, disk or store, in that order.

        Args:
            store: Has it.
            digest: Its sha256, hexadecimal.
            nbytes: Its size.

        Raises:
            StoreError: It can't be had, or isn't what the digest says.
        """
        if _DIGEST.fullmatch(digest) is None:
            msg = f"{digest[:80]!r} is no sha256: use the same version of fanout on both sides"
            raise StoreError(msg)
        with self._lock:
            turn = self._fetching.setdefault(digest, _Turn())
        # Threads that want the same object wait here for the first of them.
        with turn.lock:
            with self._lock:
                if digest in self._kept:
                    self._kept.move_to_end(digest)
                    return _of_size(self._kept[digest], digest, nbytes)
                # Before it is fetched, so that the old ones and it need not fit together.
                self._make_room(nbytes)
            found = self._fetched(store, digest, nbytes)
            with self._lock:
                self._make_room(nbytes)
                self._kept[digest] = found
            return found

    def _fetched(self, store: FarStore, digest: str, nbytes: int) -> memoryview:
        if not store.is_local:
            copy = self._disk.get(digest, nbytes)
            if copy is not None:
                return copy
        found = store.get(f"objects/{digest}", stop=nbytes)
        _of_size(found, digest, nbytes)
        if hashlib.sha256(found).hexdigest() != digest:
            raise _damaged(digest, "its bytes have another sha256")
        if not store.is_local:
            self._disk.put(digest, found)
        return found

    def _make_room(self, nbytes: int) -> None:
        held = sum(view.nbytes for view in self._kept.values())
        while self._kept and held + nbytes > self._memory_bytes:
            _, oldest = self._kept.popitem(last=False)
            held -= oldest.nbytes


class _Turn:
    """Who fetches an object; lives as long as someone waits for it."""

    __slots__ = ("__weakref__", "lock")

    def __init__(self) -> None:
        self.lock = threading.Lock()


class _Disk:
    """Copies of objects in a directory; whatever goes wrong there means that there is none."""

    def __init__(self, path: Path, limit_bytes: int | None) -> None:
        self._path = path
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()

    def get(self, digest: str, nbytes: int) -> memoryview | None:
        """The copy of an object, if there is a sound one."""
        path = self._path / digest
        with contextlib.suppress(OSError):
            if not _is_ours(self._path):
                return None
            with path.open("rb", buffering=0) as file:
                has_size = os.fstat(file.fileno()).st_size == nbytes
                copy = mapped(file.fileno(), 0, nbytes) if has_size else None
            if copy is not None and hashlib.sha256(copy).hexdigest() == digest:
                os.utime(path)
                return copy
            path.unlink()
        return None

    def put(self, digest: str, content: memoryview) -> None:
        """Keep a copy, if there is room for it."""
        with contextlib.suppress(OSError), self._lock:
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if _is_ours(self._path) and self._has_room(content.nbytes):
                write_whole(self._path / digest, [content])

    def _has_room(self, nbytes: int) -> bool:
        """Whether a copy fits, once those used longest ago are removed; removes them."""
        # What an interrupted write has left counts, and goes, like a copy.
        with os.scandir(self._path) as entries:
            found = [(entry, entry.stat(follow_symlinks=False)) for entry in entries]
        held = sum(status.st_size for _, status in found)
        limit = self._limit_bytes
        if limit is None:
            system = os.statvfs(self._path)
            # Half: kernels use the same disk.
            limit = (system.f_bavail * system.f_frsize + held) // 2
        if nbytes > limit:
            return False
        for entry, status in sorted(found, key=lambda one: one[1].st_mtime_ns):
            if held + nbytes <= limit:
                break
            Path(entry).unlink(missing_ok=True)
            held -= status.st_size
        return True


def _is_ours(path: Path) -> bool:
    """Whether nobody else can write there: a copy is mapped, and must not change under us."""
    status = path.lstat()
    may_others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not may_others


def _of_size(found: memoryview, digest: str, nbytes: int) -> memoryview:
    if found.nbytes != nbytes:
        raise _damaged(digest, f"it has {found.nbytes} bytes instead of {nbytes}")
    return found


def _damaged(digest: str, how: str) -> StoreError:
    return StoreError(
        f"object objects/{digest} is damaged or exchanged ({how}): delete it, run again, and see "
        "who else may write into the store"
    )


def _quarter_of_memory() -> int:
    told = os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "")
    return (int(told) << 20) // 4 if told.isdigit() else _MEMORY_BYTES
