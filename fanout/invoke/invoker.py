"""One function, ready to be invoked: its target, the credentials of the moment, its connections.

One call is one request: what may be sent again is the caller's decision, since an invocation that
seems lost may run, and is billed.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final

from fanout import aws
from fanout._version import __version__
from fanout.aws import client_of, explaining
from fanout.errors import BackendError, UsageError
from fanout.invoke.http1 import ConnectionLostError
from fanout.invoke.pool import Pool
from fanout.invoke.target import Target, resolve
from fanout.sigv4 import Credentials

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    import aioboto3

    from fanout.invoke.http1 import Answer

_LOG: Final = logging.getLogger("fanout")

# Bodies from here on are hashed in a thread: 256 KB take 0.2 ms.
_LARGE_BYTES: Final = 256 * 2**10
# How often to ask botocore whether the credentials are still those, and how soon again after it
# could not say.
_ASK_EVERY_S: Final = 1.0
_ASK_AGAIN_S: Final = 10.0


class Invoker:
    """Invokes one function.

        async with Invoker(function="simulate", region="eu-central-1") as invoker:
            answer = await invoker.invoke([b'{"x": 1}'])

    Args:
        function: Name or ARN.
        qualifier: Version or alias.
        session: Credentials and settings; by default those of the environment.
        region: Instead of the session's.
        profile: Instead of AWS_PROFILE; not together with `session`.
        endpoint_url: Instead of AWS's own.
        verify: A file of certificates to trust, or False not to verify; as for a client of boto.
        read_timeout_s: How long to wait for an answer.
    """

    def __init__(
        self,
        *,
        function: str,
        qualifier: str | None = None,
        session: aioboto3.Session | None = None,
        region: str | None = None,
        profile: str | None = None,
        endpoint_url: str | None = None,
        verify: bool | str | None = None,
        read_timeout_s: float = 60.0,
    ) -> None:
        if session is not None and profile is not None:
            msg = f"profile={profile!r} and session=… contradict each other: pass one of them"
            raise UsageError(msg)
        self._function = function
        self._qualifier = qualifier
        self._given = session
        self._region = region
        self._profile = profile
        self._endpoint_url = endpoint_url
        self._verify = verify
        self.read_timeout_s = read_timeout_s
        self._open = AsyncExitStack()
        self._target: Target | None = None
        self._pool: Pool | None = None
        self._credentials: Credentials | None = None
        self._ask_at_s = 0.0
        self._is_open = False

    def __repr__(self) -> str:
        return f"<Invoker of {self._function}: {self._pool!r}>"

    async def __aenter__(self) -> Self:
        """Find out where to send requests; sends none."""
        try:
            await self._start()
        except BaseException:
            await self._open.aclose()
            raise
        self._is_open = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close all connections."""
        self._is_open = False
        pool, self._pool = self._pool, None
        try:
            if pool is not None:
                await pool.aclose()
        finally:
            await self._open.aclose()

    async def _start(self) -> None:
        self._credentials = None
        self.client, session, self._found = await self._open.enter_async_context(
            client_of(
                "lambda",
                lacking=no_credentials,
                session=self._given,
                profile=self._profile,
                region=self._region,
                endpoint_url=self._endpoint_url,
                verify=self._verify,
                read_timeout=30,
            )
        )
        with explaining(no_credentials):
            self._target = await resolve(
                self.client,
                session,
                function=self._function,
                qualifier=self._qualifier,
                verify=self._verify,
                user_agent=f"fanout/{__version__}",
            )

    @property
    def region(self) -> str:
        """Where the function is."""
        assert self._target is not None, "used before it was opened"
        return self._target.region

    @property
    def url(self) -> str:
        """Of the function's invocations."""
        assert self._target is not None, "used before it was opened"
        return self._target.url

    async def invoke(self, body: Sequence[bytes]) -> Answer:
        """Send one request, once, and wait for its answer, whatever it is.

        Cancelling it closes the connection; the invocation goes on.

        Args:
            body: The payload, in one or more pieces.

        Raises:
            ConnectionLostError: There will be no answer; says whether any of it was sent.
            CertificateError: The other side isn't who it should be.
            BackendError: The credentials can't be refreshed.
        """
        target = self._target
        if not self._is_open or target is None:
            raise ConnectionLostError("the client is closed", was_sent=False)
        if self._pool is None:
            self._pool = Pool(target.origin, timeout_s=self.read_timeout_s)
        pool = self._pool
        size = sum(map(len, body))
        digest = _digest(body) if size < _LARGE_BYTES else await asyncio.to_thread(_digest, body)
        credentials = self._credentials
        if credentials is None or time.monotonic() >= self._ask_at_s:
            credentials = await self._ask()
        head = target.signer.head(digest, size, credentials, int(time.time()))
        return await pool.exchange(head, body)

    def forget_credentials(self) -> None:
        """They were refused: have new ones before the next request."""
        self._credentials = None

    async def _ask(self) -> Credentials:
        """Have the credentials that hold now; they refresh themselves when they get old.

        That takes a while. Who calls in the meantime goes on with the old ones, if there are any;
        and so do all if it fails, until the service refuses them.
        """
        self._ask_at_s = time.monotonic() + _ASK_EVERY_S
        try:
            frozen: Any = await self._found.get_frozen_credentials()
        except Exception as error:
            if self._credentials is None:
                raise no_credentials(error) from error
            self._ask_at_s = time.monotonic() + _ASK_AGAIN_S
            _LOG.warning("fanout: the AWS credentials can't be refreshed: %s", error)
            return self._credentials
        new = Credentials(frozen.access_key, frozen.secret_key, frozen.token)
        if new != self._credentials:
            self._credentials = new
        return self._credentials


def no_credentials(why: object) -> BackendError:
    """There are none, or they can't be had; says what to do."""
    without = "to try without an account, run `fanout emulate`"
    return BackendError(aws.no_credentials(why, what_for="for Lambda", without=without))


def _digest(body: Sequence[bytes]) -> str:
    sha = hashlib.sha256()
    for part in body:
        sha.update(part)
    return sha.hexdigest()
