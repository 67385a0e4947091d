"""`fanout completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from fanout.cli import Command, cli


@click.command(
    cls=Command,
    short_help="Print the script for completion in your shell.",
    examples=(
        "echo 'eval \"$(fanout completion bash)\"' >> ~/.bashrc\n"
        "echo 'eval \"$(fanout completion zsh)\"' >> ~/.zshrc\n"
        "fanout completion fish > ~/.config/fish/completions/fanout.fish"
    ),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the script that completes fanout's commands and options in your shell."""
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, "fanout", "_FANOUT_COMPLETE").source())
