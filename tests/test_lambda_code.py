"""A kernel whose modules the function's image lacks, through the emulator."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import fanout
from fanout.emulator import Emulator
from fanout.errors import ChunkError, KernelLoadError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT = Path(__file__).parent.parent

SCRIPT = """
import asyncio, fanout, sys
from pathlib import Path
import lc_pack
from lc_pack.core import LcError

async def main():
    async with fanout.Executor() as ex:
        print(await ex.map(lc_pack.run, range(3)))
        try:
            await ex.map(lc_pack.run, [7])
        except LcError as error:
            print("caught", error)
        (point,) = await ex.map(lc_pack.point, [1])
        print(isinstance(point, lc_pack.Point), point.x)
        import lc_helper
        print(await ex.map(lambda x: lc_helper.double(x) + 1, [10]))
        Path("lc_helper.py").write_text("def double(x):\\n    return 3 * x\\n")
        print(await ex.map(lc_pack.run, range(3)))

asyncio.run(main())
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "lc_pack").mkdir(parents=True)
    (folder / "lc_helper.py").write_text("def double(x):\n    return 2 * x\n")
    (folder / "lc_pack" / "__init__.py").write_text("from lc_pack.core import Point, point, run\n")
    (folder / "lc_pack" / "late.py").write_text("def bonus():\n    return 100\n")
    (folder / "lc_pack" / "core.py").write_text(
        "import lc_helper\n"
        "class LcError(Exception):\n    pass\n"
        "class Point:\n    def __init__(self, x):\n        self.x = x\n"
        "def point(x):\n    return Point(x)\n"
        "def run(x):\n"
        "    from lc_pack.late import bonus\n"
        "    if x == 7:\n        raise LcError('seven')\n"
        "    return lc_helper.double(x) + bonus()\n"
    )
    (folder / "main.py").write_text(SCRIPT)
    return folder


def emulated(project: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the project's script against a function whose image holds fanout and nothing else."""
    image = project.parent / "image"
    image.mkdir(exist_ok=True)
    (image / "fanout").symlink_to(ROOT / "fanout")
    fanout_cli = Path(sys.executable).parent / "fanout"
    paths = ["--path", str(image)]
    return subprocess.run(
        [fanout_cli, "emulate", *paths, *options, "--", sys.executable, "main.py"],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_modules_that_the_image_lacks_go_along_and_so_do_their_changes(project: Path) -> None:
    done = emulated(project)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "[100, 102, 104]",
        "caught seven",
        "True 1",
        "[21]",
        "[100, 103, 106]",
    ]


@contextlib.asynccontextmanager
async def reference_only(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[fanout.Executor]:
    async with Emulator(
        concurrency=2, environment={"FANOUT_CODE": "reference-only"}, path=[ROOT]
    ) as emulator:
        for name, value in emulator.variables.items():
            monkeypatch.setenv(name, value)
        async with fanout.Executor() as ex:
            yield ex


async def test_an_image_may_forbid_all_code_but_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "lc_only_here.py").write_text("def kernel(x):\n    return x\n")
    monkeypatch.syspath_prepend(tmp_path)
    import lc_only_here  # type: ignore[import-not-found]

    del sys.modules["lc_only_here"]
    monkeypatch.setitem(sys.modules, "lc_only_here", lc_only_here)

    class Odd:
        def __reduce__(self) -> Any:
            return print, ("this must not run",)

    async with reference_only(monkeypatch) as ex:
        assert await ex.map(abs, [-1, -2]) == [1, 2]
        with pytest.raises(KernelLoadError, match=r"travels by value.*FANOUT_CODE=reference-only"):
            await ex.map(eval("lambda x: x", {}), [1])
        with pytest.raises(KernelLoadError, match=r"lc_only_here.*FANOUT_CODE=reference-only"):
            await ex.map(lc_only_here.kernel, [1])
        with pytest.raises(ChunkError, match="pickle"):
            await ex.map(repr, [Odd()])
