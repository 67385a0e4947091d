"""The REPORT line: what Lambda says that an invocation is billed for, and what only looks so."""

from __future__ import annotations

import base64
import json

import pytest

from fanout.backends.lambda_billing import billed_time, lost
from fanout.invoke.answers import About
from fanout.invoke.http1 import Answer
from fanout.invoke.report_line import TAIL_BYTES, ReportLine, log_bytes_of, report_line
from fanout.tasks import BilledTime
from fanout.wire import Message

ID = "8f5a2c1e-0b7d-4f3a-9c66-1d2e3f405162"
OTHER = "00000000-0b7d-4f3a-9c66-1d2e3f405162"


def line(request_id: str = ID, *, billed_ms: int = 201, more: str = "") -> str:
    return (
        f"REPORT RequestId: {request_id}\tDuration: 12.34 ms\tBilled Duration: {billed_ms} ms\t"
        f"Memory Size: 1769 MB\tMax Memory Used: 90 MB\t{more}\n"
    )


def log(*prints: str, end: str = "", request_id: str = ID) -> str:
    start = f"START RequestId: {request_id} Version: $LATEST\n"
    return f"{start}{''.join(prints)}END RequestId: {request_id}\n{end or line(request_id)}"


def header(text: str) -> bytes:
    return base64.b64encode(text.encode()[-TAIL_BYTES:])


def read(text: str) -> ReportLine | None:
    return report_line(header(text), ID.encode())


def test_all_fields_of_the_line_are_read() -> None:
    more = "Init Duration: 187.65 ms\t\nXRAY TraceId: 1-5e34a614-10bdx\tSegmentId: 07f022\t"
    assert read(log(end=line(more=more))) == ReportLine(12.34, 201, 1769, 90, 187.65, "")
    assert read(log()) == ReportLine(12.34, 201, 1769, 90, None, "")
    failed = read(log(end=line(more="Status: timeout")))
    assert failed is not None
    assert failed.status == "timeout"
    spaced = log(end=line().replace(" ms\t", " ms \t").replace(" MB\t", " MB \t"))
    assert read(spaced) == ReportLine(12.34, 201, 1769, 90)


def test_what_is_billed_beyond_the_handler_is_the_start() -> None:
    """AWS bills Init in the same figure; older functions don't have it there."""
    assert ReportLine(12.34, 201, 1769, 90, 187.65).init_ms == 188
    assert ReportLine(12.34, 13, 1769, 90, 187.65).init_ms == 0


@pytest.mark.parametrize("length", [0, 100, 3000, 5000])
def test_a_long_log_hides_nothing(length: int) -> None:
    assert read(log("x" * length + "\n")) == ReportLine(12.34, 201, 1769, 90)


def test_a_line_with_much_after_it_is_found_in_the_whole_log() -> None:
    text = log() + "EXTENSION said: " + "y" * 1500 + "\n"
    assert read(text) == ReportLine(12.34, 201, 1769, 90)


def test_what_a_kernel_prints_is_not_believed() -> None:
    """The last line with the invocation's own id counts, in a line of its own."""
    fakes = (line(billed_ms=1), line(OTHER, billed_ms=2), f"said {line(billed_ms=3)}")
    assert read(log(*fakes)) == ReportLine(12.34, 201, 1769, 90)
    assert read(log(*fakes) + line(OTHER, billed_ms=4)) == ReportLine(12.34, 201, 1769, 90)
    assert read(f"START\nsaid {line()}") is None
    assert read(log(request_id=OTHER)) is None


@pytest.mark.parametrize(
    "text",
    ["", "no line", f"\nREPORT RequestId: {ID}\n", f"\nREPORT RequestId: {ID}\tDuration: x ms\n"],
)
def test_what_is_no_report_line_gives_nothing(text: str) -> None:
    assert read(text) is None


def test_a_header_that_is_no_base64_gives_nothing() -> None:
    assert report_line(b"a", ID.encode()) is None
    assert report_line(header(log()), b"") is None


