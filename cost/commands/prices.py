"""`fanout cost prices`: the price book of a region."""

from __future__ import annotations

from typing import Final

import click

from fanout.cli import Commands

MODULES: Final = {
    "refresh": "fanout.cost.commands.prices_refresh",
    "show": "fanout.cost.commands.prices_show",
    "verify": "fanout.cost.commands.prices_verify",
}


@click.group(
    cls=Commands,
    modules=MODULES,
    short_help="Show, renew and check prices.",
    examples=(
        "fanout cost prices show lambda.gb_s.arm64 c8g.4xlarge\n"
        "fanout cost prices refresh --region eu-west-1\n"
        "fanout cost prices verify"
    ),
)
def command() -> None:
    """Show, renew and check the prices that all of `fanout cost` uses.

    fanout ships a price book for some regions; `refresh` makes or renews one of your own, for any
    region, from AWS's public price list.
    """
