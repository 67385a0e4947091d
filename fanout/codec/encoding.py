"""Values to bytes; the package says how they look."""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import decimal
import json
import math
import pickle
import struct
import sys
import types
import uuid
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fanout.codec.parts import (
    HINT_SAFE,
    Buffer,
    Encoded,
    Tree,
    digest_of,
    dtype_tree,
    has_no_surrogates,
    imported,
    type_name,
)
from fanout.codec.pickling import pickled
from fanout.errors import EncodeError
from fanout.refs import Ref

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# Up to here a blob stands in the JSON text: cheaper than a place in the list of buffers.
_INLINE_BYTES: Final = 1024
# JSON numbers of more bits are written in hexadecimal: Python limits decimal ones (CVE-2020-10735).
_DECIMAL_BITS: Final = 1024
_DECIMAL_BOUND: Final = 2**_DECIMAL_BITS

# Trees are made a moment before they are written, so they have no cycles, and they hold no NaN.
_text: Final = json.JSONEncoder(check_circular=False, allow_nan=False, separators=(",", ":")).encode


def encode(
    value: object, *, is_safe: bool = False, by_value: frozenset[str] = frozenset()
) -> Encoded:
    """Turn a value into bytes.

    Args:
        value: Anything.
        is_safe: Refuse what needs pickle.
        by_value: Modules that the other side can't import: classes and functions of theirs (and of
            `__main__`, always) travel with their code.

    Raises:
        EncodeError: The value, or something in it, has no encoding; names the type.
    """
    encoder = _Encoder(is_safe=is_safe, by_value=by_value)
    try:
        return Encoded(_text(encoder.tree(value)).encode("ascii"), encoder.buffers)
    except EncodeError:
        raise
    except Exception as error:
        raise _translated(value, error) from error


class ListEncoder:
    """Encodes a list one element at a time, each finished before the next is looked at.

    So an element that reuses the memory of an earlier one (a kernel that returns its scratch array)
    can't change it, and an element that can't be encoded spoils no other.

    Args:
        is_safe: As for `encode`.
        by_value: As for `encode`.
        copies: Copy large blobs, too. Not needed when the list has one element.
    """

    def __init__(
        self,
        *,
        is_safe: bool = False,
        by_value: frozenset[str] = frozenset(),
        copies: bool = True,
    ) -> None:
        self._encoder = _Encoder(is_safe=is_safe, by_value=by_value, copies=copies)
        self._texts: list[str] = []
        self._kept = 0  # buffers before the newest element

    def add(self, value: object) -> None:
        """Encode the next element.

        Raises:
            EncodeError: It has no encoding; None stands in its place.
        """
        kind = type(value)
        if (kind is int and -_DECIMAL_BOUND < value < _DECIMAL_BOUND) or (  # type: ignore[operator]
            kind is float and math.isfinite(value)  # type: ignore[arg-type]
        ):  # common, and as simple as this
            self._texts.append(repr(value))
            self._kept = len(self._encoder.buffers)
            return
        self._kept = kept = len(self._encoder.buffers)
        text = "null"
        try:
            text = _text(self._encoder.tree(value))
        except EncodeError:
            raise
        except Exception as error:
            raise _translated(value, error) from error
        finally:  # whatever happened, later elements keep their positions
            if text == "null":
                del self._encoder.buffers[kept:]
            self._texts.append(text)

    def newest_bytes(self) -> int:
        """Size of the newest element, bytes."""
        buffers = self._encoder.buffers[self._kept :]
        return len(self._texts[-1]) + sum(memoryview(buffer).nbytes for buffer in buffers)

    def retract(self, *, keeps_place: bool) -> None:
        """Take the newest element away again; None stands in its place if that is kept."""
        del self._encoder.buffers[self._kept :]
        del self._texts[-1]
        if keeps_place:
            self._texts.append("null")

    def finish(self) -> Encoded:
        """Return the list."""
        return Encoded(f"[{','.join(self._texts)}]".encode("ascii"), self._encoder.buffers)


def _translated(value: object, error: Exception) -> EncodeError:
    """What to raise in place of another error: memory ended, say, or foreign code raised."""
    if isinstance(error, RecursionError):
        why = "contains itself, or is nested too deeply"
        hint = "pass it flat, for example as arrays and indices"
    else:
        why = f"can't be encoded ({type(error).__name__}: {error})"
        hint = "see the cause; simpler values, such as numpy arrays and dicts, always can"
    return EncodeError(type_name(type(value)), why, hint)


