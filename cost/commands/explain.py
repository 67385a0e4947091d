"""`fanout cost explain`: the itemised bill of a run that was."""

from __future__ import annotations

import json

import click

from fanout.cli import Command, say


@click.command(
    cls=Command,
    short_help="Show the bill of a run.",
    examples=(
        "fanout cost explain sweep-7\n"
        "fanout cost explain 20261121-173000-ab12 --free-tier\n"
        "fanout cost explain sweep-7 --json > bill.json"
    ),
)
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout, with all digits.")
@click.option(
    "--free-tier",
    is_flag=True,
    help="Count what Lambda gives away each month, as if nothing else had used it.",
)
@click.option(
    "--inside-aws",
    is_flag=True,
    help="The client was inside AWS, so that answers did not leave it.",
)
@click.argument("run", metavar="RUN")
def command(run: str, as_json: bool, free_tier: bool, inside_aws: bool) -> None:
    """Show what a run has cost, item by item, by its journal; RUN is its id or its name.

    All sessions of the run are in it, and attempts without an answer, at their worst. It is what
    `run.bill` says, as long as prices have not changed. `fanout runs` lists the runs.
    """
    from fanout.cost.pricing import priced
    from fanout.journal import Folder
    from fanout.journal.costs import usage_of_run

    folder = Folder()
    path = folder.find(run)
    if path is None:
        raise folder.unknown(run)
    usage, record = usage_of_run(path)
    bill = priced(usage, has_free_tier=free_tier, is_client_outside=not inside_aws)
    if record.state == "running":
        say(f"run {record.id} is running, or its client was killed: this is its bill so far")
    if not bill.items and record.spent_gb_s:
        say(
            f"run {record.id} was billed some {record.spent_gb_s:,.6g} GB-seconds; more is not in "
            "its journal, which was written by an older fanout"
        )
    if as_json:
        about = {"run": record.id, "name": record.name, "kernel": record.kernel}
        click.echo(json.dumps(about | {"state": record.state} | bill.as_dict(), indent=2))
        return
    click.echo(f"{record.kernel} on {record.backend}, run {record.id}, {record.state}")
    click.echo()
    click.echo(bill.text())
