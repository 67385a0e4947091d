"""The options of a map: their types, and the refusal of those that make no sense."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict

from fanout.errors import UsageError
from fanout.retry import RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.events import RunEvent


OnChange = Literal["refuse", "reuse", "restart"]
# A name is part of a file's.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class MapOptions(TypedDict, total=False):
    """Options of `map`, `starmap`, `run` and `stream`.

    Keys:
        timeout_s: How long a task may run, seconds; it is then stopped and fails with
            `TaskTimeoutError`. No limit by default.
        retry: When a failed task is tried again; see `RetryPolicy`.
        idempotent: Whether a task may run twice; yes by default. If False, a task that may have
            run, in part or as a whole, fails instead of being tried again: its worker died, or its
            answer was lost. Tasks then travel alone, unless `group` says otherwise.
        hedge: Whether the tasks of an attempt that is silent for too long may be sent a second
            time, which costs up to a tenth more; yes by default, where attempts are billed.
        max_gb_s: What the run may cost, GB-seconds of Lambda: nothing is launched that could cost
            more at worst, and the run then ends with `BudgetExceededError`. No limit by default.
        max_usd: What the run may cost, US dollars, by the prices of its region: the time of its
            attempts and their requests. Likewise; both may be given. What it costs in logs, objects
            and transfer is not in it.
        name: What to call the run. The same call with the same name goes on where it ended, however
            that was: what is done already is not done again.
        on_change: When kernel or input of a run with this name are not as they were: "refuse" (the
            default), "reuse" the results of chunks that are, or "restart".
        journal: Whether to keep what is done on disk; by default if the run has a name, or its
            attempts are billed.
        group: Tasks in one attempt. By default small tasks are grouped by measured time.
        weight: Tells from a chunk how long its task takes, in any unit: `weight=len`. The heaviest
            then go first, and groups are cut by weight. A list is looked at as a whole, other input
            as far as it is pulled ahead.
        codec: "auto", or "safe" to refuse pickle in both directions (the kernel must then be
            importable by the worker).
        progress: Show progress on stderr. By default as `FANOUT_PROGRESS` says, and that is yes;
            nothing is shown of a run that ends within half a second.
        on_event: Called with every event of the run, in order; see `fanout.events`.
    """

    timeout_s: float | None
    retry: RetryPolicy
    idempotent: bool
    hedge: bool
    max_gb_s: float | None
    max_usd: float | None
    name: str | None
    on_change: OnChange
    journal: bool | None
    group: int | None
    weight: Callable[[Any], float] | None
    codec: Literal["auto", "safe"]
    progress: bool | None
    on_event: Callable[[RunEvent], None] | None


def check(options: MapOptions) -> None:
    """Refuse what the type checker would have refused, and what only the value shows."""
    unknown = sorted(set(options) - set(MapOptions.__annotations__))
    if unknown:
        msg = f"unknown option {unknown[0]!r}: there are {', '.join(MapOptions.__annotations__)}"
        raise UsageError(msg)
    timeout_s = options.get("timeout_s")
    if timeout_s is not None and not (
        isinstance(timeout_s, int | float) and 0 < timeout_s < math.inf
    ):
        msg = f"timeout_s={timeout_s!r} must be a number of seconds above 0 (or None: no limit)"
        raise UsageError(msg)
    if options.get("codec", "auto") not in {"auto", "safe"}:
        msg = f"codec={options.get('codec')!r} must be 'auto' or 'safe'"
        raise UsageError(msg)
    retry = options.get("retry")
    if retry is not None and not isinstance(retry, RetryPolicy):
        msg = f"retry={retry!r} must be a fanout.RetryPolicy, as in RetryPolicy(max_attempts=5)"
        raise UsageError(msg)
    for switch in ("idempotent", "hedge"):
        if not isinstance(options.get(switch, True), bool):
            msg = f"{switch}={options.get(switch)!r} must be True or False"
            raise UsageError(msg)
    weight = options.get("weight")
    if weight is not None and not callable(weight):
        msg = f"weight={weight!r} must be a function of one argument, the chunk"
        raise UsageError(msg)
    if options.get("name") is not None:
        check_name(options.get("name"))
        if options.get("journal") is False:
            raise UsageError(
                "name= is for a run that is kept in a journal: leave out journal=False"
            )
    if options.get("on_change", "refuse") not in {"refuse", "reuse", "restart"}:
        msg = f"on_change={options.get('on_change')!r} must be 'refuse', 'reuse' or 'restart'"
        raise UsageError(msg)
    if not isinstance(options.get("journal"), bool | None):
        msg = f"journal={options.get('journal')!r} must be True, False or None (as it is usual)"
        raise UsageError(msg)
    on_event = options.get("on_event")
    if on_event is not None and not callable(on_event):
        msg = f"on_event={on_event!r} must be a function of one argument, the event"
        raise UsageError(msg)


def check_name(name: object) -> None:
    """A name that can be part of a file's.

    Raises:
        UsageError: It can't.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name) or "--" in name:
        msg = (
            f"name={name!r} must be 1 to 64 letters, digits, '.', '_' or '-', beginning with a "
            "letter or digit, and without '--'"
        )
        raise UsageError(msg)
