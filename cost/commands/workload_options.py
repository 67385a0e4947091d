"""Options that tell what there is to do, and under which assumptions; and what comes of them."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from fanout.cli import say
from fanout.cost.commands.counts import runs_of, tasks_of
from fanout.cost.commands.options import region_option
from fanout.cost.commands.probing import probed_here, probed_remotely
from fanout.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fanout.cost.book import PriceBook
    from fanout.cost.machines import Calibration, FarLoops, Speed, Speeds
    from fanout.cost.prediction import Setting
    from fanout.cost.workload import Workload

F = TypeVar("F", bound="Callable[..., Any]")

SERVICES: Final = ("lambda", "ec2", "fargate", "s3", "logs", "transfer")
_OPTIONS: Final = (
    click.option("--tasks", metavar="N", help="How many tasks; 1e12 is a number, too."),
    click.option("--seconds", type=float, metavar="S", help="What a task takes, on average."),
    click.option(
        "--spread",
        type=float,
        metavar="X",
        help="How times differ: the standard deviation of their logarithm. 0.3 is give or take "
        "30 %.  [default: 0, all the same]",
    ),
    click.option(
        "--seconds-on",
        default="here",
        show_default=True,
        metavar="WHERE",
        help="What took these --seconds: one core here, lambda-x86_64, lambda-arm64, or an EC2 "
        "type, all of its vCPUs busy.",
    ),
    click.option(
        "--kernel",
        metavar="MODULE:KERNEL",
        help="Instead: run this kernel on a few chunks here, about 10 s, and measure.",
    ),
    click.option("--chunks", metavar="FILE", help="JSON Lines: the input of --kernel."),
    click.option(
        "--probe-remote",
        "is_remote",
        is_flag=True,
        help="Run these chunks on a function of Lambda instead, and the loops. It says what that "
        "costs, and asks.",
    ),
    click.option(
        "--function",
        metavar="NAME",
        help="Of --probe-remote.  [default: what FANOUT_FUNCTION says]",
    ),
    click.option("--yes", "is_agreed", is_flag=True, help="Don't ask before --probe-remote."),
    click.option(
        "--threads",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        metavar="N",
        help="Threads that a task keeps busy.",
    ),
    click.option(
        "--task-memory",
        type=click.IntRange(min=1),
        metavar="MB",
        help="What a task needs.  [default: as measured with --kernel]",
    ),
    click.option(
        "--bytes-in", type=click.IntRange(min=0), metavar="B", help="Bytes that a task is sent."
    ),
    click.option(
        "--bytes-out", type=click.IntRange(min=0), metavar="B", help="Bytes that a task returns."
    ),
    click.option(
        "--runs",
        default="30/month",
        show_default=True,
        metavar="N/UNIT",
        help="How often: per hour, day, week, month or year.",
    ),
    region_option,
    click.option(
        "--concurrency",
        type=click.IntRange(min=1),
        default=1000,
        show_default=True,
        metavar="N",
        help="Lambda's quota.",
    ),
    click.option(
        "--timeout",
        "timeout_s",
        type=float,
        default=900.0,
        show_default=True,
        metavar="S",
        help="Of the function.",
    ),
    click.option(
        "--free-tier", "is_free_tier", is_flag=True, help="Count Lambda's free tier, all of it."
    ),
    click.option(
        "--spot-discount",
        type=float,
        default=0.6,
        show_default=True,
        metavar="X",
        help="Share by which spot is cheaper; assumed.",
    ),
    click.option(
        "--interruptions",
        "interruptions_per_h",
        type=float,
        default=0.01,
        show_default=True,
        metavar="X",
        help="Of a spot instance in an hour; assumed.",
    ),
    click.option(
        "--uplink",
        "uplink_mbit",
        type=float,
        default=200.0,
        show_default=True,
        metavar="MBIT/S",
        help="Between here and AWS; assumed.",
    ),
    click.option(
        "--speed",
        "given_speeds",
        multiple=True,
        metavar="NAME=X",
        help="Of a vCPU, over one of Lambda on x86_64: here, lambda-arm64, fargate-x86_64, or a "
        "family as c8g. May be repeated.",
    ),
    click.option(
        "--cores",
        type=click.IntRange(min=1),
        metavar="N",
        help="Of this machine.  [default: all that may be used]",
    ),
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N"),
)


def workload_options(command: F) -> F:
    """All of them."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def has_work(options: Mapping[str, Any]) -> bool:
    """Whether any option tells what there is to do."""
    return any(options[name] is not None for name in ("tasks", "seconds", "kernel", "chunks"))