class _Encoder:
    """Builds the tree of one value, and collects its buffers."""

    def __init__(self, *, is_safe: bool, by_value: frozenset[str], copies: bool = False) -> None:
        self.buffers: list[Buffer] = []
        self._copies = copies
        self._is_safe = is_safe
        self._by_value = by_value | {"__main__"}
        self._plain: dict[type, list[str] | None] = {}  # dataclasses seen, see _plain_fields

    def tree(self, value: Any) -> Tree:
        kind = type(value)
        if kind is bool or value is None or (kind is str and value.isascii()):
            return value
        method = _ENCODERS.get(kind)
        if method is not None:
            return method(self, value)
        if isinstance(value, np.generic) and kind.__module__ == "numpy":
            return self._scalar(value)
        if kind is np.memmap:
            return self._array(value.view(np.ndarray))
        if dataclasses.is_dataclass(kind) and (names := self._fields(value)):
            state = [self.tree(getattr(value, name)) for name in names]
            return {
                "$": "data",
                "t": f"{kind.__module__}:{kind.__qualname__}",
                "n": names,
                "v": state,
            }
        return self._pickle(value)

    def _fields(self, value: object) -> list[str] | None:
        """Names of a dataclass's fields if the value is these and nothing more, else None."""
        kind = type(value)
        if kind not in self._plain:
            self._plain[kind] = _plain_fields(kind, self._by_value)
        names = self._plain[kind]
        if names is None or not getattr(value, "__dict__", {}).keys() <= set(names):
            return None
        return names if all(hasattr(value, name) for name in names) else None

    def _str(self, value: str) -> Tree:
        # JSON makes one character of a high and a low surrogate in succession.
        if has_no_surrogates(value):
            return value
        return {"$": "str", "v": value.encode("utf-8", "surrogatepass").hex()}

    def _int(self, value: int) -> Tree:
        return value if value.bit_length() <= _DECIMAL_BITS else {"$": "int", "v": hex(value)}

    def _float(self, value: float) -> Tree:
        # repr() round-trips every finite number; NaN has payload bits, so they are kept as such.
        return value if math.isfinite(value) else {"$": "f", "v": struct.pack("<d", value).hex()}

    def _list(self, value: list[Any]) -> Tree:
        kinds = set(map(type, value))
        if len(kinds) == 1:  # common, and then the elements needn't be looked at one by one
            (kind,) = kinds
            if kind is bool or (kind is str and all(map(str.isascii, value))):
                return value
            if kind is float and math.isfinite(sum(value)):
                return value
            if kind is int and min(value) > -_DECIMAL_BOUND and max(value) < _DECIMAL_BOUND:
                return value
        return [self.tree(element) for element in value]

    def _tuple(self, value: tuple[Any, ...]) -> Tree:
        return {"$": "tuple", "v": self._list(list(value))}

    def _set(self, value: Iterable[Any]) -> Tree:
        # Sorted, so that equal sets give equal bytes whatever the hash seed.
        kept = len(self.buffers)
        keyed: list[tuple[str, str, Any, Tree]] = []
        has_buffers = False
        for element in value:
            tree = self.tree(element)
            digest = ""
            if len(self.buffers) > kept:
                has_buffers = True
                digest = digest_of(self.buffers[kept:])
                del self.buffers[kept:]
            keyed.append((_text(tree), digest, element, tree))
        keyed.sort(key=lambda entry: entry[:2])
        # Buffers are numbered in the order of encoding, so that has to be the sorted one, too.
        trees = [self.tree(element) if has_buffers else tree for _, _, element, tree in keyed]
        return {"$": type(value).__name__, "v": trees}

    def _dict(self, value: dict[Any, Any]) -> Tree:
        is_object = set(map(type, value)) <= {str} and (
            all(map(str.isascii, value)) or all(map(has_no_surrogates, value))
        )
        if is_object and "$" not in value:
            return {key: self.tree(element) for key, element in value.items()}
        pairs = [[self.tree(key), self.tree(element)] for key, element in value.items()]
        return {"$": "dict", "v": pairs}

    def _bytes(self, value: bytes | bytearray) -> Tree:
        return {"$": type(value).__name__, "b": self._blob(value)}

    def _complex(self, value: complex) -> Tree:
        return {"$": "complex", "v": struct.pack("<dd", value.real, value.imag).hex()}

    def _date(self, value: dt.date) -> Tree:
        return {"$": "date", "v": value.isoformat()}

    def _timedelta(self, value: dt.timedelta) -> Tree:
        return {"$": "timedelta", "v": [value.days, value.seconds, value.microseconds]}

    def _datetime(self, value: dt.datetime | dt.time) -> Tree:
        zone: Tree
        if value.tzinfo is None:
            zone = None
        elif type(value.tzinfo) is dt.timezone:
            # __getinitargs__ gives (offset,) or (offset, name): the name may be there or not.
            offset, *name = value.tzinfo.__getinitargs__()  # type: ignore[attr-defined]
            zone = {"offset": self._timedelta(offset), "name": self._list(name)}
        elif (key := _zone_key(value.tzinfo)) is not None:
            zone = {"key": self._str(key)}
        else:
            return self._pickle(value)
        text = value.replace(tzinfo=None).isoformat()
        return {"$": type(value).__name__, "v": text, "fold": value.fold, "tz": zone}

    def _decimal(self, value: decimal.Decimal) -> Tree:
        return {"$": "decimal", "v": str(value)}

    def _uuid(self, value: uuid.UUID) -> Tree:
        tree = {"$": "uuid", "v": value.hex}
        is_told = value.is_safe is not uuid.SafeUUID.unknown
        return tree | {"safe": value.is_safe.value} if is_told else tree

    def _array(self, value: np.ndarray[Any, Any]) -> Tree:
        order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
        tree: Tree = {"s": list(value.shape)}
        if order == "F":
            tree["o"] = order
        if value.dtype == object:
            elements = [self.tree(element) for element in value.ravel(order="C").tolist()]
            return {"$": "ndobject", **tree, "v": elements}
        descr = dtype_tree(value.dtype)
        if descr is None:
            return self._pickle(value)
        return {"$": "nd", "d": descr, **tree, "b": self._blob(_memory(value, order))}

    def _ref(self, value: Ref) -> Tree:
        return {"$": "ref", "d": value.digest, "n": value.nbytes}

    def _scalar(self, value: np.generic) -> Tree:
        # As arrays, these two would lose the zeros at their end.
        if isinstance(value, np.str_):
            return {"$": "npstr", "v": self._str(str(value))}
        if isinstance(value, np.bytes_):
            return {"$": "npbytes", "b": self._blob(bytes(value))}
        array = np.asarray(value)
        descr = dtype_tree(array.dtype)
        if descr is None:
            return self._pickle(value)
        return {"$": "np", "d": descr, "b": self._blob(_memory(array, "C"))}

    def _blob(self, data: Buffer) -> int | str:
        if memoryview(data).nbytes <= _INLINE_BYTES:
            return base64.b64encode(data).decode("ascii")
        self.buffers.append(bytes(data) if self._copies else data)
        return len(self.buffers) - 1

    def _pickle(self, value: object) -> Tree:
        if self._is_safe:
            raise EncodeError(type_name(type(value)), "needs pickle", HINT_SAFE)
        stream, views = pickled(value, self._by_value)
        digest = digest_of([stream, *views])
        blobs = [self._blob(part) for part in (stream, *views)]
        return {"$": "pickle", "b": blobs, "sha256": digest}


