"""A model that is fitted to a run gives back what made the run, and says what it could not tell."""

from __future__ import annotations

import random
import statistics
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from fanout.errors import UsageError
from fanout.fitting import Fit, fit
from fanout.fleet import Fleet, FleetModel, Refusal
from fanout.paces import paces_of
from fanout.past_run import PastAttempt, PastRun, PastTask, busy_seconds, kernel_seconds, observed
from fanout.simulator import Work, simulate
from tests.fitting_checks import recorded

if TYPE_CHECKING:
    from collections.abc import Callable

# Without noise but for what a test adds.
QUIET = FleetModel(
    concurrency=60,
    launches_per_s=500.0,
    cold_median_s=3.0,
    overhead_s=0.1,
    wire_s=0.05,
    memory_mb=1024,
    timeout_s=120.0,
    idle_s=300.0,
).quiet()
WORK = Work(tasks=3000, mean_s=1.0, kind="lognormal", spread=0.4)


def sources(found: Fit) -> dict[str, str]:
    return {quantity.name: quantity.source for quantity in found.quantities}


def medians(work: Work, fleet: FleetModel, limit: int | None = None) -> tuple[float, float]:
    runs = [simulate(work, fleet, rng=random.Random(seed), limit=limit) for seed in range(7)]
    return (
        statistics.median(run.makespan_s for run in runs),
        statistics.median(run.gb_s for run in runs),
    )


# ---- there and back ----


@pytest.mark.parametrize(
    ("fleet", "limit"),
    [
        (QUIET, None),
        (replace(QUIET, cold_sigma=0.3, pace=(0.8, 1.2)), None),
        (replace(QUIET, slow_share=0.15, slow_factor=(2.0, 3.0), cold_sigma=0.2), None),
        (replace(QUIET, crash_per_s=0.004), None),
        (replace(QUIET, lost_share=0.03), None),
        (replace(QUIET, concurrency=25), 60),  # the client takes the quota for more than it is
        (replace(QUIET, refused_share=0.1), None),
        (replace(QUIET, warm=40), None),
    ],
    ids=["quiet", "paces", "slow", "crashes", "lost", "quota", "refused", "warm"],
)
def test_a_fitted_model_takes_and_costs_what_the_true_one_does(
    fleet: FleetModel, limit: int | None
) -> None:
    true_s, true_gb_s = medians(WORK, fleet, limit)
    ratios = []
    for seed in range(3):
        run, past = recorded(WORK, fleet, seed=seed, limit=limit)
        found = fit(past)
        assert found.observed.makespan_s == pytest.approx(run.makespan_s, rel=0.02)
        fitted_s, fitted_gb_s = medians(found.work, found.fleet, found.limit)
        ratios.append((fitted_s / true_s, fitted_gb_s / true_gb_s))
    # The tasks of one run, drawn from a distribution, are not those of another.
    assert statistics.median(of_time for of_time, _ in ratios) == pytest.approx(1.0, abs=0.1)
    assert statistics.median(of_cost for _, of_cost in ratios) == pytest.approx(1.0, abs=0.05)


def test_what_a_quiet_fleet_takes_is_recovered() -> None:
    run, past = recorded(WORK, QUIET)
    found = fit(past)
    fleet = found.fleet
    assert (fleet.concurrency, fleet.memory_mb, fleet.timeout_s) == (60, 1024, 120.0)
    assert fleet.overhead_s == pytest.approx(QUIET.overhead_s, rel=0.01)
    assert fleet.wire_s == pytest.approx(QUIET.wire_s, rel=0.01)
    assert fleet.cold_median_s == pytest.approx(QUIET.cold_median_s, rel=0.01)
    assert fleet.cold_sigma == pytest.approx(0.0, abs=0.01)
    assert fleet.launches_per_s == pytest.approx(QUIET.launches_per_s, rel=0.1)
    assert fleet.pace == pytest.approx((1.0, 1.0), abs=0.05)
    assert (fleet.warm, fleet.transient_share) == (0, 0.0)
    assert len(found.work.measured_s) == 3000
    assert found.gb_s == pytest.approx(run.gb_s, rel=0.01)


