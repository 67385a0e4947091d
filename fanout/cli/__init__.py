"""The command `fanout`: its commands, and how they report errors.

Data goes to stdout; messages and progress go to stderr. Exit code 0: done; 1: tasks failed; 2: the
call was wrong; 130: interrupted. Ctrl-C ends a command cleanly, twice at once. Each command is a
module of its own, imported when it is used.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from fanout._version import __version__
from fanout.errors import FanoutError, PriceListError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from types import FrameType

T = TypeVar("T")
F = TypeVar("F", bound="Callable[..., Any]")

_COMMANDS = {
    "completion": "fanout.cli.completion",
    "cost": "fanout.cli.cost",
    "emulate": "fanout.cli.emulate",
    "map": "fanout.cli.map",
    "mandelbrot": "fanout.cli.mandelbrot",
    "resume": "fanout.cli.resume",
    "runs": "fanout.cli.runs",
    "simulate": "fanout.cli.simulate",
    "tune": "fanout.cost.commands.tune",
}


class Command(click.Command):
    """A command whose help leads with examples."""

    def __init__(self, *args: Any, examples: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """What it does, examples, then usage and options."""
        format_help(self, ctx, formatter, self.examples)


class Commands(click.Group):
    """Imports a command when it is asked for.

    Args:
        *args: As click has them.
        modules: The module of each command, which has it as `command`.
        examples: What its help leads with.
        **kwargs: As click has them.
    """

    def __init__(
        self, *args: Any, modules: Mapping[str, str], examples: str = "", **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.modules = modules
        self.examples = examples

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self.modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.modules:
            return None
        command: click.Command = importlib.import_module(self.modules[cmd_name]).command
        return command

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        format_help(self, ctx, formatter, self.examples)


def format_help(
    command: click.Command, ctx: click.Context, formatter: click.HelpFormatter, examples: str
) -> None:
    """Write the help of a command: what it does, examples, usage, options."""
    command.format_help_text(ctx, formatter)
    with formatter.section("Examples"):
        for line in examples.splitlines():
            formatter.write(f"{'':{formatter.current_indent}}{line}\n")
    formatter.write_paragraph()
    command.format_usage(ctx, formatter)
    command.format_options(ctx, formatter)


@click.group(
    cls=Commands,
    modules=_COMMANDS,
    examples=(
        "fanout mandelbrot --size 2000 --out mandelbrot.png\n"
        "fanout map mymodule:kernel --chunks chunks.jsonl --out results.jsonl\n"
        "fanout emulate -- fanout mandelbrot --size 2000"
    ),
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="fanout")
def cli() -> None:
    """Run a kernel on every chunk of your input: on all cores of this machine, or on AWS Lambda.

    FANOUT_BACKEND=lambda and FANOUT_FUNCTION=NAME choose Lambda; `fanout emulate` is one.
    """


def running_options(command: F) -> F:
    """Options of every command that runs a kernel."""
    for option in (
        click.option(
            "--progress/--no-progress",
            default=None,
            help="Show progress on stderr.  [default: yes, or what FANOUT_PROGRESS says]",
        ),
        click.option(
            "--workers",
            type=click.IntRange(min=1),
            metavar="N",
            help="Worker processes of the local backend.  [default: one per core, or what "
            "FANOUT_WORKERS says]",
        ),
    ):
        command = option(command)
    return command


def say(message: str) -> None:
    """Tell the user something, on stderr."""
    click.echo(f"fanout: {message}", err=True)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Like `asyncio.run`: Ctrl-C cancels it, and once more leaves the process at once.

    Nothing is lost then but what is being tidied up: workers end with their client, a journal has
    all but the last tenth of a second.
    """
    import asyncio

    before = signal.getsignal(signal.SIGINT)

    async def interruptible() -> T:
        usual = signal.getsignal(signal.SIGINT)  # of asyncio, which cancels this very task

        def interrupt(number: int, frame: FrameType | None) -> None:
            signal.signal(signal.SIGINT, _leave)
            if callable(usual):
                usual(number, frame)

        if callable(usual):
            signal.signal(signal.SIGINT, interrupt)
        return await work

    try:
        return asyncio.run(interruptible())
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)


def _leave(_number: int, _frame: FrameType | None) -> None:
    # Whatever was being written then may hold a lock of sys.stderr.
    os.write(2, b"fanout: interrupted twice; left at once, without tidying up\n")
    os._exit(130)


def main(command: click.Command = cli, prog_name: str = "fanout") -> NoReturn:
    """Run the command line, or one of its commands."""
    try:
        code = command.main(prog_name=prog_name, standalone_mode=False)
    except click.exceptions.Abort:
        code = _interrupted()
    except KeyboardInterrupt:
        code = _interrupted()
    except click.ClickException as error:
        error.show()
        code = 2
    except (UsageError, PriceListError) as error:
        say(str(error))
        code = 2
    except FanoutError as error:
        say("\n".join([str(error), *getattr(error, "__notes__", [])]))
        code = 1
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


def _interrupted() -> int:
    say("interrupted; no more tasks are launched")
    return 130
