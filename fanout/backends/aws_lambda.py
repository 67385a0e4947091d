"""AWS Lambda as a backend: one attempt is one invocation of one function.

What the function may take and how many of it may run at once is asked of AWS when the backend is
started; everything after that is `invoke`: what code goes along is `shipping`'s, what becomes of an
invocation `lambda_invocations`', and a larger function is a second backend inside of this one. The
far end is `fanout.handler`, which stops tasks itself: an invocation can't be cancelled from here.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary, WeakValueDictionary

from fanout.backends import AttemptError
from fanout.backends.lambda_function import look, parted
from fanout.backends.lambda_invocations import Invocations
from fanout.backends.shipping import Shipping
from fanout.budget import Billed
from fanout.capacity import Capacity
from fanout.errors import BackendError, FanoutError, StoreError, UsageError
from fanout.invoke import Invoker
from fanout.invoke.answers import About
from fanout.lambda_figures import GROUPING, GROWTH, INIT_S, requests_of
from fanout.retry import Failure, FailureKind

if TYPE_CHECKING:
    from collections.abc import Callable

    import aioboto3

    from fanout.backends import Site
    from fanout.backends.shipping import Load
    from fanout.grouping import GroupPolicy
    from fanout.request import Request
    from fanout.tasks import BilledTime
    from fanout.token_bucket import RateLimit
    from fanout.wire import Message

_LOG: Final = logging.getLogger("fanout")
# Beyond the function's own timeout: a cold start, and the way there and back.
_READ_MARGIN_S: Final = 30.0
# Executors that have backends of their own, on one function, don't fight either.
_CAPACITIES: Final[
    WeakKeyDictionary[
        asyncio.AbstractEventLoop, WeakValueDictionary[tuple[str, int, RateLimit], Capacity]
    ]
] = WeakKeyDictionary()


class Lambda:
    """A function on AWS Lambda, deployed with fanout's image.

        async with fanout.Executor(fanout.Lambda("fanout-worker", region="us-east-1")) as ex:
            results = await ex.map(kernel, chunks)

    Credentials, region and endpoint come from where every AWS tool takes them: the environment
    (AWS_PROFILE, AWS_REGION, AWS_ENDPOINT_URL_LAMBDA, …), the files in ~/.aws, SSO, a role.
    It needs the rights lambda:InvokeFunction, lambda:GetFunctionConfiguration and
    lambda:GetFunctionConcurrency on the function, and lambda:GetAccountSettings.

    Args:
        function: Its name or ARN.
        qualifier: A version or an alias of it.
        region: Instead of the profile's.
        profile: Instead of AWS_PROFILE.
        concurrency: Most invocations in flight; by default what the function has reserved, or what
            the account has left unreserved.
        escalate: A function with more memory, or a longer timeout, for tasks that ran out of either
            here: each goes there once. A name or ARN, or a `Lambda` of its own.
        rate: Most invocations a second, for example `fanout.RateLimit(per_s=50, burst=10)`; by
            default what AWS takes: ten for each unit of concurrency.
        endpoint_url: Instead of AWS's own, for example that of `fanout emulate`.
        verify: A file of certificates to trust, or False not to verify the endpoint's.
        session: An `aioboto3.Session` to use, instead of `profile`.
    """

    def __init__(
        self,
        function: str,
        *,
        qualifier: str | None = None,
        region: str | None = None,
        profile: str | None = None,
        concurrency: int | None = None,
        escalate: str | Lambda | None = None,
        rate: RateLimit | None = None,
        endpoint_url: str | None = None,
        verify: bool | str | None = None,
        session: aioboto3.Session | None = None,
    ) -> None:
        if not isinstance(function, str) or not function:
            msg = f"function={function!r} must be the name or the ARN of a Lambda function"
            raise UsageError(msg)
        if concurrency is not None and (type(concurrency) is not int or concurrency < 1):
            msg = (
                f"concurrency={concurrency!r} must be a whole number, 1 or more (or None: ask AWS)"
            )
            raise UsageError(msg)
        function, named = parted(function)
        if qualifier is not None and named not in {None, qualifier}:
            msg = f"qualifier={qualifier!r} contradicts {named!r} in the function's name: pass one"
            raise UsageError(msg)
        qualifier = qualifier or named
        self.recipe: dict[str, Any] | None = {
            "kind": "lambda",
            "function": function,
            "qualifier": qualifier,
            "region": region,
            "profile": profile,
            "concurrency": concurrency,
            "escalate": escalate,
            "rate": None if rate is None else {"per_s": rate.per_s, "burst": rate.burst},
            "endpoint_url": endpoint_url,
            "verify": verify,
        }
        if session is not None or isinstance(escalate, Lambda):
            self.recipe = None  # what a program made is not to be found again
        self._function = function
        self._qualifier = qualifier
        self._wanted = concurrency
        self._invoker = Invoker(
            function=function,
            qualifier=qualifier,
            session=session,
            region=region,
            profile=profile,
            endpoint_url=endpoint_url,
            verify=verify,
        )
        self._larger = escalate if isinstance(escalate, Lambda) else None
        if isinstance(escalate, str):
            self._larger = Lambda(
                escalate,
                region=region,
                profile=profile,
                endpoint_url=endpoint_url,
                verify=verify,
                session=session,
            )
        elif escalate is not None and self._larger is None:
            msg = f"escalate={escalate!r} must be a function's name or ARN, or a fanout.Lambda"
            raise UsageError(msg)
        self._invocations = Invocations(self._invoker, About(function=function))
        self._concurrency = concurrency or 1
        self._rate = rate
        self._capacity: Capacity | None = None
        self._is_open = False
        self._shipping = Shipping()
        self.site: Site | None = None  # known once it is started

    def __repr__(self) -> str:
        in_flight = self._invocations.in_flight
        return f"<Lambda: {self._function}, {in_flight} of {self._concurrency} in flight>"

    @property
    def name(self) -> str:
        """Function, region, and the memory of its environments."""
        about = self._invocations.about
        where = f" in {about.region}, {about.memory_mb:,} MB" if about.region else ""
        return f"lambda, {self._function}{where}"

    @property
    def concurrency(self) -> int:
        """Most invocations in flight."""
        return self._concurrency

    @property
    def limit(self) -> int:
        """The same: nothing waits at the door, AWS would refuse it."""
        return self._concurrency

    @property
    def stops_tasks(self) -> bool:
        """Yes: nobody else can."""
        return True

    @property
    def is_remote(self) -> bool:
        """Yes."""
        return True

    @property
    def capacity(self) -> Capacity | None:
        """What AWS lets one function have; known once the backend is started."""
        return self._capacity

    @property
    def billed(self) -> Billed:
        """By memory and time, and the larger function by its own."""
        about = self._invocations.about
        return Billed(
            gb=about.memory_mb / 1024,
            timeout_s=about.timeout_s,
            init_s=INIT_S,
            larger=self._larger.billed if self._larger is not None else None,
            region=about.region,
            arch=about.arch,
            disk_mb=about.disk_mb,
        )

    @property
    def can_escalate(self) -> bool:
        """If another function was named."""
        return self._larger is not None

    @property
    def grouping(self) -> GroupPolicy:
        """By the price of an invocation."""
        return GROUPING

    async def start(self) -> None:
        """Find the function, and ask what it may take.

        Raises:
            UsageError: A setting makes no sense.
            BackendError: There are no credentials, no such function, or no right to use it.
        """
        await self._invoker.__aenter__()
        try:
            await self._look()
        except BaseException as error:
            await self._invoker.__aexit__(None, None, None)
            if isinstance(error, LookupError):
                msg = f"{self._invoker.url} doesn't answer as Lambda does: it tells no {error}"
                raise BackendError(msg) from error
            raise
        self._is_open = True
        if self._larger is not None:
            await self._start_larger(self._larger)

    async def _start_larger(self, larger: Lambda) -> None:
        try:
            await larger.start()
            here, there = self._invocations.about, larger._invocations.about
            if there.memory_mb <= here.memory_mb and there.timeout_s <= here.timeout_s:
                msg = (
                    f"escalate={there.function!r} has {there.memory_mb:,} MB and "
                    f"{there.timeout_s:g} s, no more than {here.function}: name one that has more "
                    "of either"
                )
                raise UsageError(msg)
        except BaseException:
            await self.aclose()
            raise

    async def _look(self) -> None:
        """Ask AWS about function and account."""
        known = await look(
            self._invoker.client, self._function, self._qualifier, region=self._invoker.region
        )
        self._concurrency = min(known.concurrency, self._wanted or known.concurrency) or 1
        self._invocations.about, self.site = known.about, known.site
        self._invoker.read_timeout_s = known.about.timeout_s + _READ_MARGIN_S
        where = f"{self._invoker.url} {self._invoker.region} {self._function} {self._qualifier}"
        self._capacity = _capacity_of(
            where, self._concurrency, self._rate or requests_of(self._concurrency)
        )
        _allow_sockets(self._concurrency)

    async def invoke(self, request: Request, started: Callable[[], None]) -> Message:
        """Run one attempt as one invocation.

        Or more: a worker that lacks code asks for it, and has run nothing.
        """
        if not self._is_open:
            raise AttemptError(
                Failure(
                    kind=FailureKind.DID_NOT_RUN,
                    error=BackendError("the backend is closed"),
                    is_fatal=True,
                )
            )
        if request.is_escalated and self._larger is not None:
            return await self._larger.invoke(replace(request, is_escalated=False), started)
        billed: BilledTime | None = None  # of the invocations before the present one
        try:
            load: Load | None = await self._shipping.first(request)
            while load is not None:
                message = load.message(request)
                reply = await self._invocations.exchange(request, message, started)
                if billed is not None:
                    reply = replace(reply, billed=billed.plus(reply.billed))
                billed = reply.billed
                load = await self._shipping.asked(request, load, reply)
        except AttemptError as error:
            if billed is None:
                raise
            both = billed.plus(error.failure.billed)
            raise AttemptError(replace(error.failure, billed=both)) from error
        except StoreError as error:
            failure = Failure(kind=FailureKind.REFUSED, error=error, billed=billed)
            raise AttemptError(failure) from error
        except FanoutError as error:
            failure = Failure(kind=FailureKind.REFUSED, error=error, is_fatal=True, billed=billed)
            raise AttemptError(failure) from error
        return reply

    async def aclose(self) -> None:
        """Close all connections."""
        if self._larger is not None:
            await self._larger.aclose()
        self._is_open = False
        await self._shipping.aclose()
        await self._invoker.__aexit__(None, None, None)


def _capacity_of(function: str, limit: int, rate: RateLimit) -> Capacity:
    """One for all that use the function in an event loop, and want the same of it."""
    known = _CAPACITIES.setdefault(asyncio.get_running_loop(), WeakValueDictionary())
    capacity = known.get((function, limit, rate))
    if capacity is None:
        capacity = known[function, limit, rate] = Capacity(limit, growth=GROWTH, rate=rate)
    return capacity


def _allow_sockets(count: int) -> None:
    """Raise the limit of open files, where it is below what the connections need."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = count + 256
    if soft != resource.RLIM_INFINITY and soft < needed:
        most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        except (OSError, ValueError):
            _LOG.debug("the limit of open files stays at %d", soft)
