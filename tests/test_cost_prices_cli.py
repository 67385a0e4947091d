"""`fanout cost prices`, run as users run it."""

from __future__ import annotations

import datetime as dt
import json
import signal
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pexpect
import pytest

from fanout.cli.cost import MODULES
from fanout.cost import books
from fanout.cost.book import PriceBook
from fanout.cost.book_file import flat_price
from fanout.cost.commands.prices import MODULES as OF_PRICES
from fanout.cost.items import ITEMS
from tests import cost_price_list as offers
from tests.cost_price_list import flat, lambda_with, one, put, serving

ROOT = Path(__file__).parent.parent
LAMBDA_FILE = "AWSLambda/current/eu-west-1/index.json"
TODAY = dt.datetime.now(dt.UTC).date()


def cost(*arguments: str, module: str = "fanout.cost") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def prices(*arguments: str) -> subprocess.CompletedProcess[str]:
    return cost("prices", *arguments)


def keep(region: str, published: dt.date = TODAY, **usd: str) -> Path:
    """A book of the user's with a price for each name; "__" stands for "."."""
    named = {name.replace("__", "."): Decimal(text) for name, text in usd.items()}
    return books.keep(
        PriceBook(
            region=region,
            prices={
                item: flat_price(price, ITEMS[item].unit, "a source", published)
                for item, price in named.items()
            },
            instances={},
        )
    )


@pytest.fixture(autouse=True)
def _no_region(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)


# ---- both commands, and their help ----


def test_the_command_and_the_module_are_the_same() -> None:
    arguments = ("prices", "show", "--json")
    assert cost("cost", *arguments, module="fanout").stdout == cost(*arguments).stdout


@pytest.mark.parametrize(
    "arguments", [(), *((name,) for name in MODULES), *(("prices", name) for name in OF_PRICES)]
)
def test_help_leads_with_examples_that_name_the_command(arguments: tuple[str, ...]) -> None:
    text = cost(*arguments, "--help").stdout
    assert text.index("Examples:") < text.index("Usage:") < text.index("Options:")
    assert f"fanout cost {' '.join(arguments)}".rstrip() in text
    assert max(map(len, text.splitlines())) <= 90


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("show", "--region", "eu-wset-1"), "did you mean eu-west-1"),
        (("show", "--region", "sa-east-1"), "prices refresh --region sa-east-1"),
        (("show", "c8g.4xlrage"), "did you mean c8g.4xlarge"),
        (("show", "lambda.gbs"), "did you mean lambda.gb_s"),
        (("show", "s3.gets"), "did you mean s3.get"),
        (("show", "warp.*"), "no item and no instance type of us-east-1 is warp.*"),
        (("show", "--region", "eu-west-1", "nat.hour"), "what nat.hour costs in eu-west-1"),
        (("show", "--region", "eu-west-1", "c8g.large"), "instance c8g.large costs in eu-west-1"),
        (("refresh", "--services", "s4"), "no service 's4'"),
        (("refresh", "--from", "/nowhere"), "--from takes a folder laid out as AWS's list"),
        (("refresh", "--from", "/nowhere", "--query"), "either --from or --query"),
        (("verify", "--region", "eu-wset-1"), "did you mean eu-west-1"),
    ],
)
def test_a_wrong_call_says_what_to_do(arguments: tuple[str, ...], hint: str) -> None:
    done = prices(*arguments)
    assert done.returncode == 2
    assert hint in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


# ---- show ----


def test_show_lists_all_items_with_unit_date_and_source() -> None:
    done = prices("show")
    head, *lines = done.stdout.splitlines()
    assert head.split() == ["item", "per", "price", "of", "source"]
    shown = [line.split()[0] for line in lines[: len(ITEMS)]]
    assert shown == list(ITEMS)
    (compute,) = (line for line in lines if line.startswith("lambda.gb_s.x86_64"))
    assert "$0.0000166667; from 6,000,000,000: 0.000015; from 15,000,000,000" in compute
    assert "2026-10-01" in compute
    assert "  1  AWS Price List offer files (AWSLambda)" in done.stdout
    assert "1,340 types of EC2 instance" in done.stderr


def test_show_takes_items_types_and_patterns() -> None:
    done = prices("show", "nat.hour", "r4.16xlarge", "s3.*", "c8g.*large")
    firsts = [line.split()[0] for line in done.stdout.splitlines() if line.split()]
    assert {"nat.hour", "s3.put", "s3.get", "r4.16xlarge", "c8g.large", "c8g.48xlarge"} < {*firsts}
    assert "c8g.medium" not in firsts
    (r4,) = (line for line in done.stdout.splitlines() if line.startswith("r4.16xlarge"))
    assert r4.split()[:6] == ["r4.16xlarge", "4.256", "64", "32", "488", "x86_64"]


