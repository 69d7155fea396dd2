"""Train the segmenter inside a Ray task that holds the GPUs it was asked for.

python -m pipelines.train_segmenter EXPORT configs/segmenter-student.yaml DIR
"""

from __future__ import annotations

from pathlib import Path

import ray

from insideout.recipes.segmenter import SegmenterRecipe, train_segmenter


def run(
    data: Path,
    recipe: SegmenterRecipe,
    out: Path,
    *,
    gpus: int = 0,
    cpus: int | None = None,
    pretrained: str | None = None,
    resume: bool = False,
) -> Path:
    """Train on a started Ray cluster and return the path of the best checkpoint.

    `gpus` on one node are used through ultralytics' own DDP; 0 trains on `cpus` (default: all of the
    node that Ray picks, at most what the cluster has).
    """
    threads = cpus or int(ray.cluster_resources().get("CPU", 1))

    @ray.remote(num_cpus=threads if not gpus else 1, num_gpus=gpus, max_retries=0)
    def task() -> str:
        device = ",".join(str(i) for i in range(gpus)) if gpus else "cpu"
        return str(
            train_segmenter(
                data,
                recipe,
                out,
                device=device,
                threads=threads,
                pretrained=pretrained,
                resume=resume,
                on_epoch=lambda epoch, m: print(
                    f"epoch {epoch}/{recipe.epochs}  mask mAP50 {m.get('metrics/mAP50(M)', 0):.3f}"
                    f"  mAP50-95 {m.get('metrics/mAP50-95(M)', 0):.3f}",
                    flush=True,
                ),
            )
        )

    return Path(ray.get(task.remote()))


if __name__ == "__main__":
    import typer

    def main(data: Path, recipe: Path, out: Path, gpus: int = 0, resume: bool = False) -> None:
        ray.init()
        print(run(data.resolve(), SegmenterRecipe.read(recipe), out.resolve(), gpus=gpus, resume=resume))

    typer.run(main)
