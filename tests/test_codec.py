"""The codec on Python's own values: an exact round trip, and without pickle."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import os
import struct
import subprocess
import sys
import threading
import uuid
import zoneinfo
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fanout.codec import Encoded, ListEncoder, decode, decode_each, encode
from fanout.errors import DecodeError, EncodeError
from fanout.stored_chunks import Block, StoredObject
from tests.codec_checks import survives

# ---- values ----


def float_of_bits(bits: int) -> float:
    return float(struct.unpack("<d", bits.to_bytes(8, "little"))[0])


texts = st.text(st.characters()) | st.text("\ud83d\ude00\udfff$a")
floats = st.floats() | st.integers(0, 2**64 - 1).map(float_of_bits)
integers = st.integers() | st.integers(-(2**5000), 2**5000)
blobs = st.binary() | st.integers(1000, 3000).map(bytes)
decimals = st.decimals() | st.sampled_from(
    [decimal.Decimal(text) for text in ("NaN123", "sNaN", "-sNaN7", "-0", "1E+1000", "-Infinity")]
)
zones = st.one_of(
    st.none(),
    st.just(dt.UTC),
    st.timezones(),
    st.builds(dt.timezone, st.timedeltas(dt.timedelta(hours=-23), dt.timedelta(hours=23))),
    st.builds(dt.timezone, st.just(dt.timedelta(hours=1)), st.text(st.characters())),
)
datetimes = st.builds(
    lambda when, zone, fold: when.replace(tzinfo=zone, fold=fold),
    st.datetimes() | st.times(),
    zones,
    st.integers(0, 1),
)
keys = st.recursive(
    st.none() | st.booleans() | integers | floats | texts | st.binary() | st.dates() | st.uuids(),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)


@dataclass
class Point:
    x: Any
    y: Any = 0


@dataclass(frozen=True)
class Frozen:
    a: Any


@dataclass(frozen=True, slots=True)
class FrozenSlots:
    a: Any
    b: Any = field(default=None, compare=False)


@dataclass(slots=True)
class Derived(Point):
    z: Any = 0
    doubled: Any = field(init=False)
    kind: ClassVar[str] = "derived"

    def __post_init__(self) -> None:
        self.doubled = [self.z, self.z]


leaves = st.one_of(
    keys,
    blobs,
    blobs.map(bytearray),
    st.complex_numbers() | st.builds(complex, floats, floats),
    decimals,
    datetimes,
    st.timedeltas(),
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(texts, inner, max_size=4),
        st.dictionaries(keys, inner, max_size=4),
        st.sets(keys, max_size=4),
        st.builds(Point, inner, inner),
        st.builds(Frozen, inner),
        st.builds(FrozenSlots, inner, inner),
        st.builds(Derived, inner, inner, inner),
    ),
    max_leaves=12,
)


# ---- the round trip ----


@settings(max_examples=300, deadline=None)
@given(values)
def test_every_value_comes_back_exactly_and_without_pickle(value: object) -> None:
    assert survives(value)


@settings(max_examples=50, deadline=None)
@given(st.lists(floats) | st.lists(integers) | st.lists(texts) | st.lists(st.booleans()))
def test_a_list_of_one_type_comes_back_exactly(value: list[object]) -> None:
    assert survives(value)


@pytest.mark.parametrize(
    "value",
    [
        "\ud800\udc00",
        ["\ud800\udc00", "a"],
        {"\ud800\udc00": 1, "\U00010000": 2},
        {"$": "tuple", "v": []},
        {"$": None},
        {1: "int", "1": "str", None: None, 1.5: "float"},
        [2**1024, -(2**1024), 2**1024 - 1],
        [True, 1, 1.0],
        [-0.0, 0.0, float("inf"), float("-inf")],
        [1e308, 1e308],
        (),
        {},
        set(),
        frozenset({frozenset({1, "1"}), frozenset()}),
        dt.datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=zoneinfo.ZoneInfo("Europe/Vienna")),
        dt.datetime(1, 1, 1, tzinfo=dt.timezone(dt.timedelta(seconds=1), "odd")),
        uuid.uuid1(),
        [Point(1, Frozen((2, {3}))), Derived(1, 2, 3)],
    ],
    # That of a UUID or a set is another one in each process.
    ids=lambda value: (
        type(value).__name__ if isinstance(value, uuid.UUID | frozenset) else repr(value)
    ),
)
def test_an_awkward_value_comes_back_exactly(value: object) -> None:
    assert survives(value)


def test_a_uuid_keeps_whether_it_was_made_safely() -> None:
    made = uuid.UUID(int=1, is_safe=uuid.SafeUUID.safe)
    assert decode(encode(made, is_safe=True), is_safe=True).is_safe is uuid.SafeUUID.safe


def test_equal_sets_give_equal_bytes_whatever_the_hash_seed() -> None:
    script = """if True:
        import hashlib
        from fanout.codec import encode
        words = [f"word {n}" for n in range(40)]
        blobs = [bytes([n]) * 2000 for n in range(9)]
        groups = [frozenset(blobs[n:n + 3]) for n in range(5)]
        encoded = encode({*words, *blobs, *groups}, is_safe=True)
        print(hashlib.sha256(b"|".join([encoded.body, *encoded.buffers])).hexdigest())
    """
    digests = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(digests) == 1


# ---- dataclasses that are more than their fields ----


@dataclass
class Slotted:
    __slots__ = ("a", "hidden")
    a: int


class Negated:
    """Hands out the opposite of what it was given."""

    def __get__(self, instance: Any, owner: type) -> int:
        return 0 if instance is None else -instance.__dict__["_a"]

    def __set__(self, instance: Any, value: int) -> None:
        instance.__dict__["_a"] = value


@dataclass
class Computed:
    a: int = Negated()  # type: ignore[assignment]


@dataclass(init=False, eq=False)
class Text(str):
    a: int = 0


def test_state_beside_the_fields_of_a_dataclass_is_kept() -> None:
    slotted, point = Slotted(1), Point(1)
    slotted.hidden = 2  # type: ignore[attr-defined]
    point.extra = 3  # type: ignore[attr-defined]
    assert decode(encode(slotted)).hidden == 2
    assert decode(encode(point)).extra == 3
    assert decode(encode(Computed(5))).a == -5
    assert decode(encode(Text("a"))) == "a"


def test_an_unset_field_stays_unset() -> None:
    value = dataclasses.replace(Derived(1))
    del value.doubled
    assert not hasattr(decode(encode(value)), "doubled")


@pytest.mark.parametrize("value", [Slotted(1), Computed(1), Text("a")], ids=repr)
def test_safe_refuses_a_dataclass_that_is_more_than_its_fields(value: object) -> None:
    with pytest.raises(EncodeError, match=type(value).__name__):
        encode(value, is_safe=True)


def test_a_dataclass_whose_fields_changed_is_refused() -> None:
    body = encode(Point(1)).body.replace(b'"y"', b'"w"')
    with pytest.raises(DecodeError, match="other fields"):
        decode(Encoded(body))


def test_safe_imports_the_modules_of_fanouts_own_chunks() -> None:
    """A kernel's module need not import what it is only handed."""
    chunks = [
        Block(source="/a", start=0, stop=1, source_bytes=2, on=b"\n"),
        (StoredObject(source="s3://b/k", nbytes=3, etag='"e"'),),
    ]
    encoded = encode(chunks, is_safe=True)
    code = (
        "import sys; from fanout.codec import Encoded, decode; "
        "assert 'fanout.stored_chunks' not in sys.modules; "
        "print(decode(Encoded(sys.stdin.buffer.read()), is_safe=True))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=encoded.body, capture_output=True, check=True
    )
    assert done.stdout.decode().strip() == repr(chunks)
    assert decode(encoded, is_safe=True) == chunks


