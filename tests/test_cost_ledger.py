"""The books of a run: what each attempt was billed, live, in the journal and after the run."""

from __future__ import annotations

import asyncio
import base64
import functools
import json
import logging
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aioboto3
import pytest

import fanout
from fanout.budget import Billed
from fanout.cost import book_of
from fanout.cost.bill import bill_of
from fanout.cost.ledger import Ledger
from fanout.cost.pricing import usd_so_far
from fanout.cost.run_usage import AttemptCost, Cause, Size, Usage, usage_of, usage_of_time
from fanout.emulator import Emulator, Faults
from fanout.emulator.http_messages import Response
from fanout.events import AttemptAnswered, AttemptFailed, Deliver, Launch
from fanout.executor import Executor
from fanout.journal import Folder
from fanout.journal.costs import usage_of_run
from fanout.layout import blocks, plain, summary
from fanout.progress import Progress
from fanout.retry import Failure, FailureKind
from fanout.stores.run_costs import RunCosts
from fanout.tasks import AttemptReport, BilledTime, Environment, Outcome
from tests.lambda_fake import FakeLambda

ROOT = Path(__file__).parent.parent
HERE = Environment(id="e", pid=1, machine="x86_64")
LARGER = Billed(gb=2.0, timeout_s=120.0, init_s=10.0, region="us-east-1", arch="arm64")
BILLED = Billed(gb=1.0, timeout_s=60.0, init_s=10.0, region="us-east-1", larger=LARGER)
EAST = Size("us-east-1", "x86_64", 1024)


def report(attempt: int, billed: BilledTime | None) -> AttemptReport:
    return AttemptReport(
        attempt=attempt,
        environment=HERE,
        is_cold=False,
        received_epoch_s=0.0,
        setup_s=0.0,
        kernel_s=0.0,
        compile_s=0.0,
        total_s=0.0101,
        peak_memory_bytes=None,
        payload_bytes=70,
        billed=billed,
    )


def took(ms: int, *, memory_mb: int = 1024) -> BilledTime:
    return BilledTime(ms, 0, memory_mb, True, 1, 0, 50, 270, True)


class Books:
    """A ledger that is told events, and what it has told of attempts."""

    def __init__(self, billed: Billed | None = BILLED) -> None:
        self.ledger = Ledger(billed)
        self.rows: dict[int, AttemptCost] = {}
        self.ledger.keep = lambda cost: self.rows.update({cost.attempt: cost})

    def answer(self, attempt: int, billed: BilledTime | None, *, keeps: bool = True) -> None:
        told = report(attempt, billed)
        self.ledger(AttemptAnswered(attempt, [Outcome(0, 1, report=told)], told))
        if keeps:
            self.ledger(Deliver([Outcome(0, 1, report=told)]))

    def check(self) -> Usage:
        """What it says, which is what anybody makes of its rows."""
        assert usage_of(self.rows.values()) == self.ledger.usage
        return self.ledger.usage


def test_each_attempt_is_booked_by_what_became_of_it() -> None:
    books = Books()
    for number, covers in ((0, None), (1, 0), (2, None), (3, None), (4, None)):
        books.ledger(Launch(number, [number], ends_s=20.0, covers=covers))
    books.answer(1, took(100))
    books.answer(0, took(900), keeps=False)
    crashed = Failure(kind=FailureKind.CRASHED, billed=took(40))
    books.ledger(AttemptFailed(2, crashed))
    books.ledger(AttemptFailed(3, Failure(kind=FailureKind.THROTTLED)))
    assert books.check().time_ms == {
        (Cause.USEFUL, EAST, True): 100,
        (Cause.HEDGES, EAST, True): 900,
        (Cause.RETRIES, EAST, True): 40,
        (Cause.UNFINISHED, EAST, False): 30_000,  # it ends itself after 20 s; Init may take 10
    }
    assert books.ledger.so_far == [(EAST, 1040, 3)]


def test_an_attempt_that_is_delivered_late_is_useful_all_the_same() -> None:
    """As in a stream that is ordered."""
    books = Books()
    books.ledger(Launch(0, [0]))
    books.answer(0, took(100), keeps=False)
    assert books.check().time_ms == {(Cause.RETRIES, EAST, True): 100}
    books.ledger(Deliver([Outcome(0, 1, report=report(0, None))]))
    assert books.check().time_ms == {(Cause.USEFUL, EAST, True): 100}


