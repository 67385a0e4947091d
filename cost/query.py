"""Asks AWS's price list query API, for those who have credentials but no way to its files.

Shell. Needs `pricing:GetProducts`; the call itself is free of charge. Its endpoint is in us-east-1
for all regions. Answers come a hundred products at a time.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from fanout.cost.items import EC2_OFFER
from fanout.errors import PriceListError

if TYPE_CHECKING:
    from collections.abc import Sequence

_ENDPOINT_REGION: Final = "us-east-1"
_PAGE: Final = 100
_MAX_ATTEMPTS: Final = 6
_PAUSE_S: Final = 0.5
_PASSING: Final = frozenset({"ThrottlingException", "Throttling", "InternalErrorException"})
# EC2 has hundreds of products for each type: only the plain ones are asked for.
_LINUX: Final = {
    "operatingSystem": "Linux",
    "tenancy": "Shared",
    "preInstalledSw": "NA",
    "capacitystatus": "Used",
    "licenseModel": "No License required",
    "operation": "RunInstances",
}
_NAT: Final = {"productFamily": "NAT Gateway"}
_REGION_ATTRIBUTE: Final = {"AWSDataTransfer": "fromRegionCode"}


async def products_of(offer: str, region: str) -> list[str]:
    """The products of an offer in a region, each as JSON text.

    Raises:
        PriceListError: They can't be had.
        UsageError: AWS can't be used as it is set up.
    """
    from fanout.aws import client_of, no_credentials

    def lacking(why: object) -> PriceListError:
        without = "or leave out --query: the public price list needs no account"
        return PriceListError(no_credentials(why, what_for="for --query", without=without))

    wanted = [_LINUX, _NAT] if offer == EC2_OFFER else [{}]
    found: list[str] = []
    async with client_of("pricing", lacking=lacking, region=_ENDPOINT_REGION) as (client, _, _):
        for attributes in wanted:
            place = {_REGION_ATTRIBUTE.get(offer, "regionCode"): region}
            filters = [
                {"Type": "TERM_MATCH", "Field": name, "Value": value}
                for name, value in {**place, **attributes}.items()
            ]
            found += await _all_pages(client, offer, filters)
    return found


async def _all_pages(client: Any, offer: str, filters: Sequence[dict[str, str]]) -> list[str]:
    found: list[str] = []
    more: dict[str, str] = {}
    while True:
        answer = await _page(
            client, ServiceCode=offer, Filters=filters, FormatVersion="aws_v1", **more
        )
        found += answer["PriceList"]
        if not answer.get("NextToken"):
            return found
        more = {"NextToken": answer["NextToken"]}


async def _page(client: Any, **request: Any) -> Any:
    """One page; what passes is tried again, since `client_of` has retries off."""
    from botocore.exceptions import BotoCoreError, ClientError

    for attempt in range(_MAX_ATTEMPTS):
        try:
            return await client.get_products(MaxResults=_PAGE, **request)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code in _PASSING and attempt < _MAX_ATTEMPTS - 1:
                await asyncio.sleep(_PAUSE_S * 2**attempt)
                continue
            hint = (
                "the caller needs pricing:GetProducts; without --query none is needed"
                if code.startswith("AccessDenied")
                else "try again later, or leave out --query"
            )
            raise PriceListError(f"the price list can't be queried: {error}: {hint}") from error
        except BotoCoreError as error:
            msg = f"the price list can't be queried: {error}; or leave out --query"
            raise PriceListError(msg) from error
    raise AssertionError("the last attempt returns or raises")
