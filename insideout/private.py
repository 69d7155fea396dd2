"""Folders among the temporary files that nobody else can have put anything into."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path


def private_folder(name: str) -> Path:
    """Return the folder NAME-UID among the temporary files, made now if there is none, for this user alone.

    Anyone can have made a folder of that name, or a link, where all may write: then an OSError says so.
    """
    folder = Path(tempfile.gettempdir()) / f"{name}-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700, parents=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or (found.st_uid, stat.S_IMODE(found.st_mode)) != (os.getuid(), 0o700):
        raise OSError(errno.EPERM, f"{folder} is not a folder of this user alone; remove it, or set TMPDIR")
    return folder
