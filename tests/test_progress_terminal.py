"""What a person sees: progress on a real (pseudo-)terminal, and in a real notebook."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pexpect
import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(not hasattr(pexpect, "spawn"), reason="needs pseudo-terminals")


COLOUR = re.compile(r"\x1b\[([0-9;]*;)?[39][0-7]m")


class Screen:
    """A terminal as simple as can be: what is on it after all this was written.

    Attributes:
        rows: The lines down to the cursor, without what is blank at their ends.
        column: Where the cursor is.
        is_cursor_shown: Whether it can be seen.
    """

    def __init__(self, written: str) -> None:
        self.rows = [""]
        self.row = self.column = 0
        self.is_cursor_shown = True
        for token in re.findall(r"\x1b\[[0-?]*[ -/]*[@-~]|[^\x1b]|\x1b", written):
            self._take(token)
        self.rows = [row.rstrip() for row in self.rows[: self.row + 1]]

    def _take(self, token: str) -> None:
        if token == "\r":
            self.column = 0
        elif token == "\n":
            self.row += 1
            if self.row == len(self.rows):
                self.rows.append("")
        elif token.startswith("\x1b"):
            self._obey(token[-1], token[2:-1])
        else:
            row = self.rows[self.row].ljust(self.column)
            self.rows[self.row] = row[: self.column] + token + row[self.column + 1 :]
            self.column += 1

    def _obey(self, command: str, argument: str) -> None:
        if command == "A":
            self.row = max(0, self.row - int(argument or 1))
        elif command == "K":
            assert argument == "2"
            self.rows[self.row] = ""
        elif command in "hl":
            assert argument == "?25"
            self.is_cursor_shown = command == "h"
        else:
            assert command == "m", f"unknown: {command!r} {argument!r}"


# Runs of made-up events are quicker than those of workers, and always the same.
SCRIPT = """
import asyncio, sys, threading, time
import fanout
from fanout.events import *
from fanout.progress import Progress
from fanout.tasks import Outcome

def rows(n):
    import time
    time.sleep(0.05)
    if n % 10 == 7:
        raise ValueError(f"bad chunk {n}")
    if n == 3:
        print("hello")
    return n

def play(kernel="rows", tasks=20, total=20, error=None, each=lambda index: None):
    progress = Progress(quiet_s=0.1)
    progress(RunStarted(run="r", kernel=kernel, backend="here", concurrency=2, total=total))
    progress(Offered(0, tasks))
    for index in range(tasks):
        progress(Launch(index, [index]))
        progress(AttemptStarted(index))
        time.sleep(0.02)
        progress(AttemptAnswered(index, (), None))
        progress(Deliver([Outcome(index)]))
        each(index)
    progress(InputEnded())
    progress(RunEnded(error))
