"""`fanout cost`: what a run costs. `python -m fanout.cost` is the same."""

from __future__ import annotations

from typing import Final

import click

from fanout.cli import Commands

# Each command of the group is a module with a `command`.
MODULES: Final = {
    "breakeven": "fanout.cost.commands.breakeven",
    "compare": "fanout.cost.commands.compare",
    "estimate": "fanout.cost.commands.estimate",
    "explain": "fanout.cost.commands.explain",
    "prices": "fanout.cost.commands.prices",
    "tune": "fanout.cost.commands.tune",
}


@click.group(
    cls=Commands,
    modules=MODULES,
    short_help="Tell what a run costs.",
    examples=(
        "fanout cost estimate --tasks 1000 --seconds 12\n"
        "fanout cost explain sweep-7\n"
        "fanout cost prices show --region eu-west-1\n"
        "fanout cost prices refresh --region eu-west-1 --services lambda,s3,logs"
    ),
    context_settings={"help_option_names": ["-h", "--help"]},
)
def command() -> None:
    """Tell what a run costs, by the price book of a region."""
