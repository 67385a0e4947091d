"""Whether two values are the same, though they were made in different processes.

The bytes of a pickle don't tell: sets and dicts made of them lie in the order of the process's hash
seed, and cloudpickle numbers the classes of a script at random. So values are hashed by what is in
them: sets and dicts without their order, functions and classes of the script by their code (where
in the file it stands does not matter), those of modules by name. Types count: 1 is not 1.0.
"""

from __future__ import annotations

import collections
import datetime as dt
import decimal
import dis
import hashlib
import types
import uuid
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fanout.codec import encode
from fanout.codec.parts import imported
from fanout.refs import Ref

if TYPE_CHECKING:
    from collections.abc import Iterable

_LEAVES: Final = frozenset(
    {bool, int, float, complex, str, bytes, bytearray, type(None), Ref}
    | {dt.date, dt.datetime, dt.time, dt.timedelta, decimal.Decimal, uuid.UUID}
)
# Of a class: where it stands, and what Python keeps there for itself.
_NOT_CONTENT: Final = frozenset(
    {"__dict__", "__weakref__", "__slotnames__", "_abc_impl", "__doc__", "__firstlineno__"}
    | {"__static_attributes__", "__module__", "__annotations_cache__"}
)
_GLOBAL_OPS: Final = frozenset({"LOAD_GLOBAL", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_NAME"})


def content_digest(value: object, by_value: frozenset[str] = frozenset()) -> bytes | None:
    """Digest of what is in a value; None if that can't be told.

    Args:
        value: Anything.
        by_value: Modules that count as part of the script.
    """
    try:
        return _Contents(by_value).digest(value)
    except Exception:  # noqa: BLE001  # __reduce__ is foreign code
        return None


def is_same(one: object, other: object, by_value: frozenset[str] = frozenset()) -> bool:
    """Whether two values are the same for sure."""
    digest = content_digest(one, by_value)
    return digest is not None and digest == content_digest(other, by_value)


class _Contents:
    """Goes through one value."""

    def __init__(self, by_value: frozenset[str]) -> None:
        self._by_value = by_value | {"__main__"}
        self._open: dict[int, int] = {}  # what is being gone through, with its depth
        self._done: dict[int, tuple[object, bytes]] = {}  # with the value, or ids were used again

    def digest(self, value: Any) -> bytes:
        key = id(value)
        if key in self._done:
            return self._done[key][1]
        if key in self._open:  # it contains itself
            return _hashed("again", [str(self._open[key]).encode()])
        self._open[key] = len(self._open)
        try:
            found = self._of(value)
        finally:
            del self._open[key]
        self._done[key] = (value, found)
        return found

    def _of(self, value: Any) -> bytes:
        kind = type(value)
        if (
            kind in _LEAVES
            or (isinstance(value, np.generic) and not isinstance(value, np.void))
            or (kind is np.ndarray and not value.dtype.hasobject)
        ):
            encoded = encode(value)
            return _hashed("leaf", [encoded.body, *map(bytes, encoded.buffers)])
        if kind is list or kind is tuple:
            return _hashed(kind.__name__, map(self.digest, value))
        if kind is set or kind is frozenset:
            return _hashed(kind.__name__, sorted(map(self.digest, value)))
        if kind is dict or kind is types.MappingProxyType:
            return _hashed("dict", sorted(map(self._pair, value.items())))
        if isinstance(value, types.ModuleType):
            return _hashed("module", [value.__name__.encode()])
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, types.CodeType):
            return self._code(value)
        if isinstance(value, types.CellType):
            return self.digest(value.cell_contents)
        if isinstance(value, staticmethod | classmethod):
            return _hashed(kind.__name__, [self.digest(value.__func__)])
        if kind is property:
            return _hashed("property", map(self.digest, (value.fget, value.fset, value.fdel)))
        if kind.__module__.startswith("numba.") and hasattr(value, "py_func"):
            told = (value.py_func, value.targetoptions)
            return _hashed("compiled", map(self.digest, told))
        return self._reduced(value)

    def _pair(self, item: tuple[Any, Any]) -> bytes:
        return self.digest(item[0]) + self.digest(item[1])

    def _reduced(self, value: Any) -> bytes:
        """Of an object: what pickle would write, without its order."""
        told = value.__reduce_ex__(4)
        if isinstance(told, str):
            return _hashed("global", [f"{value.__module__}:{told}".encode()])
        parts: list[Any] = [*told, *[None] * (6 - len(told))]
        make, args, state, elements, items, setter = parts
        pairs = [self._pair(item) for item in items or ()]
        if not isinstance(value, collections.OrderedDict):
            pairs.sort()
        told = (make, args, state, list(elements or ()), setter)
        return _hashed("object", [*map(self.digest, told), *pairs])

    def _is_elsewhere(self, value: Any) -> str | None:
        """The name by which a module that is not part of the script has this; else None."""
        name = f"{value.__module__}:{value.__qualname__}"
        if value.__module__ in self._by_value or "<locals>" in name or "<lambda>" in name:
            return None
        return name if imported(name) is value else None

    def _class(self, value: type) -> bytes:
        if (name := self._is_elsewhere(value)) is not None:
            return _hashed("name", [name.encode()])
        parts = [
            value.__qualname__.encode(),
            self.digest(type(value)),
            self.digest(value.__bases__),
        ]
        for name, part in sorted(vars(value).items()):
            if name not in _NOT_CONTENT and not isinstance(part, types.MemberDescriptorType):
                parts += [name.encode(), self.digest(part)]
        return _hashed("class", parts)

    def _function(self, value: types.FunctionType) -> bytes:
        if (name := self._is_elsewhere(value)) is not None:
            return _hashed("name", [name.encode()])
        used = {name: value.__globals__[name] for name in _globals_of(value.__code__)
                if name in value.__globals__}  # fmt: skip
        parts = (value.__code__, value.__defaults__, value.__kwdefaults__, value.__dict__, used)
        cells = value.__closure__ or ()
        return _hashed(
            "function",
            [value.__qualname__.encode(), *map(self.digest, parts), *map(self._cell, cells)],
        )

    def _cell(self, cell: types.CellType) -> bytes:
        try:
            return self.digest(cell.cell_contents)
        except ValueError:
            return b"empty"

    def _code(self, value: types.CodeType) -> bytes:
        counts = (value.co_argcount, value.co_posonlyargcount, value.co_kwonlyargcount)
        names = (value.co_names, value.co_varnames, value.co_freevars, value.co_cellvars)
        told = (*counts, value.co_flags, *names, value.co_code, value.co_exceptiontable)
        return _hashed("code", map(self.digest, (*told, value.co_consts)))


def _globals_of(code: types.CodeType) -> set[str]:
    """Names that code looks up in its module, and the functions within it."""
    found = {str(op.argval) for op in dis.get_instructions(code) if op.opname in _GLOBAL_OPS}
    inner = [part for part in code.co_consts if isinstance(part, types.CodeType)]
    return found.union(*map(_globals_of, inner))


def _hashed(what: str, parts: Iterable[bytes]) -> bytes:
    sha = hashlib.blake2b(what.encode(), digest_size=16)
    for part in parts:
        # With its length, or bytes could move from one part to the next.
        sha.update(len(part).to_bytes(8, "little"))
        sha.update(part)
    return sha.digest()
