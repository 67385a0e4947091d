"""Which of the user's modules go along with a kernel, to workers that may lack them.

Every request names their digests; the worker says if it lacks one. Small ones then go along with
each request to come; large ones only with a request that was refused for want of them, which is one
for each environment.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from fanout.project import needed_by

if TYPE_CHECKING:
    from fanout.kernel_spec import KernelSpec
    from fanout.project import Top

# Runs at the same time for which it is known what their kernels need.
_KEPT: Final = 64
# Up to here it costs less to send modules each time than to be refused once per environment.
_SMALL_BYTES: Final = 64 * 2**10


class Shipping:
    """The modules of each run's kernel, as they were when the run began."""

    def __init__(self) -> None:
        # By the identity of the spec, which is kept so that no other gets it.
        self._tops: OrderedDict[int, tuple[KernelSpec, asyncio.Task[list[Top]]]] = OrderedDict()
        self._lacked: set[str] = set()  # digests of kernels

    async def needed_by(self, spec: KernelSpec) -> list[Top]:
        """The modules of the user's project that a kernel needs.

        Raises:
            FanoutError: They can't be sent.
        """
        known = self._tops.get(id(spec))
        if known is None:  # the first attempt of a run; the others wait for what it finds
            looking = asyncio.create_task(asyncio.to_thread(needed_by, spec.roots))
            known = self._tops[id(spec)] = spec, looking
            if len(self._tops) > _KEPT:
                self._tops.popitem(last=False)
        return await asyncio.shield(known[1])

    def goes_along(self, spec: KernelSpec, tops: list[Top]) -> bool:
        """Whether to send them at once."""
        return spec.digest in self._lacked and sum(len(top.bundle) for top in tops) <= _SMALL_BYTES

    async def was_lacking(self, spec: KernelSpec, tops: list[Top]) -> None:
        """A worker lacks them: so will others of its image. Gets them ready to be sent."""
        await asyncio.to_thread(lambda: [top.bundle for top in tops])
        self._lacked.add(spec.digest)

    async def aclose(self) -> None:
        """Forget everything."""
        looking = [task for _, task in self._tops.values()]
        self._tops.clear()
        self._lacked.clear()
        await asyncio.gather(*looking, return_exceptions=True)
