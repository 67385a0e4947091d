"""The shape of the house: which module may import which, and what is public."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fanout

ROOT = Path(__file__).parent.parent

# From the bottom up: a module imports from its own layer and those below it.
LAYERS = [
    {"_version", "errors"},
    {"tasks", "retry", "events", "grouping", "scheduler"},
    {"codec.parts"},
    {"codec.pickling"},
    {"codec.encoding", "codec.decoding"},
    {"codec"},
    {"wire", "kernel_spec", "envelope"},
    {"config", "options"},
    {"worker"},
    {"worker_process"},
    {"backends", "backends.local", "backends.local_process"},
    {"intake"},
    {"engine", "outcomes"},
    {"executor"},
    {"api", "sync"},
    {"tally"},
    {"layout"},
    {"picture", "progress"},
    {"cli", "cli.completion", "cli.mandelbrot", "cli.map"},
    {"__main__"},
]
# Where the executor reaches up, at the moment of use: it shows progress unless told not to.
UPWARDS = {("executor", "progress")}
PURE = set().union(*LAYERS[:7])
# Asking a clock, a generator or the system is not pure; neither is an event loop.
IMPURE = {"asyncio", "anyio", "random", "secrets", "socket", "subprocess", "threading", "time"}


def modules() -> dict[str, Path]:
    """All modules of the package but the three top-level folders, by name."""
    found = {}
    for path in sorted((ROOT / "fanout").rglob("*.py")):
        parts = path.relative_to(ROOT / "fanout").with_suffix("").parts
        if parts[0] in {"kernels", "cost", "deploy_image"}:
            continue
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name:
            found[name] = path
    return found


def imports(path: Path, *, for_types: bool) -> set[str]:
    """Full names of what a file imports, inside functions, too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and not for_types:
            for inner in node.body:
                skipped.update(ast.walk(inner))
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update({node.module, *(f"{node.module}.{alias.name}" for alias in node.names)})
    return found


def layer(module: str) -> int:
    return next(level for level, names in enumerate(LAYERS) if module in names)


def test_every_module_has_a_layer() -> None:
    assert set(modules()) == set().union(*LAYERS)


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_point_down(module: str) -> None:
    for name in imports(modules()[module], for_types=False):
        target = name.removeprefix("fanout.")
        if target == name or target not in modules() or (module, target) in UPWARDS:
            continue
        assert layer(target) <= layer(module), f"{module} imports {target}, which is above it"


@pytest.mark.parametrize("module", sorted(PURE))
def test_pure_modules_ask_no_clock_and_run_nothing(module: str) -> None:
    roots = {name.split(".")[0] for name in imports(modules()[module], for_types=False)}
    if module == "codec.pickling":
        roots.discard("threading")  # a lock around cloudpickle's registry, which is global
    assert not roots & IMPURE


def test_only_progress_knows_rich() -> None:
    for module, path in modules().items():
        roots = {name.split(".")[0] for name in imports(path, for_types=True)}
        assert "rich" not in roots or module == "progress"


def test_kernels_import_numpy_and_numba_only() -> None:
    allowed = {*sys.stdlib_module_names, "numpy", "numba"}
    for path in (ROOT / "kernels").glob("*.py"):
        roots = {name.split(".")[0] for name in imports(path, for_types=False)}
        assert roots <= allowed, path


def test_import_fanout_loads_nothing_of_it() -> None:
    code = "import sys, fanout; print(*sorted(m for m in sys.modules if m.startswith('fanout')))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.split() == ["fanout", "fanout._version"]


def test_the_public_names_are_these() -> None:
    assert fanout.__all__ == [
        "Executor",
        "Local",
        "MapOptions",
        "Outcome",
        "OutcomeStream",
        "RetryPolicy",
        "Run",
        "__version__",
        "errors",
        "events",
        "map",
        "run",
        "starmap",
        "stream",
        "sync",
    ]
    for name in fanout.__all__:
        assert getattr(fanout, name) is not None
    assert dir(fanout) == fanout.__all__
    with pytest.raises(AttributeError, match="no attribute 'maps'"):
        getattr(fanout, "maps")  # noqa: B009
