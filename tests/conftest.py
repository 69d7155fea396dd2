"""What every test shares: quiet, offline libraries, one local Ray, the bundled pack and excerpt."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Before anything imports Ray or ultralytics, and inherited by every process a test starts.
os.environ.update(
    RAY_USAGE_STATS_ENABLED="0",
    # A token of this run only: Ray would write one to the home folder otherwise.
    RAY_AUTH_MODE="token",
    RAY_AUTH_TOKEN=secrets.token_hex(32),
    YOLO_OFFLINE="1",
    YOLO_AUTOINSTALL="0",
    YOLO_VERBOSE="0",
    ULTRALYTICS_SAFE_LOAD="1",
)
if "PYTEST_XDIST_WORKER" in os.environ:
    # Two workers with two threads each wait for each other most of the time.
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session", autouse=True)
def ultralytics_settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for ultralytics' settings file, so that the one at home is neither read nor written."""
    folder = tmp_path_factory.mktemp("ultralytics")
    os.environ["YOLO_CONFIG_DIR"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A local Ray with two CPUs, shared by all tests of a session."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def root() -> Path:
    """The top folder of the project."""
    return ROOT


@pytest.fixture(scope="session")
def pack() -> Path:
    """The bundled model pack."""
    return ROOT / "packs" / "bbb"


@pytest.fixture(scope="session")
def excerpt() -> Path:
    """The bundled excerpt of the film: 1,159 frames in 16 shots, with sound."""
    return ROOT / "data" / "excerpt" / "big_buck_bunny_excerpt.mp4"
