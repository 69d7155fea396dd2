"""The file of one committed span: a Parquet row per sampled frame with its characters inside.

Shots and tracks are not known yet, since both reach across spans; what finding them needs, the
change from frame to frame, lies in the file's metadata.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from insideout import schema
from insideout.label import SpanLabels
from insideout.store import table_bytes

_FLOATS = ("score", "box_x", "box_y", "box_w", "box_h", "head_x", "head_y", "head_w", "head_h")
_CHARACTER = pa.struct(
    [pa.field("character", pa.string())]
    + [pa.field(name, pa.float32()) for name in _FLOATS]
    + [
        pa.field("mask_rle", pa.string()),
        pa.field("mask_h", pa.int32()),
        pa.field("mask_w", pa.int32()),
        pa.field("probabilities", pa.list_(pa.float32())),
        pa.field("crop", pa.binary()),
    ]
)
_PART = pa.schema(
    [
        pa.field("ordinal", pa.int32()),
        pa.field("pts", pa.int64()),
        pa.field("status", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("characters", pa.list_(_CHARACTER)),
    ]
)


@dataclass(frozen=True)
class Part:
    """A committed span as read back: `frames` is a dict per sampled frame with a list of `characters`."""

    frames: list[dict[str, Any]]
    changes: NDArray[np.float32]
    edges: NDArray[np.uint8]
    fingerprint: str
    seconds: dict[str, float]


def part_bytes(labels: SpanLabels, fingerprint: str) -> bytes:
    """The Parquet file of a span."""
    characters: list[list[dict[str, Any]]] = [[] for _ in labels.ordinals]
    for row in labels.rows:
        characters[row["frame"]].append({name: row[name] for name in _CHARACTER.names})
    table = pa.table(
        {
            "ordinal": labels.ordinals,
            "pts": labels.pts,
            "status": [status for status, _ in labels.outcomes],
            "reason": [reason for _, reason in labels.outcomes],
            "characters": characters,
        },
        schema=_PART,
    )
    stamped = schema.stamp(_PART, fingerprint)
    extra = {
        b"insideout.changes": base64.b64encode(labels.changes.astype("<f4").tobytes()),
        b"insideout.edges": base64.b64encode(labels.edges.tobytes()),
        b"insideout.edges_shape": json.dumps(labels.edges.shape).encode(),
        b"insideout.seconds": json.dumps(labels.seconds).encode(),
    }
    table = table.cast(stamped).replace_schema_metadata({**stamped.metadata, **extra})
    return table_bytes(table)


def read_part(data: bytes, where: str) -> Part:
    """Read the file of a span; raises OutputError when it is not ours or too new."""
    table = schema.read_plain(pa.BufferReader(data), where)
    return _part(table.schema.metadata or {}, table.to_pylist(), where)


def read_changes(data: bytes, where: str) -> Part:
    """Read the file of a span without its frames, of which it then has none; raises as `read_part`."""
    return _part(pq.read_schema(pa.BufferReader(data)).metadata or {}, [], where)


def _part(metadata: dict[bytes, bytes], frames: list[dict[str, Any]], where: str) -> Part:
    fingerprint = schema.read_stamp(metadata, where)
    shape = json.loads(metadata[b"insideout.edges_shape"])
    return Part(
        frames=frames,
        changes=np.frombuffer(base64.b64decode(metadata[b"insideout.changes"]), "<f4").astype(np.float32),
        edges=np.frombuffer(base64.b64decode(metadata[b"insideout.edges"]), np.uint8).reshape(shape),
        fingerprint=fingerprint,
        seconds=json.loads(metadata[b"insideout.seconds"]),
    )
