"""The table of shots, and what is written of a segmenter's figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from insideout.errors import DataError
from insideout.evaluation.average_precision import FIGURES
from insideout.evaluation.segmenter_report import read_shots, report_segmenter, segmenter_figures
from insideout.packs import load_pack


def test_every_ordinal_has_its_shot_and_a_table_that_is_none_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "shots.csv"
    table.write_text("shot,start_ordinal,end_ordinal\n7,0,2\n8,2,3\n")
    assert read_shots(table) == {0: "7", 1: "7", 2: "8"}
    table.write_text("shot,start\n7,0\n")
    with pytest.raises(DataError, match="not a table of shots"):
        read_shots(table)
    with pytest.raises(DataError, match=r"none\.csv"):
        read_shots(tmp_path / "none.csv")


def test_the_bundled_segmenter_is_scored_on_frames_of_the_excerpt(root: Path, excerpt: Path, tmp_path: Path) -> None:
    import av
    import cv2

    names = load_pack(root / "packs" / "bbb").segmenter.classes
    for split in ("train", "valid"):
        for kind in ("images", "labels"):
            (tmp_path / split / kind).mkdir(parents=True)
    (tmp_path / "data.yaml").write_text(
        f"train: train/images\nval: valid/images\nnc: {len(names)}\nnames: [{', '.join(names)}]\n"
    )
    with av.open(str(excerpt)) as container:
        for ordinal, frame in zip(range(3), container.decode(video=0), strict=False):
            for split in ("train", "valid"):
                cv2.imwrite(str(tmp_path / split / "images" / f"{ordinal:06d}.jpg"), frame.to_ndarray(format="bgr24"))
                label = "0 0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.2\n" if ordinal == 1 else ""
                (tmp_path / split / "labels" / f"{ordinal:06d}.txt").write_text(label)
    lines = report_segmenter(load_pack(root / "packs" / "bbb"), tmp_path, "valid", tmp_path / "out")
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert written["frames"] == 3
    bunny = written["average_precision"]["Bunny"]
    assert bunny["mask_map50"]["count"] == 1
    figures = segmenter_figures(written)
    assert figures["by_class"]["Bunny"] == {"instances": 1, **{key: bunny[key]["value"] for key in FIGURES}}
    assert figures["mask_map50"] == bunny["mask_map50"]["value"]  # no other is labelled
    (line,) = [line for line in lines if line.startswith("| Bunny | 1 | ")]
    value, low, high = (bunny["box_map50"][key] for key in ("value", "low", "high"))
    assert f"{value:.3f} [{low:.2f}, {high:.2f}]" in line
    assert written["screen_time_found"]["count"] == 1
    assert written["false_positives_per_1000_frames"]["count"] == 2
    assert (written["shots"], written["frames_without_shot"]) == (3, 3)
    (note,) = [line for line in lines if "3 frames have no shot and count as one each" in line]
    assert note.startswith("- ")
    assert note[2:] in written["notes"]
    assert (tmp_path / "out" / "table.md").read_text().splitlines() == lines
    assert any(line.startswith("| screen time found | ") and line.endswith("| 1 |") for line in lines)