def test_show_as_json_has_all_and_amounts_as_text() -> None:
    told = json.loads(prices("show", "--json").stdout)
    assert told["region"] == "us-east-1"
    assert set(told["prices"]) == set(ITEMS)
    assert len(told["instances"]) == 1340
    assert told["prices"]["lambda.gb_s.arm64"]["tiers"][1] == {
        "from_units": "7500000000",
        "usd": "0.0000120001",
    }
    assert told["instances"]["c8g.large"]["usd_per_hour"] == "0.07976"
    for price in told["prices"].values():
        assert price["source"]
        assert dt.date.fromisoformat(price["published"]) <= TODAY
    chosen = json.loads(prices("show", "--json", "nat.gb").stdout)
    assert (list(chosen["prices"]), chosen["instances"]) == (["nat.gb"], {})


def test_show_is_of_the_region_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "ap-northeast-1")
    assert json.loads(prices("show", "--json").stdout)["region"] == "ap-northeast-1"


def test_show_warns_of_what_is_old_and_names_what_is_missing() -> None:
    keep("sa-east-1", TODAY - dt.timedelta(days=181), s3__put="0.000007")
    done = prices("show", "--region", "sa-east-1")
    assert "prices of sa-east-1 are older than 180 days: s3 of" in done.stderr
    assert "not known in sa-east-1: lambda.gb_s.x86_64" in done.stderr
    assert done.returncode == 0
    keep("sa-east-1", TODAY - dt.timedelta(days=180), s3__put="0.000007")
    assert "older" not in prices("show", "--region", "sa-east-1").stderr


def test_the_users_price_is_shown_where_it_is_newer() -> None:
    keep("us-east-1", nat__hour="0.05", s3__put="0.000006")
    told = json.loads(prices("show", "--json").stdout)["prices"]
    assert told["nat.hour"]["tiers"] == [{"from_units": "0", "usd": "0.05"}]
    assert told["nat.hour"]["source"] == "a source"
    keep("us-east-1", dt.date(2020, 1, 1), nat__hour="0.05")
    told = json.loads(prices("show", "--json").stdout)["prices"]
    assert told["nat.hour"]["tiers"] == [{"from_units": "0", "usd": "0.045"}]


def test_the_document_shows_what_is_printed() -> None:
    text = (ROOT / "docs" / "cost.md").read_text(encoding="utf-8")
    begin = "```console\n$ fanout cost prices show "
    (block,) = (part.partition("```")[0] for part in text.split(begin)[1:])
    names, shown = block.split("\n", 1)
    assert prices("show", *names.split()).stdout == shown


# ---- refresh ----


def test_refresh_tells_what_changed_what_is_new_and_where_it_is_kept(tmp_path: Path) -> None:
    products = offers.lambda_products("EU-", "eu-west-1")
    put(tmp_path, {LAMBDA_FILE: offers.as_json(products)})
    done = prices(
        *("refresh", "--region", "eu-west-1", "--services", "lambda", "--from", str(tmp_path))
    )
    assert done.returncode == 0, done.stderr
    head, *lines = done.stdout.splitlines()
    assert head == "AWSLambda of 2026-11-15: 0 confirmed, 9 changed, 1 new"
    assert "  lambda.gb_s.x86_64: $0.0000166667 -> $0.000016666" in lines
    assert "  lambda.streamed_gb: $0.0081" in lines
    assert f"kept in {books.path_of('eu-west-1')}" in done.stderr
    again = prices(
        *("refresh", "--region", "eu-west-1", "--services", "lambda", "--from", str(tmp_path))
    )
    assert again.stdout == "AWSLambda of 2026-11-15: 10 confirmed, 0 changed, 0 new\n"


def test_refresh_names_what_it_did_not_take_and_what_stays(tmp_path: Path) -> None:
    dear = one("R1")
    dear.tiers = flat("0.000002")
    odd = one("R2")
    odd.unit = "Dozens"
    products = [p for p in lambda_with(dear, odd, but="B1") if p.sku not in {"R1", "R2"}]
    put(
        tmp_path,
        {LAMBDA_FILE.replace("eu-west-1", "us-east-1"): offers.as_json([*products, dear, odd])},
    )
    arguments = ("refresh", "--services", "lambda", "--from", str(tmp_path))
    told = prices(*arguments).stdout
    assert (
        "  NOT TAKEN lambda.request.x86_64: $0.0000002 -> $0.000002: more than 3 times what it "
        "was, or less than a third; --force takes it" in told
    )
    assert "  as it was: lambda.streamed_gb, since it is not in the file" in told
    assert "  as it was: lambda.request.arm64, since in the file it is priced by the Dozens" in told
    forced = prices(*arguments, "--force").stdout
    assert "NOT TAKEN" not in forced
    assert "  lambda.request.x86_64: $0.0000002 -> $0.000002" in forced


