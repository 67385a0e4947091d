"""What the contract is tested against: Lambdas on this machine.

    emulator    `fanout.emulator`, our own
    ministack   an AWS on one port; its custom runtime starts AWS's runtime client
    rie         AWS's Runtime Interface Emulator, behind `rie_router`

Each is a process of its own, on 127.0.0.1, with its log in a file of the test's folder. None
outlives the tests, however these end: see `leash`. What isn't installed is a failure, not a skip.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import socket
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import aioboto3

    import fanout

ROOT: Final = Path(__file__).parents[2]
FUNCTION: Final = "fanout-worker"
LAMBDAS: Final = ("emulator", "ministack", "rie")
# A function with another version of fanout.
SKEWED: Final = "fanout-skewed"
REGION: Final = "us-east-1"
# Of a client, where any will do.
KEYS: Final = ("AKIAFANOUTCONTRACT00", "secret/of/the/contract/tests/0123456789")
CONCURRENCY: Final = 2
TIMEOUT_S: Final = 30
REQUESTS_PER_S: Final = 1000

_HANDLERS: Final = {
    FUNCTION: "fanout.handler.handle",
    SKEWED: "tests.contract.skewed.handle",
}
_INSTALLED: Final = ROOT / ".venv-ministack" / "bin"
_LEASH: Final = Path(__file__).with_name("leash.py")
_START_S: Final = 30.0
_STOP_S: Final = 10.0
_LOG_CHARACTERS: Final = 4000


class StandError(Exception):
    """A stand can't be started; says why, with the end of its log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stand:
    """A running Lambda.

    Attributes:
        name: Which.
        urls: Where its functions are, by their name.
        keys: Whom each of them knows: access key and secret key.
    """

    name: str
    urls: Mapping[str, str]
    keys: Mapping[str, tuple[str, str]] = field(
        default_factory=lambda: dict.fromkeys(_HANDLERS, KEYS), repr=False
    )

    def backend(
        self, function: str = FUNCTION, *, url: str | None = None, concurrency: int | None = None
    ) -> fanout.Lambda:
        """A client of it.

        Args:
            function: One of its functions, or one that it doesn't have.
            url: Where to find it, for what stands in between.
            concurrency: As for `fanout.Lambda`.
        """
        known = function if function in self.urls else FUNCTION
        return lambda_at(
            url or self.urls[known], self.keys[known], function, concurrency=concurrency
        )


def lambda_at(
    url: str, keys: tuple[str, str], function: str = FUNCTION, *, concurrency: int | None = None
) -> fanout.Lambda:
    """A function at this endpoint, used with these keys.

    Ten requests a second for each environment, as AWS has it, would be what most tests wait for.
    """
    import fanout

    return fanout.Lambda(
        function,
        session=session_of(keys),
        endpoint_url=url,
        concurrency=concurrency,
        rate=fanout.RateLimit(per_s=REQUESTS_PER_S, burst=REQUESTS_PER_S),
    )


def session_of(keys: tuple[str, str]) -> aioboto3.Session:
    """A session with these keys."""
    import aioboto3

    return aioboto3.Session(
        aws_access_key_id=keys[0], aws_secret_access_key=keys[1], region_name=REGION
    )


class Server:
    """A process that serves, on a leash.

    Args:
        name: For messages.
        command: What to run.
        folder: Its current folder, where its log goes.
        environment: Variables beside the few that it gets in any case.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        folder: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._name = name
        self._log = folder / f"{name}.log"
        # Nothing of ours: neither settings nor credentials reach what runs there.
        variables = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "LANG": "C.UTF-8",
            **(environment or {}),
        }
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", _LEASH, *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=variables,
                start_new_session=True,  # Ctrl-C is ours to handle
            )

    def until(self, is_ready: Callable[[], bool]) -> None:
        """Wait until it serves.

        Raises:
            StandError: It ended, or takes too long.
        """
        until_s = time.monotonic() + _START_S
        while not is_ready():
            code = self._process.poll()
            if code is not None or time.monotonic() > until_s:
                how = f"didn't start in {_START_S:g} s" if code is None else f"ended with {code}"
                self.stop()
                log = self._log.read_text(errors="replace")[-_LOG_CHARACTERS:]
                msg = f"{self._name} {how}; the end of {self._log}:\n{log}"
                raise StandError(msg)
            time.sleep(0.02)

    def stop(self) -> None:
        """End it and all that it has started."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise


