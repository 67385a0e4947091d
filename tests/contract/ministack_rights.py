"""ministack with the names of two rights corrected; its own interpreter runs this.

ministack 1.5.33 checks GetAccountSettings against no right, and GetFunctionConcurrency against
that of the PUT at the same address. With AWS's names for both, its evaluator does the rest.
"""

from __future__ import annotations

import importlib
import runpy
from typing import Any

_ACTIONS: Any = importlib.import_module("ministack.core.iam_actions")
_KNOWN = _ACTIONS._lambda_action


def _lambda_action(method: str, path: str) -> str | None:
    if method == "GET" and path.rstrip("/").endswith("/account-settings"):
        return "GetAccountSettings"
    if method == "GET" and path.endswith("/concurrency"):
        return "GetFunctionConcurrency"
    found: str | None = _KNOWN(method, path)
    return found


if __name__ == "__main__":
    _ACTIONS._lambda_action = _lambda_action
    runpy.run_module("ministack", run_name="__main__")
