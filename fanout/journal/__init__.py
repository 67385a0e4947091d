"""Journals: what a run has done, on disk, so that it can be resumed."""

from __future__ import annotations

from fanout.journal.about import About, Limits
from fanout.journal.folder import Folder, RunRecord
from fanout.journal.opening import journal_of
from fanout.journal.run_journal import RunJournal

__all__ = ["About", "Folder", "Limits", "RunJournal", "RunRecord", "journal_of"]
