"""Journals: what a run has done, on disk, so that it can be resumed."""

from __future__ import annotations

from fanout.journal.folder import Folder, RunRecord
from fanout.journal.run_journal import About, RunJournal, journal_of

__all__ = ["About", "Folder", "RunJournal", "RunRecord", "journal_of"]
