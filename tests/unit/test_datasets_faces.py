from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from insideout.datasets.faces import CUTS, NAMES, Cut, compose, read_faces, render_faces
from insideout.datasets.labelled import read_export
from insideout.errors import DataError, UsageError
from pipelines.data_faces import data_faces

pytest.importorskip("resvg_py", reason="rendering SVG needs insideout[faces]")

BUNDLED = Path(__file__).resolve().parents[2] / "data" / "faces" / "faces.tar.gz"


def _svg(mouth: int = 1) -> str:
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10"><circle cx="5" cy="5" r="5" fill="#e00"/>'
        f'<rect x="3" y="6" width="4" height="{mouth}" fill="#000"/></svg>'
    )


def _write(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        path = folder / f"{name}.svg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_svg(1 + number))
    return folder


def _pack(faces: Path, archive: Path) -> Path:
    with tarfile.open(archive, "w:gz") as tar:
        for path in sorted(faces.iterdir()):
            tar.add(path, path.name)
    return archive


def _content(out: Path) -> dict[str, bytes]:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def test_styles_are_split_folders_become_classes_and_the_table_tells_the_style(tmp_path: Path) -> None:
    faces = _write(tmp_path / "faces", "flat/angry/a", "flat/fear/b", "flat/sad/c", "flat/disgust/d", "round/angry/e")
    (faces / "flat" / "angry" / "again.svg").write_text(_svg(1))
    names = {"angry": "Angry", "fear": "Afraid", "sad": "Afraid"}
    export = render_faces(faces, tmp_path / "out", valid_styles=["round"], names=names, copies=2, size=48)
    assert export.pictures == {"train": {"Angry": 2, "Afraid": 4}, "valid": {"Angry": 2}}
    assert export.left_out == {"disgust": 1}
    assert export.repeated == 1
    assert export.lines()[0] == "train: 6 pictures (Afraid 4, Angry 2)"
    found = read_export(tmp_path / "out")
    assert {split: len(crops) for split, crops in found.items()} == {"train": 6, "valid": 2}
    (crop, _) = found["valid"]
    assert (crop.film, crop.character, crop.shot, crop.ordinal) == ("round", "round", "e", None)
    assert crop.emotion == "Angry"
    assert crop.read().shape == (48, 48, 3)
    assert {(c.shot_key, c.emotion) for c in found["train"]} == {
        ("flat/a", "Angry"),
        ("flat/b", "Afraid"),
        ("flat/c", "Afraid"),
    }


def test_an_archive_and_a_folder_give_the_same_pictures_with_any_number_of_threads(tmp_path: Path) -> None:
    faces = _write(tmp_path / "faces", "flat/angry/a", "flat/happy/b", "open-peeps/sad/c", "fun-emoji/sad/d")
    archive = _pack(faces, tmp_path / "faces.tar.gz")
    settings = {"valid_styles": ["flat"], "copies": 3, "size": 48}
    one = render_faces(faces, tmp_path / "one", threads=1, **settings)  # type: ignore[arg-type]
    two = render_faces(archive, tmp_path / "two", threads=3, **settings)  # type: ignore[arg-type]
    assert one.pictures == two.pictures
    assert len(_content(tmp_path / "one")) == 13
    assert _content(tmp_path / "one") == _content(tmp_path / "two")
    render_faces(faces, tmp_path / "three", seed=1, **settings)  # type: ignore[arg-type]
    other = _content(tmp_path / "three")
    assert [name for name, picture in _content(tmp_path / "one").items() if other[name] == picture] == ["crops.csv"]


def test_a_picture_does_not_depend_on_the_other_faces(tmp_path: Path) -> None:
    few, many = _write(tmp_path / "few", "flat/sad/c"), _write(tmp_path / "many", "flat/sad/c", "a/sad/a", "z/sad/z")
    for faces in (few, many):
        render_faces(faces, tmp_path / f"{faces.name}-out", valid_styles=[], copies=1, size=48)
    alone, among = _content(tmp_path / "few-out"), _content(tmp_path / "many-out")
    assert alone["train/Sad/flat_sad_c_0.jpg"] == among["train/Sad/flat_sad_c_0.jpg"]


def test_hue_and_lightness_of_a_face_tell_nothing(tmp_path: Path) -> None:
    faces = _write(tmp_path / "faces", "flat/angry/a")
    render_faces(faces, tmp_path / "out", valid_styles=[], copies=60, size=48)
    middles = []
    for path in sorted((tmp_path / "out").rglob("*.jpg")):
        middles.append(cv2.imread(str(path))[18:22, 22:26].reshape(-1, 3).mean(0))  # above the mouth
    hsv = cv2.cvtColor(np.uint8([middles]), cv2.COLOR_BGR2HSV)[0].astype(int)
    plain = hsv[:, 1] > 50
    assert 10 <= (~plain).sum() <= 40  # grey, or nearly so
    sixths = np.bincount(hsv[plain, 0] // 30, minlength=6)
    assert (sixths > 0).sum() >= 5
    assert sixths.max() < plain.sum() * 0.6
    assert np.ptp(np.array(middles).mean(1)) > 60


def _seen(seed: int, corners: list[tuple[int, int]]) -> int:
    """How many of the marks at these places of a plain head are in its picture."""
    cut = Cut((0.2, 0.1, 0.8, 0.7), (0.3, 0.25, 0.7, 0.65))
    plain = np.zeros((200, 200, 4), np.uint8)
    plain[20:140, 40:160] = (200, 200, 200, 255)
    marked = plain.copy()
    for x, y in corners:
        marked[y : y + 10, x : x + 10, :3] = 0
    with_marks, without = (compose(d, cut, 160, np.random.default_rng(seed)) for d in (marked, plain))
    change = cv2.absdiff(with_marks, without).max(2) > 25
    return cv2.connectedComponents(change.astype(np.uint8))[0] - 1


def test_the_features_stay_in_the_picture_while_the_head_may_be_cut_off() -> None:
    features = [(60, 50), (130, 50), (60, 120), (130, 120)]
    head = [(40, 20), (150, 20), (40, 130), (150, 130)]
    assert [_seen(seed, features) for seed in range(30)] == [4] * 30
    cut_off = [_seen(seed, head) for seed in range(30)]
    assert sum(n < 4 for n in cut_off) > 7
    assert sum(n == 4 for n in cut_off) > 4


def test_features_lie_inside_the_head_of_every_style() -> None:
    for style, cut in CUTS.items():
        (x0, y0, x1, y1), (u0, v0, u1, v1) = cut.head, cut.features
        assert 0 <= x0 < u0 < u1 <= 1, style
        assert y0 < v0 < v1 < y1, style
        # What keeps the features in the picture without any chance at work: a square about the head.
        half = 1.04 * max(x1 - x0, y1 - y0) / 2
        reach = max(abs(u - (x0 + x1) / 2) for u in (u0, u1)), max(abs(v - (y0 + y1) / 2) for v in (v0, v1))
        assert max(reach) < 0.96 * half, style


def _archive(path: Path, members: Mapping[str, bytes | tuple[bytes, str]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, tuple):
                info.type, info.linkname = content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("../flat/angry/b.svg", b"<svg/>", "leads out"),
        ("/flat/angry/b.svg", b"<svg/>", "leads out"),
        ("flat/../../b.svg", b"<svg/>", "leads out"),
        ("flat/angry/b.svg", (tarfile.SYMTYPE, "/etc/hostname"), "link"),
        ("flat/angry/b.svg", (tarfile.LNKTYPE, "flat/angry/a.svg"), "link"),
        ("flat/angry/b.svg", (tarfile.FIFOTYPE, ""), "device"),
        ("flat/angry/b.svg", b" " * (1 << 21), "too large"),
        ("./flat/angry/a.svg", b"<svg/>", "twice"),
    ],
)
def test_an_archive_with_a_trap_is_refused(
    tmp_path: Path, name: str, content: bytes | tuple[bytes, str], message: str
) -> None:
    archive = _archive(tmp_path / "faces.tar", {"flat/angry/a.svg": _svg().encode(), name: content})
    with pytest.raises(DataError, match=message):
        render_faces(archive, tmp_path / "out", valid_styles=[])
    assert [p.name for p in tmp_path.iterdir()] == ["faces.tar"]


def test_what_cannot_be_rendered_is_told_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no STYLE/EMOTION/\*\.svg"):
        render_faces(tmp_path, tmp_path / "out", valid_styles=[])
    with pytest.raises(DataError, match="no such file"):
        render_faces(tmp_path / "nowhere", tmp_path / "out", valid_styles=[])
    (tmp_path / "torn.tar.gz").write_bytes(BUNDLED.read_bytes()[:50_000])
    with pytest.raises(DataError, match="not a readable tar archive"):
        render_faces(tmp_path / "torn.tar.gz", tmp_path / "out", valid_styles=[])
    faces = _write(tmp_path / "faces", "flat/angry/a", "flat/sad/b")
    with pytest.raises(DataError, match="no style 'round'; choose from flat"):
        render_faces(faces, tmp_path / "out", valid_styles=["round"])
    with pytest.raises(DataError, match="every style goes to valid"):
        render_faces(faces, tmp_path / "out", valid_styles=["flat"])
    with pytest.raises(DataError, match=r"class '\.\./Angry'"):
        render_faces(faces, tmp_path / "out", valid_styles=[], names={"angry": "../Angry"})
    with pytest.raises(DataError, match="no face of glad; it has angry, sad"):
        render_faces(faces, tmp_path / "out", valid_styles=[], names={"glad": "Glad"})
    with pytest.raises(UsageError, match="copies 0"):
        render_faces(faces, tmp_path / "out", valid_styles=[], copies=0)
    with pytest.raises(UsageError, match="already there"):
        render_faces(faces, faces, valid_styles=[])
    (faces / "flat" / "angry" / "a.svg").write_text("<svg")
    with pytest.raises(DataError, match=r"flat/angry/a\.svg: cannot be rendered"):
        render_faces(faces, tmp_path / "out", valid_styles=[], size=48)
    (faces / "flat" / "angry" / "a.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"/>')
    with pytest.raises(DataError, match=r"flat/angry/a\.svg: renders to nothing"):
        render_faces(faces, tmp_path / "out", valid_styles=[], size=48)
    assert {p.name for p in tmp_path.iterdir()} == {"torn.tar.gz", "faces"}


def test_the_bundled_archive_holds_what_its_readme_says() -> None:
    faces = read_faces(BUNDLED)
    assert len(faces) == 964
    assert len({face.style for face in faces}) == 12
    assert {face.emotion for face in faces} == {*NAMES, "disgust"}
    assert {style for style in CUTS} < {face.style for face in faces}
    with tarfile.open(BUNDLED) as tar:
        members = tar.getmembers()
    assert [m.name for m in members] == sorted(m.name for m in members)
    assert {(m.uid, m.gid, m.mtime) for m in members} == {(0, 0, 0)}


def test_the_command_takes_more_names_and_says_what_it_wrote(tmp_path: Path) -> None:
    faces = _write(tmp_path / "faces", "flat/angry/a", "flat/disgust/b", "round/sad/c", "round/shy/d")
    app = typer.Typer()
    app.command()(data_faces)
    given = ["--faces", str(faces), "--out", str(tmp_path / "out"), "--valid-style", "round", "--size", "32"]
    done = CliRunner().invoke(app, [*given, "--name", "disgust=Disgusted", "--copies", "2", "--threads", "1"])
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [
        "train: 4 pictures (Angry 2, Disgusted 2)",
        "valid: 2 pictures (Sad 2)",
        "left out: shy 1 faces, since no class is named for them",
        f"crops: {tmp_path / 'out'}",
    ]
    assert done.stderr == ""
    wrong = CliRunner().invoke(app, [*given, "--name", "disgust"])
    assert isinstance(wrong.exception, UsageError)
