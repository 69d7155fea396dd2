"""The leak audit: what it finds, what it lets pass, and how it says so."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import cv2
import imagehash
import numpy as np
import pytest

from insideout.datasets.labelled import LabelledCrop
from insideout.errors import DataError
from insideout.leaks import NEAR_BITS, audit, fingerprints, near_pairs, refuse_leaks


@cache
def scenery(seed: int, shade: int = 0) -> bytes:
    """A picture with coarse structure; another seed is another view, another shade a near-duplicate."""
    coarse = np.random.default_rng(seed).integers(40, 200, (6, 6, 3), np.uint8)
    picture = cv2.resize(coarse, (48, 48), interpolation=cv2.INTER_CUBIC)
    return bytes(cv2.imencode(".png", cv2.add(picture, np.full_like(picture, shade)))[1].tobytes())


def crop(
    name: str, view: int = 0, *, shade: int = 0, shot: str = "", ordinal: int | None = None, film: str = "", **more: str
) -> LabelledCrop:
    emotion = more.pop("emotion", "Happy")
    return LabelledCrop(name, scenery(view, shade), emotion, film=film, shot=shot, ordinal=ordinal, **more)


def test_a_shot_on_both_sides_leaks_and_the_nearest_frames_of_it_are_named() -> None:
    train = [crop("t0", 0, shot="1", ordinal=0), crop("t40", 1, shot="1", ordinal=40)]
    valid = [crop("v90", 2, shot="1", ordinal=90), crop("v52", 3, shot="1", ordinal=52), crop("w", 4, shot="2")]
    found = audit(train, valid, hashes=False)
    assert found.shared_shots == ("/1",)
    assert found.shots == (1, 2)
    assert [(p.first, p.second, p.ordinals) for p in found.worst] == [("t40", "v52", 12)]
    assert found.leaks == ("1 shot on both sides",)


def test_the_same_shot_number_of_another_film_is_another_shot() -> None:
    train, valid = [crop("t", 0, shot="1", film="a", ordinal=5)], [crop("v", 0, shot="1", film="b", ordinal=5)]
    found = audit(train, valid)
    assert not found.leaks
    assert found.duplicates is not None
    assert found.duplicates.pairs == 1
    assert found.nearest is None


@pytest.mark.parametrize(
    ("ordinals", "films", "leaks"),
    [
        ((100, 148), ("", ""), True),
        ((100, 149), ("", ""), False),
        ((149, 100), ("", ""), False),
        ((100, None), ("", ""), True),
        ((None, None), ("a", "a"), True),
        ((100, 900), ("a", ""), True),
        ((100, 100), ("a", "b"), False),
    ],
)
def test_near_duplicates_condemn_when_close_by_or_of_unknown_place(
    ordinals: tuple[int | None, int | None], films: tuple[str, str], leaks: bool
) -> None:
    train = [crop("t", 7, shot="1", ordinal=ordinals[0], film=films[0]), crop("u", 8, shot="1", film=films[0])]
    valid = [crop("v", 7, shade=3, shot="2", ordinal=ordinals[1], film=films[1]), crop("w", 9, shot="2", ordinal=9**6)]
    found = audit(train, valid)
    assert bool(found.leaks) is leaks
    assert found.duplicates is not None
    assert (found.duplicates.pairs, found.duplicates.pairs_condemned) == (1, int(leaks))
    assert found.duplicates.share == 0.5
    assert (found.duplicates.closest[0].first, found.duplicates.closest[0].second) == ("t", "v")
    assert audit(train, valid, hashes=False).duplicates is None
    assert not audit(train, valid, hashes=False).leaks


def test_copies_of_a_picture_leak_but_equal_names_in_two_folders_do_not() -> None:
    copies = [crop(f"{side}/a_jpg.rf.{side}1.jpg", n, source="a") for n, side in enumerate(("train", "valid"))]
    found = audit(copies[:1], copies[1:], hashes=False)
    assert found.leaks == ("copies of 1 picture on both sides",)
    assert found.worst[0].why == "copies of one picture"
    plain = [crop(f"{side}/0001.jpg", n, source="0001") for n, side in enumerate(("train", "valid"))]
    assert not audit(plain[:1], plain[1:]).leaks


def test_a_scene_on_both_sides_is_told_and_condemns_only_a_split_by_scene() -> None:
    train, valid = [crop("t", 0, shot="1", scene="4")], [crop("v", 1, shot="2", scene="4")]
    assert audit(train, valid).shared_scenes == ("/scene 4",)
    assert not audit(train, valid).leaks
    strict = audit(train, valid, by_scene=True)
    assert strict.leaks == ("1 scene on both sides",)
    assert strict.worst[0].why == "same scene"


def test_the_nearest_training_frame_is_found_on_either_side_and_in_the_same_film_only() -> None:
    train = [crop(f"t{n}", n, shot="1", ordinal=n, film="a") for n in (10, 50, 200)]
    train.append(crop("other", 1, shot="1", ordinal=61, film="b"))
    valid = [crop(f"v{n}", n, shot="2", ordinal=n, film="a") for n in (0, 60, 150, 400)]
    nearest = audit(train, valid, hashes=False).nearest
    assert nearest is not None
    assert (nearest.crops, nearest.least, nearest.median, nearest.share_close) == (4, 10, 10, 0.5)


def test_hamming_distances_are_those_of_imagehash_beyond_one_chunk_too() -> None:
    random = np.random.default_rng(0)
    first = random.random((1100, 64)) < 0.5
    second = random.random((30, 64)) < 0.5
    for row, column, flips in ((3, 2, 0), (1050, 7, NEAR_BITS), (1099, 29, NEAR_BITS + 1)):
        first[row] = second[column]
        first[row, :flips] ^= True
    i, j, bits = near_pairs(first, second)
    assert list(zip(i, j, bits, strict=True)) == [(3, 2, 0), (1050, 7, NEAR_BITS)]
    expected = imagehash.ImageHash(first[1050].reshape(8, 8)) - imagehash.ImageHash(second[7].reshape(8, 8))
    assert expected == NEAR_BITS


def test_a_picture_that_is_scaled_and_compressed_again_keeps_its_hash_and_another_does_not() -> None:
    original = crop("o", 5)
    larger = cv2.resize(original.read(), (90, 90), interpolation=cv2.INTER_LINEAR)[:, :, ::-1]
    again = replace(original, picture=bytes(cv2.imencode(".jpg", larger, [cv2.IMWRITE_JPEG_QUALITY, 60])[1].tobytes()))
    one, two, other = fingerprints([original, again, crop("x", 6)])
    assert (one != two).sum() <= NEAR_BITS
    assert (one != other).sum() > 3 * NEAR_BITS


def test_what_is_refused_names_the_three_worst_pairs_and_the_way_out() -> None:
    train = [crop(f"train/{n}.jpg", n, shot=str(n), ordinal=100 * n) for n in range(5)]
    valid = [crop(f"valid/{n}.jpg", 50 + n, shot=str(n), ordinal=100 * n + 10 - n) for n in range(5)]
    found = audit(train, valid, hashes=False)
    with pytest.raises(DataError) as refused:
        refuse_leaks({"train/valid": found}, "the split by frame")
    told = str(refused.value)
    assert "the split by frame leaks (train/valid: 5 shots on both sides)" in told
    assert "--allow-leaks" in told
    for n in (2, 3, 4):
        assert f"train/{n}.jpg and valid/{n}.jpg (same shot, {10 - n} frames apart)" in told
    assert "train/1.jpg" not in told
    refuse_leaks({"train/valid": audit(train[:2], valid[2:])}, "this")


def test_the_table_counts_classes_and_says_loudly_where_shots_are_unknown() -> None:
    train = [crop("a", 0, emotion="Sad", character="Joy"), crop("b", 1, shot="3", character="Anger")]
    valid = [crop("c", 2, shot="4", character="Joy")]
    found = audit(train, valid)
    lines = found.lines()
    assert lines[0].split() == ["train", "valid"]
    assert lines[1].split() == ["crops", "2", "1"]
    assert [line.split()[:3] for line in lines[2:4]] == [["Happy", "1", "1"], ["Sad", "1", "0"]]
    assert "on one side only" in lines[3]
    assert "only in train: Anger" in lines
    assert any(line.startswith("WARNING: 1 of 3 crops have no shot") for line in lines)
    assert lines[-1] == "leaks: none found"


def test_the_audit_survives_json() -> None:
    found = audit([crop("t", 1, shot="1", ordinal=3)], [crop("v", 1, shot="1", ordinal=8)])
    told = json.loads(json.dumps(found.to_json()))
    assert told["leaks"] == list(found.leaks)
    assert told["classes"] == {"Happy": [1, 1]}
    assert told["worst"] == [{"first": "t", "second": "v", "why": "same shot", "bits": 0, "ordinals": 5}]
    assert told["nearest"]["least"] == 5
    assert told["duplicates"]["share"] == 1.0
