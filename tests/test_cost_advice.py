"""What is made of an estimate: the front, the break-even, and sentences that hold."""

from __future__ import annotations

import re
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.cost.advice import best_function, break_even_text, front, is_surely_less
from fanout.cost.break_even import (
    break_even,
    kept_on,
    lambda_vcpu_hour,
    unit_price,
    usd_of_data,
    usd_per_month,
)
from fanout.cost.estimate import Estimate, estimated, predicted, price_dates
from fanout.cost.machines import Speed, Speeds
from fanout.cost.places import Instances, LambdaFunction, Local, Place
from fanout.cost.prediction import Band, Prediction
from fanout.cost.wording import digits, duration, percent, rate, rate_band, some
from fanout.cost.workload import Basis
from tests.cost_checks import new_rng, setting, us_east_1, work

FUNCTION = LambdaFunction(memory_mb=1769, arch="arm64")
MACHINE = Instances(type="c8g.4xlarge")
PLACES: tuple[Place, ...] = (Local(), FUNCTION, MACHINE, Instances(type="c8g.xlarge"))


def row(time_s: float, usd: str, place: Place = FUNCTION, **changes: Any) -> Prediction:
    amount = Decimal(usd)
    usual: dict[str, Any] = {
        "place": place,
        "what": f"{time_s:g} s for {usd}",
        "makespan_s": Band(time_s, time_s, time_s),
        "usd": Band(amount, amount, amount),
        "speed": Speed(value=1.0, sigma=0.0, basis=Basis.GIVEN, source=""),
    }
    return Prediction(**{**usual, **changes})


def estimate(places: tuple[Place, ...] = PLACES, given: Any = None, **of_work: Any) -> Estimate:
    return estimated(work(**of_work), given or setting(), places, new_rng)


def told(found: Estimate) -> str:
    return "\n".join(found.advice)


# --- the front ----------------------------------------------------------------------------------


def test_the_front_is_what_nothing_beats_in_both() -> None:
    fast, middle, cheap = row(10, "3"), row(20, "2"), row(90, "0")
    worse = [row(20, "2.5"), row(30, "2"), row(100, "1"), row(11, "3")]
    assert front([cheap, *worse, fast, middle]) == [fast, middle, cheap]


def test_what_is_cheaper_and_hardly_slower_takes_the_place() -> None:
    fast, same = row(10.0, "3"), row(10.1, "2")
    assert front([fast, same]) == [same]


def test_what_is_not_possible_is_on_no_front() -> None:
    assert front([row(10, "3"), row(1, "0", why_not="too long")]) == [row(10, "3")]
    assert front([]) == []


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 50)), min_size=1, max_size=30))
def test_every_place_is_beaten_by_one_of_the_front(pairs: list[tuple[int, int]]) -> None:
    rows = [row(float(time_s), str(usd)) for time_s, usd in pairs]
    found = front(rows)
    for one in rows:
        assert any(
            best.makespan_s.median <= one.makespan_s.median * 1.03**5
            and best.usd.median <= one.usd.median
            for best in found
        )
    times = [one.makespan_s.median for one in found]
    costs = [one.usd.median for one in found]
    assert times == sorted(times)
    assert costs == sorted(costs, reverse=True)


# --- claims -------------------------------------------------------------------------------------


def test_only_what_is_so_in_nine_of_ten_cases_is_said() -> None:
    sure, unsure = (
        Speed(value=1.0, sigma=sigma, basis=Basis.ASSUMED, source="") for sigma in (0.01, 0.6)
    )
    one, other = row(10, "1", speed=sure), row(20, "2", speed=sure)
    assert is_surely_less(1.0, 2.0, one, other)
    assert not is_surely_less(1.0, 2.0, one, replace(other, speed=unsure))
    assert not is_surely_less(1.0, 1.01, one, other)
    here = row(20, "2", place=Local(), speed=sure)
    assert is_surely_less(1.0, 2.0, one, here)
    assert not is_surely_less(1.0, 2.0, one, here, base_sigma=0.7)


def test_a_machine_is_called_cheaper_only_if_its_speed_is_known_well_enough() -> None:
    places: tuple[Place, ...] = (FUNCTION, Instances(type="c8g.xlarge"))
    known = setting(speeds=Speeds(given={"c8g": 1.0, "lambda-arm64": 1.0}))
    text = told(estimate(places, known, tasks=1000, seconds=10.0))
    assert re.search(
        r"c8g.xlarge on demand, started for each run, takes .* % less than Lambda", text
    )
    slow = setting(speeds=Speeds(given={"c8g": 0.45}))  # Lambda's speed is known to 15 %
    text = told(estimate(places, slow, tasks=1000, seconds=10.0))
    assert "which of the two costs less is not certain" in text
    slower = setting(speeds=Speeds(given={"c8g": 0.2}))
    text = told(estimate(places, slower, tasks=1000, seconds=10.0))
    assert "Lambda costs less, and nothing has to be started and stopped" in text


