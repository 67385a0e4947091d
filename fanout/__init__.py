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
    from fanout import emulator, errors, events, sync
    from fanout.api import map, run, starmap, stream  # noqa: A004
    from fanout.backends.aws_lambda import Lambda
    from fanout.backends.local import Local
    from fanout.cost.bill import Bill
    from fanout.executor import Executor, resume
    from fanout.options import MapOptions
    from fanout.outcomes import OutcomeStream, Run
    from fanout.refs import Ref
    from fanout.retry import RetryPolicy
    from fanout.stored_chunks import Block, StoredObject
    from fanout.stored_input import blocks, objects
    from fanout.tasks import Outcome
    from fanout.token_bucket import RateLimit

__all__ = [
    "Bill",
    "Block",
    "Executor",
    "Lambda",
    "Local",
    "MapOptions",
    "Outcome",
    "OutcomeStream",
    "RateLimit",
    "Ref",
    "RetryPolicy",
    "Run",
    "StoredObject",
    "__version__",
    "blocks",
    "emulator",
    "errors",
    "events",
    "map",
    "objects",
    "resume",
    "run",
    "starmap",
    "stream",
    "sync",
]

_MODULES = {
    "Bill": "fanout.cost.bill",
    "Block": "fanout.stored_chunks",
    "Executor": "fanout.executor",
    "Lambda": "fanout.backends.aws_lambda",
    "Local": "fanout.backends.local",
    "MapOptions": "fanout.options",
    "Outcome": "fanout.tasks",
    "OutcomeStream": "fanout.outcomes",
    "RateLimit": "fanout.token_bucket",
    "Ref": "fanout.refs",
    "RetryPolicy": "fanout.retry",
    "Run": "fanout.outcomes",
    "StoredObject": "fanout.stored_chunks",
    "blocks": "fanout.stored_input",
    "map": "fanout.api",
    "objects": "fanout.stored_input",
    "resume": "fanout.executor",
    "run": "fanout.api",
    "starmap": "fanout.api",
    "stream": "fanout.api",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    if name in {"emulator", "errors", "events", "sync"}:
        return importlib.import_module(f"fanout.{name}")
    msg = f"module 'fanout' has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return __all__