@pytest.mark.parametrize("module", ["this", "fanout.__main__"])
def test_safe_imports_nothing_else(module: str) -> None:
    body = b'{"$":"data","t":"%s:Zen","n":["a"],"v":[1]}' % module.encode()
    with pytest.raises(DecodeError, match="imports nothing"):
        decode(Encoded(body), is_safe=True)
    assert module not in sys.modules


# ---- what can't be encoded ----


class Color(enum.Enum):
    RED = 1


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Color.RED, "tests.test_codec.Color"),
        (range(3), "builtins.range"),
        (len, "builtins.builtin_function_or_method"),
        ([{"a": (Color.RED,)}], "tests.test_codec.Color"),
    ],
)
def test_safe_refuses_to_pickle_and_names_the_type(value: object, name: str) -> None:
    with pytest.raises(EncodeError, match=rf"{name} needs pickle: codec='safe'"):
        encode(value, is_safe=True)


def test_safe_refuses_a_pickle_that_comes_in() -> None:
    with pytest.raises(DecodeError, match="holds a pickle, which is refused: codec='safe'"):
        decode(encode(Color.RED), is_safe=True)


def test_what_no_pickle_takes_is_an_error_that_names_the_type() -> None:
    with pytest.raises(EncodeError, match=r"_thread\.lock can't be pickled .* inside the kernel"):
        encode([threading.Lock()])


