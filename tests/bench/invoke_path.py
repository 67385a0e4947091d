"""What a client pays for each Lambda invocation, and for each MB of array, beside its peers.

    python tests/bench/invoke_path.py [--quick] [--json] [--first-wave] [--contenders NAME ...]

All contenders invoke the same stand-in for Lambda's endpoint (`invoke/stub.c`, compiled here: needs
Linux, cc, OpenSSL's headers and the openssl command) over TLS 1.3. Each runs in a process of its
own; these are pinned to one core, the stub to another. They take turns, each warms up its
connections before every turn, and the median of the rounds counts. CPU is that of the client's
whole process, all threads.

    immediate    64 in flight, answered at once: what an invocation costs
    delayed      512 in flight, answered after 50 to 150 ms, as by functions that work
    up, down     8 in flight, each with an array of float64 noise in its request or answer, from and
                 to an array; 4 MB is the largest round number whose base64 Lambda takes
    first wave   256 connections opened at once, each for one invocation, which is included

Read with care: ratios hold on other machines, microseconds don't. Loopback costs less CPU than a
network card, for all contenders alike. Only the client's side is measured; with `delayed`,
`aioboto3_default` waits for its ten connections. `floor` is no client: it shows what asyncio and
TLS leave to be saved. The fewer answers come together, the more turns of the event loop are paid
for each: that is why the fast ones cost more with `delayed`. "stub" is what share of its core the
stub used: near 100 % it, and not the client, limits invocations/s. On a machine with one core
nothing is pinned, and rates are those of client and stub together.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import platform
import ssl
import statistics
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

if __name__ == "__main__":  # started as a script, Python sees the files beside it only
    sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.invoke.peers import (
    CODECS,
    CONTENDERS,
    Load,
    Spent,
    Target,
    client_process,
    forget_machine,
)
from tests.bench.invoke.stub_server import Stub, StubFactory, Usage, prepare

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

DIRECTIONS: Final[tuple[Literal["up", "down"], ...]] = ("up", "down")
# A turn of these is long enough to be measured only with more invocations than the others'.
FAST: Final[dict[str, float]] = {"fanout": 5.0, "floor": 5.0}
# With ten connections and 100 ms each, a hundred invocations a second.
SLOW: Final[dict[str, float]] = {"aioboto3_default": 0.1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What one turn took, on both sides."""

    invocations: int
    client: Spent
    stub: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One comparison.

    Attributes:
        name: The key of its figures in the JSON.
        in_flight: Invocations at a time.
        invocations: In one turn; times what `shares` has for the contender.
        contenders: Who may take part.
        shares: 1 for whom it doesn't name.
        delay_ms: Least and most time that the stub takes.
        load: Array that travels.
        is_cold: Whether each turn begins with no connections but one.
    """

    name: str
    in_flight: int
    invocations: int
    contenders: Sequence[str] = tuple(CONTENDERS)
    shares: Mapping[str, float] = field(default_factory=dict)
    delay_ms: tuple[int, int] | None = None
    load: Load | None = None
    is_cold: bool = False

    @property
    def unit(self) -> str:
        """What its figures are per."""
        if self.load:
            return "MB"
        return "connection" if self.is_cold else "invocation"

    def invocations_of(self, contender: str) -> int:
        """Invocations in one turn of this contender."""
        return max(1, round(self.invocations * self.shares.get(contender, 1)))

    def amount(self, turn: Turn) -> float:
        """How many units a turn was."""
        if self.load:
            return turn.invocations * self.load.array_bytes / 1e6
        return turn.stub.connections if self.is_cold else turn.invocations


class Client:
    """A contender's process, seen from outside."""

    def __init__(self, contender: str, *, core: int | None, with_uvloop: bool) -> None:
        self.contender = contender
        spawning = multiprocessing.get_context("spawn")
        self._orders, theirs = spawning.Pipe()
        self._process = spawning.Process(
            target=client_process,
            args=(theirs, contender),
            kwargs={"core": core, "with_uvloop": with_uvloop},
            daemon=True,
        )
        self._process.start()
        theirs.close()

    @contextmanager
    def opened(self, target: Target) -> Iterator[None]:
        """The contender with a client for this target."""
        self._answer_to(target)
        yield
        self._answer_to(None)

    def run(self, invocations: int) -> Spent:
        """Makes so many invocations."""
        spent = self._answer_to(invocations)
        assert isinstance(spent, Spent)
        return spent

    def stop(self) -> None:
        """Ends the process."""
        self._orders.close()
        self._process.join(timeout=10)
        self._process.kill()

    def _answer_to(self, order: Target | int | None) -> object:
        try:
            self._orders.send(order)
            return self._orders.recv()
        except (EOFError, OSError):
            raise SystemExit(f"{self.contender} has failed; what it says is above") from None


