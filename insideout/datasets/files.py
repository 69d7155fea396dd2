"""Which files of an export are read: regular files inside of it, under names that can be shown.

Exports come from others, often as archives that were unpacked: a link in one can point at any file of
the machine it is unpacked on.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from insideout.errors import DataError
from insideout.messages import LONGEST_NAME, fault_of_name, steers

_ARCHIVES = frozenset({".7z", ".bz2", ".gz", ".rar", ".tar", ".tgz", ".xz", ".zip", ".zst"})
_LISTED = 3


def check_files(paths: Iterable[Path], *roots: Path) -> None:
    """Refuse links that lead out of all `roots`, what is no regular file, and names with control characters.

    What is missing is passed over. Raises DataError that names the first three.
    """
    inside = [root.resolve() for root in roots]
    real: dict[Path, Path] = {}
    wrong: list[str] = []
    for path in paths:
        if path.parent not in real:
            real[path.parent] = path.parent.resolve()
        try:
            kind = path.lstat().st_mode
            whole = path.resolve() if stat.S_ISLNK(kind) else real[path.parent] / path.name
            kind = path.stat().st_mode if stat.S_ISLNK(kind) else kind
        except FileNotFoundError:
            continue
        except OSError as error:
            wrong.append(f"{path} cannot be looked at ({error.strerror})")
            continue
        if not any(whole.is_relative_to(root) for root in inside):
            wrong.append(f"{path} is a link out of the export, to {whole}")
        elif not stat.S_ISREG(kind):
            wrong.append(f"{path} is no regular file")
        elif any(map(steers, path.name)):
            wrong.append(f"{path} has control characters in its name")
    if wrong:
        more = f" and {len(wrong) - _LISTED} more" if len(wrong) > _LISTED else ""
        raise DataError(
            f"{'; '.join(wrong[:_LISTED])}{more}; an export holds its own files: take out what you do not know, and"
            " copy an export of your own with its links followed (cp -rL EXPORT COPY)"
        )


def check_class_name(name: object, where: str) -> str:
    """Return the name of a class as text. Raises DataError where it cannot be one (`fault_of_name`)."""
    if isinstance(name, list | dict | set | bytes) or name is None:
        raise DataError(f"{where}: a class is a {type(name).__name__}; write a name")
    text = str(name)
    if fault := fault_of_name(text):
        raise DataError(f"{where}: '{text[:LONGEST_NAME]}' cannot be the name of a class: {fault}; rename it")
    return text


def check_folder_name(name: str, where: str) -> None:
    """Raise DataError for a class whose folder would lie elsewhere: a class may come from a table."""
    check_class_name(name, where)
    if name.startswith(".") or any(c in name for c in "/\\"):
        raise DataError(f"{where}: '{name}' cannot be the name of a folder of crops; rename the class")


def refuse_archive(path: Path) -> None:
    """Raise DataError for an archive: it is for its owner to unpack, where nothing can be written over."""
    if path.suffix.lower() in _ARCHIVES and os.path.isfile(path):
        raise DataError(
            f"{path}: an archive, which is not unpacked here; unpack it into a new folder and give that folder"
        )