def test_noise_is_recovered() -> None:
    fleet = replace(
        QUIET,
        cold_sigma=0.3,
        pace=(0.8, 1.2),
        slow_share=0.2,
        slow_factor=(2.5, 2.5),
        lost_share=0.05,
        crash_per_s=0.003,
    )
    run, past = recorded(WORK, fleet, seed=1)
    found = fit(past).fleet
    assert found.cold_sigma == pytest.approx(0.3, abs=0.12)
    assert found.pace[0] == pytest.approx(0.8, abs=0.1)
    assert found.pace[1] == pytest.approx(1.2, abs=0.1)
    assert found.slow_share == pytest.approx(0.2, abs=0.1)
    assert statistics.fmean(found.slow_factor) == pytest.approx(2.5, abs=0.6)
    assert found.lost_share == pytest.approx(0.05, abs=0.03)
    assert found.crash_per_s == pytest.approx(0.003, abs=0.0015)
    assert found.crash_share == 0.0
    assert run.cold_starts >= fit(past).observed.cold_starts > 50


def test_times_of_tasks_are_those_in_an_environment_of_pace_1() -> None:
    work = Work(tasks=2000, mean_s=0.5)
    _, past = recorded(work, replace(QUIET, slow_share=0.2, slow_factor=(3.0, 3.0)))
    assert max(kernel_seconds(past)) == pytest.approx(1.5)
    seconds = fit(past).work.measured_s
    assert max(seconds) == pytest.approx(0.5, rel=0.02)
    assert min(seconds) == pytest.approx(0.5, rel=0.02)


def test_the_quota_is_what_ran_when_the_service_refused_more() -> None:
    _, past = recorded(WORK, replace(QUIET, concurrency=25), limit=60)
    found = fit(past)
    assert (found.fleet.concurrency, found.limit) == (25, 60)
    assert found.observed.throttles > 0
    assert found.fleet.refused_share == pytest.approx(0.0, abs=0.02)


def test_what_is_refused_below_the_quota_is_a_share() -> None:
    _, past = recorded(WORK, replace(QUIET, refused_share=0.2))
    found = fit(past)
    assert found.fleet.concurrency == 60
    assert found.fleet.refused_share == pytest.approx(0.2, abs=0.08)


# ---- what can't be told ----


def test_what_few_data_can_not_tell_stays_as_it_is_assumed() -> None:
    assumed = FleetModel(concurrency=3, crash_share=0.01)
    _, past = recorded(Work(tasks=12, mean_s=1.0), replace(QUIET, concurrency=3))
    found = fit(past, assumed=assumed)
    told = sources(found)
    for name in ("crash_share", "cold_sigma", "cold_tail_share", "launches_per_s"):
        assert told[name] == "assumed", name
        assert getattr(found.fleet, name) == getattr(assumed, name)
    assert (found.fleet.pace, found.fleet.slow_share) == ((1.0, 1.0), 0.0)  # it is in the tasks
    assert told["overhead_s"] == told["cold_median_s"] == "fitted"
    assert told["tasks"] == told["memory_mb"] == told["concurrency"] == "measured"


def test_a_share_of_which_much_was_seen_and_nothing_happened_is_0() -> None:
    _, past = recorded(Work(tasks=3000, mean_s=2.0), QUIET)
    assumed = FleetModel(crash_share=0.5, slow_share=0.5)
    found = fit(past, assumed=assumed)
    assert (found.fleet.crash_share, found.fleet.slow_share) == (0.0, 0.0)
    assert sources(found)["crash_share"] == "fitted"


def test_a_run_of_which_nothing_is_done_is_refused() -> None:
    with pytest.raises(UsageError, match="nothing of the run is done"):
        fit(PastRun(attempts=[], tasks=[]))


