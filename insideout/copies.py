"""Copies of films on the disk of a machine, where reading them by range from storage is too slow.

The processes of a machine share a copy. The last two films are kept, so that the disk does not fill.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import uuid
from contextlib import suppress
from pathlib import Path

from insideout.errors import FilmError, StorageError
from insideout.objects import RangedFile, is_url, said, storage_errors
from insideout.private import private_folder

#: Films whose copies stay on a machine: the one that is read, and the next or the last.
KEPT = 2
_CHUNK = 16 * 1024 * 1024


def local_copy(path: str, film: str, folder: Path | None = None) -> str:
    """Return the path of a copy of this film on this machine, made now if there is none.

    path: fsspec URL; a local path is returned as it is. film: the id, by which the copy is checked.
    folder: where copies lie; one of this user in the folder for temporary files by default.
    Raises StorageError when it cannot be read or written, FilmError when it is not the film of this id.
    """
    if not is_url(path):
        return path
    copy = Path(film)
    try:
        folder = folder or private_folder("insideout-films")
        folder.mkdir(parents=True, exist_ok=True)
        copy = folder / film
        # One process copies and the others wait; the lock ends with the process, however that ends.
        with (folder / f".{film}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not copy.exists():
                _fetch(path, film, copy)
            os.utime(copy)
        _forget(folder)
    except storage_errors() as error:
        raise StorageError(f"{path}: cannot be copied to this machine ({said(error)}); run again") from error
    return str(copy)


def _fetch(path: str, film: str, copy: Path) -> None:
    digest = hashlib.sha256()
    part = copy.with_name(f".{film}.{uuid.uuid4().hex}.part")
    try:
        with RangedFile(path, block_bytes=_CHUNK) as source, part.open("xb") as target:
            while chunk := source.read(_CHUNK):
                digest.update(chunk)
                target.write(chunk)
        if digest.hexdigest()[: len(film)] != film:
            raise FilmError(f"{path}: has changed since the run was planned; run again into another folder")
        part.replace(copy)
    finally:
        part.unlink(missing_ok=True)


def _forget(folder: Path) -> None:
    """Remove all but the copies used last; who still reads one goes on reading it."""
    used: list[tuple[int, str]] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # another process forgets as well
                if not entry.name.startswith("."):
                    used.append((entry.stat().st_mtime_ns, entry.path))
    for _, copy in sorted(used)[:-KEPT]:
        Path(copy).unlink(missing_ok=True)
