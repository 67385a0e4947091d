"""What `--kernel` comes to: chunks that are run here, or with `--probe-remote` on a function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fanout.cli import say
from fanout.cost.commands.counts import runs_of, tasks_of
from fanout.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fanout.cost.functions import MeasuredFunction, Spending
    from fanout.cost.machines import FarLoops, Speed, Speeds
    from fanout.cost.probe import Probe
    from fanout.cost.workload import Workload


def probed_here(options: Mapping[str, Any]) -> Workload:
    """Run a few chunks here."""
    from fanout.cli.map import kernel_named
    from fanout.cost.probe import probed

    _check(options)
    return _workload(probed(kernel_named(options["kernel"]), options["chunks"], say), options)


def probed_remotely(
    options: Mapping[str, Any], speeds: Speeds
) -> tuple[Workload, FarLoops, Speeds, Speed]:
    """Run a few chunks on a function, and the two loops.

    Returns:
        The work; the loops; all speeds, with what is measured of Lambda's; and the speed of what
        the tasks ran on.
    """
    from dataclasses import replace

    from fanout.cli.map import kernel_named
    from fanout.cost.commands.asking import agree
    from fanout.cost.machines import FarLoops, speeds_measured_on
    from fanout.cost.money import usd_text
    from fanout.cost.remote_probe import probed_there

    def asked(function: MeasuredFunction, spending: Spending) -> None:
        agree(f"measuring on {function.what}", spending, is_agreed=options["is_agreed"])

    _check(options)
    kernel = kernel_named(options["kernel"])
    found = probed_there(kernel, options["chunks"], _function(options["function"]), say, asked)
    function = found.function
    if function.is_here:
        say("that is an emulator: its processors are this machine's, and not Lambda's")
    else:
        say(f"measuring has cost {usd_text(found.bill.usd)}")
    speeds = replace(speeds, measured=speeds_measured_on(function.arch, function.what))
    speed = speeds.of_lambda(function.arch)
    far = FarLoops(
        what=function.what,
        hashes_s=found.hashes_s,
        float_rate=found.float_rate,
        speed=speed,
    )
    threads = options["threads"]
    base = replace(speed, value=speed.value * function.cores(threads) / threads)
    return _workload(found.probe, options), far, speeds, base


def _check(options: Mapping[str, Any]) -> None:
    """What is wrong is told before anything runs."""
    runs_of(options["runs"])
    if options["tasks"] is not None:
        tasks_of(options["tasks"])


def _workload(found: Probe, options: Mapping[str, Any]) -> Workload:
    from fanout.cost.workload import Basis, Workload

    given_mb = options["task_memory"]
    sizes = (options["bytes_in"], options["bytes_out"])
    return Workload(
        tasks=found.chunks if options["tasks"] is None else tasks_of(options["tasks"]),
        times=found.times,
        threads=options["threads"],
        memory_mb=found.memory_mb if given_mb is None else given_mb,
        memory_basis=Basis.MEASURED if given_mb is None else Basis.GIVEN,
        bytes_in=found.bytes_in if sizes[0] is None else sizes[0],
        bytes_out=found.bytes_out if sizes[1] is None else sizes[1],
        runs_per_month=runs_of(options["runs"]),
    )


def _function(given: str | None) -> str:
    from fanout import config

    name = given or config.load().function
    if not name:
        raise UsageError("--probe-remote needs a function: give --function, or FANOUT_FUNCTION")
    return name
