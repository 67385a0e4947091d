"""Values to bytes and back, exactly: JSON for the structure, raw buffers for the bulk.

    encode(value) -> Encoded(body, buffers)        decode(encoded) -> value

JSON-like values, tuples, sets, bytes, dates, decimals, dataclasses, numpy arrays and scalars travel
without pickle. Whatever else there is goes by pickle protocol 5 with out-of-band buffers, and is
decoded only when its sha256 matches the one in `body`, which travels inside the protected envelope;
`is_safe=True` refuses pickle in both directions, and names the type.

In `body` a value that JSON knows stands for itself, every other is an object with the key "$":

    {"$": "tuple", "v": [1, 2]}      {"$": "nd", "d": "<f8", "s": [2, 3], "b": 0}

A blob "b" is either the number of a buffer or, if small, its base64 text. Large arrays are not
copied here: encoding takes a view of their memory, decoding gives an array over the received one.

What is not kept: that two places of a value hold the very same object (they become equal copies);
the memory layout of an array that is neither C- nor Fortran-contiguous (it becomes C-contiguous);
that an array was read-only, or mapped from a file (`np.memmap` becomes `np.ndarray`).

Pure, and standard library + numpy only, since the worker runs it.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import datetime as dt
import decimal
import hashlib
import io
import json
import math
import pickle
import struct
import sys
import threading
import types
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias

import numpy as np

from fanout.errors import DecodeError, EncodeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

Buffer: TypeAlias = bytes | bytearray | memoryview
Tree: TypeAlias = Any  # what json.dumps takes

# Up to here a blob stands in the JSON text: cheaper than a place in the list of buffers.
_INLINE_BYTES: Final = 1024
# Up to here an array is copied out of the received message, so that keeping it does not keep the
# whole message alive.
_COPY_BYTES: Final = 64 * 1024
# JSON numbers of more bits are written in hexadecimal: Python limits decimal ones (CVE-2020-10735).
_DECIMAL_BITS: Final = 1024
_DECIMAL_BOUND: Final = 2**_DECIMAL_BITS
# cloudpickle's list of modules that go by value is one for the whole process.
_REGISTRY_LOCK: Final = threading.RLock()

_HINT_SAFE = (
    "codec='safe' does not pickle: return or pass JSON-like values, dataclasses or numpy arrays, "
    "or use codec='auto'"
)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A value as bytes: JSON text, and the buffers it refers to by number."""

    body: bytes
    buffers: list[Buffer] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """Size of everything, bytes."""
        return len(self.body) + sum(memoryview(buffer).nbytes for buffer in self.buffers)


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


def decode(encoded: Encoded, *, is_safe: bool = False) -> Any:
    """Give back the value that `encode` was given.

    Raises:
        DecodeError: Bytes are damaged, or hold a pickle although `is_safe`, or a class that is
            unpickled raised; its exception is the cause then.
    """
    return _parsed(encoded.body, _Decoder(encoded.buffers, is_safe).value)


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

    def add(self, value: object) -> None:
        """Encode the next element.

        Raises:
            EncodeError: It has no encoding; None stands in its place.
        """
        kept = len(self._encoder.buffers)
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

    def finish(self) -> Encoded:
        """Return the list."""
        return Encoded(f"[{','.join(self._texts)}]".encode("ascii"), self._encoder.buffers)


def decode_each(
    encoded: Encoded, *, is_safe: bool = False
) -> tuple[list[Any], dict[int, Exception]]:
    """Decode a list; a value that can't be is replaced by None, its error given by position.

    Raises:
        DecodeError: It is not a list at all.
    """
    errors: dict[int, Exception] = {}
    try:
        values = decode(encoded, is_safe=is_safe)
    except DecodeError:
        values = _parsed(encoded.body, None)
        for position, tree in enumerate(values if isinstance(values, list) else ()):
            values[position] = None
            try:
                body = json.dumps(tree).encode("ascii")
                values[position] = decode(Encoded(body, encoded.buffers), is_safe=is_safe)
            except (DecodeError, RecursionError) as error:
                errors[position] = error
    if not isinstance(values, list):
        raise DecodeError(f"the message holds no list, but a {type(values).__name__}")
    return values, errors


# Trees are made a moment before they are written, so they have no cycles, and they hold no NaN.
_text: Final = json.JSONEncoder(check_circular=False, allow_nan=False, separators=(",", ":")).encode


