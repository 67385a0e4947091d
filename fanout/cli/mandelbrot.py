"""`fanout mandelbrot`: a picture of the Mandelbrot set, as a first thing to run."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Final

import click

from fanout.cli import Command, run, running_options
from fanout.errors import UsageError
from fanout.picture import DEFAULT_PALETTE

if TYPE_CHECKING:
    from fanout.kernels.mandelbrot import Band, View
    from fanout.outcomes import Run

# Counts in the outcomes, colours by band, colours in one array, and what the encoder takes.
_BYTES_PER_PIXEL: Final = 4 + 3 + 3 + 3
# Iterations a second on one core, numba's scalar loop on a 2021 server core; for a warning only.
_ITERATIONS_PER_S: Final = 3e8
_LONG_S: Final = 600.0
_PROBE_SIZE: Final = 64


def _pixels(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, int]:
    try:
        sides = [int(part) for part in value.lower().split("x")]
    except ValueError:
        sides = []
    if len(sides) not in {1, 2} or min(sides) < 1:
        msg = f"{value!r} must be pixels as in 2000 or 1920x1080, 1 or more"
        raise click.BadParameter(msg, ctx, param)
    return sides[0], sides[-1]


@click.command(
    cls=Command,
    short_help="Render the Mandelbrot set.",
    examples=(
        "fanout mandelbrot\n"
        "fanout mandelbrot --size 1920x1080 --max-iter 5000 --out wallpaper.png\n"
        "fanout mandelbrot --centre -0.7436439 0.1318259 --width 2e-4 --max-iter 3000"
    ),
)
@click.option(
    "--size",
    callback=_pixels,
    default="2000",
    show_default=True,
    metavar="N|WxH",
    help="Size of the picture in pixels.",
)
@click.option(
    "--max-iter",
    type=int,
    default=1000,
    show_default=True,
    metavar="N",
    help="Repetitions before giving up.",
)
@click.option("--centre", type=float, nargs=2, metavar="RE IM", help="Centre in the plane.")
@click.option(
    "--width", type=float, metavar="W", help="Width in the plane.  [default: the whole set]"
)
@click.option(
    "--palette",
    default=DEFAULT_PALETTE,
    show_default=True,
    metavar="NAME",
    help="Colours, by their name in the catalogue of cmap.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False),
    default="mandelbrot.png",
    show_default=True,
    help="Where to write the PNG.",
)
@click.option("--yes", is_flag=True, help="Run even if it will take very long.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@running_options
def command(
    size: tuple[int, int],
    max_iter: int,
    centre: tuple[float, float] | None,
    width: float | None,
    palette: str,
    out: str,
    yes: bool,
    as_json: bool,
    progress: bool | None,
    workers: int | None,
) -> None:
    """Render the Mandelbrot set into a PNG, one band of rows per task.

    Prints what the run took: on which backend, how many tasks and attempts, the makespan, the time
    inside the kernel, and how much faster that was than one core.
    """
    from fanout import config, picture
    from fanout.backends.chosen import chosen

    view = _view(size, max_iter, centre, width)
    _refuse_what_does_not_fit(view)
    settings = config.load()
    backend = chosen(settings, workers=workers)
    picture.check_target(out, palette)
    if not yes and settings.backend == "local":
        _refuse_what_takes_long(view, backend.concurrency)
    done = run(_rendered(view, backend, progress))
    picture.save_png(out, _coloured(done, max_iter, palette))
    summary = _summary(done, out, view)
    click.echo(json.dumps(summary) if as_json else _as_text(summary))


def _view(
    size: tuple[int, int],
    max_iter: int,
    centre: tuple[float, float] | None,
    width: float | None,
) -> View:
    from fanout.kernels.mandelbrot import View

    try:
        full = View.full(*size, max_iter=max_iter)
        re, im = centre or (full.centre_re, full.centre_im)
        return View(
            centre_re=re,
            centre_im=im,
            width=full.width if width is None else width,
            columns=size[0],
            rows=size[1],
            max_iter=max_iter,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error


def _refuse_what_does_not_fit(view: View) -> None:
    needed = view.columns * view.rows * _BYTES_PER_PIXEL
    memory = _physical_memory_bytes()
    if memory is not None and needed > memory / 2:
        side = int((memory / 2 / _BYTES_PER_PIXEL) ** 0.5)
        msg = (
            f"{view.columns} x {view.rows} pixels need about {needed / 2**30:,.1f} GiB, and this "
            f"machine has {memory / 2**30:,.1f} GiB: --size {side} is the largest square that fits"
        )
        raise UsageError(msg)


def _refuse_what_takes_long(view: View, cores: int) -> None:
    longest_s = view.columns * view.rows * view.max_iter / _ITERATIONS_PER_S / cores
    if longest_s < _LONG_S:
        return
    estimate_s = longest_s * _share_of_iterations(view)
    if estimate_s >= _LONG_S:
        msg = (
            f"this would take about {_duration(estimate_s)} on {cores} cores: make --size or "
            "--max-iter smaller, or add --yes to run it all the same"
        )
        raise UsageError(msg)


def _share_of_iterations(view: View) -> float:
    """Mean count over max_iter, from a small picture of the same view with a bounded max_iter."""
    import dataclasses

    from fanout.kernels.mandelbrot import Band, rows

    small = dataclasses.replace(
        view,
        columns=_PROBE_SIZE,
        rows=_PROBE_SIZE,
        max_iter=min(view.max_iter, 10_000),
    )
    counts = rows(Band(view=small, row_start=0, row_stop=_PROBE_SIZE))
    return float(counts.mean()) / small.max_iter


async def _rendered(view: View, backend: Any, progress: bool | None) -> Run[Any]:
    from fanout.executor import Executor
    from fanout.kernels.mandelbrot import bands, rows

    chunks: list[Band] = bands(view)
    async with Executor(backend) as ex:
        return await ex.run(rows, chunks, progress=progress)


def _coloured(run: Run[Any], max_iter: int, palette: str) -> Any:
    """The picture, coloured band by band to save memory."""
    import numpy as np

    from fanout import picture

    return np.concatenate([picture.colour(counts, max_iter, palette) for counts in run.results])


def _summary(run: Run[Any], out: str, view: View) -> dict[str, Any]:
    return {
        "out": out,
        "columns": view.columns,
        "rows": view.rows,
        "max_iter": view.max_iter,
        "run": run.id,
        "backend": run.backend,
        "tasks": len(run.outcomes),
        "attempts": run.attempts,
        "retries": run.retries,
        "makespan_s": run.makespan_s,
        "kernel_s": run.kernel_s,
        "speed_up_over_one_core": run.kernel_s / run.makespan_s,
    }


def _as_text(summary: dict[str, Any]) -> str:
    lines = {
        "picture": f"{summary['out']}, {summary['columns']} x {summary['rows']} pixels, "
        f"max_iter {summary['max_iter']}",
        "backend": summary["backend"],
        "tasks": f"{summary['tasks']} in {summary['attempts']} attempts, "
        f"{summary['retries']} retried",
        "makespan": f"{summary['makespan_s']:.2f} s",
        "kernel": f"{summary['kernel_s']:.2f} s on all workers together",
        "speed-up": f"{summary['speed_up_over_one_core']:.2f} x one core",
    }
    return "\n".join(f"{name:9} {value}" for name, value in lines.items())


def _physical_memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None  # Windows


def _duration(seconds: float) -> str:
    for unit, length_s in (("days", 86400.0), ("hours", 3600.0)):
        if seconds >= 2 * length_s:
            return f"{seconds / length_s:,.0f} {unit}"
    return f"{seconds / 60:,.0f} minutes"
