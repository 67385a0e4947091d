"""Packing: what comes out is what went in, only what pays is packed, and damage is noticed."""

from __future__ import annotations

import subprocess
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fanout.codec import Encoded, decode, encode
from fanout.errors import DecodeError
from fanout.packing import (
    FAST,
    MIN_BYTES,
    S3_BYTES_PER_S,
    STANDARD,
    Deflate,
    Plan,
    packed,
    packed_by,
    plan_for,
    unpacked,
)
from fanout.wire import Message, frame, unframe

if TYPE_CHECKING:
    from fanout.codec import Buffer

ROOT = Path(__file__).parent.parent
# isal is a dependency of ours, but a worker's image may lack it.
ENGINES = [STANDARD] if FAST is None else [STANDARD, FAST]
COUNT = 2**18  # elements; 2 MiB of doubles
RNG = np.random.default_rng(7)

NOISE: dict[str, np.ndarray[Any, Any]] = {
    "uniform doubles": RNG.random(COUNT),
    "normal doubles": RNG.normal(size=COUNT),
    "uniform floats": RNG.random(COUNT, dtype=np.float32),
    "normal floats": RNG.normal(size=COUNT).astype(np.float32),
    "half floats": RNG.normal(size=COUNT).astype(np.float16),
    "complex": RNG.normal(size=COUNT) + 1j * RNG.normal(size=COUNT),
    "bytes": RNG.integers(0, 256, COUNT, np.uint8),
    "integers of 64 bits": RNG.integers(-(2**63), 2**63 - 1, COUNT),
    "zeros, but only at the beginning": np.append(np.zeros(2**15), RNG.random(COUNT)),
}
PATTERNS: dict[str, np.ndarray[Any, Any]] = {
    "zeros": np.zeros(COUNT),
    "small integers in int64": RNG.integers(0, 1000, COUNT),
    "counted": np.arange(COUNT),
    "linspace": np.linspace(0, 1, COUNT),
    "a grid": np.repeat(np.linspace(-2, 1, 512), 512),
    "few values": RNG.choice(RNG.random(10), COUNT),
    "a mask": RNG.random(COUNT) < 0.1,
    "text": np.array([f"task {at}: done in {at % 97} ms\n" for at in range(5000)], "S").ravel(),
    "colours of 16 bits": (np.arange(COUNT) // 700).astype(np.uint16),
}

buffers = st.one_of(
    st.binary(max_size=200),
    st.binary(max_size=200).map(bytearray),
    st.integers(0, 100_001).map(bytes),
    st.binary(min_size=1, max_size=9).map(lambda part: memoryview(part * 9001)),
    st.integers(0, 500).map(lambda size: np.linspace(0, 1, size).data),
    st.integers(1, 40).map(lambda size: np.eye(size, dtype=np.int16).data),
    st.integers(0, 500).map(lambda size: np.arange(size, dtype=np.complex128).view(np.uint8).data),
)
plans = st.none() | st.sampled_from([1, 2, 4, 8]).flatmap(
    lambda width: st.builds(Plan, st.just(width), st.integers(0, 2**width - 1))
)
engines = st.sampled_from(ENGINES)


def message_of(*parts: Any, body: bytes = b"[]") -> Message:
    return Message({"a": 1}, Encoded(body, [np.ascontiguousarray(part).data for part in parts]))


def told(message: Message) -> tuple[object, bytes, list[bytes]]:
    return message.head, message.payload.body, [bytes(part) for part in message.payload.buffers]


def carried(message: Message) -> Message:
    return unframe(memoryview(bytearray(b"".join(frame(message)))))


def test_isal_is_there_where_fanout_is_installed_with_its_dependencies() -> None:
    pytest.importorskip("isal")
    assert FAST is not None


@settings(max_examples=200, deadline=None)
@given(
    st.binary(), st.lists(st.tuples(buffers, plans), max_size=5), st.booleans(), engines, engines
)
@example(b"x" * 70_000, [], True, STANDARD, ENGINES[-1])
@example(b"x" * 70_000, [(bytes(70_001), Plan(8, 255))], True, ENGINES[-1], STANDARD)
def test_a_message_comes_back_as_it_was_however_it_was_packed(
    body: bytes,
    parts: list[tuple[Buffer, Plan | None]],
    is_body_packed: bool,
    here: Deflate,
    there: Deflate,
) -> None:
    message = Message({"a": 1}, Encoded(body, [part for part, _ in parts]))
    planned = [Plan(1, 1) if is_body_packed else None, *(plan for _, plan in parts)]
    sent = packed_by(planned, message, engine=here)
    assert sent.payload.nbytes <= message.payload.nbytes
    assert told(unpacked(carried(sent), engine=there)) == told(message)


@pytest.mark.parametrize("here", ENGINES)
@pytest.mark.parametrize("there", ENGINES)
@pytest.mark.parametrize("name", PATTERNS)
def test_arrays_come_back_bit_identical_and_writable(
    name: str, here: Deflate, there: Deflate
) -> None:
    array, noise = PATTERNS[name], RNG.random(20_000)
    encoded = encode([array, noise, (1, "text", None)])
    sent = packed(Message({}, encoded), engine=here)
    assert sent.payload.nbytes < 0.8 * encoded.nbytes
    first, second, third = decode(unpacked(carried(sent), engine=there).payload)
    assert first.tobytes() == array.tobytes()
    assert first.dtype == array.dtype
    assert first.flags.writeable
    assert first.flags.aligned
    assert np.array_equal(second, noise)
    assert third == (1, "text", None)


def test_nan_payloads_and_signed_zeros_survive() -> None:
    bits = np.tile(np.array([0x7FF8000000000001, 0xFFF0000000000000, 1 << 63, 1], "u8"), 20_000)
    sent = packed(message_of(bits.view(float)))
    assert "packed" in sent.head
    assert bytes(unpacked(sent).payload.buffers[0]) == bits.tobytes()


def test_what_is_not_packed_is_neither_copied_nor_wrapped() -> None:
    message = message_of(NOISE["uniform doubles"], np.zeros(MIN_BYTES // 8 - 1))
    assert packed(message) is message
    assert unpacked(message) is message
    mixed = message_of(NOISE["uniform doubles"], PATTERNS["zeros"])
    sent = packed(mixed)
    assert sent.payload.buffers[0] is mixed.payload.buffers[0]
    assert unpacked(sent).payload.buffers[0] is mixed.payload.buffers[0]


def test_the_message_given_is_not_changed() -> None:
    message = message_of(PATTERNS["zeros"])
    before = told(message)
    sent = packed(message)
    unpacked(sent)
    assert told(message) == before
    assert "packed" in sent.head


def test_packing_what_is_packed_changes_nothing() -> None:
    sent = packed(message_of(PATTERNS["zeros"], NOISE["bytes"]))
    assert packed(sent) is sent


def test_a_long_body_is_packed_too() -> None:
    message = Message({}, encode(list(range(50_000))))
    sent = packed(message)
    assert sent.payload.nbytes < 0.6 * message.payload.nbytes
    back = unpacked(carried(sent))
    assert type(back.payload.body) is bytes
    assert decode(back.payload) == list(range(50_000))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", NOISE)
def test_noise_is_not_packed(name: str, engine: Deflate) -> None:
    for array in (NOISE[name], NOISE[name][: MIN_BYTES // NOISE[name].itemsize]):
        if "zeros" in name and array is not NOISE[name]:
            continue
        message = message_of(array)
        assert packed(message, engine=engine) is message
        assert packed(message, engine=engine, bytes_per_s=1.0) is message


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", PATTERNS)
def test_patterns_are_packed(name: str, engine: Deflate) -> None:
    assert plan_for(PATTERNS[name].view(np.uint8).data, engine=engine) is not None


def test_prose_is_packed_where_that_is_faster_than_the_wire() -> None:
    prose = (ROOT / "LICENSE").read_bytes() * 20
    assert plan_for(prose, engine=STANDARD, bytes_per_s=5e6) == Plan(1, 1)
    if FAST is not None:
        assert plan_for(prose, engine=FAST) == Plan(1, 1)


def test_planes_of_noise_within_a_buffer_are_left_as_they_are() -> None:
    array = np.sin(np.linspace(0, 20, COUNT))
    plan = plan_for(array.view(np.uint8).data, engine=ENGINES[-1], bytes_per_s=1e6)
    assert plan is not None
    assert plan.width == 8
    assert plan.deflated & 0b10000001 == 0b10000000


def test_the_width_of_the_elements_is_found() -> None:
    for kind in (np.uint16, np.uint32, np.uint64):
        # Two bytes at most change, in a way that repeats nothing.
        steps = RNG.integers(0, 3, COUNT).cumsum() % 50_000 + 2**14
        plan = plan_for(steps.astype(kind).view(np.uint8).data, engine=STANDARD, bytes_per_s=1e6)
        assert plan is not None
        assert plan.width == np.dtype(kind).itemsize


def test_a_fast_wire_is_not_worth_it() -> None:
    data = PATTERNS["small integers in int64"].view(np.uint8).data
    for engine in ENGINES:
        assert plan_for(data, engine=engine, bytes_per_s=25e6)
        assert plan_for(data, engine=engine, bytes_per_s=5e9) is None
    mask = PATTERNS["a mask"].view(np.uint8).data
    assert plan_for(mask, engine=STANDARD) is not None
    assert plan_for(mask, engine=STANDARD, bytes_per_s=S3_BYTES_PER_S) is None


def test_a_buffer_that_misled_the_sample_stays_as_it_was() -> None:
    array = RNG.random(COUNT)
    last = array.nbytes - 2048
    for at in range(8):  # where the sample looks
        start = last * at // 7 // 64 * 8
        array[start : start + 256] = 0.0
    assert plan_for(array.view(np.uint8).data) is not None
    message = message_of(array)
    assert packed(message) is message


def test_buffers_alike_are_not_all_looked_at() -> None:
    class Counting:
        calls = 0

        def compress(self, data: Buffer) -> bytes:
            self.calls += 1
            return zlib.compress(data, 1)

    def calls(count: int) -> int:
        counting = Counting()
        engine = Deflate(
            compress=counting.compress,
            inflater=zlib.decompressobj,
            error=zlib.error,
            fixed_ns=3.0,
            ratio_ns=19.0,
        )
        packed(message_of(*[NOISE["normal floats"]] * count), engine=engine)
        return counting.calls

    assert calls(1) > 0
    assert calls(100) == calls(3) == 3 * calls(1)


def test_more_than_the_other_end_takes_is_not_packed() -> None:
    zeros = PATTERNS["zeros"]
    sent = packed(message_of(zeros, zeros, zeros), limit_bytes=2 * zeros.nbytes)
    assert [entry[0] for entry in sent.head["packed"]] == [1, 2]
    assert told(unpacked(sent, limit_bytes=2 * zeros.nbytes))[2] == [zeros.tobytes()] * 3
    with pytest.raises(DecodeError, match=r"put large arrays into a store, or make chunks smaller"):
        unpacked(sent, limit_bytes=2 * zeros.nbytes - 1)


def test_without_isal_the_standard_library_does_the_same() -> None:
    code = """
import sys
sys.modules["isal"] = None
from fanout import packing
from fanout.codec import Encoded
from fanout.wire import Message, frame, unframe
assert packing.FAST is None and packing.BEST is packing.STANDARD
got = packing.unpacked(unframe(memoryview(bytearray(sys.stdin.buffer.read()))))
again = packing.packed(got)
assert "packed" not in got.head and "packed" in again.head
sys.stdout.buffer.write(b"".join(frame(again)))
"""
    message = message_of(PATTERNS["linspace"], NOISE["bytes"], body=b"[0]" * 30_000)
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=b"".join(frame(packed(message))),
        capture_output=True,
        check=True,
        cwd=ROOT,
    )
    assert told(unpacked(unframe(memoryview(bytearray(done.stdout))))) == told(message)