def _translated(value: object, error: Exception) -> EncodeError:
    """What to raise in place of another error: memory ended, say, or foreign code raised."""
    if isinstance(error, RecursionError):
        why = "contains itself, or is nested too deeply"
        hint = "pass it flat, for example as arrays and indices"
    else:
        why = f"can't be encoded ({type(error).__name__}: {error})"
        hint = "see the cause; simpler values, such as numpy arrays and dicts, always can"
    return EncodeError(_name(type(value)), why, hint)


def _parsed(body: bytes, hook: Callable[[dict[str, Any]], Any] | None) -> Any:
    try:
        return json.loads(body, object_hook=hook)
    except DecodeError:
        raise
    except RecursionError:
        raise DecodeError("the value is nested too deeply for this process") from None
    except ValueError as error:
        raise DecodeError(f"the message is not what fanout writes: {error}") from error


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


# ---- encoding ----


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
        if _has_no_surrogates(value):
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
                digest = _digest(self.buffers[kept:])
                del self.buffers[kept:]
            keyed.append((_text(tree), digest, element, tree))
        keyed.sort(key=lambda entry: entry[:2])
        # Buffers are numbered in the order of encoding, so that has to be the sorted one, too.
        trees = [self.tree(element) if has_buffers else tree for _, _, element, tree in keyed]
        return {"$": type(value).__name__, "v": trees}

    def _dict(self, value: dict[Any, Any]) -> Tree:
        is_object = set(map(type, value)) <= {str} and (
            all(map(str.isascii, value)) or all(map(_has_no_surrogates, value))
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
        descr = _dtype_tree(value.dtype)
        if descr is None:
            return self._pickle(value)
        return {"$": "nd", "d": descr, **tree, "b": self._blob(_memory(value, order))}

    def _scalar(self, value: np.generic) -> Tree:
        # As arrays, these two would lose the zeros at their end.
        if isinstance(value, np.str_):
            return {"$": "npstr", "v": self._str(str(value))}
        if isinstance(value, np.bytes_):
            return {"$": "npbytes", "b": self._blob(bytes(value))}
        array = np.asarray(value)
        descr = _dtype_tree(array.dtype)
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
            raise EncodeError(_name(type(value)), "needs pickle", _HINT_SAFE)
        stream, views = _pickled(value, self._by_value)
        digest = _digest([stream, *views])
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
}


