"""What every backend keeps when things go wrong: one task's fault costs that task alone."""

from __future__ import annotations

import asyncio
import base64
import importlib
import json
import logging
import uuid
from typing import TYPE_CHECKING

import numpy as np
import pytest

import fanout
from tests.contract import compiled, kernels, stands
from tests.contract.tap import Tap

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fanout import Executor
    from tests.contract.stands import Stand

on_lambda = pytest.mark.parametrize("stand", stands.LAMBDAS, indirect=True, scope="package")


async def test_a_task_that_ends_its_process_harms_no_other(ex: Executor) -> None:
    results = await ex.map(kernels.exits_on_seven, range(20), return_exceptions=True)
    error = results.pop(7)
    assert isinstance(error, fanout.errors.WorkerCrashedError)
    assert error.index == 7
    assert error.attempts == 3
    assert results == [number for number in range(20) if number != 7]


async def test_a_task_that_hangs_is_stopped_and_harms_no_other(ex: Executor) -> None:
    results = await ex.map(kernels.hangs_on_seven, range(20), timeout_s=0.5, return_exceptions=True)
    error = results.pop(7)
    assert isinstance(error, fanout.errors.TaskTimeoutError)
    assert "task 7: still running after 0.5 s" in str(error)
    assert results == [number for number in range(20) if number != 7]


async def test_a_task_that_hangs_in_compiled_code_is_stopped_and_harms_no_other(
    ex: Executor,
) -> None:
    """In groups of one: a group that is ended so is repeated, task by task."""
    results = await ex.map(
        compiled.spins_on_seven, range(4, 10), timeout_s=0.5, return_exceptions=True, group=1
    )
    error = results.pop(3)
    assert isinstance(error, fanout.errors.TaskTimeoutError)
    assert "task 3: still running after 0.5 s" in str(error)
    assert results == [4, 5, 6, 8, 9]


async def test_a_cancelled_map_leaves_the_executor_usable(ex: Executor) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await ex.map(kernels.nap, [0.8] * 4)
    assert await ex.map(kernels.square, range(4)) == [0, 1, 4, 9]


# ---- Lambda only ----


@on_lambda  # a local worker takes 2 GiB
async def test_without_a_store_a_result_above_the_limit_fails_its_task_alone(stand: Stand) -> None:
    sizes = [10, 20_000_000, 4_500_000, 20]
    async with fanout.Executor(stand.backend()) as ex:
        results = await ex.map(kernels.zeros, sizes, return_exceptions=True)
    error = results[1]
    assert isinstance(error, fanout.errors.ResultError)
    assert "return less" in str(error)
    assert [len(results[task]) for task in (0, 2, 3)] == [10, 4_500_000, 20]  # type: ignore[arg-type]


@on_lambda  # a local worker takes 2 GiB
async def test_without_a_store_a_chunk_above_the_limit_fails_its_task_alone(stand: Stand) -> None:
    noise = np.random.default_rng(0).bytes(4_800_000)  # which nothing makes smaller
    chunks = [np.frombuffer(noise[:size], np.uint8) for size in (10, 4_800_000, 4_700_000, 20)]
    async with fanout.Executor(stand.backend()) as ex:
        results = await ex.map(kernels.length, chunks, return_exceptions=True)
    error = results.pop(1)
    assert isinstance(error, fanout.errors.ChunkError)
    assert "make chunks smaller" in str(error)
    assert results == [10, 4_700_000, 20]


@on_lambda  # a local backend names no function
async def test_a_function_that_is_not_there_is_a_clear_error(stand: Stand) -> None:
    expected = "there is no function no-such-function in us-east-1: check its name and the region"
    with pytest.raises(fanout.errors.BackendError, match=expected):
        async with fanout.Executor(stand.backend("no-such-function")):
            pass


@on_lambda  # a local worker searches the same places for modules
async def test_a_kernel_whose_module_the_worker_lacks_brings_it_along(
    ex: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"only_here_{uuid.uuid4().hex}"  # no other test has imported it
    (tmp_path / f"{name}.py").write_text("def kernel(chunk):\n    return 3 * chunk\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module(name)
    assert await ex.map(module.kernel, range(3)) == [0, 3, 6]


@on_lambda  # a local worker is the same installation
async def test_a_worker_of_another_protocol_is_a_clear_error(stand: Stand) -> None:
    async with fanout.Executor(stand.backend(stands.SKEWED)) as ex:
        with pytest.raises(
            fanout.errors.ProtocolError, match="protocol 1, this function 2: install the same"
        ):
            await ex.map(kernels.square, range(4))


@on_lambda  # a local worker is stopped
async def test_a_cancelled_map_says_that_it_is_billed_and_leaves_others_what_it_still_takes(
    stand: Stand, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "fanout")
    async with Tap(stand.urls[stands.FUNCTION]) as tap:
        async with fanout.Executor(stand.backend(url=tap.url)) as ex:
            running = asyncio.create_task(ex.map(kernels.nap, [1.0] * stands.CONCURRENCY))
            await _until(lambda: len(list(filter(None, tap.bodies))) >= stands.CONCURRENCY)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            (told,) = (record.getMessage() for record in caplog.records)
            assert f"{stands.CONCURRENCY} attempts in flight" in told
            assert "they run on and are billed for 30 s at most each" in told
            assert "`fanout resume " in told
            capacity = ex.backend.capacity
            assert capacity is not None
            assert capacity.in_flight == stands.CONCURRENCY
            await _until(lambda: capacity.in_flight == 0)
        await _until(lambda: tap.open == 0)


@on_lambda  # a local worker is a process of the same user
async def test_no_credentials_of_the_client_reach_the_worker(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in what is sent, beside the signature, nor in what the environment knows."""
    access_key, secret_key = stand.keys[stands.FUNCTION]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret_key)
    captured = np.arange(3)
    async with (
        Tap(stand.urls[stands.FUNCTION]) as tap,
        fanout.Executor(stand.backend(url=tap.url)) as ex,
    ):
        await ex.map(lambda chunk: chunk + captured, [np.arange(3)] * 3)
        (known,) = await ex.map(kernels.surroundings, [None])
        bodies = [body for body in tap.bodies if body]
        sent = b"".join(bytes(part) for part in tap.sent)
    assert len(bodies) >= 2
    for body in bodies:
        frame = base64.b64decode(json.loads(body)["frame"])
        for secret in (access_key, secret_key):
            assert secret.encode() not in body + frame
    assert secret_key.encode() not in sent
    assert access_key not in known
    assert secret_key not in known


async def _until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not is_so():
            await asyncio.sleep(0.01)
