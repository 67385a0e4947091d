"""Pictures: the colours of counts, and files that are there whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from fanout.errors import UsageError
from fanout.kernels.mandelbrot import Band, View, rows
from fanout.picture import DEFAULT_PALETTE, check_target, colour, save_png

if TYPE_CHECKING:
    from numpy.typing import NDArray

OTHERS = ["magma", "viridis_r", "crameri:batlow"]


def noise(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def read(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.mode == "RGB"
        return np.array(image)


# ---- colours ----


@pytest.mark.parametrize("palette", [DEFAULT_PALETTE, *OTHERS])
def test_the_inside_is_black_and_nothing_else_is(palette: str) -> None:
    view = View.full(60, 40, max_iter=80)
    counts = rows(Band(view=view, row_start=0, row_stop=view.rows))
    pixels = colour(counts, view.max_iter, palette)

    assert pixels.dtype == np.uint8
    assert pixels.shape == (40, 60, 3)
    is_black = (pixels == 0).all(axis=2)
    assert is_black[counts == view.max_iter].all()
    assert not is_black[(counts > 1) & (counts < view.max_iter)].any()


def test_colours_run_once_through_the_palette() -> None:
    """Black to white shows the order: more repetitions are never darker, and steps get smaller."""
    shades = colour(np.arange(1, 1000).reshape(1, -1), 1000, "gray")[0, :, 0].astype(int)

    assert shades[0] == 0
    assert shades[-1] == 255
    assert (np.diff(shades) >= 0).all()
    assert len(set(shades.tolist())) > 128
    assert max(np.diff(shades)) < 10


def test_palette_is_turned_round_by_its_suffix() -> None:
    counts = np.array([[1, 999_999]])

    assert np.array_equal(colour(counts, 10**6, "magma"), colour(counts, 10**6, "magma_r")[:, ::-1])


@given(
    counts=arrays(np.int32, st.tuples(st.integers(1, 6), st.integers(1, 6))),
    max_iter=st.integers(1, 2**31 - 1),
)
def test_each_pixel_is_coloured_by_itself(counts: NDArray[np.int32], max_iter: int) -> None:
    pixels = colour(counts, max_iter)

    for place in np.ndindex(counts.shape):
        alone = colour(counts[place].reshape(1, 1), max_iter)
        assert np.array_equal(pixels[place], alone[0, 0])


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint32, np.int64, np.uint64])
def test_any_integers_are_coloured_alike(dtype: Any) -> None:
    counts = np.array([[0, 1, 2, 99, 100, 101]])

    assert np.array_equal(colour(counts.astype(dtype), 100), colour(counts, 100))


def test_with_one_repetition_everything_is_inside() -> None:
    assert not colour(np.ones((2, 3), np.int32), 1).any()


def test_counts_without_pixels_have_no_colours() -> None:
    assert colour(np.empty((0, 7), np.int32), 10).shape == (0, 7, 3)


def test_colouring_leaves_the_counts_alone() -> None:
    counts = np.array([[3, 10]], np.int32)
    counts.flags.writeable = False

    colour(counts, 10)  # would raise if it wrote to them
    assert counts.tolist() == [[3, 10]]


@pytest.mark.parametrize(
    ("palette", "hint"),
    [
        ("twilight_shfted", "did you mean twilight_shifted or "),
        ("infernoo", "did you mean inferno"),
        ("mandelbrot", "try 'twilight_shifted' or 'magma'"),
        ("", "try 'twilight_shifted'"),
        (None, "did you mean "),
    ],
)
def test_an_unknown_palette_is_refused_with_names_near_it(palette: Any, hint: str) -> None:
    with pytest.raises(UsageError, match=f"^there is no palette {palette!r}: ") as caught:
        colour(np.ones((2, 2), np.int32), 10, palette)
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    ("counts", "max_iter", "message"),
    [
        (np.ones(4, np.int32), 10, r"shape \(4,\): it must be integers of shape"),
        (np.ones((2, 2)), 10, "dtype float64"),
        (np.ones((2, 2), bool), 10, "dtype bool"),
        (np.ones((2, 2), int), 0, "max_iter=0 must be 1 or more"),
    ],
)
def test_what_are_no_counts_is_refused(counts: Any, max_iter: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        colour(counts, max_iter)


# ---- files ----


def test_a_saved_picture_reads_back_as_it_was(tmp_path: Path) -> None:
    pixels = noise(23, 41)
    save_png(tmp_path / "noise.png", pixels)

    assert np.array_equal(read(tmp_path / "noise.png"), pixels)
    assert names(tmp_path) == ["noise.png"]


@pytest.mark.parametrize("pixels", [noise(9, 9)[::2, ::-1], noise(1, 1), noise(1, 300)])
def test_any_layout_and_size_is_saved(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    save_png(str(tmp_path / "a picture.PNG"), pixels)

    assert np.array_equal(read(tmp_path / "a picture.PNG"), pixels)


def test_a_relative_path_starts_at_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_png("here.png", noise(2, 2))

    assert read(tmp_path / "here.png").shape == (2, 2, 3)


def test_an_older_picture_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(b"older")
    save_png(path, noise(4, 4))

    assert np.array_equal(read(path), noise(4, 4))


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    link = tmp_path / "link.png"
    link.symlink_to("folder/picture.png")
    save_png(link, noise(4, 4))

    assert link.is_symlink()
    assert np.array_equal(read(tmp_path / "folder" / "picture.png"), noise(4, 4))


def test_a_saved_picture_is_as_readable_as_any_new_file(tmp_path: Path) -> None:
    """A temporary file made for one's own eyes (mode 600) must not become the picture."""
    (tmp_path / "other").touch()
    save_png(tmp_path / "picture.png", noise(2, 2))

    assert (tmp_path / "picture.png").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing/picture.png", "the folder .*missing of picture.png does not exist: create it"),
        ("file/picture.png", "the folder .*file of picture.png does not exist"),
        ("picture.jpg", "does not end in .png, the one format written: name it picture.png"),
        ("picture", "name it picture.png"),
        ("", "name it "),
        ("folder.png", "folder.png is a folder: name a file in it, as in .*folder.png/"),
        (f"{'long' * 100}.png", "can't be written .*: choose another place"),
    ],
)
def test_a_place_that_will_not_do_is_refused(tmp_path: Path, path: str, message: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UsageError, match=message):
        save_png(tmp_path / path, noise(2, 2))
    with pytest.raises(UsageError, match=message):
        check_target(tmp_path / path)

    assert names(tmp_path) == ["file", "folder.png"]
    assert not names(tmp_path / "folder.png")


