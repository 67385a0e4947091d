"""The file of a price book: JSON with a line for each price, so that changes show in a diff.

Pure: text to book and back. `sources` names each source with its date once; prices and instances
say which is theirs. Amounts are text, since a JSON number may become a float.
"""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, cast

from fanout.cost.book import Architecture, Instance, Price, PriceBook, Tier
from fanout.cost.items import ARCHITECTURES, EC2_UNIT, ITEMS
from fanout.cost.money import amount, plain
from fanout.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FORMAT: Final = 1
_COLUMNS: Final = (
    *("arch", "vcpus", "cores", "memory_gib", "network", "clock_ghz"),
    *("is_burstable", "is_bare_metal", "gpus", "usd_per_hour", "source"),
)
_Sources = dict[str, tuple[str, dt.date]]


class DamagedBookError(ValueError):
    """A file is no price book; says where it is wrong."""


def book_of_text(text: str) -> PriceBook:
    """The book in a file.

    Raises:
        DamagedBookError: It is none, or one that can't be read.
    """
    try:
        told = json.loads(text)
    except ValueError as error:
        raise DamagedBookError(f"it is no JSON: {error}") from error
    try:
        if told["format"] != FORMAT:
            raise DamagedBookError(f"its format is {told['format']!r}, not {FORMAT}")
        sources = {
            key: (str(of["name"]), dt.date.fromisoformat(of["published"]))
            for key, of in told["sources"].items()
        }
        return PriceBook(
            region=str(told["region"]),
            # Items of a later version are none of ours.
            prices={
                item: _price(item, row, sources)
                for item, row in told["prices"].items()
                if item in ITEMS
            },
            instances={name: _instance(name, row, sources) for name, row in _rows(told)},
        )
    except DamagedBookError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, UsageError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise DamagedBookError(f"it is no price book: {what}") from error


def _rows(told: dict[str, Any]) -> Iterable[tuple[str, dict[str, Any]]]:
    columns = told["instance_columns"]
    for name, row in told["instances"].items():
        yield name, dict(zip(columns, row, strict=True))


def _price(item: str, row: dict[str, Any], sources: _Sources) -> Price:
    source, published = sources[row["source"]]
    tiers = tuple(
        Tier(from_units=amount(_text(start), item), usd=amount(_text(usd), item))
        for start, usd in row["tiers"]
    )
    return Price(
        tiers=tiers,
        unit=ITEMS[item].unit,
        source=source,
        published=published,
        note=row.get("note", ""),
    )


def _instance(name: str, row: dict[str, Any], sources: _Sources) -> Instance:
    source, published = sources[row["source"]]
    usd = amount(_text(row["usd_per_hour"]), name)
    price = flat_price(usd, EC2_UNIT, source, published)
    if row["arch"] not in ARCHITECTURES:
        raise DamagedBookError(f"{name} has arch {row['arch']!r}")
    return Instance(
        name=name,
        arch=cast("Architecture", row["arch"]),
        vcpus=int(row["vcpus"]),
        cores=None if row["cores"] is None else int(row["cores"]),
        memory_gib=float(row["memory_gib"]),
        network=str(row["network"]),
        clock_ghz=None if row["clock_ghz"] is None else float(row["clock_ghz"]),
        is_burstable=bool(row["is_burstable"]),
        is_bare_metal=bool(row["is_bare_metal"]),
        gpus=int(row["gpus"]),
        usd_per_hour=price,
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise DamagedBookError(f"the amount {value!r} is no text")
    return value


def flat_price(usd: Decimal, unit: str, source: str, published: dt.date) -> Price:
    """A price that is the same for any number of units."""
    tiers = (Tier(from_units=Decimal(0), usd=usd),)
    return Price(tiers=tiers, unit=unit, source=source, published=published)


def text_of_book(book: PriceBook) -> str:
    """The file of a book."""
    every = [book.prices[item] for item in ITEMS if item in book.prices]
    every += [book.instances[name].usd_per_hour for name in sorted(book.instances)]
    sources: dict[tuple[str, dt.date], str] = {}
    for price in every:
        sources.setdefault((price.source, price.published), str(len(sources) + 1))
    told = {
        key: {"name": name, "published": published.isoformat()}
        for (name, published), key in sources.items()
    }
    prices = {
        item: _row_of_price(book.prices[item], sources) for item in ITEMS if item in book.prices
    }
    instances = {
        name: _row_of_instance(book.instances[name], sources) for name in sorted(book.instances)
    }
    return (
        "{\n"
        f' "format": {FORMAT},\n'
        f' "region": {json.dumps(book.region)},\n'
        f' "sources": {_lines(told)},\n'
        f' "prices": {_lines(prices)},\n'
        f' "instance_columns": {json.dumps(_COLUMNS)},\n'
        f' "instances": {_lines(instances)}\n'
        "}\n"
    )


def _lines(rows: Mapping[str, object]) -> str:
    """A JSON object with a line for each entry."""
    if not rows:
        return "{}"
    lines = [f"  {json.dumps(key)}: {json.dumps(row)}" for key, row in rows.items()]
    return "{\n" + ",\n".join(lines) + "\n }"


def _row_of_price(price: Price, sources: Mapping[tuple[str, dt.date], str]) -> dict[str, object]:
    row: dict[str, object] = {
        "tiers": [[plain(tier.from_units), plain(tier.usd)] for tier in price.tiers],
        "source": sources[price.source, price.published],
    }
    return {**row, "note": price.note} if price.note else row


def _row_of_instance(one: Instance, sources: Mapping[tuple[str, dt.date], str]) -> list[object]:
    price = one.usd_per_hour
    told: dict[str, object] = {
        "usd_per_hour": plain(price.usd),
        "source": sources[price.source, price.published],
    }
    return [told[name] if name in told else getattr(one, name) for name in _COLUMNS]
