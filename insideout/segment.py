"""Find the characters of a frame with a YOLO segmentation model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from insideout.masks import Box, Mask
from insideout.packs import SegmenterSpec
from insideout.precision import use_bf16
from insideout.yolo import float32_boxes, load_segmentation_model, set_ultralytics_environment

Picture = NDArray[np.uint8]

#: Every forward pass has this many pictures, the last one padded with black: the numbers a frame
#: gets must not depend on which frames it shares a batch with.
BATCH = 4
#: Two detections of different classes that share this much of their masks are one figure.
_SAME_FIGURE = 0.8
#: A part belongs to a character whose mask covers at least this share of the part's own pixels.
_PART_COVERED = 0.5
_MAX_DETECTIONS = 50
_STRIDE = 32


@dataclass(frozen=True)
class Character:
    """One detected figure in one frame; boxes are (x, y, w, h) in pixels of the picture."""

    name: str
    score: float
    box: Box
    mask: Mask
    head: Box | None = None


class CharacterSegmenter:
    """Holds a YOLO segmentation model and applies it to batches of frames."""

    def __init__(self, spec: SegmenterSpec, device: str = "cpu", threads: int | None = None) -> None:
        """Load the weights of a pack; raises PackError when they do not fit the architecture."""
        set_ultralytics_environment()
        import torch

        if threads:
            torch.set_num_threads(threads)
            cv2.setNumThreads(threads)
        self.spec = spec
        self.device = torch.device(device)
        self._dtype = torch.float16 if self.device.type == "cuda" else torch.bfloat16
        self._autocast = self.device.type == "cuda" or use_bf16("auto", device)
        model = load_segmentation_model(spec.architecture, spec.weights, len(spec.classes)).fuse(verbose=False)
        model = model.to(self.device, memory_format=torch.channels_last)
        self._model = model

    def segment(self, pictures: Picture) -> list[list[Character]]:
        """Find the characters of `pictures`, uint8 [n, H, W, 3] RGB; one list a picture, best score first."""
        found: list[list[Character]] = []
        for start in range(0, len(pictures), BATCH):
            found += self._segment_batch(pictures[start : start + BATCH])
        return found

    def _segment_batch(self, pictures: Picture) -> list[list[Character]]:
        import torch
        from ultralytics.utils.nms import non_max_suppression

        height, width = pictures.shape[1:3]
        letterbox = Letterbox.fit(height, width, self.spec.imgsz)
        batch = np.zeros((BATCH, letterbox.height, letterbox.width, 3), np.uint8)
        for i, picture in enumerate(pictures):
            batch[i] = letterbox.apply(picture)
        with torch.inference_mode():
            x = torch.from_numpy(batch).to(self.device).permute(0, 3, 1, 2).float() / 255
            x = x.contiguous(memory_format=torch.channels_last)
            mixed = torch.autocast(self.device.type, self._dtype, enabled=self._autocast)
            with float32_boxes(self._model.model[-1]), mixed:
                (output, protos), _ = self._model(x)
            rows = non_max_suppression(
                output.float()[: len(pictures)],
                self.spec.confidence,
                self.spec.iou,
                max_det=_MAX_DETECTIONS,
                nc=len(self.spec.classes),
                max_time_img=60.0,  # the default gives up on a slow machine and drops detections
            )
            return [
                self._characters(row, proto.float(), letterbox, height, width)
                for row, proto in zip(rows, protos, strict=False)
            ]

    def _characters(self, rows: Any, protos: Any, letterbox: Letterbox, height: int, width: int) -> list[Character]:
        if not len(rows):
            return []
        logits = (rows[:, 6:] @ protos.flatten(1)).view(-1, *protos.shape[1:]).cpu().numpy()
        rows = rows[:, :6].cpu().numpy()
        figures = []
        for (x0, y0, x1, y1, score, index), low in zip(rows, logits, strict=True):
            corners = letterbox.to_picture(x0, y0, x1, y1, height, width)
            mask = mask_in_box(low, corners, letterbox, height, width)
            if mask is None or not mask.area:
                continue
            x, y, right, bottom = corners
            figures.append(Character(self.spec.classes[int(index)], float(score), (x, y, right - x, bottom - y), mask))
        parts = [f for f in figures if f.name in self.spec.parts]
        return attach_parts(one_per_figure([f for f in figures if f.name not in self.spec.parts]), parts)


def one_per_figure(characters: list[Character]) -> list[Character]:
    """Keep the best-scored of detections that cover the same figure, best score first."""
    kept: list[Character] = []
    for character in sorted(characters, key=lambda c: (-c.score, c.name, c.box)):
        if all(character.mask.overlap(other.mask) < _SAME_FIGURE for other in kept):
            kept.append(character)
    return kept


def attach_parts(characters: list[Character], parts: list[Character]) -> list[Character]:
    """Give each character the best-scored head whose pixels its mask covers most; others are dropped."""
    heads: dict[int, Character] = {}
    for part in sorted(parts, key=lambda p: (-p.score, p.box)):
        shares = [_share_covered(part.mask, character.mask) for character in characters]
        if shares and max(shares) >= _PART_COVERED:
            heads.setdefault(int(np.argmax(shares)), part)
    return [replace(c, head=heads[i].box) if i in heads else c for i, c in enumerate(characters)]


def _share_covered(part: Mask, whole: Mask) -> float:
    union_ratio = part.overlap(whole)
    shared = union_ratio * (part.area + whole.area) / (1 + union_ratio)
    return shared / max(1, part.area)


@dataclass(frozen=True)
class Letterbox:
    """How a picture is scaled and padded for the network: ultralytics' own rule, rectangular."""

    scale: float
    inner_width: int
    inner_height: int
    left: int
    top: int
    width: int
    height: int

    @classmethod
    def fit(cls, height: int, width: int, imgsz: int) -> Letterbox:
        scale = imgsz / max(height, width)
        inner_w, inner_h = max(1, round(width * scale)), max(1, round(height * scale))
        pad_w, pad_h = -inner_w % _STRIDE, -inner_h % _STRIDE
        return cls(scale, inner_w, inner_h, pad_w // 2, pad_h // 2, inner_w + pad_w, inner_h + pad_h)

    def apply(self, picture: Picture) -> Picture:
        resized = cv2.resize(picture, (self.inner_width, self.inner_height), interpolation=cv2.INTER_LINEAR)
        boxed = np.full((self.height, self.width, 3), 114, np.uint8)
        boxed[self.top : self.top + self.inner_height, self.left : self.left + self.inner_width] = resized
        return boxed

    def to_picture(
        self, x0: float, y0: float, x1: float, y1: float, height: int, width: int
    ) -> tuple[float, float, float, float]:
        return (
            float(np.clip((x0 - self.left) / self.scale, 0, width)),
            float(np.clip((y0 - self.top) / self.scale, 0, height)),
            float(np.clip((x1 - self.left) / self.scale, 0, width)),
            float(np.clip((y1 - self.top) / self.scale, 0, height)),
        )


def mask_in_box(
    logits: NDArray[np.float32],
    corners: tuple[float, float, float, float],
    letterbox: Letterbox,
    height: int,
    width: int,
) -> Mask | None:
    """Resample low-resolution mask logits inside one box of the picture and binarise them there.

    An affine warp samples the logits bilinearly at the centre of each pixel of the box, so the
    cost is that of the box, not of the picture.
    """
    left, top = int(np.floor(corners[0])), int(np.floor(corners[1]))
    right, bottom = min(width, int(np.ceil(corners[2]))), min(height, int(np.ceil(corners[3])))
    if right <= left or bottom <= top:
        return None
    step_x = letterbox.scale * logits.shape[1] / letterbox.width
    step_y = letterbox.scale * logits.shape[0] / letterbox.height
    offset_x = (left + 0.5) * step_x + letterbox.left * logits.shape[1] / letterbox.width - 0.5
    offset_y = (top + 0.5) * step_y + letterbox.top * logits.shape[0] / letterbox.height - 0.5
    warp = np.array([[step_x, 0, offset_x], [0, step_y, offset_y]], np.float64)
    sampled = cv2.warpAffine(
        logits,
        warp,
        (right - left, bottom - top),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return Mask(sampled > 0, left, top, width, height)
