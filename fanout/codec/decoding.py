"""Bytes to values; the package says how they look. No message is trusted to be well-formed."""

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
import uuid
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from fanout.codec.parts import (
    HINT_SAFE,
    Buffer,
    Encoded,
    digest_of,
    dtype_from,
    imported,
)
from fanout.errors import DecodeError, StoreError
from fanout.refs import Ref

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Fetch: TypeAlias = "Callable[[Ref], Any]"

# Up to here an array is copied out of the received message, so that keeping it does not keep the
# whole message alive.
_COPY_BYTES: Final = 64 * 1024
# Modules of fanout's own with dataclasses that stand in chunks. Importing one runs no code but
# fanout's, so codec="safe" does it too; a kernel's module need not import what it is only handed.
_OWN: Final = frozenset({"fanout.stored_chunks"})


def decode(
    encoded: Encoded,
    *,
    is_safe: bool = False,
    fetch: Fetch | None = None,
    is_frozen: bool = False,
) -> Any:
    """Give back the value that `encode` was given.

    Args:
        encoded: What it made.
        is_safe: Refuse pickle.
        fetch: Gives the object that a `Ref` stands for; without it, a `Ref` stays one.
        is_frozen: Arrays can't be written to, since others are to see the same bytes.

    Raises:
        DecodeError: Bytes are damaged, or hold a pickle although `is_safe`, or a class that is
            unpickled raised; its exception is the cause then.
        StoreError: An object can't be fetched.
    """
    return _parsed(encoded.body, _Decoder(encoded.buffers, is_safe, fetch, is_frozen).value)


def decode_each(
    encoded: Encoded, *, is_safe: bool = False, fetch: Fetch | None = None
) -> tuple[list[Any], dict[int, Exception]]:
    """Decode a list; a value that can't be is replaced by None, its error given by position.

    Raises:
        DecodeError: It is not a list at all.
    """
    errors: dict[int, Exception] = {}
    try:
        values = decode(encoded, is_safe=is_safe, fetch=fetch)
    except (DecodeError, StoreError):
        values = _parsed(encoded.body, None)
        for position, tree in enumerate(values if isinstance(values, list) else ()):
            values[position] = None
            try:
                body = json.dumps(tree).encode("ascii")
                values[position] = decode(
                    Encoded(body, encoded.buffers), is_safe=is_safe, fetch=fetch
                )
            except (DecodeError, StoreError, RecursionError) as error:
                errors[position] = error
    if not isinstance(values, list):
        raise DecodeError(f"the message holds no list, but a {type(values).__name__}")
    return values, errors


def _parsed(body: bytes, hook: Callable[[dict[str, Any]], Any] | None) -> Any:
    try:
        if b'"$"' not in body:
            hook = None  # nothing to call it for
        return json.loads(str(body, "ascii"), object_hook=hook)
    except (DecodeError, StoreError):
        raise
    except RecursionError:
        raise DecodeError("the value is nested too deeply for this process") from None
    except ValueError as error:
        raise DecodeError(f"the message is not what fanout writes: {error}") from error


class _Decoder:
    """Turns the objects with "$" of one message back into values."""

    def __init__(
        self,
        buffers: Sequence[Buffer],
        is_safe: bool,
        fetch: Fetch | None = None,
        is_frozen: bool = False,
    ) -> None:
        self._buffers = buffers
        self._is_safe = is_safe
        self._fetch = fetch
        self._is_frozen = is_frozen

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
        except (DecodeError, StoreError, RecursionError):
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
        found = bytearray(raw) if is_copied else raw
        return memoryview(found).toreadonly() if self._is_frozen else found

    def _array(self, node: dict[str, Any]) -> np.ndarray[Any, Any]:
        raw = self._small(node["b"])
        array: np.ndarray[Any, Any] = np.ndarray(
            tuple(node["s"]), dtype_from(node["d"]), buffer=raw, order=node.get("o", "C")
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
            if self._is_safe and module not in _OWN:
                raise DecodeError(
                    f"codec='safe' imports nothing, and {node['t']} is not imported here: "
                    "import its module in the module of the kernel"
                )
            __import__(module)
        kind = imported(node["t"])
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
            raise DecodeError(f"the message holds a pickle, which is refused: {HINT_SAFE}")
        parts = [self._small(blob) for blob in node["b"]]
        if digest_of(parts) != node["sha256"]:
            raise DecodeError("a pickle does not match its sha256: the message was damaged")
        try:
            return pickle.loads(parts[0], buffers=parts[1:])
        except RecursionError:
            raise
        except (Exception, SystemExit, GeneratorExit) as error:  # classes of anybody are at work
            what = f"a value can't be unpickled here: {type(error).__name__}: {error}"
            raise DecodeError(what) from error


def _ref(decoder: _Decoder, node: dict[str, Any]) -> Any:
    ref = Ref(node["d"], node["n"])
    return ref if decoder._fetch is None else decoder._fetch(ref)


_DECODERS: Final[dict[str, Callable[[_Decoder, dict[str, Any]], Any]]] = {
    "ref": _ref,
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
