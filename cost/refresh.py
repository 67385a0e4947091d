"""Renews the user's price book from AWS's public price list.

Shell. For each service: its file is fetched (or found in a folder, or asked of the query API),
read, held against what is known, and what is believed of it is written to the user's book at once.
So what is done stays done when a later service fails, or the program is interrupted.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fanout.cost import books
from fanout.cost.book import PriceBook, near_regions
from fanout.cost.download import discard, fetched
from fanout.cost.items import EC2_OFFER, ITEMS, service_of
from fanout.cost.price_list import find, read_csv, read_items, read_json
from fanout.cost.renewal import renewed
from fanout.errors import PriceListError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from fanout.cost.price_list import Offer
    from fanout.cost.renewal import Renewal

    _Reading = contextlib.AbstractContextManager[Offer]

# The host that AWS's documents name; the files are public.
PUBLIC_LIST: Final = "https://pricing.us-east-1.amazonaws.com/offers/v1.0/aws"
_REFERENCE: Final = "us-east-1"
# Files too large to be read as a whole; the others are JSON of a few megabytes.
_AS_CSV: Final = frozenset({EC2_OFFER, "AmazonElastiCache"})
_EC2: Final = "ec2"


def services() -> dict[str, str]:
    """The offer file that has the prices of a service; the largest file comes last."""
    found = {service_of(name): item.offer for name, item in ITEMS.items()}
    found[_EC2] = EC2_OFFER
    return dict(sorted(found.items(), key=lambda pair: pair[1] == EC2_OFFER))


def refresh(
    region: str,
    *,
    wanted: Iterable[str] = (),
    base: str = PUBLIC_LIST,
    is_query: bool = False,
    is_forced: bool = False,
    on_progress: Callable[[str, int, int | None], None] = lambda _offer, _done, _total: None,
) -> Iterator[Renewal]:
    """Renew the user's book of a region; each result is in the file when it is given.

    Args:
        region: For example "eu-west-1".
        wanted: Services, as in `services()`; all if there are none.
        base: Address of the list, or a folder with its files.
        is_query: Ask the query API instead, which takes credentials.
        is_forced: Take prices that are not believed, too.
        on_progress: Called with an offer, the bytes that are there, and how many there will be.

    Raises:
        PriceListError: A file can't be had or read.
        UsageError: There is no such service or region, or the user's book can't be written.
    """
    books.path_of(region)  # the name is one that a file may have
    for offer in _offers(wanted):
        reading = _answered(offer, region) if is_query else _file(base, offer, region, on_progress)
        source = f"AWS Price List, {offer} ({'query API' if is_query else 'offer file'})"
        renewal = _renewal(offer, region, reading, source, is_forced=is_forced)
        books.keep(renewal.book)
        yield renewal


def _renewal(
    offer: str, region: str, reading: _Reading, source: str, *, is_forced: bool
) -> Renewal:
    """What a file makes of the user's book as it is now."""
    reference = books.shipped_book(_REFERENCE) or _empty(_REFERENCE)
    own = _own(region)
    current = books.overlaid(books.shipped_book(region) or _empty(region), own)
    with reading as told:
        found = find(offer, region, told, {**reference.instances, **current.instances})
    return renewed(
        found,
        offer=offer,
        source=source,
        own=own,
        current=current,
        reference=reference,
        is_forced=is_forced,
    )


def _offers(wanted: Iterable[str]) -> list[str]:
    known = services()
    named = list(wanted) or list(known)
    for name in named:
        if name not in known:
            raise UsageError(f"no service {name!r} in price books: give some of {', '.join(known)}")
    offers = {known[name] for name in named}
    return [offer for offer in dict.fromkeys(known.values()) if offer in offers]


def _empty(region: str) -> PriceBook:
    return PriceBook(region=region, prices={}, instances={})


def _own(region: str) -> PriceBook:
    """The user's book; empty if there is none, or one that is damaged, which this mends."""
    with contextlib.suppress(UsageError):
        return books.user_book(region) or _empty(region)
    return _empty(region)


@contextlib.contextmanager
def _file(
    base: str, offer: str, region: str, on_progress: Callable[[str, int, int | None], None]
) -> Iterator[Offer]:
    """The offer file of a region; it is read while this is open."""
    suffix = "csv" if offer in _AS_CSV else "json"
    if base.startswith(("https://", "http://")):
        where = f"{base.rstrip('/')}/{offer}/current/{region}/index.{suffix}"
        path = books.folder() / "partial" / f"{offer}-{region}.part"
        try:
            fetched(where, path, progress=lambda done, total: on_progress(offer, done, total))
        except PriceListError as error:
            raise PriceListError(f"{error}{near_regions(region)}") from error
        with _explained(where, path), _read(path, suffix) as told:
            yield told
        discard(path)
        return
    path = _in_folder(Path(base).expanduser(), offer, region)
    with _explained(str(path), None), _read(path, path.suffix[1:]) as told:
        yield told


def _in_folder(base: Path, offer: str, region: str) -> Path:
    places = [
        root / offer / "current" / region / f"index.{suffix}"
        for root in (base, base / "offers" / "v1.0" / "aws")
        for suffix in ("csv", "json")
    ]
    for path in places:
        if path.is_file():
            return path
    raise PriceListError(
        f"{places[0]} (or .json) does not exist: --from takes a folder laid out as AWS's list, or "
        f"an address{near_regions(region)}"
    )


@contextlib.contextmanager
def _read(path: Path, suffix: str) -> Iterator[Offer]:
    with path.open(encoding="utf-8", newline="") as file:
        yield read_csv(file) if suffix == "csv" else read_json(file.read())


@contextlib.contextmanager
def _explained(where: str, fetched_to: Path | None) -> Iterator[None]:
    """Say which file it is that can't be read; what was fetched of it is of no use."""
    try:
        yield
    except (PriceListError, UnicodeDecodeError) as error:
        if fetched_to is not None:
            discard(fetched_to)
        raise PriceListError(f"{where} can't be read: {error}") from error


@contextlib.contextmanager
def _answered(offer: str, region: str) -> Iterator[Offer]:
    """What the query API tells of a region."""
    import asyncio

    from fanout.cost.query import products_of

    items = asyncio.run(products_of(offer, region))
    try:
        yield read_items(items)
    except PriceListError as error:
        msg = f"what the query API has of {offer} in {region} can't be read: {error}"
        raise PriceListError(f"{msg}{near_regions(region)}") from error
