"""Money is exact, prices have their source, and none stands in for another."""

from __future__ import annotations

import datetime as dt
import decimal
import importlib.resources
import itertools
import json
import logging
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.cost import books
from fanout.cost.book import Instance, Price, PriceBook, Tier, old_text
from fanout.cost.book_file import DamagedBookError, book_of_text, flat_price, text_of_book
from fanout.cost.books import book_of, overlaid, quiet_book_of, regions
from fanout.cost.items import (
    ARCHITECTURES,
    AWS_REGIONS,
    FREE_LAMBDA_GB_S,
    FREE_LAMBDA_REQUESTS,
    ITEMS,
    service_of,
)
from fanout.cost.money import amount, exactly, plain, product, quotient, total, usd_text
from fanout.errors import PriceMissingError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

COMPLETE = "us-east-1"
DAY = dt.date(2026, 10, 1)
NEW = dt.date(2026, 11, 1)
TIERED = Price(
    tiers=(
        Tier(from_units=Decimal(0), usd=Decimal("0.0000166667")),
        Tier(from_units=Decimal(6_000_000_000), usd=Decimal("0.000015")),
        Tier(from_units=Decimal(15_000_000_000), usd=Decimal("0.0000133334")),
    ),
    unit="GB-second",
    source="a source",
    published=DAY,
)
UNITS = st.decimals(0, 10**11, places=6)


def shipped(region: str) -> PriceBook:
    book = books.shipped_book(region)
    assert book is not None
    return book


def book(region: str, published: dt.date = DAY, **usd: str) -> PriceBook:
    """A book with a price for each name; "_" stands for "."."""
    prices = {}
    for name, text in usd.items():
        item = name.replace("__", ".")
        prices[item] = flat_price(Decimal(text), ITEMS[item].unit, "a source", published)
    return PriceBook(region=region, prices=prices, instances={})


def write(own: PriceBook) -> Path:
    return books.keep(own)


# ---- money ----


def test_sums_and_products_are_exact_whatever_the_caller_has_set() -> None:
    with decimal.localcontext(decimal.Context(prec=3, rounding=decimal.ROUND_UP)):
        assert product(Decimal("0.0000166667"), 123_456_789) == Decimal(
            f"{166667 * 123_456_789}e-10"
        )
        assert total([Decimal("0.1")] * 10) == 1
        assert total([Decimal(12345678901234567890), Decimal("1e-20")]) == Decimal(
            "12345678901234567890.00000000000000000001"
        )
        assert decimal.getcontext().prec == 3


def test_what_can_not_be_held_exactly_raises() -> None:
    with exactly(), pytest.raises(decimal.Inexact):
        Decimal(1) / Decimal(3)
    assert str(quotient(1, 3))[:6] == "0.3333"


@given(st.lists(st.decimals(0, 10**9, places=12)), st.randoms())
def test_a_sum_does_not_depend_on_the_order(amounts: list[Decimal], rng: Any) -> None:
    shuffled = list(amounts)
    rng.shuffle(shuffled)
    assert total(shuffled) == total(amounts)


@pytest.mark.parametrize("value", [0.1, 1e-9, float("nan"), True, None, b"1"])
def test_floats_are_no_amounts(value: Any) -> None:
    with pytest.raises(UsageError, match="give it as text, an integer or a Decimal"):
        amount(value, "the price")


@pytest.mark.parametrize("text", ["", "a dollar", "1,5", "NaN", "Infinity", "-1", "-0.1", "1e99"])
def test_amounts_are_finite_and_not_negative(text: str) -> None:
    with pytest.raises(UsageError, match="the price is "):
        amount(text, "the price")


def test_an_amount_with_more_digits_than_a_price_has_is_refused() -> None:
    assert amount("0." + "1" * 40) == Decimal("0." + "1" * 40)
    with pytest.raises(UsageError, match="at most 40 digits"):
        amount("0." + "1" * 41)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("0", "$0"),
        ("1", "$1.00"),
        ("2.733338", "$2.73"),
        ("1234567.895", "$1,234,567.90"),
        ("0.996", "$1.00"),
        ("0.994", "$0.99"),
        ("0.5", "$0.50"),
        ("0.0042", "$0.0042"),
        ("0.00425", "$0.0042"),
        ("0.000000000123", "$0.00000000012"),
        ("-3.456", "-$3.46"),
        ("-0.05", "-$0.050"),
        ("1e12", "$1,000,000,000,000.00"),
    ],
)
def test_dollars_are_shown_to_the_cent_or_to_two_digits(value: str, text: str) -> None:
    assert usd_text(Decimal(value)) == text


