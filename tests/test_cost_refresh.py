"""What is read from AWS's price list is what was meant, however it arrives."""

from __future__ import annotations

import json
import os
import random
import signal
import ssl
import subprocess
import sys
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from fanout.cost import books, download
from fanout.cost.download import fetched
from fanout.cost.items import ITEMS
from fanout.cost.price_list.matching import RULES
from fanout.cost.refresh import refresh, services
from fanout.errors import PriceListError, UsageError
from tests import cost_price_list as offers
from tests.cost_price_list import (
    EXPECTED,
    REGION,
    Product,
    as_csv,
    as_json,
    flat,
    lambda_with,
    one,
    put,
    serving,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from fanout.cost.renewal import Renewal

EC2_PATH = f"AmazonEC2/current/{REGION}/index.csv"
LAMBDA_PATH = f"AWSLambda/current/{REGION}/index.json"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """All offer files of us-east-1, laid out as AWS's."""
    return put(tmp_path / "list", offers.files())


def prices_of(region: str = REGION) -> dict[str, str]:
    """First tiers of the user's book, as text."""
    book = books.user_book(region)
    assert book is not None
    return {name: f"{price.usd.normalize():f}" for name, price in book.prices.items()}


def by_offer(renewals: Iterable[Renewal]) -> dict[str, Renewal]:
    return {renewal.offer: renewal for renewal in renewals}


# ---- all of it ----


def test_all_items_and_only_the_plain_instances_are_found(folder: Path) -> None:
    renewals = by_offer(refresh(REGION, base=str(folder)))
    assert list(renewals) == [*dict.fromkeys(services().values())]
    assert prices_of() == EXPECTED
    assert EXPECTED.keys() == ITEMS.keys() == RULES.keys()
    book = books.user_book(REGION)
    assert book is not None
    assert {name: i.usd_per_hour.usd for name, i in book.instances.items()} == {
        "m5.xlarge": Decimal("0.193"),
        "c8g.4xlarge": Decimal("0.639"),
    }
    for price in [*book.prices.values(), *(i.usd_per_hour for i in book.instances.values())]:
        assert price.published.isoformat() == offers.PUBLISHED
        assert price.source.startswith("AWS Price List, A")
    assert [tier.from_units for tier in book["lambda.gb_s.arm64"].tiers] == [
        0,
        7_500_000_000,
        18_750_000_000,
    ]
    assert [tier.usd for tier in book["transfer.internet_gb"].tiers] == [
        Decimal(usd) for usd in ("0.091", "0.086", "0.071", "0.051")
    ]


@pytest.mark.parametrize(("region", "prefix"), [("eu-west-1", "EU-"), ("ap-northeast-1", "APN1-")])
def test_usage_types_of_other_regions_have_a_prefix(
    region: str, prefix: str, tmp_path: Path
) -> None:
    put(tmp_path, offers.files(region, prefix))
    list(refresh(region, base=str(tmp_path)))
    assert prices_of(region) == EXPECTED
    assert books.quiet_book_of(region).instance("c8g.4xlarge").arch == "arm64"


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_products_does_not_matter(seed: int, tmp_path: Path) -> None:
    put(tmp_path, offers.files(shuffled=seed))
    list(refresh(REGION, base=str(tmp_path)))
    assert prices_of() == EXPECTED


def test_a_service_alone_is_read_alone(tmp_path: Path) -> None:
    put(tmp_path, {LAMBDA_PATH: offers.files()[LAMBDA_PATH]})
    (renewal,) = refresh(REGION, wanted=["lambda"], base=str(tmp_path))
    assert renewal.offer == "AWSLambda"
    assert prices_of() == {n: usd for n, usd in EXPECTED.items() if n.startswith("lambda.")}


def test_the_whole_list_or_its_last_folder_may_be_given(tmp_path: Path) -> None:
    put(tmp_path / "offers" / "v1.0" / "aws", {LAMBDA_PATH: offers.files()[LAMBDA_PATH]})
    (renewal,) = refresh(REGION, wanted=["lambda"], base=str(tmp_path))
    assert not renewal.missing


def test_an_unknown_service_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no service 's4' in price books: give some of lambda"):
        list(refresh(REGION, wanted=["lambda", "s4"], base=str(tmp_path)))


# ---- what it makes of a book ----


def test_what_the_file_does_not_tell_of_a_type_is_as_was_known(folder: Path) -> None:
    list(refresh(REGION, wanted=["ec2"], base=str(folder)))
    book = books.user_book(REGION)
    assert book is not None
    graviton, intel = book.instance("c8g.4xlarge"), book.instance("m5.xlarge")
    assert (graviton.arch, graviton.vcpus, graviton.cores, graviton.memory_gib) == (
        *("arm64", 16, 16, 32.0),
    )
    assert (intel.arch, intel.vcpus, intel.cores, intel.clock_ghz) == ("x86_64", 4, 2, 3.1)
    assert not intel.is_bare_metal
    assert intel.network == "Up to 10 Gigabit"


def test_what_the_file_lacks_stays_and_is_named(tmp_path: Path) -> None:
    put(tmp_path, {LAMBDA_PATH: as_json(lambda_with(but="B1"))})
    before = books.quiet_book_of(REGION)["lambda.streamed_gb"]
    (renewal,) = refresh(REGION, wanted=["lambda"], base=str(tmp_path))
    assert renewal.missing == {"lambda.streamed_gb": "is not in the file"}
    assert books.quiet_book_of(REGION)["lambda.streamed_gb"] == before
    assert "lambda.streamed_gb" not in prices_of()


def test_types_that_the_file_lacks_stay_and_are_named(folder: Path) -> None:
    (renewal,) = refresh(REGION, wanted=["ec2"], base=str(folder))
    assert len(renewal.missing) == 1340 - 2
    assert books.quiet_book_of(REGION).instance("r4.16xlarge").usd_per_hour.usd == Decimal("4.256")


def test_a_later_file_keeps_what_an_earlier_one_had(tmp_path: Path) -> None:
    put(tmp_path, {LAMBDA_PATH: offers.files()[LAMBDA_PATH]})
    list(refresh(REGION, wanted=["lambda"], base=str(tmp_path)))
    put(tmp_path, {LAMBDA_PATH: as_json(lambda_with(but="B1"), "2026-11-20")})
    (renewal,) = refresh(REGION, wanted=["lambda"], base=str(tmp_path))
    assert prices_of()["lambda.streamed_gb"] == "0.0081"
    assert renewal.same == 9
    book = books.user_book(REGION)
    assert book is not None
    assert book["lambda.streamed_gb"].published.isoformat() == offers.PUBLISHED
    assert book["lambda.ephemeral_gb_s"].published.isoformat() == "2026-11-20"


@pytest.mark.parametrize("factor", ["3.1", "0.3"])
def test_a_price_three_times_what_it_was_is_not_taken_unless_forced(
    factor: str, tmp_path: Path
) -> None:
    product = one("R1")
    product.tiers = flat(str(Decimal("0.0000002") * Decimal(factor)))
    put(tmp_path, {LAMBDA_PATH: as_json(lambda_with(product, but="R1"))})
    (renewal,) = refresh(REGION, wanted=["lambda"], base=str(tmp_path))
    (refused,) = renewal.refused
    assert refused.name == "lambda.request.x86_64"
    assert "more than 3 times what it was, or less than a third" in refused.why
    assert books.quiet_book_of(REGION)["lambda.request.x86_64"].usd == Decimal("0.0000002")

    (renewal,) = refresh(REGION, wanted=["lambda"], base=str(tmp_path), is_forced=True)
    assert renewal.refused == []
    assert books.quiet_book_of(REGION)["lambda.request.x86_64"].usd == product_price(product)


def product_price(product: Product) -> Decimal:
    return Decimal(product.tiers[0][2])


def test_a_tier_beyond_the_first_is_held_against_its_own(tmp_path: Path) -> None:
    product = one("D1")
    product.tiers[2] = (*product.tiers[2][:2], "0.0001")
    put(tmp_path, {LAMBDA_PATH: as_json(lambda_with(product, but="D1"))})
    (renewal,) = refresh(REGION, wanted=["lambda"], base=str(tmp_path))
    assert [change.name for change in renewal.refused] == ["lambda.gb_s.x86_64"]


def test_a_new_region_is_held_against_us_east_1(tmp_path: Path) -> None:
    products = offers.lambda_products("SAE1-", "sa-east-1")
    for product in products:
        if product.sku == "R1":
            product.tiers = flat("0.2")  # for a million, and not for one
    put(tmp_path, {LAMBDA_PATH.replace(REGION, "sa-east-1"): as_json(products)})
    (renewal,) = refresh("sa-east-1", wanted=["lambda"], base=str(tmp_path))
    (refused,) = renewal.refused
    assert refused.name == "lambda.request.x86_64"
    assert "more than 10 times the price in us-east-1" in refused.why
    assert len(prices_of("sa-east-1")) == 9


def test_an_older_file_is_not_taken(tmp_path: Path) -> None:
    text = as_json(offers.lambda_products(), "2026-09-01")
    put(tmp_path, {LAMBDA_PATH: text})
    (renewal,) = refresh(REGION, wanted=["lambda"], base=str(tmp_path), is_forced=True)
    whys = {change.name: change.why for change in renewal.refused}
    assert (
        "the file is of 2026-09-01, and what is known of 2026-10-01" in (whys["lambda.gb_s.x86_64"])
    )
    assert books.quiet_book_of(REGION)["lambda.request.x86_64"].usd == Decimal("0.0000002")


def test_a_damaged_book_of_the_user_is_renewed(folder: Path) -> None:
    path = books.path_of(REGION)
    path.parent.mkdir(parents=True)
    path.write_text("{")
    list(refresh(REGION, wanted=["lambda"], base=str(folder)))
    assert prices_of()["lambda.streamed_gb"] == "0.0081"


def test_each_result_is_in_the_book_when_it_is_given(folder: Path) -> None:
    renewals = refresh(REGION, base=str(folder))
    assert next(renewals).offer == "AWSLambda"
    assert "lambda.gb_s.arm64" in prices_of()
    assert "s3.put" not in prices_of()


def test_what_is_done_stays_done_when_a_later_service_fails(folder: Path) -> None:
    (folder / EC2_PATH).write_text("<html>")
    with pytest.raises(PriceListError, match=rf"{EC2_PATH} can't be read: it ends before"):
        list(refresh(REGION, base=str(folder)))
    assert prices_of()["valkey.gb_hour"] == "0.085"


def test_nothing_is_left_beside_the_book(folder: Path) -> None:
    list(refresh(REGION, base=str(folder)))
    assert [path.name for path in books.folder().iterdir()] == [f"{REGION}.json"]


# ---- over HTTP ----


def body(nbytes: int = 3_000_000) -> bytes:
    return random.Random(1).randbytes(nbytes)


@pytest.fixture
def into(tmp_path: Path) -> Path:
    return tmp_path / "partial" / "file.part"


def test_a_list_is_read_from_a_server_and_nothing_is_left_over() -> None:
    with serving(offers.files()) as server:
        list(refresh(REGION, base=server.url))
    assert prices_of() == EXPECTED
    assert list((books.folder() / "partial").iterdir()) == []


def test_a_broken_connection_is_gone_on_with(into: Path) -> None:
    content = body()
    seen: list[tuple[int, int | None]] = []
    with serving({"file": content}) as server:
        server.breaks = [1_000_000, 500_000]
        fetched(
            f"{server.url}/file",
            into,
            progress=lambda done, total: seen.append((done, total)),
            pause_s=0,
        )
    assert into.read_bytes() == content
    assert server.asked == [
        ("file", "", ""),
        ("file", "bytes=1000000-", '"first"'),
        ("file", "bytes=1500000-", '"first"'),
    ]
    assert server.sent == len(content)
    assert seen[-1] == (len(content), len(content))


def test_any_number_of_breaks_is_gone_on_with_as_long_as_something_comes(into: Path) -> None:
    with serving({"file": body()}) as server:
        server.breaks = [300_000] * 9
        fetched(f"{server.url}/file", into, pause_s=0)
    assert into.read_bytes() == body()
    assert len(server.asked) == 10


def test_a_file_that_changed_meanwhile_is_fetched_anew(into: Path) -> None:
    with serving({"file": body()}) as server:
        server.breaks = [1_000_000]
        server.statuses = [0, 503, 503, 503, 503]
        with pytest.raises(PriceListError, match=r"HTTP 503; 1\.0 MB are kept for the next time"):
            fetched(f"{server.url}/file", into, pause_s=0)
        content = body(2_000_000)[::-1]
        server.files["file"], server.etag = content, '"second"'
        fetched(f"{server.url}/file", into, pause_s=0)
    assert into.read_bytes() == content
    assert server.asked[-1] == ("file", "bytes=1000000-", '"first"')


def test_a_complete_file_is_not_fetched_again(into: Path) -> None:
    with serving({"file": body()}) as server:
        fetched(f"{server.url}/file", into)
        sent = server.sent
        fetched(f"{server.url}/file", into)
    assert server.sent == sent
    assert into.read_bytes() == body()


@pytest.mark.parametrize("etag", ['W/"weak"', ""])
def test_without_a_strong_etag_it_begins_anew(etag: str, into: Path) -> None:
    with serving({"file": body()}) as server:
        server.etag = etag
        server.breaks = [1_000_000]
        fetched(f"{server.url}/file", into, pause_s=0)
    assert into.read_bytes() == body()
    assert [wanted for _, wanted, _ in server.asked] == ["", ""]


def test_a_file_of_another_address_is_not_gone_on_with(into: Path) -> None:
    with serving({"file": body(), "other": body()[::-1]}) as server:
        fetched(f"{server.url}/file", into)
        fetched(f"{server.url}/other", into)
    assert into.read_bytes() == body()[::-1]


def test_errors_of_the_service_pass_and_four_in_a_row_end_it(into: Path) -> None:
    with serving({"file": b"abc"}) as server:
        server.statuses = [500, 429, 503]
        fetched(f"{server.url}/file", into, pause_s=0)
        assert into.read_bytes() == b"abc"
        server.statuses = [500] * 4
        download.discard(into)
        with pytest.raises(PriceListError, match=r"HTTP 500\. Check the connection"):
            fetched(f"{server.url}/file", into, pause_s=0)
    assert len(server.asked) == 8


@pytest.mark.parametrize(
    ("statuses", "why"), [([], "does not exist .HTTP 403.: check the region"), ([400], "HTTP 400")]
)
def test_an_answer_that_will_not_change_is_final(statuses: list[int], why: str, into: Path) -> None:
    with serving({}) as server:
        server.statuses = list(statuses)
        with pytest.raises(PriceListError, match=why):
            fetched(f"{server.url}/file", into, pause_s=0)
    assert len(server.asked) == 1


def test_a_region_that_is_none_suggests_near_ones() -> None:
    with serving(offers.files()) as server, pytest.raises(PriceListError, match="did you mean"):
        list(refresh("us-esat-1", base=server.url))


def test_nobody_there_is_told(into: Path) -> None:
    with serving({}) as server:
        url = server.url
    with pytest.raises(PriceListError, match=r"refused.*HTTPS_PROXY"):
        fetched(f"{url}/file", into, pause_s=0)


def test_a_page_that_is_no_price_list_is_thrown_away() -> None:
    with serving({LAMBDA_PATH: "<html>Sign in to this network"}) as server:
        with pytest.raises(PriceListError, match=rf"{LAMBDA_PATH} can't be read: it is no JSON"):
            list(refresh(REGION, wanted=["lambda"], base=server.url))
        assert list((books.folder() / "partial").iterdir()) == []
        assert not books.path_of(REGION).exists()
        server.files[LAMBDA_PATH] = offers.files()[LAMBDA_PATH]
        list(refresh(REGION, wanted=["lambda"], base=server.url))
    assert prices_of()["lambda.streamed_gb"] == "0.0081"


def test_a_folder_that_can_not_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with serving({"file": b"abc"}) as server:
        with pytest.raises(UsageError, match=r"nothing can be written in .*FANOUT_HOME moves it"):
            fetched(f"{server.url}/file", tmp_path / "file" / "partial" / "a.part")
        (tmp_path / "a.part").mkdir()
        with pytest.raises(PriceListError, match=r"a\.part can't be written"):
            fetched(f"{server.url}/file", tmp_path / "a.part", pause_s=0)


def test_one_process_at_a_time_fetches_a_file(into: Path) -> None:
    with serving({"file": b"abc"}) as server:

        def again(_done: int, _total: int | None) -> None:
            fetched(f"{server.url}/file", into)

        with pytest.raises(UsageError, match="being fetched by another process"):
            fetched(f"{server.url}/file", into, progress=again)


# ---- TLS ----


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    return context


def test_a_certificate_that_is_not_trusted_ends_it(tls: ssl.SSLContext, into: Path) -> None:
    with serving({"file": b"abc"}, tls=tls) as server:
        with pytest.raises(PriceListError, match=r"is not trusted.*set AWS_CA_BUNDLE"):
            fetched(f"{server.url}/file", into, pause_s=0)
        assert server.asked == []


def test_a_certificate_of_the_users_own_is_trusted(
    tls: ssl.SSLContext, authority: trustme.CA, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with authority.cert_pem.tempfile() as bundle:
        monkeypatch.setenv("AWS_CA_BUNDLE", bundle)
        with serving({"file": b"abc"}, tls=tls) as server:
            fetched(f"{server.url}/file", into)
    assert into.read_bytes() == b"abc"


@pytest.mark.parametrize("text", [None, "no certificate"])
def test_a_bundle_that_is_none_is_told_at_once(
    text: str | None, into: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / "bundle").write_text(text)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "bundle"))
    with serving({"file": b"abc"}) as server:
        with pytest.raises(UsageError, match=r"AWS_CA_BUNDLE is .*bundle, which can't be read"):
            fetched(f"{server.url}/file", into)
        assert server.asked == []


