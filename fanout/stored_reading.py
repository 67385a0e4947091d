"""How stored chunks are read where the kernel runs: ranges, records, and an object as a file.

Where blocks are cut is arithmetic, so both ends of a cut have to agree on whose a record is:

1. A record begins at 0, and wherever a delimiter ends, but at the end of the file.
2. Delimiters are found from the left, as `bytes.split` finds them. Those that can overlap
   themselves (two line feeds among three) depend on what is before them: `_synced` looks back.
3. Let `edge(x)` be the first place at or after x where a record begins. The block [start, stop)
   is what lies in [edge(start), edge(stop)): so blocks lie side by side, without gap or overlap.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from fanout.errors import StoreError

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from fanout.stored_chunks import Block, StoredObject

S3: Final = "s3://"
# What is read beyond a block to find the end of its last record; doubled each time.
_BEYOND_BYTES: Final = 64 * 2**10
# No piece is larger: the rest of a record of 1 GB takes some 70 requests, and little too much.
_PIECE_BYTES: Final = 16 * 2**20
# What an open object reads ahead: at first (a footer, a directory), at most (read to the end).
AHEAD_BYTES: Final = 256 * 2**10
_AHEAD_MOST_BYTES: Final = 8 * 2**20


class Ranges(Protocol):
    """Something of known size whose bytes can be read; whoever has it closes it."""

    @property
    def size(self) -> int:
        """How many bytes there are."""

    def read(self, start: int, stop: int) -> bytes | memoryview:
        """Exactly these bytes.

        Raises:
            StoreError: They can't be had.
        """

    def close(self) -> None:
        """Let it go."""


def records_of(ranges: Ranges, start: int, stop: int, on: bytes) -> bytes:
    """What lies in [edge(start), edge(stop)), by the rules above.

    Reads [start, stop) and 64 KiB beyond it at once, which is enough for most; then pieces, each
    twice as large as the one before.

    Args:
        ranges: Where to read.
        start: Below `stop` and the size.
        stop: Anything above.
        on: What separates two records.
    """
    size = ranges.size
    low = max(0, start - 2 * len(on))
    data = bytearray(ranges.read(low, min(size, stop + _BEYOND_BYTES)))
    piece = _BEYOND_BYTES
    while (place := _synced(data, on, start - low, -1 if low else 0)) is None:
        further = max(0, low - piece)
        data[:0] = ranges.read(further, low)
        low, piece = further, min(2 * piece, _PIECE_BYTES)
    first, _ = _scanned(data, on, start - low, place)
    if first < 0 or low + first >= min(stop, size):
        return b""
    place = _synced(data, on, stop - low, first)
    assert place is not None  # a record begins at `first`
    piece = _BEYOND_BYTES
    while True:
        last, place = _scanned(data, on, stop - low, place)
        read = low + len(data)
        if last >= 0 or read >= size:
            with memoryview(data) as view:
                return bytes(view[first : last if last >= 0 else None])
        piece = min(2 * piece, _PIECE_BYTES)
        data += ranges.read(read, min(size, read + piece))


def edge_of(data: bytes, on: bytes, at: int, begin: int) -> int:
    """The first place at or after `at` where a record begins, or the end; one begins at `begin`."""
    place = _synced(data, on, at, begin)
    assert place is not None  # a record begins at `begin`
    edge, _ = _scanned(data, on, at, place)
    return edge if edge >= 0 else len(data)


def _synced(data: bytes | bytearray, on: bytes, at: int, begin: int) -> int | None:
    """A place from which `_scanned` finds delimiters as if it had come from the beginning.

    That is one without an occurrence of the delimiter across it. Candidates go back from where a
    delimiter begins that ends at `at`; those between an occurrence and its end are skipped.

    Args:
        data: Bytes, up to `at` at least.
        on: The delimiter.
        at: Where a record may begin.
        begin: Where one begins that is not after `at`; -1 if that is not known.

    Returns:
        The place; None if it lies before the data.
    """
    place = at - len(on)
    while place > begin:
        earliest = place - len(on) + 1
        if earliest < 0 and begin < 0:
            return None
        across = data.rfind(on, max(begin, earliest, 0), place + len(on) - 1)
        if across < 0:
            return place
        place = across
    return begin if begin >= 0 else None


def _scanned(data: bytes | bytearray, on: bytes, at: int, place: int) -> tuple[int, int]:
    """Where the first record begins at or after `at`, looking from a synced place.

    Returns:
        It, or -1 if the data end before; and where to look on with more data.
    """
    if at <= 0:
        return 0, 0
    while (found := data.find(on, place)) >= 0:
        place = found + len(on)
        if place >= at:
            return place, place
    return -1, max(place, len(data) - len(on) + 1)


class RangesFile(io.RawIOBase):
    """Something with ranges as a file: reads ahead, the more the longer it is read in order.

    Args:
        ranges: Closed with it.
    """

    def __init__(self, ranges: Ranges) -> None:
        self._ranges = ranges
        self._at = 0
        self._ahead = memoryview(b"")
        self._ahead_at = 0
        self._piece = AHEAD_BYTES

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Where the next byte is read."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Read on elsewhere.

        Raises:
            ValueError: That is before the beginning.
        """
        origins = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._ranges.size}
        at = origins[whence] + offset
        if at < 0:
            raise ValueError(f"seek to {at}, before the beginning")
        self._at = at
        return at

    def readinto(self, buffer: Buffer) -> int:
        """Read up to as many bytes as the buffer takes; return how many."""
        target = memoryview(buffer).cast("B")
        if not 0 <= self._at - self._ahead_at < len(self._ahead):
            self._read_ahead(len(target))
        found = self._ahead[self._at - self._ahead_at :][: len(target)]
        target[: len(found)] = found
        self._at += len(found)
        return len(found)

    def _read_ahead(self, wanted: int) -> None:
        is_next = self._ahead and self._at == self._ahead_at + len(self._ahead)
        self._piece = min(2 * self._piece, _AHEAD_MOST_BYTES) if is_next else AHEAD_BYTES
        stop = min(self._at + max(wanted, self._piece), self._ranges.size)
        self._ahead_at = self._at
        read = self._ranges.read(self._at, stop) if stop > self._at else b""
        self._ahead = memoryview(read).cast("B")

    def close(self) -> None:
        """Close what it reads from, too."""
        if not self.closed:
            self._ahead = memoryview(b"")
            self._ranges.close()
        super().close()


