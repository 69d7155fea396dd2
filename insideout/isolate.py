"""Label one span in a process of its own that says what it is about to do, so that what kills it has a name.

A span whose process died twice comes here. The child announces every frame and every crop before it
touches it; when it dies, hangs or runs out of memory, the last thing announced is at fault, becomes
a failed frame with its reason, and the child begins anew without it. Frames get the numbers that they
would have got in company, since a batch always has the same shape.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import selectors
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from insideout.decode import SpanFrames, decode, read_frames
from insideout.device import lost_device, one_line
from insideout.errors import IncompleteError, InsideoutError
from insideout.label import Outcome, SpanLabels, classify_span, crop_span, segment_span, warm_up
from insideout.messages import shown, without_credentials
from insideout.packs import Pack
from insideout.spans import Reel
from insideout.store import Store

#: Seconds that a single frame or crop may take, and a model to load.
UNIT_S, LOAD_S = 60.0, 300.0
#: Bytes that the process may allocate.
MEMORY = 6 << 30
#: Units that may fail in one span before the rest of it is given up.
ATTEMPTS = 16
_GIVEN_UP = f"given up after {ATTEMPTS} frames of this span"


@dataclass(frozen=True)
class Trouble:
    """A unit of work that its process did not survive: a frame, or crop `crop` of it, at a stage."""

    stage: str
    ordinal: int
    crop: int | None
    reason: str

    @property
    def outcome(self) -> Outcome:
        """What the ledger says of the frame."""
        which = "" if self.crop is None else f" crop {self.crop}:"
        return ("failed", f"{self.stage}:{which} {self.reason}")


@dataclass(frozen=True)
class Work:
    """What the child is told; plain values and plain data."""

    reel: Reel
    pack: Pack
    device: str
    crop_size: int | None
    troubles: tuple[Trouble, ...] = ()
    given_up: bool = False


def isolate(
    reel: Reel,
    pack: Pack,
    device: str = "cpu",
    crop_size: int | None = None,
    *,
    unit_s: float = UNIT_S,
    memory: int = MEMORY,
) -> tuple[SpanLabels, list[Trouble]]:
    """Label a reel of one span whatever is in it, and tell what was in it.

    Raises IncompleteError where the child cannot even begin, FilmError where the film cannot be opened
    any more: then no frame is at fault.
    """
    if len(reel.spans) != 1:
        raise ValueError(f"a reel of one span is needed, this one has {len(reel.spans)}")
    troubles: list[Trouble] = []
    while True:
        work = Work(reel, pack, device, crop_size, tuple(troubles), len(troubles) >= ATTEMPTS)
        trouble = _attempt(work, unit_s, memory)
        if isinstance(trouble, SpanLabels):
            return trouble, troubles
        if trouble.stage == "load" or work.given_up or (trouble.stage, trouble.ordinal, trouble.crop) in {
            (known.stage, known.ordinal, known.crop) for known in troubles
        }:  # fmt: skip
            where = "before it began" if trouble.stage == "load" else f"at {trouble.stage} of frame {trouble.ordinal}"
            raise IncompleteError(
                f"{reel.path}: span {reel.spans[0].index} could not be labelled even frame by frame ({where}:"
                f" {trouble.reason}); run the same command again, and report this if it stays"
            )
        troubles.append(trouble)


def _attempt(work: Work, unit_s: float, memory: int) -> SpanLabels | Trouble:
    """Run the child once: its labels, or what it was doing when it ended."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "labels"
        errors = Path(folder) / "errors"
        with errors.open("w") as log, subprocess.Popen(
            [sys.executable, "-m", __name__, str(result), str(memory)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
        ) as child:  # fmt: skip
            assert child.stdin is not None
            assert child.stdout is not None
            try:
                child.stdin.write(pickle.dumps(work))
                child.stdin.close()
            except BrokenPipeError:
                pass  # it ended at once: its status says how
            last, late = _follow(child.stdout, unit_s)
            if late:
                child.kill()
            status = child.wait()
        if status == 0 and result.is_file():
            found: SpanLabels | InsideoutError = pickle.loads(result.read_bytes())
            if isinstance(found, InsideoutError):
                raise found
            return found
        how = _how(status, errors.read_text())
        if last is None or last["stage"] == "load":
            return Trouble("load", -1, None, f"took longer than {LOAD_S:g} s" if late else how)
        return Trouble(last["stage"], last["ordinal"], last["crop"], f"took longer than {unit_s:g} s" if late else how)


def _follow(lines: IO[bytes], unit_s: float) -> tuple[dict[str, Any] | None, bool]:
    """Read what the child announces until it ends: the last of it, and whether it stayed there too long."""
    last: dict[str, Any] | None = None
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(lines, selectors.EVENT_READ)
        while True:
            limit = LOAD_S if last is None or last["stage"] == "load" else unit_s
            if not selector.select(limit):
                return last, True
            found = lines.read1(1 << 16)  # type: ignore[attr-defined]
            if not found:
                return last, False
            *whole, rest = (rest + found).split(b"\n")
            if whole:
                last = json.loads(whole[-1])


def _how(status: int, errors: str) -> str:
    """Why a process ended, in words."""
    if status < 0:
        return f"the process was ended by {signal.Signals(-status).name}"
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    return shown(lines[-1])[:160] if lines else f"the process ended with status {status}"


def label_alone(work: Work, tell: Callable[[str, int, int | None], None]) -> SpanLabels:
    """What the child does: one frame after the other, each announced by `tell(stage, ordinal, crop)` before."""
    from insideout.emotion import EmotionClassifier
    from insideout.segment import CharacterSegmenter

    tell("load", -1, None)
    segmenter = CharacterSegmenter(work.pack.segmenter, work.device, threads=1)
    classifier = EmotionClassifier(work.pack.emotion, work.device, threads=1)
    if work.device != "cpu":  # so that what the device cannot do is no frame's fault
        warm_up(segmenter, classifier)
    broken = {t.ordinal: t.outcome[1] or "" for t in work.troubles if t.stage == "decode"}
    if work.given_up:
        broken = dict.fromkeys(work.reel.groups, f"decode: {_GIVEN_UP}")
    (frames,) = decode(work.reel, broken=broken, tell=lambda ordinal: tell("decode", ordinal, None))
    known = {t.ordinal: t.outcome for t in work.troubles if t.stage != "decode"}
    parts = [_frame(frames, i, work, known, segmenter, classifier, tell) for i in range(len(frames.ordinals))]
    rows = tuple(row | {"frame": i} for i, part in enumerate(parts) for row in part.rows)
    outcomes = tuple(part.outcomes[0] for part in parts)
    empty = np.zeros((0, work.pack.emotion.size, work.pack.emotion.size, 3), np.uint8)
    return SpanLabels(
        frames.span, frames.ordinals, frames.pts, outcomes, frames.changes, frames.edges, rows, empty
    )  # fmt: skip


def _frame(
    frames: SpanFrames,
    i: int,
    work: Work,
    known: Mapping[int, Outcome],
    segmenter: Any,
    classifier: Any,
    tell: Callable[[str, int, int | None], None],
) -> SpanLabels:
    """The labels of one frame of a span."""
    ordinal = int(frames.ordinals[i])
    one = replace(
        frames,
        ordinals=frames.ordinals[i : i + 1],
        pts=frames.pts[i : i + 1],
        pictures=frames.pictures[i : i + 1],
        reasons=frames.reasons[i : i + 1],
    )
    if frames.reasons[i] is None and ordinal in known:
        return crop_span(one, [[]], [known[ordinal]], work.pack.emotion)
    tell("segment", ordinal, None)
    characters, outcomes = segment_span(one, segmenter)
    labels = crop_span(one, characters, outcomes, work.pack.emotion, work.crop_size)
    rows: list[dict[str, Any]] = []
    for c in range(len(labels.rows)):
        tell("classify", ordinal, c)
        found = classify_span(replace(labels, rows=labels.rows[c : c + 1], crops=labels.crops[c : c + 1]), classifier)
        if found.outcomes != labels.outcomes:
            return found
        rows += found.rows
    return replace(labels, rows=tuple(rows), crops=labels.crops[:0])


def quarantine(store: Store, trouble: Trouble, reel: Reel, pack: Pack) -> None:
    """Write what is needed to see a trouble again: a JSON file and, where it could be decoded, the picture.

    `quarantine/film=ID/ORDINAL-STAGE.json` and `.png`.
    """
    key = f"quarantine/film={reel.film}/{trouble.ordinal:06d}-{trouble.stage}"
    facts = {
        "film": reel.film,
        "path": without_credentials(reel.path),
        "pts": int(reel.pts[trouble.ordinal - reel.start]),
        "span": asdict(reel.spans[0]),
        "pack": {"name": pack.name, "digest": pack.digest},
    }
    store.write_json(f"{key}.json", asdict(trouble) | facts)
    if trouble.stage != "decode":
        import cv2

        for _, picture in read_frames(reel.path, [trouble.ordinal]):
            store.write(f"{key}.png", cv2.imencode(".png", picture[:, :, ::-1])[1].tobytes())


def _child() -> None:
    result, memory = Path(sys.argv[1]), int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    work: Work = pickle.loads(sys.stdin.buffer.read())
    if work.device == "cpu":  # CUDA maps more than it uses
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    out = sys.stdout.buffer

    def tell(stage: str, ordinal: int, crop: int | None) -> None:
        out.write(json.dumps({"stage": stage, "ordinal": ordinal, "crop": crop}).encode() + b"\n")
        out.flush()

    try:
        found: SpanLabels | InsideoutError = label_alone(work, tell)
    except InsideoutError as error:  # a film that is gone, a pack that cannot be read: no frame is at fault
        found = error
    except Exception as error:
        if lost := lost_device(error, work.device):
            # Not by sys.exit: what is left of CUDA may hang or crash as it is taken down.
            print(one_line(lost), file=sys.stderr, flush=True)
            os._exit(1)
        raise
    result.write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    _child()
