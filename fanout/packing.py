"""Smaller buffers, where a sample says that the time saved on the wire is worth the CPU time.

    packed(message) -> Message        unpacked(message) -> Message

A buffer of numbers is cut into planes (the first bytes of all elements, the second bytes, …), and
those planes that have a pattern are deflated: in smooth doubles sign and exponent, not the noise
below. Each plane is a buffer of its own. The head tells, under "packed", what to make of them:

    [[part, size, width, deflated], …]    part 0 is the body, part n the buffer n - 1;
                                          width planes, those in the bit mask are deflated

The format is zlib's, since the standard library reads it on every worker; isal, which writes and
reads the same several times as fast, is taken where it is installed. zstandard packs about as fast
and unpacks faster, but a worker without it could not read that at all. Pure; standard library +
numpy only (and isal), since the worker runs it.
"""

from __future__ import annotations

import zlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from fanout.codec import Encoded
from fanout.errors import DecodeError
from fanout.wire import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    from fanout.codec import Buffer

    Bytes: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]

# What the wire carries of a buffer. To Lambda: 200 Mbit/s up, in base64. In an answer there is no
# base64. Between Lambda and S3: one connection of an environment.
REQUEST_BYTES_PER_S: Final = 25e6 * 3 / 4
ANSWER_BYTES_PER_S: Final = 25e6
S3_BYTES_PER_S: Final = 75e6
# Below this the sample costs a noticeable part of what can be saved.
MIN_BYTES: Final = 64 * 1024
# What the packed parts of one message may come to when unpacked. Deflate reaches 1000:1, so a
# forged message of 6 MB could ask for 6 GB. As much as a client pulls ahead (`Grouping.window`).
LIMIT_BYTES: Final = 256 * 1024 * 1024

_WIDTHS: Final = (1, 2, 4, 8)
# The sample: slices over the whole buffer, so that zeros at its beginning don't mislead. Starts are
# multiples of 64, so that every slice begins with the same byte of an element.
_SLICES: Final = 8
_SLICE_BYTES: Final = 2048
# Time saved must be this multiple of time spent: the other end may have a fraction of a processor.
_MARGIN: Final = 1.5
# At least a quarter must go. Random doubles have 16 % of pattern (their exponents), random floats
# 22 %: that isn't worth two more copies of the array.
_MAX_RATIO: Final = 0.75
# Two bytes of noise are equal once in 256 times. Twice as often is a reason to look at planes.
_NOISE_EQUAL: Final = 2 / 256
# A wider width must show clearly more equal bytes than a narrower one; with twice as many as among
# neighbours, and hardly a word twice, there is nothing that deflate could find without planes.
_AS_EQUAL: Final = 0.95
_IS_ALL_IN_PLANES: Final = 2.0
_DISTINCT: Final = 0.9
# Buffers of one size are mostly arrays of one kind: so many refusals answer for the rest of them.
_REFUSALS: Final = 3
# Inflating goes by pieces, so that it never takes more than this beyond what was claimed.
_PIECE_BYTES: Final = 64 * 1024