def test_without_a_word_of_the_service_the_worker_is_believed_and_it_is_marked() -> None:
    books = Books()
    books.ledger(Launch(0, [0]))
    books.answer(0, None)
    assert books.check().time_ms == {(Cause.USEFUL, EAST, False): 11}


def test_what_is_escalated_is_billed_by_the_larger_function() -> None:
    books = Books()
    books.ledger(Launch(0, [0], is_escalated=True))
    books.answer(0, took(100, memory_mb=2048))
    books.ledger(Launch(1, [1], is_escalated=True))
    large = Size("us-east-1", "arm64", 2048)
    assert books.check().time_ms == {
        (Cause.USEFUL, large, True): 100,
        (Cause.UNFINISHED, large, False): 130_000,
    }


def test_what_could_not_be_sent_costs_nothing() -> None:
    books = Books()
    books.ledger(Launch(0, [0]))
    books.ledger(AttemptAnswered(0, [Outcome(0, error=ValueError())], None))
    books.ledger(Launch(1, [1]))
    books.ledger(AttemptFailed(1, Failure(kind=FailureKind.REFUSED)))
    assert books.check() == Usage()
    assert books.ledger.so_far == []


def test_books_of_what_is_not_billed_stay_empty() -> None:
    books = Books(None)
    books.ledger(Launch(0, [0]))
    books.answer(0, took(100))
    assert books.check() == Usage()
    assert books.rows == {}


def test_memory_is_bounded_by_what_is_in_flight() -> None:
    books = Books()
    books.ledger.keep = None
    for number in range(1000):
        books.ledger(Launch(number, [number]))
        books.answer(number, took(1))
    assert books.ledger._open == {}
    assert books.ledger.usage.time_ms == {(Cause.USEFUL, EAST, True): 1000}
    for number in range(1000, 3000):
        books.ledger(Launch(number, [1000]))
        kind = FailureKind.THROTTLED if number % 2 else FailureKind.CRASHED
        billed = None if number % 2 else took(1)
        books.ledger(AttemptFailed(number, Failure(kind=kind, billed=billed)))
    assert books.ledger._open == {}
    assert books.ledger.usage.time_ms == {
        (Cause.USEFUL, EAST, True): 1000,
        (Cause.RETRIES, EAST, True): 1000,
    }


# ---- runs ----


def square(x: int) -> int:
    if x == 13:
        raise ValueError("unlucky")
    return x * x


def dies_once(mark: str, x: int) -> int:
    if x == 2 and not Path(mark).exists():
        Path(mark).touch()
        os._exit(1)
    return x


