"""`fanout cost tune`, and `fanout tune`: which memory size a kernel should have, by measuring."""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING, Any, Final

import click

from fanout.cli import Command, run, say
from fanout.cost.commands.options import default_region
from fanout.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from decimal import Decimal

    from fanout.budget import Architecture
    from fanout.cost.functions import MeasuredFunction, Spending
    from fanout.cost.tuning import Shown, Tuning

_MEMORIES: Final = "512,1024,1769,3538"
_WIDTH: Final = 100


@click.command(
    cls=Command,
    short_help="Measure which memory size a kernel should have.",
    examples=(
        "fanout tune mymodule:simulate --chunks chunks.jsonl --memory 512,1024,1769,3538\n"
        "fanout tune mymodule:simulate --chunks chunks.jsonl \\\n"
        "    --function fanout-512 --function fanout-1769 --function fanout-3538\n"
        "fanout cost tune mymodule:simulate --chunks chunks.jsonl --chunks-per-size 20 --json"
    ),
)
@click.argument("kernel", metavar="MODULE:KERNEL")
@click.option("--chunks", required=True, metavar="FILE", help="JSON Lines: one chunk a line.")
@click.option(
    "--memory",
    "memories",
    metavar="MB[,MB…]",
    help=f"Sizes to measure on the emulator.  [default: {_MEMORIES}]",
)
@click.option(
    "--function",
    "functions",
    multiple=True,
    metavar="NAME",
    help="A function on Lambda to measure, with the memory that it has; repeat it, one for each "
    "size.  [default: what FANOUT_FUNCTION says if FANOUT_BACKEND is lambda]",
)
@click.option(
    "--emulator", "is_emulated", is_flag=True, help="Measure on the emulator in any case."
)
@click.option(
    "--chunks-per-size",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    metavar="N",
    help="How many chunks to run on each size, spread over the file.",
)
@click.option(
    "--arch",
    type=click.Choice(["arm64", "x86_64"]),
    help="On the emulator: whose prices.  [default: this machine's]",
)
@click.option(
    "--region",
    metavar="R",
    help="Where functions are; on the emulator: whose prices.  [default: as AWS's tools have it]",
)
@click.option("--yes", "is_agreed", is_flag=True, help="Don't ask before money is spent.")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
def command(
    kernel: str,
    chunks: str,
    memories: str | None,
    functions: tuple[str, ...],
    is_emulated: bool,
    chunks_per_size: int,
    arch: Architecture | None,
    region: str | None,
    is_agreed: bool,
    as_json: bool,
) -> int:
    """Run a few chunks with each memory size, and tell which is cheapest, fastest and balanced.

    On functions of Lambda that you name, one for each size (none is changed); what that may cost is
    said first, and asked for. Without, on an emulator for each size, at no cost: it limits memory,
    but not processors. Exit code 1 if no size will do.
    """
    from fanout.cli.map import kernel_named
    from fanout.cost import tuning
    from fanout.cost.probe import chunks_of

    names = _functions(functions, is_emulated=is_emulated, memories=memories, arch=arch)
    sizes = [] if names else _sizes(memories)
    loaded = kernel_named(kernel)
    count, some = chunks_of(chunks, chunks_per_size)
    values = [chunk for chunk, _ in some]
    if names:
        shown, usd = _on_functions(loaded, values, names, region, is_agreed=is_agreed)
    else:
        shown, usd = _on_emulators(loaded, values, sizes, region or default_region(), arch), None
    found = tuning.tuned(shown, _prices(shown))
    about = {"kernel": kernel, "chunks": count, "per_size": len(values)}
    if as_json:
        click.echo(json.dumps(about | _told(shown, usd) | tuning.as_json(found), indent=2))
    else:
        _show(about, found, shown, usd)
    return 0 if found.cheapest else 1


