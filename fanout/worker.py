"""What runs at the far end: takes a request, runs the kernel on each chunk, gives a reply.

The same `Worker.run` serves a process on this machine and a Lambda environment. It imports the
standard library and numpy only (start-up is billed), and what the kernel itself needs. Whatever a
kernel does short of ending the process becomes part of the reply: `run` does not raise.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import importlib
import io
import os
import platform
import sys
import time
import traceback
import uuid
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fanout._version import __version__
from fanout.codec import Encoded, ListEncoder, decode, decode_each, encode
from fanout.errors import EncodeError, FanoutError
from fanout.kernel_spec import module_digest
from fanout.wire import PROTOCOL, Message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_resource: Any
try:
    import resource as _resource
except ImportError:  # Windows has no such module; peak memory is then unknown
    _resource = None

# Kernels kept loaded; a by-value kernel compiled by numba is costly to load again.
_KERNELS_KEPT: Final = 64
# Of what one task prints, the last part is kept.
_PRINTED_BYTES: Final = 16 * 1024


class Worker:
    """One execution environment: its identity, and the kernels it has loaded."""

    def __init__(self) -> None:
        self._environment = {
            "id": uuid.uuid4().hex,
            "pid": os.getpid(),
            "machine": platform.machine(),
            "versions": {
                "python": platform.python_version(),
                "fanout": __version__,
                "numpy": np.__version__,
            },
        }
        self._is_cold = True
        self._kernels: OrderedDict[str, Callable[..., Any]] = OrderedDict()
        self._sources: dict[str, str | None] = {}  # of modules, when they were imported

    def run(self, request: Message) -> Message:
        """Run a request; see `envelope` for what it and the reply hold."""
        began_s = time.perf_counter()
        report: dict[str, Any] = {
            "environment": self._environment,
            "cold": self._is_cold,
            "received_epoch_s": time.time(),
        }
        try:
            run = _TaskRun(request, self._kernel(request), began_s)
        except _RefusalError as refusal:
            return _refused(refusal)
        except Exception as error:  # noqa: BLE001  # it is damaged
            return _refused(
                _RefusalError("protocol", f"the request can't be read: {_described(error)}")
            )
        run.all()
        self._is_cold = self._is_cold and not run.seconds  # loading a kernel is no attempt
        report |= {
            "setup_s": run.setup_s,
            "kernel_s": sum(run.seconds),
            "peak_memory_bytes": _peak_memory_bytes(),
            "total_s": time.perf_counter() - began_s,
        }
        return run.reply(report)

    def _kernel(self, request: Message) -> Callable[..., Any]:
        head = request.head
        if head.get("fanout") != PROTOCOL:
            raise _RefusalError(
                "protocol",
                f"the client speaks protocol {head.get('fanout')} (fanout {head.get('version')}), "
                f"this worker {PROTOCOL} (fanout {__version__}): install the same version on both",
            )
        spec = head["kernel"]
        known = self._kernels.get(spec["digest"])
        if known is not None:
            self._kernels.move_to_end(spec["digest"])
            return known
        if "code" not in spec:
            raise _RefusalError("unknown kernel", "its code was not sent")
        kernel = self._load(spec, request)
        self._kernels[spec["digest"]] = kernel
        if len(self._kernels) > _KERNELS_KEPT:
            self._kernels.popitem(last=False)
        return kernel

    def _load(self, spec: dict[str, Any], request: Message) -> Callable[..., Any]:
        if spec["target"] is None and spec["python"] != _python_minor():
            raise _RefusalError(
                "protocol",
                f"the kernel {spec['name']} travels by value from Python {spec['python']}, and "
                f"this worker runs Python {_python_minor()}: use the same minor version, or put "
                "the kernel into a module that both have",
            )
        try:
            with _printed_to_stderr():
                target: Any = self._referenced(spec) if spec["target"] else None
                # Copied, since a kernel that is kept must not keep the request's chunks, too.
                buffers = [bytearray(b) for b in request.payload.buffers[spec["buffers_from"] :]]
                code = Encoded(spec["code"].encode("ascii"), [*buffers])
                by_value, args, kwargs = decode(code, is_safe=request.head["safe"])
        except _RefusalError:
            raise
        except BaseException as error:
            raise _RefusalError(
                "kernel", f"{spec['name']} can't be loaded: {_described(error)}", _traceback(error)
            ) from error
        kernel: Callable[..., Any] = target if spec["target"] else by_value
        return functools.partial(kernel, *args, **kwargs) if args or kwargs else kernel

    def _referenced(self, spec: dict[str, Any]) -> Any:
        module, _, qualname = spec["target"].partition(":")
        found: Any = importlib.import_module(module)
        source = self._sources.setdefault(module, module_digest(module))
        if source != spec["source"]:
            raise _RefusalError(
                "stale",
                f"module {module} differs between client and worker "
                f"(sha256 {str(spec['source'])[:12]} there, {str(source)[:12]} here)",
            )
        for part in qualname.split("."):
            found = getattr(found, part)
        return found


class _RefusalError(Exception):
    """The request as a whole can't be run."""

    def __init__(self, kind: str, message: str, remote_traceback: str = "") -> None:
        super().__init__(message)
        self.reason = {"kind": kind, "message": message, "traceback": remote_traceback}


