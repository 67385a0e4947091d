"""Removes large results from stores that the user named, when the journals of their runs go."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from fanout.errors import FanoutError
from fanout.journal.folder import results_of
from fanout.stores import store_at

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fanout.journal.folder import Locator

# Nobody waits longer for a store that does not answer.
_END_S: Final = 60.0


async def remove_results(left: Iterable[tuple[str, Locator]]) -> list[str]:
    """Remove the results of runs.

    Args:
        left: Ids of runs, and stores in which each has some.

    Returns:
        What could not be removed, why, and what to do.
    """
    told = []
    for run, locator in left:
        try:
            async with asyncio.timeout(_END_S):
                await _remove(run, locator)
        except (FanoutError, TimeoutError) as error:
            where = _url(run, locator)
            told.append(
                f"results of run {run} are left under {where} "
                f"({str(error) or 'the store does not answer'}): a lifecycle rule removes them, "
                "as in docs/s3-lifecycle.json"
            )
    return told


async def _remove(run: str, locator: Locator) -> None:
    store = store_at(locator)
    await store.start()
    try:
        await store.delete_prefix(results_of(run))
    finally:
        await store.aclose()


def _url(run: str, locator: Locator) -> str:
    if locator.get("kind") == "s3":
        return f"s3://{locator.get('bucket')}/{locator.get('prefix') or ''}{results_of(run)}"
    return f"{locator.get('path')}/{results_of(run)}"
