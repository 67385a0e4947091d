"""What a run tells of the time for which numba compiled at the far end."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numba
import pytest
from numba.core import event

import fanout
from fanout.compiling import Compiling
from fanout.emulator import Emulator
from fanout.events import AttemptAnswered, RunStarted
from fanout.worker import Worker
from tests.worker_checks import outcomes_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.events import RunEvent

ROOT = Path(__file__).parent.parent
COMPILE = "numba:compile"


# ---- counting ----


def test_one_compilation_within_another_counts_once() -> None:
    with Compiling() as compiling:
        began_s = time.perf_counter()
        with event.trigger_event(COMPILE), event.trigger_event(COMPILE):
            time.sleep(0.01)
        assert 0.01 <= compiling.seconds <= time.perf_counter() - began_s


def test_compilations_in_two_threads_at_a_time_count_once() -> None:
    meeting = threading.Barrier(2)

    def compile_both() -> None:
        with event.trigger_event(COMPILE):
            meeting.wait(10)
            time.sleep(0.01)

    with Compiling() as compiling:
        began_s = time.perf_counter()
        threads = [threading.Thread(target=compile_both) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 0.01 <= compiling.seconds <= time.perf_counter() - began_s


def test_nothing_is_heard_outside_of_the_block() -> None:
    compiling = Compiling()
    event.start_event(COMPILE)
    with compiling:
        event.end_event(COMPILE)  # of one that started before
        assert compiling.seconds == 0
        event.start_event(COMPILE)  # it goes on after the block
    counted_s = compiling.take()
    assert counted_s > 0
    event.end_event(COMPILE)
    with compiling:
        assert compiling.take() == 0
    assert not event._registered[COMPILE]


def test_what_is_taken_in_the_middle_is_not_taken_again() -> None:
    with Compiling() as compiling:
        event.start_event(COMPILE)
        time.sleep(0.01)
        assert compiling.take() >= 0.01
        event.end_event(COMPILE)
        assert 0 < compiling.take() < 0.01
        assert compiling.take() == 0


def test_functions_of_vectorize_count_too() -> None:
    with Compiling() as compiling:
        assert numba.vectorize(lambda x: x + 1)(2.0) == 3.0
        assert compiling.seconds > 0


def test_a_function_from_its_cache_is_not_compiled(tmp_path: Path) -> None:
    """A second process finds what the first one compiled."""
    (tmp_path / "cached.py").write_text(
        "import numba\n@numba.njit(cache=True)\ndef kernel(x):\n    return x + 1\n"
    )
    told = [in_fresh_process("import cached; cached.kernel(1)", tmp_path) for _ in range(2)]
    assert told == ["True False", "False False"]


@pytest.mark.parametrize(
    "code",
    [
        "import numba; numba.njit(lambda x: x)(1)",
        "import numba; numba.njit('f8(f8)')(lambda x: x)",
        "import threading; t = threading.Thread(target=exec, args=["
        "'import numba; numba.njit(lambda x: x)(1)']); t.start(); t.join()",
    ],
)
def test_a_numba_that_is_imported_in_the_block_is_heard(code: str, tmp_path: Path) -> None:
    assert in_fresh_process(code, tmp_path) == "True False"


def test_a_numba_that_is_not_as_expected_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    other: Any = types.ModuleType("numba.core.event")
    monkeypatch.setitem(sys.modules, other.__name__, other)
    with Compiling() as compiling:
        assert compiling.seconds == 0
    other.Listener = object
    heard = []
    other.register = lambda kind, _listener: heard.append(kind)  # and no unregister
    with compiling:
        assert heard[0] == COMPILE


def in_fresh_process(code: str, folder: Path) -> str:
    """Whether that compiles, and whether anything is left in `sys.meta_path`."""
    script = f"""
import sys
from fanout.compiling import Compiling, _Finder, _Loader
compiling = Compiling()
with compiling:
    exec({code!r})
