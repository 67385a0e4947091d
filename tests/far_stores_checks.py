"""For tests of the far end's stores: S3, as a server in this process plays it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import socket
import struct
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from fanout.far_stores.s3 import S3Store

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

    import pytest

    from fanout.far_stores import FarStore


MIB = 1 << 20


def settle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the environment name keys, and nothing else about S3 or the way there."""
    for name in os.environ:
        if name.startswith("AWS_") or name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAFANOUT")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret/of/the/tests")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token==")


@dataclass
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Fake:
    """S3 on one port; a script of answers comes first."""

    url: str = ""
    objects: dict[str, bytes] = field(default_factory=dict)
    script: list[Callable[[BaseHTTPRequestHandler], None]] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    has_etags: bool = True
    knows_if_match: bool = True
    lock: threading.Lock = field(default_factory=threading.Lock)

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", "0")))
        with self.lock:
            self.asked.append(
                Asked(handler.command, handler.path, dict(handler.headers.items()), body)
            )
            act = self.script.pop(0) if self.script else None
        if act is not None:
            act(handler)
        elif handler.command == "PUT":
            is_new = self.objects.setdefault(handler.path, body) is body
            answer(200 if is_new else 412)(handler)
        elif handler.command == "DELETE":
            self.objects.pop(handler.path, None)
            answer(204)(handler)
        elif handler.path not in self.objects:
            xml(404, "NoSuchKey")(handler)
        else:
            self.give(handler)

    def give(self, handler: BaseHTTPRequestHandler, *, missing: int = 0) -> None:
        """A range; `missing` bytes of it are not sent."""
        content = self.objects[handler.path]
        etag = etag_of(content)
        wanted = handler.headers.get("If-Match", etag)
        if wanted != etag and self.knows_if_match:
            xml(412, "PreconditionFailed")(handler)
            return
        start, stop = map(int, handler.headers["Range"].removeprefix("bytes=").split("-"))
        if start >= len(content):
            answer(416, {"Content-Range": f"bytes */{len(content)}"})(handler)
            return
        part = content[start : stop + 1]
        handler.send_response(206)
        handler.send_header("Content-Length", str(len(part)))
        told = f"bytes {start}-{start + len(part) - 1}/{len(content)}"
        handler.send_header("Content-Range", told)
        if self.has_etags:
            handler.send_header("ETag", etag)
        handler.end_headers()
        handler.wfile.write(part[: len(part) - missing])
        handler.close_connection = missing > 0

    def truncated(self, handler: BaseHTTPRequestHandler) -> None:
        self.give(handler, missing=3)


def etag_of(content: bytes) -> str:
    """What S3 calls a content."""
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


def answer(
    status: int, headers: dict[str, str] | None = None, body: bytes = b""
) -> Callable[[BaseHTTPRequestHandler], None]:
    def act(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        if status != 204:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return act


def xml(
    status: int, code: str, message: str = "Some text.", *, extra: str = "", region: str = ""
) -> Callable[[BaseHTTPRequestHandler], None]:
    text = f"<Error><Code>{code}</Code><Message>{message}</Message>{extra}</Error>"
    headers = {"x-amz-bucket-region": region} if region else {}
    return answer(status, headers, f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'.encode())


def reset(handler: BaseHTTPRequestHandler) -> None:
    """Break the connection, with no answer."""
    linger = struct.pack("ii", 1, 0)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    handler.connection.close()
    handler.close_connection = True
    raise ConnectionAbortedError


@contextlib.contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[Fake]:
    served = Fake()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            served.connections += 1

        def handle_any(self) -> None:
            served.handle(self)

        do_GET = do_PUT = do_DELETE = handle_any  # noqa: N815

        def log_message(self, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = False  # so that server_close waits for them

        def handle_error(self, request: object, client_address: object) -> None:
            pass

    with Server(("127.0.0.1", 0), Handler) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        served.url = f"http{'s' if context else ''}://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield served
        server.shutdown()
        thread.join()


def use(store: FarStore, how: str, key: str) -> None:
    if how == "PUT":
        store.put(key, [b"x"])
    elif how == "DELETE":
        store.delete(key)
    elif how == "size":
        store.size(key)
    else:
        store.get(key)


@contextlib.contextmanager
def store_of(fake: Fake, slept: list[float]) -> Iterator[S3Store]:
    """A store in a bucket there, which waits without taking time."""
    store = S3Store(
        bucket="bucket",
        prefix="pre/",
        region="eu-central-1",
        endpoint=fake.url,
        rng=random.Random(1),
        sleep=slept.append,
    )
    with contextlib.closing(store):
        yield store
