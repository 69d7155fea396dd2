"""Batch norm over several workers: the same network as before, and the same step as one worker takes."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import nn

from insideout.backbones import BACKBONES, build, layout
from insideout.recipes.synced_norm import SyncedBatchNorm2d, sync_batch_norm


@pytest.mark.parametrize("name", BACKBONES)
def test_every_batch_norm_is_synchronised_and_says_what_it_said(name: str) -> None:
    torch.manual_seed(0)
    network = build(name, 5).eval()
    norms = [key for key, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == {"resnet50": 53, "mobilenet_v2": 52, "inception_v3": 94, "efficientnet_lite0": 49}.get(name, 0)
    for key in norms:
        norm = network.get_submodule(key)
        nn.init.uniform_(norm.running_var, 0.8, 1.2)
        nn.init.normal_(norm.running_mean, 0, 0.1)
    side = max(64, layout(name).least)
    pictures = torch.randn(2, 3, side, side)
    with torch.inference_mode():
        expected = network(pictures)
        for device, synced in (("cpu", SyncedBatchNorm2d), ("cuda:0", nn.SyncBatchNorm)):
            found = sync_batch_norm(copy.deepcopy(network), device)
            assert torch.allclose(found(pictures), expected, rtol=1e-4, atol=1e-5)
            assert [key for key in norms if not isinstance(found.get_submodule(key), synced)] == []
            assert list(found.state_dict()) == list(network.state_dict())


def small_network() -> nn.Module:
    """Batch norms of torch and of timm, with what they hold."""
    torch.manual_seed(0)
    act = BatchNormAct2d(8)
    nn.init.normal_(act.bias, 0, 0.5)
    convolutions = nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(8, 4, 3, bias=False)
    return nn.Sequential(
        convolutions[0], act, convolutions[1], nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2)
    )  # fmt: skip


def step(network: nn.Module, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
    """Statistics and gradients after one forward and one backward pass of a share of the batch."""
    network.train()(pictures).square().sum().backward()
    found = {f"gradient of {key}": p.grad for key, p in network.named_parameters() if p.grad is not None}
    return found | {key: value for key, value in network.state_dict().items() if "running" in key}


WORKER = """
import sys, torch, torch.distributed as dist
from insideout.recipes.synced_norm import sync_batch_norm
from tests.unit.test_synced_norm import PICTURES, small_network, step
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
found = step(sync_batch_norm(small_network(), "cpu"), PICTURES[:2] if rank == 0 else PICTURES[2:])
for key, value in found.items():
    if key.startswith("gradient"):
        dist.all_reduce(value)
torch.save(found, f"{folder}/{rank}.pt")
"""
PICTURES = torch.randn(6, 3, 10, 10, generator=torch.Generator().manual_seed(1))


def test_two_workers_with_unequal_shares_take_the_step_of_one(root: Path, tmp_path: Path) -> None:
    one = step(small_network(), PICTURES)
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(rank), str(tmp_path)], cwd=root, stderr=subprocess.PIPE)
        for rank in (0, 1)
    ]
    for rank, worker in enumerate(workers):
        _, said = worker.communicate(timeout=120)
        assert worker.returncode == 0, said.decode()
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert found.keys() == one.keys()
        for key, value in one.items():
            assert torch.allclose(found[key], value, rtol=1e-3, atol=1e-5), key
