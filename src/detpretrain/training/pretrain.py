"""Pre-training one method on one unlabelled corpus."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from detpretrain import provenance, seeds
from detpretrain.build import build
from detpretrain.files import digest, read_json
from detpretrain.loading import batches
from detpretrain.loading.patches import PatchSample
from detpretrain.models.factory import build_backbone
from detpretrain.tasks import read_splits
from detpretrain.training import adaptation
from detpretrain.training.lock import CellLock
from detpretrain.training.logging import write_log
from detpretrain.training.loop import Run, add_losses, fit, means
from detpretrain.training.recipe import Recipe
from detpretrain.training.runtime import Runtime
from detpretrain.training.stream import PatchStream

# keys of a method entry that are not arguments of its class
RESERVED = ("plan", "recipe")


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """What defines a pre-training: entries resolved for the study's size, the name of the initialisation, its seed."""

    name: str
    method: Mapping[str, Any]
    backbone: Mapping[str, Any]
    recipe: Mapping[str, Any]
    recipe_name: str
    seed: int
    signature: str


def pretrain(
    job: Pretraining,
    preprocessed: Path,
    splits: Path,
    work: Path,
    checkpoint_path: Path,
    log_path: Path,
    runtime: Runtime,
) -> None:
    """Trains (or goes on) and writes ``checkpoint.pth`` in the adaptation-plan format and ``log.csv``."""
    started = time.monotonic()
    recipe = Recipe.from_entry(job.recipe_name, job.recipe)
    with CellLock(work):
        device = runtime.prepare(recipe.threads)
        index = read_json(preprocessed / "index.json")
        plan = index["plan"]
        torch.manual_seed(seeds.derive(job.seed, job.name, "initialisation"))
        backbone = build_backbone(job.backbone, plan)
        method = build({key: value for key, value in job.method.items() if key not in RESERVED}, backbone=backbone)
        stream = PatchStream(
            preprocessed,
            index,
            read_splits(splits)[0],
            recipe,
            (job.seed, job.name),
            runtime.workers,
            to_batch=lambda samples: method.views(*corpus_batch(samples, plan["patch"], device)),
            object_fraction=0.0,
            single_channel=True,  # every channel of every case is an image of its own
        )
        run = Run(
            model=method,
            batches=stream.training,
            validate=lambda model: validate(model, stream),
            recipe=recipe,
            seed=(job.seed, job.name),
            device=device,
            work=work,
            signature=f"{job.signature}-{digest([preprocessed / 'index.json', splits])}",
        )
        rows = fit(run, runtime.budget_minutes)
        record = provenance.record(
            job.signature,
            ["detpretrain.training.pretrain", *provenance.class_modules(job.method, job.backbone, job.recipe)],
            seed=job.seed,
            device=str(device),
            threads=recipe.threads,
            seconds=round(time.monotonic() - started, 1),
        )
        citations = [citation.as_data() for citation in method.citations]
        adaptation.write_pretrained(checkpoint_path, method.network, backbone, plan, citations, record)
        write_log(log_path, rows)
        (work / "last.pth").unlink(missing_ok=True)


def corpus_batch(
    samples: list[PatchSample], patch: Sequence[int], device: torch.device
) -> tuple[torch.Tensor, list[int]]:
    """Augmented images ``[B, 1, *patch]`` and the seeds of their views."""
    with torch.autocast(device.type, enabled=False):
        images = batches.images_on_device(samples, patch, device)
    return images, [sample.draws.seed for sample in samples]


def validate(method: nn.Module, stream: PatchStream) -> dict[str, float]:
    """Mean losses over the same patches and views every epoch."""
    sums: dict[str, torch.Tensor] = {}
    for batch in stream.validation():
        add_losses(sums, method(*batch))
    return means(sums, stream.validation_passes)
