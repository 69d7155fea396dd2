"""The film of a run where it lies now: sent by range, indexed once beside that, decoded frame by frame."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import IO, Any

import cv2
import numpy as np

from insideout.decode import read_frames
from insideout.errors import FilmError, StorageError, UsageError
from insideout.film import Film, digest, open_film, open_video
from insideout.messages import LEFT_OUT
from insideout.objects import RangedFile, filesystem, is_url, said, storage_errors
from insideout.report.tables import FilmFacts, Run
from insideout.shown import Shown

_CHUNK = 256 * 1024
_WIDEST = 1920
_QUALITY = 92
_STILLS_KEPT = 64
#: Frames before the one asked for that are kept along with it, for steps back.
_BEHIND = 8
_TYPES = {
    ".m4v": "video/mp4", ".mov": "video/mp4", ".mp4": "video/mp4", ".mkv": "video/x-matroska", ".ogv": "video/ogg",
    ".webm": "video/webm",
}  # fmt: skip


class FilmFile:
    """One film of a run, on local disk or storage. Many threads may read."""

    def __init__(self, facts: FilmFacts, path: str | None = None) -> None:
        """`path` is where it lies now, by default where it was labelled; nothing is opened yet."""
        self.facts = facts
        self.path = path or facts.path
        self._lock, self._decoding = Lock(), Lock()
        self._index: Future[Film] | None = None
        self._check: Future[None] | None = None
        self._stills: OrderedDict[int, bytes] = OrderedDict()
        self._cursor: tuple[int, Iterator[tuple[int, np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]]] | None = None

    @property
    def media_type(self) -> str:
        """What the browser is told the file is."""
        return _TYPES.get(os.path.splitext(self.path)[1].lower(), "application/octet-stream")

    def stat(self) -> tuple[int, str]:
        """Size in bytes and what changes whenever the file does, quoted as an ETag.

        Raises FilmError where it is missing, or has another size than the film that was labelled.
        """
        if self.path.endswith(LEFT_OUT):
            raise FilmError(f"{self.path}: the query of a URL is never stored; give the whole URL by --film")
        try:
            fs, inside = filesystem(self.path)
            found = fs.info(inside)
        except storage_errors(ValueError, ImportError) as error:
            raise FilmError(
                f"{self.path}: the film cannot be read ({said(error)}); if it has moved, say where to by --film PATH"
            ) from error
        size = int(found.get("size") or 0)
        if found.get("type") == "directory" or size != self.facts.bytes:
            raise FilmError(
                f"{self.path}: is another file than was labelled ({size:,} bytes, not {self.facts.bytes:,}); "
                "say where the film is by --film PATH"
            )
        changed = found.get("ETag") or found.get("mtime") or ""
        return size, f'"{self.facts.sha256[:32]}-{str(changed).strip(chr(34)).replace(chr(34), "")}"'

    def read(self, start: int, end: int) -> Iterator[bytes]:
        """Yield the bytes [start, end); raises StorageError where they end before."""
        file: RangedFile | IO[bytes]
        with closing(RangedFile(self.path) if is_url(self.path) else open(self.path, "rb")) as file:
            file.seek(start)
            while start < end:
                data = file.read(min(_CHUNK, end - start))
                if not data:
                    raise StorageError(f"{self.path}: ends at byte {start:,}; was it changed meanwhile?")
                start += len(data)
                yield data

    @cached_property
    def aspect(self) -> float:
        """Width of the picture as it is shown by its height: pixels need not be square. For display."""
        with open_video(self.path) as (_, stream):
            pixel = float(stream.codec_context.sample_aspect_ratio or stream.sample_aspect_ratio or 1)
            turned = (stream.width, stream.height) == (self.facts.height, self.facts.width) and (
                stream.width != stream.height
            )
        return self.facts.width / self.facts.height * (1 / pixel if turned else pixel)

    def index(self, shown: Shown | None = None) -> Film:
        """The film with the time stamps of all frames; made once, from packets, however many ask at once.

        Raises FilmError where it is not the film that was labelled, as far as time stamps tell.
        """
        with self._lock:
            if _has_failed(self._index):
                self._index = _BESIDE.submit(self._read_index, shown)
            found = self._index
        assert found is not None
        return found.result()

    def check(self) -> None:
        """Raise FilmError unless the file's digest is that of the film that was labelled.

        It is read whole for that, once; a film on storage is not: there size and time stamps must do.
        """
        if is_url(self.path):
            return
        with self._lock:
            if _has_failed(self._check):
                self._check = _BESIDE.submit(self._read_digest)
            found = self._check
        assert found is not None
        found.result()

    def still(self, ordinal: int) -> bytes:
        """A frame, decoded exactly, as JPEG: rotation applied, at most 1,920 pixels wide.

        Raises UsageError for an ordinal outside of the film, FilmError where no picture comes out of its data.
        """
        film = self.index()
        if not 0 <= ordinal < film.frames:
            raise UsageError(f"frame {ordinal} is not in the film, which has 0 to {film.frames - 1}")
        with self._decoding:
            if ordinal not in self._stills:
                self._decode(film, ordinal)
            if ordinal not in self._stills:
                raise FilmError(f"{self.path}: frame {ordinal} cannot be decoded; its data is damaged or missing")
            self._stills.move_to_end(ordinal)
            return self._stills[ordinal]

    def _decode(self, film: Film, ordinal: int) -> None:
        """Decode on to a frame: from where the last one was, or from the start of its group of pictures."""
        group = int(film.gops[np.searchsorted(film.gops, ordinal, side="right") - 1])
        if self._cursor is None or not max(group, self._cursor[0]) <= ordinal or self._cursor[0] < group - 1:
            first = max(group, ordinal - _BEHIND)
            self._cursor = first, read_frames(self.path, range(first, film.frames), film=film)
        _, frames = self._cursor
        for at, picture in frames:
            self._cursor = at + 1, frames
            if at >= ordinal - _BEHIND:
                self._keep(at, picture)
            if at >= ordinal:
                return
        self._cursor = None

    def _keep(self, ordinal: int, picture: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
        height, width = picture.shape[:2]
        if width > _WIDEST:
            picture = cv2.resize(picture, (_WIDEST, round(height * _WIDEST / width)), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
        done, data = cv2.imencode(
            ".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
        )
        if done:
            self._stills[ordinal] = data.tobytes()
        while len(self._stills) > _STILLS_KEPT:
            self._stills.popitem(last=False)

    def _read_index(self, shown: Shown | None) -> Film:
        self.stat()
        film = open_film(self.path, known=(self.facts.sha256, self.facts.bytes))
        alike = film.frames == self.facts.frames and film.time_base == self.facts.time_base
        if alike and shown is not None:
            alike = bool((film.pts[shown.ordinals] == shown.pts).all())
        if not alike:
            raise FilmError(
                f"{self.path}: is another film than was labelled (its time stamps differ); "
                "say where the film is by --film PATH"
            )
        return film

    def _read_digest(self) -> None:
        self.stat()
        found, _ = digest(self.path)
        if found != self.facts.sha256:
            raise FilmError(
                f"{self.path}: is another file than was labelled (sha256 {found[:16]}…, not "
                f"{self.facts.sha256[:16]}…): the labels do not belong to it; say where the film is by --film PATH"
            )


def _has_failed(work: Future[Any] | None) -> bool:
    """Whether work is to be begun: it was not yet, or it failed, which may not last."""
    return work is None or (work.done() and work.exception() is not None)


_BESIDE = ThreadPoolExecutor(2, thread_name_prefix="film")


def place_films(run: Run, paths: list[str]) -> dict[str, FilmFile]:
    """The films of a run by id, those that have moved at their new `paths`.

    A path is told by its size, and by its digest where several films have that. Raises FilmError for one
    that cannot be read or is no film of the run.
    """
    found = {facts.film: FilmFile(facts) for facts in run.films}
    for path in paths:
        where = path if is_url(path) else str(Path(path).expanduser().resolve())
        fitting = []
        for facts in run.films:
            try:
                FilmFile(facts, where).stat()
                fitting.append(facts)
            except FilmError as error:
                refusal = error
        if len(fitting) > 1:
            fitting = [facts for facts in fitting if facts.sha256 == digest(where)[0]]
        if not fitting:
            if len(run.films) == 1:
                raise refusal
            raise FilmError(f"{path}: is none of the {len(run.films)} films of {run.store.root}, as its size tells")
        found[fitting[0].film] = FilmFile(fitting[0], where)
    return found