class Inflater(Protocol):
    """What reads deflated bytes piece by piece: `zlib.decompressobj()`."""

    @property
    def eof(self) -> bool:
        """Whether the end was reached, and the checksum is right."""

    @property
    def unconsumed_tail(self) -> bytes:
        """What of the last piece is to be given again."""

    @property
    def unused_data(self) -> bytes:
        """What came after the end."""

    def decompress(self, data: Buffer, max_length: int, /) -> bytes:
        """At most `max_length` more bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deflate:
    """An implementation of deflate, and its price.

    Attributes:
        compress: Writes zlib's format, level 1.
        inflater: Makes what reads it.
        error: What that raises.
        fixed_ns: What a byte takes to deflate, however small it gets, ns.
        ratio_ns: What it takes in addition, times the ratio reached, ns.
    """

    compress: Callable[[Buffer], bytes]
    inflater: Callable[[], Inflater]
    error: type[Exception]
    fixed_ns: float
    ratio_ns: float


# All of these: medians on one core of an AMD EPYC (Zen 4) at 2.6 GHz, 2026-11-21, zlib 1.2.13,
# isal 1.9.1, 4 MB of zeros, linspace, sin, few values, small integers, bools; ns per byte.
STANDARD: Final = Deflate(
    compress=lambda data: zlib.compress(data, 1),
    inflater=zlib.decompressobj,
    error=zlib.error,
    fixed_ns=3.0,
    ratio_ns=19.0,
)
# The other end's price is the standard library's, since it may have nothing better.
_INFLATE_FIXED_NS: Final = 2.0
_INFLATE_RATIO_NS: Final = 3.5
# Cutting into planes, and the way back.
_PLANES_NS: Final = 0.7


def _fast() -> Deflate | None:
    try:
        from isal import isal_zlib
    except ImportError:
        return None
    error: Any = isal_zlib.error  # its own types say that this class is an instance
    return Deflate(
        compress=lambda data: isal_zlib.compress(data, 1),
        inflater=isal_zlib.decompressobj,
        error=error,
        fixed_ns=0.3,
        ratio_ns=6.0,
    )


FAST: Final = _fast()  # None if isal isn't installed
BEST: Final = FAST or STANDARD


@dataclass(frozen=True, slots=True)
class Plan:
    """How to pack a buffer: into how many planes, and a bit for each that is deflated."""

    width: int
    deflated: int


@dataclass(frozen=True, slots=True)
class _Price:
    """What a plan would give: size packed / size, and CPU time at both ends, ns per byte."""

    plan: Plan
    ratio: float
    cpu_ns: float


def packed(
    message: Message,
    *,
    bytes_per_s: float = REQUEST_BYTES_PER_S,
    limit_bytes: int = LIMIT_BYTES,
    engine: Deflate = BEST,
) -> Message:
    """The message with fewer bytes; the very same if that doesn't pay.

    Args:
        message: Any message; its buffers are not changed, and those that stay are not copied.
        bytes_per_s: What the wire carries, of buffers as they are (base64 deducted).
        limit_bytes: The other end's: buffers beyond it stay as they are.
        engine: What to deflate with.
    """
    plans: list[Plan | None] = []
    room = limit_bytes
    refusals: Counter[int] = Counter()
    for part in (message.payload.body, *message.payload.buffers):
        size = memoryview(part).nbytes
        plan = None
        if size <= room and refusals[size] < _REFUSALS:
            plan = plan_for(part, bytes_per_s=bytes_per_s, is_text=not plans, engine=engine)
        plans.append(plan)
        refusals[size] += plan is None
        room -= 0 if plan is None else size
    return packed_by(plans, message, engine=engine)


def plan_for(
    buffer: Buffer,
    *,
    bytes_per_s: float = REQUEST_BYTES_PER_S,
    is_text: bool = False,
    engine: Deflate = BEST,
) -> Plan | None:
    """How to pack a buffer, by a sample of it; None if that wouldn't pay.

    Args:
        buffer: Anything contiguous.
        bytes_per_s: As for `packed`.
        is_text: There are no elements of several bytes in it.
        engine: As for `packed`.
    """
    if memoryview(buffer).nbytes < MIN_BYTES:
        return None
    wire_ns = 1e9 / bytes_per_s
    sample = _sample(_bytes_of(buffer))
    widths = (1,) if is_text else _promising(sample)
    prices = [_price(sample, width, wire_ns, engine) for width in widths]
    best = min(prices, key=lambda price: price.ratio * wire_ns + price.cpu_ns)
    does_pay = (1 - best.ratio) * wire_ns >= _MARGIN * best.cpu_ns
    return best.plan if does_pay and best.ratio <= _MAX_RATIO else None


def _bytes_of(buffer: Buffer) -> Bytes:
    """The buffer's memory, whatever it holds."""
    if memoryview(buffer).nbytes == 0:  # numpy refuses it
        return np.empty(0, np.uint8)
    return np.frombuffer(buffer, np.uint8)


