"""How fast large data travels: through a store, and in the body of an invocation; beside peers.

    python tests/bench/data_path.py [--quick] [--json] [--tls] [--rounds N] [--megabytes N]

Contenders take turns; a first round warms up, and the median of the others counts. Transfers are
made by this process, bodies by one for each contender. Needs Linux, and what `make test` installs.

    sink        an object of random bytes to and from a stand-in for S3 that discards what is put
                and computes nothing (`data/sink.py`), in a process of its own
    ministack   the same with ministack, a whole S3 in Python
    directory   the same with files, in the page cache; what is got is read through once
    bodies      an array of float64 noise to the body of an Invoke request, from there to the
                worker's array, and back; CPU time. In processes whose heap has grown before, and
                in fresh ones, where page faults may cost more than all the rest

fanout_far is the worker's side of a store, fanout the client's; `fanout_far_checked` also compares
the sha256, as a worker does with a message. Peers have the settings that they come with: boto3's
`upload_fileobj` and `download_fileobj` are s3transfer's, 10 threads and parts of 8 MiB.

Read with care: this process is pinned to one core, the servers to another (--no-pin: no longer), so
that MB/s are what one core carries. Loopback costs less than a network. Where "server" is near
100 %, it and not the client sets the rate: so it is with ministack, and figures are quoted from the
sink. Without --tls bodies are signed, so all clients hash what they put with sha256; with it, as
with AWS itself, botocore sends a CRC instead, and all pay for encryption. Then the sink, which pays
as well, sets the rate of what is got: compare the CPU time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if __name__ == "__main__":  # started as a script, Python sees the files beside it only
    sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.data import bodies, transfers
from tests.bench.data.turns import in_turns, machine, summary
from tests.bench.invoke.peers import forget_machine
from tests.contract import stands

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tests.bench.data.transfers import Contenders

_ARRAY_BYTES: Final = 4_000_000  # the largest round number whose base64 Lambda takes
_SERVED: Final = "served"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured.

    Attributes:
        rounds: Turns of each contender.
        megabytes: Of the object.
        times: How often a step of `bodies` is done in one turn.
        heaps: Of the processes that do these steps: "grown", "fresh".
    """

    rounds: int
    megabytes: int
    times: int
    heaps: Sequence[str]


@contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """What is started in the block gets this core; this thread goes back to its own."""
    if core is None:
        yield
        return
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)


@contextmanager
def sink(folder: Path, served: Path, *, is_tls: bool) -> Iterator[str]:
    """The stand-in that discards; gives its URL. It ends with this process, however that ends."""
    ready = folder / "ready"
    command: list[str | Path] = [sys.executable, "-m", "tests.bench.data.sink", ready, served]
    if is_tls:
        command.append(_certificate(folder))
    server = stands.Server("sink", command, folder, {"PYTHONPATH": str(stands.ROOT)})
    try:
        server.until(ready.exists)
        yield ready.read_text()
    finally:
        server.stop()


def _certificate(folder: Path) -> Path:
    """A certificate with its key, whose authority all clients trust from now on."""
    import trustme

    authority, path = folder / "authority.pem", folder / "server.pem"
    trusted = trustme.CA()
    trusted.cert_pem.write_to_path(authority)
    trusted.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(path)
    os.environ["AWS_CA_BUNDLE"] = str(authority)
    return path


async def carried(
    contenders: Contenders, content: bytes, plan: Plan, *, keeps: bool
) -> dict[str, dict[str, Any]]:
    """The object put and got by all contenders; what arrives is compared.

    Args:
        contenders: Who.
        content: The object.
        plan: How often.
        keeps: Whether what is put can be got.
    """
    megabytes = len(content) / 1e6
    numbers = iter(range(sys.maxsize))
    key = ""

    async def put(work: transfers.Put) -> None:
        nonlocal key
        key = f"put-{next(numbers)}"
        await work(key)

    async def removed(name: str, given: object) -> None:
        if keeps:
            await compared(name, await contenders.gets["fanout"](key))
        await contenders.remove(key)

    async def compared(name: str, given: object) -> None:
        assert isinstance(given, memoryview)
        expected, found = np.frombuffer(content, np.uint8), np.frombuffer(given, np.uint8)
        assert np.array_equal(expected, found), f"{name}: it isn't what was put"

    puts = {name: partial(put, work) for name, work in contenders.puts.items()}
    gets = {name: partial(work, _SERVED) for name, work in contenders.gets.items()}
    turns = {
        "put": await in_turns(puts, rounds=plan.rounds, megabytes=megabytes, after=removed),
        "get": await in_turns(gets, rounds=plan.rounds, megabytes=megabytes, after=compared),
    }
    return {
        direction: {name: summary(taken) for name, taken in found.items()}
        for direction, found in turns.items()
    }


async def measured(urls: Mapping[str, str], folder: Path, content: bytes, plan: Plan) -> Any:
    """All transfers, by place."""
    found: dict[str, Any] = {}
    for place, url in urls.items():
        async with transfers.of_s3(url, content) as contenders:
            await contenders.puts["fanout"](_SERVED)
            found[place] = await carried(contenders, content, plan, keeps=place != "sink")
    async with transfers.of_directory(folder / "store", content) as contenders:
        await contenders.puts["fanout"](_SERVED)
        found["directory"] = await carried(contenders, content, plan, keeps=True)
    return found


