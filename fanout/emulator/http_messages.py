"""A request and a response of HTTP/1.1, as records. Pure: no socket, no parser, no Lambda."""

from __future__ import annotations

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

_REASONS: Final = {status.value: status.phrase for status in HTTPStatus}


@dataclass(slots=True)
class Request:
    """One request, as it was sent.

    Attributes:
        method: In capitals.
        target: Path and query, not unquoted.
        headers: Names in lower case; values of a repeated header are joined by commas.
        body: The whole of it.
    """

    method: str
    target: str
    headers: dict[str, str]
    body: bytes = b""


@dataclass(slots=True)
class Response:
    """What to answer. Content-Length is added."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    def head(self, *, is_last: bool) -> bytes:
        """Status line and headers."""
        lines = [f"HTTP/1.1 {self.status} {_REASONS.get(self.status, '')}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        if self.status != HTTPStatus.NO_CONTENT:
            lines.append(f"Content-Length: {len(self.body)}")
        lines.append("Connection: close\r\n\r\n" if is_last else "Connection: keep-alive\r\n\r\n")
        return "\r\n".join(lines).encode("latin-1")
