"""The user's own modules: found, compared, bundled, put elsewhere, exchanged."""

from __future__ import annotations

import importlib
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.code_install import Installation
from fanout.errors import DecodeError, KernelNotUsableError
from fanout.kernel_roots import roots_of
from fanout.project import bundled, digest_of, find, needed_by, unbundled

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAIN = """
import pj_helper

def run(x):
    from pj_pack.late import bonus
    return pj_helper.double(x) + bonus()
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project that is not installed: two modules, and a package."""
    folder = tmp_path / "project"
    (folder / "pj_pack" / "deep").mkdir(parents=True)
    (folder / "pj_main.py").write_text(MAIN)
    (folder / "pj_helper.py").write_text("import json, numpy\ndef double(x):\n    return 2 * x\n")
    (folder / "pj_unrelated.py").write_text("")
    (folder / "pj_pack" / "__init__.py").write_text("")
    (folder / "pj_pack" / "late.py").write_text("def bonus():\n    return 100\n")
    (folder / "pj_pack" / "deep" / "data.txt").write_text("no code")
    (folder / "pj_pack" / "deep" / "more.py").write_text("from . import nothing\n")
    monkeypatch.syspath_prepend(folder)
    yield folder
    for name in [name for name in sys.modules if name.startswith("pj_")]:
        del sys.modules[name]


# ---- finding ----


def test_a_kernels_module_brings_what_it_imports_however_late(project: Path) -> None:
    tops = needed_by(["pj_main"])
    assert [top.name for top in tops] == ["pj_helper", "pj_main", "pj_pack"]
    assert sorted(tops[2].files) == [
        "pj_pack/__init__.py",
        "pj_pack/deep/more.py",
        "pj_pack/late.py",
    ]
    assert tops[0].files["pj_helper.py"] == (project / "pj_helper.py").read_bytes()


def test_a_submodule_stands_for_its_package(project: Path) -> None:
    assert [top.name for top in needed_by(["pj_pack.deep.more"])] == ["pj_pack"]


@pytest.mark.parametrize(
    "name", ["json", "numpy", "numba.core", "fanout.kernels", "builtins", "__main__", "no_such", ""]
)
def test_what_is_installed_is_nobodys_project(name: str) -> None:
    assert needed_by([name]) == []


def test_a_file_that_is_no_python_here_is_sent_all_the_same(project: Path) -> None:
    (project / "pj_pack" / "template.py").write_text("def {{ name }}(): pass")
    (top,) = needed_by(["pj_pack"])
    assert "pj_pack/template.py" in top.files


def test_a_change_of_any_file_changes_the_digest(project: Path) -> None:
    before = find("pj_pack")
    (project / "pj_pack" / "late.py").write_text("def bonus():\n    return 101\n")
    after = find("pj_pack")
    assert before is not None
    assert after is not None
    assert before.digest != after.digest


def test_a_package_that_is_too_large_to_be_code_is_refused_with_a_hint(project: Path) -> None:
    (project / "pj_pack" / "huge.py").write_bytes(b"#" * (16 * 2**20 + 1))
    with pytest.raises(KernelNotUsableError, match="install it in the worker's image"):
        needed_by(["pj_main"])


@given(st.dictionaries(st.text("abc/", min_size=1), st.binary(max_size=50), max_size=4))
def test_a_bundle_gives_back_the_files(files: dict[str, bytes]) -> None:
    assert unbundled(bundled(files)) == files
    assert bundled(files) == bundled(dict(reversed(files.items())))


@given(st.binary(max_size=100), st.integers(0, 200), st.integers(0, 255))
def test_a_damaged_bundle_is_an_error_of_ours(data: bytes, at: int, value: int) -> None:
    for damaged in (data, bytes(_changed(bundled({"a.py": b"x" * 50}), at, value))):
        files: dict[str, bytes] = {}
        said = "damaged"
        try:
            files = unbundled(damaged)
        except DecodeError as error:
            said = str(error)
        assert "damaged" in said or "larger than code" in said
        # An archive may have bytes that nobody reads.
        assert set(files) <= {"a.py"} or set(map(len, files.values())) <= {50}


def _changed(data: bytes, at: int, value: int) -> bytearray:
    changed = bytearray(data)
    changed[at % len(changed)] = value
    return changed


# ---- where to begin ----


def local_kernel(module: Any) -> Any:
    def kernel(x: int) -> int:
        import pj_unrelated  # type: ignore[import-not-found]  # noqa: F401

        return int(module.double(x))

    return kernel


def test_a_kernel_by_value_refers_to_what_it_captures_and_imports(project: Path) -> None:
    helper = importlib.import_module("pj_helper")
    assert {"pj_helper", "pj_unrelated"} <= roots_of([local_kernel(helper)])
    assert {"pj_helper"} <= roots_of([lambda x: helper.double(x) + 1])