def _functions(
    given: tuple[str, ...], *, is_emulated: bool, memories: str | None, arch: str | None
) -> list[str]:
    """Names of the functions to measure; none: the emulator is."""
    from fanout import config

    settings = config.load()
    names = list(dict.fromkeys(given))
    if names and is_emulated:
        raise UsageError("--function and --emulator exclude each other")
    if is_emulated or (not names and settings.backend != "lambda"):
        return []
    names = names or ([settings.function] if settings.function else [])
    if not names:
        raise UsageError("FANOUT_BACKEND is 'lambda': give --function, or --emulator")
    if memories is not None:
        raise UsageError(
            "--memory is for the emulator, and functions have the memory that they have: deploy "
            "one for each size and give --function for each, or give --emulator"
        )
    if arch is not None:
        raise UsageError("--arch is for the emulator: functions have their own, leave it out")
    return names


def _sizes(text: str | None) -> list[int]:
    from fanout.cost.commands.options import memory_sizes

    return sorted(memory_sizes(_MEMORIES if text is None else text))


def _on_functions(
    kernel: Callable[[Any], Any],
    chunks: list[Any],
    names: list[str],
    region: str | None,
    *,
    is_agreed: bool,
) -> tuple[list[Shown], Decimal | None]:
    from fanout.backends.aws_lambda import Lambda
    from fanout.cost.commands.asking import agree
    from fanout.cost.measuring import on_functions

    def asked(functions: list[MeasuredFunction], spending: Spending) -> None:
        if len({one.region for one in functions}) > 1:
            raise UsageError("functions of several regions don't compare: name those of one")
        what = "; ".join(one.what for one in functions)
        agree(f"measuring {what}", spending, is_agreed=is_agreed)

    backends = {name: Lambda(name, region=region) for name in names}
    shown, usd = run(on_functions(kernel, chunks, backends, say, asked))
    is_billed = any(not one.function.is_here for one in shown)
    return shown, usd if is_billed else None


def _on_emulators(
    kernel: Callable[[Any], Any],
    chunks: list[Any],
    memories: list[int],
    region: str,
    arch: Architecture | None,
) -> list[Shown]:
    from dataclasses import replace

    from fanout.cost.books import book_of
    from fanout.cost.measuring import on_emulators

    book_of(region, ["lambda"])  # what can't be priced is not measured
    say(f"running {len(chunks)} chunks on an emulator with {', '.join(map(str, memories))} MB each")
    shown = run(on_emulators(kernel, chunks, memories, region, say))
    if arch is None:
        return shown
    return [replace(one, function=replace(one.function, arch=arch)) for one in shown]


def _prices(shown: Sequence[Shown]) -> dict[str, tuple[Decimal, Decimal]]:
    """Of a GB-second and of a request, by architecture."""
    from fanout.cost.books import book_of

    book = book_of(shown[0].function.region, ["lambda"])
    return {
        arch: (book[f"lambda.gb_s.{arch}"].usd, book[f"lambda.request.{arch}"].usd)
        for arch in {one.function.arch for one in shown}
    }


def _told(shown: Sequence[Shown], usd: Decimal | None) -> dict[str, Any]:
    from fanout.cost.money import plain

    first = shown[0].function
    return {
        "region": first.region,
        "is_aws": all(one.function.is_aws for one in shown),
        "tuning_usd": None if usd is None else plain(usd),
    }


def _show(
    about: dict[str, Any], tuning: Tuning, shown: Sequence[Shown], usd: Decimal | None
) -> None:
    from fanout.cost import tuning as tables
    from fanout.cost.money import usd_text

    first = shown[0].function
    arches = " and ".join(sorted({one.function.arch for one in shown}))
    click.echo(
        f"{about['kernel']}, {about['per_size']} of {about['chunks']:,} chunks on each size, one "
        f"an invocation; GB-s and USD are\nof {tables.PER:,} tasks, warm, at prices of "
        f"{first.region}, {arches}.\n"
    )
    for line in tables.table(tuning):
        click.echo(line)
    click.echo()
    notes = [f"- {sentence}" for sentence in tables.advice(tuning)]
    if not all(one.function.is_aws for one in shown):
        notes.append(tables.RECKONED)
    if usd is not None:
        notes.append(f"- Measuring has cost {usd_text(usd)}.")
    for note in notes:
        for line in textwrap.wrap(note, _WIDTH, subsequent_indent="  "):
            click.echo(line)
