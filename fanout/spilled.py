"""A message too large to be carried: it lies in a store, and what is carried names it.

Pure; the client and the worker each have their own way to the store. Whoever reads such a message
compares its digest with the one that came in the envelope, before anything of it is decoded.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from fanout.errors import DecodeError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from fanout.codec import Buffer


@dataclass(frozen=True, slots=True, kw_only=True)
class Spilled:
    """Where a message lies.

    Attributes:
        key: Of the object in the store.
        nbytes: Its size.
        digest: sha256 of it, hexadecimal.
    """

    key: str
    nbytes: int
    digest: str

    def told(self) -> dict[str, Any]:
        """As it stands in JSON."""
        return asdict(self)

    @classmethod
    def read(cls, told: object) -> Spilled:
        """What `told` gave.

        Raises:
            DecodeError: It is something else.
        """
        kinds = {"key": str, "nbytes": int, "digest": str}
        if not isinstance(told, dict) or {k: type(v) for k, v in told.items()} != kinds:
            raise DecodeError(f"not the name of a stored message: {str(told)[:200]}")
        return cls(**told)

    def check(self, content: Buffer) -> None:
        """See that it is the message that was stored.

        Raises:
            StoreError: It is another, or damaged.
        """
        found = memoryview(content).nbytes
        if found != self.nbytes:
            how = f"it has {found:,} bytes instead of {self.nbytes:,}"
        elif hashlib.sha256(content).hexdigest() != self.digest:
            how = "its bytes have another sha256"
        else:
            return
        raise StoreError(
            f"object {self.key} is damaged or exchanged ({how}): run again, and see who else may "
            "write into the store"
        )


class Spill(Protocol):
    """Where one run puts messages that are too large, at the client."""

    @property
    def locator(self) -> Mapping[str, Any]:
        """Where the store is, for the worker."""

    @property
    def prefix(self) -> str:
        """With which all keys of the run begin."""

    async def put(self, parts: Sequence[Buffer]) -> Spilled:
        """Store a message.

        Raises:
            StoreError: It can't be stored; says what to do.
        """

    async def get(self, spilled: Spilled) -> memoryview:
        """Have a message that a worker has stored, checked; memory of its own.

        Raises:
            StoreError: It can't be had; says what to do.
        """

    def done(self, spilled: Iterable[Spilled]) -> None:
        """Say that nobody will read these any more."""

    async def aclose(self) -> None:
        """Remove what is left."""


def digest_of(parts: Iterable[Buffer]) -> str:
    """sha256 of a message in pieces, hexadecimal."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part)
    return sha.hexdigest()


def size_of(parts: Iterable[Buffer]) -> int:
    """Bytes of a message in pieces."""
    return sum(memoryview(part).nbytes for part in parts)