def test_a_run_on_this_machine_gives_its_tasks_and_leaves_the_fleet() -> None:
    tasks = [PastTask(task, 0.5 + task, 0, task) for task in range(3)]
    attempts = [
        PastAttempt(0, task, 1, None, 1.0 + task, None, 2.0 + task, 1, "a", 0, 0.0, 0.0, 0.6)
        for task in range(3)
    ]
    assumed = FleetModel(concurrency=7)
    found = fit(PastRun(attempts=attempts, tasks=tasks, is_local=True, limit=4), assumed=assumed)
    assert found.fleet == assumed
    assert (found.gb_s, found.limit) == (None, None)
    assert found.work == Work(tasks=3, measured_s=[0.5, 1.5, 2.5])
    assert found.observed.makespan_s == 3.0
    assert [quantity.name for quantity in found.quantities] == ["tasks"]


def test_a_journal_that_does_not_say_which_attempt_did_a_task_still_gives_the_tasks() -> None:
    _, past = recorded(Work(tasks=200, mean_s=1.0), replace(QUIET, concurrency=10))
    tasks = [task._replace(session=None, attempt=None) for task in past.tasks]
    found = fit(replace(past, tasks=tasks))
    assert list(found.work.measured_s) == [task.kernel_s for task in tasks]
    assert found.fleet.pace == (1.0, 1.0)
    assert sources(found)["overhead_s"] == sources(found)["cold_median_s"] == "assumed"


def test_tasks_that_went_by_weight_are_simulated_in_the_order_in_which_they_went() -> None:
    tasks = [PastTask(task, float(task), 0, 9 - task) for task in range(10)]
    attempts = [PastAttempt(0, n, 1, None, float(n), float(n), n + 1.0, 1) for n in range(10)]
    run = PastRun(attempts=attempts, tasks=tasks, is_weighted=True)
    assert list(fit(run).work.measured_s) == [float(task) for task in reversed(range(10))]
    assert list(fit(replace(run, is_weighted=False)).work.measured_s) == [*map(float, range(10))]


# ---- what was ----


def answered(number: int, launched_s: float, ended_s: float, **told: object) -> PastAttempt:
    row = PastAttempt(0, number, 1, None, launched_s, launched_s, ended_s, 1, "e", 0, 0.0, 0.0, 1.0)
    return row._replace(**told)  # type: ignore[arg-type]


def test_sessions_are_added_up_and_refusals_cost_nothing() -> None:
    attempts = [
        answered(0, 0.0, 5.0, is_cold=1, total_s=2.0),  # 3 s of start, but for the wire
        answered(1, 5.0, 6.5, total_s=1.25),
        answered(2, 5.0, 5.1, done=0, total_s=None, failure="throttled: ReservedF…"),
        answered(3, 6.0, 9.0, done=0, total_s=None, failure="crashed: killed"),
        answered(0, 0.5, 2.5, session=1, total_s=1.75),
        answered(1, 0.5, 4.5, session=1, total_s=None, covers=0, failure="ignored: settled"),
    ]
    seen = observed(PastRun(attempts=attempts, tasks=[]), wire_s=0.5)
    assert (seen.sessions, seen.makespan_s) == (2, 6.5 + 2.0)
    assert seen.billed_s == 4.5 + 1.25 + 3.0 + 1.75 + 4.0
    assert (seen.attempts, seen.throttles, seen.hedges, seen.open_attempts) == (5, 1, 1, 1)
    assert (seen.cold_starts, seen.most_in_flight) == (1, 2)


def test_what_was_compiled_is_no_time_of_the_tasks() -> None:
    attempts = [answered(0, 0.0, 9.0, compile_s=3.0, done=2), answered(1, 9.0, 10.0)]
    tasks = [PastTask(0, 0.5, 0, 0), PastTask(1, 3.75, 0, 0), PastTask(2, 0.75, 0, 1)]
    run = PastRun(attempts=attempts, tasks=tasks)
    assert kernel_seconds(run) == [0.5, 0.75, 0.75]
    assert busy_seconds(run) == {(0, 0): 1.25, (0, 1): 0.75}


