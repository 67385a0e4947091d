"""What errors say, what they carry, and how they are related."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest

from fanout import errors
from fanout.errors import (
    BackendError,
    BudgetExceededError,
    ChunkError,
    EncodeError,
    FanoutError,
    KernelError,
    KernelNotUsableError,
    OutOfMemoryError,
    ResultError,
    TaskError,
    TaskLostError,
    TaskTimeoutError,
    WorkerCrashedError,
)
from fanout.outcomes import Run

ALL: dict[str, type[FanoutError]] = {
    name: kind
    for name, kind in vars(errors).items()
    if inspect.isclass(kind) and issubclass(kind, FanoutError)
}


def drawn_tree() -> dict[str, str | None]:
    """Class and base class of every line of the tree in the module's docstring."""
    tree: dict[str, str | None] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^    ([│├└─ ]*)([A-Z]\w+Error)\b", line)
        if found:
            depth = len(found[1]) // 4
            path = [*path[:depth], found[2]]
            tree[found[2]] = path[depth - 1] if depth else None
    return tree


def test_the_tree_in_the_docstring_is_that_of_the_classes() -> None:
    real = {
        name: kind.__base__.__name__ if kind is not FanoutError and kind.__base__ else None
        for name, kind in ALL.items()
    }
    assert drawn_tree() == real


def test_no_error_takes_the_name_of_a_builtin() -> None:
    import builtins

    assert not ALL.keys() & vars(builtins).keys()


def test_only_what_befell_the_worker_or_the_connection_may_go_better_next_time() -> None:
    assert {name for name, kind in ALL.items() if kind.may_retry} == {
        "WorkerCrashedError",
        "OutOfMemoryError",
        "TaskLostError",
    }


def test_a_task_error_names_its_task() -> None:
    for kind in (TaskError, ChunkError, ResultError):
        error = kind(17, "went wrong")
        assert error.index == 17
        assert str(error) == "task 17: went wrong"


def test_a_timeout_says_how_long_and_what_to_do() -> None:
    error = TaskTimeoutError(3, 2.5, 1)
    assert (error.index, error.timeout_s, error.attempts) == (3, 2.5, 1)
    assert str(error) == (
        "task 3: still running after 2.5 s, so its worker was stopped: "
        "raise timeout_s, or make the chunk smaller"
    )


def test_a_timeout_of_the_service_says_whose_it_is_and_what_to_do() -> None:
    error = TaskTimeoutError(3, 60.0, 2, is_service=True)
    assert (error.index, error.timeout_s, error.attempts) == (3, 60.0, 2)
    assert str(error) == (
        "task 3: still running after 60 s, so its worker was stopped (attempt 2): that is the "
        "function's own timeout: deploy it with a longer one (Lambda allows 900 s), or make the "
        "chunk smaller"
    )


def test_want_of_memory_says_how_it_ended_and_what_to_do() -> None:
    error = OutOfMemoryError(3, "was killed by Lambda with 512 MB", 1)
    assert (error.index, error.how, error.attempts) == (3, "was killed by Lambda with 512 MB", 1)
    assert str(error) == (
        "task 3: its worker was killed by Lambda with 512 MB, most likely because memory ran out: "
        "use smaller chunks, or deploy the function with more memory"
    )


def test_a_lost_task_says_how_that_it_may_have_run_and_what_to_do() -> None:
    error = TaskLostError(3, "connection reset", 8)
    assert (error.index, error.how, error.attempts) == (3, "connection reset", 8)
    assert str(error) == (
        "task 3: its attempts were lost, the last of 8: connection reset; it may have run: "
        "check the connection and the service's health, then run it again"
    )


def test_a_crash_says_how_and_what_to_do() -> None:
    error = WorkerCrashedError(3, "was killed by SIGKILL", 1)
    assert (error.index, error.how, error.attempts) == (3, "was killed by SIGKILL", 1)
    assert "task 3: its worker was killed by SIGKILL: " in str(error)
    assert "use smaller chunks or fewer workers" in str(error)
    assert "run the kernel on this chunk alone" in str(error)


@pytest.mark.parametrize("kind", [TaskTimeoutError, WorkerCrashedError, OutOfMemoryError])
def test_the_number_of_attempts_is_told_when_there_was_more_than_one(
    kind: type[TaskTimeoutError | WorkerCrashedError | OutOfMemoryError],
) -> None:
    first: tuple[int, float | str] = (3, 2.5) if kind is TaskTimeoutError else (3, "died")
    assert "attempt" not in str(kind(*first, 1))  # type: ignore[arg-type]  # one of two signatures
    assert "(attempt 2)" in str(kind(*first, 2))  # type: ignore[arg-type]


def test_an_exceeded_budget_says_what_was_spent_the_limit_and_what_to_do() -> None:
    error = BudgetExceededError(9.5, 10.0, 0.75)
    assert (error.spent_gb_s, error.max_gb_s, error.worst_gb_s) == (9.5, 10.0, 0.75)
    assert error.run is None
    assert str(error) == (
        "the run has cost 9.5 GB-seconds and may cost max_gb_s=10, which leaves too little for an "
        "attempt that takes 0.75 at worst: raise max_gb_s, or use a function with less memory"
    )


def test_an_exceeded_budget_hands_over_what_was_done() -> None:
    run: Run[int] = Run(
        id="r", kernel="k", backend="b", outcomes=[], attempts=3, retries=0, makespan_s=1.0
    )
    error = BudgetExceededError(9.5, 10.0, 0.75, run)
    assert error.run is run
    assert str(error).endswith("; what is done is in .run of this error")


def test_a_kernel_error_says_what_the_kernel_raised() -> None:
    error = KernelError(5, "builtins.SystemExit", "1")
    assert (error.type_name, error.remote_message) == ("builtins.SystemExit", "1")
    assert str(error) == "task 5: kernel raised builtins.SystemExit: 1"


def test_a_kernel_that_cannot_travel_says_why_and_what_to_do() -> None:
    error = KernelNotUsableError("simulate", "is a coroutine function", "wrap it")
    assert error.kernel == "simulate"
    assert str(error) == "kernel simulate is a coroutine function: wrap it"


def test_an_encode_error_says_which_type_and_what_to_do() -> None:
    error = EncodeError("_thread.lock", "can't be sent", "create it in the kernel")
    assert error.type_name == "_thread.lock"
    assert str(error) == "a value of type _thread.lock can't be sent: create it in the kernel"


@pytest.mark.parametrize(
    "error",
    [
        BackendError("nothing runs"),
        BudgetExceededError(9.5, 10.0, 0.75),
        ChunkError(1, "too large"),
        TaskTimeoutError(3, 2.5, 2),
        TaskTimeoutError(3, 2.5, 2, is_service=True),
        WorkerCrashedError(3, "died", 2),
        OutOfMemoryError(3, "was killed", 2),
        TaskLostError(3, "connection reset", 8),
        KernelError(5, "builtins.SystemExit", "1"),
        KernelNotUsableError("k", "is a coroutine function", "wrap it"),
        EncodeError("_thread.lock", "can't be sent", "create it in the kernel"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_survives_pickle(error: FanoutError) -> None:
    """A map inside a process pool, or a kernel that itself calls fanout."""
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
