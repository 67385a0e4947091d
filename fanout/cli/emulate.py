"""`fanout emulate`: an AWS Lambda on this machine, for a command or for another terminal."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import sys
import tempfile
from typing import TYPE_CHECKING, Any, Final

import click

from fanout.cli import Command, say
from fanout.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fanout.emulator import Counts, Emulator

# How often what has happened is told, if anything has.
_TELL_EVERY_S: Final = 10.0
# What a shell gives as the code of a command that a signal ended.
_SIGNALLED: Final = 128


@click.command(
    cls=Command,
    short_help="Run an AWS Lambda on this machine.",
    context_settings={"allow_interspersed_args": False},
    examples=(
        "fanout emulate -- fanout map mymodule:simulate --chunks chunks.jsonl\n"
        "fanout emulate --memory 512 --fault throttle=0.05 --fault reset_after=0.01 -- pytest\n"
        "fanout emulate --port 9001 > variables.sh    # in another terminal: . ./variables.sh"
    ),
)
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    default=lambda: len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2,
    show_default="one per core",
    metavar="N",
    help="Invocations at once; Lambda admits 10 N a second.",
)
@click.option("--reserved", type=click.IntRange(min=0), metavar="N", help="Of these, reserved.")
@click.option(
    "--memory",
    "memory_mb",
    type=int,
    default=1769,
    show_default=True,
    metavar="MB",
    help="Memory of each environment.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=float,
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Stop an invocation that runs longer.",
)
@click.option(
    "--function", default="fanout-worker", show_default=True, metavar="NAME", help="Its name."
)
@click.option(
    "--handler",
    default="fanout.handler.handle",
    show_default=True,
    metavar="MODULE.FUNCTION",
    help="What it runs.",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, metavar="N", help="[default: any free one]"
)
@click.option(
    "--path",
    multiple=True,
    metavar="DIR",
    help="Where environments find modules; may be repeated.  [default: here, and fanout's]",
)
@click.option("--freeze", is_flag=True, help="Stop environments between invocations, as Lambda.")
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="NAME=P",
    help="How often what goes wrong, as in throttle=0.05; may be repeated.",
)
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Of the faults.")
@click.option("--log", "with_log", is_flag=True, help="Show the function's log on stderr.")
@click.argument("command_line", metavar="[-- COMMAND ...]", nargs=-1, type=click.UNPROCESSED)
def command(
    faults: tuple[str, ...],
    seed: int,
    path: tuple[str, ...],
    with_log: bool,
    command_line: tuple[str, ...],
    **options: Any,
) -> int:
    """Run an AWS Lambda on this machine, without an account, and direct a command to it.

    COMMAND runs with the environment variables that lead AWS's clients, and fanout, there; its exit
    code is the exit code. Without a command, the variables go to stdout and it serves until Ctrl-C.
    FANOUT_STORE, unless you have set it, is a folder that lasts as long: for large data.

    Faults: throttle, error_500, error_502, error_503, reset_before, reset_during, reset_after,
    hang, truncate, corrupt, duplicate, slow_start, slow_environment; also reason, code_502,
    retry_after_s, start_delay_s, slow_factor.
    """
    from fanout.emulator import Emulator, Faults

    emulator = Emulator(
        faults=Faults.parse(",".join([*faults, f"seed={seed}"])),
        path=path or None,
        on_log=_show if with_log else None,
        **options,
    )
    return asyncio.run(_run(emulator, command_line))


def _show(log: str) -> None:
    click.echo(log, err=True, nl=False)


async def _run(emulator: Emulator, command_line: tuple[str, ...]) -> int:
    with tempfile.TemporaryDirectory(prefix="fanout-store-", ignore_cleanup_errors=True) as folder:
        async with emulator:
            variables = emulator.variables
            if not os.environ.get("FANOUT_STORE"):
                variables["FANOUT_STORE"] = folder
            if command_line:
                code = await _with(variables, command_line)
            else:
                code = await _serve(emulator, variables)
            say(f"the emulator has ended: {_told(emulator.counts)}")
    return code


async def _serve(emulator: Emulator, variables: Mapping[str, str]) -> int:
    """Serve until told to end."""
    for name, value in variables.items():
        click.echo(f"export {name}={shlex.quote(value)}")
    sys.stdout.flush()
    say(
        f"{emulator.url} serves until Ctrl-C; run the lines above in another terminal, or let "
        "`fanout emulate -- COMMAND` set them for a command"
    )
    end = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, end.set)
    told = emulator.counts
    while not end.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(end.wait(), _TELL_EVERY_S)
        if not end.is_set() and emulator.counts != told:
            told = emulator.counts
            say(_told(told))
    return 0


async def _with(variables: Mapping[str, str], command_line: tuple[str, ...]) -> int:
    """Run a command that is directed here; returns its exit code."""
    loop = asyncio.get_running_loop()
    try:
        process = await asyncio.create_subprocess_exec(
            *command_line, env={**os.environ, **variables}
        )
    except OSError as error:
        msg = f"{command_line[0]!r} can't be run ({error.strerror}): give a command that exists"
        raise UsageError(msg) from error
    # The terminal sends Ctrl-C to the command as well: it decides when to end.
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    loop.add_signal_handler(signal.SIGTERM, process.terminate)
    code = await process.wait()
    return code if code >= 0 else _SIGNALLED - code


def _told(counts: Counts) -> str:
    parts = [
        f"{counts.invocations:,} invocations",
        f"{counts.cold_starts:,} cold starts",
        *(f"{count:,} x {reason}" for reason, count in sorted(counts.throttles.items())),
        *(f"{count:,} x {fault}" for fault, count in sorted(counts.faults.items())),
    ]
    return ", ".join(parts)
