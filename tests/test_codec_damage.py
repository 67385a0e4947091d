"""The codec on damaged, forged and foreign bytes: DecodeError or a value, and nothing is run."""

from __future__ import annotations

import base64
import copy
import datetime as dt
import decimal
import json
import subprocess
import sys
import uuid
import zoneinfo
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fanout.codec import Encoded, decode, decode_each, encode
from fanout.errors import DecodeError
from fanout.wire import unframe


@dataclass(frozen=True)
class Pair:
    one: Any
    two: Any


SPECIMEN = [
    1.5,
    float("nan"),
    2**2000,
    "\ud800\udc00",
    (1, {2, "b"}, frozenset({b"c"})),
    {1: "a", "$": b"d" * 2000},
    bytearray(b"e"),
    1j,
    dt.datetime(2026, 1, 1, tzinfo=zoneinfo.ZoneInfo("Asia/Tokyo")),
    dt.time(1, 2, tzinfo=dt.timezone(dt.timedelta(hours=1), "one")),
    dt.date(2026, 1, 1),
    dt.timedelta(1, 2, 3),
    decimal.Decimal("1.50"),
    uuid.UUID(int=7),
    Pair({"x": 1}, [2]),
    np.arange(6, dtype=">i4").reshape(2, 3).T,
    np.arange(2000.0),
    np.zeros(2, [("a", "i4"), ("b", "f8", (2,))]),
    np.longdouble(1),
    np.float32(2),
    np.str_("f"),
    np.bytes_(b"g"),
    np.array([1, "h", None], object),
]
WHOLE = encode(SPECIMEN, is_safe=True)
TREES = json.loads(WHOLE.body)


def outcome(encoded: Encoded, *, is_safe: bool = True) -> object:
    """The value, or DecodeError; whatever else is raised fails the test."""
    try:
        return decode(encoded, is_safe=is_safe)
    except DecodeError as error:
        return error


def check_each(encoded: Encoded) -> None:
    """A list is decoded with an error for each value that can't be, and agrees with `decode`."""
    whole = outcome(encoded)
    try:
        values, errors = decode_each(encoded, is_safe=True)
    except DecodeError:
        assert isinstance(whole, DecodeError)
        return
    assert all(values[position] is None for position in errors)
    assert bool(errors) == isinstance(whole, DecodeError)


# ---- random damage ----


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_text_gives_an_error_or_a_value(data: st.DataObject) -> None:
    body = bytearray(WHOLE.body)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        end = data.draw(st.integers(at, min(len(body), at + 20)))
        body[at:end] = data.draw(
            st.binary(max_size=6) | st.sampled_from([b"9" * 30, b"-", b'"$":'])
        )
    check_each(Encoded(bytes(body), WHOLE.buffers))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, len(WHOLE.body)), st.integers(0, 2), st.integers(0, 2000))
def test_a_message_cut_short_is_an_error(end: int, count: int, length: int) -> None:
    if end < len(WHOLE.body):
        assert isinstance(outcome(Encoded(WHOLE.body[:end], WHOLE.buffers)), DecodeError)
    buffers = [memoryview(buffer)[:length] for buffer in WHOLE.buffers[:count]]
    assert isinstance(outcome(Encoded(WHOLE.body, [*buffers])), DecodeError)


VOCABULARY = """
$ v b d s o t n tz key offset name fold sha256 names formats offsets titles itemsize aligned base
shape long digits safe str tuple set frozenset dict int f complex bytes bytearray date timedelta
datetime time decimal uuid data nd ndobject np npstr npbytes pickle <f8 |O T V0 |S0 O,O >i4 U9 M8[s]
F C x 00 ff AAAA 1e999999999 tests.test_codec_damage:Pair os:system fanout.codec:Encoded UTC America
.. /etc/passwd 9999-99-99 2026-01-01 -1
"""
words = st.sampled_from(VOCABULARY.split())
numbers = st.integers(-2, 4) | st.sampled_from([2**31, 2**40, 2**63, 10**30, 1.5, 1e300])
trees = st.recursive(
    st.none() | st.booleans() | numbers | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=4),
    max_leaves=8,
)


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) within a tree."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree)
    found = []
    for key, child in inner:
        found.append((tree, key))
        if isinstance(child, dict | list):
            found += places(child)
    return found


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, len(TREES) - 1), st.lists(st.tuples(st.integers(0), trees), max_size=3))
def test_a_forged_tree_gives_an_error_or_a_value(
    position: int, forgeries: list[tuple[int, Any]]
) -> None:
    tree = [copy.deepcopy(TREES[position])]
    for where, forgery in forgeries:
        found = places(tree)
        container, key = found[where % len(found)]
        container[key] = forgery
    check_each(Encoded(json.dumps(tree).encode(), WHOLE.buffers))