def test_refresh_counts_many_instances_and_shows_some(tmp_path: Path) -> None:
    products = [
        offers.ec2_product(f"X{n}", f"m5.{n}xlarge", "0.5", regionCode="eu-west-1")
        for n in range(1, 41)
    ]
    put(tmp_path, {"AmazonEC2/current/eu-west-1/index.csv": offers.as_csv(products)})
    done = prices("refresh", "--region", "eu-west-1", "--services", "ec2", "--from", str(tmp_path))
    assert "AmazonEC2 of 2026-11-15: 0 confirmed, 0 changed, 40 new" in done.stdout
    assert "  … and 30 more" in done.stdout


def test_a_file_that_can_not_be_had_ends_in_2_and_changes_nothing() -> None:
    with serving({}) as server:
        done = prices("refresh", "--region", "eu-west-1", "--services", "s3", "--from", server.url)
    assert done.returncode == 2
    assert "does not exist (HTTP 403): check the region, and --from" in done.stderr
    assert not books.path_of("eu-west-1").exists()


def test_progress_is_for_terminals_only() -> None:
    path = "AmazonEC2/current/us-east-1/index.csv"
    with serving({path: offers.as_csv(offers.ec2_products())}) as server:
        arguments = ["prices", "refresh", "--services", "ec2", "--from", server.url]
        assert "MB" not in cost(*arguments).stderr
        books.path_of("us-east-1").unlink()
        terminal = pexpect.spawn(
            sys.executable, ["-m", "fanout.cost", *arguments], encoding="utf-8", timeout=60
        )
        terminal.expect(r"AmazonEC2 us-east-1: 0 of 0 MB")
        terminal.expect(pexpect.EOF)
        terminal.close()
    assert terminal.exitstatus == 0


def test_ctrl_c_leaves_what_was_fetched_for_the_next_time() -> None:
    path = "AmazonEC2/current/us-east-1/index.csv"
    arguments = ["prices", "refresh", "--services", "ec2", "--from"]
    with serving({path: offers.as_csv(offers.ec2_products()) * 50}) as server:
        server.hold.set()
        process = subprocess.Popen(
            [sys.executable, "-m", "fanout.cost", *arguments, server.url],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert server.is_held.wait(60)
        partial = books.folder() / "partial" / "AmazonEC2-us-east-1.part"
        while not partial.exists() or not partial.stat().st_size:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "what was fetched is kept for the next time" in told
    assert "Traceback" not in told
    assert partial.stat().st_size > 0


# ---- verify ----


def remarks(*arguments: str) -> tuple[int, list[str]]:
    done = prices("verify", *arguments, "--json")
    told = json.loads(done.stdout)
    assert done.returncode == (1 if any(remark["is_fault"] for remark in told) else 0)
    return done.returncode, [
        f"{remark['region']}: {remark['text']}" for remark in told if remark["text"]
    ]


def test_what_is_shipped_has_no_fault() -> None:
    code, told = remarks()
    assert code == 0
    text = "\n".join(told)
    assert "eu-west-1: from a third party, not verified" in text
    assert "eu-west-1: not known: " in text
    assert "us-east-1: not known" not in text
    assert "7 books, 0 faults" in prices("verify").stderr


@pytest.mark.parametrize(
    ("book", "fault"),
    [
        ({"s3__get": "0.0004"}, "s3.get costs $0.0004, and $0.0000004 in us-east-1: more than 10"),
        ({"nat__hour": "0"}, "nat.hour costs nothing in one of its tiers"),
        (
            {"nat__hour": "0.05", "published": TODAY + dt.timedelta(days=2)},
            "which is still to come",
        ),
    ],
)
def test_a_price_that_is_hard_to_believe_is_a_fault(book: dict[str, str], fault: str) -> None:
    keep("eu-west-1", **book)  # type: ignore[arg-type]
    code, told = remarks("--region", "eu-west-1")
    assert code == 1
    assert any(fault in text for text in told)
    assert "FAULT: " in prices("verify", "--region", "eu-west-1").stdout


def test_a_damaged_book_is_a_fault() -> None:
    path = keep("eu-west-1", s3__put="0.000005")
    path.write_text("{")
    code, told = remarks("--region", "eu-west-1")
    assert code == 1
    assert f"your price book {path} can't be used" in told[0]


def test_differences_between_the_users_book_and_the_shipped_one_are_told() -> None:
    keep("us-east-1", nat__hour="0.05", s3__put="0.000005")
    code, told = remarks("--region", "us-east-1")
    assert code == 0
    (differs,) = (text for text in told if "in your book of" in text)
    assert differs == (
        f"us-east-1: nat.hour is $0.05 in your book of {TODAY} and $0.045 in the shipped one of "
        "2026-02-24; yours counts"
    )
    keep("us-east-1", dt.date(2020, 1, 1), nat__hour="0.05")
    _, told = remarks("--region", "us-east-1")
    assert any("the shipped one counts" in text for text in told)
