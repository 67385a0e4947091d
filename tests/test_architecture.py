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
    # The emulator, the pure part of it: of the rest it knows the errors only.
    {"emulator.quotas", "emulator.http_messages"},
    {"emulator.limits", "emulator.function", "emulator.ends", "emulator.log"},
    {"emulator.faults", "emulator.responses", "emulator.signature", "emulator.tally"},
    {"refs", "sigv4"},
    {"tasks", "retry", "events", "grouping", "throttle", "task_queue", "supply"}
    | {"capacity", "learnt_limit", "token_bucket"}
    | {"attempts", "flight", "task_failures", "scheduler"}
    | {"spread", "watch", "hedge_policy", "lateness"}
    | {"budget", "hard_stops", "hedging", "storm", "guards", "delivery"},
    {"lambda_figures", "causes"},
    {"fleet", "simulator", "diagnosis", "past_run", "paces"},
    {"fitting"},
    {"codec.parts"},
    {"codec.pickling"},
    {"codec.encoding", "codec.decoding"},
    {"codec"},
    {"kernel_roots", "project"},
    {"wire", "kernel_spec", "spilled", "remote_errors"},
    {"request", "reply"},
    {"packing", "invoke.signing", "invoke.answers", "invoke.report_line"},
    {"lambda_wire", "backends.answer_form"},
    {"config", "options", "aws"},
    {"stopping", "printing", "failure_report", "compiling"},
    {"far_stores.checks", "far_stores.s3_signing"},
    {"far_stores.directory", "far_stores.s3_answers"},
    {"far_stores.cache", "far_stores.s3_settings"},
    {"far_stores.s3_http", "far_stores.s3_download"},
    {"far_stores.s3"},
    {"far_stores"},
    {"task_run", "code_install", "stored_chunks", "stored_reading"},
    {"worker"},
    {"worker_process", "handler"},
    {"invoke.http1"},
    {"invoke.pool"},
    {"invoke.target"},
    {"invoke.invoker"},
    {"invoke"},
    {"backends", "backends.local", "backends.local_process", "backends.aws_lambda"}
    | {"backends.shipping", "backends.lambda_function", "backends.lambda_messages"}
    | {"backends.lambda_invocations", "backends.lambda_billing"},
    {"backends.chosen", "backends.sharing"},
    {"stores.keys", "stores.s3_errors", "stores.s3_bodies", "stores.run_costs"},
    {"stores.s3_client"},
    {"stores.s3_parts"},
    {"stores.directory", "stores.s3", "stores.run_objects"},
    {"stores"},
    {"intake", "stored_input", "interrupts"},
    {"journal.schema", "journal.writer", "journal.sameness", "journal.about", "journal.room"},
    {"journal.folder", "journal.values", "journal.spending", "journal.facts"},
    {"journal.recipe", "journal.past", "journal.knowledge"},
    {"journal.session", "journal.costs"},
    {"journal.objects"},
    {"journal.uploads", "journal.downloads"},
    {"journal.recall", "journal.large_results", "journal.removal"},
    {"journal.run_journal"},
    {"journal.opening"},
    {"journal"},
    {"accounts"},
    {"carrier"},
    {"engine", "outcomes"},
    {"findings"},
    {"large_objects", "run_setup"},
    {"executor"},
    {"api", "sync"},
    {"tally"},
    {"layout"},
    {"picture", "progress"},
    # The emulator, its shell: beside all of the above, which knows nothing of it.
    {"emulator.boot", "emulator.http_server", "emulator.memory", "emulator.starts"},
    {"emulator.process", "emulator.runtime_api"},
    {"emulator.reporter"},
    {"emulator.environment"},
    {"emulator.pool", "emulator.faulty"},
    {"emulator.api"},
    {"emulator.service"},
    {"emulator"},
    {"cli", "cli.completion", "cli.cost", "cli.emulate", "cli.mandelbrot", "cli.map"}
    | {"cli.resume", "cli.runs", "cli.simulate", "cli.simulate_like", "cli.simulated"},
    {"__main__"},
]
# Where a run is set up it reaches up, at the moment of use: progress is shown unless told not to.
UPWARDS = {("run_setup", "progress")}
PURE = set().union(*LAYERS[:18]) | {"printing", "failure_report"}
# Asking a clock, a generator or the system is not pure; neither is an event loop.
IMPURE = {"asyncio", "anyio", "random", "secrets", "socket", "subprocess", "threading", "time"}

