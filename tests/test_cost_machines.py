"""How fast processors are, and where that is from."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from fanout.cost import calibration
from fanout.cost.machines import (
    LAMBDA_FLOAT_RATE,
    LAMBDA_HASHES_S,
    MB_PER_VCPU,
    Speeds,
    check_memory,
    here_from,
    lambda_vcpus,
)
from fanout.cost.workload import Basis
from fanout.errors import UsageError
from tests.cost_checks import us_east_1


def test_memory_sizes_have_vcpus_in_proportion() -> None:
    assert lambda_vcpus(MB_PER_VCPU) == 1
    assert lambda_vcpus(10_240) == pytest.approx(5.79, abs=0.01)
    assert lambda_vcpus(128) == pytest.approx(0.0724, abs=0.0001)


def test_the_published_times_go_as_one_over_memory_within_six_percent() -> None:
    # cebert/aws-lambda-performance-benchmarks, 2025-11-30, x86_64, Python 3.13, warm mean, ms.
    published = {128: 5409, 1024: 628, 1769: 386}
    for memory_mb, milliseconds in published.items():
        assert 386 / lambda_vcpus(memory_mb) == pytest.approx(milliseconds, rel=0.065)


def test_lambdas_arm_is_as_fast_as_its_x86_and_marked_as_published() -> None:
    speeds = Speeds()
    assert speeds.of_lambda("x86_64").sigma == 0  # the unit
    arm = speeds.of_lambda("arm64")
    assert (arm.value, arm.basis) == (1.0, Basis.PUBLISHED)
    published = [386 / 381, 380 / 324, 377 / 295]
    assert all(
        arm.value * math.exp(-1.7 * arm.sigma) <= ratio <= arm.value * math.exp(1.7 * arm.sigma)
        for ratio in published
    )


@pytest.mark.parametrize(
    ("name", "value", "basis"),
    [
        ("c6g.4xlarge", 1.0, Basis.PUBLISHED),
        ("c7g.4xlarge", 1.25, Basis.PUBLISHED),
        ("c8g.4xlarge", 1.625, Basis.PUBLISHED),
        ("c9g.4xlarge", 2.03125, Basis.PUBLISHED),
        ("m8gd.4xlarge", 1.625, Basis.PUBLISHED),
        ("c7i.4xlarge", 3.2 / 3, Basis.ASSUMED),  # a thread
        ("c7a.4xlarge", 3.7 / 3 * 1.6, Basis.ASSUMED),  # a core: two threads do 1.25 times one
    ],
)
def test_families_have_speeds_with_their_basis(name: str, value: float, basis: Basis) -> None:
    found = Speeds().of_instance(us_east_1().instance(name))
    assert found.value == pytest.approx(value)
    assert found.basis is basis
    assert found.source
    assert found.sigma > 0


def test_each_generation_is_faster_than_the_one_before() -> None:
    book, speeds = us_east_1(), Speeds()
    for family in ("g", "i", "a"):
        names = [f"c{number}{family}.4xlarge" for number in (6, 7, 8)]
        found = [speeds.of_instance(book.instance(name)).value for name in names]
        if family == "i":
            found = found[1:]  # Ice Lake's clock is the higher one: so is what we assume
        assert all(a < b for a, b in pairwise(found))


def test_a_speed_that_is_given_replaces_ours_and_is_certain() -> None:
    speeds = Speeds(given={"c8g": 1.2, "lambda-arm64": 0.9, "here": 2.0})
    found = speeds.of_instance(us_east_1().instance("c8g.xlarge"))
    assert (found.value, found.sigma, found.basis) == (1.2, 0.0, Basis.GIVEN)
    assert speeds.of_lambda("arm64").value == 0.9
    assert speeds.here(speeds.of_lambda("x86_64")).value == 2.0


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"lambda-arm": 1.0}, "did you mean lambda-arm64"),
        ({"?": 1.0}, "give here"),
        ({"c8g": 0.0}, "above 0"),
        ({"c8g": math.nan}, "above 0"),
        ({"c8g": -1.0}, "above 0"),
    ],
)
def test_a_speed_of_nothing_is_refused(given: dict[str, float], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        Speeds(given=given)


def test_two_loops_that_agree_are_worth_more_than_two_that_do_not() -> None:
    same = here_from(LAMBDA_HASHES_S / 2, LAMBDA_FLOAT_RATE * 2)
    assert same.value == pytest.approx(2.0)
    assert same.sigma == 0.2
    apart = here_from(LAMBDA_HASHES_S / 4, LAMBDA_FLOAT_RATE)
    assert apart.value == pytest.approx(2.0)
    assert apart.sigma == pytest.approx(math.log(2.0))
    assert apart.basis is Basis.MEASURED


def test_this_machine_is_measured() -> None:
    found = calibration.measured()
    assert found.cores >= 1
    assert 0.05 < found.speed.value < 50
    assert 0 < found.all_busy <= 1
    assert found.float_rate > 1e6
    assert found.memory_mb is None or found.memory_mb > 100


@pytest.mark.parametrize("memory_mb", [0, 127, 10_241, math.nan, math.inf, -1, 512.5])
def test_memory_that_lambda_does_not_have_is_refused(memory_mb: float) -> None:
    with pytest.raises(UsageError, match="give"):
        check_memory(memory_mb)


@pytest.mark.parametrize("memory_mb", [128, 1769.0, 10_240])
def test_memory_that_lambda_has_is_taken(memory_mb: float) -> None:
    assert check_memory(memory_mb) == memory_mb
