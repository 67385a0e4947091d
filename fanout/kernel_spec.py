"""How a kernel travels: by reference where the worker has the same code, by value otherwise.

By reference is `module:qualname` and the sha256 of the module's file, which the worker compares
with its own. By value is the code itself (cloudpickle): lambdas, closures, functions typed into a
notebook or a script, and functions of modules that a fresh interpreter would not find. The
arguments of a `functools.partial` go along as values. Nothing is sent here; see `request`.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.machinery
import inspect
import reprlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fanout.codec import Encoded, encode
from fanout.errors import EncodeError, KernelNotUsableError
from fanout.kernel_roots import roots_of

if TYPE_CHECKING:
    from collections.abc import Callable

_HINT_SAFE: Final = (
    "its code would need pickle; define it at the top level of a module that workers can import, "
    "or use codec='auto'"
)
# Of the repr of a kernel that has no name.
_NAME_CHARACTERS: Final = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSpec:
    """A kernel, ready to travel.

    Attributes:
        name: For people.
        digest: Identifies kernel and bound arguments; the worker caches under it.
        target: `module:qualname` to load it from; None when it goes by value.
        source: sha256 of the module's file; None when there is no file (built-ins) or no target.
        code: `(function or None, args, kwargs)`, encoded.
        local_modules: Modules that the worker can't import; what they define goes by value.
        roots: Modules that it refers to.
        is_compiled_there: Whether numba has to compile it in each environment: it travels by value,
            or its module's `jit` has no cache. Only known of a compiled function itself, and not of
            one that calls such a function.
    """

    name: str
    digest: str
    target: str | None
    source: str | None
    code: Encoded
    local_modules: frozenset[str]
    roots: frozenset[str] = frozenset()
    is_compiled_there: bool = False


def prepare(kernel: Callable[..., object] | KernelSpec, *, is_safe: bool = False) -> KernelSpec:
    """Decide how a kernel travels, and encode it; one that is ready stays as it is.

    Raises:
        KernelNotUsableError: It isn't callable, is a coroutine function, or can't be encoded.
    """
    if isinstance(kernel, KernelSpec):
        return kernel
    if not callable(kernel):
        raise KernelNotUsableError(
            kernel_name(kernel),
            f"is not callable but of type {type(kernel).__name__}",
            "pass the function itself, as in fanout.map(simulate, chunks), not its result",
        )
    function, args, kwargs = _unwrapped(kernel)
    name = kernel_name(function)
    if _is_async(function):
        raise KernelNotUsableError(
            name,
            "is a coroutine function",
            "workers run ordinary functions; wrap it, for example in "
            "`def kernel(chunk): return asyncio.run(work(chunk))`",
        )
    module = getattr(function, "__module__", None) or ""
    local = frozenset() if not module or is_importable(module) else frozenset({module})
    target = None if local else _target(function)
    try:
        code = encode((None if target else function, args, kwargs), is_safe=is_safe, by_value=local)
    except EncodeError as error:
        why = "can't be sent under codec='safe'" if is_safe else "can't be sent to a worker"
        hint = _HINT_SAFE if is_safe and not target else _why_not(function, error)
        raise KernelNotUsableError(name, why, hint) from error
    source = module_digest(module) if target else None
    sha = hashlib.sha256(f"{target} {source} ".encode() + code.body)
    for buffer in code.buffers:
        # With its length, or bytes could move from one bound argument to the next.
        sha.update(memoryview(buffer).nbytes.to_bytes(8, "little"))
        sha.update(buffer)
    return KernelSpec(
        name=name,
        digest=sha.hexdigest(),
        target=target,
        source=source,
        code=code,
        local_modules=local,
        roots=roots_of([function, *args, *kwargs.values()]),
        is_compiled_there=_is_compiled_there(function, is_by_value=target is None),
    )


def kernel_name(kernel: object) -> str:
    """How a kernel is called in messages."""
    if isinstance(kernel, functools.partial):
        return f"partial of {kernel_name(kernel.func)}"
    shortener = reprlib.Repr()
    shortener.maxother = _NAME_CHARACTERS
    return getattr(kernel, "__qualname__", None) or shortener.repr(kernel)


def module_digest(name: str) -> str | None:
    """Digest of the file that a module is loaded from, as it is now; None if it has none.

    Compiled modules have none either: `math` is the same on x86 and arm, its file is not.
    """
    path = getattr(sys.modules.get(name), "__file__", None)
    if path is None or path.endswith(tuple(importlib.machinery.EXTENSION_SUFFIXES)):
        return None
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return None


def is_importable(module: str) -> bool:
    """Whether a fresh interpreter with this `sys.path` would find the very file loaded here."""
    loaded = sys.modules.get(module)
    if module in {"__main__", "__mp_main__"} or loaded is None:
        return False
    parent, _, _ = module.rpartition(".")
    if parent and not is_importable(parent):
        return False
    path = getattr(sys.modules[parent], "__path__", None) if parent else None
    if parent and path is None:
        return False
    for finder in sys.meta_path:
        find_spec = getattr(finder, "find_spec", None)
        spec = find_spec(module, path, None) if find_spec else None
        if spec is not None:
            known = getattr(loaded, "__spec__", None)
            return known is not None and bool(spec.origin == known.origin)
    return False


def _is_compiled_there(function: Any, *, is_by_value: bool) -> bool:
    dispatcher: Any = sys.modules.get("numba.core.dispatcher")  # not there: it is none of numba's
    if not isinstance(function, getattr(dispatcher, "Dispatcher", ())):
        return False
    # By value it leaves its cache behind.
    stats = getattr(function, "stats", None)
    return is_by_value or getattr(stats, "cache_path", None) is None


def _is_async(function: Any) -> bool:
    # Of an instance it is the method that counts; to call a class makes an instance, at once.
    parts = [function] if inspect.isclass(function) else [function, function.__call__]
    return any(inspect.iscoroutinefunction(p) or inspect.isasyncgenfunction(p) for p in parts)


def _unwrapped(kernel: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    if type(kernel) is functools.partial:
        return kernel.func, kernel.args, dict(kernel.keywords)
    return kernel, (), {}


def _target(function: Any) -> str | None:
    """`module:qualname` if that leads to this very object, else None."""
    module = getattr(function, "__module__", None)
    qualname = getattr(function, "__qualname__", None)
    if not module or not qualname:
        return None
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return f"{module}:{qualname}" if found is function else None


def _why_not(function: Any, error: EncodeError) -> str:
    """Name the variable that can't travel, since the pickle error only knows its type."""
    for variable, value in sorted(_captured(function).items()):
        try:
            encode(value)
        except EncodeError as inner:
            return f"it uses the variable {variable!r}, and {inner}"
    return str(error)


def _captured(function: Any) -> dict[str, Any]:
    function = getattr(function, "py_func", function)  # numba keeps the Python function there
    try:
        found = inspect.getclosurevars(function)
    except (TypeError, ValueError):
        return {}
    modules = {name for name, value in found.globals.items() if inspect.ismodule(value)}
    captured = {**found.globals, **found.nonlocals}
    return {name: value for name, value in captured.items() if name not in modules}
