"""Fetches a file over HTTP into a folder, and goes on where it was when it broke.

Shell. The bytes go to `NAME.part` as they come, and `NAME.json` beside it keeps the file's address
and ETag. A connection that breaks, or a process that is killed, costs what was in flight: the next
request asks for the rest (Range), of that very version (If-Range). If the file has changed
meanwhile the server sends the new one from its beginning.

The standard library does this: proxies by HTTPS_PROXY, trust by the system or AWS_CA_BUNDLE. A
redirection may not lead from https to http.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import filelock

from fanout._version import __version__
from fanout.errors import PriceListError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_READ_BYTES: Final = 2**18
_TIMEOUT_S: Final = 60.0
# Attempts in a row that bring not one byte.
_MAX_FRUITLESS: Final = 4
_PAUSE_S: Final = 1.0
_RANGE: Final = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+)$")
_BROKEN: Final = (OSError, http.client.HTTPException, EOFError)


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, *args: Any) -> urllib.request.Request | None:
        """As usual, but not from https to http."""
        found = super().redirect_request(req, *args)
        if found and req.full_url.startswith("https:") and not found.full_url.startswith("https:"):
            raise PriceListError(f"{req.full_url} leads to {found.full_url}, which is not https")
        return found


@dataclass(slots=True)
class _Part:
    """What is there of a file."""

    path: Path
    url: str

    @property
    def about(self) -> Path:
        return self.path.with_suffix(".json")

    def size_and_etag(self) -> tuple[int, str]:
        """Bytes that are there, and of which version; (0, "") if none can be gone on with."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            told = json.loads(self.about.read_text(encoding="utf-8"))
            if told["url"] == self.url and told["etag"]:
                return self.path.stat().st_size, str(told["etag"])
        return 0, ""

    def begin(self, etag: str) -> None:
        self.path.write_bytes(b"")
        # A weak one names no bytes: what has it is fetched anew.
        known = "" if etag.startswith("W/") else etag
        self.about.write_text(json.dumps({"url": self.url, "etag": known}), encoding="utf-8")

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self.about.unlink(missing_ok=True)


def fetched(
    url: str,
    path: Path,
    *,
    progress: Callable[[int, int | None], None] = lambda _done, _total: None,
    pause_s: float = _PAUSE_S,
) -> Path:
    """Fetch a file, or the rest of it.

    Args:
        url: Its address.
        path: Where it is to lie; only one process at a time.
        progress: Called with the bytes that are there, and how many there will be, if known.
        pause_s: How long to wait before a further attempt, seconds; twice as long each time.

    Raises:
        PriceListError: It can't be had; what is there stays, for the next time.
        UsageError: Another process fetches it, or nothing can be written there.
    """
    part = _Part(path, url)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path.with_suffix(".lock"), timeout=0):
            _fetch(part, progress, pause_s)
    except filelock.Timeout as error:
        msg = f"{path.name} is being fetched by another process: wait for it, or stop it"
        raise UsageError(msg) from error
    except OSError as error:
        msg = f"nothing can be written in {path.parent}: {error.strerror}; FANOUT_HOME moves it"
        raise UsageError(msg) from error
    return path


def discard(path: Path) -> None:
    """Remove a file that was fetched, and what is known of it."""
    _Part(path, "").remove()
    path.with_suffix(".lock").unlink(missing_ok=True)


def _fetch(part: _Part, progress: Callable[[int, int | None], None], pause_s: float) -> None:
    fruitless = 0
    while True:
        before, _ = part.size_and_etag()
        try:
            _request(part, progress)
        except urllib.error.HTTPError as error:
            with error:
                _raise_if_final(part.url, error)
            why = f"HTTP {error.code}"
        except _BROKEN as error:
            _raise_if_lasting(error, part)
            why = str(getattr(error, "reason", "") or error) or type(error).__name__
        else:
            return
        after, _ = part.size_and_etag()
        fruitless = 0 if after > before else fruitless + 1
        if fruitless == _MAX_FRUITLESS:
            have = f"; {after / 1e6:,.1f} MB are kept for the next time" if after else ""
            raise PriceListError(
                f"{part.url} can't be fetched: {why}{have}. Check the connection (HTTPS_PROXY, "
                "AWS_CA_BUNDLE), or fetch it elsewhere and pass --from DIR"
            )
        time.sleep(pause_s * 2**fruitless)


