"""What the documents show is what happens: README's blocks and the examples are run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    """README's code blocks in a language."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return [code for found, code in BLOCK.findall(text) if found == language]


def run(command: list[str], cwd: Path, **options: object) -> str:
    """What a command prints on stdout; it has to succeed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        cwd=cwd,
        env={**os.environ, "PATH": path},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_readme_has_no_block_that_no_test_knows() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert {language for language, _ in BLOCK.findall(text)} == {"python", "console"}
    commands = [
        line for code in blocks("console") for line in code.splitlines() if line[:2] == "$ "
    ]
    assert commands == [
        "$ make demo",  # test_make_demo_and_demo_lambda_render_the_same_picture
        "$ make demo-lambda",  # test_make_demo_and_demo_lambda_render_the_same_picture
        "$ pip install .",  # tests/test_packaging.py installs the wheel
        # test_readme_lambda_commands_render_a_picture
        "$ FANOUT_BACKEND=lambda FANOUT_FUNCTION=fanout-worker fanout mandelbrot --out set.png",
        "$ fanout emulate --fault throttle=0.05 --fault reset_after=0.05 -- "
        "fanout mandelbrot --out set.png",
        "$ seq 5 | fanout map math:factorial --chunks -",  # test_readme_shell_blocks…
        # test_readme_estimates_what_a_run_costs
        "$ fanout cost estimate --tasks 1000 --seconds 12 --runs 30/month",
        "$ fanout simulate --tasks 10000 --mean-s 2 --concurrency 1000",  # test_readme_simulates…
    ]


def test_readme_estimates_what_a_run_costs(tmp_path: Path) -> None:
    (command,) = (code for code in blocks("console") if "fanout cost estimate" in code)
    told = run(["sh", "-c", command.strip().removeprefix("$ ")], tmp_path)
    for word in ("this machine", "Lambda 1,769 MB", "spot", "Fargate", "runs a day", "assumed"):
        assert word in told


def test_readme_simulates_a_map(tmp_path: Path) -> None:
    (command,) = (code for code in blocks("console") if "fanout simulate" in code)
    told = run(["sh", "-c", command.strip().removeprefix("$ ")], tmp_path)
    assert "makespan" in told
    assert "assumed, not measured on AWS" in told


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.split("\n", 3)[2][:30])
def test_readme_python_blocks_run_as_scripts(code: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(code, encoding="utf-8")
    on_lambda = ["fanout", "emulate", "--"] if "fanout.Lambda(" in code else []
    printed = run([*on_lambda, sys.executable, str(script)], tmp_path)
    promised = re.findall(r"print\(.*\)  # (.+)$", code, re.MULTILINE)
    for text in promised:
        assert text in printed


def test_readme_shell_blocks_print_what_they_show(tmp_path: Path) -> None:
    checked = 0
    for code in blocks("console"):
        command, *shown = code.splitlines()
        if any(line[:2] != "$ " for line in shown):
            printed = run(["bash", "-c", command.removeprefix("$ ")], tmp_path)
            assert printed.splitlines() == shown
            checked += 1
    assert checked == 1


def recipe(target: str) -> list[str]:
    """The command with which a target of the Makefile renders; a fresh `.venv` is what CI makes."""
    lines = run(["make", "--dry-run", target], ROOT).splitlines()
    (line,) = (line for line in lines if "fanout mandelbrot" in line)
    return shlex.split(line.replace(".venv/bin/", ""))


def test_make_demo_and_demo_lambda_render_the_same_picture(tmp_path: Path) -> None:
    printed = run(recipe("demo"), tmp_path)
    for word in ("backend", "tasks", "attempts", "makespan", "kernel", "speed-up"):
        assert word in printed
    assert "local, " in printed
    assert "lambda, fanout-worker in us-east-1" in run(recipe("demo-lambda"), tmp_path)
    picture = (tmp_path / "mandelbrot.png").read_bytes()
    assert len(picture) > 100_000
    assert (tmp_path / "mandelbrot-lambda.png").read_bytes() == picture


def test_readme_lambda_commands_render_a_picture(tmp_path: Path) -> None:
    commands = [line[2:] for code in blocks("console") for line in code.splitlines()]
    by_settings, emulated = (line for line in commands if line.endswith("--out set.png"))
    for command in (f"fanout emulate -- env {by_settings}", emulated):
        run(["bash", "-c", command.replace("mandelbrot", "mandelbrot --size 300")], tmp_path)
        picture = tmp_path / "set.png"
        assert picture.read_bytes().startswith(b"\x89PNG")
        picture.unlink()


@pytest.mark.parametrize(
    ("script", "arguments", "shows"),
    [
        ("pi.py", ["20"], "pi = 3.14"),
        ("sweep.py", [], "8 of 20 points did not settle"),
        ("first_hit.py", ["4"], "sha256(88484) = 0000a456"),
        ("word_count.py", [], "157,601 the"),
    ],
)
def test_examples_run(script: str, arguments: list[str], shows: str, tmp_path: Path) -> None:
    printed = run([sys.executable, str(ROOT / "examples" / script), *arguments], tmp_path)
    assert shows in printed


def test_every_example_is_run() -> None:
    names = {path.name for path in (ROOT / "examples").glob("*.py")}
    assert names == {"pi.py", "sweep.py", "first_hit.py", "word_count.py"}


def test_links_between_the_documents_lead_somewhere() -> None:
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)", document.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name} links to {target}"
