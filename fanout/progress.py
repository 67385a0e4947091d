"""What a person sees of a run while it runs: on stderr, calm, and only if the run takes a while.

    events -> tally.Tally -> View -> layout.blocks -> terminal, notebook or log

Nothing here may end or slow a run: an event costs some counting under a lock, all drawing is done
by a thread of the run's own, and a stderr that is closed, broken or missing is written to in vain.
Nothing is shown of a run that ends at once. rich, which no other module knows, is imported when a
terminal is drawn on and not before: most runs are short, or write to a log.
"""

from __future__ import annotations

import atexit
import contextlib
import html
import os
import sys
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TextIO, cast

from fanout.events import RunEnded, RunStarted
from fanout.layout import blocks, plain, summary
from fanout.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    from fanout.cost.ledger import Ledger
    from fanout.events import RunEvent
    from fanout.layout import Part
    from fanout.tally import View

_QUIET_S: Final = 0.5  # a run that ends before is not worth a word
_FRAME_S: Final = 1 / 8  # of a terminal: smooth for counters, and 1 % of a core
_CELL_FRAME_S: Final = 0.5  # of a notebook: each frame is a message to a browser
_POLL_S: Final = 0.25  # of a log: how long what a kernel prints may wait
_FIRST_LINE_S: Final = 5.0
_PAUSES_S: Final = (10.0, 60.0)  # between lines of a log: at first, at last
_PAUSE_GROWTH: Final = 1.5
_NOTEBOOK_CELLS: Final = 90
# Set by xterm and GNU screen, which cut long lines off when they become narrower; others fold them.
_CUTTERS: Final = frozenset({"XTERM_VERSION", "STY"})
_CSS: Final = {
    "bold": "font-weight:bold",
    "bold red": "font-weight:bold;color:#c62828",
    "bright_black": "color:gray",
    "cyan": "color:#00838f",
    "red": "color:#c62828",
    "yellow": "color:#b26a00",
}


class Progress:
    """Shows a run on stderr while it goes on; an observer of its events.

    Args:
        quiet_s: Nothing is shown of a run that ends before, seconds.
        first_line_s: Where stderr is no terminal: when to write the first line, seconds.
        ledger: Knows what the run has cost so far; None: nothing, and it isn't shown.
    """

    def __init__(
        self,
        ledger: Ledger | None = None,
        /,
        *,
        quiet_s: float = _QUIET_S,
        first_line_s: float = _FIRST_LINE_S,
    ) -> None:
        self._ledger = ledger
        self._quiet_s = quiet_s
        self._first_line_s = first_line_s
        self.began_s = 0.0
        self._tally = Tally()
        self._lock = threading.Lock()  # of the tally
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __call__(self, event: RunEvent) -> None:
        """Take note of an event."""
        with self._lock:
            self._tally.take(event, time.monotonic())
        kind = type(event)
        if kind is RunStarted:
            self._start()
        elif kind is RunEnded:
            self._end()

    def view(self) -> View:
        """The run as it stands."""
        with self._lock:
            view = self._tally.view(time.monotonic())
        if self._ledger is None or not (so_far := self._ledger.so_far):
            return view
        from fanout.cost.pricing import usd_so_far  # reads the prices, and not before

        gb_s, usd = usd_so_far(so_far)
        return replace(view, gb_s=gb_s, usd=usd)

    def printed(self) -> list[str]:
        """The lines that kernels printed since this was last asked."""
        with self._lock:
            return self._tally.printed()

    def _start(self) -> None:
        self.began_s = time.monotonic()
        thread = threading.Thread(target=self._show, name="fanout progress", daemon=True)
        # Without a thread (the system has no more) nothing is shown.
        with contextlib.suppress(RuntimeError):
            thread.start()
            self._thread = thread

    def _end(self) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _show(self) -> None:
        """Show the run until it ends; the thread's body."""
        stderr = sys.stderr
        if stderr is None:  # pythonw.exe
            return
        file = _SafeFile(stderr)
        if self._ended.wait(self._quiet_s):
            file.lines(self.printed())
        elif _in_notebook():
            self._show_in_notebook(file)
        elif not _is_lively(file) or not _TERMINAL.attach(self, file):
            self._show_as_lines(file)
        else:
            try:
                while not self._ended.wait(_FRAME_S):
                    _TERMINAL.draw(self)
            finally:
                _TERMINAL.detach(self)

    def _show_in_notebook(self, file: _SafeFile) -> None:
        cell = _Cell()
        is_ended = False
        while not is_ended:
            file.lines(self.printed())
            cell.draw(blocks([self.view()], _NOTEBOOK_CELLS)[0])
            is_ended = self._ended.wait(_CELL_FRAME_S)
        file.lines(self.printed())
        cell.draw([summary(self.view())])

    def _show_as_lines(self, file: _SafeFile) -> None:
        due_s = self._first_line_s
        pause_s, longest_s = _PAUSES_S
        is_shown = False
        while not self._ended.wait(_POLL_S):
            file.lines(self.printed())
            view = self.view()
            if view.elapsed_s >= due_s:
                file.lines([plain(view)])
                is_shown = True
                due_s = view.elapsed_s + pause_s
                pause_s = min(longest_s, pause_s * _PAUSE_GROWTH)
        file.lines(self.printed())
        if is_shown:
            file.lines(["fanout: " + "".join(text for text, _ in summary(self.view()))])


