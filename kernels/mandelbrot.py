"""The Mandelbrot set by escape time: `rows` counts one band of the rows of a picture.

    view = View(columns=1200, rows=1200, max_iter=1000)
    counts = np.concatenate(await fanout.map(rows, bands(view)))

What is counted is defined to the last bit, so that every machine gives the same integers. Pixel
(iy, ix), counted from the top left, stands for the number c = (left + side*ix) + i (top - side*iy),
which is its centre. From z = 0 the map z -> z*z + c is repeated; its count is the number of
repetitions after which |z| > 2 for the first time, and `max_iter` if that takes as many or more.
Everything is IEEE double precision, each operation rounded by itself and in the order written here:
no fastmath, no fused multiply-add, no libm. A pixel's c follows from its place in the whole view,
never in its band, so that any split into bands gives the same picture.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar, cast

import numba
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

F = TypeVar("F", bound="Callable[..., object]")

# The set reaches from -2 to 0.48 and 1.12 up and down: this leaves a margin on all sides.
_FULL_WIDTH: Final = 2.75
# Counts are int32: half the bytes to send of int64, and no picture needs more repetitions.
_MAX_ITER: Final = 2**31 - 1
# A pixel's index is exact as a float64 up to here.
_MAX_PIXELS: Final = 2**53
# Small enough to spread interior rows, which cost most, over many workers; tasks that turn out
# too small to be sent alone are grouped by measured time.
_ROWS_PER_BAND: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A rectangle of the complex plane and the picture to make of it; by default, the whole set.

    Pixels are squares, so the height in the plane follows from `width`, `columns` and `rows`. Where
    `side` comes near the spacing of doubles (1e-16 around |c| = 1), neighbours share one c.

    Attributes:
        centre_re: Real part of the centre.
        centre_im: Imaginary part of the centre; positive is up.
        width: Width in the plane, from edge to edge, above 0.
        columns: Width in pixels.
        rows: Height in pixels.
        max_iter: Repetitions after which a point counts as inside; 1 to 2**31 - 1.
    """

    centre_re: float = -0.75
    centre_im: float = 0.0
    width: float = _FULL_WIDTH
    columns: int = 1200
    rows: int = 1200
    max_iter: int = 1000

    def __post_init__(self) -> None:
        """Refuse what is no picture.

        Raises:
            ValueError: Names the argument and its value.
        """
        _check_finite("centre_re", self.centre_re)
        _check_finite("centre_im", self.centre_im)
        _check_finite("width", self.width)
        if self.width <= 0:
            msg = f"width={self.width!r} must be above 0"
            raise ValueError(msg)
        _check_whole("columns", self.columns, 1, _MAX_PIXELS)
        _check_whole("rows", self.rows, 1, _MAX_PIXELS)
        _check_whole("max_iter", self.max_iter, 1, _MAX_ITER)

    @classmethod
    def full(cls, columns: int, rows: int, *, max_iter: int = 1000) -> View:
        """The whole set in a picture of any shape: its shorter side spans 2.75 in the plane."""
        _check_whole("columns", columns, 1, _MAX_PIXELS)
        _check_whole("rows", rows, 1, _MAX_PIXELS)
        width = _FULL_WIDTH * columns / min(columns, rows)
        return cls(width=width, columns=columns, rows=rows, max_iter=max_iter)

    @property
    def side(self) -> float:
        """Side of a pixel in the plane."""
        return self.width / self.columns

    @property
    def left(self) -> float:
        """Real part of c in column 0."""
        return self.centre_re - self.side * (self.columns - 1) / 2

    @property
    def top(self) -> float:
        """Imaginary part of c in row 0."""
        return self.centre_im + self.side * (self.rows - 1) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """Some rows of a view, one below the other: what one task computes.

    Attributes:
        view: The whole picture.
        row_start: First row, from 0.
        row_stop: The row after the last; equal to `row_start` if the band is empty.
    """

    view: View
    row_start: int
    row_stop: int

    def __post_init__(self) -> None:
        """Refuse rows that the view does not have.

        Raises:
            ValueError: Names the argument and its value.
        """
        _check_whole("row_start", self.row_start, 0, self.view.rows)
        _check_whole("row_stop", self.row_stop, self.row_start, self.view.rows)


def bands(view: View, *, rows_per_band: int | None = None, count: int | None = None) -> list[Band]:
    """Cut a view into bands, from top to bottom; each row is in exactly one.

    Args:
        view: The picture.
        rows_per_band: Rows of each band, the last may have fewer; 16 if `count` is None, too.
        count: Number of bands instead, at most `view.rows`; their sizes differ by one row at most.

    Raises:
        ValueError: Both are given, or one is out of range.
    """
    if count is not None:
        if rows_per_band is not None:
            msg = f"rows_per_band={rows_per_band!r} and count={count!r} exclude each other"
            raise ValueError(msg)
        _check_whole("count", count, 1, view.rows)
        starts = [view.rows * band // count for band in range(count)]
    else:
        step = _ROWS_PER_BAND if rows_per_band is None else rows_per_band
        _check_whole("rows_per_band", step, 1, _MAX_PIXELS)
        starts = list(range(0, view.rows, step))
    stops = [*starts[1:], view.rows]
    return [
        Band(view=view, row_start=start, row_stop=stop)
        for start, stop in zip(starts, stops, strict=True)
    ]


def rows(band: Band) -> NDArray[np.int32]:
    """Return the counts of a band's pixels.

    Deterministic: the same bits on every processor, and for any split of the view. Takes time in
    proportion to the sum of the counts, at most pixels x `max_iter`; interior points cost most.

    Args:
        band: The rows to compute.

    Returns:
        int32, shape (rows of the band, columns), C-contiguous: 1 to `max_iter` repetitions. Points
        that escape in repetition `max_iter` and those that never do look the same.
    """
    view = band.view
    counts = np.empty((band.row_stop - band.row_start, view.columns), np.int32)
    _count(counts, band.row_start, view.left, view.top, view.side, view.max_iter)
    return counts


def _compiled(function: F) -> F:
    """`numba.njit`, with its cache on disk if there is a place for one.

    Where nothing is writable (a container, a system-wide installation without a home), numba
    refuses to decorate with `cache=True`; compiling anew in each process is better than no kernel.
    The GIL is released, so that a process can be told to stop in the middle of a kernel.
    """
    try:
        return cast("F", numba.njit(cache=True, nogil=True)(function))
    except RuntimeError as error:
        if "no locator available" not in str(error):
            raise
        return cast("F", numba.njit(nogil=True)(function))


@_compiled
def _count(
    counts: NDArray[np.int32], row_start: int, left: float, top: float, side: float, max_iter: int
) -> None:
    for row in range(counts.shape[0]):
        ci = top - side * (row_start + row)
        for column in range(counts.shape[1]):
            cr = left + side * column
            zr = zi = 0.0
            count = 0
            while count < max_iter:
                zr, zi = zr * zr - zi * zi + cr, 2.0 * zr * zi + ci
                count += 1
                if zr * zr + zi * zi > 4.0:
                    break
            counts[row, column] = count


def _check_finite(name: str, value: object) -> None:
    is_bool = isinstance(value, bool)  # an int to Python
    largest = sys.float_info.max  # NaN compares false with it
    if isinstance(value, int | float) and not is_bool and abs(value) <= largest:
        return
    msg = f"{name}={value!r} must be a finite number"
    raise ValueError(msg)


def _check_whole(name: str, value: object, least: int, most: int) -> None:
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
        return
    msg = f"{name}={value!r} must be a whole number from {least} to {most}"
    raise ValueError(msg)
