"""The Mandelbrot kernel: exactly the reference's counts, for any split, on any backend."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fanout
from fanout.codec import decode, encode
from fanout.kernels import mandelbrot
from fanout.kernels.mandelbrot import Band, View, bands, rows
from tests.reference import mandelbrot_counts

if TYPE_CHECKING:
    from numpy.typing import NDArray

SEAHORSES = View(
    centre_re=-0.743643887037151,
    centre_im=0.13182590420533,
    width=1e-9,
    columns=64,
    rows=64,
    max_iter=5000,
)
VIEWS = {
    "full": View.full(41, 41, max_iter=200),
    "full, wide": View.full(53, 20, max_iter=100),
    "full, high": View.full(17, 40, max_iter=100),
    "seahorse valley": View(
        centre_re=-0.745, centre_im=0.113, width=0.01, columns=31, rows=23, max_iter=300
    ),
    "deep zoom": dataclasses.replace(SEAHORSES, columns=15, rows=13, max_iter=1500),
    "finer than doubles": dataclasses.replace(SEAHORSES, width=1e-16, columns=7, rows=5),
    "antenna, on the axis": View(centre_re=-1.75, width=0.1, columns=33, rows=1, max_iter=500),
    "one column": View(columns=1, rows=29, max_iter=50),
    "one pixel": View(centre_re=-0.1, centre_im=0.9, columns=1, rows=1, max_iter=50),
    "one repetition": View.full(9, 7, max_iter=1),
    "two repetitions": View.full(9, 7, max_iter=2),
    "far away": View(centre_re=1e300, centre_im=-1e300, width=1e300, columns=3, rows=3),
    "whole numbers for floats": View(
        centre_re=-1, centre_im=0, width=2, columns=8, rows=8, max_iter=60
    ),
}


def whole(view: View) -> NDArray[np.int32]:
    return rows(Band(view=view, row_start=0, row_stop=view.rows))


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
def test_counts_equal_the_reference(view: View) -> None:
    counts = whole(view)

    assert counts.dtype == np.int32
    assert counts.shape == (view.rows, view.columns)
    assert counts.flags.c_contiguous
    assert counts.tolist() == mandelbrot_counts(view)


@settings(max_examples=60, deadline=None)
@given(
    view=st.builds(
        View,
        centre_re=st.floats(-2.5, 1.0),
        centre_im=st.floats(-1.5, 1.5),
        width=st.floats(1e-14, 4.0),
        columns=st.integers(1, 9),
        rows=st.integers(1, 9),
        max_iter=st.integers(1, 300),
    )
)
def test_counts_equal_the_reference_anywhere(view: View) -> None:
    assert whole(view).tolist() == mandelbrot_counts(view)


@pytest.mark.parametrize(
    ("c", "count"),
    [
        (0j, 50),  # stays at 0
        (-2 + 0j, 50),  # comes to 2 and stays: |z| = 2 has not escaped
        (2 + 0j, 2),  # 2, then 6
        (-2.5 + 0j, 1),
        (2 + 2j, 1),
        (1j, 50),  # goes round: i, -1+i, -i, ...
        (1 + 0j, 3),  # 1, 2, 5
        (0.5 + 0j, 5),  # 0.5, 0.75, 1.06, 1.63, 3.2
    ],
)
def test_points_known_by_hand(c: complex, count: int) -> None:
    view = View(centre_re=c.real, centre_im=c.imag, columns=1, rows=1, max_iter=50)

    assert whole(view).tolist() == [[count]]


def test_counts_are_the_same_bits_on_every_processor() -> None:
    """The checksum is the pure-Python reference's; a fused multiply-add changes 189 pixels."""
    assert zlib.crc32(whole(SEAHORSES).astype("<i4").tobytes()) == 88347698


def test_first_row_is_the_top_and_positive_imaginary_parts_are_up() -> None:
    view = View(centre_re=0.0, centre_im=0.0, width=8.0, columns=1, rows=3, max_iter=9)
    above = dataclasses.replace(view, centre_im=8.0, rows=1)

    assert view.top == 8.0
    assert whole(view)[0].tolist() == whole(above)[0].tolist()


# ---- bands ----


@given(data=st.data(), view=st.sampled_from([View.full(23, 31, max_iter=90), SEAHORSES]))
@settings(max_examples=40, deadline=None)
def test_any_split_gives_the_same_picture(data: st.DataObject, view: View) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, view.rows), max_size=12)))
    edges = [0, *cuts, view.rows]
    parts = [
        rows(Band(view=view, row_start=start, row_stop=stop))
        for start, stop in itertools.pairwise(edges)
    ]

    assert np.array_equal(np.concatenate(parts), whole(view))


def test_an_empty_band_has_no_rows() -> None:
    counts = rows(Band(view=View.full(5, 4), row_start=2, row_stop=2))

    assert counts.shape == (0, 5)
    assert counts.dtype == np.int32


def covered(parts: list[Band]) -> list[int]:
    return [row for part in parts for row in range(part.row_start, part.row_stop)]


@given(height=st.integers(1, 200), rows_per_band=st.none() | st.integers(1, 250))
def test_bands_cover_each_row_once(height: int, rows_per_band: int | None) -> None:
    view = View(rows=height)
    parts = bands(view, rows_per_band=rows_per_band)
    size = rows_per_band or 16

    assert covered(parts) == list(range(height))
    assert all(part.view is view for part in parts)
    assert all(part.row_stop - part.row_start == size for part in parts[:-1])
    assert 1 <= parts[-1].row_stop - parts[-1].row_start <= size


