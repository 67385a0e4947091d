"""The codec on numpy's values: every dtype, every layout, and no copy where none is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fanout.codec import Encoded, decode, encode
from fanout.errors import EncodeError
from fanout.wire import Message, frame, unframe
from tests.codec_checks import is_same, is_same_dtype, survives

if TYPE_CHECKING:
    from pathlib import Path

Array: TypeAlias = np.ndarray[Any, Any]

UNITS = ["M8", "M8[D]", "M8[25s]", "M8[as]", "m8", "m8[h]", "m8[7ns]"]
SIZED = ["S3", "U2", "V5", "S0", "U0", "V0"]
CODES = [code for code in np.typecodes["All"] if code not in "SUVOMm"]
PLAIN = [np.dtype(code) for code in CODES + UNITS + SIZED]
DTYPES = [swapped for dtype in PLAIN for swapped in (dtype, dtype.newbyteorder())]
STRUCTURED = [
    np.dtype([]),
    np.dtype([("a", "<i4"), ("b", ">f8"), ("c", "S0")]),
    np.dtype([("a", "i1"), ("b", "f8"), ("c", "i2")], align=True),
    np.dtype([(("the title", "a"), "i4"), ("b", "(2,3)>c16"), ("$", "M8[s]")]),
    np.dtype([("a", [("b", [(("deep", "c"), "U3"), ("d", "V7", (2,))])], (3,))]),
    np.dtype({"names": ["b", "a"], "formats": ["i2", "u1"], "offsets": [8, 1], "itemsize": 32}),
    np.dtype({"names": ["whole", "low"], "formats": ["<u4", "<u2"], "offsets": [0, 0]}),
    np.dtype([("a", "i1"), ("b", np.dtype([("c", "i1"), ("d", "f8")], align=True))], align=True),
    np.dtype([("e\u0301", "g"), ("\U0001f600", "G")]),
]


def filled(dtype: np.dtype[Any], *shape: int) -> Array:
    """An array of arbitrary bytes: payloads of NaN, padding and denormals included."""
    array = np.ndarray(shape, dtype, buffer=bytearray(dtype.itemsize * int(np.prod(shape))))
    if dtype.kind == "U":
        array[...] = "a\U0010ffff"[: dtype.itemsize // 4]
    elif dtype.itemsize and array.size:
        raw = np.random.default_rng(1).integers(0, 2 if dtype.kind == "b" else 256, array.nbytes)
        array.reshape(-1).view(np.uint8)[...] = raw
    return array


def layouts(dtype: np.dtype[Any]) -> list[Array]:
    whole = filled(dtype, 4, 3, 2)
    return [
        whole,
        np.asfortranarray(whole),
        whole[::2, :, 1],
        whole[::-1].T,
        whole.transpose(1, 0, 2),
        np.broadcast_to(whole[0, 0], (5, 2)),
        whole[::-2, 0, 0],
        whole[:0],
        whole[:, :0].T,
        filled(dtype),
        filled(dtype, 1),
        filled(dtype, 1, 1, 1),
        filled(dtype, 2000),
    ]


@pytest.mark.parametrize("dtype", DTYPES + STRUCTURED, ids=str)
def test_every_dtype_comes_back_exactly_in_every_layout(dtype: np.dtype[Any]) -> None:
    for array in layouts(dtype):
        assert survives(array), array.shape


@pytest.mark.parametrize("dtype", DTYPES + STRUCTURED, ids=str)
def test_a_scalar_of_every_dtype_comes_back_exactly(dtype: np.dtype[Any]) -> None:
    assert survives(filled(dtype, 3)[1])


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        hnp.scalar_dtypes(),
        hnp.byte_string_dtypes(),
        hnp.nested_dtypes(),
        hnp.array_dtypes(allow_subarrays=True),
    ).flatmap(
        lambda dtype: hnp.arrays(
            dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
        )
    ),
    st.permutations([0, 1, 2]),
)
def test_any_array_comes_back_exactly(array: Array, axes: list[int]) -> None:
    turned = array.transpose([axis for axis in axes if axis < array.ndim])
    assert survives(turned)
    assert survives([turned, {"a": turned[..., ::-1] if turned.ndim else turned}])


@pytest.mark.parametrize("width", [2, 4, 8])
def test_nan_keeps_its_payload_at_every_width(width: int) -> None:
    quiet, signalling = b"\x01" * (width - 1), b"\x01" * (width - 2) + b"\xf4"
    patterns = [quiet + b"\x7f", signalling + b"\x7f", signalling + b"\xff"]
    array = np.frombuffer(b"".join(patterns), f"<f{width}")
    assert survives(array)
    for value in array:
        assert decode(encode(value)).tobytes() == value.tobytes()
    assert survives(np.repeat(array, 2).view(f"<c{2 * width}") if width > 2 else array)


@pytest.mark.parametrize(
    "value",
    [
        np.str_("a\0\0"),
        np.str_(""),
        np.str_("\ud800\udc00"),
        np.bytes_(b"a\0"),
        np.bytes_(b"\0" * 3000),
        np.void(b"\0" * 3000),
        np.bool_(True),
        np.datetime64("NaT"),
        np.longdouble("1e4000"),
    ],
    ids=lambda value: f"{type(value).__name__} {str(value)[:5]!r}",
)
def test_an_awkward_scalar_comes_back_exactly(value: Any) -> None:
    back = decode(encode(value, is_safe=True), is_safe=True)
    assert type(back) is type(value)
    assert str(back) == str(value) if isinstance(value, np.str_) else is_same(value, back)


def test_subclasses_come_back_as_such_but_not_without_pickle() -> None:
    records = np.zeros(2, [("a", "i4")]).view(np.recarray)
    for value in (np.ma.masked_array([1, 2], [False, True]), records, records[0]):
        assert type(decode(encode(value))) is type(value)
        with pytest.raises(EncodeError, match=f"{type(value).__name__} needs pickle"):
            encode(value, is_safe=True)


def test_a_dtype_that_has_more_than_json_can_say_is_kept_by_pickle() -> None:
    odd: list[Array] = [
        np.zeros(2, np.dtype({"names": ["a"], "formats": ["i4"], "titles": [(1, 2)]})),
        np.zeros(2, np.dtype([("\ud800\udc00", "i4")])),
        np.zeros(2, np.dtypes.StringDType()),
        np.zeros(2, np.dtype((np.record, [("a", "i4")]))),
        np.array([(1, "x")], [("a", "i4"), ("b", "O")]),
    ]
    for array in odd:
        assert is_same_dtype(decode(encode(array)).dtype, array.dtype)


# ---- arrays of objects ----


def test_arrays_of_objects_keep_elements_shape_and_order() -> None:
    array = np.empty((2, 3), object)
    for position, element in enumerate([1, "a", (1, [2]), np.arange(3), np.array(5), 2j]):
        array[divmod(position, 3)] = element
    for layout in (array, array.T, array[:, ::2], array[:0], array[0, 0:1].reshape(())):
        assert survives(layout)
    assert survives(np.full((), None, object))


def test_an_array_of_objects_that_contains_itself_is_an_error() -> None:
    array = np.empty(1, object)
    array[0] = array
    with pytest.raises(EncodeError, match="contains itself"):
        encode(array)


# ---- memory ----


def addresses(array: Array) -> tuple[int, int]:
    return np.lib.array_utils.byte_bounds(array)


def received(value: object) -> tuple[Array, Array]:
    """What arrives after a frame's journey, and the memory of the frame."""
    wire = np.frombuffer(bytearray(b"".join(frame(Message({}, encode(value))))), np.uint8)
    # Such as a reader has it, at a multiple of 64.
    room = np.empty(wire.size + 64, np.uint8)
    start = -room.ctypes.data % 64
    room[start : start + wire.size] = wire
    memory = room[start : start + wire.size]
    return decode(unframe(memory.data).payload), memory


