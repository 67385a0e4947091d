"""The user's own modules: which a kernel needs, and whether two sides have the same.

A kernel by reference is imported at the far end, and so is what it imports. Modules of the standard
library and installed packages are the image's affair; what lies elsewhere is the user's project. It
is compared, and sent, by the top-level module: `simulation.py`, or every Python file of the package
`simulation`. So a function's late import finds its module, too.

Both sides use this; standard library only.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import io
import site
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fanout.errors import DecodeError, KernelNotUsableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from fanout.codec import Buffer

# A project is code. What is larger is data, or a folder that is a package by accident.
_MOST_FILES: Final = 5000
_MOST_BYTES: Final = 16 * 2**20
# Never part of anybody's project, wherever they are installed from.
_NOT_THE_USERS: Final = frozenset({"fanout", "__main__", "__mp_main__"})


@dataclass(frozen=True)
class Top:
    """A top-level module of the user's project.

    Attributes:
        name: Of the module.
        files: Its Python files, by their path below the folder that it is imported from.
        digest: sha256 of all that.
    """

    name: str
    files: Mapping[str, bytes]
    digest: str

    @cached_property
    def bundle(self) -> bytes:
        """The files as one byte string."""
        return bundled(self.files)


def needed_by(roots: Iterable[str]) -> list[Top]:
    """The project's top-level modules that these modules are part of, or import.

    Args:
        roots: Names of modules.

    Raises:
        KernelNotUsableError: A package is too large to be code.
    """
    found: dict[str, Top | None] = {}
    waiting = [root.partition(".")[0] for root in roots]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found[name] = top = find(name)
        if top is not None:
            waiting += {other for text in top.files.values() for other in _imported(text)}
    return sorted((top for top in found.values() if top is not None), key=lambda top: top.name)


def find(name: str) -> Top | None:
    """A top-level module of the project as it is now on disk; None if there is none of the name.

    Raises:
        KernelNotUsableError: It is too large to be code.
    """
    if name in _NOT_THE_USERS or name in sys.stdlib_module_names:
        return None
    folders = _folders(name)
    if not folders:
        return None
    files = {
        path.relative_to(folder).as_posix(): path for folder, paths in folders for path in paths
    }
    if (
        len(files) > _MOST_FILES
        or sum(path.stat().st_size for path in files.values()) > _MOST_BYTES
    ):
        raise KernelNotUsableError(
            name,
            f"is a module with {len(files):,} Python files, too many to send along",
            "install it in the worker's image, or move what the kernel needs into a smaller one",
        )
    texts = {relative: files[relative].read_bytes() for relative in sorted(files)}
    return Top(name, texts, digest_of(texts))


def digest_of(files: Mapping[str, bytes]) -> str:
    """sha256 of names and contents."""
    sha = hashlib.sha256()
    for relative, text in sorted(files.items()):
        sha.update(f"{relative} {len(text)}\n".encode())
        sha.update(text)
    return sha.hexdigest()


def bundled(files: Mapping[str, bytes]) -> bytes:
    """Files as one byte string; the same for the same files."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for relative, text in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(relative), text, zipfile.ZIP_DEFLATED)
    return target.getvalue()


def unbundled(data: Buffer) -> dict[str, bytes]:
    """What `bundled` was given.

    Raises:
        DecodeError: It is damaged.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > 4 * _MOST_BYTES:
                raise DecodeError("the code in a message is larger than code ever is")
            return {name: archive.read(name) for name in archive.namelist()}
    except DecodeError:
        raise
    except Exception as error:  # zipfile raises of every kind
        raise DecodeError(f"the code in a message is damaged: {error}") from error


def _folders(name: str) -> list[tuple[Path, list[Path]]]:
    """The folders from which a top-level module is imported, with its files; none if not ours."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):  # "__main__" and odd finders
        return []
    if spec is None:
        return []
    if spec.submodule_search_locations is not None:
        packages = [Path(location) for location in spec.submodule_search_locations]
        return [
            (package.parent, sorted(package.rglob("*.py")))
            for package in packages
            if package.is_dir() and not _is_installed(package)
        ]
    if spec.origin is None or not spec.origin.endswith(".py") or _is_installed(Path(spec.origin)):
        return []
    path = Path(spec.origin)
    return [(path.parent, [path])]


def _is_installed(path: Path) -> bool:
    """Whether it belongs to Python or to an installed package."""
    return any(path.is_relative_to(folder) for folder in _installed())


@cache
def _installed() -> tuple[Path, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    folders = {sysconfig.get_path(name) for name in names} | set(site.getsitepackages())
    folders.add(site.getusersitepackages())
    return tuple(Path(folder) for folder in folders if folder)


@lru_cache(maxsize=_MOST_FILES)
def _imported(text: bytes) -> frozenset[str]:
    """Top-level modules that a file imports anywhere in it."""
    return frozenset(_imports(text))


def _imports(text: bytes) -> Iterator[str]:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return  # a template, or of another Python; nothing of it was imported here
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
