"""Which memory size to take, by what each has shown; and what measuring may cost."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from fanout.budget import Rates
from fanout.cost.functions import MeasuredFunction, spending
from fanout.cost.machines import (
    LAMBDA_FLOAT_RATE,
    LAMBDA_HASHES_S,
    REFERENCE,
    FarLoops,
    Speeds,
    here_from,
    speeds_measured_on,
)
from fanout.cost.tuning import Shown, Tuning, advice, as_json, table, tuned
from fanout.cost.workload import Basis
from fanout.errors import UsageError

GB_S, REQUEST = Decimal("0.00001"), Decimal("0.0000002")
PRICES = {"x86_64": (GB_S, REQUEST), "arm64": (GB_S * Decimal("0.8"), REQUEST)}


def function(memory_mb: int = 1769, **changes: Any) -> MeasuredFunction:
    usual: dict[str, Any] = {
        "name": f"fanout-{memory_mb}",
        "kind": "lambda",
        "region": "us-east-1",
        "arch": "x86_64",
        "memory_mb": memory_mb,
        "worst_s": 70.0,
    }
    return MeasuredFunction(**{**usual, **changes})


def shown(
    memory_mb: int,
    billed_ms: tuple[int, ...],
    *,
    peak_mb: int | None = 200,
    why_not: str = "",
    **changes: Any,
) -> Shown:
    return Shown(
        function=function(memory_mb, **changes),
        billed_ms=billed_ms,
        init_ms=900,
        peak_mb=peak_mb,
        why_not=why_not,
    )


def of_lambda() -> Tuning:
    """A kernel on one thread: faster up to a vCPU, then only dearer; 512 MB lose a bit."""
    sizes = [shown(3584, (99, 100, 101)), shown(512, (360, 370, 380)), shown(1792, (100, 101, 104))]
    return tuned(sizes, PRICES)


def test_sizes_are_priced_by_what_they_are_billed_for() -> None:
    (size,) = tuned([shown(1024, (100, 200))], PRICES).sizes
    assert (size.median_ms, size.p95_ms, size.here_ms) == (150, 200, None)
    assert size.gb_s == 150
    assert size.usd == 150 * GB_S + 1000 * REQUEST


def test_the_95th_percentile_is_one_of_the_times() -> None:
    assert tuned([shown(512, tuple(range(1, 101)))], PRICES).sizes[0].p95_ms == 95
    assert tuned([shown(512, tuple(range(1, 21)))], PRICES).sizes[0].p95_ms == 19
    assert tuned([shown(512, (7, 9, 8))], PRICES).sizes[0].p95_ms == 9


def test_cheapest_fastest_and_balanced() -> None:
    found = of_lambda()
    assert [one.memory_mb for one in found.sizes] == [512, 1792, 3584]
    assert (found.cheapest, found.fastest, found.balanced) == (
        found.sizes[1],
        found.sizes[2],
        found.sizes[1],
    )
    assert found.marks(found.sizes[1]) == ["cheapest", "balanced"]
    assert found.marks(found.sizes[2]) == ["fastest"]


def test_an_architecture_has_its_own_price() -> None:
    found = tuned([shown(1024, (100,)), shown(1024, (110,), arch="arm64")], PRICES)
    assert found.cheapest is not None
    assert found.cheapest.shown.function.arch == "arm64"
    assert found.fastest is not None
    assert found.fastest.shown.function.arch == "x86_64"
    assert any("arm64  cheapest" in line for line in table(found))


def test_a_size_that_tasks_do_not_fit_into_is_named_and_not_chosen() -> None:
    why = "out of memory: chunk 2 was killed"
    found = tuned([shown(128, (1,), why_not=why), shown(1769, (100,))], PRICES)
    assert found.cheapest is found.fastest is found.sizes[1]
    assert any("128 MB" in line and why in line for line in table(found))
    assert "Only one size" in advice(found)[0]
    told = as_json(found)["sizes"][0]
    assert (told["is_possible"], told["why_not"], told["marks"]) == (False, why, [])
    assert "median_ms" not in told


def test_no_size_will_do() -> None:
    found = tuned([shown(128, (), why_not="out of memory")], PRICES)
    assert (found.cheapest, found.fits_mb, found.smallest) == (None, None, None)
    assert advice(found) == ["No size will do: measure larger ones, or make chunks smaller."]


def test_the_smallest_size_has_the_largest_peak_and_a_fifth() -> None:
    peaks = [shown(512, (90,), peak_mb=400), shown(1024, (50,), peak_mb=450)]
    found = tuned(peaks, PRICES)
    assert found.fits_mb == 540  # so that 512 MB are too few, though all tasks ran
    assert found.smallest is found.sizes[1]
    assert as_json(found)["smallest_mb"] == 1024
    assert "tasks need 540 MB: 1,024 MB is the smallest" in advice(found)[-1]
    tight = tuned([shown(512, (90,), peak_mb=500)], PRICES)
    assert tight.smallest is None
    assert "measure a larger one" in advice(tight)[-1]
    assert tuned([shown(512, (90,), peak_mb=50)], PRICES).fits_mb == 128  # Lambda's least
    unknown = tuned([shown(512, (90,), peak_mb=None)], PRICES)
    assert unknown.fits_mb is None
    assert "not known" in advice(unknown)[-1]


def test_times_of_an_emulator_are_reckoned_by_the_share_of_a_vcpu() -> None:
    here: dict[str, Any] = {"kind": "lambda at 127.0.0.1"}
    found = tuned([shown(1769 // 2, (100,), **here), shown(3538, (100,), **here)], PRICES)
    half, double = found.sizes
    assert (half.here_ms, half.median_ms) == (100, 201)
    assert (double.here_ms, double.median_ms) == (100, 100)  # one thread has one vCPU at most
    assert (found.cheapest, found.balanced) == (half, double)
    assert "measured" in table(found)[0]
    assert "measured" not in table(of_lambda())[0]
    assert [one["is_reckoned"] for one in as_json(found)["sizes"]] == [True, True]


def test_what_disturbs_one_size_of_an_emulator_is_not_its_price() -> None:
    here: dict[str, Any] = {"kind": "lambda at 127.0.0.1"}
    sizes = [shown(512, (100, 900), **here), shown(1769, (170, 200), **here)]
    found = tuned(sizes, PRICES)
    small, large = found.sizes
    assert (small.here_ms, large.here_ms) == (500, 185)
    assert large.median_ms == 150
    assert small.median_ms == (346 + 692) / 2
    assert found.cheapest is large  # the same money, but for rounding


def test_of_sizes_that_cost_the_same_the_fastest_is_the_cheapest() -> None:
    found = tuned([shown(512, (1000,)), shown(1024, (504,)), shown(2048, (290,))], PRICES)
    assert found.cheapest is found.sizes[1]
    assert found.fastest is found.sizes[2]


def test_the_table_fits_a_terminal() -> None:
    found = tuned(
        [
            shown(512, (899_000,) * 3, kind="lambda at 127.0.0.1"),
            shown(10_240, (900_000,) * 3, peak_mb=9_999, kind="lambda at 127.0.0.1"),
        ],
        PRICES,
    )
    assert max(map(len, table(found))) <= 100
    assert max(map(len, table(of_lambda()))) <= 100


def test_nothing_measured_is_refused() -> None:
    with pytest.raises(UsageError, match="give at least one chunk"):
        tuned([shown(512, ())], PRICES)


def test_what_measuring_may_cost_counts_all_that_may_be_sent() -> None:
    rates = Rates(usd_per_gb_s=Fraction("0.00001"), usd_per_request=Fraction("0.0000002"))
    found = spending([function(512), function(1024, worst_s=910.0)], [rates, rates], tasks=9)
    assert found.invocations == 2 * (9 + 2)  # a worker may ask for code twice
    assert found.worst_s == 910
    seconds = 11 * 70 * 0.5 + 11 * 910 * 1.0
    assert found.worst_usd == pytest.approx(seconds * 0.00001 + 22 * 0.0000002)
    assert found.usd_of_a_second == pytest.approx(9 * 1.5 * 0.00001 + 22 * 0.0000002)
    assert "up to 22 invocations: $0.00014 if a task takes 1 s, and at most $0.10" in found.text()
    assert spending([function(512)], [rates], tasks=9, kernels=2).invocations == 13


def test_processors_come_with_memory_on_aws_only() -> None:
    assert function(1769 // 2).cores() == pytest.approx(0.5, abs=0.001)
    assert function(3538).cores() == 1
    assert function(3538).cores(4) == 2
    stand_in = function(512, kind="lambda at 127.0.0.1")
    assert (stand_in.cores(), stand_in.cores(4)) == (1, 4)
    assert stand_in.is_here
    assert not stand_in.is_aws
    assert not function(kind="lambda at lambda.example.com").is_here
    assert stand_in.what == "fanout-512 at 127.0.0.1, 512 MB, x86_64"


def test_this_machine_is_compared_with_the_function_where_loops_ran_there() -> None:
    far = FarLoops(what="f", hashes_s=0.5, float_rate=100e6, speed=REFERENCE)
    found = here_from(0.25, 200e6, far)
    assert found.value == pytest.approx(2.0)
    assert (found.sigma, found.basis) == (0.1, Basis.MEASURED)
    assert "times a vCPU of f" in found.source
    assert "assumed" not in found.source
    apart = here_from(0.25, 400e6, far)
    assert apart.sigma == pytest.approx(math.log(2) / 2)
    published = here_from(LAMBDA_HASHES_S, LAMBDA_FLOAT_RATE)
    assert (published.value, published.sigma) == (1.0, 0.2)
    assert "assumed (floats)" in published.source


def test_what_tasks_ran_on_is_certain_and_the_other_architecture_is_not() -> None:
    on_x86 = Speeds(measured=speeds_measured_on("x86_64", "f"))
    assert (on_x86.of_lambda("x86_64").basis, on_x86.of_lambda("x86_64").sigma) == ("measured", 0)
    assert on_x86.of_lambda("arm64") == Speeds().of_lambda("arm64")
    on_arm = Speeds(measured=speeds_measured_on("arm64", "f"))
    assert (on_arm.of_lambda("arm64").basis, on_arm.of_lambda("arm64").sigma) == ("measured", 0)
    assert (on_arm.of_lambda("x86_64").basis, on_arm.of_lambda("x86_64").sigma) == (
        "published",
        0.15,
    )
    given = Speeds(given={"lambda-arm64": 1.2}, measured=speeds_measured_on("arm64", "f"))
    assert given.of_lambda("arm64").basis is Basis.GIVEN
