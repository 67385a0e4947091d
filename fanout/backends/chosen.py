"""The backend that the settings name, where a caller passes none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fanout.errors import UsageError

if TYPE_CHECKING:
    from fanout.backends import Backend
    from fanout.config import Settings


def chosen(settings: Settings, *, workers: int | None = None) -> Backend:
    """Make a backend.

    Args:
        settings: What the user has set outside of the call.
        workers: Processes of the local backend, instead of the settings'.

    Raises:
        UsageError: The settings contradict the arguments, or lack something.
    """
    if settings.backend == "lambda":
        from fanout.backends.aws_lambda import Lambda

        if workers is not None:
            msg = f"{workers} workers are for the local backend, and FANOUT_BACKEND is 'lambda'"
            raise UsageError(msg)
        if settings.function is None:
            msg = (
                "FANOUT_BACKEND is 'lambda', but no function is named: set FANOUT_FUNCTION to the "
                "name or ARN of a function with fanout's image"
            )
            raise UsageError(msg)
        return Lambda(settings.function)
    from fanout.backends.local import Local

    return Local(workers=workers or settings.workers)
