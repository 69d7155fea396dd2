"""Open what lies on object storage: in one place, by range, and patiently.

A connection that breaks, a server that is busy or away for a while are tried again for about two
minutes; what the server refuses (no such file, no permission, expired credentials) is an error at once.
"""

from __future__ import annotations

import io
import sys
from typing import Any, Protocol

import fsspec
from fsspec import AbstractFileSystem
from fsspec.exceptions import FSTimeoutError

from insideout.errors import StorageError

#: Bytes asked for at once when a film is read by range: some seconds of film.
BLOCK_BYTES = 4 * 1024 * 1024
#: s3fs waits 0.1 s, then 1.7 times as long each time, 15 s at most: 18 tries take about two minutes.
_TRIES = 18
_BUSY = {"500", "502", "503", "504", "InternalError", "ServiceUnavailable", "RequestTimeout", "SlowDown", "Throttling"}


class _Contained(Protocol):
    """What of a PyAV container is looked at here."""

    @property
    def file(self) -> Any: ...


def is_url(path: str) -> bool:
    """Say whether a path is an fsspec URL, such as s3://bucket/film.mp4, rather than a local path."""
    return "://" in path


def filesystem(path: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a path or fsspec URL, and the path as it names it.

    Raises ValueError or ImportError for a protocol that fsspec does not know, OSError as it does.
    """
    fs, inside = fsspec.core.url_to_fs(path)
    if "s3" in _protocols(fs):
        from s3fs.core import set_custom_error_handler

        set_custom_error_handler(_PATIENCE)
        fs.retries = _TRIES
    return fs, inside


def storage_errors(*others: type[Exception]) -> tuple[type[Exception], ...]:
    """What storage raises: OSError, the errors of its clients once they are in use, and `others`."""
    clients = {"botocore.exceptions": ("BotoCoreError", "ClientError"), "aiohttp": ("ClientError",)}
    found = [
        getattr(sys.modules[module], name)
        for module, names in clients.items()
        if module in sys.modules
        for name in names
    ]
    return (OSError, FSTimeoutError, *found, *others)


def said(error: Exception) -> str:
    """What an error says in one line, without its number and path, which the message around it names already."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    text = " ".join(str(text).split())[:300]
    if isinstance(error, PermissionError) and not getattr(error, "errno", None):  # of a server, not of this machine
        text += ": no permission, or the credentials have expired"
    return text


class RangedFile(io.RawIOBase):
    """A file on object storage read by range, in blocks, that remembers when it could not be read.

    ffmpeg takes a read that fails for the end of the film. `failure` is the error that was raised
    first, None so far; from then on every read raises it again.
    """

    def __init__(self, path: str, *, block_bytes: int | None = None) -> None:
        """`path` is an fsspec URL; raises FileNotFoundError and what `storage_errors` names."""
        super().__init__()
        fs, inside = filesystem(path)
        self.failure: Exception | None = None
        self._inner = fs.open(inside, "rb", block_size=block_bytes or BLOCK_BYTES, cache_type="readahead")

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def read(self, size: int | None = -1) -> bytes:
        """Read so many bytes, fewer only at the end of the file."""
        if self.failure is not None:
            raise self.failure
        try:
            data: bytes = self._inner.read(-1 if size is None else size)
            heard()
            return data
        except storage_errors() as error:
            self.failure = error
            raise

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; costs nothing until the next read."""
        return int(self._inner.seek(offset, whence))

    def tell(self) -> int:
        """Where the next read begins."""
        return int(self._inner.tell())

    def close(self) -> None:
        """Give the connection back."""
        if not self.closed:
            self._inner.close()
        super().close()


def check_read(container: _Contained, path: str) -> None:
    """Raise StorageError where the file of a container could not be read: its end is not the film's end."""
    file = getattr(container.file, "file", None)
    if isinstance(file, RangedFile) and file.failure is not None:
        raise StorageError(
            f"{path}: cannot be read any more ({said(file.failure)}); check it and run the same command again"
        ) from file.failure


def _protocols(fs: AbstractFileSystem) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


class _Patience:
    """Tells s3fs which errors are worth another try, beside those it tries again by itself.

    A server that cannot be reached at all may be a wrong address, so it is waited for only once
    something has answered.
    """

    def __init__(self) -> None:
        self.answered = False

    def __call__(self, error: Exception) -> bool:
        from botocore.exceptions import ClientError, ConnectionError

        if isinstance(error, ClientError):
            self.answered = True
            status = str(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
            return bool({status, str(error.response.get("Error", {}).get("Code", ""))} & _BUSY)
        return self.answered and isinstance(error, ConnectionError | ConnectionResetError | BrokenPipeError)


_PATIENCE = _Patience()


def heard() -> None:
    """Note that storage has answered in this process."""
    _PATIENCE.answered = True
