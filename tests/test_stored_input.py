"""Chunks that name data in storage: where blocks are cut, who reads a record, what S3 is asked."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import gzip
import hashlib
import importlib
import io
import itertools
import os
import random
import subprocess
import sys
import types
import zipfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from botocore.exceptions import ClientError
from hypothesis import example, given
from hypothesis import strategies as st

import fanout
from fanout.errors import StoreError, UsageError
from fanout.far_stores import kept_store
from fanout.intake import checked_input
from fanout.stored_chunks import Block, StoredObject, blocks_of
from fanout.stored_input import LocalChunks, blocks, objects
from fanout.stored_reading import ObjectRanges, RangesFile, records_of
from tests import far_stores_checks
from tests.contract import stands

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Iterator, Sequence

BEYOND = 64 * 2**10
ROOT = Path(__file__).parent.parent


class Memory:
    """A store with one object, as the far end sees it; remembers the ranges asked for."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.asked: list[tuple[int, int]] = []

    def get(
        self, key: str, *, start: int = 0, stop: int | None = None, etag: str | None = None
    ) -> memoryview:
        assert key == "key"
        assert stop is not None
        assert 0 <= start < stop <= len(self.data)  # S3 refuses an empty range
        self.asked.append((start, stop))
        return memoryview(self.data)[start:stop]

    def ranges(self) -> ObjectRanges:
        return ObjectRanges(self, "key", source="s3://bucket/key", size=len(self.data))


def naive(data: bytes, on: bytes) -> list[bytes]:
    """The records of a whole file."""
    records = data.split(on)
    return records if records[-1] else records[:-1]


def parts(data: bytes, on: bytes, cuts: Sequence[int]) -> list[bytes]:
    """What each block reads when the file is cut at these places."""
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    return [
        records_of(Memory(data).ranges(), start, stop, on)
        for start, stop in itertools.pairwise(places)
    ]


def begins(data: bytes, on: bytes) -> list[int]:
    """Where the records of a file begin."""
    places, at = [], 0
    for record in naive(data, on):
        places.append(at)
        at += len(record) + len(on)
    return places


def file(folder: Path, data: bytes, name: str = "data.txt") -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return str(path)


# Few letters, so that delimiters overlap each other and themselves.
_MARKS = st.sampled_from([b"\n", b"\r\n", b"\n\n", b"aa", b"aba", b"abab", b"aabaa", b"--x--"])
_PIECES = st.sampled_from([b"a", b"b", b"\n", b"\r", b"\r\n", b"-", b"--x--", b"aba", b"long" * 9])


@given(
    data=st.lists(_PIECES, max_size=40).map(b"".join),
    on=_MARKS,
    cuts=st.lists(st.integers(1, 200), max_size=8),
)
@example(data=b"\n\n\n\n\n", on=b"\n\n", cuts=[1, 2, 3, 4])
@example(data=b"x" + b"aba" * 9, on=b"aba", cuts=list(range(28)))
@example(data=b"one\r\ntwo\r\n", on=b"\r\n", cuts=[4, 5])
def test_every_record_belongs_to_exactly_the_block_in_which_it_begins(
    data: bytes, on: bytes, cuts: list[int]
) -> None:
    read = parts(data, on, cuts)
    assert b"".join(read) == data
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    where = begins(data, on)
    for (start, stop), got in zip(itertools.pairwise(places), read, strict=True):
        own = [i for i, begin in enumerate(where) if start <= begin < stop]
        assert naive(got, on) == [naive(data, on)[i] for i in own]


@given(data=st.lists(_PIECES, max_size=30).map(b"".join), on=_MARKS, block_bytes=st.integers(1, 60))
def test_the_blocks_of_a_file_give_its_records_in_order(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, on: bytes, block_bytes: int
) -> None:
    path = file(tmp_path_factory.getbasetemp(), data, "property.txt")
    planned = blocks(path, block_bytes, on)
    assert isinstance(planned, LocalChunks)
    assert sum(block.nbytes for block in planned) == len(data)
    assert [record for block in planned for record in block.records()] == naive(data, on)


