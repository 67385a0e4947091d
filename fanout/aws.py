"""A client of aioboto3, for each part of fanout that speaks to AWS: set up alike, failing alike.

aioboto3 decides what is decided once: credentials and their refresh, region, endpoint, trust,
proxy. Its retries are off: who asks knows what may be asked again. Imported
lazily, in a thread: it takes half a second, which an event loop need not wait for.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
from typing import TYPE_CHECKING, Any, TypeAlias

from fanout._version import __version__
from fanout.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    import aioboto3

    from fanout.errors import FanoutError

# From why there are no credentials to what to raise.
Lacking: TypeAlias = "Callable[[object], FanoutError]"


def no_credentials(why: object, *, what_for: str, without: str) -> str:
    """What to say when there are none.

    Args:
        why: As far as it is known.
        what_for: As in "for the store".
        without: What to do without an account.
    """
    return (
        f"no AWS credentials {what_for} ({why}): run `aws configure` or `aws sso login`, or set "
        f"AWS_PROFILE; {without}"
    )


@contextlib.asynccontextmanager
async def client_of(
    service: str,
    *,
    lacking: Lacking,
    session: aioboto3.Session | None = None,
    profile: str | None = None,
    region: str | None = None,
    endpoint_url: str | None = None,
    verify: bool | str | None = None,
    **config: Any,
) -> AsyncIterator[tuple[Any, aioboto3.Session, Any]]:
    """A client, its session and its credentials; nothing is asked of the service.

    Args:
        service: As boto calls it.
        lacking: Makes the error for missing credentials.
        session: Credentials and settings; by default those of the environment.
        profile: Instead of AWS_PROFILE.
        region: Instead of the session's.
        endpoint_url: Instead of AWS's own.
        verify: A file of certificates to trust, or False not to verify.
        **config: For botocore's `Config`.

    Raises:
        FanoutError: What `lacking` makes.
        UsageError: A setting makes no sense.
    """
    for module in ("aioboto3", "aiobotocore.config", "botocore.exceptions"):
        await asyncio.to_thread(importlib.import_module, module)
    async with contextlib.AsyncExitStack() as stack:
        with explaining(lacking):
            found = _session(session, profile)
            client = await stack.enter_async_context(
                found.client(
                    service,
                    region_name=region or found.region_name or _region(),
                    endpoint_url=endpoint_url,
                    verify=verify,
                    config=_config(config),
                )
            )
            credentials = await found.get_credentials()
            if credentials is None:
                raise lacking("none found")
            await credentials.get_frozen_credentials()  # what is wrong with them shows here
        yield client, found, credentials


@contextlib.contextmanager
def explaining(lacking: Lacking) -> Iterator[None]:
    """Raise what botocore raises while it is set up as errors that say what to do."""
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        CredentialRetrievalError,
        NoRegionError,
        PartialCredentialsError,
        SSOError,
        TokenRetrievalError,
    )

    try:
        yield
    except NoRegionError as error:
        msg = "no AWS region is set: pass region=, or set AWS_REGION or the profile's region"
        raise UsageError(msg) from error
    except (
        ClientError,  # of STS or SSO: of the service itself nothing has been asked yet
        CredentialRetrievalError,
        PartialCredentialsError,
        SSOError,
        TokenRetrievalError,
    ) as error:
        raise lacking(error) from error
    except (BotoCoreError, ValueError) as error:
        raise UsageError(f"AWS can't be used as it is set up: {error}") from error


def _session(given: aioboto3.Session | None, profile: str | None) -> aioboto3.Session:
    if given is not None:
        return given
    import aioboto3

    return aioboto3.Session(profile_name=profile, region_name=_region())


def _region() -> str | None:
    """Of the variable that every tool of AWS reads but boto, which has one of its own."""
    return os.environ.get("AWS_REGION") or None


def _config(options: dict[str, Any]) -> Any:
    from aiobotocore.config import AioConfig

    retries = {"total_max_attempts": 1, "mode": "standard"}
    extra = f"fanout/{__version__}"
    return AioConfig(retries=retries, connect_timeout=10, user_agent_extra=extra, **options)
