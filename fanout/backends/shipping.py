"""What goes along with a request so that its worker can load the kernel.

Every request names the kernel's digest and those of the user's modules that it needs. What is small
goes along each time; what is large lies in the store, where each environment gets it once; and
without a store it goes only to a worker that has asked for it, which has run nothing by then.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fanout.project import needed_by
from fanout.reply import is_unknown_kernel, lacks_code
from fanout.request import code_message
from fanout.wire import frame

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import TypeVar

    from fanout.kernel_spec import KernelSpec
    from fanout.project import Top
    from fanout.request import Request
    from fanout.spilled import Spill, Spilled
    from fanout.wire import Message

    T = TypeVar("T")

# Runs at the same time for which it is known what their kernels need.
_KEPT: Final = 64
# Up to here it costs less to send code each time than to be refused once per environment.
_SMALL_BYTES: Final = 64 * 2**10
# From here on it goes through a store, if there is one: at 25 MB/s up, that is 14 ms of each
# invocation, and a request to S3 takes 30 ms once per environment.
_STORED_BYTES: Final = 256 * 2**10


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What goes along, as `Request.message` takes it."""

    project: list[Top]
    with_code: bool
    with_project: bool
    stored: Spilled | None = None

    def message(self, request: Request) -> Message:
        """The message of a request."""
        return request.message(
            project=self.project,
            with_code=self.with_code,
            with_project=self.with_project,
            stored=self.stored,
        )


class Shipping:
    """The code of each run, as it was when the run began."""

    def __init__(self) -> None:
        # By the identity of the spec, which is kept so that no other gets it.
        self._runs: OrderedDict[int, _Run] = OrderedDict()
        self._lacked: set[str] = set()  # digests of kernels whose modules some worker lacked

    async def first(self, request: Request) -> Load:
        """What goes along with a request.

        Raises:
            FanoutError: The user's modules can't be sent.
            StoreError: The code can't be put into the store.
        """
        spec = request.kernel
        run = self._runs.get(id(spec))
        if run is None:
            run = self._runs[id(spec)] = _Run(spec)
            if len(self._runs) > _KEPT:
                self._runs.popitem(last=False)
        project = await run.needed()
        has_lacked = spec.digest in self._lacked
        size = run.code_bytes + (sum(len(top.bundle) for top in project) if has_lacked else 0)
        if size <= _SMALL_BYTES:
            return Load(project=project, with_code=True, with_project=has_lacked)
        if size >= _STORED_BYTES and request.spill is not None:
            return await run.stored(request.spill, with_project=has_lacked)
        is_small = run.code_bytes <= _SMALL_BYTES
        return Load(project=project, with_code=is_small, with_project=False)

    async def asked(self, request: Request, load: Load, reply: Message) -> Load | None:
        """What goes along with the same request when its worker has asked for more.

        Args:
            request: As before.
            load: What went along.
            reply: The worker's.

        Returns:
            None if the worker asked for nothing that it didn't get.

        Raises:
            StoreError: The code can't be put into the store.
        """
        if not lacks_code(reply) and not is_unknown_kernel(reply):
            return None
        if load.with_code and load.with_project:
            return None
        if lacks_code(reply):
            # So will others of the same image.
            await asyncio.to_thread(lambda: [top.bundle for top in load.project])
            self._lacked.add(request.kernel.digest)
        with_project = request.kernel.digest in self._lacked
        run = self._runs.get(id(request.kernel)) or _Run(request.kernel)
        size = run.code_bytes + sum(len(top.bundle) for top in load.project if with_project)
        if size >= _STORED_BYTES and request.spill is not None:
            return await run.stored(request.spill, with_project=with_project)
        return Load(project=load.project, with_code=True, with_project=with_project)

    async def aclose(self) -> None:
        """Forget everything."""
        runs = list(self._runs.values())
        self._runs.clear()
        self._lacked.clear()
        for run in runs:
            await run.aclose()


class _Run:
    """One run: what its kernel needs, looked for once, and stored at most once."""

    def __init__(self, spec: KernelSpec) -> None:
        self._spec = spec
        self.code_bytes = spec.code.nbytes
        self._needed: asyncio.Task[list[Top]] | None = None
        self._stored: dict[bool, asyncio.Task[Spilled]] = {}

    async def needed(self) -> list[Top]:
        """The modules of the user's project that its kernel needs."""
        if self._needed is None:
            self._needed = _task(asyncio.to_thread(needed_by, self._spec.roots))
        return await asyncio.shield(self._needed)

    async def stored(self, spill: Spill, *, with_project: bool) -> Load:
        """The code in the store."""
        project = await self.needed()
        task = self._stored.get(with_project)
        if task is None:  # the first attempt of a run; the others wait for it
            message = code_message(self._spec, project if with_project else ())
            task = self._stored[with_project] = _task(spill.put(frame(message)))
        try:
            stored = await asyncio.shield(task)
        except Exception:
            self._stored.pop(with_project, None)  # the next attempt may be luckier
            raise
        return Load(project=project, with_code=True, with_project=with_project, stored=stored)

    async def aclose(self) -> None:
        """Wait for what is under way."""
        tasks = [*self._stored.values(), *([self._needed] if self._needed else [])]
        await asyncio.gather(*tasks, return_exceptions=True)


def _task(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    return asyncio.create_task(work)
