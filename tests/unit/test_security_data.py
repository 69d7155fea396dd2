"""What a dataset from a stranger may try: paths, links and names that lead elsewhere, pictures that fill the memory."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from insideout import MOST_PIXELS
from insideout.datasets.faces import render_faces
from insideout.datasets.labelled import LabelledCrop, decode_picture, read_export
from insideout.errors import DataError
from insideout.evaluation.segmenter import evaluate_segmenter
from insideout.packs import load_pack
from insideout.recipes.yolo_data import read_yolo_data, read_yolo_export
from insideout.splits import split_crops, write_split
from pipelines.cli import app
from tests.exports import write_export, write_yolo_export

SECRET = "root:x:0:0:top-secret"


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """A file that no dataset has any business with."""
    path = tmp_path / "private" / "passwd"
    path.parent.mkdir()
    path.write_text(SECRET)
    return path


def bomb(width: int, height: int) -> bytes:
    """A black PNG of one bit a pixel, which compresses about a thousandfold."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        whole = kind + content
        return struct.pack(">I", len(content)) + whole + struct.pack(">I", zlib.crc32(whole))

    rows = zlib.compressobj(9)
    content = b"".join(rows.compress(bytes(1 + (width + 7) // 8)) for _ in range(height)) + rows.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz"])
def test_an_archive_is_refused_and_nothing_of_it_is_written(tmp_path: Path, suffix: str, pack: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    path = inside / f"export{suffix}"
    if suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("../../slipped.txt", "out")
    else:
        with tarfile.open(path, "w") as archive:
            link = tarfile.TarInfo("train")
            link.type, link.linkname = tarfile.SYMTYPE, "../.."
            archive.addfile(link)
            archive.addfile(tarfile.TarInfo("train/slipped.txt"))
    readers: list[Callable[[], object]] = [
        lambda: read_yolo_data(path),
        lambda: read_yolo_export(path),
        lambda: read_export(path),
        lambda: evaluate_segmenter(load_pack(pack, verify=False).segmenter, path),
    ]
    for read in readers:
        with pytest.raises(DataError, match="an archive, which is not unpacked here; unpack it into a new folder"):
            read()
    assert sorted(p.name for p in tmp_path.rglob("*")) == [path.name, "inside"]
    for command in (["split", str(path), "--out", str(tmp_path / "out")], ["evaluate", str(pack), "--data", str(path)]):
        assert isinstance(CliRunner().invoke(app, command).exception, DataError)


def test_a_data_yaml_that_points_elsewhere_is_told_and_gets_pictures_only(tmp_path: Path, private: Path) -> None:
    export = write_yolo_export(tmp_path / "export")
    yaml = export / "data.yaml"
    for way in ("../private", str(private.parent), "../../../../../../etc", "train/images/../../../private"):
        yaml.write_text(f"train: {way}\nval: valid/images\nnames: [Disc, Square]\n")
        with pytest.raises(DataError, match="no pictures") as refused:
            read_yolo_export(export)
        assert SECRET not in str(refused.value)
    other = write_yolo_export(tmp_path / "other", seed=1)
    yaml.write_text("path: ../other\ntrain: train/images\nval: valid/images\nnames: [Disc, Square]\n")
    notes = "\n".join(read_yolo_export(export).notes)
    for split in ("train", "valid"):
        assert f"the pictures lie outside of {export}, in {other / split / 'images'}, as the data.yaml says" in notes
    assert not any("outside" in note for note in read_yolo_export(other).notes)


@pytest.mark.parametrize(
    "line",
    ['path: "a\\0b"', 'train: "a\\0b"', f"train: {'a' * 9999}", f"path: {'/a' * 9999}", "path: [a]", "train: {a: b}",
     "names: [[a], [b]]", "names: {0: {a: b}, 1: c}", "names: {0: a, x: b}", 'names: ["a\\nb", c]', 'names: ["", c]',
     f"names: [{'n' * 101}, c]", 'names: ["\\e[2J", c]', "names: [~, c]", "nc: [1]"],
)  # fmt: skip
def test_odd_values_in_a_data_yaml_are_told_shortly(tmp_path: Path, line: str) -> None:
    export = write_yolo_export(tmp_path / "export")
    known = {"train": "train/images", "val": "valid/images", "names": "[Disc, Square]"}
    known.pop(line.partition(":")[0], None)
    (export / "data.yaml").write_text("\n".join([line, *(f"{k}: {v}" for k, v in known.items())]))
    with pytest.raises(DataError, match=r"data\.yaml: ") as refused:
        read_yolo_data(export)
    assert len(str(refused.value)) < 1200
    assert "\x1b" not in str(refused.value)
    assert "\0" not in str(refused.value)


def test_yaml_neither_runs_nor_explodes(tmp_path: Path) -> None:
    path = tmp_path / "data.yaml"
    ran = tmp_path / "ran"
    laughs = "a: &a [ha, ha, ha, ha, ha, ha, ha, ha, ha]\n" + "".join(
        f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
        for before, name in zip("abcdefghi", "bcdefghij", strict=True)
    )
    for text in (
        f"!!python/object/apply:os.system ['touch {ran}']",
        f"names: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{ran}']]",
        laughs + "names: *j\ntrain: t\nval: v\n",
        laughs + "names: [a, b]\ntrain: *j\nval: v\n",
        laughs + "names: [a, b]\nnc: *j\ntrain: t\nval: v\n",
    ):
        path.write_text(text)
        tracemalloc.start()
        with pytest.raises(DataError):
            read_yolo_data(path)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < 64 << 20
    assert not ran.exists()
    # Not traced: that would take half a minute.
    path.write_text("[" * 50_000)
    with pytest.raises(DataError, match="not YAML"):
        read_yolo_data(path)


@pytest.mark.parametrize("what", ["images/train1.jpg", "labels/train1.txt", "labels"])
def test_a_link_out_of_a_yolo_export_is_refused(tmp_path: Path, private: Path, what: str, pack: Path) -> None:
    export = write_yolo_export(tmp_path / "export")
    victim = export / "train" / what
    target = private
    if victim.is_dir():
        victim.rename(tmp_path / "labels")
        (tmp_path / "labels" / "train1.txt").write_text(SECRET)
        target = tmp_path / "labels"
    else:
        victim.unlink()
    victim.symlink_to(target)
    with pytest.raises(DataError, match=r"is a link out of the export, to .*cp -rL EXPORT COPY") as refused:
        read_yolo_export(export)
    assert SECRET not in str(refused.value)
    if what != "images/train1.jpg":
        with pytest.raises(DataError, match="is a link out of the export"):
            evaluate_segmenter(load_pack(pack, verify=False).segmenter, export, "train")


def test_a_link_inside_of_an_export_is_fine(tmp_path: Path) -> None:
    export = write_yolo_export(tmp_path / "export")
    for name in ("images/train1.jpg", "labels/train1.txt"):
        moved = export / "all" / Path(name).name
        moved.parent.mkdir(exist_ok=True)
        (export / "train" / name).rename(moved)
        (export / "train" / name).symlink_to(moved)
    assert len(read_yolo_export(export).train.pictures) == 8
    (tmp_path / "link").symlink_to(export)
    assert len(read_yolo_export(tmp_path / "link").train.pictures) == 8


@pytest.mark.parametrize("what", ["train/Happy/000001_x.jpg", "train/Happy", "train", "crops.csv"])
def test_a_link_out_of_a_folder_of_crops_is_refused(tmp_path: Path, private: Path, what: str) -> None:
    export = write_export(tmp_path / "export")
    elsewhere = write_export(tmp_path / "elsewhere")
    (elsewhere / "crops.csv").write_text(f"file,{SECRET}\n")
    (elsewhere / "train/Happy/000001_x.jpg").write_bytes(cv2.imencode(".jpg", np.zeros((9, 9, 3), np.uint8))[1])
    if (export / what).is_dir():
        (export / what).rename(tmp_path / "moved")
    (export / what).symlink_to(elsewhere / what)
    with pytest.raises(DataError, match="is a link out of the export, to ") as refused:
        read_export(export)
    assert SECRET not in str(refused.value)


def test_pipes_and_devices_are_no_pictures(tmp_path: Path) -> None:
    crops, yolo = write_export(tmp_path / "crops"), write_yolo_export(tmp_path / "yolo")
    for path in (crops / "train/Happy/pipe.jpg", yolo / "train/images/pipe.jpg", yolo / "train/labels/pipe.txt"):
        os.mkfifo(path)
        with pytest.raises(DataError, match=rf"{path.name} is no regular file"):
            read_export(crops) if crops in path.parents else read_yolo_export(yolo)
        path.unlink()
        if path.name == "pipe.jpg" and yolo in path.parents:
            path.write_bytes((yolo / "train/images/train1.jpg").read_bytes() + b"\xff\xd9")


def test_names_that_would_steer_a_list_or_a_terminal_are_refused(tmp_path: Path) -> None:
    yolo = write_yolo_export(tmp_path / "yolo")
    picture = yolo / "train/images/train1.jpg"
    # Ultralytics is given a list of pictures, one a line: this would be two.
    (yolo / "train/images/a\n").mkdir()
    picture.rename(yolo / "train/images/a\n" / "train1.jpg").rename(yolo / "train/images/a\nb.jpg")
    with pytest.raises(DataError, match="control characters in its name"):
        read_yolo_export(yolo)
    crops = write_export(tmp_path / "crops")
    (crops / "train/Happy").rename(crops / "train/\x1b[2JHappy")
    with pytest.raises(DataError, match=r"'\\x1b\[2JHappy' cannot be the name of a class"):
        read_export(crops)


def test_a_class_that_is_a_path_is_never_written(tmp_path: Path) -> None:
    picture = cv2.imencode(".png", np.zeros((40, 40, 3), np.uint8))[1].tobytes()
    crops = [
        LabelledCrop(f"film/{i}/../../x", picture, emotion, film="film", shot=str(i))
        for i in range(4)
        for emotion in ("Happy", "../../../slipped")
    ]
    parts = split_crops(crops, "shot", valid=0.5)
    with pytest.raises(DataError, match="slipped"):
        write_split(crops, parts, [{}], tmp_path / "a" / "b" / "out", by="shot", seed=0, allow_leaks=True)
    assert list(tmp_path.rglob("*slipped*")) == []


@pytest.mark.parametrize("side", [60_000, 12_500])
def test_a_picture_of_few_bytes_never_fills_the_memory(tmp_path: Path, side: int) -> None:
    small = bomb(side, side)
    assert len(small) < 500_000
    assert side * side > MOST_PIXELS
    yolo, crops = write_yolo_export(tmp_path / "yolo"), write_export(tmp_path / "crops")
    for path in (yolo / "train/images/bomb.png", crops / "train/Happy/bomb.png"):
        path.write_bytes(small)
    with pytest.raises(DataError, match=r"bomb\.png: .*pixels"):
        read_yolo_export(yolo)
    # In a process of its own: OpenCV asks once, when it is imported, how much it may decode.
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_DATA, (2 << 30, 2 << 30))\n"
        "from pathlib import Path; from insideout.recipes.crops import find_unreadable, read_crops\n"
        "import cv2; found = find_unreadable(read_crops(Path(sys.argv[1]))); print(*found)"
    )
    for i in range(100):
        (crops / f"train/Happy/{i}.jpg").write_bytes(
            (crops / "train/Happy/000001_shot002_track000_Bunny.jpg").read_bytes()
        )
    done = subprocess.run([sys.executable, "-c", code, str(crops)], capture_output=True, text=True, timeout=100)
    assert done.stdout.strip() == "train/Happy/bomb.png", done.stderr


def test_a_large_picture_that_is_none_too_large_is_read() -> None:
    decoded = decode_picture(np.frombuffer(bomb(4000, 3000), np.uint8))
    assert decoded is not None
    assert decoded.shape == (3000, 4000, 3)


@pytest.mark.parametrize(
    ("inside", "says"),
    [
        ('<image width="9" height="9" href="FILE"/>', "refers to"),
        ('<image width="9" height="9" xmlns:x="http://www.w3.org/1999/xlink" x:href="FILE"/>', "refers to"),
        ('<filter id="f"><feImage href="file://FILE"/></filter>', "refers to"),
        ('<use href="http://127.0.0.1:9/a.svg#b"/>', "refers to"),
        ("&a;", "entities"),
    ],
)
def test_a_drawing_that_reads_other_files_is_refused(tmp_path: Path, inside: str, says: str) -> None:
    picture = tmp_path / "private.png"
    cv2.imwrite(str(picture), np.full((9, 9, 3), 200, np.uint8))
    declared = f"<!DOCTYPE svg [<!ENTITY a '<image href=&#34;{picture}&#34; width=&#34;9&#34; height=&#34;9&#34;/>'>]>"
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9">{inside.replace("FILE", str(picture))}</svg>'
    path = tmp_path / "faces/flat/angry/a.svg"
    path.parent.mkdir(parents=True)
    path.write_text(declared * ("&" in inside) + svg)
    with pytest.raises(DataError, match=rf"flat/angry/a\.svg: cannot be rendered: it .*{says}"):
        render_faces(tmp_path / "faces", tmp_path / "out", valid_styles=[])


@pytest.mark.parametrize(
    "attributes",
    ['viewBox="0 0 1 1000000"', 'width="1" height="1000000"', 'viewBox="0 0 9 9" width="1" height="99"',
     'viewBox="0 0 9 9" height="1000in"', 'viewBox="0 0 9 0"', 'viewBox="0 0 9 9" width="0.0001%"', ""],
)  # fmt: skip
def test_a_drawing_that_renders_to_a_huge_picture_is_refused(tmp_path: Path, attributes: str) -> None:
    path = tmp_path / "faces/flat/angry/a.svg"
    path.parent.mkdir(parents=True)
    path.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" {attributes}><circle cx="4" cy="4" r="4"/></svg>')
    with pytest.raises(DataError, match=r"flat/angry/a\.svg: cannot be rendered: "):
        render_faces(tmp_path / "faces", tmp_path / "out", valid_styles=[])
