"""What all tests share."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run `async def` tests on asyncio, which is what fanout is native to."""
    return "asyncio"


@pytest.fixture(autouse=True)
def _plain_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see the defaults, whatever the user of this machine has set."""
    for setting in ("BACKEND", "FUNCTION", "STORE", "WORKERS", "CONFIG"):
        name = f"FANOUT_{setting}"
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FANOUT_PROGRESS", "0")


@pytest.fixture(scope="session")
def _homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folders that nobody has used; each is only made when something is kept there."""
    root = tmp_path_factory.mktemp("homes")
    return (root / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def _own_home(monkeypatch: pytest.MonkeyPatch, _homes: Iterator[Path]) -> Path:
    """No test writes into the user's folder, or sees the runs of another one."""
    path = next(_homes)
    monkeypatch.setenv("FANOUT_HOME", str(path))
    return path
