"""Our schedules keep no state; torch's do. Over whole epochs both must say the same."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch.optim import lr_scheduler

from insideout.recipes.emotion_recipe import EmotionRecipe

EPOCHS = 12


def _torch_rates(scheduler: type, **settings: object) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = scheduler(optimizer, **settings)
    rates = []
    for _ in range(EPOCHS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def _ours(**settings: object) -> list[float]:
    recipe = EmotionRecipe(lr=1.0, epochs=EPOCHS, **settings)
    return [recipe.learning_rate(epoch) for epoch in range(EPOCHS)]


def test_step_and_multistep_are_torchs() -> None:
    ours = _ours(schedule="step", step_epochs=5, step_gamma=0.3)
    assert ours == pytest.approx(_torch_rates(lr_scheduler.StepLR, step_size=5, gamma=0.3))
    ours = _ours(schedule="multistep", milestones=[0.25, 0.75], step_gamma=0.2)
    assert ours == pytest.approx(_torch_rates(lr_scheduler.MultiStepLR, milestones=[3, 9], gamma=0.2))


def test_cosine_with_restarts_is_torchs() -> None:
    ours = _ours(schedule="restarts", restart_epochs=4)
    theirs = _torch_rates(lr_scheduler.CosineAnnealingWarmRestarts, T_0=4, eta_min=0.01)
    assert ours == pytest.approx(theirs)
    assert ours[0] == ours[4] == 1.0


def test_one_cycle_is_torchs() -> None:
    # torch counts steps from 0 to the last; ours is a point of the whole training.
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=1001, pct_start=0.3001, cycle_momentum=False)
    recipe = EmotionRecipe(lr=1.0, epochs=EPOCHS, schedule="onecycle", peak_at=0.3)
    for step in range(1001):
        ours = recipe.learning_rate(EPOCHS * step / 1000)
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], abs=0.005)
        if step < 1000:
            optimizer.step()
            schedule.step()


def test_plateau_falls_as_torchs_does() -> None:
    losses = [1.0, 0.9, 0.95, 0.91, 0.93, 0.92, 0.8, 0.81, 0.82, 0.83, 0.84, 0.85]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    # torch waits for one epoch more than its patience says.
    schedule = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
    recipe = EmotionRecipe(lr=1.0, epochs=EPOCHS, schedule="plateau", patience=2, step_gamma=0.5)
    for epoch in range(EPOCHS):
        assert recipe.learning_rate(epoch, losses[:epoch]) == pytest.approx(optimizer.param_groups[0]["lr"]), epoch
        schedule.step(losses[epoch])
    assert recipe.learning_rate(11, losses[:11]) == 0.0625


def test_warm_up_comes_before_and_a_second_one_is_refused() -> None:
    recipe = EmotionRecipe(lr=1.0, epochs=10, schedule="restarts", restart_epochs=4, warmup_epochs=2)
    assert recipe.learning_rate(1) == 0.5
    assert recipe.learning_rate(2) == recipe.learning_rate(6) == 1.0
    with pytest.raises(ValidationError, match="warm-up of its own"):
        EmotionRecipe(schedule="onecycle", warmup_epochs=1)
    with pytest.raises(ValidationError, match="only sgd with momentum"):
        EmotionRecipe(optimizer="adamw", nesterov=True)