def test_blocks_that_are_cut_anywhere_in_a_large_run_of_delimiters_agree() -> None:
    """The look back is longer than what is read at once."""
    data = b"head" + b"\n" * (5 * BEYOND + 1) + b"tail\n\nend"
    for cut in (3 * BEYOND, 4 * BEYOND + 1, 5 * BEYOND + 4):
        assert [naive(part, b"\n\n") for part in parts(data, b"\n\n", [cut])] == [
            [
                r
                for r, b in zip(naive(data, b"\n\n"), begins(data, b"\n\n"), strict=True)
                if b < cut
            ],
            [
                r
                for r, b in zip(naive(data, b"\n\n"), begins(data, b"\n\n"), strict=True)
                if b >= cut
            ],
        ]


@pytest.mark.parametrize(
    ("data", "on", "cuts", "read"),
    [
        (b"", b"\n", [], []),
        (b"\n", b"\n", [], [b"\n"]),
        (b"a\nb", b"\n", [1], [b"a\n", b"b"]),
        (b"a\nb", b"\n", [2], [b"a\n", b"b"]),
        (b"a\nb\n", b"\n", [2, 3], [b"a\n", b"b\n", b""]),
        (b"\n\na", b"\n", [1, 2], [b"\n", b"\n", b"a"]),
        (b"a\r\nb\r\n", b"\r\n", [1, 2], [b"a\r\n", b"", b"b\r\n"]),
        (
            b"longer than a block\nx\n",
            b"\n",
            [5, 10, 20],
            [b"longer than a block\n", b"", b"", b"x\n"],
        ),
        (b"no delimiter", b"\n", [3, 6], [b"no delimiter", b"", b""]),
    ],
)
def test_cuts_fall_where_they_like(
    data: bytes, on: bytes, cuts: list[int], read: list[bytes]
) -> None:
    assert parts(data, on, cuts) == read


def test_a_trailing_delimiter_gives_no_empty_record(tmp_path: Path) -> None:
    (block,) = local(blocks(file(tmp_path, b"a\n\nb\n")))
    assert list(block.records()) == [b"a", b"", b"b"]
    assert list(local(blocks(file(tmp_path, b"")))) == []
    (block,) = local(blocks(file(tmp_path, b"\n")))
    assert list(block.records()) == [b""]


def test_lines_of_windows_come_without_the_carriage_return(tmp_path: Path) -> None:
    (block,) = local(blocks(file(tmp_path, b"one\r\ntwo\r\n\r\nend")))
    assert list(block.lines()) == [b"one", b"two", b"", b"end"]
    assert next(block.records()) == b"one\r"


def test_records_are_split_a_stretch_at_a_time(tmp_path: Path) -> None:
    """Whatever the stretches' ends meet: here, runs of a delimiter that overlaps itself."""
    rng = random.Random(7)
    data = b"".join(rng.choice([b"\n" * 5, b"text", b"\n\n\n"]) for _ in range(900_000))
    (block,) = local(blocks(file(tmp_path, data), on="\n\n"))
    assert len(data) > 3 * 2**20
    assert list(block.records()) == naive(data, b"\n\n")


def test_a_block_is_one_request_and_a_long_record_a_few_more() -> None:
    data = b"x" * 99 + b"\n"
    store = Memory(data * 10_000)
    records_of(store.ranges(), 100_000, 200_000, b"\n")
    assert store.asked == [(99_998, 200_000 + BEYOND)]

    store = Memory(b"a\n" + b"x" * 10_000_000 + b"\nb\n")
    read = records_of(store.ranges(), 0, 100, b"\n")
    assert read == store.data[:-2]
    assert len(store.asked) < 9
    assert [stop for _, stop in store.asked[:-1]] == [start for start, _ in store.asked[1:]]
    assert store.asked[1] == (100 + BEYOND, 100 + 3 * BEYOND)


