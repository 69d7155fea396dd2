"""Build a model pack from a trained segmenter and a trained emotion classifier."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jinja2
from pydantic import Field, ValidationError

from insideout.emotion import check_shapes, load_network
from insideout.errors import PackError
from insideout.objects import said
from insideout.packs import (
    CARD,
    ERRORS,
    VERSION,
    EmotionPart,
    ErrorsPart,
    Pack,
    PackFile,
    SegmenterPart,
    SegmenterSpec,
    file_digest,
    load_pack,
)
from insideout.recipes.base import Recipe
from insideout.store import Store
from insideout.yolo import set_ultralytics_environment

if TYPE_CHECKING:
    from torch import Tensor

_CARD_TEMPLATE = Path(__file__).parent / "cards" / "model_card.md.j2"
_SEGMENTER_SCORES = {
    "metrics/mAP50(M)": "mask_map50",
    "metrics/mAP50-95(M)": "mask_map50_95",
    "metrics/mAP50(B)": "box_map50",
    "metrics/mAP50-95(B)": "box_map50_95",
}


class PackRecipe(Recipe):
    """How labelling uses the two models, and what only people know about them, for the card."""

    name: str
    parts: tuple[str, ...] = ()
    """Segmenter classes that are parts of a character."""
    confidence: float = Field(0.25, gt=0, lt=1)
    iou: float = Field(0.7, gt=0, le=1)
    crop: Literal["head", "mask", "box"] = "mask"
    margin: float = Field(0.08, ge=0, le=1)
    uncertain_below: float = Field(0.4, ge=0, le=1)
    accuracy: float | None = Field(None, gt=0, lt=1)
    """Put `uncertain_below` where the answers above it are right at this rate, on the crops that
    `train emotion --calibrate` has kept from the networks that judged them; None takes it as given."""
    summary: str = ""
    data: str = ""
    """Where pictures and labels come from, who labelled them and how."""
    limits: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    """Commands that train the pack again, in order."""
    licence: str = ""


def build_pack(
    out: Path,
    segmenter_checkpoint: Path,
    emotion_checkpoint: Path,
    recipe: PackRecipe,
    *,
    metrics: Mapping[str, Mapping[str, Any]] | None = None,
    card: str | None = None,
) -> Pack:
    """Write a pack to the folder `out` and return it, loaded and verified.

    `segmenter_checkpoint` is ultralytics' best.pt, `emotion_checkpoint` the folder that `train
    emotion` returns. Weights are stored as float16, vectors (biases, batch norm) as float32.
    `metrics` adds to or overrides the scores found in the checkpoints; `card` replaces the generated
    model card. The folder appears complete or not at all, and replaces an older pack; the same
    checkpoints and recipe give the same digest. Raises PackError.
    """
    if out.exists() and not (out / "pack.json").is_file() and (not out.is_dir() or any(out.iterdir())):
        raise PackError(f"{out}: holds something that is not a model pack; choose another folder")
    meta = read_emotion_meta(emotion_checkpoint)
    segmenter = read_segmenter(segmenter_checkpoint)
    scores: dict[str, Any] = {"segmenter": dict(segmenter["scores"]), "emotion": dict(meta["valid"])}
    for model, figures in (metrics or {}).items():
        scores[model] = scores.get(model, {}) | dict(figures)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        folder = Path(scratch) / out.name
        folder.mkdir()
        weights = {
            "segmenter": _write_weights(folder / "segmenter.safetensors", segmenter["state"]),
            "emotion": _write_weights(folder / "emotion.safetensors", _read_emotion_state(emotion_checkpoint)),
        }
        threshold, abstention = _threshold(emotion_checkpoint, meta, recipe)
        try:
            content = PackFile(
                schema=VERSION,
                name=recipe.name,
                segmenter=SegmenterPart(
                    **weights["segmenter"],
                    architecture=segmenter["architecture"],
                    imgsz=segmenter["imgsz"],
                    classes=segmenter["classes"],
                    parts=recipe.parts,
                    confidence=recipe.confidence,
                    iou=recipe.iou,
                ),
                emotion=EmotionPart(
                    **weights["emotion"],
                    architecture=meta["architecture"],
                    size=meta["size"],
                    views=meta.get("views", ["whole"]),
                    classes=tuple(meta["classes"]),
                    crop=recipe.crop,
                    margin=recipe.margin,
                    mean=tuple(meta["mean"]),
                    std=tuple(meta["std"]),
                    temperature=meta["temperature"],
                    uncertain_below=threshold,
                ),
                metrics=_rounded(scores),
                confusion=_write_errors(folder, emotion_checkpoint / "unseen.parquet", threshold),
            )
        except (ValidationError, KeyError) as error:
            raise PackError(f"{out}: these checkpoints and recipe make no pack: {error}") from error
        text = (
            card
            if card is not None
            else model_card(content, recipe, meta | {"abstention": abstention}, segmenter["recipe"])
        )
        _write_text(folder / "pack.json", _json(content))
        _write_text(folder / CARD, text)
        built = load_pack(folder)
        check_segmenter_weights(built.segmenter)
        load_network(built.emotion)
        if out.exists():
            out.rename(Path(scratch) / "before")
        folder.rename(out)
    return load_pack(out, verify=False)


def add_errors(pack: Path, unseen: Path) -> Pack:
    """Count the errors in `unseen` into a pack that is there, and return the pack; its digest stays.

    `unseen` are predictions of the pack's recipe for crops of scenes that the predicting networks had
    not seen, as `train emotion --calibrate` keeps them. Raises PackError, DataError.
    """
    from insideout.evaluation.predictions import Predictions

    loaded = load_pack(pack)
    given = Predictions.read(unseen)
    if given.classes != loaded.emotion.classes or given.temperature != loaded.emotion.temperature:
        raise PackError(f"{unseen}: of other emotions or another temperature than {pack}; give those of its training")
    content = PackFile.model_validate(json.loads((pack / "pack.json").read_text()))
    part = _write_errors(pack, unseen, loaded.emotion.uncertain_below)
    _write_text(pack / ".pack.json", _json(content.model_copy(update={"confusion": part})))
    (pack / ".pack.json").replace(pack / "pack.json")
    return load_pack(pack)


def read_segmenter(checkpoint: Path) -> dict[str, Any]:
    """Read an ultralytics segmentation checkpoint, without running code from it.

    Returns `state` (tensors by name), `classes`, `architecture`, `imgsz`, `scores` (on its val split)
    and `recipe` (its training settings). Raises PackError.
    """
    if not checkpoint.is_file():
        raise PackError(f"{checkpoint}: no such checkpoint; 'insideout train segmenter' writes OUT/run/weights/best.pt")
    set_ultralytics_environment()
    from ultralytics.nn.tasks import SegmentationModel, torch_safe_load

    try:
        content, _ = torch_safe_load(str(checkpoint), safe_only=True)
    except Exception as error:  # ultralytics has no error of its own for this
        raise PackError(f"{checkpoint}: not readable as an ultralytics checkpoint: {error}") from error
    model = content.get("ema") or content.get("model")
    if not isinstance(model, SegmentationModel):
        raise PackError(f"{checkpoint}: holds {type(model).__name__}; a segmentation model (yolov8n-seg …) is needed")
    settings_used = content.get("train_args") or {}
    names = model.names
    scores = content.get("train_metrics") or {}
    return {
        "state": model.state_dict(),
        "classes": tuple(names[i] for i in sorted(names)) if isinstance(names, dict) else tuple(names),
        "architecture": _architecture(model),
        "imgsz": int(settings_used.get("imgsz", 640)),
        "scores": {name: float(scores[key]) for key, name in _SEGMENTER_SCORES.items() if key in scores},
        "recipe": {
            key: settings_used[key]
            for key in ("epochs", "batch", "optimizer", "lr0", "mosaic", "copy_paste", "seed")
            if key in settings_used
        },
    }


def _architecture(model: Any) -> str:
    # A model that was built from "yolov8n-seg.yaml" remembers "yolov8-seg.yaml" and its scale "n".
    stem = Path(str(model.yaml.get("yaml_file", ""))).stem
    scale = str(model.yaml.get("scale") or "")
    family, _, task = stem.partition("-")
    return stem if not scale or family.endswith(scale) else f"{family}{scale}-{task}"


def read_emotion_meta(checkpoint: Path) -> dict[str, Any]:
    """Read meta.json of an emotion checkpoint folder. Raises PackError."""
    file = checkpoint / "meta.json"
    try:
        meta: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise PackError(
            f"{file}: not readable ({said(error)}); give the folder that 'train emotion' printed"
        ) from error
    missing = [k for k in ("architecture", "classes", "size", "mean", "std", "temperature", "valid") if k not in meta]
    if missing:
        raise PackError(f"{file}: has no {', '.join(missing)}; train again with this version")
    return meta


def check_segmenter_weights(spec: SegmenterSpec) -> None:
    """Build the segmenter of a pack and compare shapes. Raises PackError naming the first that differs."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    set_ultralytics_environment()
    from ultralytics.nn.tasks import SegmentationModel

    try:
        state = load_file(spec.weights)
        expected = SegmentationModel(f"{spec.architecture}.yaml", nc=len(spec.classes), verbose=False).state_dict()
    except (OSError, SafetensorError) as error:
        raise PackError(f"{spec.weights}: cannot be read as weights of {spec.architecture}: {error}") from error
    check_shapes(expected, state, spec.weights)


def model_card(content: PackFile, recipe: PackRecipe, meta: Mapping[str, Any], segmenter: Mapping[str, Any]) -> str:
    """The model card as Markdown: use, data, figures, limits, and how to train the pack again."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_CARD_TEMPLATE.read_text())
    return template.render(
        pack=content,
        recipe=recipe,
        meta=meta,
        segmenter_recipe=segmenter,
        characters=[name for name in content.segmenter.classes if name not in content.segmenter.parts],
    )


def _threshold(checkpoint: Path, meta: Mapping[str, Any], recipe: PackRecipe) -> tuple[float, str]:
    """The certainty below which an emotion is uncertain, and in words how it was chosen."""
    unseen = checkpoint / "unseen.parquet"
    if not unseen.is_file():
        if recipe.accuracy is not None:
            raise PackError(
                f"{unseen}: missing, so no threshold can be fitted; train with --calibrate 5, or give uncertain_below"
            )
        return recipe.uncertain_below, "chosen by hand"
    from insideout.evaluation.calibration import certainty_of, risk_coverage, threshold_for_accuracy
    from insideout.evaluation.predictions import Predictions

    predictions = Predictions.read(unseen)
    if predictions.temperature != meta["temperature"]:
        raise PackError(
            f"{unseen}: of temperature {predictions.temperature:.4f}, and meta.json beside it has"
            f" {meta['temperature']:.4f}: a calibration was cut off; run the same `train emotion --calibrate` again"
        )
    least = recipe.uncertain_below
    if recipe.accuracy is not None:
        found = threshold_for_accuracy(predictions, recipe.accuracy)
        if found is None:
            raise PackError(
                f"{unseen}: no certainty gives {recipe.accuracy:.0%} right answers; lower `accuracy` in the pack recipe"
            )
        least = math.floor(found * 1e4) / 1e4
    curve = risk_coverage(*certainty_of(predictions))
    answered = int((curve.threshold >= least).sum()) - 1
    said = (
        f"on {len(predictions)} training crops, each judged by a network that had not seen it,"
        f" {curve.coverage[answered]:.0%} are at or above it and {curve.accuracy[answered]:.0%} of those are right"
        if answered >= 0
        else f"no crop of {len(predictions)} is that certain"
    )
    return least, said


def _read_emotion_state(checkpoint: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = checkpoint / "model.safetensors"
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise PackError(f"{file}: not readable ({said(error)}); train again") from error


def _write_weights(path: Path, state: Mapping[str, Tensor]) -> dict[str, Any]:
    import torch
    from safetensors.torch import save_file

    stored: dict[str, Tensor] = {}
    for key in sorted(state):
        value = state[key].detach().cpu()
        if value.is_floating_point():
            # Variances of batch norm can be smaller than float16 resolves; vectors are few.
            value = value.to(torch.float16 if value.ndim >= 2 else torch.float32)
            if not torch.isfinite(value).all():
                raise PackError(f"{path.name}: tensor {key} is not finite in {value.dtype}; the training diverged")
        stored[key] = value.contiguous().clone()
    save_file(stored, path)
    path.chmod(0o644)  # safetensors makes files that only their owner can read
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return {"weights": path.name, "sha256": file_digest(path), "bytes": path.stat().st_size}


def _json(content: PackFile) -> str:
    return json.dumps(content.to_json(), indent=2, ensure_ascii=False) + "\n"


def _write_errors(folder: Path, unseen: Path, uncertain_below: float) -> ErrorsPart | None:
    """Count the errors in the predictions that training has kept, if it has, into a table in `folder`."""
    if not unseen.is_file():
        return None
    from insideout.evaluation.predictions import Predictions
    from insideout.stats.confusion import count_errors

    table = count_errors(Predictions.read(unseen), uncertain_below)
    Store(folder).write_table(ERRORS, table)
    path = folder / ERRORS
    crops = sum(table["crops"].to_pylist())
    return ErrorsPart(table=path.name, sha256=file_digest(path), bytes=path.stat().st_size, crops=crops)


def _write_text(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _rounded(value: Any) -> Any:
    """Scores to four decimals, which is more than they hold."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, Mapping):
        return {str(key): _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list | tuple) else value
