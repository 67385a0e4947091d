"""An offer file as JSON, for the services whose file is small; and the items of the query API.

Pure. A file has all products and all terms apart; an item of the query API has one product with its
terms. A term has its tiers in one `priceDimensions`, keyed by a rate code that differs by tier and
by region: what tells tiers apart is `beginRange`, never that code.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from fanout.cost.price_list.rows import Offer, Row, date_of, name_of
from fanout.errors import PriceListError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def read_json(text: str) -> Offer:
    """Read an offer file.

    Raises:
        PriceListError: It is none.
    """
    told = _parsed(text)
    try:
        published = date_of(told["publicationDate"])
        terms = told["terms"].get("OnDemand", {})
        rows = [
            row
            for sku, product in told["products"].items()
            for row in _rows(sku, product, terms.get(sku, {}))
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise _not_as_expected(error) from error
    return Offer(published, rows)


def read_items(items: Iterable[str]) -> Offer:
    """Read what the query API has answered: JSON texts of one product each.

    Raises:
        PriceListError: One of them is none, or there is no item.
    """
    rows: list[Row] = []
    dates = []
    for text in items:
        told = _parsed(text)
        try:
            dates.append(date_of(told["publicationDate"]))
            product = told["product"]
            rows += _rows(product["sku"], product, told["terms"].get("OnDemand", {}))
        except (KeyError, TypeError, AttributeError) as error:
            raise _not_as_expected(error) from error
    if not dates:
        raise PriceListError("there is no price in it")
    return Offer(max(dates), rows)


def _parsed(text: str) -> dict[str, Any]:
    try:
        told = json.loads(text)
    except ValueError as error:
        raise PriceListError(f"it is no JSON: {error}") from error
    if not isinstance(told, dict):
        raise PriceListError(f"it is JSON, but a {type(told).__name__} and no offer file")
    return told


def _not_as_expected(error: Exception) -> PriceListError:
    what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
    return PriceListError(f"it is no offer file: {what}")


def _rows(sku: str, product: dict[str, Any], terms: dict[str, Any]) -> Iterator[Row]:
    attributes = {name_of(name): str(value) for name, value in product["attributes"].items()}
    attributes["productfamily"] = product.get("productFamily", "")
    for term in terms.values():
        for rate in term["priceDimensions"].values():
            for currency, price in rate["pricePerUnit"].items():
                yield {
                    **attributes,
                    "sku": sku,
                    "offertermcode": term.get("offerTermCode", ""),
                    "startingrange": rate["beginRange"],
                    "endingrange": rate["endRange"],
                    "unit": rate["unit"],
                    "priceperunit": price,
                    "currency": currency,
                }
