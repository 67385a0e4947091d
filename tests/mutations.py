"""Which tests notice which mistakes: seeded bugs in what decides about a run.

    python tests/mutations.py [PART_OF_A_NAME ...]

Each mutant (`mutants.txt`) is one change of the text of one file, made in a copy of the package;
the tests run against the copy, until one fails. The table names that one. What survives is either
a test to be written, or no bug: then `SURVIVORS` says why. A mutant whose text no longer occurs, or
more than once, is an error: `test_mutations.py` holds that.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parent.parent
# The pure ones, the quick ones first.
TESTS: Final = (
    "scheduler_turns",
    "flight",
    "attempts",
    "budget",
    "max_usd",
    "capacity",
    "grouping",
    "hard_stops",
    "retry",
    "storm",
    "throttle",
    "task_queue",
    "scheduler_recalled",
    "scheduler",
    "scheduler_refusals",
    "scheduler_runs",
    "scheduler_fleet",
    "lateness",
    "hedging",
    "hedging_laws",
    "hedging_runs",
    "capacity_laws",
    "scheduler_laws_lambda",
    "scheduler_laws",
    "task_failures",
    "scheduler_guards",
    "simulator",
)
_PATIENCE_S: Final = 240.0


class Mutant(NamedTuple):
    """A bug: what it does, and the change that makes it."""

    name: str
    file: str
    old: str
    new: str

    @property
    def places(self) -> int:
        """How often its text occurs; once, if it is up to date."""
        return (ROOT / "fanout" / self.file).read_text().count(self.old)


def _read(text: str) -> list[Mutant]:
    mutants = []
    for part in text.split("\n\n")[1:]:
        title, *lines = part.strip("\n").split("\n")
        file, name = title.split(": ", 1)
        old, new = ("\n".join(x[1:] for x in lines if x[0] == sign) for sign in "-+")
        mutants.append(Mutant(name, file, old, new))
    return mutants


MUTANTS: Final = _read((Path(__file__).parent / "mutants.txt").read_text())
# No bugs, though nothing fails: and why.
SURVIVORS: Final[dict[str, str]] = {}


def first_failure(mutant: Mutant | None) -> str:
    """The test that fails with this mutant; empty if none does."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("fanout", "kernels", "cost", "deploy_image", "tests"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignored)
        for name in ("pyproject.toml", "README.md"):
            shutil.copy(ROOT / name, copy)
        for path in (copy / "tests").glob("test_*laws*.py"):  # the least example is of no interest
            text = re.sub(r"phases=.*", "phases=[Phase.generate],", path.read_text())
            path.write_text(text)
        if mutant is not None:
            path = copy / "fanout" / mutant.file
            path.write_text(path.read_text().replace(mutant.old, mutant.new))
        return _failing(copy)


def _failing(copy: Path) -> str:
    tests = [f"tests/test_{name}.py" for name in TESTS]
    options = ["-x", "-q", "-rfE", "-p", "no:cacheprovider", "--hypothesis-seed=0"]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, *tests],
            cwd=copy,
            env={**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "a test that hangs"
    if done.returncode == 0:
        return ""
    found = re.search(r"^(?:FAILED|ERROR) tests/(\S+)", done.stdout, re.MULTILINE)
    if found is None:
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
    return found[1]


def main(words: list[str]) -> int:
    """Try the mutants whose names contain one of these words, or all; 1 if one survives."""
    if failing := first_failure(None):
        print(f"{failing} fails without any mutant")
        return 1
    survivors = 0
    for mutant in MUTANTS:
        if words and not any(word in mutant.name for word in words):
            continue
        caught_by = first_failure(mutant)
        if not caught_by:
            survivors += mutant.name not in SURVIVORS
            caught_by = f"SURVIVES: {SURVIVORS.get(mutant.name, 'a test is missing')}"
        print(f"{mutant.file:<18} {mutant.name:<52} {caught_by}", flush=True)
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
