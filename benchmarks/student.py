"""Label a film the student project's way, to have something to be measured against.

    python benchmarks/student.py films/bench.mp4 --pack packs/bbb

Frame by frame in one process: OpenCV reads, every 4th frame goes to ultralytics' `predict` at
416 px, the outer contour of each mask is filled, the pixels in it are cut out on black and padded
square, and ResNet50 judges one crop after the other at 224 px in fp32. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.update(YOLO_OFFLINE="1", YOLO_AUTOINSTALL="0", YOLO_VERBOSE="0")
os.environ.setdefault("YOLO_CONFIG_DIR", str(Path(tempfile.gettempdir()) / "insideout-ultralytics"))
Path(os.environ["YOLO_CONFIG_DIR"]).mkdir(parents=True, exist_ok=True)

import cv2
import numpy as np
import torch
from safetensors.torch import load_file
from torchvision.models import resnet50
from ultralytics import YOLO

EVERY, SEGMENTER_SIZE, EMOTION_SIZE = 4, 416, 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def load_models(pack: Path | None, threads: int) -> tuple[YOLO, torch.nn.Module, dict[int, str], list[str]]:
    """The segmenter with the weights of a pack, and a ResNet50 with the pack's where it has one.

    Returns them with the names of the characters by class index and those of the emotions. Where
    the pack has another emotion network, that of the ResNet50 is random, which takes the same time.
    Without a pack both are random: the segmenter then finds next to nothing, which tests that this
    script runs, not how fast the work is.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    classes, emotions, weights = ["Figure", "head"], ["Angry", "Happy"], None
    if pack is not None:
        from insideout.packs import load_pack

        weights = load_pack(pack)
        classes, emotions = list(weights.segmenter.classes), list(weights.emotion.classes)
    segmenter = YOLO("yolov8n-seg.yaml", task="segment")
    segmenter.model = _with_classes(segmenter, len(classes))
    classifier = resnet50(num_classes=len(emotions)).eval()
    if weights is not None:
        segmenter.model.load_state_dict(load_file(weights.segmenter.weights))
        if weights.emotion.architecture == "resnet50":
            classifier.load_state_dict(load_file(weights.emotion.weights))
    segmenter.model = segmenter.model.float().eval()
    segmenter.model.names = dict(enumerate(classes))
    parts = set(weights.segmenter.parts) if weights else {"head"}
    return segmenter, classifier.float(), {i: n for i, n in enumerate(classes) if n not in parts}, emotions


def _with_classes(segmenter: YOLO, number: int) -> Any:
    from ultralytics.nn.tasks import SegmentationModel

    model = SegmentationModel("yolov8n-seg.yaml", nc=number, verbose=False)
    model.args = {**segmenter.model.args, "task": "segment"}
    return model


def crop(picture: np.ndarray, outline: np.ndarray) -> np.ndarray | None:
    """The pixels inside an outline [n, 2] on black, tight and padded square; None for an empty one."""
    mask = np.zeros(picture.shape[:2], np.uint8)
    cv2.fillPoly(mask, [outline.astype(np.int32)], 255)
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return None
    x, y, w, h = cv2.boundingRect(max(contours, key=cv2.contourArea))
    cut = cv2.bitwise_and(picture, picture, mask=mask)[y : y + h, x : x + w]
    side = max(w, h)
    square = np.zeros((side, side, 3), np.uint8)
    top, left = (side - h) // 2, (side - w) // 2
    square[top : top + h, left : left + w] = cut
    return square


@torch.inference_mode()
def judge(classifier: torch.nn.Module, picture: np.ndarray) -> tuple[int, float]:
    """Class index and probability of the most probable emotion of one BGR crop."""
    resized = cv2.resize(picture, (EMOTION_SIZE, EMOTION_SIZE))[:, :, ::-1].astype(np.float32) / 255
    tensor = torch.from_numpy((resized - MEAN) / STD).float().permute(2, 0, 1)[None]
    probabilities = classifier(tensor).softmax(1)[0]
    return int(probabilities.argmax()), float(probabilities.max())


def label(film: Path, segmenter: YOLO, classifier: torch.nn.Module, names: dict[int, str], emotions: list[str],
          confidence: float, seconds: float | None) -> tuple[int, list[dict[str, Any]]]:  # fmt: skip
    """Label the first `seconds` of a film (None: all of it); the number of frames and a row a character."""
    reader = cv2.VideoCapture(str(film))
    limit = None if seconds is None else round(seconds * reader.get(cv2.CAP_PROP_FPS))
    rows: list[dict[str, Any]] = []
    frames = ordinal = 0
    while limit is None or ordinal < limit:
        done, picture = reader.read()
        if not done:
            break
        if ordinal % EVERY == 0:
            frames += 1
            found = segmenter.predict(
                picture, imgsz=SEGMENTER_SIZE, conf=confidence, classes=list(names), device="cpu", verbose=False
            )[0]
            for outline, box in zip(found.masks.xy if found.masks else [], found.boxes, strict=True):
                cut = crop(picture, outline) if len(outline) else None
                if cut is None:
                    continue
                emotion, certainty = judge(classifier, cut)
                rows.append(
                    {
                        "ordinal": ordinal,
                        "character": names[int(box.cls)],
                        "score": float(box.conf),
                        "box": box.xyxy[0].tolist(),
                        "emotion": emotions[emotion],
                        "certainty": certainty,
                    }
                )
        ordinal += 1
    reader.release()
    return frames, rows


def main() -> None:
    """Load, label, print one line of JSON: frames, characters, seconds, frames a second."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("film", type=Path)
    arguments.add_argument("--pack", type=Path, default=Path("packs/bbb"))
    arguments.add_argument("--random-weights", action="store_true", help="without a pack: only to try the script")
    arguments.add_argument("--confidence", type=float, default=0.25)
    arguments.add_argument("--seconds", type=float, help="only the beginning of the film")
    arguments.add_argument("--threads", type=int, default=os.cpu_count())
    chosen = arguments.parse_args()
    models = load_models(None if chosen.random_weights else chosen.pack, chosen.threads)
    start = time.perf_counter()
    frames, rows = label(chosen.film, *models, chosen.confidence, chosen.seconds)
    seconds = time.perf_counter() - start
    if not frames:
        raise SystemExit(f"{chosen.film}: OpenCV read no frame")
    print(
        json.dumps(
            {
                "frames": frames,
                "characters": len(rows),
                "seconds": round(seconds, 3),
                "frames_per_second": round(frames / seconds, 3),
            }
        )
    )


if __name__ == "__main__":
    main()
