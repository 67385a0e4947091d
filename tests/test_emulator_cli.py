"""`fanout emulate`, run as users run it."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.emulator_checks import ROOT

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("awslambdaric") is None, reason="needs awslambdaric"
)
HANDLER = ("--handler", "shipped.handler")
CLIENT = """
import os, sys, boto3
client = boto3.client("lambda")
got = client.invoke(FunctionName=os.environ["FANOUT_FUNCTION"], Payload=b"[1]")
print(got["Payload"].read().decode())
sys.exit(5)
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with a handler in it."""
    (tmp_path / "shipped.py").write_text(
        "def handler(event, context):\n    print('hello from the function')\n    return event\n"
    )
    return tmp_path


def arguments(*given: str) -> list[str]:
    return [sys.executable, "-m", "fanout", "emulate", *given]


def emulate(*given: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    # One attempt: by itself botocore would try a throttled call five times.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "AWS_MAX_ATTEMPTS": "1"}
    return subprocess.run(
        arguments(*given),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=cwd,
        env=environment,
    )


def test_a_command_is_directed_to_the_emulator_and_its_code_is_passed_on(here: Path) -> None:
    done = emulate(*HANDLER, "--log", "--", sys.executable, "-c", CLIENT, cwd=here)
    assert (done.returncode, done.stdout) == (5, "[1]\n"), done.stderr
    assert "hello from the function\nEND RequestId" in done.stderr
    assert "fanout: the emulator has ended: 1 invocations, 1 cold starts" in done.stderr


def test_faults_are_injected_and_counted(here: Path) -> None:
    given = [*HANDLER, "--fault", "throttle=1", "--fault", "reason=CallerRateLimitExceeded"]
    done = emulate(*given, "--", sys.executable, "-c", CLIENT, cwd=here)
    assert done.returncode == 1
    assert "TooManyRequestsException" in done.stderr
    assert "0 invocations, 0 cold starts, " in done.stderr
    assert " x throttle" in done.stderr


def test_a_command_that_a_signal_ended_has_the_code_of_a_shell(here: Path) -> None:
    assert emulate(*HANDLER, "--", "sh", "-c", "kill -TERM $$", cwd=here).returncode == 128 + 15


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (("--", "no-such-command"), "'no-such-command' can't be run"),
        (("--fault", "oops=1"), "fault 'oops=1' must be NAME=VALUE"),
        (("--fault", "hang=2"), "hang=2.0 must be a probability"),
        (("--memory", "64"), "memory_mb=64 must be a whole number from 128"),
        (
            ("--concurrency", "16", "--reserved", "99"),
            "reserved=99 must be between 0 and the account's concurrency=16",
        ),
        (("--path", "/no/such"), "path='/no/such' must be a folder"),
    ],
)
def test_a_wrong_call_says_what_is_wrong(given: tuple[str, ...], text: str, here: Path) -> None:
    done = emulate(*given, cwd=here)
    assert (done.returncode, done.stdout) == (2, "")
    assert text in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_without_a_command_it_prints_the_variables_and_serves_until_it_is_ended(
    number: signal.Signals, here: Path
) -> None:
    with subprocess.Popen(
        arguments(*HANDLER, "--path", str(here)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as emulator:
        assert emulator.stdout is not None
        assert emulator.stderr is not None
        assert "serves until Ctrl-C; run the lines above" in emulator.stderr.readline()
        os.set_blocking(emulator.stdout.fileno(), False)
        script = emulator.stdout.read()
        assert "export FANOUT_BACKEND=lambda\n" in script
        shell = f'{script}\nexec "$0" -c "$1"'
        done = subprocess.run(
            ["sh", "-c", shell, sys.executable, CLIENT],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stdout) == (5, "[1]\n"), done.stderr
        emulator.send_signal(number)
        _, stderr = emulator.communicate(timeout=30)
        assert emulator.returncode == 0
        assert "1 invocations, 1 cold starts" in stderr
