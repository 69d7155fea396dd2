"""The viewer's local server: the page, its films by range, its labels by window, its corrections."""

from __future__ import annotations

import re
from contextlib import suppress
from importlib.resources import files
from threading import Lock
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from insideout.datasets.crop_table import NOT_A_CHARACTER
from insideout.errors import DataError, FilmError, InsideoutError, StorageError, UsageError
from insideout.messages import fault_of_name
from insideout.report.tables import Run
from insideout.shown import Shown
from insideout.view import payloads
from insideout.view.annotations import Annotation, Annotations
from insideout.view.film_file import FilmFile
from insideout.view.guard import Guard
from insideout.view.sending import FilmAnswer

MOST_FRAMES = 4096
"""Frames of a film whose labels are asked for at once, at most."""
_BINARY = "application/octet-stream"
_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class Unknown(UsageError):
    """What is asked for is not in the run."""


class Target(BaseModel):
    """One character in one labelled frame."""

    model_config = ConfigDict(extra="forbid")
    ordinal: int = Field(ge=0)
    track: int


class Correction(BaseModel):
    """What is said of a character in a frame, or in all frames of its track; None for what stays."""

    model_config = ConfigDict(extra="forbid")
    target: Target
    scope: Literal["frame", "track"] = "frame"
    emotion: str | None = None
    as_character: str | None = None
    split: Literal["train", "valid", "test"] | None = None


class Said(BaseModel):
    """A row of annotations as the page has it."""

    model_config = ConfigDict(extra="forbid")
    film: str
    shot: int
    ordinal: int
    track: int
    character: str
    emotion: str
    as_character: str
    split: Literal["train", "valid", "test"]
    annotator: str
    at: str


class Undo(BaseModel):
    """Corrections to be taken back: each as it was before (None: nothing was said) and as it was then said."""

    model_config = ConfigDict(extra="forbid")
    before: list[Said | None] = Field(max_length=MOST_FRAMES)
    after: list[Said] = Field(max_length=MOST_FRAMES)


class Assignment(BaseModel):
    """The split of all annotations of a shot."""

    model_config = ConfigDict(extra="forbid")
    shot: int = Field(ge=0)
    split: Literal["train", "valid", "test"]


class _Films:
    """The films of a run with what is shown over them, each read when it is first asked for."""

    def __init__(self, run: Run, films: dict[str, FilmFile]) -> None:
        self.run, self.files = run, films
        self._shown: dict[str, Shown] = {}
        self._lock = Lock()

    def file(self, film: str) -> FilmFile:
        if film not in self.files:
            raise Unknown(f"there is no film {film} in this run")
        return self.files[film]

    def shown(self, film: str) -> Shown:
        facts = self.file(film).facts
        with self._lock:
            if film not in self._shown:
                self._shown[film] = Shown(self.run, facts)
            return self._shown[film]

    def warm_up(self) -> None:
        """Read what the page asks for first; what is wrong with it the page is told when it asks."""
        for facts in self.run.films[:1]:
            with suppress(InsideoutError):
                shown = self.shown(facts.film)
                payloads.table_columns(shown)
                payloads.figures_answer(shown.rows(0, 0))


