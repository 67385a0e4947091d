"""An offer file as CSV, line by line: EC2's has some 500 MB, of which no more than a line is held.

Pure. Metadata comes first, in lines of two cells, then the header, then a line for each rate. How
many lines of metadata there are is not promised: the header is the line that begins with "SKU".
"""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Final

from fanout.cost.price_list.rows import Offer, Row, date_of, name_of
from fanout.errors import PriceListError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_MAX_METADATA_LINES: Final = 100
_NEEDED: Final = ("termtype", "startingrange", "unit", "priceperunit", "currency", "usagetype")


def read_csv(lines: Iterable[str]) -> Offer:
    """Read an offer file.

    Args:
        lines: Its lines; taken as the rows are.

    Raises:
        PriceListError: It is no offer file; also while the rows are taken.
    """
    records = csv.reader(lines)
    metadata: dict[str, str] = {}
    try:
        for record in records:
            if record and record[0] == "SKU":
                columns = [name_of(cell) for cell in record]
                break
            if len(record) > 1:
                metadata[name_of(record[0])] = record[1]
            if len(metadata) > _MAX_METADATA_LINES:
                raise PriceListError("no line of it begins with SKU, as the header does")
        else:
            raise PriceListError("it ends before a line that begins with SKU, the header")
    except csv.Error as error:
        raise PriceListError(f"it is no CSV: {error}") from error
    if lacking := [name for name in _NEEDED if name not in columns]:
        raise PriceListError(f"its header lacks {', '.join(lacking)}")
    published = date_of(metadata.get("publicationdate", ""))
    return Offer(published, _rows(records, columns))


def _rows(records: Iterator[list[str]], columns: list[str]) -> Iterator[Row]:
    term = columns.index("termtype")
    try:
        for record in records:
            if len(record) != len(columns):
                raise PriceListError(
                    f"a line has {len(record)} cells and the header {len(columns)}: it is damaged"
                )
            # Most lines are reservations: of these no row is made.
            if record[term] == "OnDemand":
                yield dict(zip(columns, record, strict=True))
    except csv.Error as error:
        raise PriceListError(f"it is no CSV: {error}") from error
