"""Rows of an offer file, the same from CSV and JSON; and which of them concern a region at all.

Pure. A row is one rate: attributes of a product with one of its on-demand tiers. The two forms name
attributes differently ("Operating System", "operatingSystem"), so names are reduced to lower-case
letters and digits: "operatingsystem".
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from fanout.errors import PriceListError

if TYPE_CHECKING:
    from collections.abc import Iterable

Row: TypeAlias = dict[str, str]

# "EU-Request", "USE1-Fargate-GB-Hours", "APN1-…": where it is used; us-east-1 often has none.
_PREFIX: Final = re.compile(r"^[A-Z]{2,4}\d?-")
# Of free tiers, which all regions share: they stand in every file, at no charge.
_EVERYWHERE: Final = "Global-"
_NOT_LETTERS: Final = re.compile(r"[^a-z0-9]")


@dataclass(frozen=True, slots=True)
class Offer:
    """An offer file.

    Attributes:
        published: When AWS published it.
        rows: Its on-demand rates; may be read once.
    """

    published: dt.date
    rows: Iterable[Row]


def name_of(column: str) -> str:
    """The name of an attribute, as rows have it."""
    return _NOT_LETTERS.sub("", column.lower())


def usage_of(row: Row) -> str:
    """The usage type without the region that it begins with."""
    return _PREFIX.sub("", row.get("usagetype", ""))


def is_of(row: Row, region: str) -> bool:
    """Whether a rate is for use in the region itself: not a zone outside it, nor a free tier."""
    if row.get("usagetype", "").startswith(_EVERYWHERE) or row.get("location", "") == "Any":
        return False
    for place in ("locationtype", "fromlocationtype"):  # "AWS Local Zone", "AWS Wavelength Zone", …
        if row.get(place, "") not in {"AWS Region", ""}:
            return False
    return row.get("regioncode", region) in {region, ""}


def date_of(text: str) -> dt.date:
    """The day of a time as AWS writes it: "2026-10-01T18:21:30Z".

    Raises:
        PriceListError: It is none.
    """
    try:
        return dt.date.fromisoformat(text[:10])
    except ValueError as error:
        msg = f"its publication date is {text[:40]!r}, which is no date"
        raise PriceListError(msg) from error
