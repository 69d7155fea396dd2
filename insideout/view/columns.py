"""Columns of numbers for the page: a short JSON header, then each column as it lies in memory.

    4 bytes: length of the header, little-endian; header, padded with spaces; columns, padded with zeros

The header is a list of name, kind and length. Each column begins at a multiple of 8, so that the page
can look at it without a copy. A film of two hours has 100,000 labels: as JSON they would be ten times as
large, and take the browser longer than all the rest of a start.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

_KINDS = {"float64": "<f8", "float32": "<f4", "int32": "<i4", "uint8": "u1"}


def pack(columns: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Pack one-dimensional columns of the kinds float64, float32, int32 and uint8, in their order."""
    header = json.dumps([[name, str(values.dtype), len(values)] for name, values in columns.items()]).encode()
    header += b" " * (-(len(header) + 4) % 8)
    body = [len(header).to_bytes(4, "little"), header]
    for values in columns.values():
        data = values.astype(_KINDS[str(values.dtype)], copy=False).tobytes()
        body += [data, bytes(-len(data) % 8)]
    return b"".join(body)


def unpack(data: bytes) -> dict[str, npt.NDArray[Any]]:
    """Read what `pack` has written."""
    size = int.from_bytes(data[:4], "little")
    at, found = 4 + size, {}
    for name, kind, length in json.loads(data[4:at]):
        found[name] = np.frombuffer(data, _KINDS[kind], length, at)
        at += found[name].nbytes + -found[name].nbytes % 8
    return found
