"""The worker on sound requests and damaged ones: what it runs, keeps, and refuses."""

from __future__ import annotations

import dataclasses
import functools
import gc
import logging
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest

from fanout import worker as worker_module
from fanout.codec import decode
from fanout.errors import ChunkError, DecodeError, EncodeError, KernelLoadError, ResultError
from fanout.events import AttemptAnswered
from fanout.kernel_spec import prepare
from fanout.request import Request, build
from fanout.wire import frame, unframe
from fanout.worker import Worker
from tests.worker_checks import answer_of, outcomes_of, refusal_of, request_of


def square(x: int) -> int:
    return x * x


def scaled(weights: Any, x: float, *, bias: float = 0.0) -> float:
    return float(weights.sum() * x + bias)


# ---- values ----


def test_results_come_in_the_order_of_the_chunks() -> None:
    assert [outcome.value for outcome in outcomes_of(square, [3, 1, 2])] == [9, 1, 4]
    assert [outcome.value for outcome in outcomes_of(lambda x: x + 1, [1, 2])] == [2, 3]
    assert outcomes_of(square, []) == []


def test_bound_arguments_go_before_the_chunk_and_tuples_are_unpacked_on_request() -> None:
    kernel = functools.partial(scaled, np.ones(3000), bias=0.5)
    assert [outcome.value for outcome in outcomes_of(kernel, [1.0, 2.0])] == [3000.5, 6000.5]
    assert [outcome.value for outcome in outcomes_of(pow, [(2, 3), (5, 2)], is_star=True)] == [
        8,
        25,
    ]


def test_large_arrays_pass_through() -> None:
    chunks = [np.arange(20_000.0), np.arange(30_000.0)]
    for outcome, chunk in zip(outcomes_of(np.negative, chunks), chunks, strict=True):
        assert np.array_equal(outcome.result(), -chunk)


def test_a_kernel_may_return_the_same_scratch_array_each_time() -> None:
    scratch = np.zeros(50_000)

    def kernel(x: float) -> Any:
        scratch[:] = x
        return scratch

    assert [set(outcome.result()) for outcome in outcomes_of(kernel, [1.0, 2.0, 3.0])] == [
        {1.0},
        {2.0},
        {3.0},
    ]


def test_a_kernel_that_is_an_instance_and_false_is_called_all_the_same() -> None:
    class Falsy:
        def __bool__(self) -> bool:
            return False

        def __call__(self, x: int) -> int:
            return x + 1

    assert outcomes_of(Falsy(), [1])[0].value == 2


def test_the_reply_tells_times_environment_and_sizes() -> None:
    worker = Worker()
    reply = worker.run(request_of(prepare(lambda x: time.sleep(0.002)), [1, 2]))
    answer = answer_of(reply, 2)
    assert isinstance(answer, AttemptAnswered)
    report = answer.report
    assert report is not None
    assert report.attempt == 5
    assert 0.004 <= report.kernel_s <= report.total_s
    assert report.kernel_s == pytest.approx(sum(outcome.kernel_s for outcome in answer.outcomes))
    assert report.setup_s > 0
    assert report.payload_bytes == 100 + reply.payload.nbytes
    assert abs(report.received_epoch_s - time.time()) < 60
    assert set(report.environment.versions) == {"python", "fanout", "numpy"}


def test_an_environment_is_cold_once_and_keeps_its_id() -> None:
    worker = Worker()
    reports = [outcomes_of(square, [1], worker=worker)[0].report for _ in range(3)]
    assert [report.is_cold for report in reports if report] == [True, False, False]
    assert len({report.environment.id for report in reports if report}) == 1


# ---- results and chunks that can't travel ----


def test_a_result_that_cannot_be_sent_is_an_error_of_its_task_alone() -> None:
    def kernel(x: int) -> Any:
        return [np.full(5000, x), (n for n in "a"), [threading.Lock()], np.full(5000, -x)][x]

    first, generator, lock, last = outcomes_of(kernel, range(4))
    assert set(first.result()) == {0}
    assert set(last.result()) == {-3}
    for outcome, name in ((generator, "builtins.generator"), (lock, r"_thread.lock")):
        assert isinstance(outcome.error, ResultError)
        assert f"task {outcome.index}: its result: a value of type {name}" in str(outcome.error)


