"""What is built is what is in the tree, and each module exists once under one name.

The builds run in copies, so that no build folder or metadata is left in the checkout.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
FOLDERS = {  # of the tree, and where they are in the package
    "fanout": "fanout",
    "cost": "fanout/cost",
    "deploy_image": "fanout/deploy_image",
    "kernels": "fanout/kernels",
}
LINKED = [name for name in FOLDERS if name != "fanout"]
LITTER = shutil.ignore_patterns("__pycache__", "*.pyc", "*.nbi", "*.nbc", "*.egg-info")


def run(
    *arguments: str | Path, cwd: Path, path: Path | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run this Python with `path` as PYTHONPATH; pip must not ask an index."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    offline = {"PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=inherited | offline | ({"PYTHONPATH": str(path)} if path else {}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 or not check, done.stdout + done.stderr
    return done


def copied(folder: Path) -> Path:
    """A copy of what a build reads, and of the tests, which it must not take."""
    folder.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(CHECKOUT / name, folder)
    for name in (*FOLDERS, "tests"):
        shutil.copytree(CHECKOUT / name, folder / name, symlinks=True, ignore=LITTER)
    return folder


def tree(folder: Path) -> list[str]:
    """Paths in the package of all files in the tree; links are not followed."""
    return sorted(
        f"{inside}/{path.relative_to(folder / name).as_posix()}"
        for name, inside in FOLDERS.items()
        for path in (folder / name).rglob("*")
        if path.is_file() and not LITTER("", list(path.parts))
    )


def packaged(wheel: Path) -> list[str]:
    """Files in a wheel without its metadata, as often as they occur."""
    with zipfile.ZipFile(wheel) as archive:
        return sorted(name for name in archive.namelist() if ".dist-info/" not in name)


def only(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


def build(what: str, source: Path, into: Path) -> str:
    """Call the build backend as pip does; return what it said."""
    into.mkdir(exist_ok=True)
    code = f"import sys; from setuptools import build_meta; build_meta.build_{what}(sys.argv[1])"
    done = run("-c", code, into, cwd=source)
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied(tmp_path_factory.mktemp("source") / "checkout")


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built by pip from the tree."""
    folder = tmp_path_factory.mktemp("wheel")
    tree = shutil.copytree(source, folder / "source", symlinks=True)
    run("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", folder, tree, cwd=folder)
    return only(folder, "*.whl")


