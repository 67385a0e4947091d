"""A map through the emulator while things go wrong: every result right, each delivered once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import fanout
from fanout import RetryPolicy
from fanout.emulator import Emulator, Faults
from fanout.events import Deliver

if TYPE_CHECKING:
    from fanout.events import RunEvent

ROOT = Path(__file__).parent.parent
TASKS = 3000
# Of 10 tasks, so that 500 attempts give each fault 25 chances; one by one they would be far more.
GROUP = 10
SHARE = 0.05


def scrambled(x: int) -> int:
    return (x * 2654435761 + 7) % 2**32


@pytest.mark.parametrize(
    ("fault", "options"),
    [
        ("throttle", {"retry_after_s": 0.0}),
        ("error_500", {}),
        ("error_502", {}),
        ("error_503", {}),
        ("reset_before", {}),
        ("reset_during", {}),
        ("reset_after", {}),
        ("hang", {}),
        ("truncate", {}),
        ("corrupt", {}),
        ("duplicate", {}),
        ("slow_start", {"start_delay_s": 0.5, "slow_start": 0.5}),
        ("slow_environment", {"slow_environment": 0.5}),
    ],
)
async def test_no_fault_costs_a_result_or_delivers_one_twice(
    fault: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = Faults(**{fault: SHARE, "seed": 3, **options})
    delivered: Counter[int] = Counter()

    def count(event: RunEvent) -> None:
        if isinstance(event, Deliver):
            delivered.update(outcome.index for outcome in event.outcomes)

    async with Emulator(
        concurrency=8, requests_per_s=1e6, timeout_s=1.0, faults=faults, path=[ROOT]
    ) as emulator:
        for name, value in emulator.variables.items():
            monkeypatch.setenv(name, value)
        async with fanout.Executor() as ex:
            results = await ex.map(
                scrambled,
                range(TASKS),
                group=GROUP,
                retry=RetryPolicy(max_attempts=6, base_s=0.01),
                on_event=count,
            )
        struck = emulator.counts.faults
    assert results == [scrambled(x) for x in range(TASKS)]
    assert delivered == dict.fromkeys(range(TASKS), 1)
    if not fault.startswith("slow"):
        assert sum(struck.values()) >= 10, struck