def record(**changed: object) -> str:
    told = {
        "requestId": ID,
        "metrics": {
            "durationMs": 12.34,
            "billedDurationMs": 201,
            "memorySizeMB": 1769,
            "maxMemoryUsedMB": 90,
            "initDurationMs": 187.65,
        },
        "status": "success",
    }
    return json.dumps({"time": "t", "type": "platform.report", "record": told | changed}) + "\n"


def test_a_function_that_logs_json_says_the_same() -> None:
    assert read(f'{{"type":"platform.start"}}\n{record()}') == ReportLine(
        12.34, 201, 1769, 90, 187.65
    )
    failed = read(record(status="timeout"))
    assert failed is not None
    assert failed.status == "timeout"


@pytest.mark.parametrize(
    "text",
    [
        record(requestId=OTHER),
        record(metrics={}),
        record(metrics={"durationMs": 1e999}),
        record(metrics=None),
        f'"platform.report" {ID}\n',
        f'["platform.report", "{ID}"]\n',
    ],
)
def test_records_of_others_and_damaged_ones_give_nothing(text: str) -> None:
    assert read(text) is None


def test_the_size_of_the_log_is_known_without_decoding_it() -> None:
    for size in range(1, 300):
        assert log_bytes_of(base64.b64encode(b"x" * size)) == size


# ---- what an answer is billed for ----

ABOUT = About(function="f", memory_mb=512, timeout_s=60.0)


def answer(text: str = "", *, status: int = 200) -> Answer:
    headers = [(b"x-amzn-RequestId", ID.encode())]
    if text:
        headers.append((b"X-Amz-Log-Result", header(text)))
    return Answer(status, headers, [b"12345", b"678"])


def test_the_report_line_counts_whatever_the_clock_says() -> None:
    billed = billed_time(answer(log(end=line(more="Init Duration: 1 ms"))), ABOUT, 9.0, None)
    assert billed is not None
    assert (billed.billed_ms, billed.init_ms, billed.memory_mb) == (201, 188, 1769)
    assert (billed.is_reported, billed.invocations, billed.lost) == (True, 1, 0)
    assert (billed.answer_bytes, billed.is_log_whole) == (8, True)
    assert billed.log_bytes == len(log(end=line(more="Init Duration: 1 ms")))


def test_a_log_that_was_cut_is_not_whole() -> None:
    billed = billed_time(answer(log("x" * 5000)), ABOUT, 9.0, None)
    assert billed is not None
    assert (billed.log_bytes, billed.is_log_whole) == (TAIL_BYTES, False)


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ({"total_s": 0.0101, "cold": False}, (11, 0)),
        ({"total_s": 0.0101, "cold": True}, (511, 500)),  # all but its own time may be Init
        ({"total_s": 3.0, "cold": False}, (511, 0)),  # a clock that is wrong
        ({"total_s": "x"}, (511, 0)),
        (None, (511, 0)),
    ],
)
def test_without_it_the_workers_own_time_counts(report: object, expected: tuple[int, int]) -> None:
    billed = billed_time(answer(), ABOUT, 0.5101, Message({"report": report}))
    assert billed is not None
    assert (billed.billed_ms, billed.init_ms) == expected
    assert not billed.is_reported
    assert billed.memory_mb == 512


def test_what_was_refused_is_not_billed() -> None:
    assert billed_time(answer(status=429), ABOUT, 1.0, None) is None


def test_what_a_worker_asks_for_is_an_invocation_more() -> None:
    """It asked for the kernel's code, and was sent it."""
    first = BilledTime(300, 250, 512, True, 1, 0, 40, 270, True)
    second = BilledTime(1000, 0, 512, True, 1, 0, 900, 4096, False)
    assert first.plus(second) == BilledTime(1300, 250, 512, True, 2, 0, 940, 4366, False)
    assert first.plus(None) == first
    assert first.plus(lost(ABOUT)) == first._replace(lost=1)