def compare(plan: Plan, *, is_tls: bool, is_pinned: bool) -> dict[str, Any]:
    """Everything, as the object that is printed."""
    cores = sorted(os.sched_getaffinity(0))
    is_pinned = is_pinned and len(cores) > 1
    content = np.random.default_rng(0).bytes(plan.megabytes * 1_000_000)
    with tempfile.TemporaryDirectory(prefix="fanout-bench-") as name, ExitStack() as running:
        folder = Path(name)
        served = folder / _SERVED
        served.write_bytes(content)
        with on_core(cores[0] if is_pinned else None):
            urls = {"sink": running.enter_context(sink(folder, served, is_tls=is_tls))}
            if not is_tls:
                urls["ministack"] = running.enter_context(stands.ministack_server(folder))
        with on_core(cores[-1] if is_pinned else None):
            found = asyncio.run(measured(urls, folder, content, plan))
            steps = {
                heap: bodies.measured(
                    _ARRAY_BYTES, rounds=plan.rounds, times=plan.times, is_grown=heap == "grown"
                )
                for heap in plan.heaps
            }
    about = {"is_tls": is_tls, "is_pinned": is_pinned} | machine(cores)
    return quoted(found, steps) | {"transfers": found, "bodies": steps} | asdict(plan) | about


def quoted(
    found: Mapping[str, Any], steps: Mapping[str, Mapping[str, Mapping[str, float]]]
) -> dict[str, float | str]:
    """What is looked for: rates, and how many times as fast as the peer we are."""
    put, get = found["sink"]["put"], found["sink"]["get"]
    files = found["directory"]
    rates = {
        "put": ("fanout", put, "boto3"),
        "get": ("fanout_far", get, "boto3"),
        "client_get": ("fanout", get, "boto3"),
        "directory_put": ("fanout", files["put"], "plain_file"),
        "directory_get": ("fanout", files["get"], "plain_file"),
    }
    report: dict[str, float | str] = {"server": "sink"}
    for name, (ours, contenders, peer) in rates.items():
        rate, theirs = contenders[ours], contenders[peer]
        report[f"{name}_mb_s"] = rate["mb_s"]
        report[f"{name}_mb_s_{peer}"] = theirs["mb_s"]
        report[f"{name}_vs_{peer}"] = rate["mb_s"] / theirs["mb_s"]
        report[f"{name}_cpu_vs_{peer}"] = theirs["cpu_ms_per_mb"] / rate["cpu_ms_per_mb"]
    for heap, by_step in steps.items():
        suffix = "" if heap == "grown" else f"_{heap}"
        for step, taken in by_step.items():
            ratio = taken["pickle_base64"] / taken["fanout"]
            report[f"{step}_vs_pickle_base64{suffix}"] = ratio
    return report


def print_table(report: Mapping[str, Any]) -> None:
    """The report for people."""
    peers = ("boto3", "plain_file")
    for place, directions in report["transfers"].items():
        for direction, found in directions.items():
            print(f"\n{place}: {direction}, {report['megabytes']} MB")
            peer = next(found[name] for name in peers if name in found)
            for name, figures in found.items():
                line = f"  {name:18} {figures['mb_s']:>7,.0f} MB/s"
                line += f" ({figures['mb_s_least']:,.0f} to {figures['mb_s_most']:,.0f})"
                line = f"{line:50} {figures['cpu_ms_per_mb']:>6.2f} ms CPU per MB"
                if place != "directory":
                    line += f"  server {figures['server_busy']:4.0%}"
                line += f" {figures['mb_s'] / peer['mb_s']:>6.2f} x"
                print(line)
    for heap, steps in report["bodies"].items():
        print(
            f"\nbodies: {_ARRAY_BYTES / 1e6:g} MB of float64, {heap} heap, x pickle_base64's speed"
        )
        for step, taken in steps.items():
            print(f"  {step}")
            for name, cpu_ms in taken.items():
                ratio = taken["pickle_base64"] / cpu_ms
                print(f"    {name:20} {cpu_ms:>7.2f} ms CPU {ratio:>6.2f} x")
    print(f"\n{report['rounds']} rounds, {report['machine']}, {report['date']}")
    if not report["is_pinned"]:
        print("Nothing was pinned: clients and servers share the cores.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one short round: does it run?")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--rounds", type=int, help="turns of each contender (default: 9)")
    parser.add_argument("--megabytes", type=int, help="of the object (default: 60)")
    parser.add_argument("--tls", action="store_true", help="the sink alone, as AWS over TLS")
    parser.add_argument("--no-pin", action="store_true", help="leave the cores to the system")
    options = parser.parse_args(arguments)
    plan = Plan(
        rounds=options.rounds or (1 if options.quick else 9),
        megabytes=options.megabytes or (20 if options.quick else 60),  # both go in parts
        times=1 if options.quick else 5,
        heaps=("grown",) if options.quick else ("grown", "fresh"),
    )
    forget_machine()
    transfers.set_credentials()
    report = compare(plan, is_tls=options.tls, is_pinned=not options.no_pin)
    if options.json:
        json.dump(report, sys.stdout)
        return
    print_table(report)


if __name__ == "__main__":
    main()
