"""What Ctrl-C does to a run that ends already: nothing, until all is tidied up.

Python raises KeyboardInterrupt wherever the main thread is at the moment. In the midst of
`Future.cancel` that leaves a task which nobody ever wakes, and `asyncio.run` waits for it forever;
`fanout.sync` would leave a loop that nobody stops, and wait for its thread. So the first Ctrl-C
passes, where it does no harm. The second one is kept until the run has ended, and forgotten if the
first one has done its work by then. The third passes at once, for what can't be tidied up.

Only handlers that raise KeyboardInterrupt are stood in for: Python's own, and that of
`asyncio.run`. What a program has in place of these is its own affair.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType


class _Guard:
    """Stands in for the handler of SIGINT; there is one of it, as there is one such signal."""

    def __init__(self) -> None:
        self.holds = 0
        self._usual: Any = signal.default_int_handler
        self._is_open = True
        self._is_kept = False
        self._passed = 0
        # That of `asyncio.run` which has had its first one: the next makes it raise.
        self._served: Callable[[], Any] = lambda: None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self._is_open:
            if not self._is_kept:
                self._is_kept = True
                return
            self._restore()
        self._is_open = False
        self._passed += 1
        usual = self._usual
        if usual is not signal.default_int_handler:
            self._served = weakref.ref(usual)
        usual(number, frame)

    def hold(self, usual: Any) -> None:
        """Stand in for a handler; until it is in place, that one may raise."""
        if not self.holds:
            self._usual = usual
            self._is_open = self._served() is not usual
            self._is_kept = False
            signal.signal(signal.SIGINT, self)
        self.holds += 1

    def release(self) -> None:
        """Have the usual handler in place again, with what was kept for it."""
        self.holds -= 1
        if self.holds:
            return
        self._is_open = False
        self._restore()
        is_kept, self._is_kept, self._is_open = self._is_kept, False, True
        if is_kept and not isinstance(sys.exception(), asyncio.CancelledError | KeyboardInterrupt):
            usual = self._usual
            usual(signal.SIGINT, None)

    @contextlib.contextmanager
    def switched(self, *, is_open: bool) -> Iterator[None]:
        """One may pass meanwhile, or none."""
        was_open, passed = self._is_open, self._passed
        self._set(is_open)
        try:
            yield
        finally:
            self._set(was_open and self._passed == passed)  # if one has, no other shall

    def _set(self, is_open: bool) -> None:
        self._is_open = is_open
        if is_open and self._is_kept:
            self._is_kept = False
            self(signal.SIGINT, None)

    def _restore(self) -> None:
        current: object = signal.getsignal(signal.SIGINT)
        if current is self:  # else somebody has set another one by now
            signal.signal(signal.SIGINT, self._usual)


_GUARD: Final = _Guard()


class Hold:
    """Lets one Ctrl-C pass, and keeps the next; in the main thread, as it comes nowhere else.

    Args:
        of_loop: An event loop runs here: only `asyncio.run` knows what to do with the first one.
    """

    def __init__(self, *, of_loop: bool = False) -> None:
        self._of_loop = of_loop
        self._is_held = False

    def begin(self) -> None:
        """Stand in for the usual handler, if there is one."""
        if not _is_main():
            return
        usual: Any = signal.getsignal(signal.SIGINT)
        is_loops = _is_of_runner(usual)
        is_plain = usual is signal.default_int_handler and not self._of_loop
        if _GUARD.holds or is_loops or is_plain:
            _GUARD.hold(usual)
            self._is_held = True

    def end(self) -> None:
        """Have all as it was.

        Raises:
            KeyboardInterrupt: One was kept, and nothing that went before it is on its way.
        """
        if self._is_held:
            self._is_held = False
            _GUARD.release()

    def __enter__(self) -> None:
        self.begin()

    def __exit__(self, *_: object) -> None:
        self.end()


def let_through() -> contextlib.AbstractContextManager[None]:
    """While Ctrl-C is held, let one interrupt what is done here."""
    return _switched(is_open=True)


def kept_back() -> contextlib.AbstractContextManager[None]:
    """While Ctrl-C is held, let none interrupt what is done here."""
    return _switched(is_open=False)


def _switched(*, is_open: bool) -> contextlib.AbstractContextManager[None]:
    is_held = _is_main() and _GUARD.holds
    return _GUARD.switched(is_open=is_open) if is_held else contextlib.nullcontext()


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()


def _is_of_runner(handler: Any) -> bool:
    """Whether a handler of SIGINT is that of `asyncio.run`: a bound method with its main task."""
    return isinstance(getattr(getattr(handler, "func", None), "__self__", None), asyncio.Runner)
