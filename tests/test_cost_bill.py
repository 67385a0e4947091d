"""Bills: AWS's own examples to the cent, sums to the last digit, and nothing left out silently."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from fanout.budget import Billed
from fanout.cost import book_of
from fanout.cost.bill import Bill, bill_of
from fanout.cost.book import Price, PriceBook, Tier
from fanout.cost.money import amount, product, total
from fanout.cost.run_usage import AttemptCost, Cause, Size, Usage, usage_of, usage_of_time
from fanout.tasks import BilledTime

EAST = Size("us-east-1", "x86_64", 1536)
CENT = Decimal("0.01")


def price(*tiers: tuple[str, str]) -> Price:
    return Price(
        tiers=tuple(Tier(from_units=Decimal(start), usd=Decimal(usd)) for start, usd in tiers),
        unit="unit",
        source="a test",
        published=dt.date(2026, 11, 21),
    )


def book(**prices: str) -> PriceBook:
    named = {name.replace("__", "."): price(("0", usd)) for name, usd in prices.items()}
    return PriceBook(region="us-east-1", prices=named, instances={})


def time_of(count: int, ms: int, memory_mb: int, arch: Any = "x86_64") -> Usage:
    size = Size("us-east-1", arch, memory_mb)
    return usage_of_time(size, count * ms, count, is_measured=True)


# ---- worked examples ----


@pytest.mark.parametrize(
    ("count", "ms", "memory_mb", "gb_s", "usd"),
    [
        (3_000_000, 120, 1536, "540000", "2.73"),
        # Of older pages, which had 0.00001667 for a GB-second: 18.74 and 11.63 then.
        (3_000_000, 1000, 512, "1500000", "18.73"),
        (30_000_000, 200, 128, "750000", "11.63"),
    ],
)
def test_the_examples_of_the_pricing_page_come_out_to_the_cent(
    count: int, ms: int, memory_mb: int, gb_s: str, usd: str
) -> None:
    """aws.amazon.com/lambda/pricing: in US East (N. Virginia), x86, with the free tier."""
    bill = bill_of(time_of(count, ms, memory_mb), book_of("us-east-1"), has_free_tier=True)
    assert bill.usd.quantize(CENT) == Decimal(usd)
    assert bill.gb_s == Decimal(gb_s)
    assert bill.requests == count


def test_the_older_examples_come_out_at_the_older_price() -> None:
    then = book(lambda__gb_s__x86_64="0.00001667", lambda__request__x86_64="0.0000002")
    for count, ms, memory_mb, usd in (
        (3_000_000, 1000, 512, "18.74"),
        (30_000_000, 200, 128, "11.63"),
    ):
        bill = bill_of(time_of(count, ms, memory_mb), then, has_free_tier=True)
        assert bill.usd.quantize(CENT) == Decimal(usd)


def test_a_cold_wave_costs_what_the_reckoning_says() -> None:
    """3.5 s x 1.77 GB x 1,000 environments is about ten cents."""
    usage = Usage()
    usage.init_ms[Size("us-east-1", "x86_64", 1769), True] = 3500 * 1000
    bill = bill_of(usage, book_of("us-east-1"))
    assert bill.by_cause().keys() == {Cause.COLD_STARTS}
    assert bill.usd.quantize(CENT) == Decimal("0.10")


def test_a_million_objects_cost_five_dollars_and_forty_cents() -> None:
    """1,000 x 1,000 of a shuffle: writing them is what costs."""
    usage = Usage()
    usage.stored["us-east-1", "put", True] = 10**6
    usage.stored["us-east-1", "get", True] = 10**6
    assert bill_of(usage, book_of("us-east-1")).usd == Decimal("5.40")


# ---- rules ----


def test_tiers_fill_up_across_the_month() -> None:
    usage = time_of(1, 1000 * 2 * 10**9, 1024)  # 2 billion GB-seconds
    shipped = book_of("us-east-1")
    early = bill_of(usage, shipped)
    late = bill_of(usage, shipped, before={"lambda.gb_s.x86_64": 5 * 10**9})
    told = [(item.units, item.price_usd) for item in late.items if item.cause is Cause.USEFUL]
    billion = Decimal(10**9)
    assert told == [(billion, Decimal("0.0000166667")), (billion, Decimal("0.000015"))]
    assert early.usd - late.usd == 10**9 * Decimal("0.0000016667")


def test_the_free_tier_is_off_and_counts_what_the_month_left_of_it() -> None:
    usage = time_of(1, 1000 * 500_000, 1024)
    shipped = book_of("us-east-1")
    assert bill_of(usage, shipped).gb_s == 500_000
    full = bill_of(usage, shipped)
    free = bill_of(usage, shipped, has_free_tier=True)
    rest = bill_of(usage, shipped, has_free_tier=True, before={"lambda.gb_s.arm64": 300_000})
    gb_s = Decimal("0.0000166667")
    assert full.usd - free.usd == 400_000 * gb_s + Decimal("0.0000002")
    assert full.usd - rest.usd == 100_000 * gb_s + Decimal("0.0000002")
    assert free.gb_s == 500_000


def test_disk_costs_above_512_mb_for_as_long_as_it_is_there() -> None:
    size = EAST._replace(disk_mb=512 + 1024)
    usage = usage_of_time(size, 3_000_000, 1, is_measured=True)
    usage.init_ms[size, True] = 1_000_000
    items = [item for item in bill_of(usage, book_of("us-east-1")).items if "disk" in item.what]
    assert [(int(item.units), item.cause) for item in items] == [(4000, Cause.STORAGE)]
    plain = usage_of_time(EAST, 3_000_000, 1, is_measured=True)
    assert not [i for i in bill_of(plain, book_of("us-east-1")).items if "disk" in i.what]


def test_objects_are_billed_for_how_long_they_lie_there() -> None:
    usage = Usage()
    usage.stored["us-east-1", "byte_s", False] = 2**30 * 30 * 24 * 3600
    (item,) = bill_of(usage, book_of("us-east-1")).items
    assert (item.units, item.usd) == (Decimal(1), Decimal("0.023"))
    assert not item.is_measured


def test_answers_leave_aws_unless_the_client_is_inside() -> None:
    usage = Usage()
    usage.answer_bytes["us-east-1", True] = 2**30
    (item,) = bill_of(usage, book_of("us-east-1")).items
    assert (item.cause, item.usd, item.is_measured) == (Cause.TRANSFER, Decimal("0.09"), False)
    assert bill_of(usage, book_of("us-east-1"), is_client_outside=False).items == ()


def test_what_has_no_price_is_in_the_bill_and_not_in_the_sum() -> None:
    usage = time_of(1000, 1000, 1024)
    usage.log_bytes["us-east-1", True] = 2**30
    bill = bill_of(usage, book(lambda__gb_s__x86_64="0.0000166667"))
    assert bill.usd == Decimal("0.0166667")
    assert [item.what for item in bill.unpriced] == ["invocations", "log"]
    assert bill.as_dict()["is_complete"] is False
    assert "The sum lacks what has no known price: invocations (us-east-1), log" in bill.text()
    assert bill.summary.endswith("without what has no known price")


def test_another_region_never_lends_its_price() -> None:
    usage = usage_of_time(Size("xx-nowhere-1", "x86_64", 1024), 1000, 1, is_measured=True)
    bill = bill_of(usage, {"us-east-1": book_of("us-east-1")})
    assert bill.usd == 0
    assert len(bill.unpriced) == 2
    assert bill.gb_s == 1


def test_nothing_costs_nothing() -> None:
    bill = bill_of(Usage(), book_of("us-east-1"))
    assert bill == Bill()
    assert bill.usd == bill.gb_s == 0
    assert bill.text() == "nothing was billed"


# ---- sums ----

SIZES = st.builds(
    Size,
    st.sampled_from(["us-east-1", "eu-west-1"]),
    st.sampled_from(["x86_64", "arm64"]),
    st.integers(128, 10240),
    st.sampled_from([512, 513, 10240]),
)
BILLED = st.builds(
    BilledTime,
    st.integers(1000, 900_000),
    st.integers(0, 1000),
    st.integers(128, 10240),
    st.booleans(),
    st.integers(1, 3),
    st.integers(0, 1),
    st.integers(0, 6 * 2**20),
    st.integers(0, 4096),
    st.booleans(),
)
COSTS = st.lists(
    st.builds(
        AttemptCost,
        st.integers(0, 30),
        st.none() | st.integers(0, 30),
        SIZES,
        st.integers(0, 900_000),
        st.sampled_from(["in flight", "answered", "failed", "never ran"]),
        st.booleans(),
        st.none() | BILLED,
    ),
    unique_by=lambda cost: cost.attempt,
    max_size=20,
)
BOOKS = {region: book_of(region) for region in ("us-east-1", "eu-west-1")}


@given(COSTS)
def test_items_add_up_to_the_bill_and_each_is_units_times_price(costs: list[AttemptCost]) -> None:
    bill = bill_of(usage_of(costs), BOOKS)
    assert bill.usd == total(item.usd or 0 for item in bill.items)
    assert bill.usd == total(bill.by_cause().values())
    for item in bill.items:
        assert item.price_usd is not None
        assert item.usd == product(item.units, item.price_usd)
        assert item.units > 0
    told = json.loads(json.dumps(bill.as_dict()))
    assert amount(told["usd"]) == bill.usd == total(amount(item["usd"]) for item in told["items"])


@given(COSTS, st.randoms(use_true_random=False))
def test_neither_the_order_nor_the_parts_change_a_sum(costs: list[AttemptCost], rng: Any) -> None:
    shuffled = list(costs)
    rng.shuffle(shuffled)
    assert usage_of(shuffled) == usage_of(costs)
    apart = usage_of([cost for cost in costs if cost.covers is None])
    assert apart + Usage() == apart


# ---- which time is whose ----


def attempt(number: int, *, ms: int = 100, covers: int | None = None, **facts: Any) -> AttemptCost:
    billed = BilledTime(ms, 0, 1024, True)
    return AttemptCost(number, covers, EAST, 5000, **{"end": "answered", "billed": billed, **facts})


def causes(*costs: AttemptCost) -> dict[Cause, int]:
    found: dict[Cause, int] = {}
    for (cause, _, _), ms in usage_of(costs).time_ms.items():
        found[cause] = found.get(cause, 0) + ms
    return found


def test_a_winner_is_useful_and_what_it_beat_is_a_hedge() -> None:
    assert causes(attempt(0, is_kept=True), attempt(1, ms=7, covers=0)) == {
        Cause.USEFUL: 100,
        Cause.HEDGES: 7,
    }
    assert causes(attempt(0, ms=7), attempt(1, covers=0, is_kept=True)) == {
        Cause.USEFUL: 100,
        Cause.HEDGES: 7,
    }


def test_what_failed_is_a_retry_even_if_it_was_covered() -> None:
    failed = attempt(0, end="failed")
    assert causes(failed, attempt(1, covers=0, is_kept=True))[Cause.RETRIES] == 100
    assert causes(attempt(3)) == {Cause.RETRIES: 100}


def test_what_has_not_answered_counts_at_its_worst() -> None:
    usage = usage_of([attempt(0, end="in flight", billed=None)])
    assert usage.time_ms == {(Cause.UNFINISHED, EAST, False): 5000}
    assert usage.requests == {("us-east-1", "x86_64", False): 1}


def test_what_was_lost_counts_at_its_worst_beside_what_is_known() -> None:
    known = BilledTime(40, 0, 1536, True, 1, 1)
    assert causes(attempt(0, end="failed", billed=known)) == {Cause.RETRIES: 5040}


def test_what_never_ran_costs_nothing() -> None:
    assert usage_of([attempt(0, end="never ran", billed=None)]) == Usage()


def test_starts_are_apart_from_what_they_were_for() -> None:
    cold = attempt(0, is_kept=True, billed=BilledTime(300, 200, 1024, True))
    usage = usage_of([cold])
    size = EAST._replace(memory_mb=1024)  # as the REPORT line has it
    assert usage.time_ms == {(Cause.USEFUL, size, True): 100}
    assert usage.init_ms == {(size, True): 200}


def test_a_size_is_that_of_the_function() -> None:
    billed = Billed(gb=1769 / 1024, timeout_s=60.0, region="eu-west-1", arch="arm64", disk_mb=2048)
    assert Size.of(billed) == Size("eu-west-1", "arm64", 1769, 2048)


def test_the_table_says_what_is_assumed_and_where_prices_are_from() -> None:
    usage = time_of(10, 1000, 1024)
    usage.answer_bytes["us-east-1", True] = 10**9
    text = bill_of(usage, book_of("us-east-1")).text()
    assert "useful" in text
    assert "of it is assumed: answers count as if they left AWS." in text
    assert "AWS Price List offer files (AWSLambda)" in text
    assert "10 GB-seconds, 10 invocations" in text
