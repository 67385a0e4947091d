"""The backends, one after the other; each is started once."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

import fanout
from tests.contract import stands

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.contract.stands import Stand


@pytest.fixture(scope="package", autouse=True)
def _nobodys_settings() -> Iterator[None]:
    """Nothing of this machine's user counts: no profile, region, endpoint or proxy."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith(("AWS_", "FANOUT_")):
                patch.delenv(name)
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("FANOUT_PROGRESS", "0")
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.setenv("no_proxy", "127.0.0.1")
        yield


@pytest.fixture(scope="package", params=["local", *stands.LAMBDAS])
def stand(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    _nobodys_settings: None,
) -> Iterator[Stand | None]:
    """What the tests run against; None for processes on this machine."""
    if request.param == "local":
        yield None
        return
    with getattr(stands, request.param)(tmp_path_factory.mktemp(request.param)) as started:
        yield started


@pytest.fixture(scope="package")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers can see."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="package")
async def ex(stand: Stand | None, store: Path) -> AsyncIterator[fanout.Executor]:
    """An executor that all tests of a backend share."""
    backend = fanout.Local(stands.CONCURRENCY) if stand is None else stand.backend()
    async with fanout.Executor(backend, store=store) as executor:
        yield executor
