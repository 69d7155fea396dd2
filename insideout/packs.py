"""A model pack: a folder with all that labelling needs to know of its models.

    pack.json              names, classes, preprocessing, digests, scores; read this first
    segmenter.safetensors  YOLO segmentation weights
    emotion.safetensors    weights of the emotion classifier
    MODEL_CARD.md          data, splits, figures, limits, how to train it again
    confusion.parquet      how often each emotion is read as which on scenes not seen in training; optional

Nothing in a pack is code: weights are plain tensors, names of files are plain names.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from insideout.backbones import Backbone
from insideout.errors import PackError
from insideout.messages import LONGEST_NAME, fault_of_name
from insideout.objects import said
from insideout.views import View

VERSION = 1
CARD = "MODEL_CARD.md"
ERRORS = "confusion.parquet"
#: Segmentation models of ultralytics that label; those for 1280 px (-p6) need other padding than `Letterbox` gives.
SEGMENTERS = r"^yolo[0-9a-z]+-seg$"


@dataclass(frozen=True)
class SegmenterSpec:
    """The segmenter of a pack. `classes` in the order of the network's outputs, `parts` among them."""

    architecture: str
    weights: Path
    sha256: str
    imgsz: int
    classes: tuple[str, ...]
    parts: tuple[str, ...]
    confidence: float
    iou: float


@dataclass(frozen=True)
class EmotionSpec:
    """The emotion classifier of a pack.

    `size` in pixels; `views` are the looks it takes at a crop; `margin` widens a head box on each
    side, as a share of its longer side; `mean` and `std` by RGB channel of pictures in 0..1;
    probabilities are softmax(logits / temperature), and an emotion less probable than
    `uncertain_below` is called uncertain.
    """

    architecture: str
    weights: Path
    sha256: str
    size: int
    views: tuple[View, ...]
    classes: tuple[str, ...]
    crop: Literal["head", "mask", "box"]
    margin: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    temperature: float
    uncertain_below: float


@dataclass(frozen=True)
class Pack:
    """A loaded pack; `digest` is over pack.json in canonical form, weight digests included.

    `confusion` is the table of the classifier's errors (`schema.CONFUSION`), None where there is none.
    """

    path: Path
    name: str
    segmenter: SegmenterSpec
    emotion: EmotionSpec
    digest: str
    metrics: dict[str, Any]
    confusion: Path | None = None

    @property
    def characters(self) -> tuple[str, ...]:
        """The segmenter's classes that are characters, not parts of one."""
        return tuple(name for name in self.segmenter.classes if name not in self.segmenter.parts)


def _plain_name(value: str) -> str:
    # A pack may come from a stranger: no name in it may lead out of its folder.
    if not value or value.startswith(".") or any(c in value for c in "/\\:\0") or ".." in value:
        raise ValueError(f"{value!r} is not a plain file name")
    return value


def _fit_name(value: str) -> str:
    if fault := fault_of_name(value):
        raise ValueError(f"'{value[:LONGEST_NAME]}' cannot be a name: {fault}")
    return value


FileName = Annotated[str, AfterValidator(_plain_name)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, AfterValidator(_fit_name)]
Names = Annotated[tuple[Name, ...], Field(min_length=1)]
Triple = tuple[float, float, float]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str
    weights: FileName
    sha256: Sha256
    bytes: int = Field(ge=1)


class SegmenterPart(_Part):
    """What pack.json says of the segmenter."""

    architecture: str = Field(pattern=SEGMENTERS)
    imgsz: int = Field(ge=32, multiple_of=32)
    classes: Names
    parts: tuple[str, ...] = ()
    confidence: float = Field(gt=0, lt=1)
    iou: float = Field(gt=0, le=1)

    @model_validator(mode="after")
    def _parts_are_classes(self) -> SegmenterPart:
        if odd := sorted(set(self.parts) - set(self.classes)):
            raise ValueError(f"parts {odd} are not among the classes")
        if set(self.parts) == set(self.classes):
            raise ValueError("all classes are parts; a character is needed")
        return self


class EmotionPart(_Part):
    """What pack.json says of the emotion classifier."""

    architecture: Backbone
    size: int = Field(ge=32)
    views: Annotated[tuple[View, ...], Field(min_length=1)] = ("whole",)
    classes: Annotated[Names, Field(min_length=2)]
    crop: Literal["head", "mask", "box"]
    margin: float = Field(ge=0, le=1)
    mean: Triple
    std: Triple
    temperature: float = Field(gt=0)
    uncertain_below: float = Field(ge=0, le=1)