def test_short_work_is_done_here_and_the_advice_says_so() -> None:
    text = told(estimate(tasks=4, seconds=0.5))
    assert "Here (this machine, 4 cores) it takes 0.5 s and costs nothing." in text
    assert "Here it is done sooner: starting environments takes longer than the work." in text
    assert "times as fast" not in text


def test_data_that_takes_long_on_its_way_is_named() -> None:
    text = told(estimate(tasks=1000, seconds=0.1, bytes_in=1_000_000))
    assert "Here it is done sooner: chunks and results take 40 s between here and AWS." in text


def test_a_small_quota_is_named_where_it_is_the_reason() -> None:
    text = told(estimate(given=setting(concurrency=1), tasks=40, seconds=10.0))
    assert "Here it is done sooner: there are more cores here than the quota allows" in text


def test_long_work_is_faster_on_lambda_by_a_factor() -> None:
    text = told(estimate(tasks=1000, seconds=10.0))
    assert re.search(r"That is about \d+ times as fast as here\.", text)


def test_what_lambda_can_not_do_is_told_with_the_reason() -> None:
    text = told(estimate(tasks=100, seconds=2000.0))
    assert "Lambda is not possible: a task takes 2,000 s, Lambda ends it after 900 s" in text
    assert "c8g.xlarge on demand" in text
    assert "break-even" not in text


def test_short_tasks_are_grouped_and_long_ones_should_be_smaller() -> None:
    assert re.search(
        r"Tasks are short there \(0\.05 s\): fanout sends about 40 tasks",
        told(estimate(seconds=0.05)),
    )
    assert "smaller chunks are safer" in told(estimate(seconds=600.0))
    assert "smaller chunks" not in told(estimate(seconds=60.0, tasks=2000))


def test_the_quota_and_its_unused_part_are_named() -> None:
    assert "No more than 100 of 1,000 environments are used" in told(estimate(tasks=100))
    text = told(estimate(tasks=100_000))
    assert "The quota of 1,000 is what limits it: each environment does 100 tasks" in text


def test_if_tasks_take_twice_as_long_the_break_even_is_about_half() -> None:
    text = told(estimate(tasks=1000, seconds=20.0, runs_per_month=30.0))
    before = re.search(r"costs less below ([\d.]+) runs a day", text)
    after = re.search(r"twice as long: .* on Lambda, break-even at ([\d.]+) runs a day", text)
    assert before is not None
    assert after is not None
    assert float(after[1]) == pytest.approx(float(before[1]) / 2, rel=0.1)
    text = told(estimate(tasks=100, seconds=500.0))
    assert "If tasks take twice as long, it can't run there" in text


# --- break-even ---------------------------------------------------------------------------------


def even_of(tasks: int = 1000, seconds: float = 12.0, **changes: Any) -> Any:
    given, workload = setting(**changes), work(tasks=tasks, seconds=seconds)
    both = [predicted(place, workload, given, new_rng) for place in (FUNCTION, MACHINE)]
    return break_even(both[0], both[1], workload, given), given


def test_at_the_break_even_both_cost_the_same() -> None:
    even, given = even_of()
    lambda_usd = usd_per_month(even.function, even.runs_per_month, given)
    assert float(lambda_usd) == pytest.approx(float(even.usd_per_month), rel=1e-5)
    assert even.usd_per_month == Decimal("0.63808") * 730
    assert even.low < even.runs_per_month < even.high


def test_what_data_costs_moves_no_break_even() -> None:
    given, workload = setting(), work(tasks=1000, seconds=12.0)
    with_data = replace(workload, bytes_in=4_000_000, bytes_out=4_000_000)
    found = []
    for one in (workload, with_data):
        both = [predicted(place, one, given, new_rng) for place in (FUNCTION, MACHINE)]
        found.append(break_even(both[0], both[1], one, given))
    assert usd_of_data(found[1].function) > Decimal("0.3")
    assert usd_of_data(found[0].function) == 0
    # It takes a tenth of a second more to read and write them.
    assert found[1].runs_per_month == pytest.approx(found[0].runs_per_month, rel=0.05)
    assert found[1].low == pytest.approx(found[0].low, rel=0.1)


def test_the_free_tier_moves_the_break_even_up_by_what_it_gives() -> None:
    plain, _ = even_of(seconds=60.0)
    free, _ = even_of(seconds=60.0, is_free_tier=True)
    gift_usd = 400_000 * 0.0000133334
    runs = gift_usd / float(plain.function.usd.median)
    assert free.runs_per_month - plain.runs_per_month == pytest.approx(runs, rel=0.1)


