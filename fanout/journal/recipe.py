"""What it takes to resume a run without the program that began it: out of its journal.

The kernel as it travelled, the chunks, the options of the map, and how to make its backend.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fanout.codec import decode
from fanout.errors import DecodeError, JournalError
from fanout.journal.folder import read_meta, reading
from fanout.journal.schema import sealed, unsealed
from fanout.kernel_spec import KernelSpec
from fanout.wire import Message, frame, unframe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_TELLS: Final = ("name", "digest", "target", "source", "is_compiled_there")


def packed_spec(spec: KernelSpec) -> tuple[str, bytes]:
    """A kernel as a row."""
    told: dict[str, Any] = {name: getattr(spec, name) for name in _TELLS}
    told |= {"local_modules": sorted(spec.local_modules), "roots": sorted(spec.roots)}
    text = json.dumps(told)
    return text, sealed(b"".join(frame(Message({}, spec.code))), text)


def spec_in(database: sqlite3.Connection) -> KernelSpec:
    """The kernel of a journal.

    Raises:
        DecodeError: It is damaged.
        sqlite3.Error: It can't be read.
    """
    row = database.execute("SELECT spec, code FROM kernel").fetchone()
    if row is None:
        raise DecodeError("it holds no kernel")
    text, code = row
    content = unsealed(code, text)
    told = json.loads(text)
    return KernelSpec(
        **{name: told[name] for name in _TELLS},
        code=unframe(content).payload,
        local_modules=frozenset(told["local_modules"]),
        roots=frozenset(told["roots"]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What to do.

    Attributes:
        run: Id of the run.
        spec: The kernel.
        is_star: Whether each chunk is a tuple of arguments.
        options: Of the map.
        backend: How to make it: arguments by name, and its kind.
        store: That of the executor, as it was named; None: none.
        folders: Where its modules are found.
        total: Number of chunks.
    """

    run: str
    spec: KernelSpec
    is_star: bool
    options: dict[str, Any]
    backend: dict[str, Any]
    store: str | None
    folders: list[str]
    total: int


def recipe_in(path: Path) -> Recipe:
    """What a journal says.

    Raises:
        JournalError: It can't be read, or doesn't hold all that it takes.
    """
    try:
        with reading(path) as database:
            meta = read_meta(database)
            spec, recipe, total = spec_in(database), meta["recipe"], meta["total"]
            (kept,) = database.execute(
                "SELECT count(frame) FROM chunks WHERE task < ?", (total or 0,)
            ).fetchone()
    except (sqlite3.Error, DecodeError, ValueError, TypeError, KeyError) as error:
        msg = f"the journal {path} can't be read ({error}): make the call again that began the run"
        raise JournalError(msg) from error
    again = "make the call again that began it, with the same name"
    if recipe.get("backend") is None or recipe.get("options") is None:
        what = "its backend or one of its options can't be written down"
        raise JournalError(f"run {meta['run']} can't be resumed from here, as {what}: {again}")
    if total is None or kept != total:
        what = f"not all of its chunks are in its journal ({kept:,} of {total or 'unknown'})"
        raise JournalError(f"run {meta['run']} can't be resumed from here, as {what}: {again}")
    return Recipe(
        run=meta["run"],
        spec=spec,
        is_star=recipe["is_star"],
        options=recipe["options"],
        backend=recipe["backend"],
        store=recipe["store"],
        folders=recipe["folders"],
        total=total,
    )


class Chunks:
    """The chunks in a journal, as a sequence that is read as it is gone through."""

    def __init__(self, path: Path, total: int, *, is_safe: bool) -> None:
        self._path = path
        self._total = total
        self._is_safe = is_safe

    def __len__(self) -> int:
        return self._total

    def __iter__(self) -> Iterator[Any]:
        try:
            with reading(self._path) as database:
                for task in range(self._total):
                    content, digest = database.execute(
                        "SELECT frame, digest FROM chunks WHERE task = ?", (task,)
                    ).fetchone()
                    payload = unframe(unsealed(content, task, digest)).payload
                    yield decode(payload, is_safe=self._is_safe)
        except (sqlite3.Error, DecodeError, TypeError) as error:
            msg = (
                f"the journal {self._path} can't be read ({error}): make the call again that began "
                "the run"
            )
            raise JournalError(msg) from error
