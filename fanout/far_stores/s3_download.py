"""One range of an object on its way into one buffer, in parts if it is large.

The first answer says how large the object is. Only then is there a buffer, and are there threads,
if one request isn't enough; they and the caller take parts until none is left. So what is small
takes one request, and what is large no request more than it has parts.

All parts are of one object: each is asked for by the ETag that planning or the first answer gave,
as another object may have come under the same key, of the same size.
"""

from __future__ import annotations

import mmap
import threading
from typing import TYPE_CHECKING, Final, Protocol

from fanout.errors import StoreError
from fanout.far_stores.checks import range_end
from fanout.far_stores.s3_answers import ExchangedError, NoSuchRangeError, PassingError

if TYPE_CHECKING:
    from collections.abc import Callable
    from http.client import HTTPResponse

# What is smaller comes with one request; what is larger, in such parts, by so many threads at a
# time: one connection to S3 carries less than Lambda's network gives, a few fill it.
WHOLE_BYTES: Final = 16 << 20
PART_BYTES: Final = 8 << 20
THREADS: Final = 4
# Smaller buffers come from the heap.
_MAPPED_BYTES: Final = 1 << 20


class Ask(Protocol):
    """Asks for the bytes [start, stop) until they are read, or raises `StoreError`."""

    def __call__(
        self, start: int, stop: int, read: Callable[[HTTPResponse], None], etag: str | None
    ) -> None:
        """Raises `NoSuchRangeError` if there are none, `ExchangedError` if the ETag is another.

        `read` may raise `PassingError`.
        """


class Download:
    """The bytes [start, stop) of an object.

    Args:
        ask: What asks for a part.
        what: The object, for messages.
        start: The first byte.
        stop: Behind the last one, or None for all.
        etag: Of the object that was planned with, or None for the one that is there.
    """

    def __init__(
        self, ask: Ask, what: str, start: int, stop: int | None, etag: str | None = None
    ) -> None:
        self._ask = ask
        self._what = what
        self._start = start
        self._stop = stop
        self._etag = etag
        self._is_planned = etag is not None
        self._total = -1
        self._buffer = memoryview(b"")
        self._lock = threading.Lock()
        self._next = 0  # first byte of the buffer that no one has taken
        self._error: BaseException | None = None
        self._threads: list[threading.Thread] = []

    def run(self) -> memoryview:
        """Fetch them all; read-only."""
        first = WHOLE_BYTES if self._stop is None else min(WHOLE_BYTES, self._stop - self._start)
        try:
            self._fill(0, first)
            self._take_parts()
        except NoSuchRangeError as error:
            # From the very end on there is nothing to be had; from beyond it, this raises.
            self._end(error.nbytes)
        except BaseException as error:
            self._error = self._error or error  # so that the threads stop, too
            if isinstance(error, Exception):
                self._join()
            raise
        self._join()
        if self._error is not None:
            raise self._error
        return self._buffer.toreadonly()

    def _fill(self, at: int, end: int) -> None:
        """Fetch the bytes [at, end) of the buffer."""

        def read(response: HTTPResponse) -> None:
            total, etag = total_of(response), etag_of(response)
            # Also looked at here, since not all that stand in for S3 look at If-Match.
            if self._etag is not None and etag is not None and etag != self._etag:
                raise ExchangedError
            if self._total < 0:
                self._etag = etag if self._etag is None else self._etag
                self._begin(total, end)
            elif total != self._total:
                raise ExchangedError
            left = self._buffer[at:end]
            while left:
                count = response.readinto(left)
                if not count:
                    msg = "an answer that broke off"
                    raise PassingError(msg)
                left = left[count:]

        try:
            self._ask(self._start + at, self._start + end, read, self._etag)
        except ExchangedError:
            raise self._exchanged() from None

    def _exchanged(self) -> StoreError:
        if self._is_planned:
            return StoreError(f"{self._what} changed since it was planned: plan again")
        return StoreError(
            f"{self._what} was exchanged under way: run again; if fanout put it there, delete it "
            "first, and see who else may write into the store"
        )

    def _begin(self, total: int, first_end: int) -> None:
        """Make room, and have threads fetch what the first answer doesn't bring."""
        nbytes = self._end(total) - self._start
        self._buffer = _room(nbytes)
        self._total = total
        self._next = first_end
        parts = -(-max(0, nbytes - first_end) // PART_BYTES)
        # The caller is one of them, once it has read the first answer.
        for _ in range(min(THREADS - 1, parts)):
            thread = threading.Thread(target=self._help, name="fanout-download", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no more threads are allowed here: fewer do it, too
                break
            self._threads.append(thread)

    def _end(self, total: int) -> int:
        if self._is_planned and total < max(self._start, self._stop or 0):
            raise self._exchanged()
        return range_end(self._what, total, self._start, self._stop)

    def _help(self) -> None:
        try:
            self._take_parts()
        except BaseException as error:  # noqa: BLE001  the caller raises it
            self._error = self._error or error

    def _take_parts(self) -> None:
        nbytes = len(self._buffer)
        while self._error is None:
            with self._lock:
                at = self._next
                self._next = at + PART_BYTES
            if at >= nbytes:
                return
            self._fill(at, min(at + PART_BYTES, nbytes))

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()


def total_of(response: HTTPResponse) -> int:
    """The size of the object of which this is a range.

    Raises:
        StoreError: The answer doesn't say so.
    """
    told = response.headers.get("Content-Range", "").rpartition("/")[2]
    if response.status == 200:
        told = response.headers.get("Content-Length", "")
    if not told.isdecimal():
        msg = "the endpoint doesn't say how large an object is: use S3 itself"
        raise StoreError(msg)
    return int(told)


def etag_of(response: HTTPResponse) -> str | None:
    """The ETag of the object, in quotes; None if there is none to ask by."""
    told: str = response.headers.get("ETag", "").strip()
    # A weak one (which S3 doesn't give) never matches.
    return None if not told or told.startswith("W/") else f'"{told.strip(chr(34))}"'


def _room(nbytes: int) -> memoryview:
    if nbytes < _MAPPED_BYTES:
        return memoryview(bytearray(nbytes))
    # Not cleared before it is filled, as a bytearray would be; private, for large pages.
    try:
        return memoryview(mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    except OSError as error:
        msg = f"there is no memory for {nbytes} bytes"  # not to be taken for a lost connection
        raise MemoryError(msg) from error
