"""What kernels print, on its way into the reply; the far end's."""

from __future__ import annotations

import contextlib
import io
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

# Of what one task prints, the last part is kept.
_PRINTED_BYTES: Final = 16 * 1024


class Capture(io.TextIOBase):
    """Stands for sys.stdout while kernels run; keeps the end of what one task writes."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._is_cut = False
        self.size = 0

    def writable(self) -> bool:
        """As every stream says."""
        return True

    def write(self, text: str) -> int:
        """Keep it."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        self._parts.append(text)
        self.size += len(text)
        if self.size > 4 * _PRINTED_BYTES:
            self._parts = ["".join(self._parts)[-_PRINTED_BYTES:]]
            self._is_cut = True
            self.size = len(self._parts[0])
        return len(text)

    def take(self) -> str:
        """What was written since, and forget it."""
        text = "".join(self._parts)
        is_cut = self._is_cut or len(text) > _PRINTED_BYTES
        self._parts.clear()
        self._is_cut = False
        self.size = 0
        return f"[…]{text[-_PRINTED_BYTES:]}" if is_cut else text


@contextlib.contextmanager
def printed_to_stderr() -> Iterator[None]:
    """What a module prints while it is imported is no task's output."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
