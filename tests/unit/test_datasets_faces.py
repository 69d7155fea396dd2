from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from insideout.datasets.faces import render_faces
from insideout.errors import DataError

pytest.importorskip("resvg_py", reason="rendering SVG needs insideout[faces]")

FACE = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10"><circle cx="5" cy="5" r="5" fill="#e00"/>'
    '<rect x="3" y="6" width="4" height="1" fill="#000"/></svg>'
)


def _write(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / f"{name}.svg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(FACE)
    return folder


def test_styles_are_split_and_folders_become_classes(tmp_path: Path) -> None:
    faces = _write(tmp_path / "faces", "flat/angry/a", "flat/fear/b", "flat/sad/c", "round/angry/d")
    names = {"angry": "Angry", "fear": "Afraid"}
    counts = render_faces(faces, tmp_path / "out", valid_styles=["round"], names=names, copies=2, size=48)
    assert counts == {"train": {"Angry": 2, "Afraid": 2}, "valid": {"Angry": 2}}
    written = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.jpg"))
    assert written[0] == "train/Afraid/flat_b_0.jpg"
    assert len(written) == 6


def test_a_face_gets_other_colours_each_time_and_the_same_ones_in_every_run(tmp_path: Path) -> None:
    faces = _write(tmp_path / "faces", "flat/angry/a")
    for out in ("one", "two"):
        render_faces(faces, tmp_path / out, valid_styles=[], copies=8, size=48)
    pictures = [[cv2.imread(str(p)) for p in sorted((tmp_path / o).rglob("*.jpg"))] for o in ("one", "two")]
    assert all(np.array_equal(a, b) for a, b in zip(*pictures, strict=True))
    middles = np.array([picture[16:20, 20:28].mean((0, 1)) for picture in pictures[0]])  # above the mouth
    assert middles.std(0).max() > 20
    assert pictures[0][0].shape == (48, 48, 3)


def test_a_folder_without_faces_and_a_broken_face_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="svg"):
        render_faces(tmp_path, tmp_path / "out", valid_styles=[])
    faces = _write(tmp_path / "faces", "flat/angry/a")
    (faces / "flat" / "angry" / "a.svg").write_text("<svg")
    with pytest.raises(DataError, match=r"a\.svg"):
        render_faces(faces, tmp_path / "out", valid_styles=[])
