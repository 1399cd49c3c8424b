"""A toy model and its run for the loop; a tiny preprocessed data set and corpus for the two trainings; a published network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from released_checkpoints import SMALL, architecture_of, backbone, nnssl_content, small_unet
from torch import nn
from torch.nn import functional

from detpretrain import seeds
from detpretrain.datasets.prepare import prepare
from detpretrain.files import read_json
from detpretrain.preprocessing.plan import plan_task
from detpretrain.preprocessing.run import preprocess_task
from detpretrain.training import adaptation
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


# levels of the network below: channels, channels of its pyramid, strides, kernels
FEATURES, WIDTHS = [4, 8, 16], [8, 16, 16]
STRIDES, KERNELS = [[1, 1, 1], [1, 2, 2], [2, 2, 2]], [[1, 3, 3], [3, 3, 3], [3, 3, 3]]


def convolution(before, after, kernel, stride=1):
    return nn.Conv3d(before, after, kernel, stride, padding=[side // 2 for side in kernel], bias=False)


class Block(nn.Sequential):
    def __init__(self, before, after, kernel, stride):
        super().__init__()
        self.add_module("conv", convolution(before, after, kernel, stride))
        self.add_module("norm", nn.InstanceNorm3d(after, affine=True))
        self.add_module("act", nn.LeakyReLU(0.01))


class Level(nn.Module):
    def __init__(self, *blocks):
        super().__init__()
        self.component = nn.Sequential(*blocks)


class Pyramid(nn.Module):
    """P0 is computed for segmentation; ``P1`` in ``up`` leads from P1 to P0."""

    def __init__(self):
        super().__init__()
        self.lateral = nn.ModuleDict({f"P{i}": nn.Sequential(nn.Sequential()) for i in range(3)})
        self.out = nn.ModuleDict({f"P{i}": nn.Sequential(nn.Sequential()) for i in range(3)})
        self.up = nn.ModuleDict({f"P{i}": nn.Sequential() for i in (1, 2)})
        for i in range(3):
            padding = [side // 2 for side in KERNELS[i]]
            self.lateral[f"P{i}"][0].add_module("conv", nn.Conv3d(FEATURES[i], WIDTHS[i], 1))
            self.out[f"P{i}"][0].add_module("conv", nn.Conv3d(WIDTHS[i], WIDTHS[i], KERNELS[i], padding=padding))
        for i in (1, 2):
            up = nn.ConvTranspose3d(WIDTHS[i], WIDTHS[i - 1], STRIDES[i], STRIDES[i], bias=False)
            self.up[f"P{i}"].add_module("conv", up)

    def forward(self, maps):
        third = self.lateral["P2"](maps[2])
        second = self.lateral["P1"](maps[1]) + self.up["P2"](third)
        first = self.lateral["P0"](maps[0]) + self.up["P1"](second)
        return [self.out["P0"](first), self.out["P1"](second), self.out["P2"](third)]


class Published(nn.Module):
    """The published Retina U-Net, built of torch.nn from nnDetection's structure.

    One stem per data set, the rest of the first level and the other levels, the pyramid, a segmentation head per data set.
    """

    def __init__(self):
        super().__init__()
        ids = ("351_0", "004")
        stems = {i: nn.Sequential(convolution(1, 4, KERNELS[0]), nn.InstanceNorm3d(4, affine=True)) for i in ids}
        self.stem = nn.ModuleDict(stems)
        self.backbone = nn.Module()
        levels = [Level(Block(4, 4, KERNELS[0], 1))]
        for i in (1, 2):
            first = Block(FEATURES[i - 1], FEATURES[i], KERNELS[i], STRIDES[i])
            levels.append(Level(first, Block(FEATURES[i], FEATURES[i], KERNELS[i], 1)))
        self.backbone.levels = nn.ModuleList(levels)
        self.decoder = Pyramid()
        self.seg_layer = nn.ModuleDict({i: nn.Conv3d(8, 3, 1) for i in ids})

    def features(self, images, stem):
        x, maps = functional.leaky_relu(self.stem[stem](images), 0.01), []
        for level in self.backbone.levels:
            x = level.component(x)
            maps.append(x)
        return maps


@pytest.fixture
def published():
    """The network; see its class."""
    made = Published()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return made


@pytest.fixture
def written(published):
    """A checkpoint of it, with the plan that nnDetection reads."""
    figures = {"features_per_stage": FEATURES, "kernel_sizes": KERNELS, "strides": STRIDES[1:], "fpn_channels": 16}
    return {
        "network_weights": dict(published.state_dict()),
        "nnssl_adaptation_plan": {
            "architecture_plans": {"arch_class_name": "ConvBackbone", "arch_kwargs": figures},
            "pretrain_plan": {"dataset_name": "MultiTalent", "configurations": {"3d": {"spacing": [1.0, 1.0, 1.0]}}},
            "pretrain_num_input_channels": 1,
            "recommended_downstream_patchsize": [128, 128, 128],
            "key_to_encoder": "backbone.levels",
            "key_to_stem": "stem.351_0",
            "keys_to_in_proj": ["stem.351_0.0"],
        },
        "citations": [{"type": "Pretraining Method", "name": "MultiTalent", "apa_citations": ["U. (2023)."]}],
    }


@pytest.fixture
def saved(tmp_path):
    """``saved(content)`` -> path."""

    def save(content):
        torch.save(content, tmp_path / "c.pth")
        return tmp_path / "c.pth"

    return save


@pytest.fixture(scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def unet():
    network = small_unet()
    assert len(network.state_dict()) == 956
    return network


@pytest.fixture
def released(unet):
    """Content of a released checkpoint of the small network: by name it would be ResEnc-L, so it gives its figures."""
    content = nnssl_content(unet)
    content["nnssl_adaptation_plan"]["architecture_plans"] = architecture_of(SMALL)
    content["network_weights"] = dict(content["network_weights"])
    return content


@pytest.fixture
def load(tmp_path):
    """``load(content, channels, ...)`` -> (encoder, report)."""

    def run(content, channels=1, made_by=None, **options):
        torch.save(content, tmp_path / "c.pth")
        encoder = (made_by or backbone()).encoder(channels).eval()
        return encoder, adaptation.load_encoder(encoder, tmp_path / "c.pth", channels, **options)

    return run