@pytest.fixture(scope="module")
def sdist(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    tree = shutil.copytree(source, folder / "source", symlinks=True)
    said = build("sdist", tree, folder)
    assert "DeprecationWarning" not in said, said
    return only(folder, "*.tar.gz")


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    arguments = ("--no-deps", "--no-compile", "--target", folder, wheel)
    run("-m", "pip", "install", *arguments, cwd=folder)
    return folder


# ---- what is built ----


def test_wheel_holds_each_file_of_the_tree_once_and_nothing_else(wheel: Path, source: Path) -> None:
    files = packaged(wheel)

    assert Counter(files) == Counter(tree(source))
    assert {"fanout/py.typed", "fanout/cost/__init__.py"} <= set(files)
    assert {"fanout/cost/prices/us-east-1.json", "fanout/cost/prices/README.md"} <= set(files)
    assert "fanout/kernels/mandelbrot.py" in files


def test_wheel_has_one_top_level_name_and_the_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = {
            name.partition(".dist-info/")[2]: archive.read(name).decode()
            for name in archive.namelist()
            if ".dist-info/" in name
        }

    assert metadata["licenses/LICENSE"] == (CHECKOUT / "LICENSE").read_text(encoding="utf-8")
    assert metadata["top_level.txt"].split() == ["fanout"]
    assert "Name: fanout-lambda\n" in metadata["METADATA"]
    assert "Root-Is-Purelib: true" in metadata["WHEEL"]


def test_sdist_holds_the_sources_and_no_tests(sdist: Path, source: Path) -> None:
    with tarfile.open(sdist) as archive:
        members = [member for member in archive.getmembers() if not member.isdir()]
    names = {member.name.partition("/")[2] for member in members}
    expected = {
        path.relative_to(source).as_posix()
        for name in FOLDERS
        for path in (source / name).rglob("*")
        if path.is_file()
    }

    assert all(member.isfile() for member in members)  # no links
    assert {name for name in names if name.startswith(tuple(f"{f}/" for f in FOLDERS))} == expected
    assert {"LICENSE", "README.md", "pyproject.toml"} <= names
    assert not [name for name in names if name.startswith("tests/")]


def test_wheel_built_from_the_sdist_is_the_same(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    shutil.unpack_archive(sdist, tmp_path, filter="data")
    build("wheel", only(tmp_path, "fanout_lambda-*"), tmp_path)
    rebuilt = only(tmp_path, "*.whl")

    assert rebuilt.name == wheel.name
    assert packaged(rebuilt) == packaged(wheel)


# ---- what is installed ----

_USE = """
import asyncio, sys
import fanout, fanout.cost, fanout.deploy_image
from fanout.kernels.mandelbrot import View, bands, rows
assert fanout.__file__.startswith(sys.argv[1]), fanout.__file__
assert rows.__code__.co_filename.startswith(sys.argv[1])
assert fanout.cost.book_of("us-east-1")["lambda.gb_s.arm64"].source
if __name__ == "__main__":
    chunks = bands(View.full(6, 6, max_iter=9), count=2)
    results = asyncio.run(fanout.map(rows, chunks, progress=False))
    assert [result.tolist() for result in results] == [rows(chunk).tolist() for chunk in chunks]
    print(fanout.__version__)
"""


def test_installed_wheel_works_from_another_folder(installed: Path, tmp_path: Path) -> None:
    done = run("-c", _USE, installed, cwd=tmp_path, path=installed)

    (version,) = done.stdout.split()
    assert (installed / f"fanout_lambda-{version}.dist-info").is_dir()


def test_installed_command_starts(installed: Path, tmp_path: Path) -> None:
    done = run(installed / "bin" / "fanout", "--help", cwd=tmp_path, path=installed)

    assert "fanout" in done.stdout


def test_installing_adds_no_other_name_to_import(installed: Path) -> None:
    names = {path.name for path in installed.iterdir() if path.suffix != ".dist-info"}

    assert names == {"fanout", "bin"}


# ---- the checkout ----


@pytest.mark.parametrize("name", LINKED)
def test_link_is_relative_and_points_to_the_top_level_folder(name: str) -> None:
    link = CHECKOUT / "fanout" / name

    assert link.is_symlink()
    assert link.readlink() == Path("..") / name
    assert link.resolve() == CHECKOUT / name
    assert (link / "__init__.py").is_file()


def test_there_are_no_other_links() -> None:
    links = {path.name for path in (CHECKOUT / "fanout").rglob("*") if path.is_symlink()}

    assert links == set(LINKED)


@pytest.mark.parametrize("name", LINKED)
def test_bare_import_says_which_name_to_use(name: str) -> None:
    done = run("-c", f"import {name}", cwd=CHECKOUT, check=False)

    assert done.returncode == 1
    (message,) = [line for line in done.stderr.splitlines() if line.startswith("ImportError: ")]
    assert f"this folder is the package fanout.{name}: import it by that name" in message
    assert f"(a bare `import {name}` would" in message


@pytest.mark.parametrize("arguments", [("-c", "import kernels.mandelbrot"), ("-m", "cost")])
def test_no_way_around_the_package_name_leads_inside(arguments: tuple[str, str]) -> None:
    done = run(*arguments, cwd=CHECKOUT, check=False)

    assert done.returncode == 1
    assert "this folder is the package fanout." in done.stderr


_ONE_MODULE = """
import importlib, os, sys
first = importlib.import_module("fanout.kernels.mandelbrot")
try:
    importlib.import_module("kernels.mandelbrot")
except ImportError:
    pass
sys.path.insert(0, sys.argv[1])
importlib.invalidate_caches()
assert importlib.import_module("fanout.kernels.mandelbrot") is first
real = os.path.realpath(first.__file__)
assert real == os.path.join(sys.argv[1], "kernels", "mandelbrot.py"), real
files = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
print(*[name for name, file in files.items() if file and os.path.realpath(file) == real])
"""


def is_installed_editable() -> bool:
    """Whether one of the records, which may include metadata in the checkout, says so."""
    records = importlib.metadata.distributions(name="fanout-lambda")
    origins = [json.loads(record.read_text("direct_url.json") or "{}") for record in records]
    return CHECKOUT.as_uri() in [origin.get("url") for origin in origins]


@pytest.mark.parametrize("way", ["in the checkout", "by PYTHONPATH", "as installed"])
def test_a_kernel_module_exists_once_however_it_is_reached(way: str, tmp_path: Path) -> None:
    if way == "as installed" and not is_installed_editable():
        pytest.skip("this checkout is not installed with `pip install -e`")
    cwd = CHECKOUT if way == "in the checkout" else tmp_path
    path = CHECKOUT if way == "by PYTHONPATH" else None

    done = run("-c", _ONE_MODULE, CHECKOUT, cwd=cwd, path=path)

    assert done.stdout.split() == ["fanout.kernels.mandelbrot"]


def test_a_kernel_module_can_be_run_by_its_package_name() -> None:
    assert run("-m", "fanout.kernels.mandelbrot", cwd=CHECKOUT).stderr == ""