@given(st.decimals("-1e15", "1e15", allow_nan=False))
def test_dollars_are_never_in_scientific_notation(value: Decimal) -> None:
    assert set(usd_text(value)) <= set("-$,.0123456789")


@given(st.decimals(0, "1e20", allow_nan=False))
def test_plain_text_is_the_amount_itself(value: Decimal) -> None:
    assert Decimal(plain(value)) == value
    assert "E" not in plain(value)


# ---- prices ----


def naive(price: Price, begin: Decimal, end: Decimal) -> Decimal:
    """Unit by unit, in the tier that each falls into."""
    found = Decimal(0)
    edges = [tier.from_units for tier in price.tiers[1:]]
    cuts = sorted({begin, end, *(edge for edge in edges if begin < edge < end)})
    for low, high in itertools.pairwise(cuts):
        (tier,) = [t for t in price.tiers if t.from_units <= low][-1:]
        found = total([found, product(high - low, tier.usd)])
    return found


@given(UNITS, UNITS)
def test_tiers_fill_up_across_a_month(first: Decimal, more: Decimal) -> None:
    both = total([first, more])
    assert TIERED.cost(both) == total([TIERED.cost(first), TIERED.cost(more, already=first)])
    assert TIERED.cost(more, already=first) == naive(TIERED, first, both)


def test_a_trillion_units_cost_what_they_cost() -> None:
    assert TIERED.cost(10**12) == Decimal("100000.2") + Decimal(135_000) + Decimal(13133399)


@pytest.mark.parametrize("units", [-1, Decimal("NaN"), Decimal("Infinity"), 1.5])
def test_units_that_make_no_sense_are_refused(units: Any) -> None:
    with pytest.raises(UsageError, match=r"units \(GB-seconds\) is"):
        TIERED.cost(units)
    with pytest.raises(UsageError, match=r"already \(GB-seconds\) is"):
        TIERED.cost(1, already=units)


@pytest.mark.parametrize("starts", [[], [1], [0, 5, 5], [0, 7, 3]])
def test_tiers_begin_at_nothing_and_come_in_order(starts: list[int]) -> None:
    tiers = tuple(Tier(from_units=Decimal(start), usd=Decimal(1)) for start in starts)
    with pytest.raises(UsageError, match="give 0 first, then in order"):
        Price(tiers=tiers, unit="GB", source="", published=DAY)


def test_the_example_of_aws_comes_to_what_aws_says() -> None:
    """Three million requests of 120 ms at 1,536 MB, free tier off the sum: 2.73 USD."""
    book = shipped(COMPLETE)
    gb_s = product(3_000_000, Decimal("0.120"), quotient(1536, 1024))
    compute = book["lambda.gb_s.x86_64"].cost(gb_s - FREE_LAMBDA_GB_S)
    requests = book["lambda.request.x86_64"].cost(3_000_000 - FREE_LAMBDA_REQUESTS)
    assert (usd_text(compute), usd_text(requests)) == ("$2.33", "$0.40")
    assert usd_text(total([compute, requests])) == "$2.73"


# ---- a book ----


def test_a_missing_price_names_region_item_and_remedy() -> None:
    with pytest.raises(PriceMissingError) as caught:
        shipped("eu-west-1")["nat.hour"]
    assert (caught.value.region, caught.value.item) == ("eu-west-1", "nat.hour")
    assert str(caught.value) == (
        "what nat.hour costs in eu-west-1 is not known: `fanout cost prices refresh --region "
        "eu-west-1` reads it from AWS's public price list, without an account"
    )
    with pytest.raises(PriceMissingError, match=r"EC2 instance c8g\.large costs in eu-west-1"):
        shipped("eu-west-1").instance("c8g.large")


def test_a_wrong_name_suggests_near_ones() -> None:
    with pytest.raises(UsageError, match=r"gbs' in price books: did you mean lambda\.gb_s"):
        shipped(COMPLETE)["lambda.gbs"]
    with pytest.raises(UsageError, match=r"'c8g\.4xlrage'.*did you mean c8g\.4xlarge or"):
        shipped(COMPLETE).instance("c8g.4xlrage")
    with pytest.raises(UsageError, match="`fanout cost prices show` lists what there is"):
        shipped(COMPLETE).instance("?")


