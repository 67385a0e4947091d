"""`fanout cost prices refresh`: prices from AWS's public price list."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Final

import click

from fanout.cli import Command, say
from fanout.cost.commands.options import region_option
from fanout.cost.money import plain

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fanout.cost.renewal import Change, Renewal

_SHOWN: Final = 10  # of each sort of news
_EVERY_S: Final = 0.2


@click.command(
    cls=Command,
    short_help="Renew prices from AWS's price list.",
    examples=(
        "fanout cost prices refresh --region eu-west-1\n"
        "fanout cost prices refresh --region eu-west-1 --services lambda,s3,logs,transfer\n"
        "fanout cost prices refresh --from ~/offers/v1.0/aws    # files fetched elsewhere\n"
        "fanout cost prices refresh --query                     # with your credentials"
    ),
)
@region_option
@click.option(
    "--services",
    default="",
    metavar="S,…",
    help="Only these: lambda, s3, logs, transfer, fargate, valkey, nat, ec2.  [default: all; the "
    "file that nat and ec2 need has some 500 MB]",
)
@click.option(
    "--from",
    "base",
    metavar="DIR|URL",
    help="A folder, or an address, laid out as AWS's list.  [default: AWS's own]",
)
@click.option(
    "--query",
    "is_query",
    is_flag=True,
    help="Ask the query API instead; needs pricing:GetProducts.",
)
@click.option(
    "--force",
    "is_forced",
    is_flag=True,
    help="Take prices, too, that are three times what they were, or a third.",
)
def command(region: str, services: str, base: str | None, is_query: bool, is_forced: bool) -> None:
    """Renew your price book of a region from AWS's public price list, without an account.

    What the list does not have stays as it was, and is named. A download that breaks, or is
    stopped, goes on where it was the next time. Nothing is billed.
    """
    from fanout.cost.books import path_of
    from fanout.cost.refresh import PUBLIC_LIST, refresh

    if base is not None and is_query:
        raise click.UsageError("give either --from or --query")
    progress = _Progress(region)
    renewals = refresh(
        region,
        wanted=[name.strip() for name in services.split(",") if name.strip()],
        base=base or PUBLIC_LIST,
        is_query=is_query,
        is_forced=is_forced,
        on_progress=progress,
    )
    try:
        for renewal in renewals:
            progress.clear()
            for line in _lines(renewal):
                click.echo(line)
    except KeyboardInterrupt:
        say("what was fetched is kept for the next time")
        raise
    finally:
        progress.clear()
    say(f"kept in {path_of(region)}")


class _Progress:
    """How far a download is, in a line of a terminal; elsewhere nothing."""

    def __init__(self, region: str) -> None:
        self._region = region
        self._is_shown = sys.stderr.isatty()
        self._last_s = 0.0
        self._width = 0

    def __call__(self, offer: str, done: int, total: int | None) -> None:
        now_s = time.monotonic()
        if not self._is_shown or now_s - self._last_s < _EVERY_S:
            return
        self._last_s = now_s
        of = f" of {total / 1e6:,.0f}" if total else ""
        text = f"{offer} {self._region}: {done / 1e6:,.0f}{of} MB"
        sys.stderr.write(f"\r{text:{self._width}}")
        sys.stderr.flush()
        self._width = len(text)

    def clear(self) -> None:
        if self._width:
            sys.stderr.write(f"\r{'':{self._width}}\r")
            sys.stderr.flush()
            self._width = 0


def _lines(renewal: Renewal) -> Iterable[str]:
    new = [change for change in renewal.changes if change.old is None]
    changed = [change for change in renewal.changes if change.old is not None]
    yield (
        f"{renewal.offer} of {renewal.published}: {renewal.same:,} confirmed, {len(changed):,} "
        f"changed, {len(new):,} new"
    )
    yield from _some(f"{change.name}: {_told(change)}" for change in [*changed, *new])
    yield from _some(
        f"NOT TAKEN {change.name}: {_told(change)}: {change.why}{_forcing(change)}"
        for change in renewal.refused
    )
    yield from _some(
        f"as it was: {name}, since it {why}" if why.startswith("is not") else
        f"as it was: {name}, since in the file it {why}"
        for name, why in renewal.missing.items()
    )  # fmt: skip


def _told(change: Change) -> str:
    new = f"${plain(change.new.usd)}"
    return f"${plain(change.old.usd)} -> {new}" if change.old else new


def _forcing(change: Change) -> str:
    return "; --force takes it" if "times" in change.why else ""


def _some(lines: Iterable[str]) -> Iterable[str]:
    found = list(lines)
    yield from (f"  {line}" for line in found[:_SHOWN])
    if len(found) > _SHOWN:
        yield f"  … and {len(found) - _SHOWN:,} more"
