"""How an array gets into the JSON that Lambda takes, and out of what it answers.

All that happens between an array and a body counts, on either side, and so does the JSON that
AWS's runtime client reads and writes around a handler.
"""

from __future__ import annotations

import base64
import json
import multiprocessing
import pickle
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, cast

import numpy as np
import pybase64

from fanout.codec import decode, encode
from fanout.lambda_wire import (
    read_reply,
    read_request,
    reply_body,
    reply_parts,
    request_body,
    request_parts,
)
from fanout.wire import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Array: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

# What is done to an array: on the client, on the worker, on the worker, on the client.
STEPS: Final = ("encode", "decode", "reply_encode", "reply_decode")
# Just below 32 MiB, beyond which glibc always maps memory anew (mallopt(3), M_MMAP_THRESHOLD).
_GROWN_BYTES: Final = 31_000_000


class Codec(Protocol):
    """How an array travels."""

    def encode(self, array: Array) -> list[bytes]:
        """The body of a request, in one or more pieces."""

    def decode(self, body: bytes) -> Array:
        """What the kernel gets."""

    def reply_encode(self, array: Array) -> bytes:
        """The body of an answer, as the runtime client sends it."""

    def reply_decode(self, body: bytes) -> Array:
        """What the caller gets."""


class Fanout:
    """Our own."""

    def encode(self, array: Array) -> list[bytes]:
        message = Message({"kernel": {}}, encode([array]))
        return request_body(request_parts(message), accepts="bytes")

    def decode(self, body: bytes) -> Array:
        message = read_request(json.loads(body)).message
        assert isinstance(message, Message)
        return _only(message)

    def reply_encode(self, array: Array) -> bytes:
        reply = reply_body(reply_parts(Message({"report": {}}, encode([array]))), "bytes")
        assert isinstance(reply, bytes)
        return reply

    def reply_decode(self, body: bytes) -> Array:
        message = read_reply([body])
        assert isinstance(message, Message)
        return _only(message)


class FanoutJson(Fanout):
    """Our own, where the endpoint lets no bytes through."""

    def reply_encode(self, array: Array) -> bytes:
        reply = reply_body(reply_parts(Message({"report": {}}, encode([array]))), "json")
        return json.dumps(reply).encode()


class PickleBase64:
    """Pickle protocol 5 in base64 in JSON: the way that needs nothing but the standard library."""

    to_text: Callable[[bytes], bytes] = staticmethod(base64.b64encode)
    to_bytes: Callable[[str], bytes] = staticmethod(base64.b64decode)

    def encode(self, array: Array) -> list[bytes]:
        return [self.reply_encode(array)]

    def decode(self, body: bytes) -> Array:
        array: Array = pickle.loads(self.to_bytes(json.loads(body)["pickled"]))
        return array

    def reply_encode(self, array: Array) -> bytes:
        text = self.to_text(pickle.dumps(array, protocol=5)).decode("ascii")
        return json.dumps({"pickled": text}).encode()

    reply_decode = decode


class PicklePybase64(PickleBase64):
    """The same with the faster base64 that we use."""

    to_text = staticmethod(pybase64.b64encode)
    to_bytes = staticmethod(pybase64.b64decode)


CODECS: Final[Mapping[str, Codec]] = {
    "fanout": Fanout(),
    "fanout_json_reply": FanoutJson(),
    "pickle_base64": PickleBase64(),
    "pickle_pybase64": PicklePybase64(),
}


def measured(
    array_bytes: int, *, rounds: int, times: int, is_grown: bool
) -> dict[str, dict[str, float]]:
    """CPU milliseconds of each step, by codec: medians of rounds in which they take turns.

    Each codec has a process of its own, since page faults depend on what was allocated before, by
    whomever, and may cost more than all the rest.

    Args:
        array_bytes: Size of the array; float64 noise.
        rounds: How many are counted; one more warms up.
        times: How often a step is done in one turn.
        is_grown: Whether the processes have had larger objects before, as those that carry data
            for some time have: then the C library keeps freed memory, and there are no faults.
    """
    initializer = _grow if is_grown else None
    spawning = multiprocessing.get_context("spawn")
    taken: dict[str, dict[str, list[float]]] = {step: {} for step in STEPS}
    with ExitStack() as running:
        processes = {
            name: running.enter_context(
                ProcessPoolExecutor(1, mp_context=spawning, initializer=initializer)
            )
            for name in CODECS
        }
        for step in STEPS:
            for number in range(rounds + 1):
                for name, process in processes.items():
                    if name == "fanout_json_reply" and "reply" not in step:
                        continue  # its requests are fanout's
                    cpu_ms = process.submit(_turn, name, step, array_bytes, times).result()
                    if number:
                        taken[step].setdefault(name, []).append(cpu_ms)
    return {
        step: {name: statistics.median(turns) for name, turns in found.items()}
        for step, found in taken.items()
    }


def _grow() -> None:
    """Have glibc keep all that is freed from now on: its thresholds follow what is freed."""
    bytearray(_GROWN_BYTES)


def _turn(name: str, step: str, array_bytes: int, times: int) -> float:
    """CPU milliseconds of a step, done so many times."""
    codec = CODECS[name]
    array = np.random.default_rng(0).standard_normal(array_bytes // 8)
    given: Any = array
    if step == "decode":
        given = b"".join(codec.encode(array))
    elif step == "reply_decode":
        given = codec.reply_encode(array)
    work: Callable[[Any], Any] = getattr(codec, step)
    work(given)
    last: object = None
    began_s = time.process_time()
    for _ in range(times):
        last = work(given)
    cpu_ms = (time.process_time() - began_s) * 1e3 / times
    assert not step.endswith("decode") or np.array_equal(cast("Array", last), array)
    return cpu_ms


def _only(message: Message) -> Array:
    (array,) = cast("list[Array]", decode(message.payload))
    return array
