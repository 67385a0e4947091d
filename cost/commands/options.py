"""Options that several commands of `fanout cost` have."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

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
