"""Read and write an output folder, on local disk or any fsspec storage, atomically.

On local disk a file appears by rename after an fsync. On object storage a single put is atomic by
itself, and nothing is ever renamed there.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from insideout.errors import OutputError, StorageError
from insideout.faults import fault
from insideout.objects import filesystem, heard, said, storage_errors
from insideout.schema import read_plain


class Store:
    """A folder on some storage; keys are relative paths with forward slashes."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        """`root` is a local path or an fsspec URL such as `s3://bucket/prefix`."""
        self.root = str(root)
        try:
            self.fs, self._path = filesystem(self.root)
        except storage_errors(ValueError, ImportError) as error:
            raise OutputError(f"{self.root}: not a folder that can be opened: {error}") from error
        self.local = isinstance(self.fs, LocalFileSystem)

    def path(self, key: str) -> str:
        """The path of a key as the file system names it."""
        return f"{self._path.rstrip('/')}/{key}"

    def arrow(self) -> pa.fs.FileSystem | None:
        """The file system as pyarrow's, for libraries that take one; None for local disk, their default."""
        return None if self.local else pa.fs.PyFileSystem(pa.fs.FSSpecHandler(self.fs))

    def write(self, key: str, data: bytes) -> None:
        """Write all of `data` under a key, or nothing; an older object is replaced."""
        with self._reported("write", key):
            if not self.local:
                self.fs.pipe_file(self.path(key), data)
                return
            target = Path(self.path(key))
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
            try:
                with temporary.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                fault("before-rename")
                temporary.replace(target)
                fault("after-rename")
            finally:
                temporary.unlink(missing_ok=True)

    def update(self, key: str, change: Callable[[bytes | None], bytes]) -> bytes:
        """Replace what is under a key by `change` of it (None: nothing there), and return that.

        What another process writes meanwhile is not lost: on local disk writers take turns, on S3 the
        write holds only for the version that was read, and is done again where that has changed, so
        that `change` may be called more than once. Storage that cannot do either: the last one wins.
        """
        if self.local:
            Path(self._path).mkdir(parents=True, exist_ok=True)
            folder = os.open(self._path, os.O_RDONLY)
            try:
                fcntl.flock(folder, fcntl.LOCK_EX)  # given back when the process ends, however it does
                data = change(self.read(key) if self.exists(key) else None)
                self.write(key, data)
            finally:
                os.close(folder)
            return data
        while True:
            version = self._version(key)
            data = change(self.read(key) if version else None)
            if self._written(key, data, version):
                return data

    def _version(self, key: str) -> str | None:
        """What changes whenever the object under a key does; None where there is none."""
        with self._reported("look at", key):
            self.fs.invalidate_cache()
            try:
                return str(self.fs.info(self.path(key)).get("ETag", "any"))
            except FileNotFoundError:
                return None

    def _written(self, key: str, data: bytes, version: str | None) -> bool:
        """Put an object in place of this version of it, and say whether that was still the one."""
        condition: dict[str, str] = {}
        if version != "any":
            condition = {"IfMatch": version} if version else {"mode": "create"}
        with self._reported("write", key):
            try:
                self.fs.pipe_file(self.path(key), data, **condition)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno == errno.EINVAL and "pre-conditions" in str(error):
                    return False
                raise
        return True

    def write_json(self, key: str, value: Any) -> None:
        """Write a value as indented JSON."""
        self.write(key, json.dumps(value, indent=2, ensure_ascii=False).encode())

    def write_table(self, key: str, table: pa.Table, group_rows: int | None = None) -> None:
        """Write a table as Parquet, Zstandard-compressed, in row groups of so many rows."""
        self.write(key, table_bytes(table, group_rows))

    def read(self, key: str) -> bytes:
        """Read all bytes of a key; raises StorageError."""
        with self._reported("read", key):
            data: bytes = self.fs.cat_file(self.path(key))
            return data

    def read_json(self, key: str) -> Any:
        """Read JSON; raises OutputError when it is damaged."""
        try:
            return json.loads(self.read(key))
        except json.JSONDecodeError as error:
            raise OutputError(f"{self.path(key)}: damaged JSON ({error}); remove the folder and run again") from error

    def read_table(self, key: str) -> pa.Table:
        """Read a Parquet file; raises OutputError for columns that are not plain."""
        return read_plain(pa.BufferReader(self.read(key)), self.path(key))

    def read_metadata(self, key: str) -> dict[bytes, bytes]:
        """The metadata at the foot of a Parquet file, without its rows."""
        with self._reported("read", key), self.fs.open(self.path(key), "rb") as file:
            return dict(pq.read_schema(file).metadata or {})

    def exists(self, key: str) -> bool:
        """Tell whether a key is there."""
        with self._reported("look at", key):
            return bool(self.fs.exists(self.path(key)))

    def list(self, prefix: str, suffix: str = "") -> list[str]:
        """Keys below a folder, sorted, without temporary files; empty when there is no such folder."""
        with self._reported("list", prefix):
            self.fs.invalidate_cache()
            try:
                found = self.fs.find(self.path(prefix))
            except FileNotFoundError:
                return []
        start = len(self.path(""))
        # Some servers keep an empty object where a folder was.
        keys = (key for path in found if (key := str(path)[start:]) != prefix.rstrip("/"))
        return sorted(k for k in keys if k.endswith(suffix) and not k.rsplit("/", 1)[-1].startswith("."))

    def remove(self, prefix: str) -> None:
        """Remove a folder and all below it, or one key; nothing happens when it is not there."""
        with self._reported("remove", prefix):
            if self.fs.exists(self.path(prefix)):
                self.fs.rm(self.path(prefix), recursive=True)

    @contextmanager
    def _reported(self, verb: str, key: str) -> Iterator[None]:
        try:
            yield
            heard()
        except storage_errors() as error:
            where = self.path(key)
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                raise StorageError(
                    f"{where}: disk full; free some space and run the same command again, finished spans are kept"
                ) from error
            raise StorageError(f"cannot {verb} {where}: {said(error)}; check it and run again") from error


def table_bytes(table: pa.Table, group_rows: int | None = None) -> bytes:
    """A table as a Parquet file, Zstandard-compressed, in row groups of so many rows (None: pyarrow's own choice)."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", row_group_size=group_rows)
    data: bytes = sink.getvalue().to_pybytes()
    return data