class ErrorsPart(BaseModel):
    """What pack.json says of the table of the classifier's errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: FileName
    sha256: Sha256
    bytes: int = Field(ge=1)
    crops: int = Field(ge=1)


class PackFile(BaseModel):
    """pack.json; unknown keys are refused, since a reader that ignores them would label otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["insideout model pack"] = "insideout model pack"
    schema_version: int = Field(VERSION, alias="schema", ge=1)
    name: Name
    segmenter: SegmenterPart
    emotion: EmotionPart
    metrics: dict[str, Any] = {}
    confusion: ErrorsPart | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data in the order of the fields; without `confusion` where there is none."""
        content = self.model_dump(mode="json", by_alias=True)
        if self.confusion is None:
            del content["confusion"]
        return content

    def digest(self) -> str:
        """sha256 of the canonical form: sorted keys, no spaces, UTF-8.

        Not over `confusion`, which changes no row of a label table: a run goes on when a pack gets one.
        """
        content = self.to_json()
        content.pop("confusion", None)
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()


def load_pack(path: str | Path, *, verify: bool = True) -> Pack:
    """Read a pack; with `verify` its files are checked against their digests.

    Raises PackError: no such folder, no pack.json, unreadable or wrong content, a newer schema, a
    missing or altered file (names the file and both digests).
    """
    folder = Path(path)
    file = folder / "pack.json"
    if not folder.is_dir():
        raise PackError(f"{folder}: no such pack; give the folder that holds pack.json")
    try:
        raw = json.loads(file.read_text())
    except FileNotFoundError as error:
        raise PackError(f"{file}: missing; {folder} is not a model pack") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise PackError(f"{file}: not readable as JSON ({said(error)}); get the pack again") from error
    schema = raw.get("schema") if isinstance(raw, dict) else None
    if isinstance(schema, int) and schema > VERSION:
        raise PackError(f"{file}: schema {schema} is newer than {VERSION}; update insideout")
    try:
        content = PackFile.model_validate(raw)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'pack.json'}: {e['msg']}" for e in error.errors())
        raise PackError(f"{file}: {problems}") from error
    for part in (content.segmenter, content.emotion):
        _check_file(folder / part.weights, part, verify)
    if content.confusion is not None:
        _check_file(folder / content.confusion.table, content.confusion, verify)
    return to_pack(folder, content)


def to_pack(folder: Path, content: PackFile) -> Pack:
    """The pack that a checked pack.json in `folder` describes, with absolute paths of the weights."""
    folder = folder.resolve()
    segmenter = content.segmenter.model_dump(exclude={"bytes"}) | {"weights": folder / content.segmenter.weights}
    emotion = content.emotion.model_dump(exclude={"bytes"}) | {"weights": folder / content.emotion.weights}
    return Pack(
        folder,
        content.name,
        SegmenterSpec(**segmenter),
        EmotionSpec(**emotion),
        content.digest(),
        content.metrics,
        None if content.confusion is None else folder / content.confusion.table,
    )


def verify_pack(path: str | Path) -> Pack:
    """Check digests, and that both networks can be built from the weights. Raises PackError."""
    from insideout.emotion import load_network
    from insideout.packing import check_segmenter_weights

    pack = load_pack(path)
    check_segmenter_weights(pack.segmenter)
    load_network(pack.emotion)
    return pack


def file_digest(path: Path) -> str:
    """sha256 of a file, hex, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _check_file(path: Path, part: _Part | ErrorsPart, verify: bool) -> None:
    if not path.is_file():
        raise PackError(f"{path}: missing; get the pack again")
    if path.stat().st_size != part.bytes:
        raise PackError(f"{path}: {path.stat().st_size} bytes, pack.json says {part.bytes}; get the pack again")
    if verify and (found := file_digest(path)) != part.sha256:
        raise PackError(f"{path}: sha256 is {found}, pack.json says {part.sha256}; get the pack again")


def describe(pack: Pack) -> str:
    """A pack in a few lines of text, as `insideout pack show` prints it."""
    seg, emo = pack.segmenter, pack.emotion
    lines = [
        f"pack        {pack.name}  ({pack.path})",
        f"digest      {pack.digest}",
        f"segmenter   {seg.architecture} at {seg.imgsz} px, confidence {seg.confidence:g}, iou {seg.iou:g},"
        f" {seg.weights.stat().st_size / 1e6:.1f} MB",
        f"  characters  {', '.join(pack.characters)}",
        f"  parts       {', '.join(seg.parts) or '-'}",
        f"emotion     {emo.architecture} at {emo.size} px on the {emo.crop}, margin {emo.margin:g},"
        f" seen {' and '.join(emo.views)}, {emo.weights.stat().st_size / 1e6:.1f} MB",
        f"  emotions    {', '.join(emo.classes)}",
        f"  temperature {emo.temperature:.3f}, uncertain below {emo.uncertain_below:g}",
    ]
    for model, figures in pack.metrics.items():
        plain = {k: v for k, v in figures.items() if isinstance(v, int | float)} if isinstance(figures, dict) else {}
        if plain:
            lines.append(f"{model} on valid: " + ", ".join(f"{key} {value:.4g}" for key, value in plain.items()))
    return "\n".join(lines)
