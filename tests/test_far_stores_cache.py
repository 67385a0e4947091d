"""The objects that an environment has fetched: in memory, on disk, checked."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

from fanout.errors import StoreError
from fanout.far_stores import Cache
from fanout.far_stores.directory import DirectoryStore
from tests.far_stores_checks import MIB

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fanout.codec import Buffer


@dataclass
class Counting:
    """A store in memory that counts."""

    objects: dict[str, bytes] = field(default_factory=dict)
    gets: list[str] = field(default_factory=list)
    is_local: bool = False

    def add(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        self.objects[f"objects/{digest}"] = content
        return digest

    def get(
        self, key: str, *, start: int = 0, stop: int | None = None, etag: str | None = None
    ) -> memoryview:
        self.gets.append(key)
        if key not in self.objects:
            msg = f"{key} is missing"
            raise StoreError(msg)
        return memoryview(self.objects[key])[start:stop]

    def size(self, key: str) -> int:
        return len(self.objects[key])

    def put(self, key: str, parts: Sequence[Buffer], *, digest: str | None = None) -> None:
        pytest.fail("a cache only reads")

    def delete(self, key: str) -> None:
        pytest.fail("a cache only reads")

    def close(self) -> None:
        pass


def test_an_object_is_fetched_once(tmp_path: Path) -> None:
    store = Counting()
    digest = store.add(b"12345")
    cache = Cache(disk=tmp_path / "disk")
    assert bytes(cache.object(store, digest, 5)) == b"12345"
    assert bytes(cache.object(store, digest, 5)) == b"12345"
    assert store.gets == [f"objects/{digest}"]


def test_threads_that_want_the_same_object_fetch_it_once(tmp_path: Path) -> None:
    may_go = threading.Event()

    class Slow(Counting):
        def get(
            self, key: str, *, start: int = 0, stop: int | None = None, etag: str | None = None
        ) -> memoryview:
            may_go.wait(10)
            return super().get(key, start=start, stop=stop)

    store = Slow()
    digest = store.add(b"12345")
    cache = Cache(disk=tmp_path / "disk")
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(bytes(cache.object(store, digest, 5))))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    may_go.set()
    for thread in threads:
        thread.join()
    assert found == [b"12345"] * 8
    assert len(store.gets) == 1


@pytest.mark.parametrize("content", [b"123456", b"12346", b"1234"])
def test_an_object_that_is_not_what_its_digest_says_is_refused(
    content: bytes, tmp_path: Path
) -> None:
    store = Counting()
    digest = store.add(b"12345")
    store.objects[f"objects/{digest}"] = content
    cache = Cache(disk=tmp_path / "disk")
    if content.startswith(b"12345"):
        assert bytes(cache.object(store, digest, 5)) == b"12345"  # more was never asked for
        return
    with pytest.raises(StoreError, match=f"{digest} is damaged or exchanged.*delete it, run again"):
        cache.object(store, digest, 5)
    assert not list((tmp_path).rglob(digest))


def test_a_failed_fetch_is_tried_again_by_the_next_who_asks(tmp_path: Path) -> None:
    store = Counting()
    digest = store.add(b"12345")
    content = store.objects.pop(f"objects/{digest}")
    cache = Cache(disk=tmp_path / "disk")
    with pytest.raises(StoreError, match="missing"):
        cache.object(store, digest, 5)
    store.objects[f"objects/{digest}"] = content
    assert bytes(cache.object(store, digest, 5)) == b"12345"


@pytest.mark.parametrize("digest", ["", "..", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 65])
def test_a_digest_that_is_none_is_refused(digest: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is no sha256: use the same version"):
        Cache(disk=tmp_path / "disk").object(Counting(), digest, 5)


def test_what_was_used_longest_ago_makes_room_in_memory(tmp_path: Path) -> None:
    store = Counting()
    a, b, c = (store.add(bytes([n]) * 10) for n in range(3))
    cache = Cache(memory_bytes=20, disk=tmp_path / "disk", disk_bytes=0)
    for digest in (a, b, a, c, a, b):
        cache.object(store, digest, 10)
    assert store.gets == [f"objects/{digest}" for digest in (a, b, c, b)]


def test_one_object_stays_however_large_it_is(tmp_path: Path) -> None:
    store = Counting()
    digest = store.add(bytes(100))
    cache = Cache(memory_bytes=20, disk=tmp_path / "disk", disk_bytes=0)
    for _ in range(3):
        cache.object(store, digest, 100)
    assert len(store.gets) == 1


def test_a_quarter_of_the_functions_memory_is_for_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "4")
    store = Counting()
    a, b = (store.add(bytes([n]) * (MIB // 2 + 1)) for n in range(2))
    cache = Cache(disk=tmp_path / "disk", disk_bytes=0)
    for digest in (a, b, a):
        cache.object(store, digest, MIB // 2 + 1)
    assert len(store.gets) == 3


def test_a_restarted_worker_finds_the_copies(tmp_path: Path) -> None:
    store = Counting()
    contents = [b"12345", bytes(2 * MIB), b""]
    digests = [store.add(content) for content in contents]
    for _ in range(2):
        cache = Cache(disk=tmp_path / "disk")
        for digest, content in zip(digests, contents, strict=True):
            found = cache.object(store, digest, len(content))
            assert bytes(found) == content
            assert found.readonly
    assert len(store.gets) == 3


def test_a_damaged_copy_is_fetched_anew(tmp_path: Path) -> None:
    store = Counting()
    digest = store.add(b"12345")
    Cache(disk=tmp_path / "disk").object(store, digest, 5)
    for damage in (b"1234", b"12346", b""):
        (tmp_path / "disk" / digest).write_bytes(damage)
        assert bytes(Cache(disk=tmp_path / "disk").object(store, digest, 5)) == b"12345"
        assert (tmp_path / "disk" / digest).read_bytes() == b"12345"
    assert len(store.gets) == 4


def test_what_was_used_longest_ago_makes_room_on_disk(tmp_path: Path) -> None:
    store = Counting()
    disk = tmp_path / "disk"
    a, b, c = (store.add(bytes([n]) * 10) for n in range(3))
    for age_s, digest in ((20, a), (10, b)):
        Cache(disk=disk, disk_bytes=20).object(store, digest, 10)
        os.utime(disk / digest, (10**9 - age_s, 10**9 - age_s))
    Cache(disk=disk, disk_bytes=20).object(store, a, 10)  # from disk: now the last one used
    Cache(disk=disk, disk_bytes=20).object(store, c, 10)
    assert {path.name for path in disk.iterdir()} == {a, c}
    Cache(disk=disk, disk_bytes=5).object(store, b, 10)  # will never fit: nothing goes for it
    assert {path.name for path in disk.iterdir()} == {a, c}


@pytest.mark.parametrize("what", ["full", "no directory", "open to others", "a link"])
def test_without_a_disk_memory_is_enough(tmp_path: Path, what: str) -> None:
    store = Counting()
    digest = store.add(b"12345")
    disk = tmp_path / "disk"
    full: Any = contextlib.nullcontext()
    if what == "full":
        full = mock.patch("os.write", side_effect=OSError(errno.ENOSPC, "full"))
    elif what == "no directory":
        disk.write_bytes(b"")
    elif what == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        disk.symlink_to(tmp_path / "elsewhere")
    else:
        disk.mkdir()
        disk.chmod(0o777)
    cache = Cache(disk=disk)
    with full:
        for _ in range(2):
            assert bytes(cache.object(store, digest, 5)) == b"12345"
    assert len(store.gets) == 1
    assert not list(tmp_path.rglob(f"*{digest[:10]}*"))


def test_nothing_is_copied_from_a_directory(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store")
    content = bytes(2 * MIB)
    digest = hashlib.sha256(content).hexdigest()
    store.put(f"objects/{digest}", [content])
    found = Cache(disk=tmp_path / "disk").object(store, digest, len(content))
    assert type(found.obj).__name__ == "mmap"
    assert not (tmp_path / "disk").exists()
