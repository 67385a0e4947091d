"""What a key of a store may look like: the same for all stores, so that each can hold all keys."""

from __future__ import annotations

import re
from typing import Final

from fanout.errors import UsageError

# No part begins with a dot: that keeps out '..', and what is being written has such a name.
_PART: Final = r"[A-Za-z0-9_-][A-Za-z0-9._-]*"
_KEY: Final = re.compile(rf"{_PART}(/{_PART})*")
_PREFIX: Final = re.compile(rf"({_PART}/)*({_PART})?")
# Of S3; no file system takes longer ones either.
_MOST_BYTES: Final = 1024


def check_key(key: str) -> str:
    """The key, if it can be one.

    Raises:
        UsageError: It can't.
    """
    if len(key) > _MOST_BYTES or _KEY.fullmatch(key) is None:
        msg = (
            f"key={key!r} can't name an object: use letters, digits and ._- in parts that don't "
            f"begin with a dot, with / between them, {_MOST_BYTES} characters at most"
        )
        raise UsageError(msg)
    return key


def check_prefix(prefix: str) -> str:
    """The beginning of some keys, if it can be one; an empty one, which begins all, can't.

    Raises:
        UsageError: It can't.
    """
    if not prefix or len(prefix) > _MOST_BYTES or _PREFIX.fullmatch(prefix) is None:
        msg = f"prefix={prefix!r} can't be the beginning of a key: pass one such as 'runs/17/'"
        raise UsageError(msg)
    return prefix
