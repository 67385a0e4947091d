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
from typing import TYPE_CHECKING, Any, Final

from fanout.backends import AttemptError
from fanout.backends.shipping import Shipping
from fanout.envelope import lacks_code
from fanout.errors import BackendError, DecodeError, FanoutError, UsageError
from fanout.grouping import GroupPolicy
from fanout.invoke import CertificateError, ConnectionLostError, Invoker
from fanout.invoke.answers import About, failure_of, is_expired
from fanout.lambda_wire import LIMIT_BYTES, AlteredError, read_reply, request_body
from fanout.retry import Failure, FailureKind
from fanout.stopping import GRACE_S
from fanout.wire import Message

if TYPE_CHECKING:
    from collections.abc import Callable

    import aioboto3

    from fanout.envelope import Request
    from fanout.invoke import Answer
    from fanout.lambda_wire import Accepts
    from fanout.project import Top

_LOG: Final = logging.getLogger("fanout")
# Beyond the function's own timeout: a cold start, and the way there and back.
_READ_MARGIN_S: Final = 30.0
# An invocation of a warm environment takes some 25 ms on the way (median of Wang et al., ATC'18);
# and Lambda takes no more than ten a second for each environment (Lambda quotas, 2026-10).
_GROUPING: Final = GroupPolicy(target_s=1.0, max_bytes=3 * 2**20)
# Bodies from here on are encoded in a thread.
_LARGE_BYTES: Final = 256 * 2**10


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
        function, named = _parted(function)
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
        self._about = About(function=function)
        self._concurrency = concurrency or 1
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

    async def _look(self) -> None:
        """Ask AWS about function and account."""
        client = self._invoker.client
        named: dict[str, Any] = {"FunctionName": self._function}
        qualified = named | ({"Qualifier": self._qualifier} if self._qualifier else {})
        found, reserved = await asyncio.gather(
            self._asked("GetFunctionConfiguration", client.get_function_configuration, qualified),
            self._asked("GetFunctionConcurrency", client.get_function_concurrency, named),
        )
        _check_state(self._function, found)
        most = reserved.get("ReservedConcurrentExecutions")
        if most is None:
            account = await self._asked("GetAccountSettings", client.get_account_settings, {})
            most = account["AccountLimit"]["UnreservedConcurrentExecutions"]
        elif most == 0:
            msg = (
                f"{self._function} has a reserved concurrency of 0, so that nothing of it runs: "
                "raise it, or remove it (`aws lambda delete-function-concurrency`)"
            )
            raise BackendError(msg)
        self._concurrency = min(most, self._wanted or most) or 1
        self._invoker.read_timeout_s = found["Timeout"] + _READ_MARGIN_S
        self._about = About(
            function=self._function,
            region=self._invoker.region,
            memory_mb=found["MemorySize"],
            timeout_s=found["Timeout"],
        )
        _allow_sockets(self._concurrency)

    async def _asked(self, action: str, call: Any, arguments: dict[str, Any]) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return await call(**arguments)
        except ClientError as error:
            told = error.response["Error"]
            code, message = told.get("Code", ""), told.get("Message", "")
            if code == "ResourceNotFoundException":
                where = f"{self._function} in {self._invoker.region}"
                msg = f"there is no function {where}: check its name and the region, or deploy it"
            elif code.startswith("AccessDenied"):
                msg = f"your credentials lack the right lambda:{action} ({message}): add it"
            else:
                msg = f"lambda:{action} failed with {code} ({message})"
            raise BackendError(msg) from error
        except BotoCoreError as error:
            raise BackendError(f"lambda:{action} failed: {error}") from error

    async def invoke(self, request: Request, started: Callable[[], None]) -> Message:
        """Run one attempt as one invocation.

        Or two: a worker that lacks modules of the user's asks for them, and has run nothing.
        """
        if not self._is_open:
            raise AttemptError(
                Failure(
                    kind=FailureKind.DID_NOT_RUN,
                    error=BackendError("the backend is closed"),
                    is_fatal=True,
                )
            )
        tops = await self._tops(request)
        goes_along = self._shipping.goes_along(request.kernel, tops)
        reply = await self._exchange(request, tops, started, with_project=goes_along)
        if lacks_code(reply):
            await self._shipping.was_lacking(request.kernel, tops)
            reply = await self._exchange(request, tops, started, with_project=True)
        return reply

    async def _tops(self, request: Request) -> list[Top]:
        try:
            return await self._shipping.needed_by(request.kernel)
        except FanoutError as error:
            failure = Failure(kind=FailureKind.REFUSED, error=error, is_fatal=True)
            raise AttemptError(failure) from error

    async def _exchange(
        self,
        request: Request,
        tops: list[Top],
        started: Callable[[], None],
        *,
        with_project: bool,
    ) -> Message:
        """One invocation, and its reply."""
        accepts = self._accepts or ("json" if self._is_probing else "bytes")
        message = request.message(project=tops, with_project=with_project)
        body = await _encoded(message, accepts)
        is_probe = self._accepts is None and accepts == "bytes"
        self._is_probing = self._is_probing or is_probe
        sent_s = time.perf_counter()
        try:
            answer = await self._sent(body, started)
        finally:
            if is_probe and self._accepts is None:
                self._is_probing = False
        failure = self._failure(answer, request, time.perf_counter() - sent_s)
        is_broken = False
        if failure is None:
            reply, failure = await self._read(answer)
            is_broken = failure is not None
        elif is_probe and failure.kind is FailureKind.CRASHED:
            # Some stand-ins for Lambda can't hand bytes over at all, and break the environment: so
            # the tasks may not be to blame.
            failure = replace(failure, kind=FailureKind.MAYBE_RAN)
            is_broken = True
        if is_probe and (is_broken or failure is None):
            self._accepts = self._accepts or ("json" if is_broken else "bytes")
        if failure is not None:
            raise AttemptError(failure)
        return reply

    async def _sent(self, body: bytes, started: Callable[[], None]) -> Answer:
        self._in_flight += 1
        try:
            started()
            return await self._invoker.invoke([body])
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

    async def _read(self, answer: Answer) -> tuple[Message, Failure | None]:
        """The reply; or what it means that it can't be read."""
        try:
            if sum(map(len, answer.parts)) < _LARGE_BYTES:
                return read_reply(answer.parts), None
            return await asyncio.to_thread(read_reply, answer.parts), None
        except DecodeError as error:
            if isinstance(error, AlteredError):
                self._accepts = "json"
            return Message({}), Failure(kind=FailureKind.MAYBE_RAN, detail=str(error))

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
        self._tell_given_up()
        self._is_open = False
        await self._shipping.aclose()
        await self._invoker.__aexit__(None, None, None)


