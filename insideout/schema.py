"""The Arrow schemas of everything insideout writes, each field with its unit and meaning.

Field names are fixed: users write queries on them. `VERSION` goes into the Parquet metadata, and a
reader refuses a newer one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from insideout.errors import OutputError

VERSION = 1
_VERSION_KEY = b"insideout.schema"
_FINGERPRINT_KEY = b"insideout.fingerprint"


def _field(name: str, kind: pa.DataType, meaning: str) -> pa.Field:
    return pa.field(name, kind, metadata={"meaning": meaning})


# A dictionary of strings, since that is what readers make of the folder name `film=…`: with a plain
# string pandas could not merge the two.
_FILM = _field("film", pa.dictionary(pa.int32(), pa.string()), "film id: first 16 hex digits of the file's sha256")
_ORDINAL = _field("ordinal", pa.int32(), "0-based position of the frame in presentation order")
_PTS = _field("pts", pa.int64(), "presentation time stamp in units of the film's time base")
_TIME = _field("time_s", pa.float64(), "seconds since the first frame, for display only")
_SHOT = _field("shot", pa.int32(), "0-based shot in the film")

CHARACTERS = pa.schema(
    [
        _FILM,
        _ORDINAL,
        _PTS,
        _TIME,
        _SHOT,
        _field("track", pa.int64(), "the same character through one shot; unique in the film"),
        _field("character", pa.string(), "class name, voted over the track by score"),
        _field("score", pa.float32(), "confidence of the segmenter, 0 to 1"),
        _field("box_x", pa.float32(), "left edge, pixels of the stored picture, rotation applied"),
        _field("box_y", pa.float32(), "top edge, pixels of the stored picture, rotation applied"),
        _field("box_w", pa.float32(), "width in pixels"),
        _field("box_h", pa.float32(), "height in pixels"),
        _field("mask_rle", pa.string(), "counts of the COCO compressed run-length encoding"),
        _field("mask_h", pa.int32(), "height of the mask in pixels, that of the stored picture"),
        _field("mask_w", pa.int32(), "width of the mask in pixels, that of the stored picture"),
        _field("head_x", pa.float32(), "left edge of the head, pixels; null where no head is seen"),
        _field("head_y", pa.float32(), "top edge of the head, pixels; null where no head is seen"),
        _field("head_w", pa.float32(), "width of the head, pixels; null where no head is seen"),
        _field("head_h", pa.float32(), "height of the head, pixels; null where no head is seen"),
        _field("emotion", pa.string(), "most probable emotion, or 'uncertain'"),
        _field("certainty", pa.float32(), "calibrated probability of the most probable emotion"),
        _field("probabilities", pa.map_(pa.string(), pa.float32()), "calibrated, by emotion"),
        _field("track_emotion", pa.string(), "emotion fused over the track, or 'uncertain'"),
        _field("crop", pa.binary(), "WebP of the crop, at most as large as was asked for; null unless asked for"),
    ]
)

FRAMES = pa.schema(
    [
        _FILM,
        _ORDINAL,
        _PTS,
        _TIME,
        _SHOT,
        _field("status", pa.string(), "labelled, dropped or failed"),
        _field("reason", pa.string(), "why it was dropped or failed; null when labelled"),
        _field("characters", pa.int32(), "rows of this frame in the characters table"),
    ]
)

SHOTS = pa.schema(
    [
        _FILM,
        _SHOT,
        _field("start_ordinal", pa.int32(), "first frame of the shot"),
        _field("end_ordinal", pa.int32(), "first frame after the shot"),
        _field("start_pts", pa.int64(), "pts of the first frame, time base units"),
        _field("end_pts", pa.int64(), "pts at which the shot ends, time base units"),
    ]
)

FILMS = pa.schema(
    [
        _FILM,
        _field("path", pa.string(), "where the film was read, without credentials"),
        _field("bytes", pa.int64(), "size of the file"),
        _field("sha256", pa.string(), "digest of the file, hex"),
        _field("width", pa.int32(), "pixels of the stored picture, rotation applied"),
        _field("height", pa.int32(), "pixels of the stored picture, rotation applied"),
        _field("fps_num", pa.int64(), "average frame rate, numerator"),
        _field("fps_den", pa.int64(), "average frame rate, denominator"),
        _field("time_base_num", pa.int64(), "seconds per pts unit, numerator"),
        _field("time_base_den", pa.int64(), "seconds per pts unit, denominator"),
        _field("frames", pa.int64(), "frames in the film, sampled or not"),
        _field("duration_s", pa.float64(), "seconds, for display only"),
        _field("codec", pa.string(), "name of the video codec"),
        _field("sampling", pa.string(), "which frames are looked at: every:4, fps:2, keyframes"),
        _field("fingerprint", pa.string(), "digest of models, settings and code version"),
    ]
)


CONFUSION = pa.schema(
    [
        _field("film", pa.string(), "film id of the labelled crops"),
        _field("scene", pa.string(), "scene as the annotators number it; empty where unknown"),
        _field("shot", pa.string(), "shot as the annotators number it"),
        _field("character", pa.string(), "name as the annotators gave it"),
        _field("emotion", pa.string(), "the label"),
        _field("guess", pa.string(), "most probable emotion, by a network that had not seen the scene"),
        _field("answered", pa.bool_(), "whether it was probable enough; 'uncertain' otherwise"),
        _field("crops", pa.int32(), "how many crops are alike in all of this"),
    ]
)


def stamp(schema: pa.Schema, fingerprint: str) -> pa.Schema:
    """Return the schema with our version and the run's fingerprint in its metadata."""
    return schema.with_metadata({_VERSION_KEY: str(VERSION), _FINGERPRINT_KEY: fingerprint})


def read_plain(source: pa.NativeFile | Path, where: str) -> pa.Table:
    """Read a Parquet file; raises as `check_plain`."""
    table = pq.read_table(source)
    check_plain(table.schema, where)
    return table


def check_plain(schema: pa.Schema, where: str) -> None:
    """Raise OutputError for columns of a kind that another library has brought.

    Those of Ray hold pickles: to look at a value is to run what is in it.
    """
    kinds = {str(kind.extension_name) for field in schema for kind in _kinds(field.type) if _is_foreign(kind)}
    if kinds:
        raise OutputError(
            f"{where}: has columns of the kind {', '.join(sorted(kinds))}, which are never read since code may lie in"
            " them; write it again with plain columns"
        )


def _is_foreign(kind: pa.DataType) -> bool:
    return isinstance(kind, pa.BaseExtensionType)


def _kinds(kind: pa.DataType) -> Iterator[pa.DataType]:
    """A type and all types inside of it."""
    yield kind
    if _is_foreign(kind):
        yield from _kinds(kind.storage_type)
    elif pa.types.is_dictionary(kind):
        yield from _kinds(kind.value_type)
    else:
        for i in range(kind.num_fields):
            yield from _kinds(kind.field(i).type)


def read_stamp(metadata: Mapping[bytes, bytes] | None, where: str) -> str:
    """Return the fingerprint in a file's metadata; raise OutputError if it is not ours or too new."""
    found = metadata or {}
    if _VERSION_KEY not in found:
        raise OutputError(f"{where}: not written by insideout (no schema version in its metadata)")
    version = int(found[_VERSION_KEY])
    if version > VERSION:
        raise OutputError(f"{where}: schema {version} is newer than {VERSION}; update insideout")
    return found.get(_FINGERPRINT_KEY, b"").decode()