def create_app(
    run: Run, films: dict[str, FilmFile], annotations: Annotations, annotator: str, token: str, page_token: str
) -> FastAPI:
    """The viewer of a run as an ASGI application.

    `films` are those of the run by id; `annotator` is written beside corrections; `token` opens the page
    and `page_token` its API (see `guard`). `app.state.warm_up()` reads what the page asks for first.
    """
    app = FastAPI(title="insideout view", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, token=token, page_token=page_token)
    opened = _Films(run, films)
    assets = {
        entry.name: entry.read_bytes() for entry in (files("insideout.view") / "static").iterdir() if entry.is_file()
    }
    emotions, characters = payloads.pack_names(run)

    app.state.warm_up = opened.warm_up

    @app.exception_handler(InsideoutError)
    def failed(request: Request, error: InsideoutError) -> Response:
        status = 404 if isinstance(error, Unknown) else 503 if isinstance(error, StorageError) else 409
        status = 400 if type(error) is UsageError else status
        return JSONResponse({"error": str(error)}, status)

    @app.get("/")
    def page() -> Response:
        return HTMLResponse(assets["index.html"].decode().replace("{{token}}", page_token))

    @app.get("/static/{name}")
    def asset(name: str) -> Response:
        suffix = "." + name.rpartition(".")[2]
        if name not in assets or suffix not in _TYPES:
            raise Unknown(f"there is no {name}")
        return Response(assets[name], media_type=_TYPES[suffix], headers={"Cache-Control": "no-cache"})

    @app.get("/favicon.ico")
    def icon() -> Response:
        return Response(status_code=204)

    @app.get("/api/run")
    def told() -> Any:
        return payloads.run_answer(run, emotions, characters) | {
            "annotator": annotator,
            "annotations": annotations.where,
        }

    @app.get("/api/films/{film}")
    def about(film: str) -> Any:
        file, aspect, problem = opened.file(film), None, None
        try:
            file.stat()
            aspect = file.aspect
        except (FilmError, StorageError) as error:
            problem = str(error)
        return payloads.film_answer(opened.shown(film), aspect, problem)

    @app.get("/api/films/{film}/table")
    def table(film: str) -> Response:
        return Response(payloads.table_columns(opened.shown(film)), media_type=_BINARY)

    @app.get("/api/films/{film}/index")
    def index(film: str) -> Response:
        shown = opened.shown(film)
        found = opened.file(film).index(shown)
        return Response(
            payloads.index_columns(shown, found),
            media_type=_BINARY,
            headers={"X-Stamps-Tell": "no" if found.counted or (np.diff(found.pts) <= 0).any() else "yes"},
        )

    @app.get("/api/films/{film}/check")
    def check(film: str) -> Any:
        try:
            opened.file(film).check()
        except FilmError as error:
            return {"problem": str(error)}
        return {"problem": None}

    @app.get("/api/films/{film}/labels")
    def labels(film: str, first: Annotated[int, Query(ge=0)], last: Annotated[int, Query(ge=0)]) -> Any:
        if not 0 <= last - first < MOST_FRAMES:
            raise UsageError(f"labels of frames {first} to {last} asked for; ask for 1 to {MOST_FRAMES:,} at once")
        return {"figures": payloads.figures_answer(opened.shown(film).rows(first, last))}

    @app.get("/api/films/{film}/annotations")
    def corrected(film: str) -> Any:
        opened.file(film)
        return {"rows": [payloads.annotation_answer(row) for row in annotations.rows(film)]}

    @app.post("/api/films/{film}/annotations")
    def correct(film: str, correction: Correction) -> Any:
        shown = opened.shown(film)
        if correction.emotion and correction.emotion not in (*emotions, *shown.seen().emotions[:-1]):
            raise UsageError(f"there is no emotion '{correction.emotion}' in this run")
        name = correction.as_character
        if name and name != NOT_A_CHARACTER and (fault := fault_of_name(name)):
            raise UsageError(f"'{name}' cannot be a name: {fault}")
        before, after = annotations.correct(
            _targets(shown, correction.target, correction.scope),
            emotion=correction.emotion,
            as_character=name,
            split=correction.split,
            annotator=annotator,
        )
        return {
            "before": [row and payloads.annotation_answer(row) for row in before],
            "after": [payloads.annotation_answer(row) for row in after],
        }

    @app.post("/api/films/{film}/annotations/undo")
    def undo(film: str, taken: Undo) -> Any:
        opened.file(film)
        if len(taken.before) != len(taken.after) or any(
            row and row.film != film for row in (*taken.before, *taken.after)
        ):
            raise UsageError("what is taken back does not belong together")
        pairs = zip(taken.before, taken.after, strict=True)
        annotations.restore((None if old is None else _annotation(old), _annotation(new)) for old, new in pairs)
        return corrected(film)

    @app.post("/api/films/{film}/split")
    def assign(film: str, assignment: Assignment) -> Any:
        opened.file(film)
        annotations.assign(film, assignment.shot, assignment.split)
        return corrected(film)

    @app.api_route("/films/{film}/video", methods=["GET", "HEAD"])
    def video(film: str, request: Request) -> Response:
        return _ranged(opened.file(film), request)

    @app.get("/films/{film}/frames/{ordinal}.jpg")
    def still(film: str, ordinal: int) -> Response:
        file = opened.file(film)
        file.index(opened.shown(film))
        data = file.still(ordinal)
        return Response(data, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    return app


def _targets(shown: Shown, target: Target, scope: str) -> list[Annotation]:
    """What a correction is about, as rows that say nothing yet; raises Unknown where nobody is there."""
    seen = shown.seen()
    track = seen.track == target.track
    here = track & (seen.ordinal == target.ordinal)
    if not here.any():
        raise Unknown(f"frame {target.ordinal} has no character with track {target.track}")
    return [
        Annotation(
            shown.facts.film,
            int(seen.shot[i]),
            int(seen.ordinal[i]),
            int(seen.track[i]),
            seen.characters[seen.character[i]],
        )
        for i in np.flatnonzero(track if scope == "track" else here)
    ]


def _annotation(said: Said) -> Annotation:
    for text in (said.character, said.emotion, said.as_character, said.annotator):
        if text and text != NOT_A_CHARACTER and fault_of_name(text):
            raise DataError(f"'{text}' cannot be a name")
    return Annotation(**said.model_dump())


def _ranged(file: FilmFile, request: Request) -> Response:
    """Answer a request for a film, whole or in part (RFC 9110, section 14); of several ranges none is taken."""
    size, etag = file.stat()
    headers = {"Accept-Ranges": "bytes", "ETag": etag, "Cache-Control": "private, no-cache"}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    start, end, status = 0, size, 200
    asked = request.headers.get("range", "").strip()
    if (found := _RANGE.fullmatch(asked)) and found[0] != "bytes=-" and request.headers.get("if-range", etag) == etag:
        first, last = found[1], found[2]
        start = int(first) if first else max(0, size - int(last))
        end = min(size, int(last) + 1) if first and last else size
        if (first and last and int(last) < start) or start >= size or (not first and int(last) == 0):
            return Response(status_code=416, headers=headers | {"Content-Range": f"bytes */{size}"})
        status = 206
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    headers["Content-Length"] = str(end - start)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=file.media_type)
    return FilmAnswer(file.read(start, end), status, headers, file.media_type)