def take_turn(client: Client, stub: Stub, scenario: Scenario) -> Turn:
    """Warms up, then measures; nothing may have been sent twice."""
    invocations = scenario.invocations_of(client.contender)
    client.run(1 if scenario.is_cold else min(scenario.in_flight, invocations))
    before = stub.usage()
    spent = client.run(invocations)
    used = stub.usage() - before
    assert used.requests == invocations, f"{client.contender} made {used.requests} requests"
    return Turn(invocations=invocations, client=spent, stub=used)


def measure(
    scenario: Scenario, clients: Mapping[str, Client], stubs: StubFactory, rounds: int
) -> dict[str, list[Turn]]:
    """The turns of all contenders, one for each round."""
    names = [name for name in scenario.contenders if name in clients]
    turns: dict[str, list[Turn]] = {name: [] for name in names}
    with ExitStack() as running:
        ready: list[tuple[Client, Stub, Target]] = []
        for name in names:
            stub = running.enter_context(
                stubs.start(
                    delay_ms=scenario.delay_ms, answer_file=_answer(scenario.load, name, stubs)
                )
            )
            target = Target(
                url=stub.url, ca=str(stub.ca), in_flight=scenario.in_flight, load=scenario.load
            )
            ready.append((clients[name], stub, target))
            if not scenario.is_cold:
                running.enter_context(clients[name].opened(target))
        for _ in range(rounds):
            for client, stub, target in ready:
                with ExitStack() as once:
                    if scenario.is_cold:
                        once.enter_context(client.opened(target))
                    turns[client.contender].append(take_turn(client, stub, scenario))
    return turns


def _answer(load: Load | None, contender: str, stubs: StubFactory) -> Path | None:
    """What the stub answers with, if it is an array as this contender wants it."""
    if load is None or load.direction == "up":
        return None
    path = stubs.folder / f"{contender}.answer"
    path.write_bytes(CODECS[contender].answer(load.array()))
    return path


def summary(scenario: Scenario, turns: Sequence[Turn]) -> dict[str, float]:
    """Medians of the turns, by the scenario's unit."""
    amounts = [scenario.amount(turn) for turn in turns]
    used_us = [turn.client.cpu_s / n * 1e6 for turn, n in zip(turns, amounts, strict=True)]
    return {
        "cpu_us": statistics.median(used_us),
        "cpu_us_least": min(used_us),
        "cpu_us_most": max(used_us),
        "per_s": statistics.median(
            n / turn.client.wall_s for turn, n in zip(turns, amounts, strict=True)
        ),
        "connections_opened": statistics.median(turn.stub.connections for turn in turns),
        "stub_cpu_us_per_request": statistics.median(
            turn.stub.cpu_s / turn.stub.requests * 1e6 for turn in turns
        ),
        "stub_busy": statistics.median(turn.stub.cpu_s / turn.client.wall_s for turn in turns),
    }


