"""The function that is emulated: its settings, and the variables of its environments. Pure."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import fanout.emulator.quotas as quotas
from fanout.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

ACCOUNT_ID: Final = "123456789012"  # the one of AWS's own examples
VERSION: Final = "$LATEST"

_NAME: Final = re.compile(r"[a-zA-Z0-9-_]{1,64}")
_REGION: Final = re.compile(r"[a-z]{2}(-[a-z]+)+-\d")
# What the interpreter needs of ours; nothing else of the caller's environment goes in, least of
# all credentials.
_INHERITED: Final = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
# "Defined runtime environment variables", Lambda Developer Guide, 2026-10: what no user may set.
_RESERVED: Final = ("AWS_LAMBDA_", "_HANDLER", "AWS_ACCESS_KEY", "AWS_SECRET", "AWS_SESSION_TOKEN")


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """What is deployed.

    Attributes:
        name: Of the function.
        handler: As `module.function`.
        memory_mb: What each environment may use.
        timeout_s: What an invocation may take.
        init_timeout_s: What starting an environment may take.
        region: Where it pretends to be.
        python: The interpreter of its environments.
        path: Where its modules are; the first is its current folder.
        architecture: As Lambda names it.
        environment: The user's variables.
        freeze: Whether environments are stopped between invocations.
    """

    name: str
    handler: str
    memory_mb: int
    timeout_s: float
    init_timeout_s: float
    region: str
    python: str
    path: tuple[str, ...]
    architecture: str = "x86_64"
    environment: Mapping[str, str] = field(default_factory=dict)
    freeze: bool = False

    def __post_init__(self) -> None:
        _check(bool(_NAME.fullmatch(self.name)), "function", self.name, "letters, digits, - and _")
        _check("." in self.handler, "handler", self.handler, "MODULE.FUNCTION")
        _check(
            isinstance(self.memory_mb, int)
            and quotas.MEMORY_MB_MIN <= self.memory_mb <= quotas.MEMORY_MB_MAX,
            "memory_mb",
            self.memory_mb,
            f"a whole number from {quotas.MEMORY_MB_MIN} to {quotas.MEMORY_MB_MAX}",
        )
        is_time = 0 < self.timeout_s <= quotas.TIMEOUT_S_MAX
        _check(is_time, "timeout_s", self.timeout_s, f"above 0, at most {quotas.TIMEOUT_S_MAX:g}")
        _check(self.init_timeout_s > 0, "init_timeout_s", self.init_timeout_s, "above 0")
        _check(bool(_REGION.fullmatch(self.region)), "region", self.region, "like us-east-1")
        _check(bool(self.path), "path", list(self.path), "at least one folder")
        for name in self.environment:
            is_free = not name.startswith(_RESERVED)
            _check(is_free, "environment", name, "a name that Lambda has not reserved for itself")

    @property
    def arn(self) -> str:
        """Its Amazon Resource Name."""
        return f"arn:aws:lambda:{self.region}:{ACCOUNT_ID}:function:{self.name}"

    @property
    def code_sha256(self) -> str:
        """Stands in for the digest of an image: the same for the same handler and folders."""
        return hashlib.sha256(repr((self.handler, self.path)).encode()).hexdigest()

    def variables(
        self, *, runtime_api: str, log_stream: str, inherited: Mapping[str, str]
    ) -> dict[str, str]:
        """The environment variables of a process: those that AWS sets, and the user's."""
        return {
            **{name: inherited[name] for name in _INHERITED if name in inherited},
            "LANG": "en_US.UTF-8",
            "TZ": ":UTC",
            "PYTHONPATH": ":".join(self.path),
            "PYTHONDONTWRITEBYTECODE": "1",  # an image's folders can't be written to
            "LAMBDA_TASK_ROOT": self.path[0],
            "_HANDLER": self.handler,
            "AWS_EXECUTION_ENV": "AWS_Lambda_Image",
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            # Of a role that doesn't exist: a handler that calls AWS is refused there.
            "AWS_ACCESS_KEY_ID": "ASIAEMULATEDFUNCTION",
            "AWS_SECRET_ACCESS_KEY": "emulated",
            "AWS_SESSION_TOKEN": "emulated",
            "AWS_EC2_METADATA_DISABLED": "true",
            **self.environment,
            "AWS_LAMBDA_FUNCTION_NAME": self.name,
            "AWS_LAMBDA_FUNCTION_VERSION": VERSION,
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(self.memory_mb),
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{self.name}",
            "AWS_LAMBDA_LOG_STREAM_NAME": log_stream,
            "AWS_LAMBDA_RUNTIME_API": runtime_api,
        }


def _check(is_right: bool, name: str, value: object, what: str) -> None:
    if not is_right:
        msg = f"{name}={value!r} must be {what}"
        raise UsageError(msg)
