"""Kernels compiled by numba, apart from the others: workers that import this load numba."""

from __future__ import annotations

import numba

# Some 20 s of dependent steps: it never comes back to Python, nor lets go of the GIL, but ends.
_STEPS = 8_000_000_000


@numba.njit("float64(float64)")
def cubed(chunk: float) -> float:
    return chunk * chunk * chunk


@numba.njit("int64(int64)")
def spins_on_seven(chunk: int) -> int:
    state = chunk
    if chunk == 7:
        for _ in range(_STEPS):
            state ^= state << 13
            state ^= state >> 7
            state ^= state << 17
    return chunk if state else 0  # it is never 0, which the compiler doesn't know