def new_rng(seed: int) -> random.Random:
    """A generator of the simulator."""
    return random.Random(seed)  # noqa: S311  # a model


def book_for(region: str) -> PriceBook:
    """Prices; says if they are old, or if there are none of EC2."""
    from fanout.cost.book import old_text
    from fanout.cost.books import quiet_book_of, today

    book = quiet_book_of(region)
    if told := old_text(region, book.old(today(), SERVICES)):
        say(told)
    if not book.instances:
        say(
            f"no EC2 price of {region} is known, so only Lambda and this machine are compared: "
            f"`fanout cost prices refresh --region {region}` reads them"
        )
    return book


def work_and_setting(options: Mapping[str, Any], book: PriceBook) -> tuple[Workload, Setting]:
    """What the options say; kernels and calibrations are run here if they are to be."""
    from fanout.cost.machines import Speeds
    from fanout.cost.prediction import Setting

    _check_sources(options)
    speeds = Speeds(given=dict(map(_speed, options["given_speeds"])))
    far = None
    if options["is_remote"]:
        workload, far, speeds, base = probed_remotely(options, speeds)
    elif options["kernel"] is not None:
        workload = probed_here(options)
    else:
        workload = _given(options)
    calibration = _calibration(options["cores"], speeds, far)
    if not options["is_remote"]:
        base = _base(options["seconds_on"], calibration, speeds, book)
    discount = options["spot_discount"]
    if not 0 <= discount < 1:
        raise UsageError(f"--spot-discount {discount!r} must be a share, 0 to below 1")
    setting = Setting(
        book=book,
        calibration=calibration,
        base=base,
        speeds=speeds,
        concurrency=options["concurrency"],
        timeout_s=options["timeout_s"],
        spot_discount=Decimal(str(discount)),
        interruptions_per_h=options["interruptions_per_h"],
        uplink_mbit=options["uplink_mbit"],
        is_free_tier=options["is_free_tier"],
        seed=options["seed"],
    )
    return workload, setting


def _check_sources(options: Mapping[str, Any]) -> None:
    kernel, chunks, seconds = (options[name] for name in ("kernel", "chunks", "seconds"))
    if (kernel is None) != (chunks is None):
        raise UsageError("--kernel and --chunks go together: what to run, and on what")
    if kernel is not None and (seconds is not None or options["spread"] is not None):
        raise UsageError("--kernel measures times: leave out --seconds and --spread")
    if kernel is not None and options["seconds_on"] != "here":
        raise UsageError("--kernel is run here: leave out --seconds-on")
    if not options["is_remote"] and (options["function"] is not None or options["is_agreed"]):
        raise UsageError("--function and --yes are for --probe-remote: add it, or leave them out")
    if options["is_remote"] and kernel is None:
        raise UsageError("--probe-remote runs a kernel: give --kernel and --chunks")
    if kernel is None and (seconds is None or options["tasks"] is None):
        raise UsageError(
            "give --tasks and --seconds, as in --tasks 1000 --seconds 12; or --kernel and "
            "--chunks, to measure a few chunks here"
        )


def _given(options: Mapping[str, Any]) -> Workload:
    from fanout.cost.workload import TaskTimes, Workload

    return Workload(
        tasks=tasks_of(options["tasks"]),
        times=TaskTimes(
            mean_s=options["seconds"],
            sigma=0.0 if options["spread"] is None else options["spread"],
        ),
        threads=options["threads"],
        memory_mb=options["task_memory"],
        bytes_in=options["bytes_in"] or 0,
        bytes_out=options["bytes_out"] or 0,
        runs_per_month=runs_of(options["runs"]),
    )


def _calibration(cores: int | None, speeds: Speeds, far: FarLoops | None) -> Calibration:
    """This machine; nothing is run here if its speed is given."""
    from dataclasses import replace

    from fanout.backends.local import Local
    from fanout.cost.calibration import measured, memory_mb
    from fanout.cost.machines import REFERENCE, Calibration

    if "here" in speeds.given:
        count = cores or Local().concurrency
        return Calibration(cores=count, speed=speeds.here(REFERENCE), memory_mb=memory_mb())
    found = measured(far=far)
    return found if cores is None else replace(found, cores=cores)


def _base(where: str, calibration: Calibration, speeds: Speeds, book: PriceBook) -> Speed:
    """The speed of what the times are of."""
    if where == "here":
        return calibration.speed
    if where in {"lambda-x86_64", "lambda-arm64"}:
        return speeds.of_lambda(where.removeprefix("lambda-"))
    return speeds.of_instance(book.instance(where))


def _speed(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError as error:
        raise UsageError(f"--speed {text!r} must be NAME=X, as c8g=1.5") from error
