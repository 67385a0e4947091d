"""Scripts, notebooks and programs without an event loop: where users really are."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbclient
import nbformat
import pytest

import fanout

if TYPE_CHECKING:
    from collections.abc import Iterator


def square(chunk: int) -> int:
    return chunk * chunk


def python(*arguments: str, stdin: str | None = None, cwd: Path | None = None) -> str:
    """What an interpreter run prints."""
    done = subprocess.run(
        [sys.executable, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=cwd,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


_UNGUARDED = """
import asyncio, dataclasses, fanout

@dataclasses.dataclass
class Point:
    x: int

def move(point):
    return Point(helper(point.x))

def helper(x):
    return x + 1

print(asyncio.run(fanout.map(move, [Point(1), Point(2)])))
"""


def test_a_script_needs_no_main_guard(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(_UNGUARDED)
    assert python(str(script)) == "[Point(x=2), Point(x=3)]\n"


def test_a_program_given_on_the_command_line_or_by_stdin_runs() -> None:
    assert python("-c", _UNGUARDED) == "[Point(x=2), Point(x=3)]\n"
    assert python("-", stdin=_UNGUARDED) == "[Point(x=2), Point(x=3)]\n"


def test_a_script_may_use_modules_beside_it(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("def kernel(chunk):\n    return chunk + 1\n")
    script = tmp_path / "script.py"
    script.write_text(
        "import fanout, beside\n"
        "print(fanout.sync.map(beside.kernel, [1]))\n"
        "print(fanout.sync.map(lambda chunk: beside.kernel(chunk), [2]))\n"
    )
    assert python(str(script), cwd=Path("/")) == "[2]\n[3]\n"


def notebook(*cells: str) -> list[str]:
    """What the cells of a notebook print or show, run by a real kernel."""
    make: Any = nbformat.v4
    book = make.new_notebook(cells=[make.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(book, timeout=60, kernel_name="python3").execute()
    return [_shown(cell.outputs) for cell in book.cells]


def _shown(outputs: list[Any]) -> str:
    return "".join(
        output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in outputs
    )


# The notebook's own libraries warn about their future; that is not ours to mend.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_notebook_awaits_and_calls_kernels_typed_into_it() -> None:
    shown = notebook(
        "import fanout, numpy as np, numba",
        "def kernel(chunk):\n    return chunk + 1",
        "await fanout.map(kernel, [1, 2])",
        "fanout.sync.map(kernel, [3, 4])",
        "@numba.njit\ndef compiled(chunk):\n    return chunk * 2\nawait fanout.map(compiled, [5])",
        textwrap.dedent("""
            class Shape:
                def __init__(self, sides): self.sides = sides
            shapes = await fanout.map(lambda sides: Shape(sides), [3, 4])
            [isinstance(shape, Shape) and shape.sides for shape in shapes]
        """),
        "async with fanout.stream(kernel, iter(range(3)), ordered=True) as outcomes:\n"
        "    print([o.result() async for o in outcomes])",
    )
    assert shown[2:] == ["[2, 3]", "[4, 5]", "[10]", "[3, 4]", "[1, 2, 3]\n"]


def test_sync_maps_without_a_loop() -> None:
    assert fanout.sync.map(square, [1, 2, 3]) == [1, 4, 9]
    assert fanout.sync.starmap(pow, [(2, 3), (3, 2)]) == [8, 9]
    assert fanout.sync.run(square, [4]).results == [16]


async def test_sync_maps_inside_a_running_loop() -> None:
    assert fanout.sync.map(square, [1, 2, 3]) == [1, 4, 9]


def test_a_sync_executor_keeps_its_workers_and_streams() -> None:
    with fanout.sync.Executor(fanout.Local(1)) as ex:
        assert ex.map(square, [2]) == [4]
        with ex.stream(square, range(50), ordered=True) as outcomes:
            assert [outcome.result() for outcome in outcomes] == [n * n for n in range(50)]


def test_a_sync_stream_can_be_left_early() -> None:
    def endless() -> Iterator[int]:
        number = 0
        while True:
            yield number
            number += 1

    with fanout.sync.stream(square, endless()) as outcomes:
        assert next(iter(outcomes)).is_ok


def test_a_sync_error_is_the_kernels_own_and_leaves_no_thread() -> None:
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError) as caught:
        fanout.sync.map(lambda chunk: 1 // chunk, [1, 0])
    assert any("task 1, chunk: 0" in note for note in caught.value.__notes__)
    assert any("remote traceback of task 1" in note for note in caught.value.__notes__)
    assert threading.active_count() == before


def test_a_sync_executor_must_be_opened() -> None:
    with pytest.raises(fanout.errors.UsageError, match=r"with fanout\.sync\.Executor"):
        fanout.sync.Executor().map(square, [1])