class Exits:
    def __reduce__(self) -> str:
        raise SystemExit("out")


def test_a_result_that_exits_while_it_is_pickled_is_an_error_of_its_task_alone() -> None:
    bad, good = outcomes_of(lambda x: Exits() if x else x, [1, 0])
    assert isinstance(bad.error, ResultError)
    assert "SystemExit: out" in str(bad.error)
    assert good.value == 0


class Fragile:
    def __init__(self, where: str) -> None:
        self.where = where

    def __setstate__(self, state: dict[str, str]) -> None:
        if state["where"] in ("anywhere", threading.current_thread().name):
            raise ValueError("broke on the way")
        self.__dict__.update(state)


def test_a_chunk_that_cannot_be_decoded_is_an_error_of_its_task_alone() -> None:
    good, bad, other = outcomes_of(lambda x: 1, [np.zeros(5000), Fragile("anywhere"), {"a": 2}])
    assert (good.value, other.value) == (1, 1)
    assert isinstance(bad.error, ChunkError)
    assert "can't be decoded by the worker" in str(bad.error)
    assert "ValueError: broke on the way" in str(bad.error)


def test_a_result_that_cannot_be_decoded_by_the_client_is_an_error_of_its_task_alone() -> None:
    bad, good = outcomes_of(lambda x: Fragile("anywhere") if x else x, [1, 0])
    assert isinstance(bad.error, ResultError)
    assert "can't be decoded here" in str(bad.error)
    assert isinstance(bad.error.__cause__, DecodeError)
    assert good.value == 0


def test_chunks_that_cannot_be_sent_are_errors_of_their_tasks_and_the_others_go() -> None:
    chunks = {4: np.zeros(5000), 5: threading.Lock(), 6: Fickle(), 7: 8}
    request, sent, failed = build(Request(kernel=prepare(square)), [4, 5, 6, 7], chunks)
    assert sent == [4, 7]
    assert len(decode(request.chunks)) == 2
    assert [outcome.index for outcome in failed] == [5, 6]
    for outcome in failed:
        assert isinstance(outcome.error, ChunkError)
        assert isinstance(outcome.error.__cause__, EncodeError)


class Fickle:
    """Can be pickled once."""

    def __reduce__(self) -> str | tuple[object, ...]:
        if hasattr(self, "was_sent"):
            raise ValueError("not again")
        self.was_sent = True
        return Fickle, ()


# ---- without pickle ----


@dataclasses.dataclass(frozen=True)
class Order:
    price: float
    tags: frozenset[str] = frozenset()


def priced(order: Order) -> object:
    if order.price < 0:
        raise ValueError("a negative price", order.price)
    return order if order.price else (n for n in "a")


def test_safe_runs_from_end_to_end() -> None:
    orders = [Order(1.5, frozenset({"a", "b"})), Order(-1.0), Order(0.0)]
    good, raised, refused = outcomes_of(priced, orders, is_safe=True)
    assert good.value == orders[0]
    assert type(raised.error) is ValueError
    assert raised.error.args == ("a negative price", -1.0)
    assert isinstance(refused.error, ResultError)
    assert "builtins.generator needs pickle: codec='safe'" in str(refused.error)


def test_safe_refuses_a_kernel_that_came_as_code() -> None:
    spec = prepare(lambda x: x)
    kind, text, _ = refusal_of(request_of(spec, [1], is_safe=True))
    assert kind is KernelLoadError
    assert "holds a pickle, which is refused" in text


# ---- what kernels print ----


def test_what_each_task_prints_is_kept_apart() -> None:
    def kernel(x: int) -> None:
        if x:
            print("out", x)
            print("err", x, file=sys.stderr)
            logging.getLogger("a kernel").warning("logged")

    outcomes = outcomes_of(kernel, [1, 0, 2])
    assert [outcome.stdout for outcome in outcomes] == ["out 1\n", "", "out 2\n"]
    assert [outcome.stderr[:6] for outcome in outcomes] == ["err 1\n", "", "err 2\n"]


