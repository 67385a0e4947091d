"""What a worker's reply says, in the terms of the scheduler.

A reply's head is the worker's report and what failed, its body the list of values; or the worker
refused the request as a whole. `request` has the other direction, `worker` the other half. Pure.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fanout.codec import decode_each
from fanout.errors import DecodeError
from fanout.events import AttemptAnswered, AttemptFailed
from fanout.remote_errors import refusal, task_failure, unreadable
from fanout.tasks import AttemptReport, Environment, Outcome
from fanout.wire import PROTOCOL

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fanout.tasks import BilledTime
    from fanout.wire import Message


def read(
    reply: Message,
    *,
    attempt: int,
    tasks: Sequence[int],
    is_safe: bool,
    request_bytes: int = 0,
    attempts_of: Callable[[int], int],
    environments: dict[str, Environment],
) -> AttemptAnswered | AttemptFailed:
    """Turn a worker's reply into what the scheduler wants to hear.

    Args:
        reply: What the worker sent.
        attempt: Number of the attempt.
        tasks: The tasks that were in the request, in order.
        is_safe: Whether pickle is refused.
        request_bytes: Size of the request.
        attempts_of: The number of a task's present attempt.
        environments: Those met so far, by id; new ones are added.

    Raises:
        DecodeError: The reply is not one, or not to this request.
    """
    try:
        # First of all, and the same in every protocol: a worker of another one answers so.
        if "refused" in reply.head:
            refused = refusal(reply.head["refused"])
            return AttemptFailed(attempt, replace(refused, billed=reply.billed))
        if reply.head.get("fanout") != PROTOCOL:
            raise DecodeError(f"a reply in protocol {reply.head.get('fanout')}, not {PROTOCOL}")
        payload_bytes = request_bytes + reply.payload.nbytes
        told = reply.head["report"]
        report = _report(told, attempt, payload_bytes, environments, reply.billed)
        done = len(tasks) - reply.head.get("left", 0)
        outcomes = _outcomes(reply, tasks[:done], report, attempts_of, is_safe)
    except (LookupError, TypeError, ValueError) as error:
        raise DecodeError(f"a reply that is damaged ({type(error).__name__}: {error})") from error
    return AttemptAnswered(attempt, outcomes, report, tasks[done:])


def _report(
    told: Mapping[str, Any],
    attempt: int,
    payload_bytes: int,
    environments: dict[str, Environment],
    billed: BilledTime | None,
) -> AttemptReport:
    return AttemptReport(
        attempt=attempt,
        environment=_environment(told["environment"], environments),
        is_cold=told["cold"],
        received_epoch_s=told["received_epoch_s"],
        setup_s=told["setup_s"],
        kernel_s=told["kernel_s"],
        compile_s=told["compile_s"],
        total_s=told["total_s"],
        peak_memory_bytes=told["peak_memory_bytes"],
        payload_bytes=payload_bytes,
        billed=billed,
    )


def _environment(told: Mapping[str, Any], known: dict[str, Environment]) -> Environment:
    environment = known.get(told["id"])
    if environment is None:
        environment = known[told["id"]] = Environment(**told)
    return environment


def _outcomes(
    reply: Message,
    tasks: Sequence[int],
    report: AttemptReport,
    attempts_of: Callable[[int], int],
    is_safe: bool,
) -> list[Outcome[Any]]:
    values, undecoded = decode_each(reply.payload, is_safe=is_safe)
    if len(values) != len(tasks):
        raise DecodeError(f"a reply with {len(values)} results for {len(tasks)} tasks")
    outcomes = [
        Outcome(task, value, None, attempts_of(task), ns * 1e-9, report)
        for task, value, ns in zip(tasks, values, reply.head["ns"], strict=True)
    ]
    printed = {position: (out, err) for position, out, err in reply.head["printed"]}
    failures = {at: unreadable(tasks[at], error) for at, error in undecoded.items()}
    for position, remote in reply.head["failed"]:
        failures[position] = task_failure(
            tasks[position],
            remote,
            reply.payload.buffers,
            attempts=outcomes[position].attempts,
            is_safe=is_safe,
        )
    for position in {*printed, *failures}:
        plain, failure = outcomes[position], failures.get(position)
        out, err = printed.get(position, ("", ""))
        outcomes[position] = Outcome(
            plain.index,
            plain.value if failure is None else None,
            failure.error if failure else None,
            plain.attempts,
            plain.kernel_s,
            report,
            out,
            err,
            failure,
        )
    return outcomes


def is_unknown_kernel(reply: Message) -> bool:
    """Whether the worker asks for the kernel's code."""
    return bool(reply.head.get("refused", {}).get("kind") == "unknown kernel")


def is_refused(reply: Message) -> bool:
    """Whether the worker can't run the request as a whole."""
    return "refused" in reply.head


def lacks_code(reply: Message) -> bool:
    """Whether the worker asks for modules of the user's project."""
    return bool(reply.head.get("refused", {}).get("kind") == "lacks code")


def is_stale(reply: Message) -> bool:
    """Whether the worker holds an older version of the kernel's module."""
    return bool(reply.head.get("refused", {}).get("kind") == "stale")
