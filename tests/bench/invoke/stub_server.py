"""Compiles and runs `stub.c`, the stand-in for Lambda's endpoint, and makes its certificate.

Linux only (epoll). What is missing is named in a `SystemExit`, with how to get it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(__file__).parent / "stub.c"

# What Python 3.13's default context (VERIFY_X509_STRICT) asks of an authority and of a server.
# P-256, since a signature is made for each connection, by the stub: RSA would take it 20 times as
# long, and the client no less to verify than it takes for Lambda's chain of RSA certificates.
_CERTIFICATES = """
[req]
distinguished_name = name
prompt = no
[name]
CN = localhost
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = DNS:localhost, IP:127.0.0.1
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a stub has done since some moment.

    Attributes:
        cpu_s: Seconds of CPU time.
        requests: Requests answered.
        connections: Connections accepted.
    """

    cpu_s: float
    requests: int
    connections: int

    def __sub__(self, earlier: Usage) -> Usage:
        return Usage(
            cpu_s=self.cpu_s - earlier.cpu_s,
            requests=self.requests - earlier.requests,
            connections=self.connections - earlier.connections,
        )


@dataclass(frozen=True, slots=True)
class Stub:
    """A running stub, and where to reach it."""

    process: subprocess.Popen[str]
    port: int
    ca: Path

    @property
    def url(self) -> str:
        """What to give as `endpoint_url`: an address, so that no client pays for a look-up."""
        return f"https://127.0.0.1:{self.port}"

    def usage(self) -> Usage:
        """What it has done so far."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        cpu_us, requests, connections = map(int, self.process.stdout.readline().split())
        return Usage(cpu_s=cpu_us / 1e6, requests=requests, connections=connections)


@dataclass(frozen=True, slots=True)
class StubFactory:
    """Starts stubs of one build.

    Attributes:
        folder: Holds the program and the certificates.
        core: What stubs are pinned to; None: to nothing.
    """

    folder: Path
    core: int | None = None

    @contextmanager
    def start(
        self, *, delay_ms: tuple[int, int] | None = None, answer_file: Path | None = None
    ) -> Iterator[Stub]:
        """A stub of its own, until the block ends."""
        command = [str(self.folder / "stub")]
        command += ["--cert", str(self.folder / "server.pem")]
        command += ["--key", str(self.folder / "server.key")]
        if delay_ms:
            command += ["--delay-ms", *map(str, delay_ms)]
        if answer_file:
            command += ["--answer-file", str(answer_file)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            port = process.stdout.readline()
            if not port:
                raise SystemExit("the stub server has not started; what it says is above")
            if self.core is not None:
                os.sched_setaffinity(process.pid, {self.core})
            try:
                yield Stub(process, int(port), self.folder / "ca.pem")
            finally:
                process.kill()


def prepare(folder: Path, core: int | None = None) -> StubFactory:
    """Builds the stub and its certificates in this folder."""
    _compile(folder / "stub")
    _certify(folder)
    return StubFactory(folder, core)


def _compile(program: Path) -> None:
    if sys.platform != "linux":
        raise SystemExit(f"the stub server is written for Linux (epoll), this is {sys.platform}")
    libraries = ("-lssl", "-lcrypto")
    done = _run("cc", "-O2", "-std=gnu11", str(SOURCE), "-o", str(program), *libraries)
    if done.returncode == 0:
        return
    if "openssl/" in done.stderr or "-lssl" in done.stderr:
        raise SystemExit(
            "the stub server needs OpenSSL's headers: `apt-get install libssl-dev` or "
            "`dnf install openssl-devel`"
        )
    raise SystemExit(f"{SOURCE} does not compile:\n{done.stderr}")


def _certify(folder: Path) -> None:
    (folder / "openssl.cnf").write_text(_CERTIFICATES)
    config = "-config openssl.cnf"
    key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    authority = "-extensions authority -subj /CN=authority -days 2 -keyout ca.key -out ca.pem"
    signed_by = "-CA ca.pem -CAkey ca.key -CAcreateserial -days 2"
    for command in (
        f"req -x509 {config} {key} {authority}",
        f"req {config} {key} -keyout server.key -out server.csr",
        f"x509 -req -in server.csr {signed_by} -extfile openssl.cnf -extensions server"
        " -out server.pem",
    ):
        done = _run("openssl", *command.split(), folder=folder)
        if done.returncode:
            raise SystemExit(f"openssl has made no certificate:\n{done.stderr}")


def _run(
    program: str, *arguments: str, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    if not shutil.which(program):
        package = {"cc": "gcc libssl-dev"}.get(program, program)
        raise SystemExit(f"the stub server needs `{program}`: `apt-get install {package}`")
    return subprocess.run(
        [program, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