def _raise_if_final(url: str, error: urllib.error.HTTPError) -> None:
    """Raise for an answer that will be the same next time."""
    if error.code in {403, 404}:
        msg = f"{url} does not exist (HTTP {error.code}): check the region, and --from"
        raise PriceListError(msg) from error
    if error.code < 500 and error.code not in {408, 416, 429}:
        raise PriceListError(f"{url} can't be fetched: HTTP {error.code}") from error


def _raise_if_lasting(error: BaseException, part: _Part) -> None:
    """Raise if another attempt would fail as well: writing, or trust."""
    reason = getattr(error, "reason", error)
    if isinstance(reason, ssl.SSLCertVerificationError):
        msg = (
            f"the certificate of {urlsplit(part.url).netloc} is not trusted: "
            f"{reason.verify_message}. Behind a proxy that has its own, set AWS_CA_BUNDLE"
        )
        raise PriceListError(msg) from error
    if isinstance(error, OSError) and error.filename in {str(part.path), str(part.about)}:
        raise PriceListError(f"{error.filename} can't be written: {error.strerror}") from error


def _request(part: _Part, progress: Callable[[int, int | None], None]) -> None:
    """One request; returns when the file is complete."""
    have, etag = part.size_and_etag()
    headers = {"Accept-Encoding": "identity", "User-Agent": f"fanout/{__version__}"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": etag}
    request = urllib.request.Request(part.url, headers=headers)  # noqa: S310  # http(s) only
    try:
        response = _opener().open(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        total = _RANGE.match(error.headers.get("Content-Range", ""))
        if error.code == 416 and have and total and int(total[2]) == have:  # all is there
            error.close()
            return
        if error.code == 416:
            part.remove()
        raise
    with response:
        _receive(part, response, have, progress)


def _receive(
    part: _Part, response: Any, have: int, progress: Callable[[int, int | None], None]
) -> None:
    length = response.headers.get("Content-Length")
    begin, total = 0, int(length) if length else None
    if response.status == 206:
        told = _RANGE.match(response.headers.get("Content-Range", ""))
        if not told or told[1] != str(have):
            part.remove()
            raise http.client.HTTPException("the server sent another range than it was asked for")
        begin, total = have, int(told[2])
    else:
        part.begin(response.headers.get("ETag", ""))
    done = begin
    with _appending(part.path) as write:
        # What has come, and not a full buffer: a slow connection that breaks loses nothing.
        while (total is None or done < total) and (data := response.read1(_READ_BYTES)):
            write(data)
            done += len(data)
            progress(done, total)
    if total is not None and done < total:
        raise EOFError(f"the connection ended after {done:,} of {total:,} bytes")


@contextlib.contextmanager
def _appending(path: Path) -> Any:
    """Writes without a buffer, so that a killed process leaves all that it had."""
    with path.open("ab", buffering=0) as file:

        def write(data: bytes) -> None:
            left = memoryview(data)
            try:
                while left:
                    left = left[file.write(left) :]
            except OSError as error:
                error.filename = str(path)
                raise

        yield write


def _opener() -> urllib.request.OpenerDirector:
    bundle = os.environ.get("AWS_CA_BUNDLE") or None
    try:
        trust = ssl.create_default_context(cafile=bundle)
    except OSError as error:
        msg = f"AWS_CA_BUNDLE is {bundle}, which can't be read as certificates: {error.strerror}"
        raise UsageError(msg) from error
    return urllib.request.build_opener(urllib.request.HTTPSHandler(context=trust), _SafeRedirects())
