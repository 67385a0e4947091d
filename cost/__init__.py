"""`fanout.cost`: what a run costs, by the price book of a region."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if __name__ != "fanout.cost":
    raise ImportError(
        "this folder is the package fanout.cost: import it by that name "
        "(a bare `import cost` would load a second copy of it)"
    )

if TYPE_CHECKING:
    from fanout.cost.bill import Bill, BillItem, bill_of
    from fanout.cost.book import Instance, Price, PriceBook, Tier
    from fanout.cost.books import book_of

__all__ = ["Bill", "BillItem", "Instance", "Price", "PriceBook", "Tier", "bill_of", "book_of"]

_MODULES: Final = {
    "Bill": "fanout.cost.bill",
    "BillItem": "fanout.cost.bill",
    "bill_of": "fanout.cost.bill",
    "Instance": "fanout.cost.book",
    "Price": "fanout.cost.book",
    "PriceBook": "fanout.cost.book",
    "Tier": "fanout.cost.book",
    "book_of": "fanout.cost.books",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    msg = f"module 'fanout.cost' has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return __all__