def test_attempts_of_which_a_task_failed_are_not_parted() -> None:
    attempts = [answered(0, 0.0, 9.0, done=2)]
    assert busy_seconds(PastRun(attempts=attempts, tasks=[PastTask(0, 0.5, 0, 0)])) == {}


# ---- paces ----


def spread_over(
    paces: list[float], each: int, seconds: Callable[[int], float]
) -> tuple[list[float], list[str | None]]:
    """Times of tasks that went to environments in turn."""
    count = each * len(paces)
    where = [task % len(paces) for task in range(count)]
    times = [seconds(task) * paces[at] for task, at in enumerate(where)]
    return times, [f"e{at}" for at in where]


def test_a_slow_environment_stands_out_of_unequal_tasks() -> None:
    rng = random.Random(3)
    paces = [1.0] * 9 + [2.5]
    times, where = spread_over(paces, 60, lambda _task: rng.lognormvariate(0.0, 0.5))
    found = paces_of(times, where)
    assert found is not None
    assert len(found.slow) == 1
    assert found.of["e9"] == found.slow[0] == pytest.approx(2.5, rel=0.25)
    assert found.spread < 0.1


def test_chance_is_not_taken_for_pace() -> None:
    rng = random.Random(4)
    none = 0
    for _ in range(20):
        times, where = spread_over([1.0] * 10, 8, lambda _task: rng.lognormvariate(0.0, 1.0))
        found = paces_of(times, where)
        assert found is not None
        assert len(found.slow) <= 1
        none += found.spread == 0.0 and not found.slow
    assert none >= 16


def test_a_trend_along_the_input_is_not_taken_for_pace() -> None:
    times = [0.1 + 0.9 * task / 400 for task in range(400)]
    found = paces_of(times, [f"e{task // 40}" for task in range(400)])
    assert found is not None
    assert not found.slow
    assert all(pace == pytest.approx(1.0, abs=0.2) for pace in found.of.values())


def test_too_few_environments_tell_no_paces() -> None:
    times, where = spread_over([1.0, 2.0, 1.0], 50, lambda _task: 1.0)
    assert paces_of(times, where) is None
    assert paces_of([1.0] * 12, [f"e{task % 6}" for task in range(12)]) is None  # two tasks each
    assert paces_of([1.0] * 12, [None] * 12) is None


# ---- what the fleet has for it ----


def test_warm_environments_serve_first_and_are_no_cold_starts() -> None:
    fleet = Fleet(replace(QUIET, warm=2), random.Random(0))
    inits = []
    for _ in range(3):
        what = fleet.invoke(0.0, [1.0])
        assert not isinstance(what, Refusal)
        inits.append(what.init_s)
        assert what.environment.number in {0, 1, 2}
    assert inits == [0.0, 0.0, 3.0]
    assert fleet.started == 1


def test_the_wire_takes_time_and_is_not_billed() -> None:
    fleet = Fleet(replace(QUIET, warm=1, wire_s=0.5), random.Random(0))
    what = fleet.invoke(10.0, [1.0])
    assert not isinstance(what, Refusal)
    assert what.ends_s == pytest.approx(10.0 + 1.0 + 0.1 + 0.5)
    assert fleet.billed_s == pytest.approx(1.1)


def test_an_environment_dies_by_the_second() -> None:
    fleet = Fleet(replace(QUIET, concurrency=5000, crash_per_s=0.1, burst=5000), random.Random(0))
    ends = [fleet.invoke(0.0, [2.0]) for _ in range(4000)]
    died = sum(not isinstance(end, Refusal) and end.is_last for end in ends)
    assert died / 4000 == pytest.approx(0.18, abs=0.02)  # 1 - exp(-0.2)


def test_a_share_is_refused_though_there_is_room() -> None:
    fleet = Fleet(replace(QUIET, concurrency=5000, refused_share=0.25), random.Random(0))
    answers = [fleet.invoke(0.0, [1.0]) for _ in range(1000)]
    refused = sum(isinstance(answer, Refusal) for answer in answers)
    assert refused / 1000 == pytest.approx(0.25, abs=0.05)