def function_of(emulator: Emulator) -> fanout.Lambda:
    told = emulator.variables
    session = aioboto3.Session(
        aws_access_key_id=told["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=told["AWS_SECRET_ACCESS_KEY"],
        region_name=told["AWS_REGION"],
    )
    return fanout.Lambda("fanout-worker", session=session, endpoint_url=emulator.url)


def reported(log: list[str]) -> tuple[int, int]:
    """Billed milliseconds and invocations, by the log of the function itself."""
    found = [re.search(r"^REPORT .*\tBilled Duration: (\d+) ms", line) for line in log]
    return sum(int(one[1]) for one in found if one), sum(1 for one in found if one)


async def test_four_ways_to_the_bill_agree_to_the_last_digit(tmp_path: Path) -> None:
    """The function's own log, the run, its journal, and the simulator's accounting."""
    async with Emulator(path=[ROOT], memory_mb=512, concurrency=3) as emulator:
        async with Executor(function_of(emulator)) as ex:
            run = await ex.run(square, range(40), group=3, progress=False)
            kernel = functools.partial(dies_once, str(tmp_path / "died"))
            again = await ex.map(kernel, range(6), group=2, hedge=False, progress=False)
            both = ex.bill
        log = emulator.log
        ran = emulator.counts.invocations
    assert again == list(range(6))
    ms, requests = reported(log)
    assert requests == ran == both.requests
    of_time = {*Cause} - {Cause.LOGS, Cause.TRANSFER, Cause.STORAGE}
    size = Size("us-east-1", "x86_64", 512)
    simulated = bill_of(usage_of_time(size, ms, requests, is_measured=True), book_of("us-east-1"))
    assert sum(usd for cause, usd in both.by_cause().items() if cause in of_time) == simulated.usd
    assert both.gb_s == simulated.gb_s
    assert both.by_cause()[Cause.RETRIES] > 0  # what died was billed, too
    assert both.by_cause()[Cause.COLD_STARTS] > 0
    assert all(item.is_measured for item in both.items if item.cause in of_time)

    explained = explain(run.id)
    assert explained["usd"] == run.bill.as_dict()["usd"]
    assert explained["items"] == run.bill.as_dict()["items"]
    records = Folder().runs()
    written = sum((usage_of_run(record.path)[0] for record in records), start=Usage())
    assert bill_of(written, book_of("us-east-1")) == both


def asked(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fanout.cost", "explain", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def explain(run: str, *more: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(asked(run, "--json", *more).stdout)
    return found


async def test_faults_are_billed_as_the_function_says(caplog: pytest.LogCaptureFixture) -> None:
    """Lost and damaged answers, refusals: never less than what was billed, and that is marked."""
    caplog.set_level(logging.INFO, "fanout")
    faults = Faults(seed=3, reset_after=0.15, corrupt=0.1, throttle=0.1)
    async with Emulator(path=[ROOT], concurrency=3, faults=faults) as emulator:
        async with Executor(function_of(emulator)) as ex:
            run = await ex.run(square, range(30), group=1, hedge=False, progress=False)
        ms, requests = reported(emulator.log)
    bill = run.bill
    assert bill.requests >= requests
    assert sum(run.usage.time_ms.values()) + sum(run.usage.init_ms.values()) >= ms
    assert any(item.cause is Cause.RETRIES and item.is_measured for item in bill.items)  # damaged
    assert any(item.cause is Cause.RETRIES and not item.is_measured for item in bill.items)  # lost
    assert explain(run.id)["usd"] == bill.as_dict()["usd"]
    assert any(f"run {run.id}: $" in record.getMessage() for record in caplog.records)


def with_report(response: Response, *, ms: int = 1000) -> Response:
    line = (
        f"REPORT RequestId: r-1\tDuration: {ms} ms\tBilled Duration: {ms} ms\t"
        "Memory Size: 512 MB\tMax Memory Used: 9 MB\t\n"
    )
    log = base64.b64encode(f"START\n{line}".encode()).decode()
    headers = {**response.headers, "x-amzn-RequestId": "r-1", "X-Amz-Log-Result": log}
    return Response(response.status, response.body, headers)


async def test_a_stream_and_its_executor_have_a_bill() -> None:
    service = FakeLambda(lambda _, run: with_report(run()))
    async with service.serving(), Executor(service.backend()) as ex:
        async with ex.stream(square, range(4), group=1, ordered=True, progress=False) as outcomes:
            async for _ in outcomes:
                pass
            bill = outcomes.bill
        assert ex.bill == bill
    assert bill.by_cause()[Cause.USEFUL] > 0
    assert bill.gb_s == 2
    assert bill.requests == 4


async def test_what_is_in_flight_when_a_run_is_cancelled_counts_at_its_worst() -> None:
    service = FakeLambda(lambda _number, _run: None)
    async with service.serving(), Executor(service.backend()) as ex:
        map_ = asyncio.create_task(ex.map(square, range(2), group=1, hedge=False, progress=False))
        while len(service.invocations) < 2:
            await asyncio.sleep(0.01)
        map_.cancel()
        with pytest.raises(asyncio.CancelledError):
            await map_
        bill = ex.bill
    assert {item.cause for item in bill.items} >= {Cause.UNFINISHED}
    assert not any(item.is_measured for item in bill.items)
    assert bill.gb_s >= 2 * (60 + 10) / 2 - 60  # hard stops may bound it


async def test_several_sessions_are_one_bill() -> None:
    """A run that is resumed has cost what all of its sessions have."""
    service = FakeLambda(lambda _, run: with_report(run()))
    bills = []
    for tasks in (3, 5):
        async with service.serving(), Executor(service.backend()) as ex:
            run = await ex.run(
                square, range(tasks), name="twice", on_change="reuse", group=1, progress=False
            )
            bills.append((run.bill, ex.bill))
    (first, _), (whole, second) = bills
    assert (first.requests, second.requests, whole.requests) == (3, 2, 5)
    assert explain("twice")["items"] == whole.as_dict()["items"]
    assert float(explain("twice", "--inside-aws")["usd"]) < float(whole.usd)


def test_this_machine_costs_nothing() -> None:
    with fanout.sync.Executor(fanout.Local(1)) as ex:
        run = ex.run(square, range(3), name="here", progress=False)
        assert run.bill.usd == 0
        assert run.bill.items == ex.bill.items == ()
    assert explain("here")["items"] == []


async def test_a_region_without_prices_fails_no_run(caplog: pytest.LogCaptureFixture) -> None:
    service = FakeLambda(lambda _, run: with_report(run()))
    async with service.serving(), Executor(service.backend(region="me-south-1")) as ex:
        run = await ex.run(square, range(2), group=1, progress=False)
        assert len(run.bill.unpriced) == len(run.bill.items)
        assert run.bill.gb_s == 1
        assert ex.bill.usd == 0
    told = [line for line in caplog.messages if "bills have no dollars for me-south-1" in line]
    assert len(told) == 1


async def test_what_is_in_flight_is_in_the_journal_at_its_worst() -> None:
    """So a client that is killed leaves it there."""
    service = FakeLambda(lambda _number, _run: None)
    async with service.serving(), Executor(service.backend()) as ex:
        map_ = asyncio.create_task(
            ex.map(square, [1], group=1, hedge=False, name="killed", progress=False)
        )
        async with asyncio.timeout(30):
            while not (found := journalled("killed")).time_ms:
                await asyncio.sleep(0.05)
        assert {(cause, is_measured) for cause, _, is_measured in found.time_ms} == {
            (Cause.UNFINISHED, False)
        }
        assert found == ex._accounts.usage
        assert found.requests == {("us-east-1", "x86_64", False): 1}
        map_.cancel()
        await asyncio.gather(map_, return_exceptions=True)


def journalled(name: str) -> Usage:
    path = Folder().find(name)
    return Usage() if path is None else usage_of_run(path)[0]


async def test_explain_tells_people_and_refuses_what_is_no_run() -> None:
    service = FakeLambda(lambda _, run: with_report(run()))
    async with service.serving(), Executor(service.backend()) as ex:
        run = await ex.run(square, range(3), name="told", group=1, progress=False)
    done = asked("told")
    first, rest = done.stdout.split("\n\n", 1)
    assert first.endswith(f"run {run.id}, done")
    assert rest.strip() == run.bill.text().strip()
    wrong = asked("tolt")
    assert wrong.returncode == 2
    assert "no run" in wrong.stderr
    free = explain("told", "--free-tier", "--inside-aws")
    assert {item["cause"] for item in free["items"] if item["usd"] != "0"} == {"logs"}


def test_objects_of_a_run_are_billed_where_they_lie_in_s3() -> None:
    usage = Usage()
    costs = RunCosts({"kind": "s3", "region": "eu-west-1"}, usage)
    costs.put(1000)
    costs.got(500)
    costs.end(2)
    counts = {kind: n for (region, kind, _), n in usage.stored.items() if region == "eu-west-1"}
    assert {"put": 2, "get": 2, "list": 2}.items() <= counts.items()
    assert usage.answer_bytes == {("eu-west-1", False): 500}
    folder = RunCosts({"kind": "directory", "path": "/x"}, usage)
    before = usage + Usage()
    folder.put(10)
    folder.end(2)
    assert usage == before


# ---- progress ----


def test_progress_shows_dollars_while_a_run_goes_on_and_at_its_end() -> None:
    books = Books()
    progress = Progress(books.ledger)
    for number in range(3):
        books.ledger(Launch(number, [number]))
        books.answer(number, took(1_000_000))
    view = progress.view()
    gb_s, usd = usd_so_far(books.ledger.so_far)
    assert (view.gb_s, view.usd) == (gb_s, usd)
    assert gb_s == 3000.0
    assert usd == pytest.approx(0.0500007)
    lines = ["".join(text for text, _ in line) for line in blocks([view], 90)[0]]
    assert any("$0.050 so far" in line for line in lines)
    assert "$0.050 so far" in plain(view)
    assert "$0.050" in "".join(text for text, _ in summary(view, 100))


def test_progress_shows_gb_seconds_where_no_prices_are_known() -> None:
    books = Books(Billed(gb=1.0, timeout_s=60.0, region=f"xx-{time.time_ns()}"))
    books.ledger(Launch(0, [0]))
    books.answer(0, took(1_500_000))
    assert "1,500 GB-s so far" in plain(Progress(books.ledger).view())
