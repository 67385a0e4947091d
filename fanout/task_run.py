"""The tasks of one request, at the far end: runs them, and keeps what the reply needs."""

from __future__ import annotations

import builtins
import contextlib
import json
import math
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from fanout.codec import Encoded, ListEncoder, decode_each, encode
from fanout.errors import EncodeError, StoreError
from fanout.failure_report import described_failure, traceback_of
from fanout.printing import Capture
from fanout.stopping import StoppedError, Stopper
from fanout.wire import PROTOCOL, Message, python_minor

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.codec.decoding import Fetch
    from fanout.stopping import Allowance

# What a task takes of a reply beside its value: its time, commas, alignment.
_TASK_BYTES: Final = 128


class TaskRun:
    """The tasks of one request: runs them, keeps what the reply needs."""

    def __init__(
        self,
        request: Message,
        kernel: Callable[..., Any],
        began_s: float,
        allowance: Allowance | None,
        fetch: Fetch,
        ends_s: float,
    ) -> None:
        self._kernel = kernel
        self._is_star = request.head["star"]
        self._is_safe = request.head["safe"]
        self._python = request.head["python"]
        self._local_modules = frozenset(request.head["local_modules"])
        self._chunks, self._undecoded = decode_each(
            request.payload, is_safe=self._is_safe, fetch=fetch
        )
        self._values = ListEncoder(
            is_safe=self._is_safe,
            by_value=self._local_modules,
            copies=len(self._chunks) > 1,
        )
        self._failed: list[tuple[int, dict[str, Any]]] = []
        self._printed: list[tuple[int, str, str]] = []
        self.seconds: list[float] = []
        self._left = 0
        self._room = math.inf if allowance is None else allowance.reply_bytes
        self._allowance = allowance
        self._timeout_s: float | None = request.head["timeout_s"]
        # The client's deadlines count from here: loading a kernel is no part of what it foresaw.
        self._ended_s = time.perf_counter()  # of the newest task
        soft_s, hard_s = request.head["soft_s"], request.head["hard_s"]
        self._soft_until_s = math.inf if soft_s is None else self._ended_s + soft_s
        hard_until_s = math.inf if hard_s is None else self._ended_s + hard_s
        until_s = min(hard_until_s, allowance.until_s if allowance else math.inf)
        self._is_hard = until_s == hard_until_s
        self._most_s: float | None = hard_s
        if allowance is not None and not self._is_hard:
            self._most_s = allowance.service_s
        self._stopper = (
            Stopper(until_s, self._timeout_s, ends_s) if math.isfinite(until_s) else None
        )
        self.setup_s = self._ended_s - began_s

    def all(self) -> None:
        """Run them."""
        out, err = Capture(), Capture()
        before = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = out, err
        try:
            with self._stopper.watching() if self._stopper else contextlib.nullcontext():
                for position, chunk in enumerate(self._chunks):
                    self._chunks[position] = None  # its memory may go when the kernel is done
                    if self._is_over(position):
                        break
                    self._one(position, chunk)
                    if self._left or (self._allowance is not None and not self._fits(position)):
                        break
                    if out.size or err.size:
                        self._keep_printed(position, out.take(), err.take())
        finally:
            sys.stdout, sys.stderr = before

    def _is_over(self, position: int) -> bool:
        """Whether there is no time for the next task, so that it and the others are left."""
        if not position:
            return False
        is_over = self._ended_s >= self._soft_until_s or (
            self._stopper is not None and self._stopper.is_over(sum(self.seconds) / position)
        )
        if is_over:
            self._left = len(self._chunks) - position
        return is_over

    def _fits(self, position: int) -> bool:
        """Whether the reply has room for what the newest task brought; else it is taken back."""
        size = self._values.newest_bytes() + _TASK_BYTES
        if self._failed and self._failed[-1][0] == position:
            size += _size_of(self._failed[-1][1])
        if size <= self._room:
            self._room -= size
            return True
        if position:
            self._leave_from(position)
            return False
        self._values.retract(keeps_place=True)
        self._failed[:] = [(position, _too_large(size, self._room))]
        self._room -= _size_of(self._failed[0][1])
        return True

    def _leave_from(self, position: int) -> None:
        """Send no outcome of this task and those after it: they will be sent again."""
        self._left = len(self._chunks) - position
        self._values.retract(keeps_place=False)
        del self.seconds[position:]
        if self._failed and self._failed[-1][0] == position:
            del self._failed[-1]

    def _keep_printed(self, position: int, out: str, err: str) -> None:
        size = 6 * (len(out) + len(err))  # the most that JSON makes of a character
        if size <= self._room:
            self._room -= size
            self._printed.append((position, out, err))

    def _call(self, chunk: Any) -> Any:
        if self._stopper is None:
            return self._kernel(*chunk) if self._is_star else self._kernel(chunk)
        with self._stopper.task():
            return self._kernel(*chunk) if self._is_star else self._kernel(chunk)

    def _one(self, position: int, chunk: Any) -> None:
        if position in self._undecoded:
            self.seconds.append(0.0)
            self._values.add(None)
            self._failed.append((position, self._undecodable(self._undecoded[position])))
            return
        began_s = time.perf_counter()
        try:
            value = self._call(chunk)
        except StoppedError as error:
            self._took(began_s)
            self._values.add(None)
            self._stopped(position, began_s, error)
            return
        except BaseException as error:  # noqa: BLE001  # even SystemExit is the kernel's affair
            self._took(began_s)
            self._values.add(None)
            failure = described_failure("kernel", error) | self._whole(error)
            self._failed.append((position, failure))
            return
        self._took(began_s)
        try:
            self._values.add(value)
        except BaseException as error:  # noqa: BLE001  # its __reduce__ is the kernel's affair, too
            self._failed.append((position, described_failure("result", error)))

    def _took(self, began_s: float) -> None:
        self._ended_s = time.perf_counter()
        self.seconds.append(self._ended_s - began_s)

    def _undecodable(self, error: Exception) -> dict[str, Any]:
        if isinstance(error, StoreError):
            return described_failure("store", error)
        failure = described_failure("chunk", error)
        if self._python != python_minor():
            failure["message"] += (
                f" (the client runs Python {self._python}, and this worker Python "
                f"{python_minor()}: classes of a script need the same minor version)"
            )
        return failure

    def _stopped(self, position: int, began_s: float, error: StoppedError) -> None:
        """A task was stopped: it had its time, or started too late in its group to have it."""
        assert self._stopper is not None
        was_short = self._stopper.was_short(began_s)
        if was_short and (position or (self._is_hard and len(self._chunks) > 1)):
            self._leave_from(position)  # of a group that is all left, each task is sent alone
            return
        failure = described_failure("timeout", error) | {
            "allowed_s": self._most_s if was_short else self._timeout_s,
            "is_service": was_short and not self._is_hard,
            "is_hard": was_short and self._is_hard,
            "traceback": traceback_of(error),
        }
        self._failed.append((position, failure))

    def _whole(self, error: BaseException) -> dict[str, Any]:
        """The exception itself, if it can go along: a built-in one taken apart, others pickled.

        What isn't an ordinary exception is not raised again at the client.
        """
        if not isinstance(error, Exception):
            return {}
        try:
            if getattr(builtins, type(error).__name__, None) is not type(error):
                if self._is_safe:
                    return {}
                return {"encoded": _copied(encode(error, by_value=self._local_modules))}
            # Not error.args: an OSError's file name is in __reduce__ only.
            reduced: Any = error.__reduce__()
            _, args, *state = reduced
            try:
                encoded = encode([args, *state], is_safe=self._is_safe)
            except EncodeError:  # for an attribute that somebody hung on it
                encoded = encode([args], is_safe=self._is_safe)
        except BaseException:  # noqa: BLE001  # foreign code again; its text goes in any case
            return {}
        return {"encoded": _copied(encoded), "builtin": type(error).__name__}

    def reply(self, report: dict[str, Any]) -> Message:
        """The reply, with what the worker reports of itself."""
        payload = self._values.finish()
        failed = []
        for position, failure in self._failed:
            encoded = failure.pop("encoded", None)
            if encoded is not None:
                failure |= {"body": encoded.body.decode(), "buffers_from": len(payload.buffers)}
                payload.buffers.extend(encoded.buffers)
            failed.append((position, failure))
        head = {
            "fanout": PROTOCOL,
            "report": report,
            "ns": [int(seconds * 1e9) for seconds in self.seconds],
            "failed": failed,
            "printed": self._printed,
            "left": self._left,
        }
        return Message(head, payload)


def _copied(encoded: Encoded) -> Encoded:
    """The same in memory of its own: the next task may use an array again."""
    return Encoded(encoded.body, [bytes(buffer) for buffer in encoded.buffers])


def _size_of(failure: dict[str, Any]) -> int:
    encoded = failure.get("encoded")
    size = len(json.dumps({name: failure[name] for name in failure.keys() - {"encoded"}}))
    return size + (encoded.nbytes + _TASK_BYTES if encoded is not None else 0)


def _too_large(size: int, room: float) -> dict[str, Any]:
    message = (
        f"{size / 1e6:,.1f} MB encoded, and an answer of Lambda holds {room / 1e6:,.1f} MB: return "
        "less (a part, a sum, a smaller dtype), or name a store that it can go through: "
        "fanout.Executor(backend, store='s3://bucket/prefix'), or FANOUT_STORE"
    )
    return {"kind": "result", "type": "", "message": message, "traceback": ""}
