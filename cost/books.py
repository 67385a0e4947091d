"""The price book of a region: the file that fanout ships, and the user's own over it.

    cost/prices/eu-west-1.json                   shipped
    ~/.local/state/fanout/prices/eu-west-1.json  the user's, which `prices refresh` writes

Shell, and thin: it reads and writes these files, and warns of what is old. A price of the user's
book counts where it was published later than the shipped one, or where nothing is shipped: so an
upgrade of fanout may bring newer prices than an old refresh, and never older ones.
"""

from __future__ import annotations

import datetime as dt
import functools
import importlib.resources
import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from fanout.cost.book import Instance, Price, PriceBook, old_text, unknown_region
from fanout.cost.book_file import DamagedBookError, book_of_text, text_of_book
from fanout.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_SUFFIX: Final = ".json"
_log = logging.getLogger("fanout")
V = TypeVar("V")


def book_of(region: str, services: Iterable[str] | None = None) -> PriceBook:
    """The price book of a region.

    Prices older than 180 days are warned of in the log "fanout", once in a process.

    Args:
        region: For example "eu-west-1".
        services: Warn of these only, for example `["lambda", "s3", "logs"]`; None: of all.

    Raises:
        UsageError: There is no book for the region, or the user's is damaged.
    """
    book = quiet_book_of(region)
    if told := old_text(region, book.old(today(), services)):
        _warn_once(told)
    return book


def quiet_book_of(region: str) -> PriceBook:
    """The same, without a warning."""
    found = [book for book in (shipped_book(region), user_book(region)) if book is not None]
    if not found:
        raise unknown_region(region, regions())
    return functools.reduce(overlaid, found)


def overlaid(below: PriceBook, above: PriceBook) -> PriceBook:
    """Two books of one region as one: of two prices the one published later."""

    def published(one: Price | Instance) -> dt.date:
        return (one.usd_per_hour if isinstance(one, Instance) else one).published

    return PriceBook(
        region=below.region,
        prices=_later(below.prices, above.prices, published),
        instances=_later(below.instances, above.instances, published),
    )


def _later(
    below: Mapping[str, V], above: Mapping[str, V], published: Callable[[V], dt.date]
) -> dict[str, V]:
    found = dict(below)
    for name, one in above.items():
        if name not in found or published(one) > published(found[name]):
            found[name] = one
    return found


def regions() -> list[str]:
    """Regions that have a book, shipped or the user's."""
    shipped = importlib.resources.files("fanout.cost") / "prices"
    names = {entry.name for entry in shipped.iterdir()}
    if folder().is_dir():
        names |= {path.name for path in folder().iterdir()}
    return sorted(name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX))


def folder() -> Path:
    """Where the user's books lie."""
    from fanout.journal.folder import home

    return home() / "prices"


def path_of(region: str) -> Path:
    """The user's book of a region, whether there is one or not."""
    return folder() / f"{_named(region)}{_SUFFIX}"


def _named(region: str) -> str:
    """A region that may be part of a file's name."""
    if not region or not all(char.isascii() and (char.isalnum() or char == "-") for char in region):
        raise unknown_region(region, regions())
    return region


@functools.cache
def shipped_book(region: str) -> PriceBook | None:
    """What fanout ships for a region; None if that is nothing. Read once: it doesn't change."""
    file = importlib.resources.files("fanout.cost") / "prices" / f"{_named(region)}{_SUFFIX}"
    return book_of_text(file.read_text(encoding="utf-8")) if file.is_file() else None


def user_book(region: str) -> PriceBook | None:
    """The user's own book of a region; None if there is none.

    Raises:
        UsageError: It is damaged, or of another region.
    """
    path = path_of(region)
    try:
        book = book_of_text(path.read_text(encoding="utf-8"))
        if book.region != region:
            raise DamagedBookError(f"it is of region {book.region!r}")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, DamagedBookError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        msg = (
            f"your price book {path} can't be used: {why}. Remove it, or renew it with "
            f"`fanout cost prices refresh --region {region}`"
        )
        raise UsageError(msg) from error
    return book


def keep(book: PriceBook) -> Path:
    """Write the user's book of a region; whoever reads it meanwhile sees the old or the new one.

    Raises:
        UsageError: It can't be written.
    """
    path = path_of(book.region)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text_of_book(book))
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        msg = f"your price book {path} can't be written: {error.strerror}; FANOUT_HOME moves it"
        raise UsageError(msg) from error
    return path


def today() -> dt.date:
    """The day by UTC, as prices are dated."""
    return dt.datetime.now(dt.UTC).date()


@functools.cache
def _warn_once(text: str) -> None:
    _log.warning("%s", text)