found = sys.modules["numba.core.event"]
assert not isinstance(found.__loader__, _Loader) and found.__spec__.loader is found.__loader__
assert compiling._events is found and not found._registered["numba:compile"]
print(compiling.take() > 0, any(isinstance(finder, _Finder) for finder in sys.meta_path))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# ---- reports ----


def typed_at_its_first_call() -> Callable[[int], int]:
    offset = 3

    @numba.njit
    def inner(chunk: int) -> int:
        return chunk + offset

    @numba.njit
    def kernel(chunk: int) -> int:
        result: int = inner(chunk)
        return result

    return kernel  # type: ignore[no-any-return]


def typed_when_it_is_loaded() -> Callable[[int], int]:
    offset = 3
    compiled: Callable[[int], int] = numba.njit("i8(i8)")(lambda chunk: chunk + offset)
    return compiled


def compiled_within() -> Callable[[int], int]:
    def kernel(chunk: int) -> int:
        import numba

        # Not in a global of its own, with which it would be another kernel the next time.
        made = vars(numba).setdefault("made_by_a_test", numba.njit(lambda chunk: chunk + 3))
        result: int = made(chunk)
        return result

    return kernel


KERNELS = [typed_at_its_first_call, typed_when_it_is_loaded, compiled_within]


class Reports:
    """An observer that keeps how long each attempt compiled, for each environment in order."""

    def __init__(self) -> None:
        self.compile_s: dict[str, list[float]] = {}
        self.is_foreseen = False

    def __call__(self, told: RunEvent) -> None:
        if isinstance(told, RunStarted):
            self.is_foreseen = told.is_compiled_there
        if isinstance(told, AttemptAnswered) and told.report is not None:
            report = told.report
            assert report.compile_s <= report.setup_s + report.kernel_s <= report.total_s
            self.compile_s.setdefault(report.environment.id, []).append(report.compile_s)

    def check(self) -> None:
        for first_s, *others_s in self.compile_s.values():
            assert first_s > 0, self.compile_s
            assert not any(others_s), self.compile_s
        assert 1 <= len(self.compile_s) <= 2
        assert sum(map(len, self.compile_s.values())) == 16


@pytest.mark.parametrize("made", KERNELS)
async def test_each_process_compiles_once(made: Callable[[], Callable[[int], int]]) -> None:
    kernel, reports = made(), Reports()
    async with fanout.Executor(fanout.Local(2)) as ex:
        for first in (0, 100):
            chunks = range(first, first + 40)
            results = await ex.map(kernel, chunks, group=5, on_event=reports)
            assert results == [chunk + 3 for chunk in chunks]
            kernel(1)  # compiled here meanwhile, it is the same kernel all the same
    reports.check()
    assert reports.is_foreseen == (made is not compiled_within)


@pytest.mark.parametrize("made", KERNELS)
async def test_each_environment_of_lambda_compiles_once(
    made: Callable[[], Callable[[int], int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel, reports = made(), Reports()
    async with Emulator(concurrency=2, path=[ROOT]) as emulator:
        for name, value in emulator.variables.items():
            monkeypatch.setenv(name, value)
        async with fanout.Executor() as ex:
            for first in (0, 100):
                chunks = range(first, first + 40)
                results = await ex.map(kernel, chunks, group=5, on_event=reports)
                assert results == [chunk + 3 for chunk in chunks]
                kernel(1)
    reports.check()


def test_a_kernel_that_compiles_nothing_reports_nothing() -> None:
    (outcome,) = outcomes_of(abs, [-1], worker=Worker())
    assert outcome.report is not None
    assert outcome.report.compile_s == 0.0


def test_a_kernel_that_fails_to_compile_is_reported_and_the_next_one_is_not_charged() -> None:
    worker = Worker()
    (failed,) = outcomes_of(numba.njit(lambda chunk: chunk.nothing), [1], worker=worker)
    assert type(failed.error).__name__ == "TypingError"
    assert failed.report is not None
    assert failed.report.compile_s > 0
    (other,) = outcomes_of(abs, [-1], worker=worker)
    assert other.report is not None
    assert other.report.compile_s == 0.0
