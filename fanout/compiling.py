"""How long numba compiles while a worker serves a request, as numba itself tells.

A kernel that travels by value is compiled anew in each environment, at its first call or, if it
names its signatures, while it is loaded. numba broadcasts when a compilation starts and ends; one
may go on within another, and in any thread. Counted is the time during which there is at least one.

numba is never imported here. If it is not there yet, a finder in `sys.meta_path` waits until
something imports it, for as long as the request takes. Nothing in here may make a task fail: where
numba is not as it is known here, nothing is counted.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Self

# The module of numba (0.68.1, 2026-11) that keeps the listeners.
_EVENTS: Final = "numba.core.event"
# The first is told of `jit` functions; `vectorize` tells only of the passes within.
_KINDS: Final = ("numba:compile", "numba:run_pass")


class Compiling:
    """Counts how long numba compiles within `with` blocks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depth = 0
        self._began_s = 0.0
        self._counted_s = 0.0
        self._finder = _Finder(self._listen)
        self._events: Any = None  # numba's module, once it was seen
        self._listener: Any = None

    def __enter__(self) -> Self:
        events = sys.modules.get(_EVENTS)
        if events is not None:
            self._listen(events)
        else:
            sys.meta_path.insert(0, self._finder)
        return self

    def __exit__(self, *_: object) -> None:
        if self._events is None:
            self._finder.leave()
        else:
            for kind in _KINDS:
                with contextlib.suppress(Exception):  # another numba, which lacks this kind
                    self._events.unregister(kind, self._listener)
        with self._lock:
            self._count(0)  # how it goes on after the block, in a thread, is not heard

    @property
    def seconds(self) -> float:
        """What was counted and not taken yet."""
        return self._counted_s

    def take(self) -> float:
        """Give what was counted up to now, seconds, and begin anew."""
        with self._lock:
            self._count(self._depth)
            taken_s, self._counted_s = self._counted_s, 0.0
        return taken_s

    def _listen(self, events: Any) -> None:
        with contextlib.suppress(Exception):  # another numba
            if self._events is not events:
                self._listener = _listener(events, self._started, self._ended)
                self._events = events
            for kind in _KINDS:
                events.register(kind, self._listener)

    def _started(self) -> None:
        with self._lock:
            self._count(self._depth + 1)

    def _ended(self) -> None:
        with self._lock:
            self._count(max(0, self._depth - 1))  # of what started before the block, only the end

    def _count(self, depth: int) -> None:
        """Count the time until now; from now on so many compilations go on."""
        now_s = time.perf_counter()
        if self._depth:
            self._counted_s += now_s - self._began_s
        self._began_s = now_s
        self._depth = depth


def _listener(events: Any, started: Callable[[], None], ended: Callable[[], None]) -> Any:
    class Listener(events.Listener):  # type: ignore[misc]  # numba is not imported here
        def on_start(self, _event: object) -> None:
            started()

        def on_end(self, _event: object) -> None:
            ended()

    return Listener()


class _Finder:
    """Hears of the import of numba's events, and finds nothing else."""

    def __init__(self, found: Callable[[ModuleType], None]) -> None:
        self._found = found

    def find_spec(
        self, name: str, _path: object = None, _target: object = None
    ) -> ModuleSpec | None:
        if name != _EVENTS:
            return None
        import importlib.util  # only here: most workers come to their end without it

        self.leave()  # or it would ask itself
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            loader: Any = _Loader(spec.loader, self._found)
            spec.loader = loader
        return spec

    def leave(self) -> None:
        """Wait no longer."""
        with contextlib.suppress(ValueError):
            sys.meta_path.remove(self)


class _Loader:
    """Another loader, and a call when that is done; leaves no trace in the module."""

    def __init__(self, loader: Any, loaded: Callable[[ModuleType], None]) -> None:
        self._loader = loader
        self._loaded = loaded

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._loaded(module)