"""


def spawn(code: str, *, columns: int = 80, **environment: str) -> pexpect.spawn:
    settings = {"TERM": "xterm-256color", "PATH": "/usr/bin:/bin", "PYTHONPATH": "."}
    return pexpect.spawn(
        sys.executable,
        ["-c", SCRIPT + textwrap.dedent(code)],
        dimensions=(24, columns),
        encoding="utf-8",
        timeout=20,
        env={**settings, **environment},
    )


def show(code: str, *, columns: int = 80, **environment: str) -> tuple[str, Screen]:
    """Run a script to its end; what it wrote, and what the terminal then shows."""
    child = spawn(code, columns=columns, **environment)
    written = child.read()
    child.close()
    assert child.exitstatus == 0, written
    return written, Screen(written)


def widths(written: str) -> list[int]:
    plain = re.sub(r"\x1b\[[0-?]*[@-~]", "", written)
    return [len(line) for line in re.split(r"[\r\n]+", plain)]


def test_a_run_shows_a_bar_and_leaves_one_line() -> None:
    written, screen = show("""
        found = asyncio.run(
            fanout.map(rows, range(60), backend=fanout.Local(2), return_exceptions=True)
        )
        print(len(found))
    """)
    assert "━━━━" in written
    assert re.search(r"\d of 60 +\d+%", written)
    assert "of 2 in flight" in written
    assert "x ValueError: bad chunk #" in written
    hello, last, *after = screen.rows
    assert hello == "[3] hello"
    assert re.fullmatch(r"rows on local, 2 workers: 60 tasks in \d.*, 6 failed, .*", last)
    assert after == ["60", ""]
    assert screen.is_cursor_shown
    assert max(widths(written)) < 80
    assert COLOUR.search(written)


def test_each_frame_leaves_the_cursor_on_an_empty_line() -> None:
    """Whatever kills the process, the prompt stands where it should, and can be seen."""
    written, _ = show("play()")
    frames = written.split("\x1b[?25h")
    assert len(frames) > 3
    for number in range(1, len(frames)):
        screen = Screen("\x1b[?25h".join(frames[:number]) + "\x1b[?25h")
        assert screen.is_cursor_shown
        assert screen.column == 0
        assert screen.rows[screen.row] == ""


def test_a_run_without_a_total() -> None:
    written, screen = show("play(total=None)")
    assert re.search(r"─+.*━━━━.*\d+ done", written)
    assert "%" not in written
    assert screen.rows[0].startswith("rows on here: 20 tasks in ")


def test_a_terminal_that_becomes_narrower() -> None:
    child = spawn("play(tasks=36, total=36)")
    child.expect("in flight")
    child.setwinsize(24, 50)
    child.expect("in flight")  # maybe of a frame that was begun before
    child.expect("in flight")
    written = child.read()
    child.close()
    assert child.exitstatus == 0
    assert "━" in written
    assert max(widths(written)) < 50


def test_a_narrow_terminal() -> None:
    written, screen = show("play()", columns=30)
    assert max(widths(written)) < 30
    assert len(screen.rows) == 2


def test_an_interrupt_leaves_the_terminal_as_it_was() -> None:
    child = spawn("asyncio.run(fanout.map(rows, range(3, 1000, 10), backend=fanout.Local(2)))")
    child.expect("in flight")
    child.sendintr()
    written = child.before + child.after + child.read()
    child.close()
    assert child.exitstatus == 1 or child.signalstatus == signal.SIGINT
    screen = Screen(written)
    assert screen.is_cursor_shown
    (last,) = [row for row in screen.rows if row.startswith("rows on local")]
    assert re.match(r"rows on local, 2 workers: stopped after \d+ of 100 tasks in \d", last)
    assert "in flight" not in "".join(screen.rows)
    assert screen.rows[-2:] == ["KeyboardInterrupt", ""]


def test_two_runs_at_once_stand_one_above_the_other() -> None:
    written, screen = show("""
        other = threading.Thread(target=play, args=("accumulate", 30, 30))
        other.start()
        play()
        other.join()
    """)
    frames = [Screen(written[: at.end()]) for at in re.finditer(r"\x1b\[\?25h", written)]
    both = [
        frame
        for frame in frames
        if "accumulate  " in (text := "\n".join(frame.rows)) and "rows        " in text
    ]
    assert both, "no frame shows both"
    assert [row.split(" tasks")[0] for row in screen.rows] == [
        "rows on here: 20",
        "accumulate on here: 30",
        "",
    ]


def test_more_runs_than_fit_are_shown_in_a_line_each() -> None:
    _, screen = show("""
        others = [threading.Thread(target=play, args=(f"k{n}",)) for n in range(30)]
        for other in others: other.start()
        for other in others: other.join()
    """)
    assert sum(row.endswith("s") and "20 tasks in" in row for row in screen.rows) == 30
    assert screen.is_cursor_shown


def test_what_the_program_prints_goes_above_the_bar() -> None:
    _, screen = show("""
        def say(index):
            if index % 8 == 7:
                print(f"main {index}" + "!" * 90 * (index == 15))
                print("careful", index, file=sys.stderr)
            elif index == 19:
                print("begun", end="")
        play(each=say)
        print("ended")
    """)
    *said, last, begun, ended, end = screen.rows
    assert said == ["main 7", "careful 7", f"main 15{'!' * 90}", "careful 15"]
    assert last.startswith("rows on here: 20 tasks")
    assert (begun, ended, end) == ("begun", "ended", "")


def test_what_the_program_redirects_meanwhile_stays_redirected() -> None:
    _, screen = show("""
        import contextlib, io
        kept = contextlib.ExitStack()
        page = io.StringIO()
        def redirect(index):
            if index == 15:
                kept.enter_context(contextlib.redirect_stdout(page))
        play(each=redirect)
        print("for the page")
        kept.close()
        print(page.getvalue() == "for the page\\n")
    """)
    assert "for the page" not in "".join(screen.rows)
    assert "True" in screen.rows


def test_data_on_stdout_is_left_alone(tmp_path: Path) -> None:
    data = tmp_path / "data"
    _, screen = show(f"""
        sys.stdout = open({str(data)!r}, "w")
        play(each=lambda index: print(index))
    """)
    assert data.read_text(encoding="utf-8").split() == [str(index) for index in range(20)]
    assert len(screen.rows) == 2


def test_a_program_that_draws_by_rich_itself_keeps_the_terminal() -> None:
    written, _ = show("""
        from rich.live import Live
        with Live("the program's own display"):
            play()
    """)
    assert "the program's own display" in written
    assert "in flight" not in written


def test_a_dumb_terminal_gets_plain_text() -> None:
    written, _ = show(
        """
        import fanout.progress
        play.__globals__["Progress"] = lambda quiet_s: Progress(quiet_s=0, first_line_s=0)
        play()
        """.replace("lambda quiet_s: Progress(", "lambda quiet_s: fanout.progress.Progress("),
        TERM="dumb",
    )
    assert "\x1b" not in written
    first, *_, last, end = written.split("\r\n")
    assert re.match(r"fanout: rows on here: \d+ of 20 tasks", first)
    assert last.startswith("fanout: rows on here: 20 tasks in ")
    assert end == ""


def test_no_color_is_obeyed() -> None:
    written, _ = show("play()", NO_COLOR="1")
    assert "━" in written
    assert not COLOUR.search(written)


NOTEBOOK = """
import json, sys
import nbformat
from nbclient import NotebookClient

code = '''
import fanout
def rows(n):
    import time
    time.sleep(0.05)
    if n == 3:
        print("hello")
    return n
len(await fanout.map(rows, range(50), backend=fanout.Local(2), progress=True))
'''
book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
kinds = []
client = NotebookClient(book, timeout=30, kernel_name="python3")
process = client.process_message
def watch(message, cell, index):
    kinds.append(message["msg_type"])
    return process(message, cell, index)
client.process_message = watch
client.execute()
print(json.dumps([kinds, book.cells[0].outputs]))
"""


def test_a_notebook_shows_a_bar_that_becomes_one_line() -> None:
    """Drawn over in place: one output in the cell, without flicker and without ipywidgets."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", NOTEBOOK],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    kinds, outputs = json.loads(done.stdout)
    assert kinds.count("display_data") == 1
    assert kinds.count("update_display_data") >= 1
    (display,) = [output for output in outputs if output["output_type"] == "display_data"]
    text = display["data"]["text/plain"]
    assert re.fullmatch(r"rows on local, 2 workers: 50 tasks in [\d.]+ s, \d+/s", text)
    assert "<b" not in display["data"]["text/html"]
    assert [o["text"] for o in outputs if o["output_type"] == "stream"] == ["[3] hello\n"]
