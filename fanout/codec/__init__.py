"""Values to bytes and back, exactly: JSON for the structure, raw buffers for the bulk.

    encode(value) -> Encoded(body, buffers)        decode(encoded) -> value

JSON-like values, tuples, sets, bytes, dates, decimals, dataclasses, numpy arrays and scalars travel
without pickle. Whatever else there is goes by pickle protocol 5 with out-of-band buffers, and is
decoded only when its sha256 matches the one in `body`, which travels inside the protected envelope;
`is_safe=True` refuses pickle in both directions, and names the type.

In `body` a value that JSON knows stands for itself, every other is an object with the key "$":

    {"$": "tuple", "v": [1, 2]}      {"$": "nd", "d": "<f8", "s": [2, 3], "b": 0}

A blob "b" is either the number of a buffer or, if small, its base64 text. Large arrays are not
copied here: encoding takes a view of their memory, decoding gives an array over the received one.

What is not kept: that two places of a value hold the very same object (they become equal copies);
the memory layout of an array that is neither C- nor Fortran-contiguous (it becomes C-contiguous);
that an array was read-only, or mapped from a file (`np.memmap` becomes `np.ndarray`).

Pure, and standard library + numpy only, since the worker runs it.
"""

from __future__ import annotations

from fanout.codec.decoding import decode, decode_each
from fanout.codec.encoding import ListEncoder, encode
from fanout.codec.parts import Buffer, Encoded

__all__ = ["Buffer", "Encoded", "ListEncoder", "decode", "decode_each", "encode"]