_ENCODERS: Final[dict[type, Callable[[_Encoder, Any], Tree]]] = {
    str: _Encoder._str,
    int: _Encoder._int,
    float: _Encoder._float,
    list: _Encoder._list,
    tuple: _Encoder._tuple,
    dict: _Encoder._dict,
    set: _Encoder._set,
    frozenset: _Encoder._set,
    bytes: _Encoder._bytes,
    bytearray: _Encoder._bytes,
    complex: _Encoder._complex,
    dt.date: _Encoder._date,
    dt.datetime: _Encoder._datetime,
    dt.time: _Encoder._datetime,
    dt.timedelta: _Encoder._timedelta,
    decimal.Decimal: _Encoder._decimal,
    uuid.UUID: _Encoder._uuid,
    np.ndarray: _Encoder._array,
    Ref: _Encoder._ref,
}


def _zone_key(zone: Any) -> str | None:
    """The key that leads to a zone; None if none does."""
    # Imported only where it is used: it is a tenth of what this module takes to import.
    zoneinfo = sys.modules.get("zoneinfo")
    if zoneinfo is None or type(zone) is not zoneinfo.ZoneInfo:
        return None
    try:
        zone.__reduce__()
    except pickle.PicklingError:  # it was read from a file, and called so
        return None
    return str(zone.key)


def _memory(array: np.ndarray[Any, Any], order: str) -> Buffer:
    """The bytes of an array, without a copy if it is contiguous."""
    if array.nbytes == 0:
        return b""
    flat = np.ascontiguousarray(array.T if order == "F" else array).reshape(-1)
    return flat.view(np.uint8).data


def _plain_fields(kind: Any, by_value: frozenset[str]) -> list[str] | None:
    """Names of the fields of a dataclass whose instances have no other state, else None."""
    if kind.__module__ in by_value or "<locals>" in kind.__qualname__:
        return None
    is_ordinary = (
        kind.__new__ is object.__new__
        and kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__reduce__ is object.__reduce__
        # A frozen dataclass with slots has these two from the dataclasses module itself.
        and getattr(kind.__getstate__, "__module__", "dataclasses") == "dataclasses"
        and getattr(getattr(kind, "__setstate__", None), "__module__", "dataclasses")
        == "dataclasses"
    )
    if not is_ordinary or imported(f"{kind.__module__}:{kind.__qualname__}") is not kind:
        return None
    names = [part.name for part in dataclasses.fields(kind)]
    slots: set[str] = set()
    for base in kind.__mro__:
        own = base.__dict__.get("__slots__", ())
        slots |= {own} if isinstance(own, str) else set(own)
    has_more = slots - {"__dict__", "__weakref__"} - set(names)
    return None if has_more or any(_is_computed(kind, name) for name in names) else names


def _is_computed(kind: type, name: str) -> bool:
    """Whether a property or the like stands before the field, other than that of a slot."""
    found = next((base.__dict__[name] for base in kind.__mro__ if name in base.__dict__), None)
    return hasattr(found, "__set__") and not isinstance(found, types.MemberDescriptorType)