async def _encoded(message: Message, accepts: Accepts) -> bytes:
    """The request's body.

    Raises:
        AttemptError: It is larger than Lambda takes.
    """
    size = message.payload.nbytes
    if size * 4 // 3 > LIMIT_BYTES:  # no need to encode what is too large in any case
        raise AttemptError(_too_large(size * 4 // 3))
    if size < _LARGE_BYTES:
        body = request_body(message, accepts=accepts)
    else:
        body = await asyncio.to_thread(request_body, message, accepts=accepts)
    if len(body) > LIMIT_BYTES:
        raise AttemptError(_too_large(len(body)))
    return body


def _too_large(size: int) -> Failure:
    detail = (
        f"its chunk and kernel are {size / 1e6:,.1f} MB encoded, and a request of Lambda holds "
        f"{LIMIT_BYTES / 1e6:,.1f} MB: make chunks smaller, or pass a path or a range and let the "
        "kernel read it"
    )
    return Failure(kind=FailureKind.REFUSED, detail=detail)


def _parted(function: str) -> tuple[str, str | None]:
    """Name or ARN of a function, and the version or alias at its end, if there is one."""
    parts = function.split(":")
    usual = 7 if parts[0] == "arn" else 3 if "function" in parts else 1
    if len(parts) == usual + 1:
        return ":".join(parts[:-1]), parts[-1]
    return function, None


def _check_state(function: str, found: dict[str, Any]) -> None:
    state = found.get("State", "Active")
    if state == "Failed":
        reason = found.get("StateReason", "no reason given")
        msg = f"the function {function} is in the state Failed ({reason}): deploy it again"
        raise BackendError(msg)


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