def test_a_folder_without_permission_is_refused_beforehand(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    if os.access(tmp_path, os.W_OK):
        pytest.skip("root may write everywhere")
    with pytest.raises(UsageError, match=r"can't be written .*takes no files from you"):
        check_target(tmp_path / "picture.png")


def test_a_target_that_will_do_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "older.png").write_bytes(b"older")
    check_target(tmp_path / "older.png", "magma")
    check_target(str(tmp_path / "new.png"))

    assert names(tmp_path) == ["older.png"]
    assert (tmp_path / "older.png").read_bytes() == b"older"


def test_an_unknown_palette_is_refused_beforehand(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean magma"):
        check_target(tmp_path / "picture.png", "magmaa")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder closed even to root")
def test_a_folder_that_takes_no_files_is_refused() -> None:
    with pytest.raises(UsageError, match=r"/proc/self/p.png can't be written .*: choose another"):
        save_png("/proc/self/p.png", noise(2, 2))


@pytest.mark.parametrize(
    "pixels",
    [
        noise(2, 2)[:, :, 0],
        noise(2, 2)[:, :, :2],
        noise(2, 2).astype(float),
        noise(2, 2)[:0],
    ],
)
def test_what_is_no_picture_is_refused(tmp_path: Path, pixels: Any) -> None:
    with pytest.raises(UsageError, match=r"must be uint8 of shape \(rows, columns, 3\)"):
        save_png(tmp_path / "picture.png", pixels)

    assert not names(tmp_path)


_ON_A_FULL_DISK = """
import resource, sys
import numpy as np
from fanout.errors import UsageError
from fanout.picture import save_png
pixels = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    save_png(sys.argv[1], pixels)
except UsageError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_failure_halfway_leaves_the_older_picture_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(b"older")

    done = subprocess.run(
        [sys.executable, "-c", _ON_A_FULL_DISK, str(path)],
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.startswith(f"{path} can't be written (File too large): choose another")
    assert path.read_bytes() == b"older"
    assert names(tmp_path) == ["picture.png"]


def test_importing_the_module_loads_nothing_heavy() -> None:
    program = "import sys, fanout.picture; print({'numpy', 'PIL', 'cmap'} & set(sys.modules))"

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "set()"
