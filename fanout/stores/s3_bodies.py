"""Bodies of requests from pieces of memory, and several requests at a time."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

# From here on pieces are joined in a thread.
_LARGE_BYTES: Final = 256 * 2**10
# aiohttp warns of bytes that are larger, and wants a file; a file costs a round trip more
# (`Expect: 100-continue`), which a refusal repays by saving the upload.
_FILE_BYTES: Final = 2**20


async def body_of(views: Sequence[memoryview], start: int, stop: int) -> bytes | io.BytesIO:
    """A part of what is to be uploaded, as aiohttp likes it best."""
    pieces = _pieces(views, start, stop)
    if stop - start < _LARGE_BYTES:
        return _joined(pieces)
    return await asyncio.to_thread(_joined if stop - start <= _FILE_BYTES else _file, pieces)


def _pieces(views: Sequence[memoryview], start: int, stop: int) -> list[memoryview]:
    found = []
    at = 0
    for view in views:
        end = at + view.nbytes
        if end > start and at < stop:
            found.append(view[max(start - at, 0) : min(stop - at, view.nbytes)])
        at = end
    return found


def _joined(pieces: Sequence[memoryview]) -> bytes:
    if len(pieces) == 1 and isinstance(pieces[0].obj, bytes):
        whole = pieces[0].obj
        if len(whole) == pieces[0].nbytes:
            return whole
    return b"".join(pieces)


def _file(pieces: Sequence[memoryview]) -> io.BytesIO:
    """Written, not made of bytes: what a file shares with bytes, aiohttp has it copy once more."""
    file = io.BytesIO()
    for piece in pieces:
        file.write(piece)
    file.seek(0)
    return file


async def together(work: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Do these at a time; the first failure ends the others, and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from failures.exceptions[0].__cause__
    return [task.result() for task in tasks]
