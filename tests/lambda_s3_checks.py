"""For tests of a store in S3, end to end: a bucket behind a proxy that sees, and spoils, requests.

The client is the test's process, its workers are the emulator's environments. All of them speak to
ministack's S3 through one proxy, which tells them apart by whose key a request is signed with.
"""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import unquote, urlsplit

import anyio.from_thread
import numpy as np
import pytest

import fanout
from fanout.emulator import Emulator
from fanout.stores import S3Store
from tests.contract import stands
from tests.far_stores_checks import reset

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    import aioboto3
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]

    Act = Callable[["Passing"], None]
    Rule = Callable[["Seen"], Act | None]

Kernel = TypeVar("Kernel", bound="Callable[..., Any]")

BUCKET: Final = "fanout-end-to-end"
MB: Final = 2**20
ROOT: Final = Path(__file__).parent.parent
_ROOT_KEYS: Final = ("000000000000", "any")
_WORKERS_KEY: Final = "ASIAEMULATEDFUNCTION"
# Of a request or an answer, what a proxy says for itself.
_HOPS: Final = {"connection", "expect", "transfer-encoding", "keep-alive"}


@dataclass(slots=True, kw_only=True)
class Seen:
    """A request.

    Attributes:
        who: "client" or "worker".
        method: Of HTTP.
        key: Of the object, with the store's prefix; nothing if it is about the bucket.
        query: What follows the path.
        headers: By their names in lower case.
        body: Its body, once it has come.
    """

    who: str
    method: str
    key: str
    query: str
    headers: dict[str, str]
    body: bytes = field(default=b"", repr=False)

    @property
    def is_first_part(self) -> bool:
        """Whether a download begins with it."""
        return self.method == "GET" and self.headers.get("range", "bytes=0-").startswith("bytes=0-")


class Passing(BaseHTTPRequestHandler):
    """A request on its way."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    proxy: Proxy

    def setup(self) -> None:
        super().setup()
        with self.proxy.lock:
            self.proxy.connections += 1

    def handle_any(self) -> None:
        self.proxy.handle(self)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any  # noqa: N815

    def log_message(self, *args: object) -> None:
        pass

    def take_body(self) -> bytes:
        """Read it, as far as it comes."""
        assert "Transfer-Encoding" not in self.headers
        self.body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        return self.body

    def pass_on(self, missing: int = 0) -> None:
        """Have it answered; with all of the answer but so many bytes, then break the connection."""
        response, content = self.asked()
        self.send_response_only(response.status, response.reason)
        for name, value in response.getheaders():
            if name.lower() not in _HOPS | {"content-length"}:
                self.send_header(name, value)
        if response.status != 204:
            told = response.getheader("Content-Length") if self.command == "HEAD" else None
            self.send_header("Content-Length", told or str(len(content)))
        self.end_headers()
        self.wfile.write(memoryview(content)[: len(content) - missing])
        if missing:
            reset(self)

    def asked(self) -> tuple[HTTPResponse, bytes]:
        """What S3 answers."""
        with contextlib.closing(HTTPConnection(*self.proxy.upstream, timeout=30)) as upstream:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in _HOPS:
                    upstream.putheader(name, value)
            upstream.endheaders(self.body or None)
            response = upstream.getresponse()
            return response, response.read()


class Proxy:
    """Stands in front of S3.

    Attributes:
        seen: The requests so far.
        rules: What decides on a request, the first that does; the others are passed on.
        connections: How many there were.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self.upstream = parts.hostname, parts.port
        self.url = ""
        self.seen: list[Seen] = []
        self.rules: list[Rule] = []
        self.connections = 0
        self.lock = threading.Lock()

    def handle(self, passing: Passing) -> None:
        """See a request, and do with it as the rules say."""
        url = urlsplit(passing.path)
        headers = {name.lower(): value for name, value in passing.headers.items()}
        seen = Seen(
            who="worker" if _WORKERS_KEY in headers.get("authorization", "") else "client",
            method=passing.command,
            key=unquote(url.path).removeprefix("/").partition("/")[2],
            query=url.query,
            headers=headers,
        )
        with self.lock:
            self.seen.append(seen)
            act = next(filter(None, (rule(seen) for rule in self.rules)), Passing.pass_on)
        if act is not cut_upload:
            seen.body = passing.take_body()
            if len(seen.body) < int(headers.get("content-length", "0")):
                reset(passing)  # its sender has given up
        act(passing)

    def forget(self) -> None:
        """Begin anew."""
        with self.lock:
            self.seen.clear()
            self.rules.clear()
            self.connections = 0

    def asked(self, who: str, method: str, key: str = "") -> list[Seen]:
        """The requests of the client, or of workers, about keys that have this in them."""
        return [
            one for one in self.seen if (one.who, one.method) == (who, method) and key in one.key
        ]