BIG = np.arange(100_000.0).reshape(100, 1000)


@pytest.mark.parametrize("array", [BIG, BIG.T, BIG[10:50], BIG.astype(">f8")], ids=str)
def test_encoding_a_large_array_copies_nothing(array: Array) -> None:
    (buffer,) = encode(array).buffers
    assert np.shares_memory(np.frombuffer(buffer, np.uint8), array)


def test_encoding_a_read_only_or_mapped_array_copies_nothing(tmp_path: Path) -> None:
    mapped = np.memmap(tmp_path / "a", "f8", "w+", shape=(50, 100), order="F")
    mapped[:] = 7
    (buffer,) = encode(mapped, is_safe=True).buffers
    assert np.shares_memory(np.frombuffer(buffer, np.uint8), mapped)
    back = decode(encode(mapped))
    assert type(back) is np.ndarray
    assert is_same(back, np.array(mapped, order="F", subok=False))
    frozen = BIG.copy()
    frozen.flags.writeable = False
    assert np.shares_memory(np.frombuffer(encode(frozen).buffers[0], np.uint8), frozen)


@pytest.mark.parametrize("dtype", ["f8", "g", "G", ">i2", "i1,f8", "S7"])
def test_a_large_array_stays_where_it_was_received(dtype: str) -> None:
    arrays, memory = received([filled(np.dtype(dtype), 80_001), np.zeros(70_001, "i1"), BIG])
    for array in arrays:
        assert np.shares_memory(array, memory)
        assert addresses(array)[0] % 64 == 0
        assert array.flags.aligned or dtype == "i1,f8"
        assert array.flags.writeable


def test_an_array_in_memory_that_must_not_change_is_read_only() -> None:
    encoded = encode(BIG)
    back = decode(Encoded(encoded.body, [bytes(encoded.buffers[0])]))
    assert not back.flags.writeable


@pytest.mark.parametrize("size", [0, 1, 64, 65, 2048])
def test_a_small_array_does_not_keep_the_message_alive(size: int) -> None:
    small = np.zeros(size, "G")
    assert small.nbytes <= 64 * 1024
    arrays, memory = received([small, Held(small)])
    for array in (arrays[0], arrays[1].array):
        assert not np.shares_memory(array, memory)
        assert array.flags.writeable
        assert array.flags.aligned


# ---- arrays within pickled objects ----


class Held:
    def __init__(self, array: Array) -> None:
        self.array = array


def test_an_array_within_an_object_travels_beside_the_pickle_without_a_copy() -> None:
    held = Held(BIG)
    encoded = encode(held)
    (buffer,) = encoded.buffers  # the pickle itself is short, and stands in the body
    assert len(encoded.body) < 1000
    assert np.shares_memory(np.frombuffer(buffer, np.uint8), BIG)
    back, memory = received(held)
    assert np.shares_memory(back.array, memory)  # type: ignore[attr-defined]
    assert is_same(back.array, BIG)  # type: ignore[attr-defined]


def test_an_object_comes_back_with_arrays_of_any_layout() -> None:
    for array in layouts(np.dtype("f8")):
        assert is_same(decode(encode(Held(array))).array, decode(encode(array)))