@settings(max_examples=300, deadline=None)
@given(words, st.dictionaries(words, trees, max_size=4))
@example("ndobject", {"s": [2**40], "v": []})
@example("ndobject", {"s": [-1, -1], "v": [1]})
@example("ndobject", {"s": [2, 2], "v": {"a": 1}})
@example("nd", {"d": "V0", "s": [2**40], "b": 0})
@example("nd", {"d": "<f8", "s": [1], "b": -1})
@example("nd", {"d": "<f8", "s": [1], "b": True})
@example("timedelta", {"v": [10**30]})
@example("decimal", {"v": "not a number"})
@example("datetime", {"v": "2026-01-01", "fold": 0, "tz": {"key": "America"}})
@example("data", {"t": 5, "n": [], "v": []})
@example("data", {"t": "tests.test_codec_damage:Pair", "n": ["one", "two"], "v": [1]})
def test_a_forged_node_gives_an_error_or_a_value(tag: str, node: dict[str, Any]) -> None:
    body = json.dumps({**node, "$": tag}).encode()
    buffers = [b"", b"abcdefgh"]
    refused = outcome(Encoded(body, [*buffers]), is_safe=False)
    if isinstance(refused, DecodeError):  # then nor can it be had by refusing more
        assert isinstance(outcome(Encoded(body, [*buffers])), DecodeError)
    check_each(Encoded(b"[" + body + b"]", [*buffers]))


@pytest.mark.parametrize("tag", [None, 1, ["tuple"], {"$": "set", "v": []}, "no such tag"])
def test_an_unknown_tag_is_an_error(tag: object) -> None:
    with pytest.raises(DecodeError):
        decode(Encoded(json.dumps({"$": tag, "v": []}).encode()))


# ---- lies about memory ----


@pytest.mark.parametrize("dtype", ["|O", "T", "O,i4", {"base": "|O", "shape": [1]}])
def test_bytes_of_a_message_are_never_taken_for_pointers(dtype: object) -> None:
    raw = base64.b64encode(b"\x41" * 16).decode()
    for tree in ({"$": "nd", "d": dtype, "s": [1], "b": raw}, {"$": "np", "d": dtype, "b": raw}):
        with pytest.raises(DecodeError, match="no dtype of plain data"):
            decode(Encoded(json.dumps(tree).encode()), is_safe=True)


def test_an_array_must_fill_its_buffer() -> None:
    encoded = encode(np.zeros(1000))
    for size in (7992, 8008):
        with pytest.raises(DecodeError):
            decode(Encoded(encoded.body, [bytes(size)]))


def test_a_long_double_of_another_processor_is_refused() -> None:
    body = encode(np.longdouble(1)).body.replace(b'"digits":', b'"digits":1')
    with pytest.raises(DecodeError, match="use float64"):
        decode(Encoded(body))


# ---- pickles ----


class Spy:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.filler = bytes(size)

    def __reduce__(self) -> tuple[object, ...]:
        return Path.write_bytes, (self.path, self.filler)


@pytest.mark.parametrize("size", [10, 5000])
def test_a_pickle_that_was_tampered_with_is_not_unpickled(tmp_path: Path, size: int) -> None:
    spy = tmp_path / "was here"
    encoded = encode([np.zeros(1000), Spy(spy, size)])
    tree = json.loads(encoded.body)
    *rest, node = tree
    for forged in (node | {"sha256": "0" * 64}, {**node, "sha256": None}, {**node, "b": []}):
        with pytest.raises(DecodeError):
            decode(Encoded(json.dumps([*rest, forged]).encode(), encoded.buffers))
    (blob,) = node["b"]
    stream = bytearray(base64.b64decode(blob) if isinstance(blob, str) else encoded.buffers[blob])
    stream[-5] ^= 1
    forged = {**node, "b": [base64.b64encode(stream).decode()]}
    with pytest.raises(DecodeError, match="does not match its sha256"):
        decode(Encoded(json.dumps([*rest, forged]).encode(), encoded.buffers))
    assert not spy.exists()
    decode(encoded)
    assert spy.exists()  # so the test would have noticed


class Held:
    def __init__(self, *arrays: Any) -> None:
        self.arrays = arrays


def test_the_digest_covers_each_buffer_and_where_it_ends() -> None:
    encoded = encode(Held(np.ones(1000), np.ones(1000)))
    one, other = map(bytes, encoded.buffers)
    swapped = [one[:-8], one[-8:] + other]
    for buffers in ([one, other[:-1] + b"\1"], swapped, [one], [one, b""]):
        with pytest.raises(DecodeError):
            decode(Encoded(encoded.body, [*buffers]))


class Grudging:
    def __setstate__(self, state: object) -> None:
        raise state["error"]  # type: ignore[index]

    def __init__(self, error: BaseException) -> None:
        self.error = error


@pytest.mark.parametrize("error", [ValueError("no"), KeyError("no"), SystemExit("no")], ids=repr)
def test_a_class_that_raises_when_unpickled_is_a_decode_error(error: BaseException) -> None:
    with pytest.raises(DecodeError, match=f"can't be unpickled here: {type(error).__name__}"):
        decode(encode(Grudging(error)))


def test_objects_of_main_and_local_classes_bring_their_code() -> None:
    script = """if True:
        import sys
        from fanout.codec import encode
        from fanout.wire import Message, frame
        class Top:
            def __init__(self, n): self.n = n
            def double(self): return 2 * self.n
        def make():
            class Inner(Top):
                pass
            return Inner(21)
        message = Message({}, encode([Top(2), make(), lambda n: n + 1]))
        sys.stdout.buffer.write(b"".join(frame(message)))
    """
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    top, inner, function = decode(unframe(memoryview(run.stdout)).payload)
    assert (top.double(), inner.double(), function(1)) == (4, 42, 2)
