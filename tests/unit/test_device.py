"""Devices that cannot be used, and processes that have lost theirs: said in one line, and no frame's fault."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from insideout.decode import SpanFrames, decode
from insideout.device import lost_device, one_line, unusable, why_unusable
from insideout.errors import IncompleteError, UsageError
from insideout.film import Sampling, open_film
from insideout.isolate import isolate
from insideout.label import segment_span
from insideout.packs import load_pack
from insideout.plan import LabelSettings
from insideout.segment import Character
from insideout.spans import Reel, Span, plan_reels
from pipelines.cluster import Resources
from pipelines.gpus import actors_on, refusal, usable
from pipelines.label import Job, Label, decode_reel

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU that PyTorch can use")
#: What CUDA says of a kernel that wrote where it must not.
ILLEGAL = "CUDA error: an illegal memory access was encountered\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1"


@pytest.fixture(scope="module")
def reel(excerpt: Path) -> Reel:
    """Two spans of three sampled frames each."""
    film = open_film(str(excerpt))
    whole = plan_reels(film, Sampling.parse("every:4").ordinals(film))[0]
    spans = (Span(0, 0, 12), Span(1, 12, 24))
    return replace(whole, spans=spans, samples=whole.samples[:6], pts=whole.pts[:24], groups=(whole.groups[0],))


class Failing:
    """A segmenter that finds nobody and raises at some pictures, each told by its number."""

    device = torch.device("cpu")

    def __init__(self, pictures: np.ndarray, errors: dict[int, Exception]) -> None:
        self.known = [picture.tobytes() for picture in pictures]
        self.errors = errors

    def segment(self, pictures: np.ndarray) -> list[list[Character]]:
        for picture in pictures:
            if error := self.errors.get(self.known.index(picture.tobytes())):
                raise error
        return [[] for _ in pictures]


def _first(reel: Reel) -> SpanFrames:
    return next(iter(decode(reel)))


def test_a_picture_that_the_network_fails_on_is_the_only_one_lost(reel: Reel) -> None:
    frames = _first(reel)
    failing = Failing(frames.pictures, {1: ValueError("a bad shape")})
    _, outcomes = segment_span(frames, failing)  # type: ignore[arg-type]
    assert outcomes == [
        ("dropped", "no_character"), ("failed", "segment: ValueError: a bad shape"), ("dropped", "no_character")
    ]  # fmt: skip


@pytest.mark.parametrize("error", [torch.AcceleratorError(ILLEGAL), torch.OutOfMemoryError("CUDA out of memory.")])
@pytest.mark.parametrize("place", [0, 2])
def test_a_gpu_that_is_lost_fails_no_frame(error: Exception, place: int, reel: Reel) -> None:
    frames = _first(reel)
    with pytest.raises(type(error)):
        segment_span(frames, Failing(frames.pictures, {place: error}))  # type: ignore[arg-type]


def test_a_gpu_that_is_lost_only_when_pictures_are_tried_alone_fails_no_frame(reel: Reel) -> None:
    frames = _first(reel)
    # In company the first picture is what fails.
    errors = {0: ValueError("a bad shape"), 1: torch.AcceleratorError(ILLEGAL)}
    with pytest.raises(torch.AcceleratorError):
        segment_span(frames, Failing(frames.pictures, errors))  # type: ignore[arg-type]


def test_an_error_of_another_kind_loses_no_device() -> None:
    assert lost_device(RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "cpu") is None


@no_gpu
def test_after_any_error_a_gpu_is_asked_whether_it_still_works() -> None:
    found = lost_device(RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "cuda")
    assert found is not None
    assert "NVIDIA" in str(found) or "CUDA" in str(found)


def test_what_cuda_says_is_one_line() -> None:
    said = one_line(torch.AcceleratorError(ILLEGAL))
    assert said == "AcceleratorError: CUDA error: an illegal memory access was encountered"
    assert one_line(MemoryError()) == "MemoryError"


@pytest.mark.parametrize(
    ("device", "why"),
    [
        ("cpu", ""),
        ("0", "'0' is no name of a device, such as cpu or cuda:0"),
        ("gpu", "'gpu' is no name of a device, such as cpu or cuda:0"),
        ("cuda:77", "cuda:77 cannot be used: "),
        ("meta", "meta cannot be used: "),
    ],
)
def test_a_device_that_cannot_be_used_is_named(device: str, why: str) -> None:
    said = why_unusable(device)
    assert said.startswith(why)
    assert bool(said) == bool(why)
    assert "\n" not in said
    assert len(said) < 400


def test_what_pytorch_was_built_for_is_said_except_where_memory_is_full() -> None:
    assert f"(PyTorch {torch.__version__}, built " in unusable("cuda", RuntimeError("no kernel image is available"))
    assert unusable("cpu", torch.OutOfMemoryError("CUDA out of memory.")) == (
        "cpu cannot be used: OutOfMemoryError: CUDA out of memory."
    )


@pytest.mark.parametrize(
    ("gpus", "per_actor", "found"),
    [(8, 0.5, 16), (8, 0.4, 16), (8, 0.3, 24), (8, 1 / 3, 24), (2, 0.1, 20), (3, 1, 3), (3, 0.7, 3), (0.5, 0.5, 1)],
)
def test_actors_are_as_many_as_fit_on_the_gpus_that_were_asked_for(gpus: float, per_actor: float, found: int) -> None:
    assert actors_on(gpus, per_actor) == found


@no_gpu
def test_a_gpu_that_ray_counts_and_pytorch_cannot_use_is_refused() -> None:
    assert refusal(1).startswith("cuda:0 cannot be used: ")
    assert refusal(0) == ""


def test_only_gpus_of_a_ray_of_our_own_are_tried_before() -> None:
    for there in (Resources(8, 4.0), Resources(8, 0.0, local=True)):
        assert usable(there, asked=True) is there


def test_cpus_that_are_asked_for_bound_the_decoders_and_others_do_not() -> None:
    there = Resources(0, 0.0)
    assert there.asked(None, 8) == Resources(1, 8, most_cpus=None)
    assert there.asked(6, 8) == Resources(6, 8, most_cpus=6)


#: Two spans with a GPU that is lost after the first.
SPANS = """
import pickle, sys
import torch
from pipelines.label import Label, decode_reel

