"""`python -m fanout.cost` is the command `fanout cost`."""

from fanout.cli import main
from fanout.cli.cost import command

main(command, "python -m fanout.cost")