@given(st.data(), st.integers(1, 200))
def test_count_gives_that_many_bands_of_about_the_same_size(
    data: st.DataObject, height: int
) -> None:
    count = data.draw(st.integers(1, height))
    parts = bands(View(rows=height), count=count)
    sizes = {part.row_stop - part.row_start for part in parts}

    assert len(parts) == count
    assert covered(parts) == list(range(height))
    assert max(sizes) - min(sizes) <= 1


# ---- the plane ----


@pytest.mark.parametrize(("columns", "height"), [(100, 100), (192, 108), (60, 99)])
def test_the_full_view_shows_the_whole_set(columns: int, height: int) -> None:
    view = View.full(columns, height)
    right = view.left + view.side * (columns - 1)
    bottom = view.top - view.side * (height - 1)

    assert view.left < -2
    assert right > 0.48
    assert view.top > 1.13
    assert bottom < -1.13
    assert min(columns, height) * view.side == pytest.approx(View().width)


def test_the_default_view_is_the_full_one() -> None:
    assert View() == View.full(1200, 1200)


# ---- what is refused ----

BAD_NUMBERS: list[Any] = [float("nan"), float("inf"), float("-inf"), "1", None, True, 10**400, 1j]
BAD_COUNTS: list[Any] = [0, -1, 1.0, "4", None, True, float("nan"), 2**60]


@pytest.mark.parametrize("name", ["centre_re", "centre_im", "width"])
@pytest.mark.parametrize("value", BAD_NUMBERS, ids=lambda value: str(value)[:8])
def test_view_refuses_what_is_no_finite_number(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name}=") as caught:
        View(**{name: value})
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("width", [0.0, -0.0, -1.0])
def test_view_refuses_a_width_that_is_not_above_zero(width: float) -> None:
    with pytest.raises(ValueError, match=f"^width={width} must be above 0"):
        View(width=width)


@pytest.mark.parametrize("name", ["columns", "rows", "max_iter"])
@pytest.mark.parametrize("value", BAD_COUNTS, ids=str)
def test_view_refuses_what_is_no_size(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name}=") as caught:
        View(**{name: value})
    assert repr(value) in str(caught.value)


def test_full_view_refuses_a_size_of_zero() -> None:
    with pytest.raises(ValueError, match=r"^rows=0 must be a whole number from 1 "):
        View.full(10, 0)


@pytest.mark.parametrize(
    ("row_start", "row_stop", "message"),
    [
        (-1, 2, "row_start=-1 must be a whole number from 0 to 8"),
        (9, 9, "row_start=9 "),
        (3, 2, "row_stop=2 must be a whole number from 3 to 8"),
        (0, 9, "row_stop=9 "),
        (0.0, 2, "row_start=0.0 "),
    ],
)
def test_band_refuses_rows_that_the_view_does_not_have(
    row_start: Any, row_stop: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Band(view=View(rows=8), row_start=row_start, row_stop=row_stop)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows_per_band": 0}, "^rows_per_band=0 must be"),
        ({"rows_per_band": 2.5}, "^rows_per_band=2.5 must be"),
        ({"count": 0}, "^count=0 must be a whole number from 1 to 8"),
        ({"count": 9}, "^count=9 must be a whole number from 1 to 8"),
        ({"count": 2, "rows_per_band": 4}, "^rows_per_band=4 and count=2 exclude each other"),
    ],
)
def test_bands_refuses_a_split_that_makes_no_sense(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bands(View(rows=8), **arguments)


# ---- elsewhere ----


def test_a_band_travels_without_pickle() -> None:
    band = Band(view=SEAHORSES, row_start=3, row_stop=5)

    assert decode(encode(band, is_safe=True), is_safe=True) == band


def test_local_workers_count_what_a_direct_call_counts() -> None:
    view = View.full(101, 77, max_iter=200)

    results = asyncio.run(fanout.map(rows, bands(view), progress=False, codec="safe"))

    assert np.array_equal(np.concatenate(results), whole(view))


_WITHOUT_CACHE = """
import sys
from fanout.kernels import mandelbrot
from fanout.kernels.mandelbrot import View, bands
assert mandelbrot.__file__.startswith(sys.argv[1]), mandelbrot.__file__
assert mandelbrot._count.stats.cache_path is None, mandelbrot._count.stats.cache_path
print([mandelbrot.rows(band).tolist() for band in bands(View.full(5, 5, max_iter=9))])
"""


def test_kernel_works_where_no_cache_can_be_written(tmp_path: Path) -> None:
    """Numba refuses cache=True there; files where it wants folders stop it even if we are root."""
    assert fanout.__file__ is not None
    package = tmp_path / "fanout"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(fanout.__file__).parent, package, ignore=ignored)
    (package / "kernels" / "__pycache__").touch()
    blocked = tmp_path / "file"
    blocked.touch()
    folders = ("HOME", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")},
        **{name: str(blocked / "folder") for name in folders},
        "PYTHONPATH": str(tmp_path),
        "PYTHONDONTWRITEBYTECODE": "1",
    }

    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_CACHE, str(tmp_path)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == repr([whole(View.full(5, 5, max_iter=9)).tolist()])


def test_kernel_keeps_its_cache_where_one_can_be_written() -> None:
    assert mandelbrot._count.stats.cache_path is not None  # type: ignore[attr-defined]