def _refused(refusal: _RefusalError) -> Message:
    return Message({"fanout": PROTOCOL, "refused": refusal.reason})


class _TaskRun:
    """The tasks of one request: runs them, keeps what the reply needs."""

    def __init__(self, request: Message, kernel: Callable[..., Any], began_s: float) -> None:
        self._kernel = kernel
        self._is_star = request.head["star"]
        self._is_safe = request.head["safe"]
        self._local_modules = frozenset(request.head["local_modules"])
        self._chunks, self._undecoded = decode_each(request.payload, is_safe=self._is_safe)
        self._values = ListEncoder(
            is_safe=self._is_safe,
            by_value=self._local_modules,
            copies=len(self._chunks) > 1,
        )
        self._failed: list[tuple[int, dict[str, Any]]] = []
        self._printed: list[tuple[int, str, str]] = []
        self.seconds: list[float] = []
        self.setup_s = time.perf_counter() - began_s

    def all(self) -> None:
        out, err = _Capture(), _Capture()
        before = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = out, err
        try:
            for position, chunk in enumerate(self._chunks):
                self._chunks[position] = None  # its memory may go once the kernel is done with it
                self._one(position, chunk)
                if out.size or err.size:
                    self._printed.append((position, out.take(), err.take()))
        finally:
            sys.stdout, sys.stderr = before

    def _one(self, position: int, chunk: Any) -> None:
        if position in self._undecoded:
            self.seconds.append(0.0)
            self._values.add(None)
            self._failed.append((position, _failure("chunk", self._undecoded[position])))
            return
        began_s = time.perf_counter()
        try:
            value = self._kernel(*chunk) if self._is_star else self._kernel(chunk)
        except BaseException as error:  # noqa: BLE001  # even SystemExit is the kernel's affair
            self.seconds.append(time.perf_counter() - began_s)
            self._values.add(None)
            failure = _failure("kernel", error) | self._whole(error)
            self._failed.append((position, failure))
            return
        self.seconds.append(time.perf_counter() - began_s)
        try:
            self._values.add(value)
        except BaseException as error:  # noqa: BLE001  # its __reduce__ is the kernel's affair, too
            self._failed.append((position, _failure("result", error)))

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
        }
        return Message(head, payload)


def _copied(encoded: Encoded) -> Encoded:
    """The same in memory of its own: the next task may use an array again."""
    return Encoded(encoded.body, [bytes(buffer) for buffer in encoded.buffers])


def _failure(kind: str, error: BaseException) -> dict[str, Any]:
    is_ours = isinstance(error, FanoutError) or kind == "kernel"
    return {
        "kind": kind,
        "type": f"{type(error).__module__}.{type(error).__qualname__}",
        "message": _text_of(error) if is_ours else _described(error),
        "traceback": _traceback(error) if kind == "kernel" else "",
    }


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:  # noqa: BLE001  # a broken __str__ must not hide the failure
        return "(its text can't be had: __str__ raised)"


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {_text_of(error)}"


def _traceback(error: BaseException) -> str:
    """The traceback from the kernel's own frames on."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__") == __name__:
        trace = trace.tb_next
    try:
        return "".join(traceback.format_exception(type(error), error, trace))
    except BaseException:  # noqa: BLE001  # an exception class may have broken more than __str__
        return f"{''.join(traceback.format_tb(trace))}{type(error).__name__}\n"


class _Capture(io.TextIOBase):
    """Stands for sys.stdout while kernels run; keeps the end of what one task writes."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._is_cut = False
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
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
        text = "".join(self._parts)
        is_cut = self._is_cut or len(text) > _PRINTED_BYTES
        self._parts.clear()
        self._is_cut = False
        self.size = 0
        return f"[…]{text[-_PRINTED_BYTES:]}" if is_cut else text


@contextlib.contextmanager
def _printed_to_stderr() -> Iterator[None]:
    """What a module prints while it is imported is no task's output."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def _peak_memory_bytes() -> int | None:
    if _resource is None:
        return None
    peak = int(_resource.getrusage(_resource.RUSAGE_SELF).ru_maxrss)
    return peak if sys.platform == "darwin" else peak * 1024  # bytes there, KiB elsewhere


def _python_minor() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"
