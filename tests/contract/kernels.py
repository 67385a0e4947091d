"""Kernels of the contract that travel by reference: a worker imports this module."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import fanout

# A hang ends by itself after so long, so that a test that fails does so, too.
BOUND_S = 20.0


class BatchError(Exception):
    """An exception of one's own, whose constructor takes more than a message."""

    def __init__(self, batch: int, *, reason: str) -> None:
        super().__init__(f"batch {batch}: {reason}")
        self.batch = batch
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return _batch_error, (self.batch, self.reason)


def _batch_error(batch: int, reason: str) -> BatchError:
    return BatchError(batch, reason=reason)


class Opaque:
    """What only pickle can carry."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Opaque) and other.value == self.value

    def __hash__(self) -> int:
        return hash(self.value)


def same(chunk: Any) -> Any:
    return chunk


def opened(chunk: Opaque) -> int:
    return chunk.value


def wrapped(chunk: int) -> Opaque:
    return Opaque(chunk)


def picked(data: dict[str, Any], index: int) -> tuple[str, float]:
    return data["name"], float(data["weights"][index])


def zeroed(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    array[:] = 0
    return array


def noise(seed: int, count: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).random(count)


def lines_of(block: fanout.Block) -> list[str]:
    return [line.decode() for line in block.lines()]


def square(chunk: int) -> int:
    return chunk * chunk


def add(left: int, right: int) -> int:
    return left + right


def normalised(chunk: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    shifted: np.ndarray[Any, Any] = (chunk - chunk.mean()) / chunk.std()
    return shifted


def total(chunk: np.ndarray[Any, Any]) -> Any:
    return chunk.sum()


def zeros(count: int) -> np.ndarray[Any, Any]:
    return np.zeros(count, np.uint8)


def length(chunk: np.ndarray[Any, Any]) -> int:
    return len(chunk)


def raises_on_three(chunk: int) -> int:
    if chunk == 3:
        error = ValueError("three is no good", chunk)
        error.add_note("noted by the kernel")
        raise error
    return chunk


def raises_own_on_three(chunk: int) -> int:
    if chunk == 3:
        raise BatchError(chunk, reason="three is no good")
    return chunk


def opens(path: str) -> str:
    with open(path) as file:
        return file.read()


def prints(chunk: int) -> int:
    print("out", chunk)
    print("err", chunk, file=sys.stderr)
    return chunk


def exits_on_seven(chunk: int) -> int:
    if chunk == 7:
        os._exit(3)
    return chunk


def marked(where: tuple[str, int]) -> int:
    """Leave a byte in a file for each time that it runs."""
    folder, number = where
    with open(f"{folder}/{number}", "ab") as file:
        file.write(b"x")
    return number


def dies_at_first(where: tuple[str, int]) -> int:
    """Of ten, one ends its process when it runs for the first time."""
    folder, number = where
    if number % 10 == 3 and not os.path.exists(f"{folder}/{number}"):
        with open(f"{folder}/{number}", "ab"):
            os._exit(3)
    return number


def hangs_on_seven(chunk: int) -> int:
    until_s = time.monotonic() + BOUND_S
    while chunk == 7 and time.monotonic() < until_s:
        pass
    return chunk


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def surroundings(_: object) -> list[str]:
    """What a process could tell of secrets: its variables, its arguments."""
    return [*os.environ.values(), *sys.argv]