def scenarios(options: argparse.Namespace) -> list[Scenario]:
    """What is to be compared."""
    invocations, is_quick = options.invocations, options.quick
    found = [
        Scenario(name="immediate", in_flight=64, invocations=invocations, shares=FAST),
        Scenario(
            name="delayed",
            contenders=tuple(name for name in CONTENDERS if name != "boto3_threads"),
            in_flight=128 if is_quick else 512,
            invocations=invocations,
            shares=FAST | SLOW,
            delay_ms=(50, 150),
        ),
    ]
    for megabytes in (1,) if is_quick else (1, 4):
        found += [
            Scenario(
                name=f"{direction}_{megabytes}_mb",
                contenders=tuple(CODECS),
                in_flight=8,
                invocations=max(8, invocations // 32 // megabytes),
                load=Load(direction=direction, array_bytes=megabytes * 1_000_000),
            )
            for direction in DIRECTIONS
        ]
    if options.first_wave:
        cold = tuple(
            name for name in CONTENDERS if name not in {"aioboto3_default", "boto3_threads"}
        )
        found.append(
            Scenario(
                name="first_wave",
                contenders=cold,
                in_flight=256,
                invocations=256,
                delay_ms=(1_000, 1_000),  # longer than it takes to connect: no connection is reused
                is_cold=True,
            )
        )
    return found


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """All scenarios, as the object that is printed."""
    cores = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
    stub_core, client_core = (cores[0], cores[-1]) if len(cores) > 1 else (None, None)
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="fanout-bench-") as folder, ExitStack() as running:
        clients: dict[str, Client] = {}
        for name in options.contenders:
            clients[name] = Client(name, core=client_core, with_uvloop=options.uvloop)
            running.callback(clients[name].stop)
        stubs = prepare(Path(folder), stub_core)
        for scenario in scenarios(options):
            turns = measure(scenario, clients, stubs, options.rounds)
            if not turns:
                continue
            report[scenario.name] = {
                "unit": scenario.unit,
                "in_flight": scenario.in_flight,
                "contenders": {name: summary(scenario, found) for name, found in turns.items()},
            }
    return ratios(report["immediate"]["contenders"]) | {
        "scenarios": report,
        "rounds": options.rounds,
        "machine": f"{platform.machine()}, {len(cores)} cores",
        "is_pinned": client_core is not None,
        "loop": "uvloop" if options.uvloop else "asyncio",
        "versions": {"python": platform.python_version(), "openssl": ssl.OPENSSL_VERSION}
        | {name: importlib.metadata.version(name) for name in ("aioboto3", "boto3", "numpy")},
    }


def ratios(immediate: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """What is quoted: how many times fanout's CPU time others take, and how fast it is."""
    if "fanout" not in immediate:
        return {}
    found = {
        f"cpu_vs_{name}": figures["cpu_us"] / immediate["fanout"]["cpu_us"]
        for name, figures in immediate.items()
        if name != "fanout"
    }
    return found | {"invocations_per_s": immediate["fanout"]["per_s"]}


def print_table(report: Mapping[str, Any]) -> None:
    """The report for people."""
    for name, scenario in report["scenarios"].items():
        unit, found = scenario["unit"], scenario["contenders"]
        print(f"\n{name}, {scenario['in_flight']} in flight")
        for contender, figures in found.items():
            line = f"  {contender:18} {figures['cpu_us']:>8,.0f} us CPU per {unit}"
            line += f" ({figures['cpu_us_least']:,.0f} to {figures['cpu_us_most']:,.0f})"
            if unit != "connection":  # most of that time they wait for the stub
                line = f"{line:66} {figures['per_s']:>8,.0f} /s  stub {figures['stub_busy']:4.0%}"
            if "fanout" in found and contender != "fanout":
                line += f" {figures['cpu_us'] / found['fanout']['cpu_us']:>7.1f} x fanout's CPU"
            print(line)
    print(f"\n{report['rounds']} rounds, {report['machine']}, loop of {report['loop']}")
    if not report["is_pinned"]:
        print("One core: nothing was pinned, rates are those of client and stub together.")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one short round: does it run?")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--first-wave", action="store_true", help="also what connections cost")
    parser.add_argument("--rounds", type=int, help="turns of each contender (default: 7)")
    parser.add_argument("--invocations", type=int, help="in one turn (default: 2000)")
    parser.add_argument("--uvloop", action="store_true", help="uvloop, if it is installed")
    parser.add_argument(
        "--contenders", nargs="+", choices=CONTENDERS, default=[*CONTENDERS], metavar="NAME",
        help=f"only these of {', '.join(CONTENDERS)}",
    )  # fmt: skip
    options = parser.parse_args()
    if options.uvloop and not importlib.util.find_spec("uvloop"):
        parser.error("--uvloop: it is not installed here: `pip install uvloop`")
    options.rounds = options.rounds or (1 if options.quick else 7)
    options.invocations = options.invocations or (200 if options.quick else 2_000)
    forget_machine()
    report = compare(options)
    if options.json:
        json.dump(report, sys.stdout)
        return
    print_table(report)


if __name__ == "__main__":
    main()
