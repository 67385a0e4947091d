"""Which rates of an offer file are the items of a price book, and which only resemble them."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from fanout.cost.price_list import find, read_csv, read_items, read_json
from fanout.errors import PriceListError
from tests import cost_price_list as offers
from tests.cost_price_list import (
    EXPECTED,
    INF,
    REGION,
    Product,
    as_csv,
    as_json,
    flat,
    lambda_with,
    one,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fanout.cost.price_list import Found, Offer


def told(offer: str, products: Iterable[Product], region: str = REGION) -> Found:
    """What is found in an offer file with these products."""
    return find(offer, region, read_json(as_json(products)), {})


def changed(product: Product, **attributes: str) -> Product:
    return Product(
        "Z1", product.attributes | attributes, product.unit, product.tiers, product.family
    )


# ---- what the types of instance tell ----


def test_a_type_that_nobody_knew_is_taken_from_the_file() -> None:
    products = [
        offers.ec2_product("X1", "t9.metal", "1.5", vcpu="96", memory="1,952 GiB", gpu="8"),
        offers.ec2_product("X2", "z9g.large", "0.5", physicalProcessor="AWS Graviton9 Processor"),
    ]
    found = told("AmazonEC2", products).instances
    metal, graviton = found["t9.metal"], found["z9g.large"]
    assert (metal.memory_gib, metal.gpus, metal.cores) == (1952.0, 8, None)
    assert metal.is_burstable
    assert metal.is_bare_metal
    assert graviton.arch == "arm64"


@pytest.mark.parametrize(
    ("attributes", "why"),
    [
        ({"vcpu": ""}, "has vCPU ''"),
        ({"memory": "NA"}, "memory 'NA'"),
        ({"currency": "CNY"}, "is priced in CNY, not in USD"),
    ],
)
def test_a_type_that_can_not_be_read_is_named(attributes: dict[str, str], why: str) -> None:
    found = told("AmazonEC2", [offers.ec2_product("X1", "m5.xlarge", "0.2", **attributes)])
    assert not found.instances
    assert why in found.troubles["m5.xlarge"]


@pytest.mark.parametrize(
    "differs",
    [
        {"marketOption": "Spot"},
        {"operatingSystem": "SUSE"},
        {"tenancy": "Dedicated"},
        {"preInstalledSw": "SQL Web"},
        {"licenseModel": "Bring your own license"},
        {"capacitystatus": "AllocatedCapacityReservation"},
        {"operation": "RunInstances:0200"},
        {"usage": "DedicatedUsage:m5.xlarge"},
        {"usage": "BoxUsage-m5.xlarge"},
    ],
)
def test_a_row_that_is_not_plain_linux_on_demand_is_no_type(differs: dict[str, str]) -> None:
    plain = offers.ec2_product("X1", "m5.xlarge", "0.2")
    other = offers.ec2_product("X2", "m5.xlarge", "0.1", **differs)
    found = told("AmazonEC2", [other, plain])
    assert found.instances["m5.xlarge"].usd_per_hour.usd == Decimal("0.2")
    assert found.troubles == {}


def test_a_type_with_several_prices_is_not_taken_whatever_comes_after() -> None:
    products = [offers.ec2_product(f"X{n}", "m5.xlarge", usd) for n, usd in enumerate("12121")]
    found = told("AmazonEC2", products)
    assert not found.instances
    assert found.troubles == {"m5.xlarge": "has two prices, 1 and 2"}


# ---- the traps ----


def test_a_free_tier_is_not_the_price() -> None:
    found = told("AWSLambda", offers.lambda_products())
    assert found.prices["lambda.request.x86_64"][0].usd == Decimal("0.00000021")
    assert found.troubles == {}
    only_free = told("AWSLambda", [one("F1"), one("F2")])
    assert only_free.prices == {}


@pytest.mark.parametrize(
    "differs",
    [
        {"usagetype": "Lambda-Edge-GB-Second"},
        {"usagetype": "Lambda-GB-Second-MicroVM"},
        {"usagetype": "MicroVM-Lambda-GB-Second"},
        {"group": "AWS-Lambda-Edge-Duration"},
        {"group": "AWS-Lambda-Duration-ARM"},
        {"regionCode": "us-east-1-bos-1"},
        {"locationType": "AWS Local Zone"},
        {"location": "Any"},
    ],
)
def test_what_resembles_an_item_is_none(differs: dict[str, str]) -> None:
    other = changed(one("D1"), **differs)
    other.tiers = flat("0.5")
    found = told("AWSLambda", lambda_with(other))
    assert found.prices["lambda.gb_s.x86_64"][0].usd == Decimal("0.000016666")
    assert found.troubles == {}


def test_tiers_are_told_apart_by_their_range_and_not_by_their_code() -> None:
    """Rate codes of AWS sort differently from tiers, and differ by region."""
    product = one("D1")
    assert sorted(range(3), key=product.rate_code) != [0, 1, 2]
    for text in (as_json([product]), as_csv([product])):
        told_by = read_json(text) if text.startswith("{") else read_csv(text.splitlines())
        tiers = find("AWSLambda", REGION, told_by, {}).prices["lambda.gb_s.x86_64"]
        assert [f"{tier.from_units:f}" for tier in tiers] == ["0", "6000000000", "15000000000"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"tiers": [("1", INF, "0.1")]}, "has no price between 0 and 1"),
        ({"tiers": [("0", "5", "0.1"), ("6", INF, "0.1")]}, "has no price between 5 and 6"),
        ({"tiers": [("0", "5", "0.1")]}, "has no price beyond 5"),
        ({"tiers": flat("0.0000000000")}, "costs nothing"),
        ({"tiers": flat("-1")}, "a price is -1"),
        ({"tiers": flat("abc")}, "which is no number"),
        ({"tiers": [("0", INF, "1"), ("0", INF, "2")]}, "has two prices from 0"),
        ({"unit": "1M Requests"}, "is priced by the 1M Requests"),
        ({"unit": ""}, "is priced by the unnamed unit"),
        ({"currency": "CNY"}, "is priced in CNY, not in USD"),
    ],
)
def test_what_is_not_as_expected_is_told_and_not_taken(change: dict[str, Any], why: str) -> None:
    product = one("R1")
    for name, value in change.items():
        setattr(product, name, value)
    found = told("AWSLambda", lambda_with(product, but="R1"))
    assert "lambda.request.x86_64" not in found.prices
    assert why in found.troubles["lambda.request.x86_64"]
    assert found.prices.keys() == {n for n in EXPECTED if n.startswith("lambda.")} - {
        "lambda.request.x86_64"
    }


def test_two_products_may_agree_but_not_differ() -> None:
    same = changed(one("R1"))
    assert "lambda.request.x86_64" in told("AWSLambda", lambda_with(same)).prices
    same.tiers = flat("0.0000003")
    found = told("AWSLambda", lambda_with(same))
    assert "lambda.request.x86_64" not in found.prices
    assert "can't be told apart: 2.100E-7 and 3E-7" in found.troubles["lambda.request.x86_64"]


def test_units_of_a_millionth_are_counted_in_millions() -> None:
    tiers = [("0", "5000000", "0.000000002"), ("5000000", INF, "0.000000001")]
    product = Product(
        "V1",
        {"usagetype": "EUW2-ElastiCacheProcessingUnits:Valkey", "regionCode": "eu-west-2"},
        "ElastiCacheProcessingUnits",
        tiers,
    )
    found = told("AmazonElastiCache", [product], "eu-west-2").prices["valkey.million_ecpu"]
    assert [(tier.from_units, tier.usd) for tier in found] == [
        (Decimal(0), Decimal("0.002")),
        (Decimal(5), Decimal("0.001")),
    ]


# ---- the forms of a file ----


@pytest.mark.parametrize("offer", sorted(offers.ALL))
def test_all_forms_of_a_file_say_the_same(offer: str) -> None:
    products = offers.ALL[offer]()
    wanted = [p for p in products if p.term == "OnDemand"]
    forms: list[Offer] = [
        read_json(as_json(products)),
        read_csv(as_csv(products).splitlines(keepends=True)),
        read_items(json.dumps(offers.item_of(product)) for product in wanted),
    ]
    first, *others = (find(offer, REGION, form, {}) for form in forms)
    assert first.prices
    assert all(other == first for other in others)


@pytest.mark.parametrize("metadata", [3, 5, 9])
def test_the_header_is_found_by_its_first_cell(metadata: int) -> None:
    text = as_csv(offers.lambda_products(), metadata=metadata)
    assert read_csv(text.splitlines()).published.isoformat() == offers.PUBLISHED


def test_a_cell_may_hold_a_comma_a_quote_and_a_line_break() -> None:
    text = as_csv(offers.lambda_products()).replace("a description", 'a ""description"",\nlong')
    found = find("AWSLambda", REGION, read_csv(text.splitlines(keepends=True)), {})
    assert len(found.prices) == 10


@pytest.mark.parametrize(
    ("read", "text", "why"),
    [
        (read_json, "<html>", "it is no JSON"),
        (read_json, "[]", "but a list and no offer file"),
        (read_json, "{}", "'publicationDate' is missing"),
        (read_json, '{"publicationDate": "soon", "terms": {}, "products": {}}', "'soon'"),
        (read_json, as_json(offers.lambda_products())[:-40], "it is no JSON"),
        (read_csv, "", "ends before a line that begins with SKU"),
        (read_csv, "<html>\n", "ends before a line that begins with SKU"),
        (read_csv, "".join(f"a{n},b\n" for n in range(200)), "no line of it begins with SKU"),
        (read_csv, '"SKU","TermType"\n', "its header lacks startingrange, unit"),
        (read_csv, as_csv([]).replace(offers.PUBLISHED, "once"), "'once"),
        (read_csv, as_csv(offers.lambda_products())[:-60], "it is damaged"),
    ],
)
def test_what_is_no_offer_file_says_why(read: Callable[[Any], Offer], text: str, why: str) -> None:
    with pytest.raises(PriceListError, match=why):
        list(read(text if read is read_json else text.splitlines(keepends=True)).rows)


def test_an_empty_answer_of_the_query_api_is_an_error() -> None:
    with pytest.raises(PriceListError, match="there is no price in it"):
        read_items([])
