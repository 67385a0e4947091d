"""An executor's store: what workers are told of it, and what may go there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fanout import Ref
from fanout.errors import UsageError
from fanout.large_objects import LargeObjects
from fanout.stores import DirectoryStore, RunObjects

if TYPE_CHECKING:
    from pathlib import Path


async def test_workers_are_told_of_a_private_folder_once_something_is_in_it() -> None:
    objects = LargeObjects(None, is_remote=False)
    await objects.start()
    assert objects.locator is None
    ref = await objects.put([1, 2])
    assert isinstance(ref, Ref)
    assert objects.locator is not None
    assert objects.locator["kind"] == "directory"
    await objects.aclose()
    assert objects.locator is None


@pytest.mark.parametrize("form", [str, lambda path: path, DirectoryStore])
async def test_a_named_store_is_told_to_every_worker(tmp_path: Path, form: type) -> None:
    objects = LargeObjects(form(tmp_path), is_remote=True)
    assert objects.locator == {"kind": "directory", "path": str(tmp_path)}


async def test_workers_elsewhere_need_a_store_that_is_named() -> None:
    objects = LargeObjects(None, is_remote=True)
    with pytest.raises(UsageError, match="name a bucket"):
        await objects.put([1])


@pytest.mark.parametrize(
    ("is_named", "is_remote", "may"),
    [(True, True, True), (True, False, False), (False, True, False), (False, False, False)],
)
async def test_messages_go_through_a_named_store_to_workers_elsewhere(
    tmp_path: Path, is_named: bool, is_remote: bool, may: bool
) -> None:
    objects = LargeObjects(tmp_path if is_named else None, is_remote=is_remote)
    of_run = objects.of_run("20261121-120000-abcd")
    assert isinstance(of_run, RunObjects) is may
    assert of_run is None or "20261121-120000-abcd" in of_run.prefix


def test_what_names_no_store_is_refused() -> None:
    with pytest.raises(UsageError, match="none that fanout knows"):
        LargeObjects("gs://bucket", is_remote=True)