@pytest.mark.parametrize("count", [1, 3, 10, 2000])
def test_the_last_16_kib_of_what_is_printed_are_kept(count: int) -> None:
    line = "x" * 8191

    def kernel(x: int) -> None:
        for _ in range(x):
            print(line)
        print("the end", end="")

    (outcome,) = outcomes_of(kernel, [count])
    whole = f"{line}\n" * min(count, 20) + "the end"
    kept = whole if count == 1 else f"[…]{whole[-16 * 1024 :]}"
    assert outcome.stdout == kept


def test_a_failed_task_keeps_what_it_printed() -> None:
    def kernel(x: int) -> None:
        print("before", "\ud800")
        raise ValueError(x)

    assert outcomes_of(kernel, [1])[0].stdout == "before \ud800\n"


def test_the_stand_in_for_stdout_behaves_like_one() -> None:
    def kernel(x: int) -> tuple[bool, bool, str | None]:
        sys.stdout.writelines(["a", "b"])
        sys.stdout.flush()
        return sys.stdout.isatty(), sys.stdout.writable(), sys.stdout.encoding

    def wrong(x: int) -> None:
        sys.stdout.write(b"bytes")  # type: ignore[arg-type]

    before = sys.stdout
    assert outcomes_of(kernel, [1])[0].value == (False, True, "utf-8")
    assert isinstance(outcomes_of(wrong, [1])[0].error, TypeError)
    assert sys.stdout is before


# ---- kernels that are kept ----


def test_a_known_kernel_needs_no_code_and_an_unknown_one_is_asked_for() -> None:
    worker, spec = Worker(), prepare(lambda x: x + 1)
    brief = request_of(spec, [1], with_code=False)
    assert worker.run(brief).head["refused"]["kind"] == "unknown kernel"
    worker.run(request_of(spec, [1]))
    answer = answer_of(worker.run(brief), 1)
    assert isinstance(answer, AttemptAnswered)
    assert answer.outcomes[0].value == 2


def test_only_so_many_kernels_are_kept_and_the_least_used_go_first() -> None:
    worker = Worker()
    specs = [prepare(functools.partial(square, number)) for number in range(200)]
    for spec in specs:
        worker.run(request_of(specs[0], []))
        worker.run(request_of(spec, []))

    def is_known(spec: Any) -> bool:
        return "refused" not in worker.run(request_of(spec, [], with_code=False)).head

    known = [is_known(spec) for spec in specs]
    assert known[0]
    assert known[-1]
    assert sum(known) == worker_module._KERNELS_KEPT


def test_a_kept_kernel_does_not_keep_the_request_it_came_with() -> None:
    worker, spec = Worker(), prepare(functools.partial(scaled, np.ones(20_000)))
    request, _, _ = build(Request(kernel=spec), [0], {0: 1.0})
    memory = bytearray(b"".join(frame(request.message())))
    worker.run(unframe(memoryview(memory)))
    gc.collect()
    memory.clear()  # BufferError if anything still shows it
    answer = answer_of(worker.run(request_of(spec, [2.0], with_code=False)), 1)
    assert isinstance(answer, AttemptAnswered)
    assert answer.outcomes[0].value == 40_000


# ---- what it imports ----


@pytest.mark.parametrize("module", ["fanout.worker", "fanout.worker_process"])
def test_the_worker_imports_the_standard_library_numpy_and_fanout_only(module: str) -> None:
    script = f"""if True:
        import sys, time
        before = set(sys.modules)
        began_s = time.perf_counter()
        import {module}
        took_s = time.perf_counter() - began_s
        tops = {{name.partition(".")[0] for name in set(sys.modules) - before}}
        print(*sorted(tops - sys.stdlib_module_names))
        print(f"import of {module}: {{took_s * 1e3:.0f}} ms", file=sys.stderr)
    """
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    print(run.stderr)  # for information
    assert run.stdout.split() == ["fanout", "numpy"]
