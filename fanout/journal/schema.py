"""The tables of a journal: one SQLite file for each run.

What decides is `outcomes`: one row for each task that is done. Where `place` is set, the value lies
there, and `value` is the name of that object, with its digest. `chunks` says what the input was, so
that a changed one is noticed; with `kernel` and the recipe in `meta` a run can be resumed without
the program that began it. `attempts` is for those who want to know what happened. Blobs are sealed:
SQLite does not notice a flipped bit in its pages, and a wrong result is worse than none. Times are
seconds since the run's session began; an attempt that has no end was in flight when the client's
last words were written. An outcome names the session and the attempt that brought it, where known.
"""

from __future__ import annotations

import hashlib
from typing import Final

from fanout.errors import DecodeError

# Of the tables. Journals of another version are refused; what reads this one reads all before it.
VERSION: Final = 1

TABLES: Final = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS kernel (spec TEXT NOT NULL, code BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS chunks (
    task INTEGER PRIMARY KEY, digest BLOB NOT NULL, frame BLOB
);
CREATE TABLE IF NOT EXISTS outcomes (
    task INTEGER PRIMARY KEY,
    digest BLOB NOT NULL,
    value BLOB NOT NULL,
    attempts INTEGER NOT NULL,
    kernel_s REAL NOT NULL,
    stdout TEXT NOT NULL,
    stderr TEXT NOT NULL,
    place TEXT,
    session INTEGER,
    attempt INTEGER
);
CREATE TABLE IF NOT EXISTS failures (
    task INTEGER PRIMARY KEY, attempts INTEGER NOT NULL, error TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS attempts (
    session INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    tasks INTEGER NOT NULL,
    covers INTEGER,
    launched_s REAL NOT NULL,
    started_s REAL,
    ended_s REAL,
    done INTEGER,
    environment TEXT,
    is_cold INTEGER,
    setup_s REAL,
    compile_s REAL,
    total_s REAL,
    failure TEXT,
    PRIMARY KEY (session, attempt)
) WITHOUT ROWID;
"""

PUT_META: Final = "INSERT OR REPLACE INTO meta VALUES (?, ?)"
PUT_KERNEL: Final = "INSERT INTO kernel VALUES (?, ?)"
PUT_CHUNK: Final = "INSERT OR REPLACE INTO chunks VALUES (?, ?, ?)"
PUT_OUTCOME: Final = "INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
PUT_FAILURE: Final = "INSERT OR REPLACE INTO failures VALUES (?, ?, ?)"
DROP_FAILURE: Final = "DELETE FROM failures WHERE task = ?"
PUT_ATTEMPT: Final = (
    "INSERT OR REPLACE INTO attempts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)

_SEAL_BYTES: Final = 16


def sealed(content: bytes, *what: object) -> bytes:
    """A blob as it is kept, with a digest of it and of what it belongs to."""
    return _seal(content, what) + content


def unsealed(blob: bytes, *what: object) -> memoryview:
    """What was sealed, in memory of its own that may be written to.

    Raises:
        DecodeError: It is not what it was.
    """
    memory = memoryview(bytearray(blob))
    content = memory[_SEAL_BYTES:]
    if memory[:_SEAL_BYTES] != _seal(content, what):
        raise DecodeError("it is not what was written")
    return content


def _seal(content: bytes | memoryview, what: tuple[object, ...]) -> bytes:
    sha = hashlib.blake2b(repr(what).encode(), digest_size=_SEAL_BYTES)
    sha.update(content)
    return sha.digest()
