"""Performs a fault: the same invocation, as it goes wrong on the way there or back.

Which fault befalls which invocation is decided in `faults`. What has begun to run always runs to
its end, whatever became of the connection.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

import fanout.emulator.responses as responses
from fanout.emulator.faults import Fault, FaultPlan, Faults

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from fanout.emulator.ends import Answer
    from fanout.emulator.http_messages import Response
    from fanout.emulator.http_server import Connection
    from fanout.emulator.limits import Refusal
    from fanout.emulator.runtime_api import Call


def seeded(faults: Faults) -> FaultPlan:
    """The plan whose chance comes from the seed."""
    # Two, so that a cold start more or less doesn't shift what befalls the invocations.
    rng = random.Random(f"{faults.seed} invocations")  # noqa: S311 - no secret
    start_rng = random.Random(f"{faults.seed} environments")  # noqa: S311
    return FaultPlan(faults, rng, start_rng)


class Runner(Protocol):
    """What runs invocations: `api.InvokeApi`."""

    async def respond_to(self, call: Call, *, with_log: bool) -> Response:
        """Run one and make a response of it."""

    async def run(self, call: Call) -> Answer | Refusal:
        """Run one, if the limits let it in."""

    def start(self, work: Coroutine[None, None, None]) -> None:
        """Do something in the background."""


async def respond_with(
    fault: Fault,
    runner: Runner,
    plan: FaultPlan,
    connection: Connection,
    call: Call,
    *,
    with_log: bool,
) -> Response | None:
    """What is answered to an invocation that a fault befalls; None if nothing is, any more."""
    match fault:
        case Fault.THROTTLE:
            return responses.throttled(plan.faults.reason, plan.faults.retry_after_s)
        case Fault.ERROR_502:
            return responses.bad_gateway(plan.faults.code_502)
        case Fault.ERROR_503:
            return responses.unavailable()
        case Fault.ERROR_500:
            if plan.coin():
                await runner.run(call)
            return responses.service_exception()
        case Fault.RESET_BEFORE:
            connection.reset()
            return None
        case Fault.RESET_DURING:
            connection.reset()
            await runner.run(call)
            return None
        case Fault.HANG:
            return await runner.respond_to(replace(call, is_hung=True), with_log=with_log)
        case Fault.DUPLICATE:
            return await _twice(runner, call, with_log=with_log)
    response = await runner.respond_to(call, with_log=with_log)
    match fault:
        case Fault.RESET_AFTER:
            connection.reset()
        case Fault.TRUNCATE:
            connection.respond_partly(response, len(response.body) // 2)
        case Fault.CORRUPT:
            return replace(response, body=plan.corrupted(response.body))
    return None


async def _twice(runner: Runner, call: Call, *, with_log: bool) -> Response:
    """Delivered to two environments; the first answer counts, the other one runs on."""
    first: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
    outstanding = 2

    async def run(copy: Call) -> None:
        nonlocal outstanding
        try:
            response = await runner.respond_to(copy, with_log=with_log)
        except OSError as problem:
            if not first.done():
                first.set_exception(problem)
            return
        outstanding -= 1
        is_refused = response.status == HTTPStatus.TOO_MANY_REQUESTS
        if not first.done() and (not is_refused or not outstanding):
            first.set_result(response)

    runner.start(run(call))
    runner.start(run(replace(call)))
    return await first