def test_an_unknown_region_suggests_near_ones_and_lists_the_books() -> None:
    with pytest.raises(UsageError) as caught:
        book_of("eu-wset-1")
    assert "did you mean eu-west-1" in str(caught.value)
    for region in regions():
        assert region in str(caught.value)


def test_a_region_without_a_book_is_told_how_to_get_one() -> None:
    with pytest.raises(UsageError, match=r"no price book for region sa-east-1.*--region sa-east-1"):
        book_of("sa-east-1")


@pytest.mark.parametrize("region", ["", "../us-east-1", "us-east-1/..", "a\0b", "é"])
def test_a_region_is_no_path(region: str) -> None:
    with pytest.raises(UsageError, match="no region"):
        book_of(region)


def test_a_service_is_as_old_as_its_newest_price() -> None:
    two = overlaid(
        book("eu-west-1", dt.date(2026, 1, 1), lambda__streamed_gb="1", s3__put="1"),
        book("eu-west-1", NEW, lambda__ephemeral_gb_s="1"),
    )
    (old,) = two.old(dt.date(2026, 11, 21))
    assert (old.service, old.newest, old.age_days) == ("s3", dt.date(2026, 1, 1), 324)
    assert two.old(dt.date(2026, 11, 21), services=["lambda"]) == []
    assert old_text("eu-west-1", [old]) == (
        "prices of eu-west-1 are older than 180 days: s3 of 2026-01-01 (324 days); renew them "
        "with `fanout cost prices refresh --region eu-west-1`"
    )


def test_a_book_is_old_after_180_days_and_not_before() -> None:
    one = book("eu-west-1", DAY, s3__put="1")
    assert one.old(DAY + dt.timedelta(days=180)) == []
    assert len(one.old(DAY + dt.timedelta(days=181))) == 1


# ---- what is shipped ----


@pytest.mark.parametrize("region", regions())
def test_every_shipped_figure_has_its_source_and_date(region: str) -> None:
    one = shipped(region)
    prices = [*one.prices.values(), *(i.usd_per_hour for i in one.instances.values())]
    assert one.region == region
    assert region in AWS_REGIONS
    assert prices
    for price in prices:
        assert price.source
        assert dt.date(2018, 1, 1) < price.published <= dt.date(2026, 11, 21)
        assert all(tier.usd > 0 for tier in price.tiers)
        if "third party" in price.source:
            assert price.note


@pytest.mark.parametrize("region", regions())
def test_shipped_files_are_as_they_would_be_written(region: str) -> None:
    file = importlib.resources.files("fanout.cost") / "prices" / f"{region}.json"
    text = file.read_text(encoding="utf-8")
    assert text_of_book(book_of_text(text)) == text
    assert set(json.loads(text)["prices"]) <= set(ITEMS)


def test_us_east_1_has_all() -> None:
    one = shipped(COMPLETE)
    assert one.missing() == []
    assert len(one.instances) == 1340
    assert {i.arch for i in one.instances.values()} == set(ARCHITECTURES)
    assert all(0 < (i.cores or 0) <= i.vcpus for i in one.instances.values())
    assert all(i.name == name for name, i in one.instances.items())
    assert one.instance("t3.medium").is_burstable
    assert one.instance("c8g.metal-24xl").is_bare_metal
    assert one.instance("g5.48xlarge").gpus == 8


@pytest.mark.parametrize("region", regions())
def test_every_shipped_region_has_what_a_run_costs_at_least(region: str) -> None:
    own = shipped(region)
    for name, item in ITEMS.items():
        is_rare = name in {"lambda.ephemeral_gb_s", "lambda.streamed_gb"}
        if item.offer in {"AWSLambda", "AmazonS3", "AmazonCloudWatch"} and not is_rare:
            assert name in own
    for arch in ARCHITECTURES:
        assert len(own[f"lambda.gb_s.{arch}"].tiers) == 3


def test_regions_have_prices_of_their_own() -> None:
    assert shipped("eu-west-1")["logs.ingested_gb"].usd == Decimal("0.57")
    assert shipped("eu-central-1")["s3.put"].usd == Decimal("0.0000054")
    assert shipped("ap-northeast-1")["transfer.internet_gb"].usd == Decimal("0.114")
    provisioned = "lambda.provisioned_gb_s.x86_64"
    assert len({shipped(region)[provisioned].usd for region in regions()}) == 5


