"""What encoding and decoding share: encoded values, dtypes, digests, names of classes."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fanout.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Iterable

Buffer: TypeAlias = bytes | bytearray | memoryview
Tree: TypeAlias = Any  # what json.dumps takes

HINT_SAFE = (
    "codec='safe' does not pickle: return or pass JSON-like values, dataclasses or numpy arrays, "
    "or use codec='auto'"
)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A value as bytes: JSON text, and the buffers it refers to by number."""

    body: bytes
    buffers: list[Buffer] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """Size of everything, bytes."""
        return len(self.body) + sum(memoryview(buffer).nbytes for buffer in self.buffers)


def dtype_tree(dtype: np.dtype[Any]) -> Tree | None:
    """A dtype as JSON, exactly; None if it holds objects or isn't numpy's own."""
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        inner = dtype_tree(base)
        return None if inner is None else {"base": inner, "shape": list(shape)}
    if dtype.metadata is not None or dtype.hasobject or dtype.type is np.record:
        return None
    if dtype.char in "gG":  # its size alone doesn't tell x86's format from arm's
        return {"long": dtype.str[0] + dtype.char, "digits": np.finfo(np.longdouble).nmant}
    if dtype.names is None and np.dtype(dtype.str).num != dtype.num:
        return dtype.str[0] + dtype.char  # C's long and long long are two types of one size
    if dtype.names is None:
        return dtype.str if np.dtype(dtype.str) == dtype else None
    fields: list[Any] = [dtype.fields[name] for name in dtype.names]  # type: ignore[index]
    formats = [dtype_tree(part[0]) for part in fields]
    titles = [part[2] if len(part) > 2 else None for part in fields]
    are_texts = all(
        title is None or (type(title) is str and has_no_surrogates(title))
        for title in (*titles, *dtype.names)
    )
    if not are_texts or any(inner is None for inner in formats):
        return None
    return {
        "names": list(dtype.names),
        "formats": formats,
        "offsets": [part[1] for part in fields],
        "titles": titles,
        "itemsize": dtype.itemsize,
        "aligned": dtype.isalignedstruct,
    }


def dtype_from(tree: Tree) -> np.dtype[Any]:
    """The dtype that `dtype_tree` was given."""
    dtype: np.dtype[Any]
    if isinstance(tree, str):
        dtype = np.dtype(tree)
        if dtype.hasobject:  # bytes of a message would be taken for pointers
            raise DecodeError(f"damaged message: {tree!r} is no dtype of plain data")
        return dtype
    if "long" in tree:
        if tree["digits"] != np.finfo(np.longdouble).nmant:
            raise DecodeError("longdouble has another format on this processor: use float64")
        return dtype_from(tree["long"])
    if "base" in tree:
        return np.dtype((dtype_from(tree["base"]), tuple(tree["shape"])))
    parts: Any = {key: tree[key] for key in ("names", "offsets", "itemsize")}
    parts["formats"] = [dtype_from(inner) for inner in tree["formats"]]
    if any(title is not None for title in tree["titles"]):
        parts["titles"] = tree["titles"]
    dtype = np.dtype(parts, align=tree["aligned"])
    return dtype


def imported(target: str) -> Any:
    """What `module:qualname` names among the imported modules; None if nothing."""
    module, _, qualname = target.partition(":")
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found


def type_name(kind: type) -> str:
    """How a class is called in messages."""
    return f"{kind.__module__}.{kind.__qualname__}"


def digest_of(parts: Iterable[Buffer]) -> str:
    """sha256 over several byte strings, in hexadecimal."""
    sha = hashlib.sha256()
    for part in parts:
        # With its length, or bytes could move from one part to the next.
        sha.update(memoryview(part).nbytes.to_bytes(8, "little"))
        sha.update(part)
    return sha.hexdigest()


def has_no_surrogates(text: str) -> bool:
    """Whether a text can be written as UTF-8."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
