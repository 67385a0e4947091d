"""What tests of the estimate share: a small setting, and work whose inputs are certain."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from fanout.cost.books import shipped_book
from fanout.cost.machines import REFERENCE, Calibration
from fanout.cost.prediction import Setting
from fanout.cost.workload import TaskTimes, Workload

if TYPE_CHECKING:
    from fanout.cost.book import PriceBook


def us_east_1() -> PriceBook:
    """The shipped book, whatever the user has."""
    book = shipped_book("us-east-1")
    assert book is not None
    return book


def setting(**changes: Any) -> Setting:
    """This machine is a vCPU of Lambda, four times; times are of it."""
    usual: dict[str, Any] = {
        "book": us_east_1(),
        "calibration": Calibration(cores=4, speed=REFERENCE, memory_mb=16_000),
        "base": REFERENCE,
    }
    return Setting(**{**usual, **changes})


def work(tasks: int = 100, seconds: float = 10.0, spread: float = 0.0, **changes: Any) -> Workload:
    """Tasks whose times are certain."""
    return Workload(tasks=tasks, times=TaskTimes(mean_s=seconds, sigma=spread), **changes)


def new_rng(seed: int) -> random.Random:
    """A generator of the simulator."""
    return random.Random(seed)
