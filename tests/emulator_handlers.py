"""Handlers for the emulator's tests; they run in environments, under AWS's runtime client."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

COLD = time.time()
_CALLS: list[str] = []


def noop(event: Any, context: Any) -> None:
    return None


def echo(event: Any, context: Any) -> Any:
    return event


def about(event: Any, context: Any) -> dict[str, Any]:
    """What the environment knows of itself."""
    _CALLS.append(context.aws_request_id)
    return {
        "pid": os.getpid(),
        "calls": len(_CALLS),
        "request_id": context.aws_request_id,
        "arn": context.invoked_function_arn,
        "remaining_ms": context.get_remaining_time_in_millis(),
        "client": context.client_context.custom if context.client_context else None,
        "environ": dict(os.environ),
        "path": sys.path,
        "folder": str(Path.cwd()),
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    }


def act(event: dict[str, Any], context: Any) -> Any:
    """Does what the event says: each key is an act of this module."""
    result = None
    for name, value in event.items():
        result = globals()[f"_{name}"](value)
    return result


def _print(text: str) -> None:
    print(text)


def _print_error(text: str) -> None:
    print(text, file=sys.stderr)


def _sleep(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


def _spin(seconds: float) -> None:
    until_s = time.perf_counter() + seconds
    while time.perf_counter() < until_s:
        pass


def _raise(text: str) -> None:
    raise ValueError(text)


def _exit(code: int) -> None:
    os._exit(code)


def _signal(name: str) -> None:
    os.kill(os.getpid(), getattr(signal, name))
    time.sleep(60)


def _text(length: int) -> str:
    return "x" * length


def _bytes(length: int) -> bytes:
    return bytes(range(256)) * (length // 256)


def _unserialisable(_: object) -> object:
    return object()


def _allocate(megabytes: int) -> int:
    block = bytearray(megabytes * 1024 * 1024)
    block[:: resource.getpagesize()] = b"x" * len(block[:: resource.getpagesize()])
    return len(block)


def _append(file: str) -> None:
    with Path(file).open("a", encoding="utf-8") as log:
        log.write(f"{os.getpid()}\n")


def _pid(_: object) -> int:
    return os.getpid()


def _temporary(_: object) -> str:
    """Writes a temporary file; returns the folder it is in, and how many files there are."""
    folder = tempfile.gettempdir()
    tempfile.mkstemp(dir=folder)
    return f"{folder} {len(list(Path(folder).iterdir()))}"


def _child(_: object) -> int:
    """Leaves a process behind."""
    return subprocess.Popen(["sleep", "600"], start_new_session=False).pid


def _end_afterwards(seconds: float) -> int:
    """Answers, and ends before it asks for more work."""
    from awslambdaric.lambda_runtime_client import LambdaRuntimeClient

    def end(_: object) -> None:
        time.sleep(seconds)
        os._exit(7)

    LambdaRuntimeClient.wait_next_invocation = end
    return os.getpid()


def _json(value: Any) -> str:
    return json.dumps(value)
