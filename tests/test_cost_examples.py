"""What others have published, worked out again from the shipped prices of us-east-1."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from fanout.cost.break_even import lambda_vcpu_hour, unit_price
from fanout.cost.money import usd_text
from fanout.cost.usage import per_month, per_run, priced
from tests.cost_checks import us_east_1
from tests.test_docs import BLOCK

ROOT = Path(__file__).parent.parent
DOCUMENT = (ROOT / "docs" / "cost.md").read_text(encoding="utf-8")
ONCE = Decimal(1)


def usd(usage: dict[str, str], *, is_free_tier: bool = False) -> Decimal:
    amounts = {name: Decimal(units) for name, units in usage.items()}
    return per_run(priced(amounts, us_east_1(), runs_per_month=ONCE, is_free_tier=is_free_tier))


def gb_s(invocations: int, seconds: str, memory_mb: int) -> str:
    return str(Decimal(seconds) * invocations * memory_mb / 1024)


def test_aws_own_example_of_lambda_comes_to_2_73() -> None:
    """3 million requests of 120 ms at 1,536 MB a month (aws.amazon.com/lambda/pricing)."""
    usage = {
        "lambda.gb_s.x86_64": gb_s(3_000_000, "0.120", 1536),
        "lambda.request.x86_64": "3000000",
    }
    assert usage["lambda.gb_s.x86_64"] == "540000.000"
    assert usd(usage, is_free_tier=True).quantize(Decimal("0.01")) == Decimal("2.73")
    assert usd(usage).quantize(Decimal("0.01")) == Decimal("9.60")


def test_the_free_tier_is_one_for_both_prices_and_never_below_nothing() -> None:
    usage = {"lambda.gb_s.x86_64": "399999", "lambda.request.x86_64": "1000000"}
    assert usd(usage, is_free_tier=True) == 0


def test_lambda_costs_about_twice_as_much_as_a_vcpu_of_ec2() -> None:
    """Lambda with 1,769 MB: $0.1037 (x86_64) and $0.0829 (arm64); 2.06 to 2.33 times EC2."""
    book = us_east_1()
    assert f"{lambda_vcpu_hour(book, 'x86_64'):.4f}" == "0.1037"
    assert f"{lambda_vcpu_hour(book, 'arm64'):.4f}" == "0.0829"
    names = ("c7i.xlarge", "c7g.xlarge", "c8g.xlarge", "m7i.xlarge")
    ratios = {name: unit_price(book, name).ratio for name in names}
    assert [f"{ratio:.2f}" for ratio in ratios.values()] == ["2.32", "2.29", "2.08", "2.06"]
    assert all(2.05 < ratio < 2.34 for ratio in ratios.values())


def test_a_machine_that_is_busy_for_43_to_49_percent_costs_as_much_as_lambda() -> None:
    book = us_east_1()
    shares = [
        unit_price(book, name).utilisation
        for name in ("c7i.xlarge", "c7g.xlarge", "c8g.xlarge", "m7i.xlarge")
    ]
    assert [f"{share:.0%}" for share in shares] == ["43%", "44%", "48%", "49%"]


def test_bookkeeping_in_s3_costs_more_than_small_tasks() -> None:
    """2 PUT and 2 GET for each of a million tasks: $10.8; a second with 256 MB each: $4.4."""
    requests = usd({"s3.put": "2000000", "s3.get": "2000000"})
    assert requests == Decimal("10.8")
    tasks = usd(
        {
            "lambda.gb_s.x86_64": gb_s(1_000_000, "1", 256),
            "lambda.request.x86_64": "1000000",
        }
    )
    assert f"{tasks:.1f}" == "4.4"
    assert 2.4 < requests / tasks < 2.6


def test_a_cold_wave_of_large_images_costs_ten_cents() -> None:
    """3.5 s of Init in 1,000 environments with 1,769 MB, billed since 2025-08-01."""
    assert f"{usd({'lambda.gb_s.x86_64': gb_s(1000, '3.5', 1769)}):.2f}" == "0.10"


def test_provisioned_concurrency_left_on_costs_26_dollars_an_hour() -> None:
    hour = usd({"lambda.provisioned_gb_s.x86_64": gb_s(1000, "3600", 1769)})
    assert f"{hour:.1f}" == "25.9"


def test_an_all_to_all_shuffle_pays_for_its_puts() -> None:
    """1,000 mappers, 1,000 reducers: a million objects."""
    assert usd({"s3.put": "1000000"}) == 5
    assert usd({"s3.get": "1000000"}) == Decimal("0.4")


def test_lithops_flops_run_cost_59_cents() -> None:
    """1,000 tasks with 1 GB of 35.4 s each: $0.59 (benchmarks of lithops-cloud, 2022)."""
    found = usd(
        {
            "lambda.gb_s.x86_64": gb_s(1000, "35.4", 1024),
            "lambda.request.x86_64": "1000",
        }
    )
    assert f"{found:.2f}" == "0.59"


def test_instances_that_were_said_to_cost_14_dollars_an_hour() -> None:
    """One r4.16xlarge costs $4.256, three $12.77, an x1.32xlarge $13.34."""
    assert usd({"ec2:r4.16xlarge": "1"}) == Decimal("4.256")
    assert usd({"ec2:r4.16xlarge": "3"}) == Decimal("12.768")
    assert usd({"ec2:x1.32xlarge": "1"}) == Decimal("13.338")


def test_a_thousand_times_slip_would_show() -> None:
    """A GET costs $0.0004 for a thousand, not for one."""
    assert usd({"s3.get": "1000"}) == Decimal("0.0004")


def test_a_month_is_the_sum_of_its_runs_within_a_tier() -> None:
    usage = {"lambda.gb_s.arm64": Decimal(1000)}
    items = priced(usage, us_east_1(), runs_per_month=Decimal(30))
    assert per_month(items) == per_run(items) * 30 == Decimal("0.400002")
    assert usd_text(per_month(items)) == "$0.40"


@pytest.mark.parametrize("language", ["python"])
def test_examples_of_the_document_print_what_they_say(language: str) -> None:
    blocks = [code for found, code in BLOCK.findall(DOCUMENT) if found == language]
    assert blocks
    for code in blocks:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        shown = [line.split("  # ")[1] for line in code.splitlines() if "  # " in line]
        assert shown
        assert done.stdout.splitlines() == shown