def _has_no_surrogates(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


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


def _dtype_tree(dtype: np.dtype[Any]) -> Tree | None:
    """A dtype as JSON, exactly; None if it holds objects or isn't numpy's own."""
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        inner = _dtype_tree(base)
        return None if inner is None else {"base": inner, "shape": list(shape)}
    if dtype.metadata is not None or dtype.hasobject or dtype.type is np.record:
        return None
    if dtype.char in "gG":  # its size alone doesn't tell x86's format from arm's
        return {"long": dtype.str[0] + dtype.char, "digits": np.finfo(np.longdouble).nmant}
    if dtype.names is None and np.dtype(dtype.str).num != dtype.num:
        return dtype.str[0] + dtype.char  # C's long and long long are two types of one size
    if dtype.names is None:
        return dtype.str if np.dtype(dtype.str) == dtype else None
    fields: list[Any] = [dtype.fields[name] for name in dtype.names]  # type: ignore[index]
    formats = [_dtype_tree(part[0]) for part in fields]
    titles = [part[2] if len(part) > 2 else None for part in fields]
    are_texts = all(
        title is None or (type(title) is str and _has_no_surrogates(title))
        for title in (*titles, *dtype.names)
    )
    if not are_texts or any(inner is None for inner in formats):
        return None
    return {
        "names": list(dtype.names),
        "formats": formats,
        "offsets": [part[1] for part in fields],
        "titles": titles,
        "itemsize": dtype.itemsize,
        "aligned": dtype.isalignedstruct,
    }


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
    if not is_ordinary or _find(f"{kind.__module__}:{kind.__qualname__}") is not kind:
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


def _find(target: str) -> Any:
    """What `module:qualname` names among the imported modules; None if nothing."""
    module, _, qualname = target.partition(":")
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found


def _pickled(value: object, by_value: frozenset[str]) -> tuple[bytes, list[Buffer]]:
    """Pickle with plain pickle where it can, with cloudpickle where code must go along."""
    views: list[Buffer] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        try:
            views.append(buffer.raw())
        except BufferError:  # not contiguous: let pickle write it into the stream
            return True
        return False

    try:
        stream = pickle.dumps(value, protocol=5, buffer_callback=keep)
        if not any(module.encode() in stream for module in by_value):
            return stream, views
    except RecursionError:
        raise
    except Exception:  # noqa: BLE001, S110  # __reduce__ is foreign code; cloudpickle has the last word
        pass
    views.clear()
    try:
        with _sent_by_value(by_value):
            return _cloudpickled(value, keep), views
    except RecursionError:
        raise
    except Exception as error:
        raise EncodeError(
            _name(type(value)),
            f"can't be pickled ({error})",
            "open files, locks, connections and the like belong to one process: "
            "create them inside the kernel",
        ) from error


def _cloudpickled(value: object, keep: Callable[[pickle.PickleBuffer], bool]) -> bytes:
    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
        dispatch_table: ClassVar = cloudpickle.Pickler.dispatch_table.new_child(
            {io.TextIOWrapper: _stream}
        )

    with io.BytesIO() as file:
        Pickler(file, protocol=5, buffer_callback=keep).dump(value)
        return file.getvalue()


def _stream(file: io.TextIOWrapper) -> tuple[Any, ...]:
    """In place of cloudpickle's own way with an open file, which is to send all that is in it.

    How far it is read would then depend on which tasks a worker happens to run.
    """
    for name in ("stdout", "stderr"):
        if file is getattr(sys, name):
            return getattr, (sys, name)
    raise pickle.PicklingError(f"{file.name!r} is open here only")


@contextlib.contextmanager
def _sent_by_value(modules: frozenset[str]) -> Iterator[None]:
    """Have cloudpickle write out what these modules define, for as long as it takes."""
    import cloudpickle

    with _REGISTRY_LOCK, contextlib.ExitStack() as stack:
        already = cloudpickle.list_registry_pickle_by_value()
        for name in modules - already - {"__main__"}:
            if (module := sys.modules.get(name)) is not None:
                cloudpickle.register_pickle_by_value(module)
                stack.callback(cloudpickle.unregister_pickle_by_value, module)
        yield


def _digest(parts: Iterable[Buffer]) -> str:
    sha = hashlib.sha256()
    for part in parts:
        # With its length, or bytes could move from one part to the next.
        sha.update(memoryview(part).nbytes.to_bytes(8, "little"))
        sha.update(part)
    return sha.hexdigest()


# ---- decoding ----


class _Decoder:
    """Turns the objects with "$" of one message back into values."""

    def __init__(self, buffers: Sequence[Buffer], is_safe: bool) -> None:
        self._buffers = buffers
        self._is_safe = is_safe

    def value(self, node: dict[str, Any]) -> Any:
        """Hook for json.loads: called for every object, innermost first."""
        if "$" not in node:
            return node
        tag = node["$"]
        method = _DECODERS.get(tag) if isinstance(tag, str) else None
        if method is None:
            raise DecodeError(f"unknown tag {tag!r}: was this written by a newer fanout?")
        try:
            return method(self, node)
        except (DecodeError, RecursionError):
            raise
        except Exception as error:
            what = f"damaged {tag!r} in a message: {type(error).__name__}: {error}"
            raise DecodeError(what) from error

    def _raw(self, blob: int | str) -> Buffer:
        if isinstance(blob, str):
            return bytearray(base64.b64decode(blob, validate=True))  # writable
        if type(blob) is not int or blob < 0:
            raise DecodeError(f"a message refers to buffer {blob!r}")
        return self._buffers[blob]

    def _small(self, blob: int | str) -> Buffer:
        """As `_raw`, but memory that keeps no message alive if it is small."""
        raw = self._raw(blob)
        is_copied = not isinstance(blob, str) and memoryview(raw).nbytes <= _COPY_BYTES
        return bytearray(raw) if is_copied else raw

    def _array(self, node: dict[str, Any]) -> np.ndarray[Any, Any]:
        raw = self._small(node["b"])
        array: np.ndarray[Any, Any] = np.ndarray(
            tuple(node["s"]), _dtype_from(node["d"]), buffer=raw, order=node.get("o", "C")
        )
        if array.nbytes != memoryview(raw).nbytes:
            what = f"an array of {array.nbytes} bytes came as {memoryview(raw).nbytes}"
            raise DecodeError(f"damaged message: {what}")
        return array

    def _object_array(self, node: dict[str, Any]) -> np.ndarray[Any, Any]:
        elements = node["v"]
        # Checked before memory is taken for as many as the shape promises.
        if type(elements) is not list or math.prod(node["s"]) != len(elements):
            raise DecodeError("damaged message: an array of objects has another number of elements")
        array = np.empty(len(elements), dtype=object)
        for position, element in enumerate(elements):
            array[position] = element
        return array.reshape(node["s"]).copy(order=node.get("o", "C"))

    def _scalar(self, node: dict[str, Any]) -> Any:
        return self._array(node | {"s": ()}).copy()[()]

    def _data(self, node: dict[str, Any]) -> Any:
        module, _, _ = node["t"].partition(":")
        if module not in sys.modules:
            if self._is_safe:
                raise DecodeError(
                    f"codec='safe' imports nothing, and {node['t']} is not imported here: "
                    "import its module in the module of the kernel"
                )
            __import__(module)
        kind = _find(node["t"])
        if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
            raise DecodeError(f"{node['t']} is not a dataclass here: is the code the same?")
        if [part.name for part in dataclasses.fields(kind)] != node["n"]:
            raise DecodeError(f"{node['t']} has other fields here: is the code the same?")
        value = object.__new__(kind)
        for name, state in zip(node["n"], node["v"], strict=True):
            object.__setattr__(value, name, state)
        return value

    def _datetime(self, node: dict[str, Any]) -> Any:
        kind = dt.datetime if node["$"] == "datetime" else dt.time
        zone: dt.tzinfo | None = None
        if node["tz"] is not None and "key" in node["tz"]:
            import zoneinfo

            zone = zoneinfo.ZoneInfo(node["tz"]["key"])
        elif node["tz"] is not None:
            zone = dt.timezone(node["tz"]["offset"], *node["tz"]["name"])
        return kind.fromisoformat(node["v"]).replace(tzinfo=zone, fold=node["fold"])

    def _pickle(self, node: dict[str, Any]) -> Any:
        if self._is_safe:
            raise DecodeError(f"the message holds a pickle, which is refused: {_HINT_SAFE}")
        parts = [self._small(blob) for blob in node["b"]]
        if _digest(parts) != node["sha256"]:
            raise DecodeError("a pickle does not match its sha256: the message was damaged")
        try:
            return pickle.loads(parts[0], buffers=parts[1:])
        except RecursionError:
            raise
        except (Exception, SystemExit, GeneratorExit) as error:  # classes of anybody are at work
            what = f"a value can't be unpickled here: {type(error).__name__}: {error}"
            raise DecodeError(what) from error


_DECODERS: Final[dict[str, Callable[[_Decoder, dict[str, Any]], Any]]] = {
    "str": lambda _, node: bytes.fromhex(node["v"]).decode("utf-8", "surrogatepass"),
    "tuple": lambda _, node: tuple(node["v"]),
    "set": lambda _, node: set(node["v"]),
    "frozenset": lambda _, node: frozenset(node["v"]),
    "dict": lambda _, node: dict(node["v"]),
    "int": lambda _, node: int(node["v"], 16),
    "f": lambda _, node: struct.unpack("<d", bytes.fromhex(node["v"]))[0],
    "complex": lambda _, node: complex(*struct.unpack("<dd", bytes.fromhex(node["v"]))),
    "bytes": lambda self, node: bytes(self._raw(node["b"])),
    "bytearray": lambda self, node: bytearray(self._raw(node["b"])),
    "date": lambda _, node: dt.date.fromisoformat(node["v"]),
    "timedelta": lambda _, node: dt.timedelta(*node["v"]),
    "datetime": _Decoder._datetime,
    "time": _Decoder._datetime,
    "decimal": lambda _, node: decimal.Decimal(node["v"]),
    "uuid": lambda _, node: uuid.UUID(hex=node["v"], is_safe=uuid.SafeUUID(node.get("safe"))),
    "data": _Decoder._data,
    "nd": _Decoder._array,
    "ndobject": _Decoder._object_array,
    "np": _Decoder._scalar,
    "npstr": lambda _, node: np.str_(node["v"]),
    "npbytes": lambda self, node: np.bytes_(bytes(self._raw(node["b"]))),
    "pickle": _Decoder._pickle,
}


def _dtype_from(tree: Tree) -> np.dtype[Any]:
    dtype: np.dtype[Any]
    if isinstance(tree, str):
        dtype = np.dtype(tree)
        if dtype.hasobject:  # bytes of a message would be taken for pointers
            raise DecodeError(f"damaged message: {tree!r} is no dtype of plain data")
        return dtype
    if "long" in tree:
        if tree["digits"] != np.finfo(np.longdouble).nmant:
            raise DecodeError("longdouble has another format on this processor: use float64")
        return _dtype_from(tree["long"])
    if "base" in tree:
        return np.dtype((_dtype_from(tree["base"]), tuple(tree["shape"])))
    parts: Any = {key: tree[key] for key in ("names", "offsets", "itemsize")}
    parts["formats"] = [_dtype_from(inner) for inner in tree["formats"]]
    if any(title is not None for title in tree["titles"]):
        parts["titles"] = tree["titles"]
    dtype = np.dtype(parts, align=tree["aligned"])
    return dtype
