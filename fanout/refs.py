"""The name of a large object that was put into a store."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ref:
    """Stands for an object in a chunk: the kernel gets the object itself.

    `Executor.put` makes it. It may stand anywhere in a chunk that is made of lists, tuples, dicts
    and dataclasses, or be an argument of a `functools.partial`; not inside objects that go by
    pickle.

    Attributes:
        digest: sha256 of the object's bytes in the store, hexadecimal; its name there.
        nbytes: How many these are.
    """

    digest: str
    nbytes: int
