"""Chunks that name bytes in storage instead of holding them: what travels to a worker.

A `Block` is a range of a file or object, and stands for the records that begin in it; a
`StoredObject` is a whole one. Their methods run at the worker, which reads the bytes itself.
No credential travels: each side uses its own.

The far end imports the standard library only.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fanout.stored_reading import (
    AHEAD_BYTES,
    S3,
    RangesFile,
    edge_of,
    opened,
    ranges_of,
    records_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

# What is split at a time, so that the records of a block are not all in memory as objects.
_STRETCH_BYTES: Final = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """The records of a file or object that begin in a range of its bytes.

    Attributes:
        source: "s3://bucket/key", or an absolute path.
        start: The first byte of the range.
        stop: The first byte after it.
        source_bytes: Size of the whole file or object.
        on: What separates two records.
        region: Of the bucket; by default what AWS_REGION says at the worker.
        endpoint: Of S3; by default what AWS_ENDPOINT_URL_S3 says at the worker, or AWS's own.
        etag: What S3 called the object's content when it was planned; another content is refused.
            Files have none, as a time of change does not survive the way into an image: of these
            the size is compared.
    """

    source: str
    start: int
    stop: int
    source_bytes: int
    on: bytes
    region: str | None = None
    endpoint: str | None = None
    etag: str | None = None

    @property
    def nbytes(self) -> int:
        """Size of the range."""
        return self.stop - self.start

    def read(self) -> bytes:
        r"""The records that begin in the range, as they are, delimiters included.

        Empty if none does, since one record is longer than the range.

        Raises:
            StoreError: The source can't be read, or has changed.
        """
        if self.start >= min(self.stop, self.source_bytes):
            return b""
        with contextlib.closing(ranges_of(self, self.source_bytes)) as ranges:
            return records_of(ranges, self.start, self.stop, self.on)

    def records(self) -> Iterator[bytes]:
        """The same one by one, without the delimiters.

        Raises:
            StoreError: The source can't be read, or has changed.
        """
        data = self.read()
        begin = 0
        while begin < len(data):
            edge = edge_of(data, self.on, begin + _STRETCH_BYTES, begin)
            records = data[begin:edge].split(self.on)
            if not records[-1]:  # what follows the last delimiter
                del records[-1]
            yield from records
            begin = edge

    def lines(self) -> Iterator[bytes]:
        r"""The records as lines of a text: like `records`, also without the `\r` of Windows.

        Raises:
            StoreError: The source can't be read, or has changed.
        """
        for record in self.records():
            yield record.removesuffix(b"\r")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """A whole file or object.

    Attributes:
        source: "s3://bucket/key", or an absolute path.
        nbytes: Its size.
        region: Of the bucket; by default what AWS_REGION says at the worker.
        endpoint: Of S3; by default what AWS_ENDPOINT_URL_S3 says at the worker, or AWS's own.
        etag: As of a `Block`.
    """

    source: str
    nbytes: int
    region: str | None = None
    endpoint: str | None = None
    etag: str | None = None

    def read(self) -> bytes:
        """All of it.

        Raises:
            StoreError: It can't be read, or has changed.
        """
        if not self.nbytes:
            return b""
        with contextlib.closing(ranges_of(self, self.nbytes)) as ranges:
            return bytes(ranges.read(0, self.nbytes))

    def open(self) -> io.BufferedReader:
        """A binary file to read and seek in, as pyarrow, pandas, numpy and zipfile take it.

        Of an object in S3 it reads the parts that are wanted, and more ahead while they are
        consecutive.

        Raises:
            StoreError: It can't be read, or has changed; also raised by the file's methods.
        """
        if not self.source.startswith(S3):
            return opened(self.source, self.nbytes)
        return io.BufferedReader(RangesFile(ranges_of(self, self.nbytes)), AHEAD_BYTES)


def blocks_of(stored: StoredObject, block_bytes: int, on: bytes) -> list[Block]:
    """Cut a file or object into blocks; none if it is empty."""
    return [
        Block(
            source=stored.source,
            start=start,
            stop=min(start + block_bytes, stored.nbytes),
            source_bytes=stored.nbytes,
            on=on,
            region=stored.region,
            endpoint=stored.endpoint,
            etag=stored.etag,
        )
        for start in range(0, stored.nbytes, block_bytes)
    ]
