"""Write one file whole or not at all, on local disk or storage, by a program that needs a local file to write to."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from insideout.errors import StorageError, UsageError
from insideout.objects import filesystem, heard, is_url, said, storage_errors


@contextmanager
def new_file(target: str | os.PathLike[str]) -> Iterator[Path]:
    """A local path to write to; when the block ends without an error the file is at `target`, else nothing is.

    target: a local path or an fsspec URL; an older file is replaced. The path given has its suffix. On local
    disk it lies beside the target and is renamed after an fsync; for a URL it lies in a folder for temporary
    files and is put there at the end. Raises UsageError for a folder, StorageError where it cannot be written.
    """
    name = os.fspath(target)
    if is_url(name):
        yield from _put(name)
        return
    path = Path(name)
    if path.is_dir():
        raise UsageError(f"{name}: is a folder; name a file in it")
    part = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise StorageError(f"{name}: cannot be written ({said(error)}); check folder and space") from error
    finally:
        part.unlink(missing_ok=True)


def _put(url: str) -> Iterator[Path]:
    try:
        fs, inside = filesystem(url)
    except storage_errors(ValueError, ImportError) as error:
        raise UsageError(f"{url}: not a place that can be written to ({said(error)})") from error
    folder = Path(tempfile.mkdtemp(prefix="insideout-"))
    try:
        part = folder / inside.rsplit("/", 1)[-1]
        yield part
        try:
            fs.put_file(str(part), inside)
            heard()
        except storage_errors() as error:
            raise StorageError(f"{url}: cannot be written ({said(error)}); check it and run again") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