def test_a_bound_argument_brings_its_class(project: Path) -> None:
    (project / "pj_class.py").write_text("class Model:\n    pass\n")
    model = importlib.import_module("pj_class").Model
    assert "pj_class" in roots_of([[model()]])
    assert "pj_class" in roots_of([{"m": model}])


def test_looking_for_roots_ends_in_circles() -> None:
    circle: list[Any] = []
    circle.append(circle)
    assert roots_of([circle]) >= {"builtins"}


# ---- at the far end ----

FAR = """
import sys, json
from pathlib import Path
from fanout.code_install import Installation
from fanout.project import needed_by
here = Installation(Path(sys.argv[1]))
def version(number):
    a, b = f"import fx_b\\nvalue = {number}", f"value = {number}"
    return {"fx_a.py": a.encode()}, {"fx_b.py": b.encode()}
"""


def far(tmp_path: Path, script: str) -> list[str]:
    """What a script prints that runs in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", FAR + script, str(tmp_path / "code")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_what_is_lacking_is_named_and_then_found(tmp_path: Path) -> None:
    script = """
from fanout.project import digest_of
a, b = version(1)
wanted = {"fx_a": digest_of(a), "fx_b": digest_of(b)}
print(here.lacking(wanted))
here.install("fx_a", digest_of(a), a); here.install("fx_b", digest_of(b), b)
print(here.lacking(wanted))
import fx_a
print(fx_a.value, fx_a.fx_b.value)
"""
    assert far(tmp_path, script) == ["['fx_a', 'fx_b']", "[]", "1 1"]


def test_another_version_takes_the_place_of_the_one_before_and_back(tmp_path: Path) -> None:
    """Also in a module that had imported it, and is itself the same."""
    script = """
from fanout.project import digest_of
a, b1 = version(1); _, b2 = version(2)
for b in (b1, b2, b1):
    wanted = {"fx_a": digest_of(a), "fx_b": digest_of(b)}
    for name in here.lacking(wanted):
        here.install(name, wanted[name], {"fx_a": a, "fx_b": b}[name])
    import fx_a
    print(fx_a.fx_b.value, here.switches)
"""
    assert far(tmp_path, script) == ["1 0", "2 1", "1 2"]


def test_what_the_image_has_is_used_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "fx_a.py").write_text("import fx_b\nvalue = 1")
    (tmp_path / "fx_b.py").write_text("value = 1")
    script = """
from fanout.project import digest_of
sys.path.insert(0, "")
a, b = version(1)
print(here.lacking({"fx_a": digest_of(a), "fx_b": digest_of(b)}))
import fx_a
print(Path(fx_a.__file__).parent == Path.cwd())
"""
    assert far(tmp_path, script) == ["[]", "True"]


def test_an_older_version_in_the_image_is_covered(tmp_path: Path) -> None:
    (tmp_path / "fx_b.py").write_text("value = 0")
    script = """
from fanout.project import digest_of
sys.path.insert(0, "")
import fx_b
a, b = version(2)
print(here.lacking({"fx_b": digest_of(b)}))
here.install("fx_b", digest_of(b), b)
import fx_b
print(fx_b.value)
"""
    assert far(tmp_path, script) == ["['fx_b']", "2"]


def test_a_second_worker_of_the_machine_finds_what_the_first_was_sent(tmp_path: Path) -> None:
    files = {"fx_c.py": b"value = 3"}
    Installation(tmp_path).install("fx_c_nobody", digest_of(files), files)
    assert Installation(tmp_path).lacking({"fx_c_nobody": digest_of(files)}) == []
    sys.path[:] = [entry for entry in sys.path if str(tmp_path) not in entry]


def test_files_that_are_not_those_announced_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match="sha256"):
        Installation(tmp_path).install("fx_d", "0" * 64, {"fx_d.py": b""})


@pytest.mark.parametrize("path", ["../evil.py", "/evil.py", "a/../../evil.py"])
def test_a_file_that_leads_out_of_its_folder_is_refused(path: str, tmp_path: Path) -> None:
    files = {path: b""}
    with pytest.raises(DecodeError, match="leads out"):
        Installation(tmp_path / "code").install("fx_e", digest_of(files), files)
    assert not list(tmp_path.rglob("evil.py"))


def test_a_worker_that_runs_its_own_code_only_takes_none_that_another_was_sent(
    tmp_path: Path,
) -> None:
    files = {"fx_f.py": b"value = 3"}
    wanted = {"fx_f_nobody": digest_of(files)}
    Installation(tmp_path).install("fx_f_nobody", digest_of(files), files)
    assert Installation(tmp_path, is_closed=True).lacking(wanted) == ["fx_f_nobody"]
    sys.path[:] = [entry for entry in sys.path if str(tmp_path) not in entry]