def _sample(data: Bytes) -> Bytes:
    last = data.size - _SLICE_BYTES
    starts = (last * at // (_SLICES - 1) // 64 * 64 for at in range(_SLICES))
    return np.concatenate([data[start : start + _SLICE_BYTES] for start in starts])


def _promising(sample: Bytes) -> list[int]:
    """The widths that are worth a try: that at which bytes are like the one before, and 1."""
    equal = {
        width: int(np.count_nonzero(sample[width:] == sample[:-width])) / sample.size
        for width in _WIDTHS
    }
    most = max(equal.values())
    if most < _NOISE_EQUAL:
        return [1]
    width = next(width for width in _WIDTHS if equal[width] >= _AS_EQUAL * most)
    if most < _IS_ALL_IN_PLANES * equal[1]:
        return sorted({1, width})
    words = np.sort(sample.view(np.uint64))
    distinct = int(np.count_nonzero(words[1:] != words[:-1])) / words.size
    return [width] if distinct >= _DISTINCT else [1, width]


def _price(sample: Bytes, width: int, wire_ns: float, engine: Deflate) -> _Price:
    """The best that this width gives: each plane is deflated if that pays for it alone."""
    deflated, size, cpu_ns = 0, 0.0, _PLANES_NS if width > 1 else 0.0
    for at in range(width):
        plane = np.ascontiguousarray(sample[at::width])
        ratio = min(1.0, len(engine.compress(plane.data)) / plane.size)
        fixed_ns = engine.fixed_ns + _INFLATE_FIXED_NS
        plane_ns = fixed_ns + ratio * (engine.ratio_ns + _INFLATE_RATIO_NS)
        if width == 1 or (1 - ratio) * wire_ns >= _MARGIN * plane_ns:
            deflated |= 1 << at
            size += ratio / width
            cpu_ns += plane_ns / width
        else:
            size += 1 / width
    return _Price(Plan(width, deflated), size, cpu_ns)


def packed_by(plans: Sequence[Plan | None], message: Message, *, engine: Deflate = BEST) -> Message:
    """The message with each part (the body, then the buffers) packed as planned.

    What didn't get smaller by a quarter, as the sample had promised, stays as it was. The body is
    one part of the message, packed or not: the width of its plan is 1.
    """
    if "packed" in message.head:
        return message
    entries: list[list[int]] = []
    parts: list[Buffer] = []
    old = (message.payload.body, *message.payload.buffers)
    for number, (part, plan) in enumerate(zip(old, plans, strict=True)):
        size = memoryview(part).nbytes
        planes = _planes(part, plan, engine) if plan else []
        if plan and sum(map(len, planes)) <= _MAX_RATIO * size:
            entries.append([number, size, plan.width, plan.deflated])
            parts += planes
        else:
            parts.append(part)
    if not entries:
        return message
    return Message(message.head | {"packed": entries}, Encoded(bytes(parts[0]), parts[1:]))


def _planes(part: Buffer, plan: Plan, engine: Deflate) -> list[Buffer]:
    data = _bytes_of(part)
    planes: list[Buffer] = []
    for at in range(plan.width):
        plane = np.ascontiguousarray(data[at :: plan.width]).data
        planes.append(engine.compress(plane) if plan.deflated >> at & 1 else plane)
    return planes


def unpacked(
    message: Message, *, limit_bytes: int = LIMIT_BYTES, engine: Deflate = BEST
) -> Message:
    """What `packed` was given; the very same message if it isn't packed.

    Buffers that were packed have memory of their own, which can be written to.

    Args:
        message: As received; nothing in it is trusted.
        limit_bytes: What its packed parts may come to. Memory is taken for as much as they claim,
            never for more.
        engine: What to inflate with.

    Raises:
        DecodeError: It is damaged, or claims more than `limit_bytes`.
    """
    if "packed" not in message.head:
        return message
    claims = _claims(message.head["packed"], limit_bytes)
    rest: list[Buffer] = [message.payload.body, *message.payload.buffers][::-1]
    parts: list[Buffer] = []
    while rest:
        claim = claims.pop(len(parts), None)
        if claim is None:
            parts.append(rest.pop())
            continue
        _, plan = claim
        if len(rest) < plan.width:
            raise DecodeError("damaged message: planes of a packed buffer are missing")
        planes = [rest.pop() for _ in range(plan.width)]
        parts.append(_whole(planes, *claim, engine))
    if claims:
        raise DecodeError(f"damaged message: it packs {len(claims)} buffers that aren't there")
    head = {key: value for key, value in message.head.items() if key != "packed"}
    return Message(head, Encoded(bytes(parts[0]), parts[1:]))


def _claims(entries: object, limit_bytes: int) -> dict[int, tuple[int, Plan]]:
    """What the head tells, checked: size and plan by part."""
    claims: dict[int, tuple[int, Plan]] = {}
    for entry in entries if isinstance(entries, list) else [entries]:
        values: list[Any] = entry if isinstance(entry, list) else []
        is_entry = [type(value) for value in values] == [int] * 4
        part, size, width, deflated = values if is_entry else (-1, 0, 0, 0)
        if (
            part < 0
            or part in claims
            or size < 0
            or width not in (_WIDTHS if part else (1,))
            or not 0 <= deflated < 1 << width
        ):
            raise DecodeError(f"damaged message: {str(entry)[:100]!r} is no packed buffer")
        claims[part] = size, Plan(width, deflated)
    total = sum(size for size, _ in claims.values())
    if total > limit_bytes:
        raise DecodeError(
            f"a packed message claims {total} bytes, {limit_bytes} are allowed: "
            "put large arrays into a store, or make chunks smaller"
        )
    return claims


def _whole(planes: Sequence[Buffer], size: int, plan: Plan, engine: Deflate) -> memoryview:
    """A buffer from its planes."""
    try:
        whole = np.empty(size, np.uint8)
    except MemoryError as error:
        raise DecodeError(f"no memory for a buffer of {size} bytes") from error
    for at, plane in enumerate(planes):
        place = whole[at :: plan.width]
        came = memoryview(plane).nbytes
        if plan.deflated >> at & 1:
            _inflate(memoryview(plane).cast("B"), place, engine)
        elif came == place.size:
            place[:] = _bytes_of(plane)
        else:
            raise DecodeError(f"damaged message: a plane of {place.size} bytes came as {came}")
    return whole.data


def _inflate(data: memoryview, place: Bytes, engine: Deflate) -> None:
    """Fill a place with exactly what the deflated bytes give."""
    inflater = engine.inflater()
    filled, read, piece = 0, 0, memoryview(b"")
    while not inflater.eof:
        if not piece:
            piece = data[read : read + _PIECE_BYTES]
            read += len(piece)
        try:
            out = inflater.decompress(piece, _PIECE_BYTES)
        except engine.error as error:
            raise DecodeError(f"damaged message: {error}") from error
        if not out and not piece:
            raise DecodeError("damaged message: a deflated buffer is cut short")
        if filled + len(out) > place.size:
            raise DecodeError(f"damaged message: more than {place.size} bytes in a packed buffer")
        place[filled : filled + len(out)] = _bytes_of(out)
        filled += len(out)
        piece = memoryview(inflater.unconsumed_tail)
    if filled != place.size or inflater.unused_data or read < len(data):
        raise DecodeError(f"damaged message: {filled} bytes in place of {place.size}")
