"""Opens journals: that of a run, new or gone on with, or none where there can't be one."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from typing import TYPE_CHECKING, Final

import filelock

from fanout.errors import DecodeError, UsageError
from fanout.journal.about import Limits, unreadable
from fanout.journal.folder import Folder, clear, lock_of, stores_in
from fanout.journal.run_journal import RunJournal

if TYPE_CHECKING:
    from pathlib import Path

    from fanout.budget import Billed
    from fanout.journal.about import About
    from fanout.journal.folder import Locator
    from fanout.options import OnChange
    from fanout.stores import Store

_LOG: Final = logging.getLogger("fanout")
# For how long a lock may be somebody's who only looks, seconds.
_LOOKED_AT_S: Final = 0.5


def journal_of(
    about: About,
    *,
    folder: Folder | None = None,
    on_change: OnChange = "refuse",
    billed: Billed | None = None,
    limits: Limits | None = None,
    store: Store | None = None,
) -> RunJournal | None:
    """Open the journal of a run, or continue that of the same name.

    Args:
        about: The run.
        folder: Where journals lie.
        on_change: What to do when kernel or input are not as they were.
        billed: What an attempt may cost; None: nothing.
        limits: How much is kept.
        store: For results that are too large for a journal; None: they lie beside it.

    Returns:
        None if there can't be one; that is told.

    Raises:
        UsageError: Somebody else runs it now.
        RunChangedError: Its kernel is not as it was.
        JournalError: It is damaged, or of another version.
    """
    folder = folder or Folder()
    path = _path_of(folder, about)
    lock = lock_of(path)
    try:
        folder.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock.acquire(timeout=_LOOKED_AT_S, poll_interval=0.02)
    except filelock.Timeout:
        msg = f"run {about.name or about.run} is being run already: wait until it ends"
        raise UsageError(msg) from None
    except OSError as error:
        if path.exists():
            raise unreadable(about, path, error) from error
        _tell_none(about, error)
        return None
    path = _path_of(folder, about)  # somebody may have begun it meanwhile
    is_new = not path.exists()
    stores: list[Locator] = []
    try:
        if is_new:
            folder.tidy()
            _create(path)
        elif on_change == "restart":
            stores = stores_in(path)
            clear(path)
            _create(path)
        return RunJournal(
            path,
            about,
            lock,
            on_change=on_change,
            billed=billed,
            limits=limits or Limits(),
            store=store,
            stores=stores,
        )
    except BaseException as error:
        lock.release()
        is_disks = isinstance(error, sqlite3.Error | OSError)
        if is_new and is_disks:
            with contextlib.suppress(OSError):
                clear(path)
            _tell_none(about, error)
            return None
        if is_disks or isinstance(error, DecodeError | ValueError | TypeError | KeyError):
            raise unreadable(about, path, error) from error
        raise


def _path_of(folder: Folder, about: About) -> Path:
    """The journal of the same name, or where a new one goes."""
    found = folder.find(about.name) if about.name else None
    return found or folder.path_of(about.run, about.name)


def _create(path: Path) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


def _tell_none(about: About, error: BaseException) -> None:
    _LOG.warning(
        "fanout: run %s has no journal, as none can be written (%s): it can't be resumed; "
        "FANOUT_HOME names another place",
        about.name or about.run,
        error,
    )
