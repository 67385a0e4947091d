"""Values and texts as a journal holds them. Pure."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fanout.codec import decode, encode
from fanout.errors import EncodeError
from fanout.journal.sameness import content_digest
from fanout.journal.schema import unsealed
from fanout.spilled import size_of
from fanout.wire import Message, frame, unframe

if TYPE_CHECKING:
    from fanout.codec import Buffer, Encoded
    from fanout.journal.about import About

# How a pickle shows in a body: a quotation mark in a text of the user's stands behind a backslash.
_PICKLE: Final = b'"$":"pickle"'


def has_pickle(body: bytes) -> bool:
    """Whether there is a pickle in a body: its bytes may be others in each process."""
    return _PICKLE in body


def framed(value: Encoded) -> list[Buffer]:
    """An encoded value in one frame."""
    return frame(Message({}, value))


def parts_of(value: Any, about: About) -> list[Buffer] | None:
    """A value as it travels; None if it can't."""
    try:
        return framed(encode(value, is_safe=about.is_safe, by_value=about.spec.local_modules))
    except EncodeError:
        return None


def copied(parts: list[Buffer]) -> list[Buffer]:
    """The same in memory of its own, made without holding up other threads."""
    memory = np.empty(size_of(parts), np.uint8)
    at = 0
    for part in parts:
        content = np.frombuffer(part, np.uint8)
        np.copyto(memory[at : at + content.nbytes], content)
        at += content.nbytes
    return [memory.data]


def value_in(blob: bytes, *what: object, is_safe: bool) -> Any:
    """The value in a sealed blob, in memory of its own.

    Raises:
        DecodeError: It is damaged, or can't be read any more.
    """
    return decode(unframe(unsealed(blob, *what)).payload, is_safe=is_safe)


def chunk_digest(chunk: Any, parts: list[Buffer], about: About) -> bytes:
    """What a chunk is recognised by: the content of what is pickled, the bytes of all else."""
    digest = None
    # The body is in the first part, or in the fourth if there are buffers.
    if any(has_pickle(part) for part in parts[:4] if isinstance(part, bytes)):
        digest = content_digest(chunk, about.spec.local_modules)
    return digest or _digest_of(parts)


def _digest_of(parts: list[Buffer]) -> bytes:
    sha = hashlib.blake2b(digest_size=16)
    for part in parts:
        sha.update(part)
    return sha.digest()


def plain(text: str) -> str:
    """A text that a file can hold: one with halves of characters can't be written as UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def told(error: BaseException) -> str:
    """An exception in words."""
    try:
        return plain(f"{type(error).__name__}: {error}")
    except Exception:  # noqa: BLE001  # __str__ of a class of the user's
        return type(error).__name__
