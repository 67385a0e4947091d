"""What every backend keeps: a map gives what a loop would give, wherever it runs.

Values are compared with those of a plain loop in this process, bit by bit; so they are the same on
every backend, too. Where a test leaves a backend out, it says why.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import decimal
import functools
import itertools
import math
import struct
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import pytest

import fanout
from fanout.kernels import mandelbrot
from tests.codec_checks import is_same
from tests.contract import compiled, kernels

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fanout import Executor


async def check(ex: Executor, kernel: Callable[[Any], Any], chunks: Sequence[Any]) -> None:
    """A map gives exactly what the loop gives."""
    results = await ex.map(kernel, chunks)
    for expected, result in zip(map(kernel, chunks), results, strict=True):
        assert is_same(expected, result)


# ---- values ----


async def test_a_mandelbrot_picture_is_the_same_to_the_last_count(ex: Executor) -> None:
    view = mandelbrot.View(columns=300, rows=230, max_iter=200)
    await check(ex, mandelbrot.rows, list(mandelbrot.bands(view)))


async def test_arrays_of_every_kind_come_back_with_every_bit(ex: Executor) -> None:
    codes = "?bBhHiIlLqQefdgFDG"
    plain = [np.arange(12).reshape(3, 4).astype(code) for code in codes]
    nans = np.array([0x7FF8_0000_0000_0123, 0xFFF0_0000_0000_0001, 1 << 63], np.uint64)
    record = np.dtype([("id", "<i4"), ("at", "M8[ns]"), ("where", ">f8", (2,)), ("name", "U5")])
    whole = np.arange(24, dtype=np.float64).reshape(2, 3, 4)
    arrays = [
        *plain,
        nans.view(np.float64),
        np.array([0x7FC0_0001, 0x7F80_0001], np.uint32).view(np.float32),
        np.array(["2026-11-21", "NaT"], "M8[s]"),
        np.array([1, -5], "m8[h]"),
        np.array([b"ab", b""], "S3"),
        np.array(["a\U0010ffff", ""], "U2"),
        np.arange(5, dtype=">i4"),
        np.array([(1, "2026-11-21T10:00", (0.5, -0.0), "löß")], record),
        np.zeros(0, record),
        np.asfortranarray(whole),
        whole[::-1, ::2].T,
        np.broadcast_to(whole[0, 0], (5, 4)),
        np.array(3.5),
        np.zeros((3, 0, 2), np.int16),
        np.zeros(0),
    ]
    await check(ex, kernels.same, arrays)


async def test_arithmetic_on_arrays_is_that_of_a_loop_to_the_last_bit(ex: Executor) -> None:
    random = np.random.default_rng(1)
    chunks = [random.normal(size=(rows, 37)) for rows in range(1, 12)]
    await check(ex, kernels.normalised, chunks)
    await check(ex, kernels.total, chunks)


async def test_values_of_python_come_back_as_they_were(ex: Executor) -> None:
    odd_nan = struct.unpack("<d", (0xFFF8_0000_0000_0007).to_bytes(8, "little"))[0]
    values = [
        None,
        2**200,
        [True, -0.0, math.inf, odd_nan, 5e-324, 1 + 2j],
        {"nested": [{"deeper": ({1, 2}, frozenset("a"))}], 3: {}, (1, "b"): b"\0\xff"},
        "\ud800 \0 \U0001f600",
        bytearray(b"x" * 1000),
        range(2, 9, 3),
        slice(1, None),
        decimal.Decimal("1.10"),
        dt.datetime(2026, 11, 21, 10, 0, tzinfo=dt.UTC),
        [{"array": np.arange(3), "scalar": np.float32(0.1)}, (), [[]]],
        kernels.Opaque(5),
    ]
    await check(ex, kernels.same, values)


# ---- kernels ----


async def test_kernels_of_every_sort_run(ex: Executor) -> None:
    offset = 3
    by_value = numba.njit("int64(int64)")(lambda chunk: chunk * offset)
    numbers = list(range(5))
    await check(ex, kernels.square, numbers)
    await check(ex, lambda chunk: chunk + offset, numbers)
    await check(ex, functools.partial(kernels.add, 10), numbers)
    await check(ex, functools.partial(lambda base, chunk: base + chunk, offset), numbers)
    await check(ex, math.factorial, numbers)
    await check(ex, compiled.cubed, [1.5, math.pi])
    await check(ex, by_value, numbers)


async def test_a_kernel_of_several_arguments_gets_them_from_a_tuple(ex: Executor) -> None:
    pairs = [(number, 5 - number) for number in range(5)]
    assert await ex.starmap(kernels.add, pairs) == [5] * 5
    assert await ex.starmap(math.hypot, [(3.0, 4.0), (5.0, 12.0)]) == [5.0, 13.0]


# ---- codec="safe" ----


async def test_without_pickle_a_kernel_of_a_module_works_on_arrays(ex: Executor) -> None:
    chunks = [np.arange(n, dtype=np.float64) for n in range(1, 5)]
    results = await ex.map(kernels.total, chunks, codec="safe")
    assert is_same([kernels.total(chunk) for chunk in chunks], results)


async def test_without_pickle_what_needs_it_is_refused_each_for_itself(ex: Executor) -> None:
    refused, fine = await ex.map(
        kernels.same, [kernels.Opaque(1), 2], codec="safe", return_exceptions=True
    )
    assert isinstance(refused, fanout.errors.ChunkError)
    assert "pickle" in str(refused)
    assert fine == 2
    with pytest.raises(fanout.errors.ResultError, match="pickle"):
        await ex.map(kernels.wrapped, [1], codec="safe")
    with pytest.raises(fanout.errors.KernelNotUsableError, match="safe"):
        await ex.map(lambda chunk: chunk, [1], codec="safe")


# ---- many, and without end ----


async def test_an_input_without_end_is_streamed(ex: Executor) -> None:
    async with ex.stream(kernels.square, itertools.count(), ordered=True) as outcomes:
        async for outcome in outcomes:
            assert outcome.result() == outcome.index**2
            if outcome.index == 300:
                break
    async with ex.stream(kernels.square, itertools.count()) as outcomes:
        seen = [await anext(outcomes) for _ in range(50)]
    assert all(outcome.result() == outcome.index**2 for outcome in seen)
    assert len({outcome.index for outcome in seen}) == 50


async def test_many_tiny_tasks_go_in_few_attempts(ex: Executor) -> None:
    run = await ex.run(kernels.square, range(2000))
    assert run.results == [number**2 for number in range(2000)]
    assert run.attempts < 200


async def test_two_maps_at_once_share_an_executor(ex: Executor) -> None:
    squares, sums = await asyncio.gather(
        ex.map(kernels.square, range(100)),
        ex.starmap(kernels.add, [(number, 1) for number in range(100)]),
    )
    assert squares == [number**2 for number in range(100)]
    assert sums == list(range(1, 101))


async def test_what_tasks_print_comes_with_their_outcomes(ex: Executor) -> None:
    run = await ex.run(kernels.prints, range(4))
    assert [(outcome.stdout, outcome.stderr) for outcome in run.outcomes] == [
        (f"out {number}\n", f"err {number}\n") for number in range(4)
    ]


# ---- errors of the kernel ----


async def test_an_exception_of_the_kernel_is_raised_as_a_loop_would(ex: Executor) -> None:
    with pytest.raises(ValueError, match="three is no good") as caught:
        await ex.map(kernels.raises_on_three, range(10))
    assert caught.type is ValueError
    assert caught.value.args == ("three is no good", 3)
    first, *others = caught.value.__notes__
    assert first == "noted by the kernel"
    notes = "\n".join(others)
    assert "task 3, chunk: 3" in notes
    assert "in raises_on_three" in notes
    with pytest.raises(FileNotFoundError) as missing:
        await ex.map(kernels.opens, ["/nowhere/to/be/found"])
    assert missing.value.filename == "/nowhere/to/be/found"


async def test_an_exception_of_ones_own_class_is_raised_as_a_loop_would(ex: Executor) -> None:
    with pytest.raises(kernels.BatchError, match="batch 3: three is no good") as caught:
        await ex.map(kernels.raises_own_on_three, range(10))
    assert (caught.value.batch, caught.value.reason) == (3, "three is no good")


async def test_exceptions_can_take_the_places_of_results(ex: Executor) -> None:
    results = await ex.map(kernels.raises_on_three, range(6), return_exceptions=True)
    error = results.pop(3)
    assert isinstance(error, ValueError)
    assert results == [0, 1, 2, 4, 5]
