"""Where journals lie: a file for each run, in the user's folder for the state of programs.

    ~/.local/state/fanout/runs/20261121-173000-ab12--sweep-7.db      on Linux; FANOUT_HOME overrides

The name of the file tells id and name of the run, so that none need be opened to find one. Beside
it are SQLite's own files while it is open, a folder with results that are too large for it, and a
lock that whoever runs it holds: the system lets go of it when that process ends, however it does.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import math
import os
import shutil
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import filelock
import platformdirs

from fanout.errors import JournalError, UsageError
from fanout.journal.schema import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_SUFFIX: Final = ".db"
_VALUES: Final = ".values"
# In a store that the user named; see `results_of`.
_RESULTS: Final = "results"
Locator: TypeAlias = "Mapping[str, str | None]"

# Journals of runs that are done are kept for so long, and while all take no more than that.
_KEPT_S: Final = 30 * 24 * 3600.0
_KEPT_BYTES: Final = 5 * 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """What a journal tells of its run.

    Attributes:
        id: Identifies the run.
        name: As the caller named it; None if it has none.
        kernel: Name of the kernel.
        backend: Name of the backend.
        state: "running", "done", "failed", "cancelled", "interrupted" (its client died), or
            "damaged".
        began_epoch_s: When it was begun, Unix seconds.
        total: Number of tasks; None if the input doesn't say.
        done: How many have a result.
        failed: How many failed the last time.
        spent_gb_s: What its attempts cost so far, at worst, GB-seconds; 0 where that is nothing.
        nbytes: Size of the journal with what lies beside it, bytes.
        path: The journal.
    """

    id: str
    name: str | None
    kernel: str
    backend: str
    state: str
    began_epoch_s: float
    total: int | None
    done: int
    failed: int
    spent_gb_s: float
    nbytes: int
    path: Path

    def is_removable(self, *, is_named: bool) -> bool:
        """Whether its journal may go: if it is done, or damaged; or the user named it."""
        if self.state == "running":
            return False
        return is_named or self.state in {"done", "damaged"}


def home() -> Path:
    """The folder for all that is kept between runs."""
    named = os.environ.get("FANOUT_HOME", "").strip()
    if named:
        return Path(named).expanduser().absolute()
    return platformdirs.user_state_path("fanout", appauthor=False)


class Folder:
    """The journals of one user.

    Args:
        path: Where; by default in `home()`.
        most_bytes: What all may take together, of runs that are done.
    """

    def __init__(self, path: Path | None = None, *, most_bytes: int = _KEPT_BYTES) -> None:
        self.path = path or home() / "runs"
        self._most_bytes = most_bytes

    def path_of(self, run: str, name: str | None) -> Path:
        """Where the journal of a run lies, or will."""
        return self.path / f"{run}{f'--{name}' if name else ''}{_SUFFIX}"

    def find(self, run: str) -> Path | None:
        """The journal of the run with this id or name; the newest, if there are several."""
        found = [path for path in self._files() if run in _told(path)]
        return found[-1] if found else None

    def runs(self) -> list[RunRecord]:
        """All runs, the newest first."""
        return [record_of(path) for path in reversed(list(self._files()))]

    def remove(self, record: RunRecord) -> list[Locator]:
        """Remove a journal, all beside it, and its results in directories, unless somebody runs it.

        Returns:
            The other stores that have results of the run.
        """
        left: list[Locator] = []
        with contextlib.suppress(filelock.Timeout, OSError), lock_of(record.path):
            for locator in stores_in(record.path):
                if locator.get("kind") == "directory":
                    results = Path(str(locator.get("path")), results_of(record.id))
                    shutil.rmtree(results, ignore_errors=True)
                else:
                    left.append(locator)
            clear(record.path)
            Path(lock_of(record.path).lock_file).unlink(missing_ok=True)
        return left

    def tidy(self) -> None:
        """Remove what is old, and the oldest of what is too much, of runs that are done."""
        kept = {path: (_size(path), _stat(path)[1]) for path in self._files()}
        nbytes = sum(size for size, _ in kept.values())
        oldest_s = time.time() - _KEPT_S
        for path, (size, changed_s) in kept.items():
            if changed_s > oldest_s and nbytes <= self._most_bytes:
                continue
            record = record_of(path)
            if record.state == "done":
                nbytes -= size
                self.remove(record)

    def unknown(self, run: str) -> UsageError:
        """There is no such run; what there is."""
        names = [told for path in self._files() for told in _told(path) if told is not None]
        near = difflib.get_close_matches(run, names, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else "fanout runs lists what there is"
        return UsageError(f"no run {run!r} is kept in {self.path}: {hint}")

    def _files(self) -> Iterator[Path]:
        with contextlib.suppress(FileNotFoundError):
            yield from sorted(self.path.glob(f"*{_SUFFIX}"))


def _told(path: Path) -> tuple[str, str | None]:
    """Id and name of the run, by the name of its journal."""
    run, _, name = path.name.removesuffix(_SUFFIX).partition("--")
    return run, name or None


def run_of(path: Path) -> str:
    """Id of the run, by the name of its journal."""
    return _told(path)[0]


def lock_of(path: Path) -> filelock.FileLock:
    """The lock on a journal, not yet taken; that of a name, so that no two begin one at once."""
    run, name = _told(path)
    return filelock.FileLock(path.with_name(f"{name or run}.lock"), timeout=0, mode=0o600)


def values_of(path: Path) -> Path:
    """The folder beside a journal for results that are too large for it."""
    return path.with_name(path.name.removesuffix(_SUFFIX) + _VALUES)


def results_of(run: str) -> str:
    """Where such results of a run are in a store that the user named: how their keys begin.

    Not below `runs/`: what is there goes after a week.
    """
    return f"{_RESULTS}/{run}/"


def clear(path: Path) -> None:
    """Remove a journal with all that is beside it."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    shutil.rmtree(values_of(path), ignore_errors=True)