@pytest.mark.parametrize(
    ("name", "usd"),
    [
        *(("t3.medium", ".0416"), ("t3.large", ".0832"), ("t3.xlarge", ".1664")),
        *(("t4g.large", ".0672"), ("t4g.2xlarge", ".2688"), ("c5.large", ".085")),
        *(("c5.4xlarge", ".68"), ("c5.9xlarge", "1.53"), ("c5.18xlarge", "3.06")),
        *(("c6i.32xlarge", "5.44"), ("c6g.16xlarge", "2.176"), ("c6a.48xlarge", "7.344")),
        *(("c7i.large", ".08925"), ("c7i.48xlarge", "8.568"), ("c7g.16xlarge", "2.32")),
        *(("c7a.xlarge", ".20528"), ("c7a.48xlarge", "9.85344"), ("c8g.xlarge", ".15952")),
        *(("c8g.24xlarge", "3.82848"), ("c8g.48xlarge", "7.65696"), ("c8i.xlarge", ".18742")),
        *(("c8i.96xlarge", "17.99232"), ("c8a.48xlarge", "10.34592"), ("c9g.48xlarge", "8.34624")),
        *(("m5.large", ".096"), ("m5.24xlarge", "4.608"), ("m7i.48xlarge", "9.6768")),
        *(("m7g.16xlarge", "2.6112"), ("m8g.48xlarge", "8.61696"), ("m9g.xlarge", ".19568")),
        *(("r4.16xlarge", "4.256"), ("r5.24xlarge", "6.048"), ("r6i.32xlarge", "8.064")),
        *(("r7i.48xlarge", "12.7008"), ("r8g.48xlarge", "11.31072"), ("x1.32xlarge", "13.338")),
    ],
)
def test_instances_cost_what_the_offer_file_of_october_says(name: str, usd: str) -> None:
    assert shipped(COMPLETE).instance(name).usd_per_hour.usd == Decimal(usd)


def test_lambda_costs_a_tenth_of_a_dollar_for_a_vcpu_hour() -> None:
    """1,769 MB are one vCPU: $0.1037 and $0.0829, twice what EC2's cost."""
    one = shipped(COMPLETE)
    gb_s = quotient(1769 * 3600, 1024)
    hour = {arch: one[f"lambda.gb_s.{arch}"].usd * gb_s for arch in ARCHITECTURES}
    assert f"{hour['x86_64']:.4f}" == "0.1037"
    assert f"{hour['arm64']:.4f}" == "0.0829"
    c7i, c8g = one.instance("c7i.large"), one.instance("c8g.large")
    assert 2 < hour["x86_64"] / (c7i.usd_per_hour.usd / c7i.vcpus) < Decimal("2.4")
    assert 2 < hour["arm64"] / (c8g.usd_per_hour.usd / c8g.vcpus) < Decimal("2.4")


# ---- the file, and the user's own ----


def test_a_file_gives_back_the_book() -> None:
    for region in regions():
        assert book_of_text(text_of_book(shipped(region))) == shipped(region)
    empty = PriceBook(region="eu-west-1", prices={}, instances={})
    assert book_of_text(text_of_book(empty)) == empty


def damaged_texts() -> list[tuple[str, str]]:
    told = json.loads(text_of_book(shipped("eu-west-1")))
    full = json.loads(text_of_book(shipped(COMPLETE)))
    first = next(iter(full["instances"]))
    return [
        ("", "no JSON"),
        ("[]", "no price book"),
        ("{", "no JSON"),
        (json.dumps({**told, "format": 2}), "format is 2, not 1"),
        (json.dumps({k: v for k, v in told.items() if k != "prices"}), "'prices' is missing"),
        (json.dumps({**told, "sources": {}}), "'1' is missing"),
        (
            json.dumps(told).replace('"0.0000166667"', "0.0000166667"),
            "the amount 1.66667e-05 is no text",
        ),
        (json.dumps(told).replace('"0.0000166667"', '"-1"'), "0 or more"),
        (json.dumps(told).replace('"0.0000166667"', '"a"'), "no number"),
        (json.dumps(told).replace("2026-10-01", "yesterday"), "no price book"),
        (json.dumps({**told, "prices": {"s3.put": {"tiers": [], "source": "1"}}}), "tiers begin"),
        (json.dumps({**full, "instances": {first: ["arm64"]}}), "no price book"),
        (json.dumps(full).replace('"arm64", 8', '"mips", 8', 1), "has arch 'mips'"),
    ]


