"""The laws of a shared capacity, under any order of launches, answers, losses and refusals.

`Laws` is a state machine of Hypothesis. It plays the service, the clock and the runs, and keeps
books of its own: what is in flight is what this service was sent, environments are those that it
has made. A second capacity is told the same.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import hypothesis.strategies as st
from hypothesis import Phase, given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fanout.capacity import Capacity, Seat
from fanout.token_bucket import RateLimit
from tests.scheduler_checks import assert_windows_keep

REASONS = st.sampled_from(
    [
        "ConcurrentInvocationLimitExceeded",
        "ReservedFunctionConcurrentInvocationLimitExceeded",
        "FunctionInvocationRateLimitExceeded",
        "CallerRateLimitExceeded",
        None,
    ]
)
LIMITS = st.none() | st.builds(
    RateLimit, per_s=st.sampled_from([0.3, 1.0, 7.0, 100.0]), burst=st.integers(1, 5)
)
WAITS_S = st.sampled_from([None, None, 0.0, 0.3, 5.0])


@dataclass
class Attempt:
    """What the service was sent.

    Attributes:
        run: Whose it is.
        launched_s: When.
        environment: Which runs it; None if it will be refused.
    """

    run: int
    launched_s: float
    environment: str | None


class Laws(RuleBasedStateMachine):
    """A capacity, a twin, and the books."""

    @initialize(limit=st.integers(1, 12), growth=LIMITS, rate=LIMITS, true=st.integers(0, 12))
    def begin(
        self, limit: int, growth: RateLimit | None, rate: RateLimit | None, true: int
    ) -> None:
        self.limit, self.growth, self.rate, self.true = limit, growth, rate, true
        self.both = [Capacity(limit, growth=growth, rate=rate) for _ in range(2)]
        self.now_s = 100.0
        self.runs: list[list[Seat]] = []
        self.has_left: list[bool] = []
        self.in_flight: list[Attempt] = []
        self.launches_s: list[float] = []
        self.made_s: list[float] = []
        self.idle: list[str] = []
        self.join()

    # ---- runs ----

    @precondition(lambda self: len(self.runs) < 4)
    @rule()
    def join(self) -> None:
        self.runs.append([capacity.seat() for capacity in self.both])
        self.has_left.append(False)

    @rule(choice=st.integers(0, 3))
    def leave(self, choice: int) -> None:
        run = choice % len(self.runs)
        if not self.has_left[run]:
            self.has_left[run] = True
            for capacity, seat in zip(self.both, self.runs[run], strict=True):
                capacity.leave(seat)

    @rule(choice=st.integers(0, 3))
    def rest(self, choice: int) -> None:
        for capacity, seat in zip(self.both, self.runs[choice % len(self.runs)], strict=True):
            capacity.rest(seat)

    @rule(choice=st.integers(0, 3), most=st.integers(1, 8))
    def launch(self, choice: int, most: int) -> None:
        run = choice % len(self.runs)
        for _ in range(most):
            if self.has_left[run] or not self.asked(run):
                return
            self.sent(run)

    def asked(self, run: int) -> bool:
        pairs = zip(self.both, self.runs[run], strict=True)
        answers = [capacity.admits(seat, self.now_s) for capacity, seat in pairs]
        assert answers[0] == answers[1]
        return answers[0]

    def sent(self, run: int) -> None:
        for capacity, seat in zip(self.both, self.runs[run], strict=True):
            capacity.launched(seat, self.now_s)
        self.launches_s.append(self.now_s)
        if self.rate is not None:
            assert_windows_keep(self.launches_s, self.rate)
        environment = None
        if sum(attempt.environment is not None for attempt in self.in_flight) < self.true:
            environment = self.taken()
        self.in_flight.append(Attempt(run, self.now_s, environment))
        assert len(self.in_flight) <= self.limit

    def taken(self) -> str:
        """The environment that the service gives to an attempt."""
        if self.idle:
            return self.idle.pop()
        self.made_s.append(self.now_s)
        if self.growth is not None:
            assert_windows_keep(self.made_s, self.growth)
        return f"e{len(self.made_s)}"

    # ---- the service ----

    @precondition(lambda self: self.in_flight)
    @rule(
        choice=st.integers(0, 11),
        is_lost=st.integers(0, 5).map(lambda number: number == 0),
        is_alive=st.booleans(),
        reason=REASONS,
        wait_s=WAITS_S,
    )
    def told(
        self, choice: int, is_lost: bool, is_alive: bool, reason: str | None, wait_s: float | None
    ) -> None:
        attempt = self.in_flight.pop(choice % len(self.in_flight))
        pairs = zip(self.both, self.runs[attempt.run], strict=True)
        if attempt.environment is None:
            for capacity, seat in pairs:
                capacity.refused(seat, reason, wait_s, self.now_s, launched_s=attempt.launched_s)
            return
        if not is_lost or is_alive:
            self.idle.append(attempt.environment)
        for capacity, seat in pairs:
            capacity.ended(seat, self.now_s, None if is_lost else attempt.environment)

    @rule(true=st.integers(0, 12))
    def others_come_and_go(self, true: int) -> None:
        self.true = true

    # ---- time ----

    @rule(step_s=st.sampled_from([1e-3, 0.05, 0.3, 2.0, 400.0]))
    def wait(self, step_s: float) -> None:
        self.now_s += step_s

    @rule()
    def wait_until_due(self) -> None:
        due_s = self.both[0].due_s(self.now_s)
        if due_s is not None:
            assert due_s > self.now_s
            self.now_s = due_s

    # ---- laws ----

    @invariant()
    def the_books_agree(self) -> None:
        capacity, twin = self.both
        assert capacity.in_flight == len(self.in_flight)
        for run, seats in enumerate(self.runs):
            assert seats[0].in_flight == sum(attempt.run == run for attempt in self.in_flight)
        assert 1 <= capacity.usable <= self.limit
        assert capacity.due_s(self.now_s) == twin.due_s(self.now_s)
        assert capacity.environments(self.now_s) == twin.environments(self.now_s)
        assert repr(capacity) == repr(twin)

    @invariant()
    def it_is_never_stuck(self) -> None:
        """An event will come, or a time is due, or the next may launch, alone or in its turn."""
        if self.in_flight or self.both[0].due_s(self.now_s) is not None:
            return
        trial = copy.deepcopy(self.both[0])
        assert trial.admits(trial.turn(self.now_s) or trial.seat(), self.now_s)


TestLaws = Laws.TestCase
TestLaws.settings = settings(
    max_examples=300,
    stateful_step_count=60,
    deadline=None,
    phases=set(Phase) - {Phase.explain},  # its tracing is slow
)


# ---- fairness ----


@given(
    limit=st.integers(1, 20),
    runs=st.integers(2, 5),
    ends=st.lists(st.integers(0, 19), max_size=120),
)
def test_hungry_runs_get_their_share_and_none_starves(
    limit: int, runs: int, ends: list[int]
) -> None:
    """All of them always want more: each takes what it is given, and asks again."""
    capacity = Capacity(limit, growth=None, rate=None)
    seats = [capacity.seat() for _ in range(runs)]
    flights: list[Seat] = []
    passed_over = dict.fromkeys(seats, 0)
    for round_, number in enumerate([0, *ends]):
        if round_:
            capacity.ended(flights.pop(number % len(flights)), 0.0, None)
        for seat in seats:
            while capacity.admits(seat, 0.0):
                if round_:  # so all wait
                    assert seat.in_flight < math.ceil(limit / runs)
                    passed_over = {other: passed_over[other] + 1 for other in seats}
                passed_over[seat] = 0
                capacity.launched(seat, 0.0)
                flights.append(seat)
        assert len(flights) == limit
        assert all(
            passed_over[seat] <= runs * math.ceil(limit / runs)
            for seat in seats
            if not seat.in_flight
        )
