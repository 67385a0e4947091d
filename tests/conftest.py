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
    for name in ("FANOUT_BACKEND", "FANOUT_FUNCTION", "FANOUT_WORKERS", "FANOUT_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FANOUT_PROGRESS", "0")
