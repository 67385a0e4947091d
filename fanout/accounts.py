"""What the runs of an executor have cost, those that go on included, and the bill for it.

The books of one run are a `Ledger`; these are all of them together. Prices are read when somebody
asks for a bill.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Final

from fanout.cost.ledger import Ledger
from fanout.cost.run_usage import Usage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fanout.budget import Billed
    from fanout.cost.bill import Bill

_LOG: Final = logging.getLogger("fanout")


class Accounts:
    """Those of one executor."""

    def __init__(self) -> None:
        self._open: list[Ledger] = []
        self._ended = Usage()

    @property
    def usage(self) -> Usage:
        """What all runs have used so far; what is in flight at its worst."""
        return sum((ledger.usage for ledger in self._open), start=self._ended)

    @contextlib.contextmanager
    def booked(self, billed: Billed | None) -> Iterator[Ledger]:
        """The books of one run; at its end it is told what it cost.

        Args:
            billed: What its attempts may cost; None: nothing.
        """
        ledger = Ledger(billed)
        self._open.append(ledger)
        try:
            yield ledger
        finally:
            self._open.remove(ledger)
            self._ended = self._ended + ledger.usage
            if billed is not None and _LOG.isEnabledFor(logging.INFO):
                _LOG.info("fanout: run %s: %s", ledger.run, bill_for(ledger.run_usage).summary)


def bill_for(usage: Usage) -> Bill:
    """The bill for what was used, by the prices of its regions."""
    from fanout.cost.pricing import priced

    return priced(usage)