@contextlib.contextmanager
def _proxied(url: str) -> Iterator[Proxy]:
    proxy = Proxy(url)

    class Handler(Passing):
        pass

    Handler.proxy = proxy

    class Server(ThreadingHTTPServer):
        daemon_threads = True  # those of idle connections
        block_on_close = False

        def handle_error(self, request: object, client_address: object) -> None:
            pass

    with Server(("127.0.0.1", 0), Handler) as server:
        proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield proxy
        server.shutdown()
        thread.join()


class Bucket:
    """What is in the bucket, seen past the proxy.

    Attributes:
        s3: A client of boto3.
        proxy: What everybody else goes through.
        prefix: Of this test's store.
    """

    def __init__(self, s3: Any, proxy: Proxy) -> None:
        self.s3 = s3
        self.proxy = proxy
        self.prefix = ""
        self._count = 0

    def fresh(self) -> None:
        """For another test: a prefix of its own, no rules, nothing seen."""
        self._count += 1
        self.prefix = f"test-{self._count}/"
        self.proxy.forget()

    def names(self, prefix: str = "") -> list[str]:
        """The keys of the store's objects that begin so."""
        found = self.s3.list_objects_v2(Bucket=BUCKET, Prefix=self.prefix + prefix)
        return [one["Key"].removeprefix(self.prefix) for one in found.get("Contents", ())]

    def store(self, bucket: str = BUCKET, **options: Any) -> S3Store:
        """This test's store."""
        return S3Store(bucket, self.prefix, endpoint_url=self.proxy.url, **options)


@contextlib.contextmanager
def bucket(folder: Path) -> Iterator[Bucket]:
    """A bucket of an S3 of its own, and nothing of this machine's user in the environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith("AWS_"):
                patch.delenv(name)
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.setenv("no_proxy", "127.0.0.1")
        with stands.ministack_server(folder) as url, _proxied(url) as proxy:
            s3 = stands.client("s3", url, _ROOT_KEYS)
            with contextlib.closing(s3):
                s3.create_bucket(Bucket=BUCKET)
                yield Bucket(s3, proxy)


@contextlib.contextmanager
def emulator(**options: Any) -> Iterator[Emulator]:
    """A Lambda in a thread, so that tests can have it one after the other, warm."""
    made = Emulator(path=[ROOT], **options)
    with (
        anyio.from_thread.start_blocking_portal() as portal,
        portal.wrap_async_context_manager(made) as running,
    ):
        yield running


@contextlib.asynccontextmanager
async def executor(
    running: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    store: S3Store | str,
    *,
    backend: fanout.Lambda | None = None,
) -> AsyncIterator[fanout.Executor]:
    """An executor on this Lambda."""
    for name, value in running.variables.items():
        monkeypatch.setenv(name, value)
    async with fanout.Executor(backend, store=store) as ex:
        yield ex


def random_array(seed: int, megabytes: int = 8) -> Array:
    """Nothing that could be made smaller."""
    return np.random.default_rng(seed).random(megabytes * MB // 8)


def typed(kernel: Kernel) -> Kernel:
    """As if typed into a notebook, so that nothing of the tests' own modules goes along."""
    kernel.__module__ = "__main__"
    return kernel


def session() -> aioboto3.Session:
    """A client's session where there is no Lambda."""
    return stands.session_of(_ROOT_KEYS)


async def at_once(_: float) -> None:
    """Pause for no time."""


# What the proxy can do.


def when(who: str, method: str, key: str, act: Act, *, times: int | None = None) -> Rule:
    """Do this with the first so many such requests, or with all."""
    done = 0

    def rule(seen: Seen) -> Act | None:
        nonlocal done
        if (seen.who, seen.method) != (who, method) or key not in seen.key:
            return None
        done += 1
        return act if times is None or done <= times else None

    return rule


def cut_upload(passing: Passing) -> None:
    """Break the connection in the middle of the request's body."""
    passing.rfile.read(int(passing.headers["Content-Length"]) // 2)
    reset(passing)


def cut_download(passing: Passing) -> None:
    """Break the connection near the end of the answer's body."""
    passing.pass_on(missing=1000)


def lose_answer(passing: Passing) -> None:
    """Have it done, and break the connection instead of answering."""
    passing.asked()
    reset(passing)
