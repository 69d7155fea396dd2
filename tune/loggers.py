"""Where trials are logged to besides their own folder, by Ray Tune's callbacks."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from ray import tune

from insideout.errors import UsageError
from tune.settings import Log

#: The package that each of them needs, by the name it is imported by.
_PACKAGES = {Log.tensorboard: "tensorboardX", Log.mlflow: "mlflow", Log.wandb: "wandb"}


def build_loggers(logs: Sequence[Log], name: str) -> list[tune.Callback]:
    """The callbacks of `logs`; MLflow and W&B file the trials under `name` and take their own environment variables.

    Raises UsageError where a package is not installed.
    """
    found: list[tune.Callback] = []
    for log in logs:
        if importlib.util.find_spec(_PACKAGES[log]) is None:
            raise UsageError(f"--log {log.value}: {_PACKAGES[log]} is not installed; pip install {_PACKAGES[log]}")
        if log is Log.tensorboard:
            from ray.tune.logger import TBXLoggerCallback

            found.append(TBXLoggerCallback())
        elif log is Log.mlflow:
            from ray.air.integrations.mlflow import MLflowLoggerCallback

            found.append(MLflowLoggerCallback(experiment_name=name))
        else:
            from ray.air.integrations.wandb import WandbLoggerCallback

            found.append(WandbLoggerCallback(project="insideout", group=name))
    return found