# `fanout.cost`, from the bottom up: its pure part knows nothing of fanout but the errors.
COST_PURE = [
    {"money", "items"},
    {"book"},
    {"book_file"},
    {"price_list.rows", "price_list.ec2"},
    {"price_list.csv_file", "price_list.json_file", "price_list.matching"},
    {"price_list"},
    {"run_usage"},
    {"bill_text", "ledger"},
    {"bill"},
    {"renewal"},
    {"verify"},
    {"workload", "list_scheduling", "wording"},
    {"machines", "usage"},
    {"functions"},
    {"tuning"},
    {"places", "prediction"},
    {"fleets"},
    {"lambda_runs"},
    {"break_even"},
    {"advice"},
    {"estimate"},
    {"tables"},
]
COST_SHELL = [
    {"books", "download", "query"},
    {"pricing"},
    {"loops"},
    {"calibration", "probe", "plots"},
    {"remote_probe"},
    {"measuring"},
    {"refresh"},
    {"commands", "commands.options", "commands.asking", "commands.counts"},
    {"commands.probing"},
    {"commands.workload_options"},
    {"commands.prices", "commands.prices_refresh", "commands.prices_show"}
    | {"commands.prices_verify"}
    | {"commands.explain", "commands.breakeven", "commands.compare", "commands.estimate"}
    | {"commands.tune"},
    {"__main__"},
]
# Its pure part knows the simulator, the records and events of runs, and what an attempt may cost.
COST_KNOWS = {
    "errors",
    "simulator",
    "fleet",
    "lambda_figures",
    "budget",
    "events",
    "retry",
    "tasks",
}
# What the shell takes of the rest of fanout: the user's folder, a client of AWS, the command line.
COST_TAKES = {"errors", "_version", "journal.folder", "aws", "cli", "cli.cost"} | {
    *("journal", "journal.costs"),
    *("cli.map", "sync", "backends.local"),  # a probe runs a kernel here,
    *("config", "options", "backends.aws_lambda", "executor", "emulator"),  # or on functions
}


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


def test_the_emulator_shares_nothing_with_the_client_but_errors() -> None:
    for module, path in modules().items():
        names = {name for name in imports(path, for_types=True) if name.startswith("fanout")}
        of_emulator = {name for name in names if name.startswith("fanout.emulator")}
        if module.startswith("emulator"):
            others = {name for name in names - of_emulator if name != "fanout"}
            assert all(name.startswith("fanout.errors") for name in others), module
        elif module != "cli.emulate":
            assert not of_emulator, module


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


def cost_modules() -> dict[str, Path]:
    found = {}
    for path in sorted((ROOT / "cost").rglob("*.py")):
        parts = path.relative_to(ROOT / "cost").with_suffix("").parts
        if name := ".".join(parts[:-1] if parts[-1] == "__init__" else parts):
            found[name] = path
    return found


def test_every_module_of_cost_has_a_layer() -> None:
    assert set(cost_modules()) == set().union(*COST_PURE, *COST_SHELL)


@pytest.mark.parametrize("module", sorted(cost_modules()))
def test_cost_imports_point_down_and_its_pure_part_does_nothing(module: str) -> None:
    layers = [*COST_PURE, *COST_SHELL]
    level = next(level for level, names in enumerate(layers) if module in names)
    names = imports(cost_modules()[module], for_types=False)
    for name in names:
        target = name.removeprefix("fanout.cost.")
        if target != name and target in cost_modules():
            above = [other for other in layers[level + 1 :] if target in other]
            assert not above, f"{module} imports {target}, which is above it"
    others = {
        other
        for name in names
        for other in [name.removeprefix("fanout.")]
        if other != name and other in modules()
    }
    is_pure = any(module in layer for layer in COST_PURE)
    assert others <= (COST_KNOWS if is_pure else COST_KNOWS | COST_TAKES)
    assert not is_pure or not {name.split(".")[0] for name in names} & IMPURE


def test_import_fanout_loads_nothing_of_it() -> None:
    code = "import sys, fanout; print(*sorted(m for m in sys.modules if m.startswith('fanout')))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.split() == ["fanout", "fanout._version"]


def test_the_public_names_are_these() -> None:
    assert fanout.__all__ == [
        "Bill",
        "Block",
        "Executor",
        "Lambda",
        "Local",
        "MapOptions",
        "Outcome",
        "OutcomeStream",
        "RateLimit",
        "Ref",
        "RetryPolicy",
        "Run",
        "StoredObject",
        "__version__",
        "blocks",
        "emulator",
        "errors",
        "events",
        "map",
        "objects",
        "resume",
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
