"""What AWS tells of a Lambda function, asked once before the first invocation."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from fanout.backends import Site
from fanout.budget import FREE_DISK_MB
from fanout.errors import BackendError
from fanout.invoke.answers import About

# Where AWS's own endpoints are, those of a VPC, of China and for dual stack among them.
_OF_AWS: Final = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws")


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A function that can be invoked.

    Attributes:
        about: The function.
        concurrency: Most invocations of it at once: what it has reserved, or what the account has
            left unreserved.
        site: Where its attempts run.
    """

    about: About
    concurrency: int
    site: Site


async def look(client: Any, function: str, qualifier: str | None, *, region: str) -> Known:
    """Ask about function and account.

    Args:
        client: aioboto3's, of Lambda.
        function: Name or ARN.
        qualifier: A version or an alias of it.
        region: Where that is.

    Raises:
        BackendError: There is no such function, it can't run, or there is no right to ask.
        LookupError: What answers isn't Lambda.
    """
    named: dict[str, Any] = {"FunctionName": function}
    qualified = named | ({"Qualifier": qualifier} if qualifier else {})
    where = f"{function} in {region}"
    found, reserved = await asyncio.gather(
        _asked("GetFunctionConfiguration", client.get_function_configuration, qualified, where),
        _asked("GetFunctionConcurrency", client.get_function_concurrency, named, where),
    )
    _check_state(function, found)
    most = reserved.get("ReservedConcurrentExecutions")
    if most is None:
        account = await _asked("GetAccountSettings", client.get_account_settings, {}, where)
        most = account["AccountLimit"]["UnreservedConcurrentExecutions"]
    elif most == 0:
        msg = (
            f"{function} has a reserved concurrency of 0, so that nothing of it runs: "
            "raise it, or remove it (`aws lambda delete-function-concurrency`)"
        )
        raise BackendError(msg)
    about = About(
        function=function,
        region=region,
        memory_mb=found["MemorySize"],
        timeout_s=found["Timeout"],
        arch="arm64" if "arm64" in found.get("Architectures", []) else "x86_64",
        disk_mb=found.get("EphemeralStorage", {}).get("Size", FREE_DISK_MB),
    )
    host = urlsplit(client.meta.endpoint_url).hostname or ""
    site = Site(
        kind="lambda" if host.endswith(_OF_AWS) else f"lambda at {host}",
        function=" ".join(
            [found.get("FunctionArn", where), qualifier or "", found.get("CodeSha256", "")]
        ),
        memory_mb=about.memory_mb,
        architecture=" ".join(found.get("Architectures", ())),
    )
    return Known(about=about, concurrency=most, site=site)


def parted(function: str) -> tuple[str, str | None]:
    """Name or ARN of a function, and the version or alias at its end, if there is one."""
    parts = function.split(":")
    usual = 7 if parts[0] == "arn" else 3 if "function" in parts else 1
    if len(parts) == usual + 1:
        return ":".join(parts[:-1]), parts[-1]
    return function, None


async def _asked(action: str, call: Any, arguments: dict[str, Any], where: str) -> Any:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return await call(**arguments)
    except ClientError as error:
        told = error.response["Error"]
        code, message = told.get("Code", ""), told.get("Message", "")
        if code == "ResourceNotFoundException":
            msg = f"there is no function {where}: check its name and the region, or deploy it"
        elif code.startswith("AccessDenied"):
            msg = f"your credentials lack the right lambda:{action} ({message}): add it"
        else:
            msg = f"lambda:{action} failed with {code} ({message})"
        raise BackendError(msg) from error
    except BotoCoreError as error:
        raise BackendError(f"lambda:{action} failed: {error}") from error


def _check_state(function: str, found: dict[str, Any]) -> None:
    state = found.get("State", "Active")
    if state == "Failed":
        reason = found.get("StateReason", "no reason given")
        msg = f"the function {function} is in the state Failed ({reason}): deploy it again"
        raise BackendError(msg)
