"""Backends by description: that of the settings, where a caller passes none, and that of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fanout.backends import Site
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


def recipe_of(backend: Backend) -> dict[str, Any] | None:
    """How to make the same backend again, for a file; None if that can't be told."""
    recipe = getattr(backend, "recipe", None)
    return recipe if isinstance(recipe, dict) else None


def site_of(backend: Backend) -> Site | None:
    """Where it runs; None if what is measured there is not worth keeping."""
    site = getattr(backend, "site", None)
    return site if isinstance(site, Site) else None


def made(recipe: dict[str, Any]) -> Backend:
    """A backend by such a recipe."""
    arguments = dict(recipe)
    if arguments.pop("kind") == "lambda":
        from fanout.backends.aws_lambda import Lambda

        if (rate := arguments.pop("rate", None)) is not None:
            from fanout.token_bucket import RateLimit

            arguments["rate"] = RateLimit(**rate)
        return Lambda(**arguments)
    from fanout.backends.local import Local

    return Local(**arguments)
