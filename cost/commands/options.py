"""Options that several commands of `fanout cost` have."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from fanout.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")

_DEFAULT_REGION: Final = "us-east-1"


def default_region() -> str:
    """The region of the environment, as AWS's tools have it."""
    named = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return named or _DEFAULT_REGION


def region_option(command: F) -> F:
    """`--region`."""
    return click.option(
        "--region",
        default=default_region,
        show_default="AWS_REGION, or us-east-1",
        metavar="R",
        help="Whose prices.",
    )(command)


def memory_sizes(text: str) -> list[int]:
    """Sizes of Lambda, as "512,1769"; each once.

    Raises:
        UsageError: There is none, or Lambda has none such.
    """
    from fanout.cost.machines import check_memory

    found = []
    for part in text.split(","):
        if not part.strip():
            continue
        try:
            value = float(part)
        except ValueError as error:
            raise UsageError(f"--memory {text!r} must be sizes in MB, as 1769,3538") from error
        found.append(check_memory(value))
    if not found:
        raise UsageError("--memory must be sizes in MB, as 1769,3538")
    return list(dict.fromkeys(found))
