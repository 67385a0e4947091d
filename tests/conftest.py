"""What all tests share."""

from __future__ import annotations

import pytest


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
