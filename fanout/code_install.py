"""The user's project at the far end: is it there, the same, and if not, put it there.

What a client sends is written to a folder of its own, named by its digest, that comes first on
`sys.path`. Modules that were imported before, of another version or with such a one, are forgotten;
whoever has loaded kernels from them must load them again (`switches`).
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import stat
import sys
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from fanout.errors import DecodeError
from fanout.project import digest_of, find

if TYPE_CHECKING:
    from collections.abc import Mapping


class Installation:
    """What has been put here.

    Args:
        folder: Where to put it; by default one in the folder for temporary files.
        is_closed: Take nothing from there, not even what another worker was sent.

    Attributes:
        switches: How often modules were forgotten for another version.
    """

    def __init__(self, folder: Path | None = None, *, is_closed: bool = False) -> None:
        self._folder = folder or _private_folder()
        self._is_closed = is_closed
        self.switches = 0
        self._current: dict[str, str] = {}  # digest of each top-level module, as imported now

    def lacking(self, wanted: Mapping[str, str]) -> list[str]:
        """Names of the top-level modules that are not here in this version.

        Args:
            wanted: Digest by name.
        """
        lacking = []
        for name, digest in wanted.items():
            if self._current.get(name) == digest:
                continue
            if not self._is_closed and self._place(digest).is_dir():
                self._switch(name, digest, self._place(digest))
            elif self._is_in_image(name, digest):
                self._switch(name, digest, None)
            else:
                lacking.append(name)
        return lacking

    def install(self, name: str, digest: str, files: Mapping[str, bytes]) -> None:
        """Put a top-level module here.

        Raises:
            DecodeError: The files are not those of the digest.
        """
        if digest_of(files) != digest:
            raise DecodeError(f"the code of {name} doesn't have the sha256 that was announced")
        place = self._place(digest)
        if not place.is_dir():
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft = self._folder / f"draft-{uuid.uuid4().hex}"
            for relative, text in files.items():
                path = draft / _checked(relative)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(text)
            with contextlib.suppress(OSError):  # another process was quicker
                draft.rename(place)
            shutil.rmtree(draft, ignore_errors=True)
        self._switch(name, digest, place)

    def _place(self, digest: str) -> Path:
        return self._folder / _checked(digest)

    def _is_in_image(self, name: str, digest: str) -> bool:
        """Whether it is found here by itself, without what clients have sent."""
        before = list(sys.path)
        sys.path[:] = [entry for entry in sys.path if not self._is_ours(entry)]
        importlib.invalidate_caches()
        try:
            top = find(name)
        finally:
            sys.path[:] = before
        return top is not None and top.digest == digest

    def _switch(self, name: str, digest: str, place: Path | None) -> None:
        """Have `import name` find this version from now on."""
        is_first = name not in self._current
        old = self._current.get(name)
        self._current[name] = digest
        if old is not None and old not in self._current.values():
            with contextlib.suppress(ValueError):
                sys.path.remove(str(self._place(old)))
        if place is not None and str(place) not in sys.path:
            sys.path.insert(0, str(place))
        importlib.invalidate_caches()
        if is_first and (place is None or name not in sys.modules):
            return  # nothing was imported that isn't right
        self.switches += 1
        # With all that may have imported it: modules keep those that they have imported.
        for module in [
            module for module in sys.modules if module.partition(".")[0] in self._current
        ]:
            del sys.modules[module]

    def _is_ours(self, entry: str) -> bool:
        return bool(entry) and Path(entry).parent == self._folder


def _private_folder() -> Path:
    """A folder that nobody else can write to; the same for all workers of a user, if it may be."""
    if hasattr(os, "getuid"):
        folder = Path(tempfile.gettempdir()) / f"fanout-code-{os.getuid()}"
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, exist_ok=True)
            status = folder.lstat()
            is_private = stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o077
            if is_private and status.st_uid == os.getuid():
                return folder
    return Path(tempfile.mkdtemp(prefix="fanout-code-"))


def _checked(relative: str) -> str:
    """A path that leads nowhere but below."""
    parts = Path(relative).parts
    if not parts or Path(relative).is_absolute() or ".." in parts:
        raise DecodeError(f"the code holds a file {relative!r}, which leads out of its folder")
    return relative