def reading(path: Path) -> contextlib.closing[sqlite3.Connection]:
    """A journal, opened to be read."""
    return contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True))


def read_meta(database: sqlite3.Connection) -> dict[str, Any]:
    """What a journal tells of its run as a whole.

    Raises:
        JournalError: It is of a version that is not known here.
        sqlite3.Error: It can't be read.
    """
    meta = {key: json.loads(value) for key, value in database.execute("SELECT * FROM meta")}
    if meta.get("version") != VERSION:
        msg = (
            f"the journal is of version {meta.get('version')}, and this fanout reads version "
            f"{VERSION}: use the fanout that wrote it, or remove it (fanout runs --prune)"
        )
        raise JournalError(msg)
    return meta


def stores_in(path: Path) -> list[Locator]:
    """Where results of a run are besides; nothing if its journal can't be read.

    Nor if that is another run's: what is removed is found by the id in the file's name.
    """
    try:
        with reading(path) as database:
            meta = read_meta(database)
    except (sqlite3.Error, JournalError, ValueError, TypeError):
        return []
    stores = meta.get("stores") or []
    return stores if meta.get("run") == run_of(path) and run_of(path) else []


def record_of(path: Path) -> RunRecord:
    """What a journal tells of its run; also of one that is damaged."""
    run, name = _told(path)
    is_locked = _is_locked(path)  # before it is read, or it could end in between
    try:
        with reading(path) as database:
            meta = read_meta(database)
            # An earlier call may have had a longer input.
            ends = (math.inf if meta.get("total") is None else meta["total"],)
            (done,) = database.execute(
                "SELECT count(*) FROM outcomes JOIN chunks USING (task, digest) WHERE task < ?",
                ends,
            ).fetchone()
            (failed,) = database.execute(
                "SELECT count(*) FROM failures WHERE task < ?", ends
            ).fetchone()
    except (sqlite3.Error, JournalError, ValueError, TypeError):
        meta, done, failed = {"state": "damaged"}, 0, 0
    state = meta.get("state", "damaged")
    if is_locked:
        state = "running"
    elif state == "running":
        state = "interrupted"
    return RunRecord(
        id=run,
        name=name,
        kernel=meta.get("kernel", ""),
        backend=meta.get("backend", ""),
        state=state,
        began_epoch_s=meta.get("began_epoch_s", 0.0),
        total=meta.get("total"),
        done=done,
        failed=failed,
        spent_gb_s=meta.get("spent_gb_s", 0.0) + meta.get("reserved_gb_s", 0.0),
        nbytes=_size(path),
        path=path,
    )


def _stat(path: Path) -> tuple[int, float]:
    """Size, and when it was changed; of one that is gone meanwhile, nothing."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0.0
    return found.st_size, found.st_mtime


def _size(path: Path) -> int:
    """Of a journal with what is beside it, bytes."""
    files = [path, path.with_name(f"{path.name}-wal")]
    with contextlib.suppress(OSError):
        files += values_of(path).iterdir()
    return sum(_stat(file)[0] for file in files)


def _is_locked(path: Path) -> bool:
    lock = lock_of(path)
    if not Path(lock.lock_file).exists():
        return False
    try:
        lock.acquire()
    except filelock.Timeout:
        return True
    except OSError:
        return False  # whoever may not write there can't tell
    lock.release()
    return False