def test_utilisation_is_how_busy_the_machine_is_then() -> None:
    even, _ = even_of(speeds=Speeds(given={"c8g": 1.0, "lambda-arm64": 1.0}))
    assert even.busy_s == pytest.approx(1000 * 12 / 16)
    share = even.runs_per_month * even.busy_s / (730 * 3600)
    assert even.utilisation == pytest.approx(share)
    # By prices alone 48 %; cold starts, slow environments and requests make Lambda dearer.
    assert 0.38 < even.utilisation < 0.48


def test_a_machine_that_is_too_slow_never_pays() -> None:
    even, _ = even_of(speeds=Speeds(given={"c8g": 0.3, "lambda-arm64": 1.0}))
    assert not even.is_reached
    assert "however often it runs" in break_even_text(even)


def test_a_break_even_within_minutes_says_that_environments_stay_warm() -> None:
    often, _ = even_of(tasks=10, seconds=0.1)
    assert "they stay warm" in break_even_text(often)
    seldom, _ = even_of()
    assert "they stay warm" not in break_even_text(seldom)


@pytest.mark.parametrize(("seconds", "type_name"), [(1.0, "c8g.xlarge"), (60.0, "c8g.4xlarge")])
def test_the_machine_to_keep_is_the_smallest_that_does_a_run_in_an_hour(
    seconds: float, type_name: str
) -> None:
    found = estimate(
        (*PLACES, Instances(type="c8i.4xlarge"), Instances(type="c8g.xlarge", is_spot=True)),
        tasks=1000,
        seconds=seconds,
    )
    best = kept_on(found.predictions, found.setting)
    assert best is not None
    assert best.place == Instances(type=type_name)
    assert kept_on([], found.setting) is None


def test_the_best_function_has_the_least_product_of_time_and_money() -> None:
    rows = [row(10, "3"), row(20, "1"), row(60, "0.5"), row(1, "1", place=MACHINE)]
    assert best_function(rows) == rows[1]
    assert best_function(rows[3:]) is None


def test_unit_prices_are_of_a_vcpu_and_an_hour() -> None:
    book = us_east_1()
    found = unit_price(book, "c8g.xlarge")
    assert found.usd == Decimal("0.15952") / 4
    assert found.lambda_usd == lambda_vcpu_hour(book, "arm64")
    assert found.ratio * found.utilisation == pytest.approx(1.0)


# --- an estimate as a whole ---------------------------------------------------------------------


def test_every_input_says_whether_it_was_given_measured_published_or_assumed() -> None:
    spot = Instances(type="c8i.xlarge", is_spot=True)
    found = estimate((*PLACES, spot), memory_mb=300, bytes_in=100)
    by_name = {one.what: one for one in found.inputs}
    assert by_name["time of a task"].basis is Basis.GIVEN
    assert by_name["speed of a vCPU of Lambda, arm64"].basis is Basis.PUBLISHED
    assert by_name["speed of a vCPU of c8i"].basis is Basis.ASSUMED
    assert {"boot", "spot", "uplink", "memory of a task", "runs"} <= by_name.keys()
    assert all(one.source and one.value for one in found.inputs)
    alone = estimate((Local(),))
    assert not {"boot", "spot", "uplink"} & {one.what for one in alone.inputs}


def test_prices_that_were_used_have_their_dates_the_oldest_first() -> None:
    dated = price_dates(estimate())
    assert "ec2:c8g.4xlarge" in dict(dated)
    days = [day for _, day in dated]
    assert days == sorted(days)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.042, "0.042 s"),
        (0.5, "0.5 s"),
        (7.26, "7.3 s"),
        (119.4, "119 s"),
        (100.0, "100 s"),
        (125.0, "2 min 5 s"),
        (595.0, "9 min 55 s"),
        (955.0, "16 min"),
        (3599.9, "1 h"),
        (6120.0, "1 h 42 min"),
        (86_400.0, "24 h"),
        (400_000.0, "4.6 days"),
        (1e12, "31,688 years"),
    ],
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("runs", "text"),
    [
        (3.0, "3.0 runs a month"),
        (1.0, "1 run a month"),
        (730.0 / 24 * 14, "14 runs a day"),
        (730.0 * 5, "5.0 runs an hour"),
        (730.0 * 60 * 1000, "1,000 runs a minute"),
    ],
)
def test_rates_are_for_people(runs: float, text: str) -> None:
    assert rate(runs) == text


def test_bands_shares_and_counts_are_for_people() -> None:
    assert rate_band(11 * 30.4167, 14 * 30.4167, 18 * 30.4167) == "11 to 18"
    assert (percent(0.462), percent(0.004)) == ("46 %", "0.4 %")
    assert (some(1, "task"), some(1200, "task")) == ("1 task", "1,200 tasks")
    assert [digits(value) for value in (1234.5, 12.3, 1.26, 0.126)] == [
        "1,234",
        "12",
        "1.3",
        "0.13",
    ]
