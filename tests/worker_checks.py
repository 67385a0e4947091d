"""Runs kernels through request, worker and reply in this process, as a backend would."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fanout.events import AttemptAnswered, AttemptFailed
from fanout.kernel_spec import prepare
from fanout.reply import read
from fanout.request import Request, build
from fanout.wire import Message, frame, unframe
from fanout.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fanout.kernel_spec import KernelSpec
    from fanout.tasks import Outcome


def journey(message: Message) -> Message:
    """What arrives when a message is sent."""
    return unframe(memoryview(bytearray(b"".join(frame(message)))))


def request_of(
    spec: KernelSpec,
    chunks: Sequence[object],
    *,
    with_code: bool = True,
    is_star: bool = False,
    is_safe: bool = False,
) -> Message:
    numbered = dict(enumerate(chunks))
    request, _, failed = build(
        Request(kernel=spec, is_star=is_star, is_safe=is_safe), list(numbered), numbered
    )
    assert not failed
    return journey(request.message(with_code=with_code))


def answer_of(
    reply: Message, count: int, *, is_safe: bool = False
) -> AttemptAnswered | AttemptFailed:
    return read(
        journey(reply),
        attempt=5,
        tasks=range(count),
        is_safe=is_safe,
        request_bytes=100,
        attempts_of=lambda _: 1,
        environments={},
    )


def outcomes_of(
    kernel: Callable[..., Any],
    chunks: Sequence[object],
    *,
    worker: Worker | None = None,
    is_star: bool = False,
    is_safe: bool = False,
) -> Sequence[Outcome[Any]]:
    """The outcome of each chunk, as one group."""
    spec = prepare(kernel, is_safe=is_safe)
    request = request_of(spec, chunks, is_star=is_star, is_safe=is_safe)
    reply = (worker or Worker()).run(request)
    answer = answer_of(reply, len(chunks), is_safe=is_safe)
    assert isinstance(answer, AttemptAnswered), answer
    return answer.outcomes


def error_of(kernel: Callable[..., Any], chunk: object = 1, *, is_safe: bool = False) -> Exception:
    """What the caller sees raised when a kernel fails on a chunk."""
    (outcome,) = outcomes_of(kernel, [chunk], is_safe=is_safe)
    assert outcome.error is not None
    return outcome.error


def refusal_of(
    request: Message, worker: Worker | None = None
) -> tuple[type[BaseException], str, bool]:
    """How a worker that can't run a request says so: error, text, whether the run ends."""
    answer = answer_of((worker or Worker()).run(request), 1)
    assert isinstance(answer, AttemptFailed), answer
    assert answer.failure.error is not None
    return type(answer.failure.error), str(answer.failure.error), answer.failure.is_fatal
