"""What a run takes and costs in each place: laws of the model, and cases worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fanout.cost.estimate import predicted
from fanout.cost.list_scheduling import finish_times, mean_age_s
from fanout.cost.machines import Calibration, Speed, Speeds
from fanout.cost.places import (
    FargateTasks,
    Instances,
    LambdaFunction,
    Local,
    lambda_sizes,
    place_of,
    usual_places,
)
from fanout.cost.prediction import Band, band_of, lucks
from fanout.cost.usage import per_month, per_run, priced
from fanout.cost.workload import Basis, TaskTimes, Workload
from fanout.errors import PriceMissingError, UsageError
from tests.cost_checks import new_rng, setting, us_east_1, work

if TYPE_CHECKING:
    from fanout.cost.places import Place
    from fanout.cost.prediction import Prediction, Setting

PLACES: list[Place] = [
    Local(),
    LambdaFunction(memory_mb=1769, arch="x86_64"),
    LambdaFunction(memory_mb=512, arch="arm64"),
    Instances(type="c8g.4xlarge", count=2),
    Instances(type="c8i.4xlarge", is_spot=True),
    FargateTasks(vcpus=4, memory_gb=8, arch="arm64"),
]


def predict(place: Place, workload: Workload, given: Setting | None = None) -> Prediction:
    return predicted(place, workload, given or setting(), new_rng)


def ends(
    tasks: int, cores: int, sigma: float = 0.0, ready: float = 0.0, seed: int = 0, draws: int = 7
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    rng = np.random.default_rng(seed)
    starts = rng.uniform(0, ready, (draws, cores)) if ready else np.zeros((draws, cores))
    return finish_times(tasks, np.ones(draws), np.full(draws, sigma), starts, rng)


# --- list scheduling ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tasks", "cores", "makespan"), [(1, 4, 1.0), (4, 4, 1.0), (5, 4, 2.0), (12, 4, 3.0)]
)
def test_equal_tasks_take_as_many_rounds_as_they_fill(
    tasks: int, cores: int, makespan: float
) -> None:
    assert ends(tasks, cores).max() == makespan


def test_with_many_tasks_the_work_is_shared_evenly() -> None:
    found = ends(10**12, 64)
    assert np.allclose(found.mean(), 10**12 / 64, rtol=1e-9)


@pytest.mark.parametrize(("tasks", "cores", "sigma"), [(600, 16, 0.5), (900, 64, 0.2)])
@pytest.mark.parametrize("ready", [0.0, 5.0])
def test_the_long_run_agrees_with_the_exact_way(
    tasks: int, cores: int, sigma: float, ready: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = ends(tasks, cores, sigma, ready, draws=200)
    monkeypatch.setattr("fanout.cost.list_scheduling._LONG_RUN", 1e9)
    exact = ends(tasks, cores, sigma, ready, draws=200)
    assert np.median(quick.max(axis=1)) == pytest.approx(np.median(exact.max(axis=1)), rel=0.03)
    assert quick.mean() == pytest.approx(exact.mean(), rel=0.02)


@pytest.mark.parametrize(("tasks", "cores"), [(37, 5), (900, 64), (7, 6)])
def test_rounds_agree_with_the_exact_way(tasks: int, cores: int) -> None:
    rounds = ends(tasks, cores, 0.0, ready=7.0)
    exact = ends(tasks, cores, 1e-12, ready=7.0)
    assert np.allclose(np.sort(rounds, axis=1), np.sort(exact, axis=1), atol=1e-6)


def test_a_part_of_many_cores_stands_for_all() -> None:
    found = ends(20_000, 6000, 0.5)
    assert found.shape == (7, 6000)
    assert found.mean() == pytest.approx(20_000 / 6000, rel=0.25)


def test_cores_that_come_too_late_are_done_when_all_are() -> None:
    ready = np.array([[0.0, 0.0, 100.0]])
    for tasks in (2, 8, 100):
        rng = np.random.default_rng(0)
        found = finish_times(tasks, np.full(1, 0.5), np.zeros(1), ready, rng)
        assert found[0, 2] == found[0, :2].max() < 100
    late = finish_times(4000, np.full(1, 0.5), np.zeros(1), ready, np.random.default_rng(0))
    assert late[0, 2] > 100
    assert late.mean() == pytest.approx((2000 + 100) / 3, rel=0.01)


@given(st.integers(1, 3000), st.integers(1, 60), st.floats(0.0, 1.0), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_work_is_neither_lost_nor_made(tasks: int, cores: int, sigma: float, seed: int) -> None:
    found = ends(tasks, cores, sigma, seed=seed, draws=3)
    assert (found >= 0).all()
    # List scheduling leaves no core idle before the last task has begun.
    assert found.max() >= tasks / cores * math.exp(-4 * sigma / math.sqrt(tasks)) * 0.5
    if sigma == 0:
        assert found.max() == pytest.approx(math.ceil(tasks / cores), rel=0.15, abs=1.01)


def test_the_age_of_a_task_that_is_met_is_half_of_it_if_all_are_equal() -> None:
    assert mean_age_s(10.0, 0.0) == 5.0
    assert mean_age_s(10.0, 1.0) > 10.0  # long ones are met more often


# --- laws of all places ------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
def test_bands_are_in_order_and_items_add_up_to_the_total(place: Place) -> None:
    found = predict(place, work(tasks=300, spread=0.5, bytes_in=5_000_000, bytes_out=1000))
    for band in (found.makespan_s, found.usd):
        assert band.low <= band.median <= band.high
    assert sum((item.usd_per_run for item in found.items), Decimal(0)) == found.usd.median
    assert sum((item.usd_per_month for item in found.items), Decimal(0)) == found.usd_per_month
    assert found.method


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
def test_more_tasks_never_cost_less_nor_end_sooner(place: Place) -> None:
    counts = (1, 10, 100, 399, 1000, 10_000, 10**6, 10**9, 10**12)
    found = [predict(place, work(tasks=count, seconds=3.0)) for count in counts]
    times = [one.makespan_s.median for one in found]
    costs = [one.usd.median for one in found]
    assert all(a <= b * 1.02 for a, b in pairwise(times)), times
    assert all(a <= b for a, b in pairwise(costs)), costs


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
def test_the_same_seed_gives_the_same_and_another_one_does_not(place: Place) -> None:
    workload = work(tasks=200, spread=0.6)
    assert predict(place, workload) == predict(place, workload)
    other = predict(place, workload, setting(seed=1))
    assert other.makespan_s != predict(place, workload).makespan_s


@given(st.integers(1, 3000), st.floats(0.1, 50.0), st.floats(0.0, 1.0))
@settings(max_examples=25, deadline=None)
def test_more_cores_are_never_slower(tasks: int, seconds: float, spread: float) -> None:
    workload = work(tasks=tasks, seconds=seconds, spread=spread)
    found = []
    for cores in (1, 2, 4, 8, 16, 32):
        here = Calibration(cores=cores, speed=setting().base)
        found.append(predict(Local(), workload, setting(calibration=here)).makespan_s.median)
    # Draws differ by the number of cores, and so do their medians, a little.
    assert all(more <= fewer * 1.1 for fewer, more in pairwise(found)), found


@pytest.mark.parametrize("count", [1, 2, 8])
def test_a_spot_instance_costs_less_by_the_discount(count: int) -> None:
    workload = work(tasks=1000)
    given = setting(interruptions_per_h=0.0, spot_discount=Decimal("0.7"))
    full = predict(Instances(type="c8g.xlarge", count=count), workload, given)
    spot = predict(Instances(type="c8g.xlarge", count=count, is_spot=True), workload, given)
    assert spot.makespan_s == full.makespan_s
    assert float(spot.usd.median) == pytest.approx(float(full.usd.median) * 0.3, rel=1e-6)


def test_interruptions_take_time_and_money() -> None:
    workload = work(tasks=4000, seconds=60.0)
    place = Instances(type="c8g.xlarge", is_spot=True)
    calm = predict(place, workload, setting(interruptions_per_h=0.0))
    stormy = predict(place, workload, setting(interruptions_per_h=2.0))
    assert stormy.makespan_s.median > calm.makespan_s.median * 1.02
    assert stormy.usd.median > calm.usd.median


# --- this machine, EC2, Fargate ----------------------------------------------------------------


def test_this_machine_takes_the_work_over_its_cores_and_costs_nothing() -> None:
    found = predict(Local(), work(tasks=400, seconds=10.0))
    assert found.makespan_s == Band(1000.0, 1000.0, 1000.0)
    assert found.usd.high == 0
    assert not found.items
    assert found.slots == 4


def test_cores_that_slow_each_other_down_take_longer() -> None:
    busy = Calibration(cores=4, speed=setting().base, all_busy=0.5)
    found = predict(Local(), work(tasks=400, seconds=10.0), setting(calibration=busy))
    assert found.makespan_s.median == 2000.0
    alone = predict(Local(), work(tasks=1, seconds=10.0, threads=4), setting(calibration=busy))
    assert alone.makespan_s.median == 20.0


def test_times_of_another_machine_are_converted_to_this_one() -> None:
    fast = Speed(value=2.0, sigma=0.0, basis=Basis.GIVEN, source="")
    here = Calibration(cores=1, speed=fast)
    found = predict(Local(), work(tasks=10, seconds=10.0), setting(calibration=here))
    assert found.makespan_s.median == pytest.approx(50.0)


def test_memory_keeps_cores_idle_or_a_task_out() -> None:
    found = predict(Local(), work(tasks=100, memory_mb=7000))
    assert found.slots == 2
    assert "needs 20,000 MB" in predict(Local(), work(memory_mb=20_000)).why_not
    assert predict(Instances(type="c8g.xlarge"), work(memory_mb=7000)).slots == 1
    assert not predict(Instances(type="c8g.xlarge"), work(memory_mb=9000)).is_possible


def test_an_instance_is_paid_from_boot_to_the_last_task_by_the_second() -> None:
    given = setting(speeds=Speeds(given={"c8g": 1.0}))
    found = predict(Instances(type="c8g.4xlarge"), work(tasks=160, seconds=100.0), given)
    assert 1030 <= found.makespan_s.low <= found.makespan_s.high <= 1060
    (hours,) = found.items
    seconds = hours.units * 3600
    assert abs(seconds - round(seconds)) < Decimal("0.001")
    assert 1030 <= seconds <= 1061
    assert hours.usd_per_run == pytest.approx(hours.units * Decimal("0.63808"), rel=Decimal("1e-6"))


def test_an_instance_is_paid_for_a_minute_at_least() -> None:
    found = predict(Instances(type="c8g.4xlarge", count=3), work(tasks=3, seconds=0.001))
    assert found.usd.median == (Decimal("0.63808") * 3 / 60).quantize(Decimal("1e-9"))


def test_fargate_is_paid_for_processors_and_memory() -> None:
    place = FargateTasks(vcpus=4, memory_gb=8, arch="arm64")
    found = predict(place, work(tasks=4000, seconds=1.0), setting(speeds=Speeds()))
    by_name = {item.name: item for item in found.items}
    vcpu, gb = by_name["fargate.vcpu_hour.arm64"], by_name["fargate.gb_hour.arm64"]
    assert float(vcpu.units) == pytest.approx(float(gb.units) / 2, rel=1e-6)
    assert vcpu.usd_per_run == pytest.approx(vcpu.units * Decimal("0.03238"), rel=Decimal("1e-6"))


def test_a_vcpu_that_is_a_thread_does_less_than_one_that_is_a_core() -> None:
    workload = work(tasks=1600, seconds=10.0)
    thread, core = (
        predict(Instances(type=name), workload).task_s for name in ("c7i.4xlarge", "c7a.4xlarge")
    )
    assert thread > 1.5 * core


def test_threads_of_a_task_take_as_many_vcpus() -> None:
    given = setting(speeds=Speeds(given={"c8g": 1.0}))
    found = predict(Instances(type="c8g.4xlarge"), work(tasks=4, seconds=100.0, threads=4), given)
    assert found.slots == 4
    assert 130 <= found.makespan_s.median <= 160


def test_data_that_comes_slowly_keeps_machines_waiting() -> None:
    workload = work(tasks=100, seconds=1.0, bytes_in=25_000_000)  # 2.5 GB: 100 s at 200 Mbit/s
    found = predict(Instances(type="c8g.4xlarge"), workload)
    assert found.makespan_s.median >= 130
    assert predict(LambdaFunction(memory_mb=1769, arch="arm64"), workload).makespan_s.low >= 100
    quick = predict(Instances(type="c8g.4xlarge"), workload, setting(uplink_mbit=10_000.0))
    assert quick.makespan_s.median < found.makespan_s.median - 50


# --- Lambda ------------------------------------------------------------------------------------


def test_lambda_costs_its_gb_seconds_and_requests() -> None:
    found = predict(LambdaFunction(memory_mb=1769, arch="x86_64"), work(tasks=200, seconds=10.0))
    by_name = {item.name: item for item in found.items}
    compute = by_name["lambda.gb_s.x86_64"]
    least = 200 * 10.0 * 1769 / 1024
    assert least * 0.95 < float(compute.units) < least * 1.5  # and cold starts
    assert float(compute.usd_per_run) == pytest.approx(float(compute.units) * 0.0000166667)
    assert 200 <= by_name["lambda.request.x86_64"].units <= 230
    assert by_name["logs.ingested_gb"].usd_per_run > 0


def test_a_smaller_function_takes_longer_for_about_the_same_money() -> None:
    small, large = (
        predict(LambdaFunction(memory_mb=size, arch="x86_64"), work(tasks=200, seconds=20.0))
        for size in (512, 1769)
    )
    assert small.task_s == pytest.approx(large.task_s * 1769 / 512)
    assert 2.5 < small.makespan_s.median / large.makespan_s.median < 4
    assert 0.8 < small.usd.median / large.usd.median < 1.1


def test_memory_above_a_vcpu_brings_nothing_to_a_single_thread() -> None:
    one, two = (
        predict(LambdaFunction(memory_mb=size, arch="x86_64"), work(tasks=100, seconds=20.0))
        for size in (1769, 3538)
    )
    assert one.task_s == two.task_s
    assert two.usd.median > Decimal("1.8") * one.usd.median
    threads = predict(
        LambdaFunction(memory_mb=3538, arch="x86_64"), work(tasks=100, seconds=20.0, threads=2)
    )
    assert threads.task_s == pytest.approx(20.0)


def test_a_smaller_quota_takes_longer() -> None:
    place = LambdaFunction(memory_mb=1769, arch="x86_64")
    found = [
        predict(place, work(tasks=2000, seconds=5.0), setting(concurrency=quota)).makespan_s.median
        for quota in (10, 100, 1000)
    ]
    assert found[0] > 5 * found[1] > 15 * found[2]


@pytest.mark.parametrize("tasks", [500, 3000])
def test_a_part_that_stands_for_all_comes_near_the_whole(
    tasks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = LambdaFunction(memory_mb=1769, arch="x86_64")
    workload = work(tasks=tasks, seconds=4.0, spread=0.3)
    part = predict(place, workload)
    monkeypatch.setattr("fanout.cost.lambda_runs._MOST_TASKS", 100_000)
    whole = predict(place, workload)
    assert part.usd.median == pytest.approx(whole.usd.median, rel=Decimal("0.08"))
    assert part.makespan_s.median == pytest.approx(whole.makespan_s.median, rel=0.25)


@pytest.mark.parametrize(("tasks", "seconds"), [(10**6, 0.01), (10**9, 1.0), (10**12, 12.0)])
def test_a_million_million_tasks_take_their_work_over_the_quota(tasks: int, seconds: float) -> None:
    found = predict(LambdaFunction(memory_mb=1769, arch="x86_64"), work(tasks, seconds))
    ideal_s = tasks * seconds / 1000
    assert ideal_s < found.makespan_s.median < ideal_s * 1.15 + 15
    compute = next(item for item in found.items if item.name.startswith("lambda.gb_s"))
    ideal_gb_s = tasks * seconds * 1769 / 1024
    assert ideal_gb_s < float(compute.units) < ideal_gb_s * 1.15 + 10_000


def test_tiers_of_a_month_make_much_use_cheaper() -> None:
    place = LambdaFunction(memory_mb=1769, arch="x86_64")
    seldom = predict(place, work(tasks=10**6, seconds=10.0, runs_per_month=1.0))
    often = predict(place, work(tasks=10**6, seconds=10.0, runs_per_month=1000.0))
    assert often.usd.median < seldom.usd.median * Decimal("0.95")


def test_the_free_tier_counts_once_in_a_month_if_it_is_asked_for() -> None:
    place = LambdaFunction(memory_mb=1024, arch="x86_64")
    workload = work(tasks=100, seconds=10.0)
    free = predict(place, workload, setting(is_free_tier=True))
    assert {item.name for item in free.items if item.usd_per_run} == {"logs.ingested_gb"}
    assert predict(place, workload).usd.median > free.usd.median


def test_a_task_that_is_too_long_for_lambda_is_told_and_the_rest_answered() -> None:
    workload = work(tasks=100, seconds=1000.0)
    found = predict(LambdaFunction(memory_mb=1769, arch="x86_64"), workload)
    assert found.why_not == "a task takes 1,000 s, Lambda ends it after 900 s"
    assert predict(Instances(type="c8g.4xlarge"), workload).is_possible
    small = predict(LambdaFunction(memory_mb=512, arch="x86_64"), work(tasks=100, seconds=300.0))
    assert "takes 1,037 s" in small.why_not
    tail = predict(
        LambdaFunction(memory_mb=1769, arch="x86_64"), work(tasks=1000, seconds=400.0, spread=0.5)
    )
    assert "of 1,000 tasks take more than 900 s" in tail.why_not
    need = predict(LambdaFunction(memory_mb=512, arch="x86_64"), work(memory_mb=600))
    assert need.why_not == "a task needs 600 MB"


# --- what is uncertain --------------------------------------------------------------------------


def test_what_is_not_known_of_speeds_and_means_widens_bands() -> None:
    place = Instances(type="c8g.4xlarge")
    known = setting(speeds=Speeds(given={"c8g": 1.625}))
    narrow = predict(place, work(tasks=10_000), known).makespan_s
    wide = predict(place, work(tasks=10_000)).makespan_s
    assert narrow.high / narrow.low < 1.05
    assert wide.high / wide.low == pytest.approx(math.exp(2 * 1.28 * 0.15), rel=0.1)
    probed = TaskTimes(mean_s=10.0, sigma=0.8, probes=5)
    few = predict(Local(), Workload(tasks=10_000, times=probed)).makespan_s
    assert few.high / few.low > 2


def test_times_of_lambda_itself_need_no_conversion() -> None:
    given = setting()
    speed = given.speeds.of_lambda("x86_64")
    assert lucks(work(), given, speed, 5) == [1.0] * 5
    arm = lucks(work(), given, given.speeds.of_lambda("arm64"), 5)
    assert arm == sorted(arm)
    assert arm[2] == pytest.approx(1.0)


def test_a_band_is_of_values_that_were_seen() -> None:
    assert band_of([float(value) for value in range(1, 11)]) == Band(1.0, 5.0, 9.0)
    assert band_of([3.0]) == Band(3.0, 3.0, 3.0)


# --- places -------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
def test_a_place_is_read_as_it_is_written(place: Place) -> None:
    assert place_of(place.name, us_east_1()) == place


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("lambda", "give local, lambda:MB"),
        ("lambda:64", "128 to 10,240"),
        ("lambda:1769:arm", "neither x86_64 nor arm64"),
        ("lambda:many", "no whole number"),
        ("ec2:c8g.4xlarg", "did you mean c8g.4xlarge"),
        ("ec2:c8g.4xlarge:0", "0 machines"),
        ("ec2:c8g.4xlarge:1000000", "1 to 1,000"),
        ("fargate:3:8", "no 3 vCPUs"),
        ("fargate:4:7", "8 to 30 GB"),
        ("azure", "no place to run"),
        ("", "no place to run"),
        ("local:2", "no place to run"),
    ],
)
def test_what_is_no_place_is_refused_with_a_hint(text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        place_of(text, us_east_1())


@pytest.mark.parametrize(
    ("threads", "memory_mb", "sizes"),
    [
        (1, None, [512, 1024, 1769]),
        (1, 600, [1024, 1769]),
        (1, 2000, [2048]),
        (1, 20_000, [10_240]),
        (2, None, [1769, 3538]),
        (16, None, [1769, 3538, 5307, 7076, 8845, 10_240]),
    ],
)
def test_sizes_of_lambda_follow_threads_and_memory(
    threads: int, memory_mb: int | None, sizes: list[int]
) -> None:
    assert lambda_sizes(work(threads=threads, memory_mb=memory_mb)) == sizes


def test_usual_places_are_current_whole_machines_with_enough_memory() -> None:
    book = us_east_1()
    workload = work(tasks=10_000)
    found = usual_places(workload, book, seconds=workload.core_s)
    types = {place.type for place in found if isinstance(place, Instances)}
    assert {name.partition(".")[0] for name in types} == {"c8a", "c8g", "c8i", "c9g"}
    for name in types:
        instance = book.instance(name)
        assert not instance.is_burstable
        assert not instance.is_bare_metal
        assert not instance.gpus
    assert all(
        place.count * book.instance(place.type).vcpus <= 1024
        for place in found
        if isinstance(place, Instances)
    )
    greedy = usual_places(work(memory_mb=3000), book, seconds=1000.0)
    assert {place.type[0] for place in greedy if isinstance(place, Instances)} == {"m"}
    arm = usual_places(workload, book, arches=["arm64"], seconds=workload.core_s)
    assert {place.arch for place in arm if isinstance(place, LambdaFunction)} == {"arm64"}


def test_types_that_are_named_are_taken_instead() -> None:
    found = usual_places(work(), us_east_1(), types=["t3.large"], seconds=1000.0)
    assert {place.type for place in found if isinstance(place, Instances)} == {"t3.large"}


# --- money --------------------------------------------------------------------------------------


@given(st.decimals("0", "1e9", places=6), st.decimals("0.001", "1e6", places=3))
def test_runs_of_a_month_add_up(units: Decimal, runs: Decimal) -> None:
    usage = {"lambda.gb_s.x86_64": units, "lambda.request.x86_64": Decimal(3)}
    items = priced(usage, us_east_1(), runs_per_month=runs)
    rounding = Decimal("1e-9") * len(items)
    assert abs(per_run(items) - per_month(items) / runs) <= rounding


def test_a_price_that_is_missing_is_never_another_regions() -> None:
    from fanout.cost.books import shipped_book

    tokyo = shipped_book("ap-northeast-1")
    assert tokyo is not None
    with pytest.raises(PriceMissingError, match="ap-northeast-1"):
        priced({"ec2:c8g.4xlarge": Decimal(1)}, tokyo, runs_per_month=Decimal(1))
    found = usual_places(work(), tokyo, seconds=1000.0)
    assert {type(place) for place in found} <= {Local, LambdaFunction, FargateTasks}
    prices = {name: price for name, price in tokyo.prices.items() if "arm64" not in name}
    without = setting(book=replace(tokyo, prices=prices))
    told = predict(LambdaFunction(memory_mb=512, arch="arm64"), work(), without).why_not
    assert told == "no price of lambda.gb_s.arm64 is known in ap-northeast-1"
    assert predict(LambdaFunction(memory_mb=512, arch="x86_64"), work(), without).is_possible


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"timeout_s": 901.0}, "after 900 s"),
        ({"timeout_s": 0.0}, "1 to 900"),
        ({"timeout_s": math.nan}, "1 to 900"),
        ({"concurrency": 0}, "must be 1"),
        ({"spot_discount": Decimal(1)}, "0 to below 1"),
        ({"interruptions_per_h": -1.0}, "0 to 60"),
        ({"interruptions_per_h": math.nan}, "0 to 60"),
        ({"uplink_mbit": 0.0}, "above 0"),
        ({"uplink_mbit": math.nan}, "above 0"),
    ],
)
def test_a_setting_that_can_not_be_is_refused(changes: dict[str, object], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        setting(**changes)