def test_a_redirection_may_not_lead_out_of_tls(
    tls: ssl.SSLContext, authority: trustme.CA, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        authority.cert_pem.tempfile() as bundle,
        serving({"file": b"abc"}) as plain,
        serving({"file": b"abc"}, tls=tls) as server,
    ):
        monkeypatch.setenv("AWS_CA_BUNDLE", bundle)
        server.redirects["moved"] = f"{server.url}/file"
        fetched(f"{server.url}/moved", into)
        assert into.read_bytes() == b"abc"
        server.redirects["file"] = f"{plain.url}/file"
        with pytest.raises(PriceListError, match="which is not https"):
            fetched(f"{server.url}/file", into, pause_s=0)
    assert plain.asked == []


# ---- killed; large ----


def large_csv(nbytes: int) -> Iterator[str]:
    """EC2's file, with as many reservations and other systems as make the size."""
    head, *rows = as_csv(offers.ec2_products()).splitlines(keepends=True)
    header_at = next(at for at, row in enumerate(rows) if row.startswith('"SKU"'))
    yield head
    yield from rows[: header_at + 1]
    data = rows[header_at + 1 :]
    filler = [row for row in data if '"Reserved"' in row or '"Windows"' in row]
    block = "".join(filler)
    yield from (block for _ in range(nbytes // len(block)))
    yield "".join(data)


def test_a_killed_refresh_goes_on_where_it_was(tmp_path: Path) -> None:
    text = "".join(large_csv(3_000_000)).encode()
    command = [sys.executable, "-m", "fanout.cost", "prices", "refresh", "--region", REGION]
    with serving({EC2_PATH: text}) as server:
        command += ["--services", "ec2", "--from", server.url]
        server.hold.set()
        killed = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        assert server.is_held.wait(60)
        partial = books.folder() / "partial" / f"AmazonEC2-{REGION}.part"
        while not partial.exists() or partial.stat().st_size < len(text) // 2 - 2**18:
            assert killed.poll() is None
        assert not server.was_let_go.is_set()  # what came is written while the rest is awaited
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        have = partial.stat().st_size
        server.hold.clear()
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert server.asked[1:] == [(EC2_PATH, f"bytes={have}-", '"first"')]
    assert have > len(text) // 3
    assert prices_of() == {name: usd for name, usd in EXPECTED.items() if name.startswith("nat.")}
    assert not partial.exists()


_MEASURE = """
import resource, sys, time
from fanout.cost.refresh import refresh
from fanout.cost.books import shipped_book
shipped_book("us-east-1")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
(renewal,) = refresh("us-east-1", wanted=["ec2"], base=sys.argv[1])
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(grown, len(renewal.changes))
"""


def test_a_large_file_needs_little_memory(tmp_path: Path) -> None:
    """50 MB of CSV, fetched and read: less than 20 MB more than the books themselves."""
    path = tmp_path / "large.csv"
    with path.open("w", encoding="utf-8") as file:
        file.writelines(large_csv(50_000_000))
    assert path.stat().st_size > 50_000_000
    with serving({EC2_PATH: path.read_bytes()}) as server:
        done = subprocess.run(
            [sys.executable, "-c", _MEASURE, server.url],
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
    assert done.returncode == 0, done.stderr
    grown_kb, changes = map(int, done.stdout.split())
    assert changes == 4
    assert grown_kb < (20_000 if sys.platform == "linux" else 20_000_000)


# ---- the query API ----


class Pricing:
    """AWS's query API, as far as it is asked here."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.errors: list[str] = []

    def answer(self, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.asked.append(request)
        if self.errors and (code := self.errors.pop(0)):
            return 400, {"__type": code, "message": "no"}
        wanted = {f["Field"]: f["Value"] for f in request["Filters"]}
        found = [
            json.dumps(offers.item_of(product))
            for product in offers.ALL[request["ServiceCode"]]()
            if all(self.holds(product, name, value) for name, value in wanted.items())
        ]
        start = int(request.get("NextToken", "0"))
        page: dict[str, Any] = {"FormatVersion": "aws_v1", "PriceList": found[start : start + 5]}
        return 200, page | ({"NextToken": str(start + 5)} if start + 5 < len(found) else {})

    @staticmethod
    def holds(product: Product, name: str, value: str) -> bool:
        if name == "fromRegionCode":
            return not product.attributes["usagetype"].startswith("Global")
        if name == "productFamily":
            return product.sku in {"N1", "N2", "N3"}
        return product.attributes.get(name) == value


@pytest.fixture
def pricing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pricing]:
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    api = Pricing()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_args: object) -> None:
            pass

        def do_POST(self) -> None:
            assert self.headers["X-Amz-Target"] == "AWSPriceListService.GetProducts"
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, answer = api.answer(request)
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for name, value in {
            "AWS_ENDPOINT_URL_PRICING": f"http://127.0.0.1:{server.server_address[1]}",
            "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }.items():
            monkeypatch.setenv(name, value)
        yield api
        server.shutdown()


def test_the_query_api_says_the_same(pricing: Pricing) -> None:
    list(refresh(REGION, is_query=True))
    assert prices_of() == EXPECTED
    assert set(books.user_book(REGION).instances) == {"m5.xlarge", "c8g.4xlarge"}  # type: ignore[union-attr]
    assert {request["ServiceCode"] for request in pricing.asked} == set(offers.ALL)
    ec2 = [r for r in pricing.asked if r["ServiceCode"] == "AmazonEC2"]
    assert {"Type": "TERM_MATCH", "Field": "operatingSystem", "Value": "Linux"} in (
        ec2[0]["Filters"]
    )
    assert any("NextToken" in request for request in pricing.asked)
    assert "query API" in books.quiet_book_of(REGION)["nat.hour"].source


def test_a_throttled_query_is_asked_again(pricing: Pricing) -> None:
    pricing.errors = ["ThrottlingException"]
    list(refresh(REGION, wanted=["logs"], is_query=True))
    assert len(pricing.asked) == 2
    assert prices_of()["logs.ingested_gb"] == "0.51"


def test_a_query_that_is_not_allowed_says_what_is_needed(pricing: Pricing) -> None:
    pricing.errors = ["AccessDeniedException"]
    with pytest.raises(PriceListError, match="pricing:GetProducts; without --query none is"):
        list(refresh(REGION, wanted=["logs"], is_query=True))


def test_a_query_without_credentials_says_so(
    pricing: Pricing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(PriceListError, match=r"no AWS credentials for --query.*leave out"):
        list(refresh(REGION, wanted=["logs"], is_query=True))
    assert pricing.asked == []


def test_a_region_without_products_says_so(pricing: Pricing) -> None:
    with pytest.raises(PriceListError, match=r"AWSLambda in us-esat-1.*did you mean .*us-east-1"):
        list(refresh("us-esat-1", wanted=["lambda"], is_query=True))
