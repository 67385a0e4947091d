"""What runs at the far end: takes a request, runs the kernel on each chunk, gives a reply.

The same `Worker.run` serves a process on this machine and a Lambda environment. It imports the
standard library and numpy only (start-up is billed), and what the kernel itself needs. Whatever a
kernel does short of ending the process becomes part of the reply: `run` does not raise.
"""

from __future__ import annotations

import functools
import importlib
import math
import os
import platform
import sys
import time
import uuid
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fanout._version import __version__
from fanout.codec import Encoded, decode
from fanout.compiling import Compiling
from fanout.errors import StoreError
from fanout.failure_report import described, traceback_of
from fanout.kernel_spec import module_digest
from fanout.printing import printed_to_stderr
from fanout.spilled import Spilled
from fanout.task_run import TaskRun
from fanout.wire import PROTOCOL, Message, python_minor, unframe

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.code_install import Installation
    from fanout.codec.decoding import Fetch
    from fanout.far_stores import Cache
    from fanout.refs import Ref
    from fanout.stopping import Allowance

_resource: Any
try:
    import resource as _resource
except ImportError:  # Windows has no such module; peak memory is then unknown
    _resource = None

_REFERENCE_ONLY: Final = (
    "this worker runs only what its image holds (FANOUT_CODE=reference-only): put the code into "
    "the image, or take the setting out of it"
)
# Kernels kept loaded; a by-value kernel compiled by numba is costly to load again.
_KERNELS_KEPT: Final = 64


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
        self._compiling = Compiling()
        self._kernels: OrderedDict[str, Callable[..., Any]] = OrderedDict()
        self._sources: dict[str, str | None] = {}  # of modules, when they were imported
        self._installation: Installation | None = None
        self._cache: Cache | None = None  # of what refs stand for; made for the first one
        # Set in the image: nothing is run but what is in it. A pickle can run anything, too.
        setting = os.environ.get("FANOUT_CODE", "").strip().lower()
        self._is_reference_only = setting == "reference-only"

    def run(self, request: Message, allowance: Allowance | None = None) -> Message:
        """Run a request; see `request` and `reply` for what these hold.

        Args:
            request: What a client sent.
            allowance: What it may take, where the worker has to see to that itself. It then stops
                tasks that run too long, and leaves those for which there is no time or room.
        """
        began_s = time.perf_counter()
        # Nobody else ends this process, if there is an allowance; else somebody else does.
        ends_s = request.head.get("ends_s") if allowance is not None else None
        if ends_s is None:
            with self._compiling:
                return self._run(request, allowance, began_s, math.inf)
        from fanout.stopping import end_process_after

        end_process_after(ends_s)
        try:
            with self._compiling:
                return self._run(request, allowance, began_s, began_s + ends_s)
        finally:
            end_process_after(None)

    def _run(
        self, request: Message, allowance: Allowance | None, began_s: float, ends_s: float
    ) -> Message:
        # While the kernel was loaded, if a request of its own asked for that.
        compiled_s = self._compiling.seconds
        report: dict[str, Any] = {
            "environment": self._environment,
            "cold": self._is_cold,
            "received_epoch_s": time.time(),
        }
        try:
            kernel = self._kernel(request)
            if self._is_reference_only:
                request.head["safe"] = True
            run = TaskRun(request, kernel, began_s, allowance, self._fetch(request), ends_s)
        except _RefusalError as refusal:
            return refused(refusal.kind, str(refusal), refusal.remote_traceback)
        except Exception as error:  # noqa: BLE001  # it is damaged
            return refused("protocol", f"the request can't be read: {described(error)}")
        run.all()
        self._is_cold = self._is_cold and not run.seconds  # loading a kernel is no attempt
        report |= {
            "setup_s": run.setup_s + compiled_s,
            "kernel_s": sum(run.seconds),
            "compile_s": self._compiling.take() if run.seconds else 0.0,
            "peak_memory_bytes": _peak_memory_bytes(),
            "total_s": time.perf_counter() - began_s + compiled_s,
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
        spec: dict[str, Any] = head["kernel"]
        # Another version of a module that the kernel imports makes it another kernel.
        project: dict[str, str] = spec.get("project", {})
        key = "".join([spec["digest"], *sorted(project.values())])
        known = self._kernels.get(key)
        if known is not None:
            self._kernels.move_to_end(key)
            return known
        code = request
        if "stored" in spec:
            code = self._stored(Spilled.read(spec["stored"]), head["store"])
            spec = {**spec, **code.head}
        if "code" not in spec:
            raise _RefusalError("unknown kernel", "its code was not sent")
        if project:
            self._have(project, spec, code)
        kernel = self._load(spec, request, code)
        self._kernels[key] = kernel
        if len(self._kernels) > _KERNELS_KEPT:
            self._kernels.popitem(last=False)
        return kernel

    def _stored(self, spilled: Spilled, locator: dict[str, Any]) -> Message:
        """Code that was too large to come along."""
        from fanout.far_stores import kept_store

        try:
            content = kept_store(locator).get(spilled.key)
            spilled.check(content)
        except StoreError as error:
            raise _RefusalError("store", str(error)) from error
        return unframe(content)

    def _have(self, project: dict[str, str], spec: dict[str, Any], code: Message) -> None:
        """See that the user's modules are here, in the client's version."""
        if self._installation is None:
            from fanout.code_install import Installation  # only here: local workers need none of it

            self._installation = Installation(is_closed=self._is_reference_only)
        switches = self._installation.switches
        try:
            self._put(self._installation, project, spec, code)
        finally:
            if self._installation.switches != switches:
                # What they refer to is no more what `import` finds: classes would be two.
                self._kernels.clear()
                self._sources.clear()

    def _put(
        self,
        installation: Installation,
        project: dict[str, str],
        spec: dict[str, Any],
        code: Message,
    ) -> None:
        lacking = installation.lacking(project)
        if not lacking:
            return
        if self._is_reference_only:
            raise _RefusalError("kernel", f"{', '.join(lacking)}: {_REFERENCE_ONLY}")
        if "bundle" not in spec:
            raise _RefusalError("lacks code", f"not here in this version: {', '.join(lacking)}")
        from fanout.project import unbundled

        for name in lacking:
            files = unbundled(code.payload.buffers[spec["bundle"][name]])
            try:
                installation.install(name, project[name], files)
            except OSError as error:
                what = f"the code of {name} can't be written to disk here: {described(error)}"
                raise _RefusalError("kernel", what) from error

    def _load(self, spec: dict[str, Any], request: Message, code: Message) -> Callable[..., Any]:
        if spec["target"] is None and self._is_reference_only:
            raise _RefusalError("kernel", f"{spec['name']} travels by value: {_REFERENCE_ONLY}")
        theirs = request.head["python"]
        if spec["target"] is None and theirs != python_minor():
            raise _RefusalError(
                "protocol",
                f"the kernel {spec['name']} travels by value from Python {theirs}, and "
                f"this worker runs Python {python_minor()}: use the same minor version, or put "
                "the kernel into a module that both have",
            )
        try:
            with printed_to_stderr():
                target: Any = self._referenced(spec) if spec["target"] else None
                # Copied, since a kernel that is kept must not keep the request's chunks, too.
                buffers = [bytearray(b) for b in code.payload.buffers[spec["buffers_from"] :]]
                by_value, args, kwargs = decode(
                    Encoded(spec["code"].encode("ascii"), [*buffers]),
                    is_safe=request.head["safe"] or self._is_reference_only,
                    fetch=self._fetch(request),
                )
        except _RefusalError:
            raise
        except BaseException as error:
            what = f"{spec['name']} can't be loaded: {described(error)}"
            if isinstance(error, ModuleNotFoundError):
                what += (
                    " on the worker: install it there (a function's image has to hold what kernels "
                    "import), or define the kernel in your script"
                )
            raise _RefusalError("kernel", what, traceback_of(error)) from error
        kernel: Callable[..., Any] = target if spec["target"] else by_value
        return functools.partial(kernel, *args, **kwargs) if args or kwargs else kernel

    def _fetch(self, request: Message) -> Fetch:
        """How to have what refs stand for."""
        locator = request.head.get("store")
        is_safe = bool(request.head["safe"]) or self._is_reference_only
        failed: dict[str, str] = {}  # what can't be had isn't asked for again by every task

        def fetch(ref: Ref) -> Any:
            if ref.digest in failed:
                raise StoreError(failed[ref.digest])
            try:
                return fetched(ref)
            except StoreError as error:
                failed[ref.digest] = str(error)
                raise

        def fetched(ref: Ref) -> Any:
            if locator is None:
                raise StoreError(
                    "a Ref came without a store: use it with the executor that put the object, or "
                    "with one of the same store (fanout.Executor(store=…))"
                )
            # From the same bytes each time, as a task may change what it was given. Arrays are
            # views of these bytes, and can't be written to.
            content = self._object(locator, ref)
            return decode(unframe(content).payload, is_safe=is_safe, is_frozen=True)

        return fetch

    def _object(self, locator: dict[str, Any], ref: Ref) -> memoryview:
        from fanout.far_stores import Cache, kept_store

        if self._cache is None:
            self._cache = Cache()
        return self._cache.object(kept_store(locator), ref.digest, ref.nbytes)

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
        self.kind = kind
        self.remote_traceback = remote_traceback


def refused(kind: str, message: str, remote_traceback: str = "") -> Message:
    """The reply to a request that can't be run as a whole."""
    reason = {"kind": kind, "message": message, "traceback": remote_traceback}
    return Message({"fanout": PROTOCOL, "refused": reason})


def _peak_memory_bytes() -> int | None:
    # Linux counts in ru_maxrss what the process had before it ran this program: its parent's.
    try:
        status = os.open("/proc/self/status", os.O_RDONLY)
        try:
            _, found, rest = os.read(status, 4096).partition(b"VmHWM:")
        finally:
            os.close(status)
        if found:
            return int(rest.split(None, 1)[0]) * 1024
    except OSError:
        pass  # there is none elsewhere
    if _resource is None:
        return None
    peak = int(_resource.getrusage(_resource.RUSAGE_SELF).ru_maxrss)
    return peak if sys.platform == "darwin" else peak * 1024  # bytes there, KiB elsewhere
