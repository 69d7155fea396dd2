"""Serve the viewer on loopback until it is ended."""

from __future__ import annotations

import secrets
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from insideout.errors import FilmError, StorageError, UsageError
from insideout.messages import fault_of_name
from insideout.objects import is_url
from insideout.report.tables import open_run
from insideout.sources import refuse_password
from insideout.view.annotations import open_annotations
from insideout.view.app import create_app
from insideout.view.film_file import place_films

HOST = "127.0.0.1"


def serve(
    run: str,
    *,
    films: list[str],
    annotations: str | None,
    annotator: str,
    port: int,
    on_ready: Callable[[str, list[str]], None],
) -> None:
    """Show a finished run until the process is interrupted (Ctrl+C).

    `films` are paths of films that have moved; `annotations` a CSV, None for RUN/annotations.csv; `port` 0
    for a free one. `on_ready` gets the address to open, and notes on films that cannot be shown.
    Raises OutputError for a folder that is no finished run, FilmError for a film that does not belong to it,
    DataError for annotations of another kind, UsageError for a port that is taken.
    """
    token = secrets.token_urlsafe(24)
    app, notes = open_viewer(run, films=films, annotations=annotations, annotator=annotator, token=token)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, port))
        except OSError as error:
            raise UsageError(f"port {port} cannot be used ({error.strerror}); give another --port, or none") from error
        listening.listen(128)
        # While the browser opens.
        threading.Thread(target=app.state.warm_up, daemon=True).start()
        on_ready(f"http://{HOST}:{listening.getsockname()[1]}/?token={token}", notes)
        # Answers that go on for long, such as a film, are not waited for at the end.
        settings = uvicorn.Config(app, log_level="warning", server_header=False, timeout_graceful_shutdown=1)
        with suppress(KeyboardInterrupt):  # which is how it is meant to end
            uvicorn.Server(settings).run(sockets=[listening])


def open_viewer(
    run: str, *, films: list[str], annotations: str | None, annotator: str, token: str
) -> tuple[FastAPI, list[str]]:
    """The viewer's application for a run, and notes on films that cannot be shown; raises as `serve` does."""
    for path in (run, *films, annotations or ""):
        refuse_password(path)
    if annotator and (fault := fault_of_name(annotator)):
        raise UsageError(f"--annotator '{annotator}': {fault}; it is written into a table")
    opened = open_run(run)
    placed = place_films(opened, films)
    notes = []
    for file in placed.values():
        try:
            file.stat()
        except (FilmError, StorageError) as error:
            notes.append(str(error))
    if annotations is not None and not is_url(annotations):
        annotations = str(Path(annotations).expanduser().resolve())
    kept = open_annotations(opened.store, annotations)
    return create_app(opened, placed, kept, annotator, token, secrets.token_urlsafe(24)), notes