job, reel = pickle.loads(sys.stdin.buffer.read())
label = Label(job)

class Lost:
    device, calls = torch.device("cpu"), 0

    def segment(self, pictures):
        self.calls += 1
        if self.calls > 1:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\\nand so on")
        return [[] for _ in pictures]

label.segmenter = Lost()
for row in decode_reel({"reel": [pickle.dumps(reel)]}, job):
    label(row)
    print("committed", flush=True)
"""


def _job(pack: Path, out: Path, device: str = "cpu") -> Job:
    return Job(str(pack), str(out), LabelSettings(sampling="every:4"), "f" * 16, device)


def test_a_process_that_has_lost_its_gpu_commits_nothing_more_and_ends(reel: Reel, pack: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SPANS],
        input=pickle.dumps((_job(pack, tmp_path), reel)),
        capture_output=True,
        timeout=200,
    )
    assert done.returncode == 1, done.stderr.decode()[-2000:]
    assert done.stdout.decode().split() == ["committed"]
    said = f"span 1 of film {reel.film}: AcceleratorError: CUDA error: an illegal memory access was encountered"
    assert done.stderr.decode().splitlines() == [said]
    assert len(list(tmp_path.rglob("*.parquet"))) == 1


@no_gpu
def test_an_actor_whose_gpu_cannot_be_used_says_so_with_its_first_span(reel: Reel, pack: Path, tmp_path: Path) -> None:
    job = _job(pack, tmp_path, "cuda")
    row: dict[str, Any] = next(decode_reel({"reel": [pickle.dumps(reel)]}, job))
    answer = Label(job)(row)
    error = answer["error"][0]
    assert isinstance(error, UsageError)
    assert answer["frames"][0] == 0
    for part in ("on machine ", "cuda cannot be used: ", f"PyTorch {torch.__version__}", "--gpus 0"):
        assert part in str(error)
    assert pickle.loads(pickle.dumps(error)).args == error.args
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_pack_that_is_gone_is_told_with_the_first_span(reel: Reel, tmp_path: Path) -> None:
    job = _job(tmp_path / "gone", tmp_path)
    row = next(decode_reel({"reel": [pickle.dumps(reel)]}, job))
    assert "gone" in str(Label(job)(row)["error"][0])


@no_gpu
def test_a_process_that_cannot_begin_on_its_gpu_blames_no_frame(reel: Reel, pack: Path) -> None:
    alone = replace(reel, spans=reel.spans[:1], samples=reel.samples[:3], pts=reel.pts[:12])
    with pytest.raises(
        IncompleteError, match=r"span 0 could not be labelled .*\(before it began: \w+: .*(NVIDIA|CUDA)"
    ):
        isolate(alone, load_pack(pack), "cuda")
