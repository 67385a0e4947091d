"""How the far end tells of a failure, whatever it is: foreign exceptions may break anything."""

from __future__ import annotations

import traceback
from typing import Any, Final

from fanout.errors import FanoutError

# Of an exception's text and traceback: the beginning and the end.
_ERROR_CHARACTERS: Final = 16 * 1024
# Modules whose frames come before the kernel's own.
_OURS: Final = frozenset({"fanout.worker", "fanout.task_run"})


def described_failure(kind: str, error: BaseException) -> dict[str, Any]:
    """What a reply says of a task that failed."""
    is_ours = isinstance(error, FanoutError) or kind == "kernel"
    return {
        "kind": kind,
        "type": f"{type(error).__module__}.{type(error).__qualname__}",
        "message": _text_of(error) if is_ours else described(error),
        "traceback": traceback_of(error) if kind == "kernel" else "",
    }


def _text_of(error: BaseException) -> str:
    try:
        return _shortened(str(error))
    except BaseException:  # noqa: BLE001  # a broken __str__ must not hide the failure
        return "(its text can't be had: __str__ raised)"


def _shortened(text: str) -> str:
    if len(text) <= _ERROR_CHARACTERS:
        return text
    half = _ERROR_CHARACTERS // 2
    return f"{text[:half]} […] {text[-half:]}"


def described(error: BaseException) -> str:
    """An exception in a line: class and text."""
    return f"{type(error).__name__}: {_text_of(error)}"


def traceback_of(error: BaseException) -> str:
    """The traceback from the kernel's own frames on."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__") in _OURS:
        trace = trace.tb_next
    try:
        return _shortened("".join(traceback.format_exception(type(error), error, trace)))
    except BaseException:  # noqa: BLE001  # an exception class may have broken more than __str__
        return f"{''.join(traceback.format_tb(trace))}{type(error).__name__}\n"
