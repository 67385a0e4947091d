"""The emulator as users have it: one object that starts, serves and ends."""

from __future__ import annotations

import importlib.util
import os
import platform
import secrets
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import fanout.emulator.quotas as quotas
from fanout.emulator.faults import Faults
from fanout.emulator.function import Function
from fanout.emulator.limits import Limits
from fanout.emulator.log import LogKeeper
from fanout.emulator.tally import Counts, Tally
from fanout.errors import BackendError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from fanout.emulator.api import InvokeApi
    from fanout.emulator.pool import Pool

# What `Emulator.log` keeps: enough for a test to find what it looks for.
_LOG_LINES: Final = 10_000
# Port and connection of its Runtime API, output, lifeline, process and its status; and a client's
# connection in front.
_FILES_PER_ENVIRONMENT: Final = 7
_FILES_BESIDES: Final = 256
_ACCESS_KEY: Final = "AKIAFANOUTEMULATOR00"


@dataclass(frozen=True, slots=True)
class _Running:
    """What is there between start and end."""

    api: InvokeApi
    pool: Pool
    port: int


class Emulator:
    """An AWS Lambda on this machine, with one function.

    It is spoken to as Lambda is, by any client, at `url`; each environment is a process that runs
    AWS's own runtime client. It listens on 127.0.0.1 only.

        async with Emulator(handler="mymodule.handler") as emulator:
            os.environ.update(emulator.variables)
            ...

    Args:
        function: Name of the function.
        handler: As `module.function`; imported by the environments, not here.
        concurrency: Invocations at the same time in the account.
        reserved: Of these, what the function has for itself; 0 refuses everything.
        memory_mb: What each environment may use; what exceeds it is killed (see `memory`).
        timeout_s: What an invocation may take, seconds.
        init_timeout_s: What starting an environment may take, seconds.
        faults: What goes wrong on purpose.
        freeze: Stop environments between invocations, as Lambda does.
        port: Where to listen; 0 takes any that is free.
        path: Where the environments find modules, what an image would contain; the first one is
            also their current folder. By default the current folder, and the one of fanout.
        environment: Variables for the environments; they inherit none but PATH.
        requests_per_s: Invocations a second; by default ten for each unit of concurrency.
        new_environments_per_s: How fast environments may be added after a burst.
        burst: How many may be added at once.
        region: Where it pretends to be.
        verify: Refuse requests that are not signed with the keys in `variables`.
        python: The interpreter of the environments; awslambdaric must be installed there.
        on_log: Called with the log of each invocation, when it has ended.

    Raises:
        UsageError: An argument makes no sense.
    """

    def __init__(
        self,
        function: str = "fanout-worker",
        handler: str = "fanout.handler.handle",
        *,
        concurrency: int = quotas.ACCOUNT_CONCURRENCY,
        reserved: int | None = None,
        memory_mb: int = quotas.MEMORY_MB_OF_ONE_CPU,
        timeout_s: float = 60.0,
        init_timeout_s: float = quotas.INIT_TIMEOUT_S,
        faults: Faults | None = None,
        freeze: bool = False,
        port: int = 0,
        path: Sequence[str | os.PathLike[str]] | None = None,
        environment: Mapping[str, str] | None = None,
        requests_per_s: float | None = None,
        new_environments_per_s: float = quotas.NEW_ENVIRONMENTS_PER_S,
        burst: int = quotas.NEW_ENVIRONMENTS_BURST,
        region: str = "us-east-1",
        verify: bool = True,
        python: str = sys.executable,
        on_log: Callable[[str], None] | None = None,
    ) -> None:
        self._limits = Limits(
            concurrency=concurrency,
            reserved=reserved,
            requests_per_s=requests_per_s,
            new_environments_per_s=new_environments_per_s,
            burst=burst,
        )
        self._function = Function(
            name=function,
            handler=handler,
            memory_mb=memory_mb,
            timeout_s=timeout_s,
            init_timeout_s=init_timeout_s,
            region=region,
            python=_interpreter(python),
            path=_folders(path),
            architecture=_architecture(),
            environment=dict(environment or {}),
            freeze=freeze,
        )
        if not isinstance(port, int) or not 0 <= port <= 65535:
            msg = f"port={port!r} must be a whole number from 0 (any) to 65535"
            raise UsageError(msg)
        self._faults = faults or Faults()
        self._asked_port = port
        self._secret_key = secrets.token_hex(20)
        self._verify = verify
        self._log = LogKeeper(_LOG_LINES, on_log)
        self._tally = Tally()
        self._running: _Running | None = None

    def __repr__(self) -> str:
        where = self.url if self._running else "not started"
        counts = self.counts
        return (
            f"<Emulator {self._function.name} {where}: {counts.environments} environments, "
            f"{counts.running} running, {counts.invocations} invocations>"
        )

    # ---- its life ----

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def start(self) -> None:
        """Listen, and serve from now on.

        Raises:
            BackendError: It can't: something is not installed, or the port is taken.
        """
        if self._running is not None:
            return
        self._check_installed()
        from fanout.emulator.api import InvokeApi
        from fanout.emulator.faulty import seeded
        from fanout.emulator.memory import hierarchy
        from fanout.emulator.pool import Pool
        from fanout.emulator.signature import Verifier

        _allow_open_files(self._limits.allowed)
        groups = hierarchy()
        if groups is not None:
            groups.remove_stale()
        plan = seeded(self._faults)
        pool = Pool(self._function, self._limits, plan, self._tally, groups)
        keys = (_ACCESS_KEY, self._secret_key, self._function.region)
        verifier = Verifier(*keys) if self._verify else None
        api = InvokeApi(pool, plan, self._log, self._tally, verifier)
        try:
            await api.server.start(self._asked_port)
        except OSError as error:
            msg = f"port {self._asked_port} can't be listened on ({error}): pass port=0 for any"
            raise BackendError(msg) from error
        self._running = _Running(api, pool, api.server.port)

    async def aclose(self) -> None:
        """End everything: no process, connection, task or control group is left."""
        if self._running is None:
            return
        running, self._running = self._running, None
        await running.api.aclose()
        await running.pool.aclose()

    def _check_installed(self) -> None:
        if os.name != "posix":
            msg = "the emulator needs Linux or macOS: run it in WSL"
            raise BackendError(msg)
        needed = ["httptools"]
        if self._function.python == _interpreter(sys.executable):
            needed.append("awslambdaric")
        for name in needed:
            if importlib.util.find_spec(name) is None:
                msg = f"the emulator needs {name}: pip install 'fanout-lambda[emulator]'"
                raise BackendError(msg)

    # ---- what there is to know ----

    @property
    def port(self) -> int:
        """Where it listens."""
        if self._running is None:
            msg = "the emulator has no port as it is not running: use it within `async with`"
            raise UsageError(msg)
        return self._running.port

    @property
    def url(self) -> str:
        """The endpoint for clients."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables that direct AWS's clients, and fanout, to this emulator."""
        return {
            "AWS_ENDPOINT_URL_LAMBDA": self.url,
            "AWS_ACCESS_KEY_ID": _ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": self._secret_key,
            "AWS_SESSION_TOKEN": "",  # the caller's own is for AWS only
            "AWS_REGION": self._function.region,
            "AWS_DEFAULT_REGION": self._function.region,
            "AWS_EC2_METADATA_DISABLED": "true",
            "FANOUT_BACKEND": "lambda",
            "FANOUT_FUNCTION": self._function.name,
        }

    @property
    def counts(self) -> Counts:
        """What has happened so far."""
        return self._tally.counts(self._running.pool if self._running else None)

    @property
    def log(self) -> list[str]:
        """The last lines of the function's log, oldest first, by invocation."""
        return self._log.lines


def _allow_open_files(environments: int) -> None:
    """Raise this process' limit of open files, as far as it may, to what may be needed."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = environments * _FILES_PER_ENVIRONMENT + _FILES_BESIDES
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and most > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _interpreter(python: str) -> str:
    found: Any = shutil.which(python)
    if found is None:
        msg = f"python={python!r} must be an interpreter that can be run"
        raise UsageError(msg)
    # Not resolved: a virtual environment's link is what makes it one.
    return str(Path(found).absolute())


def _folders(path: Sequence[str | os.PathLike[str]] | None) -> tuple[str, ...]:
    if path is None:
        here, package = Path.cwd(), Path(__file__).parents[2]
        return tuple(dict.fromkeys((str(here), str(package))))
    for folder in path:
        if not Path(folder).exists():
            msg = f"path={str(folder)!r} must be a folder, or an archive, that exists"
            raise UsageError(msg)
    return tuple(str(Path(folder).absolute()) for folder in path)


def _architecture() -> str:
    return "arm64" if platform.machine() in {"arm64", "aarch64"} else "x86_64"
