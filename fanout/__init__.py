"""fanout: the same kernel on this machine's cores or on a thousand AWS Lambdas.

    results = await fanout.map(kernel, chunks)

Names are loaded when they are first used, so that `import fanout` costs next to nothing; the worker
depends on that.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fanout._version import __version__

if TYPE_CHECKING:
    from fanout import errors, events, sync
    from fanout.api import map, run, starmap, stream  # noqa: A004
    from fanout.backends.local import Local
    from fanout.executor import Executor
    from fanout.options import MapOptions
    from fanout.outcomes import OutcomeStream, Run
    from fanout.retry import RetryPolicy
    from fanout.tasks import Outcome

__all__ = [
    "Executor",
    "Local",
    "MapOptions",
    "Outcome",
    "OutcomeStream",
    "RetryPolicy",
    "Run",
    "__version__",
    "errors",
    "events",
    "map",
    "run",
    "starmap",
    "stream",
    "sync",
]

_MODULES = {
    "Executor": "fanout.executor",
    "Local": "fanout.backends.local",
    "MapOptions": "fanout.options",
    "Outcome": "fanout.tasks",
    "OutcomeStream": "fanout.outcomes",
    "RetryPolicy": "fanout.retry",
    "Run": "fanout.outcomes",
    "map": "fanout.api",
    "run": "fanout.api",
    "starmap": "fanout.api",
    "stream": "fanout.api",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    if name in {"errors", "events", "sync"}:
        return importlib.import_module(f"fanout.{name}")
    msg = f"module 'fanout' has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return __all__
