"""Pickle for what has no encoding of its own: plain where it can be, with code where it must be."""

from __future__ import annotations

import contextlib
import io
import pickle
import sys
import threading
import types
from typing import TYPE_CHECKING, Any, ClassVar, Final

from fanout.codec.parts import (
    Buffer,
    type_name,
)
from fanout.errors import EncodeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_HINT_GENERATOR: Final = "pass or return a list of what it yields"
_HINT_RESOURCE: Final = (
    "open files, locks, connections and the like belong to one process: create them inside the "
    "kernel"
)
# cloudpickle's list of modules that go by value is one for the whole process.
_REGISTRY_LOCK: Final = threading.RLock()


def pickled(value: object, by_value: frozenset[str]) -> tuple[bytes, list[Buffer]]:
    """Pickle with plain pickle where it can, with cloudpickle where code must go along."""
    views: list[Buffer] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        try:
            views.append(buffer.raw())
        except BufferError:  # not contiguous: let pickle write it into the stream
            return True
        return False

    try:
        stream = pickle.dumps(value, protocol=5, buffer_callback=keep)
        if not any(module.encode() in stream for module in by_value):
            return stream, views
    except RecursionError:
        raise
    except Exception:  # noqa: BLE001, S110  # __reduce__ is foreign code; cloudpickle has the last word
        pass
    views.clear()
    try:
        with _sent_by_value(by_value):
            return _cloudpickled(value, keep), views
    except RecursionError:
        raise
    except Exception as error:
        raise EncodeError(
            type_name(type(value)),
            f"can't be pickled ({error})",
            _HINT_GENERATOR if isinstance(value, types.GeneratorType) else _HINT_RESOURCE,
        ) from error


def _cloudpickled(value: object, keep: Callable[[pickle.PickleBuffer], bool]) -> bytes:
    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
        dispatch_table: ClassVar = cloudpickle.Pickler.dispatch_table.new_child(
            {io.TextIOWrapper: _stream}
        )

    with io.BytesIO() as file:
        Pickler(file, protocol=5, buffer_callback=keep).dump(value)
        return file.getvalue()


def _stream(file: io.TextIOWrapper) -> tuple[Any, ...]:
    """In place of cloudpickle's own way with an open file, which is to send all that is in it.

    How far it is read would then depend on which tasks a worker happens to run.
    """
    for name in ("stdout", "stderr"):
        if file is getattr(sys, name):
            return getattr, (sys, name)
    raise pickle.PicklingError(f"{file.name!r} is open here only")


@contextlib.contextmanager
def _sent_by_value(modules: frozenset[str]) -> Iterator[None]:
    """Have cloudpickle write out what these modules define, for as long as it takes."""
    import cloudpickle

    with _REGISTRY_LOCK, contextlib.ExitStack() as stack:
        already = cloudpickle.list_registry_pickle_by_value()
        for name in modules - already - {"__main__"}:
            if (module := sys.modules.get(name)) is not None:
                cloudpickle.register_pickle_by_value(module)
                stack.callback(cloudpickle.unregister_pickle_by_value, module)
        yield
