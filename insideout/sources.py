"""Find the films a user means by a file, a folder, a glob or an fsspec URL."""

from __future__ import annotations

import os
from collections.abc import Sequence
from glob import has_magic

from fsspec import AbstractFileSystem

from insideout.errors import FilmError, UsageError
from insideout.messages import has_password
from insideout.objects import filesystem as filesystem_of
from insideout.objects import is_url, said, storage_errors

_BROADCAST = {".avi", ".flv", ".m2ts", ".mpeg", ".mpg", ".mts", ".mxf", ".ts", ".wmv"}
SUFFIXES = frozenset({".m4v", ".mkv", ".mov", ".mp4", ".ogv", ".webm"} | _BROADCAST)
"""Suffixes taken for films in folders and globs; a file named outright is taken as it is."""


def find_films(films: Sequence[str]) -> list[str]:
    """Return the paths of the films, each once: in the order asked for, folders and globs sorted.

    films: files, folders (searched to the bottom for `SUFFIXES`), globs (`**` too), or fsspec URLs of any
    of these. Raises FilmError for each of them that matches nothing, UsageError for a URL with a password.
    """
    if not films:
        raise FilmError("no film given; name a file, a folder, a glob or a URL")
    found: dict[str, None] = {}
    for film in films:
        found.update(dict.fromkeys(_find(film)))
    return list(found)


def refuse_password(url: str) -> None:
    """Raise UsageError for a URL that holds a password: it would stand in lists of processes and jobs, and in logs."""
    if has_password(url):
        raise UsageError(
            f"{url}: the URL that was given holds a password or a secret key; take it out, and put it where its"
            " library looks: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or ~/.aws for S3,"
            " ~/.config/fsspec/conf.json for others"
        )


def _find(film: str) -> list[str]:
    refuse_password(film)
    try:
        filesystem, path = filesystem_of(film if is_url(film) else os.path.expanduser(film))
        if filesystem.isfile(path):
            return [film if is_url(film) else os.path.expanduser(film)]
        if filesystem.isdir(path):
            matches = _films(filesystem, filesystem.find(path))
            if not matches:
                raise FilmError(f"{film}: no film in this folder; looked for {', '.join(sorted(SUFFIXES))}")
        elif has_magic(film):
            matches = _films(filesystem, filesystem.glob(path))
            if not matches:
                raise FilmError(f"{film}: matches no film; looked for {', '.join(sorted(SUFFIXES))}")
        else:
            raise FilmError(f"{film}: no such file; check the path")
    except storage_errors(ValueError, ImportError) as error:
        raise FilmError(f"{film}: cannot be searched ({said(error)})") from error
    if is_url(film):
        return [filesystem.unstrip_protocol(match) for match in matches]
    relative = not os.path.isabs(os.path.expanduser(film))
    return [os.path.relpath(match) if relative else match for match in matches]


def _films(filesystem: AbstractFileSystem, paths: Sequence[str]) -> list[str]:
    hidden = (path for path in paths if not os.path.basename(path).startswith("."))
    return sorted(path for path in hidden if os.path.splitext(path)[1].lower() in SUFFIXES)
