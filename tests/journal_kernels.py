"""Kernels of the journal's tests that workers import."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np


def double(chunk: Any) -> Any:
    return chunk * 2


def logged(path: str, chunk: Any) -> Any:
    """Write down that it ran; what is called "once" fails the first time."""
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(f"{chunk}\n")
    if chunk == "once" and Path(path).read_text(encoding="utf-8").split().count("once") == 1:
        raise ValueError("once")
    return chunk


def heavy(path: str, chunk: int) -> Any:
    """Write down that it ran; a result of 200 KB, another one for each chunk."""
    with Path(path).open("ab", buffering=0) as file:
        file.write(f"{chunk}\n".encode())
    time.sleep(0.02)
    return np.full(25_000, float(chunk))


def timed(path: str, chunk: int) -> int:
    """Write down that it ran, and when; in one write, so that lines of workers don't mix."""
    with Path(path).open("ab", buffering=0) as file:
        file.write(f"{chunk} {time.time():.6f}\n".encode())
    time.sleep(0.004)
    return chunk * chunk
