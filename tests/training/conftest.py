"""A toy model and its run for the loop; a tiny preprocessed data set and corpus for the two trainings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from detpretrain import seeds
from detpretrain.datasets.prepare import prepare
from detpretrain.files import read_json
from detpretrain.preprocessing.plan import plan_task
from detpretrain.preprocessing.run import preprocess_task
from detpretrain.training.loop import Run
from detpretrain.training.recipe import Recipe

ROOT = Path(__file__).resolve().parents[2]
BATCH = 4
RECIPE = {
    "optimizer": {"class": "torch.optim.SGD", "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3},
    "schedule": {"class": "detpretrain.training.schedules.WarmupPoly", "lr": 0.05, "warmup_steps": 3},
    "epochs": 3,
    "steps_per_epoch": 4,
    "validation_steps": 1,
    "batch_size": BATCH,
    "precision": "fp32",
}


class Toy(nn.Module):
    """Two losses of a two-layer network; dropout, so that a run that does not reseed its steps is found out."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 5), nn.Dropout(0.3), nn.Linear(5, 1))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        error = self.layers(x)[:, 0] - y
        return {"square": (error**2).mean(), "absolute": error.abs().mean()}


def toy_batch(number: int, size: int = BATCH) -> tuple[torch.Tensor, torch.Tensor]:
    """Batch ``number`` of ``size`` samples; sample i is the same in every batch size."""
    rows = [seeds.generator("toy", i).normal(size=4) for i in range(number * size, (number + 1) * size)]
    values = torch.from_numpy(np.array(rows, dtype=np.float32))
    return values[:, :3], values[:, 3]


def toy_batches(first: int, size: int = BATCH):
    torch.rand(3)  # a loader that starts draws from the global generator
    number = first
    while True:
        yield toy_batch(number, size)
        number += 1


def toy_validation(model: nn.Module) -> dict[str, float]:
    losses = model(*toy_batch(1000))
    return {name: float(value) for name, value in losses.items()}


@pytest.fixture
def toy_run(tmp_path):
    """``toy_run(folder, model=..., batches=..., **recipe keys)`` -> Run; the same weights every time."""

    def make(
        folder: str = "work", *, model=None, batches=toy_batches, validate=toy_validation, signature="s", **recipe
    ):
        if model is None:
            torch.manual_seed(0)
            model = Toy()
        return Run(
            model=model,
            batches=batches,
            validate=validate,
            recipe=Recipe.from_entry("toy", RECIPE | recipe),
            seed=(0, "toy"),
            device=torch.device("cpu"),
            work=tmp_path / folder,
            signature=signature,
        )

    return make


def _preprocessed(folder: Path, dataset: str, plan: str, **changes) -> Path:
    entry = yaml.safe_load((ROOT / "config" / "datasets.yaml").read_text())[dataset] | changes
    prepare(dataset, entry, folder / "task")
    spec = yaml.safe_load((ROOT / "config" / "plans" / f"{plan}.yaml").read_text())
    plan_task(folder / "task", dataset, plan, spec, folder / "plan.json")
    preprocess_task(folder / "task", read_json(folder / "plan.json"), folder / "preprocessed")
    return folder


@pytest.fixture(scope="session")
def nodules(tmp_path_factory) -> Path:
    """``task/`` and ``preprocessed/`` of six tiny chest phantoms in two folds."""
    changes = {"cases": 6, "splits": {"folds": 2, "seed": 12345}}
    return _preprocessed(tmp_path_factory.mktemp("nodules"), "smoke_nodules", "smoke", **changes)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """``task/`` and ``preprocessed/`` of four unlabelled tiny chest phantoms."""
    return _preprocessed(tmp_path_factory.mktemp("corpus"), "smoke_corpus", "smoke_corpus", cases=4)


@pytest.fixture(scope="session")
def organs(tmp_path_factory) -> Path:
    """Four tiny chest phantoms with all organs labelled."""
    return _preprocessed(tmp_path_factory.mktemp("organs"), "smoke_organs", "smoke_corpus", cases=4)


@pytest.fixture(scope="session")
def thorax(tmp_path_factory) -> Path:
    """Three others whose labels mean something else."""
    return _preprocessed(tmp_path_factory.mktemp("thorax"), "smoke_thorax", "smoke_corpus", cases=3)
