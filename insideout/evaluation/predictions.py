"""What a classifier says of labelled crops: the table that every figure is computed from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from insideout.crops import resize, square
from insideout.datasets.labelled import CropList, LabelledCrop
from insideout.errors import DataError
from insideout.objects import said
from insideout.schema import check_plain

if TYPE_CHECKING:
    from insideout.packs import EmotionSpec

_CHUNK = 64
_ORIGIN = ("name", "emotion", "film", "scene", "shot", "track", "character")


@dataclass(frozen=True)
class Predictions:
    """Logits of a classifier for labelled crops: float32 [n, classes], before the temperature."""

    crops: CropList
    logits: npt.NDArray[np.float32]
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.logits.shape != (len(self.crops), len(self.crops.classes)):
            raise DataError(f"logits {list(self.logits.shape)} for {len(self.crops)} crops of {self.crops.classes}")

    def __len__(self) -> int:
        return len(self.crops)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the columns."""
        return self.crops.classes

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """True class of each crop, int64 [n]."""
        return self.crops.labels

    @property
    def guesses(self) -> npt.NDArray[np.int64]:
        """Most probable class of each crop, int64 [n]."""
        found: npt.NDArray[np.int64] = self.logits.argmax(1)
        return found

    def probabilities(self, temperature: float | None = None) -> npt.NDArray[np.float64]:
        """softmax(logits / temperature), float64 [n, classes]; without one at the pack's temperature."""
        scaled = self.logits.astype(np.float64) / (temperature or self.temperature)
        odds = np.exp(scaled - scaled.max(1, keepdims=True))
        found: npt.NDArray[np.float64] = odds / odds.sum(1, keepdims=True)
        return found

    def take(self, indices: npt.NDArray[np.int64]) -> Predictions:
        """The predictions at these indices, in this order."""
        return replace(self, crops=self.crops.take(indices), logits=self.logits[indices])

    def write(self, path: Path) -> None:
        """Write a Parquet table: origin of each crop, its emotion, and a column `logit_CLASS` per class."""
        columns: dict[str, object] = {key: [getattr(crop, key) for crop in self.crops.crops] for key in _ORIGIN}
        for key in ("ordinal", "pts"):
            columns[key] = pa.array([getattr(crop, key) for crop in self.crops.crops], pa.int64())
        columns["time_base"] = pa.array(
            [crop.time_base and str(crop.time_base) for crop in self.crops.crops], pa.string()
        )
        for i, name in enumerate(self.classes):
            columns[f"logit_{name}"] = self.logits[:, i]
        table = pa.table(columns).replace_schema_metadata({"temperature": repr(self.temperature)})
        part = path.with_name(f".{path.name}.part")
        pq.write_table(table, part)
        part.replace(path)

    @classmethod
    def read(cls, path: Path) -> Predictions:
        """Read what `write` wrote; the pictures themselves are not in it. Raises DataError."""
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"{path}: not readable as a table of predictions ({said(error)})") from error
        check_plain(table.schema, str(path))
        classes = tuple(name[6:] for name in table.column_names if name.startswith("logit_"))
        timed = [name for name in ("pts", "time_base") if name in table.column_names]  # an older table has neither
        rows = table.select([*_ORIGIN, "ordinal", *timed]).to_pylist()
        for row in rows:
            row["time_base"] = Fraction(row["time_base"]) if row.get("time_base") else None
        crops = CropList(classes, tuple(LabelledCrop(picture=b"", **row) for row in rows))
        logits = np.stack([table[f"logit_{name}"].to_numpy() for name in classes], 1).astype(np.float32)
        return cls(crops, logits, float((table.schema.metadata or {}).get(b"temperature", b"1.0")))


def predict(
    spec: EmotionSpec, crops: CropList, *, grey: bool = False, device: str = "cpu", threads: int | None = None
) -> Predictions:
    """Classify labelled crops with the emotion classifier of a pack, as labelling a film does.

    With `grey` the pictures lose their colour first, which shows how much of the answer the colour
    carries. Classes of `crops` must be the pack's. Raises DataError for other classes and for
    pictures that cannot be read.
    """
    from insideout.emotion import EmotionClassifier

    if crops.classes != spec.classes:
        raise DataError(f"the crops have the classes {', '.join(crops.classes)}; the pack {', '.join(spec.classes)}")
    classifier = EmotionClassifier(spec, device, threads)
    logits = np.zeros((len(crops), len(crops.classes)), np.float32)
    for start in range(0, len(crops), _CHUNK):
        pictures = np.stack([resize(square(crop.read()), spec.size) for crop in crops.crops[start : start + _CHUNK]])
        if grey:
            shade = (pictures @ np.array([0.299, 0.587, 0.114])).round().astype(np.uint8)
            pictures = np.repeat(shade[..., None], 3, axis=3)
        logits[start : start + _CHUNK] = classifier.logits(pictures)
    return Predictions(crops, logits, spec.temperature)