def installed(name: str) -> Path:
    """A program that the tests need, and that isn't part of fanout's own environment.

    Raises:
        StandError: It is not there.
    """
    path = _INSTALLED / name
    if not path.exists():
        msg = f"{path} is missing: run `make test`, which installs what the tests need"
        raise StandError(msg)
    return path


@contextlib.contextmanager
def emulator(folder: Path) -> Iterator[Stand]:
    """Our own: one emulator for each function, each with keys of its own."""
    with _served("serve_emulator", folder) as told:
        yield Stand(
            name="emulator",
            urls={name: variables["AWS_ENDPOINT_URL_LAMBDA"] for name, variables in told.items()},
            keys={
                name: (variables["AWS_ACCESS_KEY_ID"], variables["AWS_SECRET_ACCESS_KEY"])
                for name, variables in told.items()
            },
        )


@contextlib.contextmanager
def rie(folder: Path) -> Iterator[Stand]:
    """AWS's own, with the router in front."""
    with _served("rie_router", folder, installed("aws-lambda-rie")) as url:
        yield Stand(name="rie", urls=dict.fromkeys(_HANDLERS, url))


@contextlib.contextmanager
def _served(module: str, folder: Path, *programs: Path) -> Iterator[Any]:
    """Run one of our modules until it serves; gives what it tells of itself."""
    ready = folder / "ready.json"
    functions = [f"{name}={handler}" for name, handler in _HANDLERS.items()]
    command = [sys.executable, "-m", f"tests.contract.{module}"]
    arguments: list[str | Path] = [ready, *programs]
    arguments += [str(CONCURRENCY), str(TIMEOUT_S), *functions]
    server = Server(module, [*command, *arguments], folder, {"PYTHONPATH": str(ROOT)})
    try:
        server.until(ready.exists)
        yield json.loads(ready.read_text())
    finally:
        server.stop()


@contextlib.contextmanager
def ministack(folder: Path) -> Iterator[Stand]:
    """An AWS on one port; the function has reserved its concurrency."""
    with ministack_server(folder) as url:
        stand = Stand(name="ministack", urls=dict.fromkeys(_HANDLERS, url))
        functions = client("lambda", url, KEYS)
        for name, handler in _HANDLERS.items():
            deploy(functions, name, handler)
            functions.put_function_concurrency(
                FunctionName=name, ReservedConcurrentExecutions=CONCURRENCY
            )
        yield stand


@contextlib.contextmanager
def ministack_server(folder: Path, *, checks_rights: bool = False) -> Iterator[str]:
    """The server alone, nothing deployed; gives its URL."""
    port = _free_port()
    environment = {"BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port)}
    command: list[str | Path] = [installed("ministack")]
    if checks_rights:
        environment["AUTH"] = "true"
        command = [installed("python"), Path(__file__).with_name("ministack_rights.py")]
    server = Server("ministack", command, folder, environment)
    try:
        server.until(lambda: _is_healthy(port))
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop()


def client(service: str, url: str, keys: tuple[str, str]) -> Any:
    """A client of boto3, for what is set up before a test."""
    import boto3

    session = boto3.Session(
        aws_access_key_id=keys[0], aws_secret_access_key=keys[1], region_name=REGION
    )
    return session.client(service, endpoint_url=url)


def deploy(functions: Any, name: str, handler: str, role: str | None = None) -> None:
    """Make a function whose bootstrap starts AWS's runtime client, with this very fanout."""
    bootstrap = (
        "#!/bin/sh\n"
        f"export PYTHONPATH='{ROOT}'\n"
        f"cd '{ROOT}'\n"
        f"exec '{sys.executable}' -m awslambdaric \"$_HANDLER\"\n"
    )
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        entry = zipfile.ZipInfo("bootstrap")
        entry.external_attr = 0o755 << 16
        file.writestr(entry, bootstrap)
    functions.create_function(
        FunctionName=name,
        Runtime="provided.al2023",
        Role=role or "arn:aws:iam::000000000000:role/fanout",
        Handler=handler,
        Timeout=TIMEOUT_S,
        MemorySize=1769,
        Code={"ZipFile": archive.getvalue()},
    )
    often = {"Delay": 0.05, "MaxAttempts": 200}
    functions.get_waiter("function_active_v2").wait(FunctionName=name, WaiterConfig=often)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def _is_healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/_ministack/health")
        return connection.getresponse().read() is not None
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
