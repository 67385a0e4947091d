"""Objects as files in a directory: for workers on this machine, or with a file system in common.

A file appears under its name when it is complete, never before, so that a reader sees all of it or
nothing. What is got is mapped, not read: workers on one machine share its memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import mmap
import os
import secrets
import shutil
import stat
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from fanout.errors import StoreError, UsageError
from fanout.stores.keys import check_key, check_prefix

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fanout.codec.parts import Buffer

_T = TypeVar("_T")

# From here on in a thread: 256 KB take 0.1 ms to write, on a disk of this machine.
_LARGE_BYTES: Final = 256 * 2**10
_DELETE_ATTEMPTS: Final = 20


class DirectoryStore:
    """Objects as files.

    Args:
        path: The directory, made when something is put there; None for one of its own, which
            nobody else can read, and which goes when the store is closed.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self._is_own = path is None
        if path is None:
            # Named now, since the locator travels ahead; made when it is needed.
            name = f"fanout-{secrets.token_hex(8)}"
            self._path = Path(tempfile.gettempdir(), name).absolute()
        else:
            self._path = Path(path).expanduser().absolute()
        self._remover: weakref.finalize[..., Any] | None = None
        self._busy: set[asyncio.Future[Any]] = set()
        if self._path.exists() and not self._path.is_dir():
            msg = f"store={str(self._path)!r} is a file: pass the path of a directory"
            raise UsageError(msg)

    def __repr__(self) -> str:
        return f"<DirectoryStore {self._path}{', its own' if self._is_own else ''}>"

    @property
    def locator(self) -> Mapping[str, str | None]:
        """Where the files are."""
        return {"kind": "directory", "path": str(self._path)}

    @property
    def requests(self) -> int:
        """None: there is no service."""
        return 0

    async def start(self) -> None:
        """Nothing to do."""

    async def aclose(self) -> None:
        """Wait for threads that still write; remove the directory if it is the store's own."""
        if self._busy:
            await asyncio.wait(self._busy)
        if self._is_own and self._path.exists():
            await self._in_thread(shutil.rmtree, self._path, True)
        if self._remover is not None:
            self._remover.detach()
            self._remover = None

    async def put(self, key: str, parts: Sequence[Buffer]) -> bool:
        """Write an object, unless it is there."""
        path = self._path / check_key(key)
        size = sum(memoryview(part).nbytes for part in parts)
        if size < _LARGE_BYTES:
            return self._put(path, parts)
        return await self._in_thread(self._put, path, parts)

    async def get(self, key: str, nbytes: int) -> memoryview:
        """Map an object; it can't be written to."""
        path = self._path / check_key(key)
        try:
            with path.open("rb") as file:
                found = os.fstat(file.fileno()).st_size
                if found != nbytes:
                    msg = (
                        f"{path} holds {found:,} bytes instead of {nbytes:,}: something else wrote "
                        "it; remove it, and put the object again"
                    )
                    raise StoreError(msg)
                if nbytes == 0:
                    return memoryview(b"")
                return memoryview(mmap.mmap(file.fileno(), nbytes, access=mmap.ACCESS_READ))
        except FileNotFoundError as error:
            msg = (
                f"{path} is not there: it was deleted under way, or is of another run; "
                "put the object again"
            )
            raise StoreError(msg) from error
        except OSError as error:
            raise StoreError(f"{path} can't be read: {_remedy(error)}") from error

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove files."""
        paths = [self._path / check_key(key) for key in keys]
        if paths:
            await self._in_thread(_delete, paths)

    async def delete_prefix(self, prefix: str) -> None:
        """Remove files, and the directory if that is what the prefix names."""
        folder, _, start = check_prefix(prefix).rpartition("/")
        await self._in_thread(_delete_below, self._path / folder, start)

    async def folders(self, prefix: str) -> list[str]:
        """The directories below one."""
        return await self._in_thread(_folders, self._path, check_prefix(prefix))

    def _put(self, path: Path, parts: Sequence[Buffer]) -> bool:
        try:
            if path.exists():
                return False
            self._make(path.parent)
            return _written(path, parts)
        except OSError as error:
            raise StoreError(f"{path} can't be written: {_remedy(error)}") from error

    def _make(self, folder: Path) -> None:
        if self._is_own and self._remover is None:
            # A worker may have been the first: what is there must be ours all the same.
            with contextlib.suppress(FileExistsError):
                self._path.mkdir(mode=0o700)
            about = self._path.lstat()
            if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid():
                msg = f"{self._path} belongs to somebody else: set TMPDIR to a directory of yours"
                raise StoreError(msg)
            self._path.chmod(0o700)
            self._remover = weakref.finalize(self, shutil.rmtree, self._path, True)
        folder.mkdir(parents=True, exist_ok=True)

    async def _in_thread(self, work: Callable[..., _T], *arguments: object) -> _T:
        """Have it done in a thread, which goes on when this is cancelled; `aclose` waits for it."""
        future = asyncio.get_running_loop().run_in_executor(None, work, *arguments)
        self._busy.add(future)
        future.add_done_callback(self._done)
        return await asyncio.shield(future)

    def _done(self, future: asyncio.Future[Any]) -> None:
        self._busy.discard(future)
        if not future.cancelled():
            future.exception()  # nobody may be there any more to hear of it


def _written(path: Path, parts: Sequence[Buffer]) -> bool:
    """Write under another name, then give it its own; False if another was faster."""
    partial = path.with_name(f".{secrets.token_hex(8)}")
    try:
        with partial.open("xb", buffering=0) as file:
            for part in parts:
                _write_all(file.fileno(), part)
        try:
            os.link(partial, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without links
            partial.replace(path)
        return True
    finally:
        partial.unlink(missing_ok=True)


def _write_all(descriptor: int, part: Buffer) -> None:
    rest = memoryview(part)
    if not rest.nbytes:
        return
    rest = rest.cast("B")
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _delete(paths: Sequence[Path]) -> None:
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except NotADirectoryError:
            continue  # so it isn't there
        except OSError as error:
            raise StoreError(f"{path} can't be deleted: {_remedy(error)}") from error


def _delete_below(folder: Path, start: str) -> None:
    try:
        if not start:
            _delete_folder(folder)
            return
        for path in folder.iterdir():
            if path.name.startswith(start):
                if path.is_dir() and not path.is_symlink():
                    _delete_folder(path)
                else:
                    path.unlink(missing_ok=True)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"{folder} can't be deleted: {_remedy(error)}") from error


def _folders(root: Path, prefix: str) -> list[str]:
    try:
        found = (root / prefix).iterdir()
        return sorted(f"{prefix}{folder.name}/" for folder in found if folder.is_dir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"{root / prefix} can't be listed: {_remedy(error)}") from error


def _delete_folder(folder: Path) -> None:
    """Delete a directory, in which a worker may still write, and somebody else delete."""
    for attempt in range(1, _DELETE_ATTEMPTS + 1):
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            if not folder.exists():
                return
        except OSError as error:
            if attempt == _DELETE_ATTEMPTS or error.errno != errno.ENOTEMPTY:
                raise
        else:
            return


def _remedy(error: OSError) -> str:
    what = error.strerror or str(error)
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return f"{what}; free some space, or use a directory on a larger disk"
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return f"{what}; allow it, or use another directory"
    return f"{what}; use another directory"
