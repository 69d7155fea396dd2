"""Every error that insideout raises on purpose, in one hierarchy.

A message says what is wrong, where, and what to do next. The command line prints it without a
traceback and leaves with `exit_code`: 2 for bad use, 1 for work that failed.
"""

from __future__ import annotations

from insideout.messages import printable, without_credentials


class InsideoutError(Exception):
    """Something went wrong that the user can read about and act on.

    Messages quote paths, names and other libraries' errors: credentials and control characters go out of them here.
    """

    exit_code = 1

    def __init__(self, *args: object) -> None:
        super().__init__(*(printable(without_credentials(a)) if isinstance(a, str) else a for a in args))


class UsageError(InsideoutError):
    """The call itself cannot be carried out: wrong path, wrong option, wrong value."""

    exit_code = 2


class FilmError(UsageError):
    """A film cannot be found, opened or read as a video."""


class DataError(UsageError):
    """A training data set is missing, empty or contradicts itself."""


class PackError(UsageError):
    """A model pack is missing, incomplete or not what its digests say."""


class RecipeError(UsageError):
    """A recipe file has an unknown key or a value out of range."""


class OutputError(UsageError):
    """An output folder belongs to another plan or was written by a newer schema."""


class StorageError(InsideoutError):
    """Storage refused to read or write: disk full, no permission, connection lost."""


class DecodeError(InsideoutError):
    """A span could not be decoded completely."""


class TrainingError(InsideoutError):
    """A training run ended without a usable model."""


class IncompleteError(InsideoutError):
    """A run ended with frames that are neither labelled nor accounted for."""
