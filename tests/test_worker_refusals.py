"""Requests that a worker can't run, replies that a client can't read: each says why."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from fanout.codec import Encoded
from fanout.errors import DecodeError, KernelLoadError, ProtocolError
from fanout.events import AttemptAnswered
from fanout.kernel_spec import prepare
from fanout.wire import Message
from fanout.worker import Worker
from tests.worker_checks import answer_of, outcomes_of, refusal_of, request_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def square(x: int) -> int:
    return x * x


def test_another_protocol_is_refused_with_the_remedy() -> None:
    request = request_of(prepare(square), [1])
    request.head["fanout"] = 99
    kind, text, is_fatal = refusal_of(request)
    assert kind is ProtocolError
    assert "protocol 99" in text
    assert "install the same version" in text
    assert is_fatal


def test_the_refusal_of_a_worker_of_another_protocol_is_understood() -> None:
    reason = {"kind": "protocol", "message": "install the same", "traceback": ""}
    answer = answer_of(Message({"fanout": 99, "refused": reason}), 1)
    assert not isinstance(answer, AttemptAnswered)
    assert isinstance(answer.failure.error, ProtocolError)


def test_code_of_another_python_is_refused_but_references_are_not() -> None:
    request = request_of(prepare(lambda x: x), [1])
    request.head["python"] = "3.9"
    kind, text, _ = refusal_of(request)
    assert kind is ProtocolError
    assert "from Python 3.9" in text
    assert "use the same minor version" in text
    request = request_of(prepare(square), [1])
    request.head["python"] = "3.9"
    assert isinstance(answer_of(Worker().run(request), 1), AttemptAnswered)


class Unreadable:
    def __reduce__(self) -> tuple[object, ...]:
        return int, ("this is no number",)


def test_a_chunk_that_another_python_has_pickled_says_so_when_it_cannot_be_read() -> None:
    request = request_of(prepare(square), [Unreadable(), 3])
    request.head["python"] = "3.9"
    answer = answer_of(Worker().run(request), 2)
    assert isinstance(answer, AttemptAnswered)
    assert [outcome.value for outcome in answer.outcomes] == [None, 9]
    assert "the client runs Python 3.9" in str(answer.outcomes[0].error)


def test_a_kernel_of_a_file_that_differs_is_refused() -> None:
    spec = dataclasses.replace(prepare(square), source="0" * 64, digest="other")
    kind, text, is_fatal = refusal_of(request_of(spec, [1]))
    assert kind is KernelLoadError
    assert "module tests.test_worker_refusals differs between client and worker" in text
    assert "restart" in text
    assert is_fatal


@pytest.mark.parametrize(
    ("target", "what"),
    [
        ("no_such_module:f", "ModuleNotFoundError: No module named 'no_such_module'"),
        (
            "tests.test_worker_refusals:gone",
            "AttributeError: module 'tests.test_worker_refusals' has no attribute",
        ),
        ("fan_exits:f", "SystemExit: 3"),
    ],
)
def test_a_kernel_that_cannot_be_loaded_is_refused_with_the_reason(
    target: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fan_exits.py").write_text("print('printed'); raise SystemExit(3)")
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = prepare(square)
    source = spec.source if target.startswith("tests") else None
    spec = dataclasses.replace(spec, target=target, source=source, digest=target)
    kind, text, is_fatal = refusal_of(request_of(spec, [1]))
    assert kind is KernelLoadError
    assert f"square can't be loaded: {what}" in text
    assert "Remote traceback:\n" in text
    assert is_fatal


def damaged(change: Callable[[Message], Message]) -> Message:
    return change(request_of(prepare(square), [1]))


@pytest.mark.parametrize(
    "change",
    [
        lambda request: Message({"fanout": 1}),
        lambda request: Message(request.head, Encoded(b"[1,")),
        lambda request: Message(request.head, Encoded(b'{"a":1}')),
        lambda request: Message({**request.head, "local_modules": 5}, request.payload),
        lambda request: Message({**request.head, "kernel": []}, request.payload),
    ],
)
def test_a_damaged_request_is_refused_and_the_worker_lives_on(
    change: Callable[[Message], Message],
) -> None:
    worker = Worker()
    kind, text, _ = refusal_of(damaged(change), worker)
    assert kind is ProtocolError
    assert "the request can't be read" in text
    assert outcomes_of(square, [2], worker=worker)[0].value == 4


@pytest.mark.parametrize(
    "change",
    [
        lambda reply: Message({**reply.head, "fanout": 2}, reply.payload),
        lambda reply: Message({**reply.head, "report": {}}, reply.payload),
        lambda reply: Message({**reply.head, "ns": []}, reply.payload),
        lambda reply: Message({**reply.head, "failed": [[7, {}]]}, reply.payload),
        lambda reply: Message({**reply.head, "printed": 1}, reply.payload),
        lambda reply: Message({"refused": None}, reply.payload),
        lambda reply: Message(reply.head, Encoded(b"[1,2]")),
        lambda reply: Message(reply.head, Encoded(b"5")),
        lambda reply: Message({}, reply.payload),
    ],
)
def test_a_damaged_reply_is_a_decode_error(change: Callable[[Message], Message]) -> None:
    reply = Worker().run(request_of(prepare(square), [1]))
    with pytest.raises(DecodeError):
        answer_of(change(reply), 1)


def test_a_module_that_the_worker_lacks_is_named_with_what_to_do() -> None:
    request = request_of(prepare(square), [1])
    request.head["kernel"]["target"] = "a_module_of_mine:square"
    kind, text, is_fatal = refusal_of(request)
    assert kind is KernelLoadError
    assert "No module named 'a_module_of_mine'" in text
    assert "a function's image has to hold what kernels import" in text
    assert is_fatal
