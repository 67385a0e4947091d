"""The far end's store that is a directory."""

from __future__ import annotations

import errno
import random
import threading
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

from fanout.errors import StoreError
from fanout.far_stores import FarStore, open_store
from tests.far_stores_checks import MIB

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> FarStore:
    return open_store({"kind": "directory", "path": str(tmp_path / "store")})


@pytest.mark.parametrize("nbytes", [0, 1, 1000, MIB - 1, MIB, 3 * MIB + 1])
def test_a_directory_gives_what_was_put(folder: FarStore, nbytes: int) -> None:
    content = random.Random(nbytes).randbytes(nbytes)
    folder.put("a/b", [content[:10], bytearray(), memoryview(content)[10:]])
    assert folder.size("a/b") == nbytes
    found = folder.get("a/b")
    assert bytes(found) == content
    assert found.readonly
    assert bytes(folder.get("a/b", start=nbytes // 3)) == content[nbytes // 3 :]
    assert (
        folder.get("a/b", start=nbytes // 3, stop=nbytes // 2) == content[nbytes // 3 : nbytes // 2]
    )
    assert bytes(folder.get("a/b", start=nbytes)) == b""


def test_a_directory_maps_what_is_large(folder: FarStore) -> None:
    folder.put("a", [bytes(2 * MIB)])
    assert type(folder.get("a").obj).__name__ == "mmap"
    assert type(folder.get("a", start=5).obj).__name__ == "mmap"


def test_a_mapped_object_outlives_its_deletion(folder: FarStore) -> None:
    folder.put("a", [b"x" * (2 * MIB)])
    found = folder.get("a")
    folder.delete("a")
    assert bytes(found) == b"x" * (2 * MIB)


def test_a_directory_takes_parts_that_are_no_plain_bytes(folder: FarStore) -> None:
    import numpy as np

    array = np.arange(6.0).reshape(2, 3)
    folder.put("a", [array.data, np.empty((0, 3)).data])
    assert bytes(folder.get("a")) == array.tobytes()


def test_a_directory_leaves_what_is_there(folder: FarStore) -> None:
    folder.put("a", [b"first"])
    folder.put("a", [b"second"])
    assert bytes(folder.get("a")) == b"first"


def test_a_directory_deletes_what_is_there_or_not(folder: FarStore) -> None:
    folder.put("a", [b"x"])
    folder.delete("a")
    folder.delete("a")
    with pytest.raises(StoreError, match="object a is not in the store"):
        folder.size("a")


def test_a_directory_leaves_nothing_but_its_objects(folder: FarStore, tmp_path: Path) -> None:
    for content in (b"1", b"2"):
        folder.put("a/b", [content])
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files == [tmp_path / "store" / "a" / "b"]


def test_concurrent_writers_and_readers_of_an_object_see_it_whole(folder: FarStore) -> None:
    contents = [bytes([n]) * (2 * MIB) for n in range(4)]
    seen: list[bytes] = []

    def write(content: bytes) -> None:
        folder.put("a", [content[:MIB], content[MIB:]])
        seen.append(bytes(folder.get("a")))

    threads = [threading.Thread(target=write, args=[content]) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 4
    assert len(set(seen)) == 1
    assert seen[0] in contents


def test_a_directory_without_hard_links_is_written_all_the_same(folder: FarStore) -> None:
    refused = OSError(errno.EPERM, "no links")
    with mock.patch("os.link", side_effect=refused):
        folder.put("a", [b"x"])
    assert bytes(folder.get("a")) == b"x"


def test_an_object_that_is_not_there_is_named(folder: FarStore) -> None:
    folder.put("a", [b"x"])
    with pytest.raises(StoreError, match=r"b is not in the store \(deleted under way, or of anoth"):
        folder.get("b")


def test_a_directory_that_is_not_there_is_named(folder: FarStore) -> None:
    with pytest.raises(
        StoreError, match="store is not there: give a path that clients and workers"
    ):
        folder.get("a")


@pytest.mark.parametrize("bounds", [{"start": 6}, {"stop": 6}, {"start": 2, "stop": 9}])
def test_a_range_beyond_the_end_is_refused(folder: FarStore, bounds: dict[str, Any]) -> None:
    folder.put("a", [b"12345"])
    with pytest.raises(StoreError, match=r"5 bytes, and at least \d were expected.*run again"):
        folder.get("a", **bounds)


@pytest.mark.parametrize("bounds", [{"start": -1}, {"start": 3, "stop": 2}, {"stop": -1}])
def test_a_range_that_is_none_is_refused(folder: FarStore, bounds: dict[str, Any]) -> None:
    with pytest.raises(StoreError, match="pass 0 <= start <= stop"):
        folder.get("a", **bounds)


@pytest.mark.parametrize(
    ("number", "why"),
    [
        (errno.ENOSPC, "its disk is full: free some space"),
        (errno.EDQUOT, "its disk is full: free some space"),
        (errno.EACCES, "let the user that workers run as read and write there"),
        (errno.EIO, "can't write object a in .*see to that directory"),
    ],
)
def test_what_the_system_refuses_is_told(
    folder: FarStore, tmp_path: Path, number: int, why: str
) -> None:
    with (
        mock.patch("os.write", side_effect=OSError(number, "refused")),
        pytest.raises(StoreError, match=why),
    ):
        folder.put("a", [b"x"])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
