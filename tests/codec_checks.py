"""What "exactly the same" means for the tests of the codec: stricter than ==."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import struct
from typing import Any

import numpy as np

from fanout.codec import decode, encode


def is_same(one: Any, other: Any) -> bool:
    """Whether two values agree in type, bits, order, dtype and layout, all the way down."""
    if type(one) is not type(other):
        return False
    match one:
        case float():
            return struct.pack("<d", one) == struct.pack("<d", other)
        case complex():
            return is_same([one.real, one.imag], [other.real, other.imag])
        case decimal.Decimal():
            return bool(one.as_tuple() == other.as_tuple())
        case dt.datetime() | dt.time():
            return is_same_time(one, other)
        case list() | tuple():
            return len(one) == len(other) and all(map(is_same, one, other))
        case dict():
            return is_same(list(one.items()), list(other.items()))
        case set() | frozenset():
            return len(one) == len(other) and all(
                sum(is_same(element, twin) for twin in other) == 1 for element in one
            )
        case np.ndarray() | np.generic():
            return is_same_array(np.asarray(one), np.asarray(other))
    if dataclasses.is_dataclass(one):
        return all(
            is_same(getattr(one, part.name), getattr(other, part.name))
            for part in dataclasses.fields(one)
        )
    return bool(one == other)


def is_same_time(one: Any, other: Any) -> bool:
    naive = one.replace(tzinfo=None) == other.replace(tzinfo=None) and one.fold == other.fold
    if isinstance(one.tzinfo, dt.timezone):
        return naive and type(other.tzinfo) is dt.timezone and repr(one) == repr(other)
    return naive and one.tzinfo is other.tzinfo  # ZoneInfo gives one object for each name


def is_same_array(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> bool:
    if not is_same_dtype(one.dtype, other.dtype) or one.shape != other.shape:
        return False
    is_fortran = one.flags.f_contiguous and not one.flags.c_contiguous
    if not (other.flags.f_contiguous if is_fortran else other.flags.c_contiguous):
        return False
    if one.dtype.hasobject:
        return is_same(one.ravel().tolist(), other.ravel().tolist())
    return bits(one) == bits(other)


def bits(array: np.ndarray[Any, Any]) -> object:
    """The bytes of an array, without those between fields or within a long double of x86."""
    if array.dtype.names is not None:
        return [bits(array[name]) for name in array.dtype.names]
    if array.dtype.char in "gG" and np.finfo(np.longdouble).nmant == 63:
        used = slice(10) if array.dtype.isnative else slice(6, 16)
        raw = np.frombuffer(array.tobytes(), np.uint8)
        return raw.reshape(-1, 16)[:, used].tobytes()
    return array.tobytes()


def is_same_dtype(one: np.dtype[Any], other: np.dtype[Any]) -> bool:
    def told(dtype: np.dtype[Any]) -> object:
        if dtype.subdtype is not None:
            return told(dtype.subdtype[0]), dtype.subdtype[1]
        if dtype.names is None:
            return dtype.str, dtype.num
        fields = {
            name: (told(part[0]), part[1:]) for name, part in dict(dtype.fields or {}).items()
        }
        return dtype.names, fields, dtype.itemsize, dtype.isalignedstruct, dtype.type

    return one == other and told(one) == told(other)


def survives(value: object, *, is_safe: bool = True) -> bool:
    """Whether a value comes back as it was; without pickle, unless told otherwise."""
    return is_same(value, decode(encode(value, is_safe=is_safe), is_safe=is_safe))
