"""How each sort of kernel travels, and which can't."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import importlib
import importlib.util
import io
import json
import math
import operator
import subprocess
import sys
import threading
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import pytest

from fanout.codec import decode
from fanout.errors import EncodeError, KernelNotUsableError
from fanout.kernel_spec import is_importable, kernel_name, module_digest, prepare

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from fanout.kernel_spec import KernelSpec


def square(x: int) -> int:
    return x * x


def weighted(weights: Any, bias: Any = 0.0, x: Any = 1) -> Any:
    return (weights * x).sum() + bias


@numba.njit
def compiled(x: float) -> float:
    return x + 0.5


class Scaler:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, x: int) -> int:
        return self.factor * x

    def shifted(self, x: int) -> int:
        return self.factor + x

    @staticmethod
    def doubled(x: int) -> int:
        return 2 * x

    @classmethod
    def made(cls, x: int) -> Scaler:
        return cls(x)


def loaded(spec: KernelSpec) -> Callable[..., Any]:
    """The kernel as a worker has it, short of the checks."""
    function, args, kwargs = decode(spec.code)
    if spec.target:
        assert function is None
        module, _, qualname = spec.target.partition(":")
        function = operator.attrgetter(qualname)(importlib.import_module(module))
    return functools.partial(function, *args, **kwargs)


# ---- by reference ----


def test_a_function_of_a_module_travels_by_reference_with_the_digest_of_its_file() -> None:
    spec = prepare(square)
    assert spec.target == f"{__name__}:square"
    assert spec.source == hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    assert spec.local_modules == frozenset()
    assert decode(spec.code, is_safe=True) == (None, (), {})
    assert loaded(spec)(5) == 25


@pytest.mark.parametrize(
    ("kernel", "target", "has_source"),
    [
        (compiled, "tests.test_kernel_spec:compiled", True),
        (Scaler, "tests.test_kernel_spec:Scaler", True),
        (Scaler.doubled, "tests.test_kernel_spec:Scaler.doubled", True),
        (json.dumps, "json:dumps", True),
        (math.sqrt, "math:sqrt", False),
        (len, "builtins:len", False),
        (int, "builtins:int", False),
    ],
)
def test_whatever_a_module_names_travels_by_reference(
    kernel: Callable[..., object], target: str, has_source: bool
) -> None:
    spec = prepare(kernel, is_safe=True)
    assert spec.target == target
    assert (spec.source is not None) == has_source
    assert loaded(spec).func is kernel  # type: ignore[attr-defined]


def test_compiled_modules_have_no_digest_since_each_platform_has_its_own_file() -> None:
    assert module_digest("numpy._core._multiarray_umath") is None
    assert module_digest("builtins") is None
    assert module_digest("no such module") is None


# ---- by value ----


def test_lambdas_closures_and_local_compiled_functions_travel_by_value() -> None:
    offset = np.arange(1000.0)

    @numba.njit
    def local(x: float) -> float:
        return x * 2.0

    for kernel in (lambda x: x + offset[1], lambda x: local(x) + square(1) - x, local):
        spec = prepare(kernel)
        assert spec.target is None
        assert spec.source is None
        assert loaded(spec)(1.0) == 2.0


def test_it_is_known_of_a_compiled_kernel_whether_each_environment_compiles_it() -> None:
    local = numba.njit(lambda x: x)
    cached = numba.njit(cache=True)(lambda x: x)
    assert prepare(local).is_compiled_there
    assert prepare(functools.partial(local)).is_compiled_there
    assert prepare(cached).is_compiled_there, "by value it leaves its cache behind"
    assert prepare(compiled).is_compiled_there, "its module has no cache"
    assert not prepare(square).is_compiled_there
    assert not prepare(lambda x: local(x) + 1).is_compiled_there, "nobody looks into a function"


def test_a_kernel_by_reference_that_has_a_cache_is_not_compiled_in_each_environment() -> None:
    from fanout.kernels import mandelbrot

    spec = prepare(mandelbrot._count)
    assert spec.target
    assert not spec.is_compiled_there


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        (Scaler(3), 12),
        (Scaler(3).shifted, 7),
        (np.negative, -4),
        (operator.itemgetter, None),
        (operator.methodcaller("bit_length"), 3),
        ("abc".count, None),
    ],
)
def test_objects_that_can_be_called_travel(kernel: Callable[..., Any], expected: object) -> None:
    travelled = loaded(prepare(kernel))
    assert expected is None or travelled(4) == expected


def test_a_class_method_travels_with_its_class() -> None:
    assert loaded(prepare(Scaler.made))(4)(2) == 8


def test_nested_partials_travel_as_function_and_arguments() -> None:
    weights = np.arange(5000.0)
    spec = prepare(functools.partial(functools.partial(weighted, weights), bias=0.5), is_safe=True)
    assert spec.target == f"{__name__}:weighted"
    _, args, kwargs = decode(spec.code, is_safe=True)
    assert np.array_equal(args[0], weights)
    assert np.shares_memory(np.frombuffer(spec.code.buffers[0]), weights)
    assert kwargs == {"bias": 0.5}
    assert loaded(spec)(x=2.0) == weighted(weights, 0.5, 2.0)


def test_the_digest_tells_kernels_and_bound_arguments_apart() -> None:
    x, long_x = b"x" * 1500, b"x" * 2000
    kernels: list[Callable[..., object]] = [
        square,
        Scaler.doubled,
        functools.partial(weighted, 1),
        functools.partial(weighted, 2),
        functools.partial(weighted, x, long_x),
        functools.partial(weighted, long_x, x),
        functools.partial(weighted, np.zeros(5000)),
        functools.partial(weighted, np.ones(5000)),
    ]
    digests = [prepare(kernel).digest for kernel in kernels]
    assert len(set(digests)) == len(kernels)
    assert digests == [prepare(kernel).digest for kernel in kernels]


def test_a_function_of_main_travels_by_value_and_runs_elsewhere() -> None:
    script = """if True:
        import sys
        import numba
        from fanout.kernel_spec import prepare
        from fanout.wire import Message, frame
        SHIFT = 3
        def helper(x): return x + SHIFT
        def kernel(x): return helper(2 * x)
        @numba.njit
        def fast(x): return x + SHIFT
        for one in (kernel, fast):
            spec = prepare(one)
            assert (spec.target, spec.local_modules) == (None, {"__main__"}), spec
            message = Message({}, spec.code)
            sys.stdout.buffer.write(b"".join(frame(message)))
    """
    from fanout.wire import FrameReader

    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    reader = FrameReader()
    reader.space()[: len(run.stdout)] = run.stdout
    functions = [decode(message.payload)[0] for message in reader.received(len(run.stdout))]
    assert [function(10) for function in functions] == [23, 13]


def test_a_function_of_a_module_that_workers_cannot_import_travels_by_value() -> None:
    module = types.ModuleType("made_up")
    exec("FACTOR = 7\ndef inner(x): return FACTOR * x\ndef outer(x): return inner(x)", vars(module))
    sys.modules["made_up"] = module
    try:
        spec = prepare(module.outer)
        other = prepare(functools.partial(square, 3), is_safe=True)
    finally:
        del sys.modules["made_up"]
    assert spec.target is None
    assert spec.local_modules == {"made_up"}
    assert loaded(spec)(6) == 42
    assert other.local_modules == frozenset()


# ---- refused ----


class AsyncCallable:
    async def __call__(self, x: int) -> int:
        return x


async def coroutine(x: int) -> int:
    return x


async def stream(x: int) -> AsyncIterator[int]:
    yield x


@pytest.mark.parametrize(
    "kernel",
    [coroutine, stream, functools.partial(coroutine, 1), AsyncCallable(), AsyncCallable().__call__],
)
def test_a_coroutine_function_is_refused_with_the_way_out(kernel: Callable[..., object]) -> None:
    with pytest.raises(KernelNotUsableError, match=r"is a coroutine function: .*asyncio\.run"):
        prepare(kernel)


def test_a_class_whose_instances_are_asynchronous_is_a_kernel_like_any_other() -> None:
    assert prepare(asyncio.Event).target == "asyncio.locks:Event"


def test_what_is_not_callable_is_refused_and_named_in_brief() -> None:
    with pytest.raises(KernelNotUsableError, match="not callable but of type list: pass the") as e:
        prepare([1] * 100_000)  # type: ignore[arg-type]
    assert len(str(e.value)) < 300
    assert e.value.kernel.startswith("[1, 1")


@pytest.mark.parametrize("mode", ["r", "w", "rb", "r+b"])
def test_a_kernel_over_an_open_file_is_refused_naming_variable_and_type(
    tmp_path: Path, mode: str
) -> None:
    (tmp_path / "file").touch()
    with (tmp_path / "file").open(mode) as handle:
        kind = type(handle).__name__
        hint = (
            rf"kernel .*lambda> can't be sent to a worker: it uses the variable 'handle', .*{kind}"
        )
        with pytest.raises(KernelNotUsableError, match=hint):
            prepare(lambda x: handle.read(x + 1))


def test_a_kernel_over_standard_output_writes_to_that_of_the_worker() -> None:
    with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO())) as stdout:
        spec = prepare(lambda x: stdout.write(x + "\n"))
    with contextlib.redirect_stdout(io.StringIO()) as there:
        loaded(spec)("here")
    assert there.getvalue() == "here\n"


def test_a_kernel_over_a_lock_is_refused_naming_variable_and_type() -> None:
    guard = threading.Lock()

    def locked(x: int) -> int:
        with guard:
            return x

    hint = r"locked can't be sent .* uses the variable 'guard', .*_thread\.lock .*inside the"
    with pytest.raises(KernelNotUsableError, match=hint) as refused:
        prepare(locked)
    assert isinstance(refused.value.__cause__, EncodeError)


def test_a_bound_argument_that_cannot_travel_is_named_by_type() -> None:
    with pytest.raises(KernelNotUsableError, match=r"_thread\.lock"):
        prepare(functools.partial(weighted, threading.Lock()))


def test_safe_refuses_code_and_says_where_to_put_it() -> None:
    with pytest.raises(KernelNotUsableError, match=r"under codec='safe': .*top level of a module"):
        prepare(lambda x: x, is_safe=True)
    with pytest.raises(KernelNotUsableError, match=r"under codec='safe': .*Scaler needs pickle"):
        prepare(functools.partial(weighted, Scaler(1)), is_safe=True)


# ---- what a fresh interpreter would find ----


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Path]:
    """A folder on sys.path; what is imported from it is forgotten afterwards."""
    known = set(sys.modules)
    sys.path.insert(0, str(tmp_path))
    yield tmp_path
    sys.path.remove(str(tmp_path))
    for name in set(sys.modules) - known:
        del sys.modules[name]
    importlib.invalidate_caches()


@pytest.mark.parametrize(
    "module",
    [__name__, "json", "json.decoder", "math", "builtins", "fanout", "fanout.kernels", "numpy"],
)
def test_modules_that_a_worker_finds_too_are_importable(module: str) -> None:
    importlib.import_module(module)
    assert is_importable(module)


@pytest.mark.parametrize("module", ["__main__", "__mp_main__", "no_such_module", "no.such.module"])
def test_main_and_what_is_not_imported_are_not_importable(module: str) -> None:
    assert not is_importable(module)


def test_packages_and_namespace_packages_are_importable(site: Path) -> None:
    for folder in ("pack/sub", "space/sub"):
        (site / folder).mkdir(parents=True)
        (site / folder / "leaf.py").touch()
    (site / "pack/__init__.py").touch()
    for name in ("pack", "pack.sub", "pack.sub.leaf", "space", "space.sub", "space.sub.leaf"):
        importlib.import_module(name)
        assert is_importable(name), name
    sys.path.remove(str(site))  # so a fresh interpreter with this path would not find them
    assert not is_importable("pack.sub.leaf")
    assert not is_importable("space.sub.leaf")
    sys.path.insert(0, str(site))


def test_a_module_put_into_sys_modules_is_importable_only_if_its_file_is_found(site: Path) -> None:
    (site / "shadow").mkdir()
    (site / "real.py").touch()
    elsewhere = site / "shadow/real.py"
    elsewhere.touch()
    for name in ("shadow", "lonely", "real"):
        sys.modules[name] = types.ModuleType(name)
        assert not is_importable(name), name
    sys.modules["lonely"].__dict__.pop("__spec__")
    assert not is_importable("lonely")
    sys.modules["lonely.child"] = types.ModuleType("lonely.child")
    assert not is_importable("lonely.child")
    spec = importlib.util.spec_from_file_location("real", elsewhere)
    assert spec is not None
    sys.modules["real"] = importlib.util.module_from_spec(spec)
    assert not is_importable("real")
    del sys.modules["real"]
    importlib.import_module("real")
    assert is_importable("real")


def test_kernels_have_a_name_for_people() -> None:
    assert kernel_name(square) == "square"
    assert kernel_name(functools.partial(square, 1)) == "partial of square"
    assert kernel_name(Scaler(1)).startswith("<tests.test_kernel_spec.Scaler object")
    assert len(kernel_name(operator.itemgetter(*range(1000)))) < 200