class _SafeFile:
    """A file of which writing always succeeds: who closed stderr does not wait for us."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    @property
    def encoding(self) -> str:
        return getattr(self._file, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            self._file.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self._file.flush()

    def isatty(self) -> bool:
        try:
            return self._file.isatty()
        except (OSError, ValueError, AttributeError):
            return False

    def fileno(self) -> int:
        return self._file.fileno()

    def lines(self, lines: Sequence[str]) -> None:
        """Write whole lines, all at once."""
        if lines:
            self.write("".join(f"{line}\n" for line in lines))
            self.flush()


class _Terminal:
    """The terminal, shared by all runs that are shown on it at a time.

    Runs stand one above the other; the first one draws for all. What kernels print, and the last
    line of each run, goes above them and stays. A frame is one write, with the cursor hidden only
    meanwhile and left on an empty line of its own: whatever kills the process, at whatever moment,
    the terminal is sane and the prompt has its line.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: list[Progress] = []
        self._live: Live | None = None
        self._lengths: list[int] = []  # of the lines on the screen
        self._redirected: dict[str, tuple[TextIO, TextIO]] = {}

    def attach(self, run: Progress, file: _SafeFile) -> bool:
        """Show a run; False if somebody else's live display has the terminal."""
        with self._lock:
            if self._live is None:
                if any(hasattr(stream, "rich_proxied_file") for stream in (sys.stdout, sys.stderr)):
                    return False  # the program draws by rich itself
                self._open(file)
            self._runs.append(run)
            self._runs.sort(key=lambda run: run.began_s)
            return True

    def draw(self, run: Progress) -> None:
        """Show what is new."""
        lines = _printed(run)
        with self._lock:
            if self._live is not None and (lines or run is self._runs[0]):
                with self._frame(self._live):
                    self._print(self._live, lines)

    def detach(self, run: Progress) -> None:
        """Leave the run's last line, and nothing else of it."""
        lines = _printed(run)
        view = run.view()
        with self._lock:
            self._runs.remove(run)
            if self._live is None:
                return
            with self._frame(self._live):
                self._print(self._live, [*lines, summary(view, self._live.console.width)])
                if not self._runs:
                    self._close()

    def _open(self, file: _SafeFile) -> None:
        from rich.console import Console
        from rich.live import Live

        console = Console(
            file=cast("TextIO", file),
            force_terminal=True,
            force_interactive=True,
            force_jupyter=False,
            soft_wrap=True,
            markup=False,
            highlight=False,
            emoji=False,
        )
        live = Live(
            console=console,
            get_renderable=lambda: self._picture(console),
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        with console:
            live.start()
            console.show_cursor(True)
        self._live = live
        self._redirect(console)
        atexit.register(self._exit)

    def _close(self) -> None:
        if self._live is not None:
            self._restore()
            live, self._live = self._live, None
            live.stop()
            atexit.unregister(self._exit)

    def _redirect(self, console: Console) -> None:
        """Lead what this process prints above the runs.

        rich can do that, too, but it also redirects a stdout that is a file, and undoes what the
        program itself has redirected meanwhile.
        """
        from rich.file_proxy import FileProxy

        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is not None and _SafeFile(stream).isatty():
                proxy = cast("TextIO", FileProxy(console, stream))
                self._redirected[name] = (stream, proxy)
                setattr(sys, name, proxy)

    def _restore(self) -> None:
        for name, (stream, proxy) in self._redirected.items():
            proxy.flush()  # a line that was begun
            if getattr(sys, name) is proxy:
                setattr(sys, name, stream)
        self._redirected.clear()

    def _exit(self) -> None:
        """The process ends while a run still goes on."""
        with self._lock:
            self._close()

    @contextlib.contextmanager
    def _frame(self, live: Live) -> Iterator[None]:
        with live.console as console:
            console.show_cursor(False)
            self._unfold(console)
            yield
            console.show_cursor(True)

    def _unfold(self, console: Console) -> None:
        """Erase rows that rich doesn't know of: narrowed, a terminal folds the lines it shows."""
        from rich.control import Control
        from rich.segment import ControlType

        width = max(1, console.width)
        folds = sum((length - 1) // width for length in self._lengths if length)
        if folds and not _CUTTERS & os.environ.keys():
            erase = (ControlType.ERASE_IN_LINE, 2)
            console.control(Control(erase, *((ControlType.CURSOR_UP, 1), erase) * folds))

    def _print(self, live: Live, lines: Sequence[list[Part]]) -> None:
        """Redraw the runs, and put lines above them."""
        from rich.text import Text

        live.refresh()
        if lines:
            live.console.print(Text("\n").join(_text(line) for line in lines))

    def _picture(self, console: Console) -> Group:
        from rich.console import Group
        from rich.text import Text

        width, height = console.size
        is_ascii = console.options.ascii_only
        shown = blocks([run.view() for run in self._runs], width, is_ascii=is_ascii)
        if sum(len(lines) for lines in shown) > height - 2:
            shown = [lines[:1] for lines in shown]
        lines = [line for lines in shown for line in lines][: max(1, height - 2)]
        self._lengths = [sum(len(text) for text, _ in line) for line in lines]
        return Group(*(_text(line) for line in lines), Text())


# A process has one terminal, so this, alone here, is shared by all runs of the process.
_TERMINAL: Final = _Terminal()


class _Cell:
    """A place in a notebook, drawn over through IPython: rich's Live would need ipywidgets."""

    def __init__(self) -> None:
        self._handle: Any = None

    def draw(self, lines: Sequence[list[Part]]) -> None:
        """Show these lines and no others."""
        from IPython.display import display

        text = "\n".join("".join(text for text, _ in line) for line in lines)
        page = "\n".join("".join(_html(part) for part in line) for line in lines)
        data = {"text/plain": text, "text/html": f'<pre style="line-height:1.2">{page}</pre>'}
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(data, raw=True)


def _printed(run: Progress) -> list[list[Part]]:
    words = [line.partition(" ") for line in run.printed()]  # the first one is the task's index
    return [[(first + space, "dim"), (rest, "")] for first, space, rest in words]


def _text(line: Iterable[Part]) -> Text:
    from rich.text import Text

    return Text.assemble(*line, no_wrap=True, overflow="ellipsis")


def _html(part: Part) -> str:
    text, style = part
    return f'<span style="{_CSS[style]}">{html.escape(text)}</span>' if style else html.escape(text)


def _is_lively(file: _SafeFile) -> bool:
    """Whether what was written to it can be written over."""
    return file.isatty() and os.environ.get("TERM", "").lower() not in {"dumb", "unknown"}


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None
