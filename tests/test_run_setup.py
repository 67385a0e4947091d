"""What becomes of a map's options, and what a run leaves for the next one of its kernel."""

from __future__ import annotations

from typing import Any

import pytest

from fanout.errors import UsageError
from fanout.findings import Estimates
from fanout.grouping import Estimate, Grouping, GroupPolicy
from tests import virtual_time
from tests.fakes import FakeBackend, opened


def square(x: int) -> int:
    return x * x


def double(x: int) -> int:
    return 2 * x


def heavy(_: object) -> float:
    return 1.0


class Quick(FakeBackend):
    """Packs its requests, so that it shows when a run knows how long its tasks take."""

    @property
    def grouping(self) -> GroupPolicy:
        return GroupPolicy(least_s=20.0, most_s=20.0)


def first_sizes(kernels: list[Any], **options: Any) -> list[int]:
    """How many tasks the first request of each run carries, one run after another."""
    sizes = []

    async def main() -> None:
        backend = Quick(1)
        async with opened(backend) as ex:
            for kernel in kernels:
                before = len(backend.requests)
                await ex.map(kernel, range(100), **options)
                sizes.append(len(backend.requests[before]))

    virtual_time.run(main())
    return sizes


def test_a_run_begins_with_what_the_last_one_of_its_kernel_has_found() -> None:
    first, again, other = first_sizes([square, square, double])
    assert first == other == 1
    assert again > 1


def test_a_run_with_weights_leaves_nothing_and_takes_nothing() -> None:
    assert first_sizes([square, square], weight=heavy) == [1, 1]


def test_tasks_that_may_not_run_twice_travel_alone_unless_a_group_is_named() -> None:
    assert first_sizes([square, square], idempotent=False) == [1, 1]
    assert first_sizes([square], idempotent=False, group=5) == [5]


def test_a_budget_is_refused_where_nothing_is_billed() -> None:
    async def main() -> None:
        async with opened(FakeBackend()) as ex:
            with pytest.raises(UsageError, match=r"max_gb_s=1.0 is for Lambda: fake"):
                await ex.map(square, [1], max_gb_s=1.0)

    virtual_time.run(main())


def found(unit_s: float) -> Grouping:
    """The grouping of a run that has found this."""
    grouping = Grouping(GroupPolicy())
    grouping.observe(tasks=1, busy_s=unit_s, payload_bytes=100)
    return grouping


def test_of_a_run_without_an_answer_nothing_is_kept() -> None:
    estimates = Estimates()
    estimates.keep("a", found(2.0))
    estimates.keep("a", Grouping(GroupPolicy()))
    assert estimates.of("a") == Estimate(unit_s=2.0, task_bytes=100)
    assert estimates.of("b") is None


def test_only_so_many_kernels_are_remembered_and_the_oldest_go_first() -> None:
    estimates = Estimates()
    for number in range(256):
        estimates.keep(str(number), found(1.0))
    estimates.keep("0", found(2.0))
    estimates.keep("one more", found(1.0))
    assert estimates.of("1") is None
    assert [estimates.of(kernel) is not None for kernel in ("0", "2", "one more")] == [True] * 3
