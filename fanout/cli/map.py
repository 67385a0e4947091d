"""`fanout map`: any importable kernel over a file of chunks."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import difflib
import importlib
import json
import os
import stat
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from fanout.cli import Command, run, running_options, say
from fanout.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

    from fanout.options import OnChange
    from fanout.tasks import Outcome

# Lines of a pipe that are read ahead of what the run has asked for.
_LINES_AHEAD = 64
# Smaller files are read as a whole: so a wrong line costs nothing, the progress knows the number of
# tasks, and a journal can have all chunks when the run begins.
_MOST_WHOLE_BYTES = 16 * 2**20


@click.command(
    cls=Command,
    short_help="Run a kernel on every chunk of a file.",
    examples=(
        "fanout map math:sqrt --chunks numbers.jsonl\n"
        "fanout map mymodule:simulate --chunks chunks.jsonl --out results.jsonl --timeout 60\n"
        "seq 1000 | fanout map math:factorial --chunks - --unordered > results.jsonl\n"
        "fanout map mymodule:simulate --chunks chunks.jsonl --out results.jsonl --name sweep-7"
    ),
)
@click.argument("kernel", metavar="MODULE:KERNEL")
@click.option(
    "--chunks",
    required=True,
    metavar="FILE|-",
    help="JSON Lines: one chunk a line, passed as the kernel's argument. - reads stdin.",
)
@click.option("--out", metavar="FILE", help="Where to write results.  [default: stdout]")
@click.option("--unordered", is_flag=True, help="Write results as they come.")
@click.option(
    "--timeout", "timeout_s", type=float, metavar="SECONDS", help="Stop a task that runs longer."
)
@click.option(
    "--attempts",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    metavar="N",
    help="Attempts per task if its worker dies.",
)
@click.option(
    "--name",
    metavar="NAME",
    help="Keep what is done; the same command with that name goes on where it ended.",
)
@click.option(
    "--on-change",
    type=click.Choice(["refuse", "reuse", "restart"]),
    default="refuse",
    show_default=True,
    help="If kernel or chunks are not as they were: refuse, reuse what still holds, or do all "
    "again.",
)
@click.option(
    "--max-gb-s",
    type=float,
    metavar="X",
    help="On Lambda: end before it costs more GB-seconds.",
)
@click.option(
    "--max-usd",
    type=float,
    metavar="X",
    help="On Lambda: end before its time and requests cost more US dollars.",
)
@running_options
def command(
    kernel: str,
    chunks: str,
    out: str | None,
    unordered: bool,
    timeout_s: float | None,
    attempts: int,
    name: str | None,
    on_change: OnChange,
    max_gb_s: float | None,
    max_usd: float | None,
    progress: bool | None,
    workers: int | None,
) -> int:
    """Run MODULE:KERNEL on every chunk of a file, and write a line for each result.

    A line of the output is {"index": 0, "result": …}, or {"index": 0, "error": {"type": …,
    "message": …}} for a task that failed. Modules are found from the current folder. Exit code 1 if
    a task failed.
    """
    from fanout import config
    from fanout.backends.chosen import chosen
    from fanout.retry import RetryPolicy

    function = kernel_named(kernel)
    with contextlib.ExitStack() as files:
        source = _source(chunks, files)
        target = target_of(out, files)
        failed = run(
            _run(
                function,
                source,
                target,
                backend=chosen(config.load(), workers=workers),
                ordered=not unordered,
                timeout_s=timeout_s,
                retry=RetryPolicy(max_attempts=attempts),
                name=name,
                on_change=on_change,
                max_gb_s=max_gb_s,
                max_usd=max_usd,
                progress=progress,
            )
        )
    return 1 if failed else 0


async def _run(
    kernel: Callable[[Any], Any],
    source: Iterable[Any] | AsyncIterator[Any],
    target: TextIO,
    *,
    backend: Any,
    ordered: bool,
    **options: Any,
) -> int:
    from fanout.executor import Executor

    tasks = failed = 0
    first = None
    async with (
        Executor(backend) as ex,
        ex.stream(kernel, source, ordered=ordered, **options) as outcomes,
    ):
        async for outcome in outcomes:
            line, is_ok = line_of(outcome)
            target.write(line + "\n")
            tasks += 1
            if not is_ok:
                failed += 1
                first = first or line
    target.flush()
    if failed:
        say(f"{failed} of {tasks} tasks failed; the first: {first}")
    return failed


def line_of(outcome: Outcome[Any]) -> tuple[str, bool]:
    """An outcome as a line of output, and whether it is a result."""
    error: BaseException | None = outcome.error
    if error is None:
        try:
            record = {"index": outcome.index, "result": outcome.value}
            return json.dumps(record, default=_as_json, allow_nan=False), True
        except ValueError:
            error = ValueError(
                "the result holds NaN or an infinity, which JSON can't express: "
                "return None or a text"
            )
        except TypeError as problem:
            error = problem
    told = {"type": type(error).__name__, "message": str(error)}
    return json.dumps({"index": outcome.index, "error": told}), False


def _as_json(value: Any) -> Any:
    """The nearest thing that JSON has, for what kernels like to return."""
    if hasattr(value, "tolist"):  # numpy arrays and scalars
        return value.tolist()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {part.name: getattr(value, part.name) for part in dataclasses.fields(value)}
    if isinstance(value, set | frozenset):
        return list(value)
    msg = (
        f"the result holds a {type(value).__name__}, which has no form in JSON: return numbers, "
        "texts, lists, dicts or arrays"
    )
    raise TypeError(msg)


def kernel_named(name: str) -> Callable[..., Any]:
    """The kernel that MODULE:KERNEL names, imported from the current folder, too."""
    module_name, _, qualname = name.partition(":")
    if not module_name or not qualname:
        msg = f"kernel {name!r} must be MODULE:KERNEL, as in mymodule:simulate"
        raise UsageError(msg)
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        msg = f"module {module_name!r} can't be imported: {error}; run from the folder it lies in"
        raise UsageError(msg) from error
    for part in qualname.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, dir(found), n=3)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            msg = f"{module_name} has no {qualname!r}{hint}"
            raise UsageError(msg)
        found = getattr(found, part)
    kernel: Callable[..., Any] = found
    return kernel


def _source(name: str, files: contextlib.ExitStack) -> Iterable[Any] | AsyncIterator[Any]:
    if name == "-":
        if stat.S_ISREG(os.fstat(sys.stdin.fileno()).st_mode):
            return _of_file(sys.stdin, "stdin")
        return _chunks_of_a_pipe(sys.stdin)
    try:
        return _of_file(files.enter_context(Path(name).open(encoding="utf-8")), name)
    except OSError as error:
        msg = f"chunks can't be read from {name}: {error.strerror}"
        raise UsageError(msg) from error


def _of_file(file: TextIO, name: str) -> Iterable[Any]:
    """Its chunks: all, or as they are asked for where they may be many."""
    status = os.fstat(file.fileno())
    is_whole = stat.S_ISREG(status.st_mode) and status.st_size <= _MOST_WHOLE_BYTES
    chunks = _chunks(file, name)
    return list(chunks) if is_whole else chunks


def target_of(name: str | None, files: contextlib.ExitStack) -> TextIO:
    """Where lines of output go: a file, or stdout."""
    if name is None:
        return sys.stdout
    try:
        return files.enter_context(Path(name).open("w", encoding="utf-8"))
    except OSError as error:
        msg = f"results can't be written to {name}: {error.strerror}"
        raise UsageError(msg) from error


def _chunks(file: TextIO, name: str) -> Iterator[Any]:
    try:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _chunk(line, number, name)
    except UnicodeDecodeError as error:
        raise UsageError(f"{name} is not text in UTF-8: {error}") from error


def _chunk(line: str, number: int, name: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        msg = f"line {number} of {name} is not JSON ({error}): {line.strip()[:60]!r}"
        raise UsageError(msg) from error


async def _chunks_of_a_pipe(file: TextIO) -> AsyncIterator[Any]:
    """Chunks as they are written into a pipe, without blocking the event loop in between."""
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[str | None] = asyncio.Queue()
    room = threading.Semaphore(_LINES_AHEAD)

    def read() -> None:
        # A daemon: a read that never returns must not keep the process.
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            for line in file:
                room.acquire()
                loop.call_soon_threadsafe(lines.put_nowait, line)
            loop.call_soon_threadsafe(lines.put_nowait, None)

    threading.Thread(target=read, name="fanout-stdin", daemon=True).start()
    number = 0
    while (line := await lines.get()) is not None:
        room.release()
        number += 1
        if line.strip():
            yield _chunk(line, number, "stdin")
