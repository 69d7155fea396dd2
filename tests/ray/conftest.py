"""What the tests of whole runs share: one undisturbed run to compare with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.labelling import label


@pytest.fixture(scope="session")
def usual(tmp_path_factory: pytest.TempPathFactory, excerpt: Path, pack: Path) -> Path:
    """An undisturbed run over the excerpt, every 24th frame."""
    out = tmp_path_factory.mktemp("usual") / "out"
    done = label(excerpt, pack, out)
    assert done.returncode == 0, done.stderr
    return out
