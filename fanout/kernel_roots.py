"""Which modules a kernel refers to: where to begin when its project is looked for.

Nothing is run: code objects are read, and what their names stand for.
"""

from __future__ import annotations

import dis
import functools
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Of a container that is bound to a kernel; what is in it may be many.
_MOST_ELEMENTS = 1000


def roots_of(values: Iterable[Any]) -> frozenset[str]:
    """Names of the modules that functions, classes and objects come from or refer to."""
    found: set[str] = set()
    seen: set[int] = set()
    waiting = list(values)
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, types.ModuleType):
            found.add(value.__name__)
            continue
        module = getattr(value, "__module__", None) or getattr(type(value), "__module__", None)
        if isinstance(module, str) and not _is_local(value):
            found.add(module)
        waiting += _parts(value, found)
    return frozenset(found)


def _is_local(value: Any) -> bool:
    """Whether it is a function within another: it goes by value, and doesn't need its module."""
    function = getattr(value, "py_func", value)
    return isinstance(function, types.FunctionType) and "<locals>" in function.__qualname__


def _parts(value: Any, found: set[str]) -> Iterator[Any]:
    """What belongs to a value, as far as its modules matter."""
    function = getattr(value, "py_func", value)  # numba keeps the Python function there
    if isinstance(function, functools.partial):
        yield from (function.func, *function.args, *function.keywords.values())
    elif isinstance(function, types.MethodType):
        yield from (function.__func__, function.__self__)
    elif isinstance(function, types.FunctionType):
        yield from _of_function(function, found)
    elif isinstance(function, type):
        yield from (part for part in vars(function).values() if callable(part))
        yield from function.__bases__
    elif isinstance(function, dict):
        yield from list(function.values())[:_MOST_ELEMENTS]
    elif isinstance(function, list | tuple | set | frozenset):
        yield from list(function)[:_MOST_ELEMENTS]
    elif not isinstance(function, types.BuiltinFunctionType):
        yield type(function)


def _of_function(function: types.FunctionType, found: set[str]) -> Iterator[Any]:
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            continue
    if function.__module__ not in {"__main__", "__mp_main__"} and "<locals>" not in (
        function.__qualname__
    ):
        return  # its module is a root itself, with all that it imports
    for code in _codes(function.__code__):
        for instruction in dis.get_instructions(code):
            if instruction.opname == "IMPORT_NAME":
                found.add(instruction.argval)
        yield from (function.__globals__[name] for name in code.co_names
                    if name in function.__globals__)  # fmt: skip


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """A function's code and that of the functions within."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)
