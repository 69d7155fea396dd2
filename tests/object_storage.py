"""A real S3 server on loopback, for tests that write to object storage."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import s3fs

BUCKET = "films"


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@contextmanager
def s3_server(folder: Path) -> Iterator[dict[str, str]]:
    """Start SeaweedFS with one bucket; yields the environment by which s3fs finds it."""
    weed = Path(sys.executable).parent / "weed"
    ports = {name: _free_port() for name in ("master", "volume", "filer", "s3", "webdav", "admin")}
    environment = {
        "FSSPEC_S3_ENDPOINT_URL": f"http://127.0.0.1:{ports['s3']}",
        "FSSPEC_S3_KEY": "insideout",
        "FSSPEC_S3_SECRET": "insideout-secret",
    }
    keys = {"AWS_ACCESS_KEY_ID": "insideout", "AWS_SECRET_ACCESS_KEY": "insideout-secret"}
    command = [str(weed), "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-bucket={BUCKET}"]
    command += ["-webdav=false", "-admin.ui=false", "-master.telemetry=false"]
    command += [f"-{name}.port={port}" for name, port in ports.items() if name not in ("webdav", "admin")]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "weed.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | keys, cwd=folder)
        try:
            fs = s3fs.S3FileSystem(
                key="insideout", secret="insideout-secret", endpoint_url=environment["FSSPEC_S3_ENDPOINT_URL"],
                skip_instance_cache=True,
            )  # fmt: skip
            deadline = time.monotonic() + 60
            while not _answers(fs):
                assert server.poll() is None, (folder.parent / "weed.log").read_text()[-2000:]
                assert time.monotonic() < deadline, (folder.parent / "weed.log").read_text()[-2000:]
                time.sleep(0.2)
            yield environment
        finally:
            server.kill()  # a polite end takes it many seconds, and nothing of it is kept
            server.wait()


def _answers(fs: s3fs.S3FileSystem) -> bool:
    try:
        fs.invalidate_cache()
        return BUCKET in [str(name) for name in fs.ls("")]
    except (OSError, ValueError):
        return False
