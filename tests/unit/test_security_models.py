"""What a model from a stranger may try: code in a pickle, in a checkpoint's own settings, names that steer."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from insideout.backbones import read_weights
from insideout.copies import local_copy
from insideout.errors import DataError, InsideoutError, PackError, StorageError
from insideout.packing import PackRecipe, build_pack, read_segmenter
from insideout.packs import load_pack, verify_pack
from insideout.private import private_folder
from insideout.recipes.crops import read_crops
from insideout.recipes.emotion import EmotionTraining
from insideout.recipes.emotion_recipe import EmotionRecipe
from insideout.recipes.segmenter import SegmenterRecipe, prepare_segmenter
from insideout.recipes.segmenter_run import rewind
from insideout.yolo import set_ultralytics_environment
from tests.exports import write_export, write_yolo_export

ROOT = Path(__file__).parents[2]


class Payload:
    """Unpickling it makes a file: whoever can do that can do anything."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "code-ran"


def _run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run code in a process without this one's settings: only what our own entry points set holds there."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("YOLO_", "ULTRALYTICS_"))}
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, env=kept, cwd=ROOT)


PICKLES: dict[str, Callable[[Payload], bytes]] = {
    "torch.save": lambda p: _saved({"model": p, "ema": p, "state_dict": {"x": p}, "network": p}),
    "an old torch.save": lambda p: _saved({"model": p, "network": p}, _use_new_zipfile_serialization=False),
    "a plain pickle": lambda p: pickle.dumps({"model": p}, protocol=2),
}


def _saved(content: Any, **options: Any) -> bytes:
    sink = io.BytesIO()
    torch.save(content, sink, **options)
    return sink.getvalue()


@pytest.mark.parametrize("kind", PICKLES)
def test_code_in_a_checkpoint_never_runs(tmp_path: Path, mark: Path, kind: str, pack: Path) -> None:
    content = PICKLES[kind](Payload(mark))
    if kind == "a plain pickle":
        pickle.loads(content)
    else:
        torch.load(io.BytesIO(content), weights_only=False)
    assert mark.exists()  # it is a real one
    mark.unlink()

    emotion = tmp_path / "emotion"
    data = read_crops(write_export(tmp_path / "crops"))
    training = EmotionTraining(EmotionRecipe(backbone="mobilenet_v2", size=32, batch=8, epochs=1), data)
    emotion.mkdir()
    training.save(emotion, training.evaluate())
    yolo_data, last = write_yolo_export(tmp_path / "yolo"), tmp_path / "run" / "run" / "weights" / "last.pt"
    last.parent.mkdir(parents=True)
    for path in (tmp_path / "evil.pt", tmp_path / "evil.pth", tmp_path / "evil.safetensors", last):
        path.write_bytes(content)
    spoilt = shutil.copytree(pack, tmp_path / "pack")
    for name in ("segmenter", "emotion"):
        (spoilt / f"{name}.safetensors").write_bytes(content)

    evil, recipe = tmp_path / "evil.pt", PackRecipe(name="evil")
    attempts: list[Callable[[], object]] = [
        lambda: read_segmenter(evil),
        lambda: build_pack(tmp_path / "out", evil, emotion, recipe),
        lambda: prepare_segmenter(yolo_data, SegmenterRecipe(), tmp_path / "new", pretrained=str(evil)),
        lambda: read_weights(evil),
        lambda: read_weights(tmp_path / "evil.pth"),
        lambda: read_weights(tmp_path / "evil.safetensors"),
        lambda: load_pack(spoilt),
    ]
    for attempt in attempts:
        with pytest.raises(InsideoutError):
            attempt()
    found = json.loads((spoilt / "pack.json").read_text())
    for part in ("segmenter", "emotion"):  # whoever puts a pickle into a pack can write its digest too
        file = spoilt / f"{part}.safetensors"
        found[part] |= {"bytes": file.stat().st_size, "sha256": hashlib.sha256(content).hexdigest()}
    (spoilt / "pack.json").write_text(json.dumps(found))
    with pytest.raises(PackError, match=r"segmenter\.safetensors"):
        verify_pack(spoilt)
    (emotion / "state.pt").write_bytes(content)
    with pytest.raises(DataError, match=r"state\.pt: not readable as a checkpoint of plain tensors"):
        training.restore(emotion)
    (emotion / "model.safetensors").write_bytes(content)
    with pytest.raises(InsideoutError, match=r"model\.safetensors"):
        read_weights(emotion)
    told: list[str] = []
    assert rewind(tmp_path / "run", told.append) is None
    assert "is not whole" in told[0]
    assert not mark.exists()


