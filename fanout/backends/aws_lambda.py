"""AWS Lambda as a backend: one attempt is one invocation of one function.

What the function may take and how many of it may run at once is asked of AWS when the backend is
started; everything after that is `invoke`, and the one table that says what an answer means. The
far end is `fanout.handler`, which stops tasks itself: an invocation can't be cancelled from here.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from fanout.backends import AttemptError, Billed
from fanout.backends.lambda_function import look, parted
from fanout.backends.lambda_messages import body_of, reply_of
from fanout.backends.shipping import Shipping
from fanout.capacity import Capacity
from fanout.errors import BackendError, DecodeError, FanoutError, StoreError, UsageError
from fanout.grouping import GroupPolicy
from fanout.invoke import CertificateError, ConnectionLostError, Invoker
from fanout.invoke.answers import About, failure_of, is_expired
from fanout.lambda_wire import AlteredError
from fanout.retry import Failure, FailureKind
from fanout.stopping import GRACE_S
from fanout.token_bucket import RateLimit
from fanout.wire import Message

if TYPE_CHECKING:
    from collections.abc import Callable

    import aioboto3

    from fanout.backends.shipping import Load
    from fanout.invoke import Answer
    from fanout.lambda_wire import Accepts
    from fanout.request import Request
    from fanout.spilled import Spill

_LOG: Final = logging.getLogger("fanout")
# Environments of a function: so many at once, then so many a second (Lambda, "Understanding how
# functions scale", 2026-10).
_GROWTH: Final = RateLimit(per_s=100.0, burst=990)  # ten less: the clocks are two
# An environment's start is billed, too, and may take so long (Lambda runtime environment, 2026-10).
_INIT_S: Final = 10.0
# Beyond the function's own timeout: a cold start, and the way there and back.
_READ_MARGIN_S: Final = 30.0
# An invocation of a warm environment takes some 25 ms on the way (median of Wang et al., ATC'18);
# and Lambda takes no more than ten a second for each environment (Lambda quotas, 2026-10). What a
# minute of work is lost with is lost to a crash, or to a slow environment. A thousand launches a
# second is what the first wave costs, with a connection for each (see docs/performance.md).
_GROUPING: Final = GroupPolicy(
    least_s=2.0,
    most_s=60.0,
    tail_s=0.5,
    tail_shares=1,
    max_bytes=3 * 2**20,
    growth=64,
    newest=0.1,
    probes=16,
    launches_per_s=1000.0,
)


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
        self._about = About(function=function)
        self._concurrency = concurrency or 1
        self._rate = rate
        self._capacity: Capacity | None = None
        self._is_open = False
        # How answers come: in bytes if the endpoint lets them through, which the first one shows.
        self._accepts: Accepts | None = None
        self._is_probing = False
        self._shipping = Shipping()
        self._in_flight = 0
        self._given_up = 0

    def __repr__(self) -> str:
        return f"<Lambda: {self._function}, {self._in_flight} of {self._concurrency} in flight>"

    @property
    def name(self) -> str:
        """Function, region, and the memory of its environments."""
        about = self._about
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
        """By memory and time; a larger function, if there is one, counts for both."""
        sizes = [self._about] + ([self._larger._about] if self._larger is not None else [])
        return Billed(
            gb=max(about.memory_mb for about in sizes) / 1024,
            worst_s=max(about.timeout_s for about in sizes) + _INIT_S,
        )

    @property
    def can_escalate(self) -> bool:
        """If another function was named."""
        return self._larger is not None

    @property
    def grouping(self) -> GroupPolicy:
        """By the price of an invocation."""
        return _GROUPING

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
            here, there = self._about, larger._about
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
        self._about = known.about
        self._invoker.read_timeout_s = known.about.timeout_s + _READ_MARGIN_S
        self._capacity = Capacity(
            self._concurrency,
            growth=_GROWTH,
            rate=self._rate or _rate_of(self._concurrency),
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
        try:
            load: Load | None = await self._shipping.first(request)
            while load is not None:
                reply = await self._exchange(request, load, started)
                load = await self._shipping.asked(request, load, reply)
        except StoreError as error:
            raise AttemptError(Failure(kind=FailureKind.REFUSED, error=error)) from error
        except FanoutError as error:
            failure = Failure(kind=FailureKind.REFUSED, error=error, is_fatal=True)
            raise AttemptError(failure) from error
        return reply

    async def _exchange(self, request: Request, load: Load, started: Callable[[], None]) -> Message:
        """One invocation, and its reply."""
        # What may not run twice is no probe of whether bytes come through.
        is_safe = request.is_idempotent and not self._is_probing
        accepts = self._accepts or ("bytes" if is_safe else "json")
        body = await body_of(load.message(request), accepts, request.spill)
        try:
            return await self._answered(request, body.content, accepts, started)
        finally:
            # An attempt that was lost may still run, and then finds nothing: its end is nobody's
            # affair any more.
            if body.spilled is not None and request.spill is not None:
                request.spill.done([body.spilled])

    async def _answered(
        self, request: Request, body: list[bytes], accepts: Accepts, started: Callable[[], None]
    ) -> Message:
        is_probe = self._accepts is None and accepts == "bytes"
        self._is_probing = self._is_probing or is_probe
        sent_s = time.perf_counter()
        try:
            answer = await self._sent(body, started)
        finally:
            if is_probe and self._accepts is None:
                self._is_probing = False
        failure = self._failure(answer, request, time.perf_counter() - sent_s)
        is_broken = came_as_bytes = False
        if failure is None:
            reply, came_as_bytes, failure = await self._read(answer, request.spill)
            is_broken = failure is not None
        elif is_probe and failure.kind is FailureKind.CRASHED:
            # Some stand-ins for Lambda can't hand bytes over at all, and break the environment: so
            # the tasks may not be to blame.
            failure = replace(failure, kind=FailureKind.MAYBE_RAN)
            is_broken = True
        if is_probe and (is_broken or came_as_bytes):  # else it shows nothing
            self._accepts = self._accepts or ("json" if is_broken else "bytes")
        if failure is not None:
            raise AttemptError(failure)
        return reply

    async def _sent(self, body: list[bytes], started: Callable[[], None]) -> Answer:
        self._in_flight += 1
        try:
            started()
            return await self._invoker.invoke(body)
        except asyncio.CancelledError:
            self._gave_up()
            raise
        except CertificateError as error:
            raise AttemptError(self._untrusted(error)) from error
        except BackendError as error:
            failure = Failure(kind=FailureKind.DID_NOT_RUN, error=error, is_fatal=True)
            raise AttemptError(failure) from error
        except ConnectionLostError as error:
            kind = FailureKind.MAYBE_RAN if error.was_sent else FailureKind.UNREACHABLE
            raise AttemptError(Failure(kind=kind, detail=str(error))) from error
        finally:
            self._in_flight -= 1

    def _failure(self, answer: Answer, request: Request, elapsed_s: float) -> Failure | None:
        """What an answer means that holds no reply; None if it does."""
        if answer.status == 200 and answer.header(b"x-amz-function-error") is None:
            return None
        headers = answer.headers
        failure = failure_of(answer.status, headers, answer.body, self._about)
        if failure is None:
            return None
        if is_expired(answer.status, headers, answer.body):
            self._invoker.forget_credentials()
        allowed_s = request.timeout_s
        if allowed_s is None or elapsed_s < allowed_s + GRACE_S:
            return failure
        if failure.kind is not FailureKind.CRASHED:
            return failure
        # The worker's watchdog ends the process when nothing else ends a task.
        return replace(failure, kind=FailureKind.TIMED_OUT, timeout_s=allowed_s)

    async def _read(
        self, answer: Answer, spill: Spill | None
    ) -> tuple[Message, bool, Failure | None]:
        """The reply, and whether it came as bytes; or what it means that it can't be read."""
        try:
            return *await reply_of(answer.parts, spill), None
        except DecodeError as error:
            if isinstance(error, AlteredError):
                self._accepts = "json"
            failure = Failure(kind=FailureKind.MAYBE_RAN, detail=str(error))
            return Message({}), False, failure

    def _untrusted(self, error: Exception) -> Failure:
        message = (
            f"the certificate of {self._invoker.url} isn't trusted ({error}): if a proxy of your "
            "organisation is in between, set AWS_CA_BUNDLE to its certificates"
        )
        return Failure(kind=FailureKind.REFUSED, error=BackendError(message), is_fatal=True)

    def _gave_up(self) -> None:
        """Tell of invocations that go on without us, once for all that are given up together."""
        self._given_up += 1
        if self._given_up == 1:
            asyncio.get_running_loop().call_soon(self._tell_given_up)

    def _tell_given_up(self) -> None:
        count, self._given_up = self._given_up, 0
        if count:
            _LOG.warning(
                "fanout: %d invocation%s of %s given up; Lambda can't cancel them: they run on, "
                "and are billed, until they end or reach the function's timeout of %g s",
                count,
                "" if count == 1 else "s",
                self._function,
                self._about.timeout_s,
            )

    async def aclose(self) -> None:
        """Close all connections."""
        if self._larger is not None:
            await self._larger.aclose()
        self._tell_given_up()
        self._is_open = False
        await self._shipping.aclose()
        await self._invoker.__aexit__(None, None, None)


def _rate_of(concurrency: int) -> RateLimit:
    """Requests that AWS takes: ten a second for each unit of concurrency (quotas, 2026-10).

    Half a second's worth at once: in no second there is then much more than that.
    """
    return RateLimit(per_s=10.0 * concurrency, burst=5 * concurrency)


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
