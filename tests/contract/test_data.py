"""Large data and the user's own code, on every backend alike."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import fanout
from tests.contract import kernels

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from fanout import Executor

    Array = npt.NDArray[np.float64]

MB = 2**20


def random_array(seed: int, count: int) -> Array:
    return np.random.default_rng(seed).random(count)


def left_in(store: Path) -> list[Path]:
    """What runs have left there."""
    return [path for path in store.glob("runs/**/*") if path.is_file()]


async def test_an_object_put_once_is_an_argument_of_many_tasks(ex: Executor) -> None:
    array = random_array(0, MB)
    data = await ex.put({"weights": array, "name": "w"})
    picked = await ex.starmap(kernels.picked, [(data, index) for index in range(0, MB, 50_000)])
    assert picked == [("w", array[index]) for index in range(0, MB, 50_000)]


async def test_arrays_of_an_object_put_once_cannot_be_written_to(ex: Executor) -> None:
    data = await ex.put(np.zeros(1000))
    with pytest.raises(ValueError, match="read-only"):
        await ex.map(kernels.zeroed, [data])
    # But what comes in a chunk is the task's own.
    assert (await ex.map(kernels.zeroed, [np.ones(5)]))[0].sum() == 0


async def test_chunks_and_results_beyond_the_limits_go_both_ways(ex: Executor, store: Path) -> None:
    arrays = [random_array(seed, MB) for seed in range(5)]  # 8 MB each
    for array, result in zip(arrays, await ex.map(kernels.same, arrays), strict=True):
        assert result.tobytes() == array.tobytes()
        result[0] = 1.0  # it is ours
    assert left_in(store) == []


async def test_a_result_of_50_mb_comes_back(ex: Executor, store: Path) -> None:
    small, large = await ex.starmap(kernels.noise, [(0, 10), (1, 50_000_000 // 8)])
    assert np.array_equal(small, random_array(0, 10))
    assert np.array_equal(large, random_array(1, 50_000_000 // 8))
    assert left_in(store) == []


async def test_a_closure_over_a_large_array_goes_along(ex: Executor, store: Path) -> None:
    table = random_array(2, MB)
    assert await ex.map(lambda index: float(table[index]), range(20)) == table[:20].tolist()
    assert left_in(store) == []


async def test_a_module_typed_a_minute_ago_goes_along_with_those_that_it_imports(
    ex: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"contract_typed_{id(ex)}"
    (tmp_path / f"{name}_helper.py").write_text("def doubled(x):\n    return 2 * x\n")
    (tmp_path / f"{name}.py").write_text(
        f"from {name}_helper import doubled\ndef kernel(x):\n    return doubled(x) + 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    module = __import__(name)
    try:
        if isinstance(ex.backend, fanout.Local):
            # Its workers have the sys.path that this process had when they started.
            assert await fanout.map(module.kernel, [1, 2, 3]) == [3, 5, 7]
        else:
            assert await ex.map(module.kernel, [1, 2, 3]) == [3, 5, 7]
    finally:
        del sys.modules[name], sys.modules[f"{name}_helper"]


@pytest.mark.parametrize("codec", ["auto", "safe"])
async def test_each_record_of_a_file_is_in_one_block(
    ex: Executor, tmp_path: Path, codec: Any
) -> None:
    lines = [f"record {n} {'x' * (n % 97)}" for n in range(3000)]
    file = tmp_path / "records.txt"
    file.write_text("\n".join(lines))
    blocks = fanout.blocks(file, 10_000)
    found = await ex.map(kernels.lines_of, blocks, codec=codec)
    assert len(found) > 10
    assert [line for block in found for line in block] == lines


async def test_a_run_goes_on_when_an_object_is_missing(ex: Executor) -> None:
    data = await ex.put(np.ones(3))
    gone: Any = fanout.Ref(64 * "0", 100)
    run = await ex.run(kernels.same, [data, gone, 7])
    assert [outcome.error is None for outcome in run.outcomes] == [True, False, True]
    assert "is not in the store" in str(run.outcomes[1].error)