EVIL_SETTINGS = """
    import sys, ultralytics.nn.tasks as tasks
    assert not tasks.SAFE_LOAD
    import torch
    from pathlib import Path
    from insideout.errors import TrainingError
    from insideout.recipes.segmenter import SegmenterRecipe, prepare_segmenter, run_segmenter
    folder, mark = Path(sys.argv[1]), sys.argv[2]
    model = tasks.SegmentationModel("yolov8n-seg.yaml", nc=2, verbose=False)
    model.names = {0: "Disc", 1: "Square"}
    model.yaml["activation"] = f"__import__('pathlib').Path({mark!r}).touch() or torch.nn.SiLU()"
    torch.save({"model": model, "train_args": {}}, folder / "evil.pt")
    recipe = SegmenterRecipe(imgsz=64, batch=4, epochs=1, warmup_epochs=0)
    job = prepare_segmenter(folder / "yolo", recipe, folder / "out", pretrained=str(folder / "evil.pt"))
    try:
        run_segmenter(job)
    except TrainingError as error:
        print(error)
"""


def test_code_in_the_settings_of_a_checkpoint_never_runs(tmp_path: Path, mark: Path) -> None:
    """Ultralytics evaluates a network's `activation` as Python, unless it loads safely from its first import on."""
    write_yolo_export(tmp_path / "yolo")
    done = _run(EVIL_SETTINGS, tmp_path, mark)
    assert "unsupported activation" in done.stdout, done.stderr
    assert not mark.exists()


EVERY_WAY = """
    import os, sys
    from contextlib import suppress
    from pathlib import Path
    import torch
    from insideout.errors import PackError
    from insideout.packs import load_pack
    from insideout.packing import read_segmenter
    from insideout.segment import CharacterSegmenter
    spec, empty = load_pack("packs/bbb").segmenter, Path(sys.argv[1])
    empty.touch()
    for way, given in ((read_segmenter, empty), (CharacterSegmenter, spec)):
        assert "ultralytics" not in sys.modules
        if os.fork() == 0:
            with suppress(PackError):
                way(given)
            import ultralytics.nn.tasks as tasks, ultralytics.utils as utils
            print(tasks.SAFE_LOAD, tasks._SafeLoad.restricted(), utils.ONLINE, os.environ["ULTRALYTICS_SAFE_LOAD"])
            sys.stdout.flush()
            os._exit(0)
        os.wait()
"""


def test_every_way_to_ultralytics_loads_safely(tmp_path: Path) -> None:
    done = _run(EVERY_WAY, tmp_path / "empty.pt")
    assert done.stdout == "True True False 1\n" * 2, done.stderr


@pytest.mark.parametrize("trap", ["link", "open to all", "file"])
def test_a_folder_that_others_can_write_to_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trap: str, excerpt: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for use, name in (("settings", "insideout-ultralytics"), ("copies", "insideout-films")):
        own = private_folder(name)
        assert own == private_folder(name) == tmp_path / f"{name}-{os.getuid()}"
        assert stat.S_IMODE(own.stat().st_mode) == 0o700
        own.rmdir()
        theirs = tmp_path / f"theirs-{use}"
        theirs.mkdir()
        if trap == "link":
            own.symlink_to(theirs)
        elif trap == "file":
            own.touch()
        else:
            own.mkdir()
            own.chmod(0o777)
        with pytest.raises(OSError, match=f"{own} is not a folder of this user alone"):
            private_folder(name)
    with pytest.raises(StorageError, match=f"{own} is not a folder of this user alone; remove it, or set TMPDIR"):
        local_copy(excerpt.as_uri(), "0" * 16)
    monkeypatch.setenv("YOLO_CONFIG_DIR", "")
    set_ultralytics_environment()
    other = Path(os.environ["YOLO_CONFIG_DIR"])
    assert other.parent == tmp_path
    assert other.resolve() not in (own, theirs, tmp_path / f"insideout-ultralytics-{os.getuid()}")
    assert stat.S_IMODE(other.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": "a\x1b[2Jb"}, "control character"),
        ({"name": "n" * 101}, "1 to 100 characters"),
        ({"name": "=HYPERLINK(1)"}, "formula of a spreadsheet"),
        ({"emotion": {"classes": ["Happy", "a\nb"]}}, "control character"),
        ({"emotion": {"classes": ["Happy", "+1"]}}, "formula of a spreadsheet"),
        ({"segmenter": {"classes": ["Bunny", "\u202eknarF"]}}, "control character"),
    ],
)
def test_names_of_a_pack_steer_nothing(tmp_path: Path, pack: Path, change: dict[str, Any], says: str) -> None:
    copy = shutil.copytree(pack, tmp_path / "pack")
    found = json.loads((copy / "pack.json").read_text())
    for key, value in change.items():
        found[key] = found[key] | value if isinstance(value, dict) else value
    (copy / "pack.json").write_text(json.dumps(found))
    with pytest.raises(PackError, match=says) as refused:
        load_pack(copy)
    assert "\x1b" not in str(refused.value)


def test_a_pack_json_nested_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pack.json").write_text("[" * 200_000)
    with pytest.raises(PackError, match=r"pack\.json: not readable as JSON"):
        load_pack(tmp_path)