class _FileRanges:
    """A file on this machine."""

    def __init__(self, path: str, size: int) -> None:
        self._path = path
        self._file = opened(path, size)
        self.size = size

    def read(self, start: int, stop: int) -> bytes:
        """Exactly these bytes."""
        self._file.seek(start)
        data = self._file.read(stop - start)
        if len(data) != stop - start:
            raise _changed(self._path, self.size)
        return data

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class ObjectStore(Protocol):
    """What is used here of a `FarStore`."""

    def get(
        self, key: str, *, start: int = 0, stop: int | None = None, etag: str | None = None
    ) -> memoryview:
        """These bytes of an object, if it is the one that is meant."""


class ObjectRanges:
    """An object in a store.

    Args:
        store: Holds it; stays open, for the next chunk.
        key: Its key.
        source: Its name, for messages.
        size: Its size when it was planned.
        etag: Its ETag then, if that is known.
    """

    def __init__(
        self, store: ObjectStore, key: str, *, source: str, size: int, etag: str | None = None
    ) -> None:
        self._store = store
        self._key = key
        self._source = source
        self._etag = etag
        self.size = size

    def read(self, start: int, stop: int) -> memoryview:
        """Exactly these bytes."""
        data = self._store.get(self._key, start=start, stop=stop, etag=self._etag)
        if data.nbytes != stop - start:
            raise _changed(self._source, self.size)
        return data

    def close(self) -> None:
        """Nothing is held open for an object."""


def parted(name: str) -> tuple[str, str]:
    """Bucket and key of an "s3://" name."""
    bucket, _, key = name.removeprefix(S3).partition("/")
    return bucket, key


def opened(path: str, size: int) -> io.BufferedReader:
    """A file that is as it was planned."""
    try:
        file = Path(path).open("rb")  # noqa: SIM115  # whoever has it closes it
    except OSError as error:
        msg = (
            f"{path} can't be read at the worker ({error.strerror}): workers on other machines "
            "don't see your files; put it into S3, and pass s3://bucket/key"
        )
        raise StoreError(msg) from error
    if os.fstat(file.fileno()).st_size != size:
        file.close()
        raise _changed(path, size)
    return file


def _changed(source: str, size: int) -> StoreError:
    msg = f"{source} no longer has the {size:,} bytes that it had when it was planned: plan again"
    return StoreError(msg)


def ranges_of(of: Block | StoredObject, size: int) -> Ranges:
    """The way to its bytes from here."""
    if not of.source.startswith(S3):
        return _FileRanges(of.source, size)
    from fanout.far_stores import kept_store

    region = of.region or os.environ.get("AWS_REGION")
    if not region:
        raise StoreError(f"the region of {of.source} is not known: set AWS_REGION at the worker")
    bucket, key = parted(of.source)
    locator = {
        "kind": "s3",
        "bucket": bucket,
        "prefix": "",
        "region": region,
        "endpoint": of.endpoint,
    }
    return ObjectRanges(kept_store(locator), key, source=of.source, size=size, etag=of.etag)