@pytest.mark.parametrize("on", [b"\r\n", b"aabaa", b"--mark--"])
def test_a_delimiter_may_straddle_two_pieces_of_what_is_read_beyond(on: bytes) -> None:
    for shift in range(len(on) + 1):
        first = b"x" * (10 + BEYOND - shift) + on
        assert parts(first + b"rest", on, [10]) == [first, b"rest"]


def test_a_block_without_a_record_of_its_own_reads_nothing_beyond() -> None:
    store = Memory(b"x" * 1_000_000)
    assert records_of(store.ranges(), 1000, 2000, b"\n") == b""
    assert store.asked == [(998, 2000 + BEYOND)]


def local(planned: Any) -> Any:
    """The same; it has to be known already."""
    assert isinstance(planned, LocalChunks)
    return planned


async def test_local_blocks_are_a_sequence_and_can_be_awaited(tmp_path: Path) -> None:
    path = file(tmp_path, b"0123456789")
    planned = local(blocks([path, Path(path)], 4))
    assert len(planned) == 6
    assert [(block.start, block.stop, block.nbytes) for block in planned[:3]] == [
        (0, 4, 4),
        (4, 8, 4),
        (8, 10, 2),
    ]
    assert [chunk async for chunk in planned] == list(planned) == await planned.plan()
    assert checked_input(planned) is planned
    assert "6 sources" not in repr(planned)
    assert "2 sources" in repr(planned)
    assert path in repr(blocks(path))


def test_paths_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file(tmp_path, b"a\n", "near.txt")
    monkeypatch.chdir(tmp_path)
    assert local(blocks("near.txt"))[0].source == str(tmp_path / "near.txt")


def words(block: Block) -> collections.Counter[bytes]:
    return collections.Counter(word for line in block.lines() for word in line.split())


