"""Pictures of counts: colours for them, and a PNG file.

A face: it is given arrays and knows nothing of runs or kernels. numpy, Pillow and cmap are loaded
when they are used, so that the help of a command that draws comes at once.
"""

from __future__ import annotations

import math
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fanout.errors import UsageError

if TYPE_CHECKING:
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

# Dark outside, bright at the border, and with hues left for what a deep zoom shows.
DEFAULT_PALETTE: Final = "twilight_shifted"
# Counts below this are spread evenly, those above by their logarithm: the first few, which fill
# most of a picture of the whole set, then differ by little, and the eye goes to the border.
_EVEN_BELOW: Final = 5.0
# Shades taken from a palette; more than 8 bits per channel can tell apart.
_SHADES: Final = 4096
_SUGGESTIONS: Final = 3


def colour(
    counts: NDArray[np.integer[Any]], max_iter: int, palette: str = DEFAULT_PALETTE
) -> NDArray[np.uint8]:
    """Return the colours of escape-time counts; see `fanout.kernels.mandelbrot`.

    A pixel's colour depends on its count, `max_iter` and the palette only, so that parts of a
    picture can be coloured one by one.

    Args:
        counts: Integers, shape (rows, columns).
        max_iter: What they were limited to; pixels that reached it are black.
        palette: A name from https://cmap-docs.readthedocs.io/en/latest/catalog/; count 1 gets its
            start, `max_iter` would get its end, and "_r" appended to the name turns it round.

    Returns:
        uint8, shape (rows, columns, 3): red, green, blue.

    Raises:
        UsageError: There is no such palette, or `counts` or `max_iter` is something else.
    """
    import numpy as np

    _check_counts(counts, max_iter)
    above_least = np.maximum(counts, 1).astype(np.float32) - 1
    depth = np.log1p(above_least / _EVEN_BELOW) / math.log1p(max(max_iter - 1, 1) / _EVEN_BELOW)
    shades = np.rint(depth * (_SHADES - 1)).clip(0, _SHADES - 1).astype(np.intp)
    pixels: NDArray[np.uint8] = _shades(palette)[shades]
    pixels[counts >= max_iter] = 0
    return pixels


def check_target(path: str | os.PathLike[str], palette: str = DEFAULT_PALETTE) -> None:
    """Refuse before a long run what `colour` and `save_png` would refuse after it.

    Raises:
        UsageError: No picture can be written to `path`, or there is no such palette.
    """
    _shades(palette)
    _checked_target(Path(path))


def save_png(path: str | os.PathLike[str], pixels: NDArray[np.uint8]) -> None:
    """Write a PNG file, whole or not at all: an older file stays until the new one is complete.

    Args:
        path: Where to; ends in ".png".
        pixels: uint8, shape (rows, columns, 3): red, green, blue.

    Raises:
        UsageError: The file can't be written there, or `pixels` is something else.
    """
    from PIL import Image

    _check_pixels(pixels)
    target = _checked_target(Path(path))
    # Beside the target, since a rename is atomic within one file system only.
    unfinished = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        try:
            Image.fromarray(pixels).save(unfinished, format="PNG")
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise _not_writable(path, error) from error


def _shades(palette: str) -> NDArray[np.uint8]:
    """The colours of a palette, uint8, shape (shades, 3)."""
    import cmap
    import numpy as np

    try:
        colours: NDArray[np.float64] = cmap.Colormap(palette).lut(_SHADES)
    except (ValueError, TypeError) as error:
        raise UsageError(_no_such_palette(palette)) from error
    return np.rint(colours[:, :3] * 255).astype(np.uint8)


def _no_such_palette(palette: str) -> str:
    import difflib

    import cmap

    known = [*cmap.Catalog().short_keys()]
    near = difflib.get_close_matches(str(palette), known, n=_SUGGESTIONS)
    advice = f"did you mean {' or '.join(near)}?" if near else f"try {DEFAULT_PALETTE!r} or 'magma'"
    return f"there is no palette {palette!r}: {advice}"


def _check_counts(counts: NDArray[np.integer[Any]], max_iter: int) -> None:
    if counts.ndim != 2 or counts.dtype.kind not in "iu":
        msg = (
            f"counts has dtype {counts.dtype} and shape {counts.shape}: "
            "it must be integers of shape (rows, columns)"
        )
        raise UsageError(msg)
    if max_iter < 1:
        msg = f"max_iter={max_iter!r} must be 1 or more"
        raise UsageError(msg)


def _check_pixels(pixels: NDArray[np.uint8]) -> None:
    is_rgb = pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == "uint8"
    if not is_rgb or pixels.size == 0:
        msg = (
            f"pixels has dtype {pixels.dtype} and shape {pixels.shape}: "
            "it must be uint8 of shape (rows, columns, 3) and not empty, as `colour` returns it"
        )
        raise UsageError(msg)


def _checked_target(path: Path) -> Path:
    """Where to write; follows a link, so that it is its file that gets replaced."""
    if path.suffix.lower() != ".png":
        name = f"{path.stem or 'picture'}.png"
        msg = f"{str(path)!r} does not end in .png, the one format written: name it {name}"
        raise UsageError(msg)
    try:
        target = path.resolve()
        is_folder = target.is_dir()
        has_folder = target.parent.is_dir()
    except OSError as error:
        raise _not_writable(path, error) from error
    if is_folder:
        msg = f"{path} is a folder: name a file in it, as in {path / 'picture.png'}"
        raise UsageError(msg)
    if not has_folder:
        msg = f"the folder {path.parent} of {path.name} does not exist: create it first"
        raise UsageError(msg)
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise _not_writable(path, f"its folder {target.parent} takes no files from you")
    return target


def _not_writable(path: str | os.PathLike[str], why: OSError | str) -> UsageError:
    reason = why if isinstance(why, str) else why.strerror or why
    return UsageError(f"{path} can't be written ({reason}): choose another place")
