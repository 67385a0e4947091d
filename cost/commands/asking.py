"""Before money is spent: what it may come to is said, and agreed to."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from fanout.cli import say
from fanout.errors import UsageError

if TYPE_CHECKING:
    from fanout.cost.functions import Spending


def agree(what: str, spending: Spending, *, is_agreed: bool) -> None:
    """Say what something may cost, and ask; nothing is asked without a terminal.

    Args:
        what: It is, as in "to measure fanout-worker".
        spending: What that may cost.
        is_agreed: Whether the user has agreed already (`--yes`).

    Raises:
        UsageError: There is no terminal to ask on, and nobody has agreed.
        click.exceptions.Exit: The answer is no.
    """
    say(f"{what} takes {spending.text()}; logs and transfer aside")
    if is_agreed:
        return
    if not sys.stdin.isatty():
        raise UsageError("nothing was run: that costs money; --yes agrees to it")
    if not click.confirm("fanout: go on?", err=True):
        say("nothing was run")
        raise click.exceptions.Exit(1)
