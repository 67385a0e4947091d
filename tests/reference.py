"""Kernels as one would write them down: slow, obvious, pure Python. Tests compare with these."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fanout.kernels.mandelbrot import View


def mandelbrot_counts(view: View) -> list[list[int]]:
    """Escape-time counts, one list for each row of the picture, from the top."""
    side = view.width / view.columns
    left = view.centre_re - side * (view.columns - 1) / 2
    top = view.centre_im + side * (view.rows - 1) / 2
    return [
        [
            escape_count(left + side * column, top - side * row, view.max_iter)
            for column in range(view.columns)
        ]
        for row in range(view.rows)
    ]


def escape_count(cr: float, ci: float, max_iter: int) -> int:
    """The n of the first z_n with |z_n| > 2, where z_0 = 0 and z_n+1 = z_n^2 + c; or max_iter."""
    zr = zi = 0.0
    for n in range(1, max_iter + 1):
        next_zr = zr * zr - zi * zi + cr
        next_zi = 2.0 * zr * zi + ci
        zr, zi = next_zr, next_zi
        if zr * zr + zi * zi > 4.0:
            return n
    return max_iter
