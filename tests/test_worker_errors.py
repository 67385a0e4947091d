"""What a kernel raises: raised again at the client as it was if it can be, or told exactly."""

from __future__ import annotations

import asyncio
import errno
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fanout.errors import KernelError
from fanout.events import AttemptAnswered
from fanout.kernel_spec import prepare
from fanout.worker import Worker
from tests.worker_checks import answer_of, error_of, outcomes_of, request_of


class CustomError(Exception):
    def __init__(self, code: Any, *, detail: str = "") -> None:
        super().__init__(code)
        self.code = code
        self.detail = detail


class UnbuildableError(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


class UnpicklableError(Exception):
    def __init__(self) -> None:
        super().__init__("holds a lock")
        self.lock = threading.Lock()


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class HorribleError(Exception):
    def __str__(self) -> str:
        raise SystemExit

    def __reduce__(self) -> str:
        raise SystemExit


class ExitingError(Exception):
    def __init__(self, *args: object) -> None:
        if not args:
            raise SystemExit
        super().__init__()


class FalseError(Exception):
    def __len__(self) -> int:
        return 0


_RAISED: dict[str, BaseException] = {}


def raises(name: str) -> None:
    raise _RAISED[name].with_traceback(None)


def again(error: BaseException, *, is_safe: bool = False) -> Any:
    """What the caller sees when a kernel raises this."""
    _RAISED["it"] = error  # the worker is in this process, so the kernel finds it there
    return error_of(raises, "it", is_safe=is_safe)


def fails(x: int) -> None:
    deeper(x)


def deeper(x: int) -> None:
    if x:
        raise ValueError("odd", x)


# ---- raised again as it was ----


def test_a_builtin_exception_is_raised_again_with_its_arguments() -> None:
    outcomes = outcomes_of(fails, [0, 7, 0, 8])
    assert [outcome.is_ok for outcome in outcomes] == [True, False, True, False]
    error = outcomes[1].error
    assert type(error) is ValueError
    assert error.args == ("odd", 7)


@pytest.mark.parametrize("is_safe", [True, False])
@pytest.mark.parametrize(
    "error",
    [
        ValueError("a", 1, (2, {3})),
        KeyError(("k", 1)),
        ZeroDivisionError(),
        FileNotFoundError(errno.ENOENT, "No such file", "there.txt"),
        OSError(errno.EXDEV, "cross", "a", None, "b"),
        ImportError("no", name="mod", path="/x"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        SyntaxError("bad", ("file.py", 1, 2, "text")),
        MemoryError("much"),
    ],
    ids=repr,
)
def test_a_builtin_exception_keeps_all_it_knows_even_without_pickle(
    error: Exception, is_safe: bool
) -> None:
    error.add_note("of the kernel")
    error.extra = [1]  # type: ignore[attr-defined]
    raised = again(error, is_safe=is_safe)
    assert type(raised) is type(error)
    assert str(raised) == str(error)
    assert raised.args == error.args
    for name in ("filename", "filename2", "path", "extra"):
        assert getattr(raised, name, None) == getattr(error, name, None)
    assert raised.__notes__[0] == "of the kernel"


def test_a_custom_exception_is_raised_again_as_it_was() -> None:
    error = again(CustomError(3, detail="more"))
    assert type(error) is CustomError
    assert (error.code, error.detail) == (3, "more")


def test_an_exception_class_made_beside_the_kernel_is_the_same_class_here() -> None:
    class LocalError(Exception):
        pass

    def kernel(x: int) -> None:
        raise LocalError(x)

    assert type(error_of(kernel)) is LocalError


def test_an_exception_that_is_false_is_raised_again_all_the_same() -> None:
    assert type(again(FalseError("a"))) is FalseError


def test_a_group_of_exceptions_is_raised_again() -> None:
    error = again(ExceptionGroup("several", [ValueError(1), CustomError(2)]))
    assert isinstance(error, ExceptionGroup)
    assert [type(inner) for inner in error.exceptions] == [ValueError, CustomError]


def test_an_unpicklable_attribute_of_a_builtin_exception_is_left_behind() -> None:
    error = ValueError("a")
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    raised = again(error)
    assert type(raised) is ValueError
    assert raised.args == ("a",)


def test_an_array_in_an_exception_is_as_it_was_when_it_was_raised() -> None:
    scratch = np.zeros(5000)

    def kernel(x: float) -> None:
        scratch[:] = x
        raise (ValueError if x < 2 else CustomError)(scratch)

    errors = [outcome.error for outcome in outcomes_of(kernel, [1.0, 2.0, 3.0])]
    assert [set(error.args[0]) for error in errors if error] == [{1.0}, {2.0}, {3.0}]


# ---- told exactly ----


@pytest.mark.parametrize(
    ("error", "name", "text"),
    [
        (UnbuildableError(1, 2), f"{__name__}.UnbuildableError", "1 and 2"),
        (UnpicklableError(), f"{__name__}.UnpicklableError", "holds a lock"),
        (UnprintableError(threading.Lock()), f"{__name__}.UnprintableError", "__str__ raised"),
        (HorribleError(), f"{__name__}.HorribleError", "__str__ raised"),
        (ExitingError(1), f"{__name__}.ExitingError", ""),
        (ValueError(threading.Lock()), "builtins.ValueError", "lock"),
        (SystemExit(3), "builtins.SystemExit", "3"),
        (KeyboardInterrupt(), "builtins.KeyboardInterrupt", ""),
        (GeneratorExit("g"), "builtins.GeneratorExit", "g"),
        (asyncio.CancelledError(), "asyncio.exceptions.CancelledError", ""),
        (StopIteration(5), "builtins.StopIteration", "5"),
        (StopAsyncIteration(), "builtins.StopAsyncIteration", ""),
        (BaseExceptionGroup("b", [SystemExit()]), "builtins.BaseExceptionGroup", "b (1 sub"),
    ],
    ids=lambda part: type(part).__name__ if isinstance(part, BaseException) else None,
)
def test_what_cannot_be_raised_here_becomes_a_kernel_error(
    error: BaseException, name: str, text: str
) -> None:
    told = again(error)
    assert type(told) is KernelError
    assert told.index == 0
    assert told.type_name == name
    assert text in told.remote_message
    assert f"kernel raised {name}" in str(told)


def test_without_pickle_a_custom_exception_becomes_a_kernel_error() -> None:
    told = again(CustomError(3), is_safe=True)
    assert type(told) is KernelError
    assert told.type_name == f"{__name__}.CustomError"


@pytest.mark.parametrize("name", ["eval", "exec", "open", "SystemExit", "no_such", "int"])
def test_a_reply_cannot_have_other_builtins_called(name: str, tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    reply = Worker().run(request_of(prepare(fails), [1]))
    ((_, failure),) = reply.head["failed"]
    code = {"eval": f"open({path!r}, 'w')", "exec": f"open({path!r}, 'w')"}.get(name, path)
    failure["builtin"] = name
    failure["body"] = failure["body"].replace('["odd",1]', repr([code]).replace("'", '"'))
    answer = answer_of(reply, 1, is_safe=True)
    assert isinstance(answer, AttemptAnswered)
    assert type(answer.outcomes[0].error) is KernelError
    assert not Path(path).exists()


# ---- tracebacks ----


def test_the_remote_traceback_begins_with_the_kernel() -> None:
    (note,) = error_of(fails).__notes__
    lines = note.splitlines()
    assert lines[0] == "remote traceback of task 0:"
    assert lines[1] == "Traceback (most recent call last):"
    frames = [line.split(", in ")[1] for line in lines if line.startswith('  File "')]
    assert frames == ["fails", "deeper"]
    assert lines[-1] == "ValueError: ('odd', 1)"
    assert "fanout/worker" not in note


def test_the_remote_traceback_tells_the_cause() -> None:
    def kernel(x: int) -> None:
        try:
            fails(x)
        except ValueError as error:
            raise CustomError(1) from error

    (note,) = error_of(kernel).__notes__
    assert "direct cause" in note
    assert "ValueError: ('odd', 1)" in note


def test_a_call_with_the_wrong_arguments_has_a_message_and_no_frames() -> None:
    error = error_of(lambda: 1)
    assert type(error) is TypeError
    assert "positional argument" in str(error)
    assert 'File "' not in error.__notes__[0]


def test_endless_recursion_is_an_error_like_any_other() -> None:
    def kernel(x: int) -> int:
        return kernel(x + 1) + 1

    outcomes = outcomes_of(kernel, [1, 1])
    assert [type(outcome.error) for outcome in outcomes] == [RecursionError, RecursionError]
