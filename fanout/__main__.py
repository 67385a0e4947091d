"""`python -m fanout` is the command `fanout`."""

from fanout.cli import main

main()