async def test_word_count_of_a_file_equals_a_loops(tmp_path: Path) -> None:
    rng = random.Random(1)
    lines = (b" ".join(rng.choices(VOCABULARY, k=rng.randrange(12))) for _ in range(150_000))
    data = b"\n".join(lines)
    assert len(data) > 5_000_000
    path = file(tmp_path, data)
    totals: list[int | None] = []

    def watch(event: object) -> None:
        if isinstance(event, fanout.events.RunStarted):
            totals.append(event.total)

    counts = await fanout.map(words, blocks(path, 300_000), backend=fanout.Local(2), on_event=watch)
    assert sum(counts, collections.Counter()) == collections.Counter(data.split())
    assert len(counts) == -(-len(data) // 300_000)
    assert totals == [len(counts)]


VOCABULARY = [b"kernel", b"chunk", b"task", b"attempt", b"group", b"retry", b"outcome", b"worker"]


def length(stored: StoredObject) -> tuple[str, int]:
    return stored.source, len(stored.read())


async def test_objects_are_the_files_that_match_sorted_by_name(tmp_path: Path) -> None:
    for name in ("b.csv", "a.csv", "c.txt", "deep/er/d.csv"):
        file(tmp_path, name.encode(), name)
    (tmp_path / "folder.csv").mkdir()
    found = local(objects(tmp_path / "*.csv"))
    assert [Path(stored.source).name for stored in found] == ["a.csv", "b.csv"]
    assert [Path(stored.source).name for stored in local(objects(tmp_path / "**" / "*.csv"))] == [
        "a.csv",
        "b.csv",
        "d.csv",
    ]
    results = await fanout.map(length, found, backend=fanout.Local(2))
    assert results == [(str(tmp_path / "a.csv"), 5), (str(tmp_path / "b.csv"), 5)]


def test_an_empty_file_is_an_object_and_has_no_blocks(tmp_path: Path) -> None:
    path = file(tmp_path, b"")
    (stored,) = local(objects(path))
    assert (stored.nbytes, stored.read()) == (0, b"")
    assert len(local(blocks(path))) == 0
    with stored.open() as opened:
        assert opened.read() == b""


@pytest.fixture(params=["file", "store"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Opens bytes as `StoredObject.open` does, from a local file and from a store."""

    def at(data: bytes) -> io.BufferedReader:
        if request.param == "file":
            return StoredObject(source=file(tmp_path, data), nbytes=len(data)).open()
        return io.BufferedReader(RangesFile(Memory(data).ranges()))

    return at


def test_what_is_open_is_read_by_gzip_zipfile_and_numpy(opened: Any) -> None:
    data = random.Random(2).randbytes(700_000)
    with opened(gzip.compress(data)) as stored, gzip.open(stored) as unpacked:
        assert unpacked.read() == data

    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as writing:
        writing.writestr("large", data)
        writing.writestr("small", b"few")
    with opened(archive.getvalue()) as stored, zipfile.ZipFile(stored) as reading:
        assert reading.read("small") == b"few"
        assert reading.read("large") == data

    array = np.arange(50_000.0).reshape(100, 500)
    saved = io.BytesIO()
    np.save(saved, array)
    with opened(saved.getvalue()) as stored:
        assert np.array_equal(np.load(stored), array)

    with opened(b"a\nb\n") as stored, io.TextIOWrapper(stored, "ascii") as text:
        assert list(text) == ["a\n", "b\n"]


def test_what_is_open_behaves_as_a_file(opened: Any) -> None:
    with opened(bytes(range(200))) as stored:
        assert stored.readable()
        assert stored.seekable()
        assert not stored.writable()
        assert stored.seek(-8, os.SEEK_END) == 192
        assert stored.read() == bytes(range(192, 200))
        assert (stored.read(), stored.read(1)) == (b"", b"")
        assert stored.seek(10) == 10
        assert stored.seek(5, os.SEEK_CUR) == 15
        assert (stored.read(2), stored.tell()) == (b"\x0f\x10", 17)
        assert stored.seek(500) == 500
        assert stored.read(1) == b""
        with pytest.raises((ValueError, OSError)):
            stored.seek(-1)


def test_the_end_of_an_object_is_read_without_its_middle() -> None:
    store = Memory(b"x" * 5_000_000)
    with io.BufferedReader(RangesFile(store.ranges()), 2**18) as stored:
        stored.seek(-8, os.SEEK_END)
        stored.read(8)
        assert sum(stop - start for start, stop in store.asked) <= 2**18


def test_reading_in_order_reads_more_and_more_ahead() -> None:
    store = Memory(b"x" * 50_000_000)
    with io.BufferedReader(RangesFile(store.ranges()), 2**18) as stored:
        while stored.read(1000):
            pass
    assert [start for start, _ in store.asked[1:]] == [stop for _, stop in store.asked[:-1]]
    assert len(store.asked) < 15


def test_a_source_that_has_changed_or_gone_is_told_with_the_remedy(tmp_path: Path) -> None:
    path = file(tmp_path, b"a\nb\n")
    (block,), (stored,) = local(blocks(path)), local(objects(path))
    Path(path).write_bytes(b"a\nb\nc\n")
    for read in (block.read, stored.read, stored.open):
        with pytest.raises(StoreError, match=r"no longer has the 4 bytes .*: plan again"):
            read()
    Path(path).unlink()
    for read in (block.read, stored.read, stored.open):
        with pytest.raises(StoreError, match=r"can't be read at the worker .* put it into S3"):
            read()
    shrunk = ObjectRanges(Memory(b"abc"), "key", source="s3://b/key", size=9)
    shrunk._store.get = lambda key, **_: memoryview(b"abc")  # type: ignore[method-assign]
    with pytest.raises(StoreError, match="s3://b/key no longer has the 9 bytes"):
        shrunk.read(0, 9)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"source": 3}, r"source=3 must be 's3://bucket/key' or a path, or a list of these"),
        ({"source": b"a"}, r"source=b'a' must be"),
        ({"source": [None]}, r"source None must be 's3://bucket/key' or a path"),
        ({"source": ""}, r"source '' must be"),
        ({"source": "s3://bucket"}, r"names no object: pass 's3://bucket/key'"),
        ({"source": "https://host/key"}, r"is not supported: pass 's3://bucket/key' or a path"),
        ({"source": "/no/such"}, r"/no/such can't be read \(No such file.*\): check its path"),
        ({"source": "/no/*.csv"}, r"blocks takes no patterns, use a list"),
        ({"source": "/"}, r"/ is not a file: pass its files, as in fanout.objects\('/\*'\)"),
        ({"source": __file__, "block_bytes": 0}, r"block_bytes=0 must be a whole number of bytes"),
        ({"source": __file__, "block_bytes": 1.5}, r"block_bytes=1.5 must be"),
        ({"source": __file__, "on": ""}, r"on='' must be what separates two records"),
        ({"source": __file__, "on": 3}, r"on=3 must be what separates two records"),
    ],
)
def test_blocks_says_what_to_pass(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        blocks(**arguments)


def test_objects_says_what_to_pass(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing matches '.*/\*.csv': check it"):
        objects(tmp_path / "*.csv")
    with pytest.raises(UsageError, match=r"for all in that folder, pass '.*/\*'"):
        objects(tmp_path)
    with pytest.raises(UsageError, match="pattern=3 must be"):
        objects(3)  # type: ignore[arg-type]


def test_a_worker_needs_the_standard_library_only() -> None:
    code = (
        "import sys, fanout.stored_chunks, fanout.stored_input;"
        " print(*sorted({m.split('.')[0] for m in sys.modules}"
        " - set(sys.stdlib_module_names)), 'asyncio' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.split() == ["__main__", "fanout", "False"] or done.stdout.split() == [
        "fanout",
        "False",
    ]


# S3: what the client asks, of an S3 on this machine; what the far end reads, too.

CONTENT = {
    "log.txt": b"one\ntwo\nthree\nfour\n",
    "day/a.csv": b"a\n",
    "day/b.csv": b"bb\n",
    "day/c.txt": b"c",
    "day/deep/d.csv": b"ddd\n",
    "day/empty/": b"",
}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with stands.ministack_server(tmp_path_factory.mktemp("s3")) as started:
        client = stands.client("s3", started, stands.KEYS)
        client.create_bucket(Bucket="bucket")
        for key, content in CONTENT.items():
            client.put_object(Bucket="bucket", Key=key, Body=content)
        yield started


@pytest.fixture
def s3(url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The S3, in the environment of this test and its workers."""
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
    monkeypatch.setenv("AWS_REGION", stands.REGION)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", stands.KEYS[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", stands.KEYS[1])
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return url


async def listed(chunks: AsyncIterable[Any]) -> list[Any]:
    return [chunk async for chunk in chunks]


async def test_blocks_of_objects_in_s3_say_where_it_is(s3: str, tmp_path: Path) -> None:
    here = file(tmp_path, b"here\n")
    planned = blocks(["s3://bucket/log.txt", here], 10)
    assert not isinstance(planned, LocalChunks)
    assert checked_input(planned) is planned
    found = await planned.plan()
    assert [(b.source, b.start, b.stop, b.endpoint, b.region) for b in found] == [
        ("s3://bucket/log.txt", 0, 10, s3, "us-east-1"),
        ("s3://bucket/log.txt", 10, 19, s3, "us-east-1"),
        (here, 0, 5, None, None),
    ]
    etag = f'"{hashlib.md5(CONTENT["log.txt"], usedforsecurity=False).hexdigest()}"'
    assert [block.etag for block in found] == [etag, etag, None]
    (stored,) = await objects("s3://bucket/log.txt").plan()
    assert stored.etag == etag


@pytest.mark.parametrize(
    ("pattern", "keys"),
    [
        ("day/*.csv", ["day/a.csv", "day/b.csv"]),
        ("day/**", ["day/a.csv", "day/b.csv", "day/c.txt", "day/deep/d.csv"]),
        ("**/*.csv", ["day/a.csv", "day/b.csv", "day/deep/d.csv"]),
        ("day/[b-z].*", ["day/b.csv", "day/c.txt"]),
        ("log.txt", ["log.txt"]),
    ],
)
async def test_patterns_match_keys_as_they_match_paths(
    s3: str, pattern: str, keys: list[str]
) -> None:
    found = await objects(f"s3://bucket/{pattern}").plan()
    assert [(stored.source, stored.nbytes) for stored in found] == [
        (f"s3://bucket/{key}", len(CONTENT[key])) for key in keys
    ]


def upper(block: Block) -> list[bytes]:
    return [line.upper() for line in block.lines()]


async def test_workers_read_their_blocks_and_objects_from_s3(s3: str) -> None:
    async with fanout.Executor(fanout.Local(1)) as ex:
        lines = await ex.map(upper, blocks("s3://bucket/log.txt", 6))
        assert lines == [[b"ONE", b"TWO"], [b"THREE"], [b"FOUR"], []]
        read = await ex.map(length, objects("s3://bucket/day/*.csv"))
        assert read == [("s3://bucket/day/a.csv", 2), ("s3://bucket/day/b.csv", 3)]


async def test_what_was_exchanged_in_s3_for_something_as_long_is_refused(s3: str) -> None:
    with contextlib.closing(stands.client("s3", s3, stands.KEYS)) as client:
        client.put_object(Bucket="bucket", Key="changing", Body=b"old\n" * 500_000)
        (stored,) = await objects("s3://bucket/changing").plan()
        (block,) = await blocks("s3://bucket/changing").plan()
        opened = stored.open()
        assert opened.readline() == b"old\n"
        client.put_object(Bucket="bucket", Key="changing", Body=b"new\n" * 500_000)
    why = "object changing in s3://bucket/ changed since it was planned: plan again"
    for read in (stored.read, block.read, opened.read):
        with pytest.raises(StoreError, match=why):
            read()
    opened.close()


READER = """
def sizes(chunk):
    if isinstance(chunk, list | tuple):
        return [nbytes for part in chunk for nbytes in sizes(part)]
    return [len(chunk.read())]
"""


async def test_codec_safe_takes_blocks_and_objects_to_kernels_that_know_nothing_of_fanout(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file(tmp_path, READER.encode(), "far_reader.py")
    monkeypatch.syspath_prepend(tmp_path)
    sizes = importlib.import_module("far_reader").sizes
    text = file(tmp_path, b"one\ntwo\n")
    (remote,) = await blocks("s3://bucket/log.txt").plan()
    (block,), (stored,) = local(blocks(text)), local(objects(text))
    async with fanout.Executor(fanout.Local(1)) as ex:
        chunks = [block, stored, remote, [block, (stored, [remote])]]
        read = [[8], [8], [19], [8, 8, 19]]
        assert await ex.map(sizes, chunks, codec="safe") == read
        ref = await ex.put([block, stored])
        assert await ex.map(sizes, [ref, [ref, remote]], codec="safe") == [[8, 8], [8, 8, 19]]
        (same,) = await ex.map(identity, [remote], codec="safe")
        assert same == remote


def identity(value: Any) -> Any:
    return value


async def test_what_s3_does_not_have_is_told_with_the_remedy(s3: str) -> None:
    with pytest.raises(StoreError, match=r"s3://bucket/none is not there \(404\): check its name"):
        await listed(blocks("s3://bucket/none"))
    with pytest.raises(StoreError, match=r"s3://nobodys is not there \(NoSuchBucket\)"):
        await listed(objects("s3://nobodys/*"))
    with pytest.raises(
        UsageError, match=r"nothing matches 's3://bucket/day': .*'s3://bucket/day/\*'"
    ):
        await listed(objects("s3://bucket/day"))
    with pytest.raises(StoreError, match="is not there") as raised:
        await fanout.map(upper, blocks(["s3://bucket/log.txt", "s3://bucket/none"]))
    assert "raised by the input of fanout" in raised.value.__notes__[0]


def test_connections_live_from_one_chunk_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    far_stores_checks.settle(monkeypatch)
    with far_stores_checks.serving() as fake:
        fake.objects["/bucket/key"] = b"one\ntwo\n"
        stored = StoredObject(source="s3://bucket/key", nbytes=8, region="r", endpoint=fake.url)
        for block in blocks_of(stored, 3, b"\n"):
            block.read()
        with stored.open() as opened:
            opened.read()
        stored.read()
        made = fake.connections
        place = {"kind": "s3", "bucket": "bucket", "prefix": "", "region": "r"}
        kept_store(place | {"endpoint": fake.url}).close()  # or the server would wait for it
    assert len(fake.asked) == 5
    assert made == 1


class Scripted:
    """A session whose S3 answers as it is told to."""

    def __init__(
        self,
        *,
        code: str = "",
        is_private: bool = False,
        bucket_region: str = "",
        endpoint_url: str = "https://s3.eu-west-1.amazonaws.com",
    ) -> None:
        self.code = code
        self.is_private = is_private
        self.headers = {"x-amz-bucket-region": bucket_region} if bucket_region else {}
        self.meta = types.SimpleNamespace(region_name="eu-west-1", endpoint_url=endpoint_url)
        self.in_flight = self.most = 0

    @asynccontextmanager
    async def client(self, service: str) -> AsyncIterator[Scripted]:
        assert service == "s3"
        yield self

    async def head_bucket(self, **_: str) -> dict[str, Any]:
        about: Any = {"ResponseMetadata": {"HTTPHeaders": self.headers}}
        if self.is_private:
            raise ClientError({"Error": {"Code": "403"}, **about}, "HeadBucket")
        return dict(about)

    async def head_object(self, **_: str) -> dict[str, Any]:
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        await asyncio.sleep(0)
        self.in_flight -= 1
        if self.code:
            raise ClientError({"Error": {"Code": self.code}}, "HeadObject")
        return {"ContentLength": 3}


@pytest.mark.parametrize(
    ("scripted", "region", "endpoint"),
    [
        (Scripted(), "eu-west-1", None),
        (Scripted(bucket_region="ap-south-1"), "ap-south-1", None),
        (Scripted(bucket_region="ap-south-1", is_private=True), "ap-south-1", None),
        (Scripted(endpoint_url="https://s3.amazonaws.com"), "eu-west-1", None),
        (Scripted(endpoint_url="https://s3.cn-north-1.amazonaws.com.cn"), "eu-west-1", None),
        (Scripted(endpoint_url="http://127.0.0.1:9000"), "eu-west-1", "http://127.0.0.1:9000"),
    ],
)
async def test_workers_are_told_where_the_bucket_is(
    scripted: Any, region: str | None, endpoint: str | None
) -> None:
    (block,) = await blocks("s3://bucket/key", session=scripted).plan()
    assert (block.region, block.endpoint) == (region, endpoint)


async def test_sizes_are_asked_for_ten_at_a_time_and_come_in_order() -> None:
    scripted = Scripted()
    session: Any = scripted
    names = [f"s3://bucket/{number}" for number in range(100)]
    found = await blocks(names, session=session).plan()
    assert [block.source for block in found] == names
    assert scripted.most == 10


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("403", "add the right s3:GetObject, and s3:ListBucket"),
        ("SlowDown", "S3 can't be asked about s3://bucket/key .*: .* try it again"),
    ],
)
async def test_what_s3_refuses_is_told_with_the_remedy(code: str, told: str) -> None:
    session: Any = Scripted(code=code)
    with pytest.raises(StoreError, match=told):
        await blocks(["s3://bucket/key"] * 3, session=session).plan()


async def test_without_credentials_s3_is_not_asked(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StoreError, match="check credentials, region and connection"):
        await blocks("s3://bucket/log.txt").plan()


def test_a_block_without_region_needs_that_of_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_REGION", raising=False)
    block = Block(source="s3://bucket/key", start=0, stop=1, source_bytes=1, on=b"\n")
    with pytest.raises(StoreError, match="set AWS_REGION at the worker"):
        block.read()