@pytest.mark.parametrize(("text", "why"), damaged_texts())
def test_a_damaged_file_says_where(text: str, why: str) -> None:
    with pytest.raises(DamagedBookError, match=why):
        book_of_text(text)


def test_items_of_a_later_version_are_left_alone() -> None:
    told = json.loads(text_of_book(shipped("eu-west-1")))
    told["prices"]["warp.gb"] = {"tiers": [["0", "1"]], "source": "1"}
    assert book_of_text(json.dumps(told)) == shipped("eu-west-1")


def test_of_two_prices_the_one_published_later_counts() -> None:
    mine = book("eu-west-1", NEW, lambda__ephemeral_gb_s="0.1", nat__hour="0.048")
    write(mine)
    both = quiet_book_of("eu-west-1")
    assert both["lambda.ephemeral_gb_s"].usd == Decimal("0.1")
    assert both["nat.hour"].usd == Decimal("0.048")
    assert both["lambda.gb_s.arm64"] == shipped("eu-west-1")["lambda.gb_s.arm64"]

    same = shipped("eu-west-1")["lambda.ephemeral_gb_s"].published
    for published in (same, same - dt.timedelta(days=1)):
        write(book("eu-west-1", published, lambda__ephemeral_gb_s="0.2"))
        assert quiet_book_of("eu-west-1")["lambda.ephemeral_gb_s"].usd == Decimal("0.000000034")


def test_instances_are_overlaid_one_by_one() -> None:
    one = shipped(COMPLETE).instance("c8g.large")
    newer = Instance(
        **{
            **{name: getattr(one, name) for name in one.__slots__},
            "usd_per_hour": flat_price(Decimal("0.09"), "hour", "mine", NEW),
        }
    )
    write(PriceBook(region=COMPLETE, prices={}, instances={"c8g.large": newer}))
    both = quiet_book_of(COMPLETE)
    assert both.instance("c8g.large").usd_per_hour.usd == Decimal("0.09")
    assert both.instance("c8g.xlarge") == shipped(COMPLETE).instance("c8g.xlarge")
    assert len(both.instances) == 1340


def test_a_region_may_have_a_book_of_the_user_only() -> None:
    write(book("sa-east-1", NEW, s3__put="0.000007"))
    assert "sa-east-1" in regions()
    assert book_of("sa-east-1")["s3.put"].usd == Decimal("0.000007")


@pytest.mark.parametrize("text", ["{", '{"format": 1}', "\x00\xff"])
def test_a_damaged_book_of_the_user_is_told_with_its_path(text: str) -> None:
    path = books.path_of("us-east-1")
    path.parent.mkdir(parents=True)
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError) as caught:
        book_of("us-east-1")
    assert str(path) in str(caught.value)
    assert "Remove it, or renew it with `fanout cost prices refresh --region us-east-1`" in str(
        caught.value
    )


def test_a_book_of_another_region_is_not_taken() -> None:
    path = write(book("sa-east-1", NEW, s3__put="1"))
    path.rename(path.with_name("us-east-1.json"))
    with pytest.raises(UsageError, match="it is of region 'sa-east-1'"):
        book_of("us-east-1")


def test_a_book_that_can_not_be_written_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FANOUT_HOME", str(tmp_path / "file"))
    with pytest.raises(UsageError, match=r"can't be written: .*; FANOUT_HOME moves it"):
        write(book("sa-east-1", NEW, s3__put="1"))


def test_old_prices_are_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    write(book("sa-east-1", dt.date(2025, 1, 1), s3__put="1"))
    with caplog.at_level(logging.WARNING, "fanout"):
        book_of("sa-east-1", services=["lambda"])
        assert caplog.records == []
        book_of("sa-east-1")
        book_of("sa-east-1")
    (record,) = caplog.records
    assert "s3 of 2025-01-01" in record.getMessage()
    assert "fanout cost prices refresh --region sa-east-1" in record.getMessage()


def test_every_item_has_a_unit_and_a_file_that_has_it() -> None:
    for name, item in ITEMS.items():
        assert item.unit
        assert item.what
        assert item.offer.startswith(("Amazon", "AWS"))
        assert service_of(name) in name