def nested(depth: int, wrap: Any) -> object:
    value: object = 1
    for _ in range(depth):
        value = wrap(value)
    return value


@pytest.mark.parametrize(
    "wrap",
    [lambda v: [v], lambda v: (v,), lambda v: {"a": v}, Point, lambda v: frozenset([v])],
    ids=["list", "tuple", "dict", "dataclass", "set"],
)
def test_a_value_nested_too_deeply_is_an_error(wrap: Any) -> None:
    with pytest.raises(EncodeError, match="nested too deeply"):
        encode(nested(5000, wrap))


def test_a_value_that_contains_itself_is_an_error() -> None:
    cycle: list[object] = []
    cycle.append({"again": cycle})
    with pytest.raises(EncodeError, match="contains itself"):
        encode(cycle)


class Node:
    def __init__(self) -> None:
        self.twin = self


def test_an_object_that_contains_itself_is_pickled() -> None:
    node = decode(encode(Node()))
    assert node.twin is node


def test_a_message_nested_too_deeply_is_an_error() -> None:
    for body in (b"[" * 100_000, b'{"$":"tuple","v":[' * 50_000):
        with pytest.raises(DecodeError, match="nested too deeply"):
            decode(Encoded(body))


@dataclass
class Moody:
    a: int

    def __getattribute__(self, name: str) -> Any:
        if name == "a":
            raise OSError("not now")
        return super().__getattribute__(name)


def test_code_that_raises_while_a_value_is_encoded_is_an_encode_error() -> None:
    with pytest.raises(EncodeError, match="OSError: not now"):
        encode(Moody(1))


# ---- lists, one element at a time ----


def test_an_element_that_cannot_be_encoded_leaves_the_others_intact() -> None:
    encoder = ListEncoder()
    encoder.add([b"a" * 2000, 1])
    for bad in ([b"b" * 2000, threading.Lock()], nested(5000, lambda v: [v]), (n for n in "a")):
        with pytest.raises(EncodeError):
            encoder.add(bad)
    encoder.add(b"c" * 2000)
    assert decode(encoder.finish()) == [[b"a" * 2000, 1], None, None, None, b"c" * 2000]


class Quitter:
    def __reduce__(self) -> str:
        raise SystemExit


def test_even_an_element_that_exits_leaves_the_others_in_place() -> None:
    encoder = ListEncoder()
    with pytest.raises(SystemExit):
        encoder.add([b"a" * 2000, Quitter()])
    encoder.add(b"b" * 2000)
    assert decode(encoder.finish()) == [None, b"b" * 2000]


@pytest.mark.parametrize("size", [3, 5000])
def test_memory_used_again_does_not_change_what_was_added_before(size: int) -> None:
    encoder = ListEncoder(copies=True)
    scratch, text = np.zeros(size), bytearray(size)
    for number in range(3):
        scratch[:] = number
        text[:] = bytes([number]) * size
        encoder.add([scratch, text])
    results = decode(encoder.finish())
    assert [set(array) for array, _ in results] == [{0.0}, {1.0}, {2.0}]
    assert [set(text) for _, text in results] == [{0}, {1}, {2}]


def test_each_damaged_element_has_its_own_error() -> None:
    body = b'[1,{"$":"decimal","v":"x"},{"$":"tuple","v":[2]},{"$":"nd"}]'
    decoded, errors = decode_each(Encoded(body))
    assert decoded == [1, None, (2,), None]
    assert sorted(errors) == [1, 3]
    assert all(isinstance(error, DecodeError) for error in errors.values())


@pytest.mark.parametrize("body", [b"", b"{", b"1", b"null", b'{"a":1}', b'{"$":"x"}', b"\xff"])
def test_what_is_not_a_list_at_all_is_an_error(body: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_each(Encoded(body))


def test_size_counts_body_and_buffers() -> None:
    assert encode([1, 2]).nbytes == len(b"[1,2]")
    assert encode(np.zeros(1000)).nbytes > 8000
