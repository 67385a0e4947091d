"""The vocabulary of a run: what happens (events) and what is to be done (actions).

The scheduler takes events and returns actions; the executor performs them. Observers (progress,
`on_event=`) see both, in order, between a `RunStarted` and a `RunEnded`: nothing else knows more
about a run, and no observer can change it. All are about attempts or batches of tasks, never about
one task alone, so that a map of a million small tasks is not a million calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanout.retry import Failure
    from fanout.tasks import AttemptReport, Outcome


# ---- events: what happened ----


@dataclass(frozen=True, slots=True)
class Offered:
    """The input gave `count` more chunks, with indices from `first`; 1 is a usual weight.

    The outcomes of some may be `known` from an earlier run: these tasks are settled. Those of
    others are known, too, but come `later`, since they have to be read first (`Recalled`).
    """

    first: int
    count: int
    weights: Sequence[float] | None = None
    known: Sequence[Outcome[Any]] = ()
    later: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Recalled:
    """Outcomes of an earlier run have been read; tasks whose outcome is `lost` are to be done."""

    outcomes: Sequence[Outcome[Any]]
    lost: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class InputEnded:
    """The input has no more chunks."""


@dataclass(frozen=True, slots=True)
class AttemptStarted:
    """A worker took the attempt; its time runs from here."""

    attempt: int


@dataclass(frozen=True, slots=True)
class AttemptAnswered:
    """The attempt came back with an outcome for each of its tasks, failed ones included.

    Except for those that are `left`: the worker stopped before them, having no time or no room in
    its reply; they are sent again.
    """

    attempt: int
    outcomes: Sequence[Outcome[Any]]
    report: AttemptReport | None
    left: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """The attempt brought nothing back."""

    attempt: int
    failure: Failure


@dataclass(frozen=True, slots=True)
class Consumed:
    """The caller took `count` delivered outcomes (streams only)."""

    count: int


@dataclass(frozen=True, slots=True)
class Ticked:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The caller wants no more."""


Event: TypeAlias = (
    Offered
    | Recalled
    | InputEnded
    | AttemptStarted
    | AttemptAnswered
    | AttemptFailed
    | Consumed
    | Ticked
    | Cancelled
)


# ---- actions: what is to be done ----


@dataclass(frozen=True, slots=True)
class Launch:
    """Send these tasks to the backend as one attempt.

    Attributes:
        attempt: Its number.
        tasks: What it carries.
        soft_s: The worker shall begin no further task once it has run for so long; what is left is
            sent again. None: it runs them all.
        hard_s: The worker shall end a task that still runs then. None: it may take its time.
        ends_s: Its process shall end itself, so long after it has the request. None: never.
        is_escalated: It goes to the larger function.
        covers: The attempt that has these tasks already, and is silent; None: it is the first.
    """

    attempt: int
    tasks: Sequence[int]
    soft_s: float | None = None
    hard_s: float | None = None
    ends_s: float | None = None
    is_escalated: bool = False
    covers: int | None = None


@dataclass(frozen=True, slots=True)
class Deliver:
    """Hand these outcomes to the caller; they are final."""

    outcomes: Sequence[Outcome[Any]]


@dataclass(frozen=True, slots=True)
class Retry:
    """These tasks failed and will be tried again after `delay_s`; for observers only."""

    tasks: Sequence[int]
    failure: Failure
    delay_s: float


@dataclass(frozen=True, slots=True)
class Ignore:
    """Nothing of this attempt is wanted any more: stop it if that is possible."""

    attempt: int


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Send `Ticked` at this time, seconds; replaces the one before."""

    at_s: float


@dataclass(frozen=True, slots=True)
class Finish:
    """The run is over. `failure` is set when it had to end before every task was settled."""

    failure: Failure | None = None


Action: TypeAlias = Launch | Deliver | Retry | Ignore | WakeAt | Finish


# ---- frame: for observers ----


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted:
    """The first thing that observers see of a run.

    Attributes:
        run: Identifies the run.
        kernel: Name of the kernel.
        backend: Name of the backend.
        concurrency: Attempts that may be in flight at once.
        total: Number of tasks; None when the input doesn't say.
        is_compiled_there: Whether it is known that numba compiles the kernel in each environment.
        is_consumed: Whether the caller says which outcomes it has taken.
        max_gb_s: What it may cost, GB-seconds; None: whatever it takes.
        max_usd: What it may cost, US dollars; None: whatever it takes.
    """

    run: str
    kernel: str
    backend: str
    concurrency: int
    total: int | None
    is_compiled_there: bool = False
    is_consumed: bool = False
    max_gb_s: float | None = None
    max_usd: float | None = None


@dataclass(frozen=True, slots=True)
class RunEnded:
    """The last thing that observers see; `error` is what the caller will see raised, if any."""

    error: BaseException | None = None


RunEvent: TypeAlias = RunStarted | Event | Action | RunEnded
