"""Pre-training one method on one unlabelled corpus."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from detpretrain import provenance, seeds
from detpretrain.build import build
from detpretrain.files import digest, read_json
from detpretrain.loading import augmentation, batches
from detpretrain.loading.patches import Patches
from detpretrain.models.factory import build_backbone
from detpretrain.tasks import read_splits
from detpretrain.training import adaptation
from detpretrain.training.lock import CellLock
from detpretrain.training.logging import write_log
from detpretrain.training.loop import Run, fit
from detpretrain.training.recipe import Recipe
from detpretrain.training.runtime import Runtime

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
        data = _CorpusData(job, recipe, preprocessed, index, read_splits(splits)[0], device, runtime.workers)
        run = Run(
            model=method,
            batches=data.training_batches,
            validate=data.validate,
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


class _CorpusData:
    """Single-channel patches of a corpus: every channel of every case is an image of its own."""

    def __init__(
        self,
        job: Pretraining,
        recipe: Recipe,
        preprocessed: Path,
        index: Mapping[str, Any],
        split: Mapping[str, list[str]],
        device: torch.device,
        workers: int,
    ) -> None:
        self.recipe, self.device, self.workers = recipe, device, workers
        self.patch = tuple(index["plan"]["patch"])
        records = {case["case"]: case for case in index["cases"]}

        def patches(part: str, draws: augmentation.Augmentation) -> Patches:
            return Patches(
                preprocessed,
                [records[case] for case in split[part]],
                self.patch,
                recipe.batch_size,
                (job.seed, job.name, part),
                draws,
                object_fraction=0.0,
                single_channel=True,
            )

        self.training = patches("train", recipe.build_augmentation())
        self.validation = patches("val", augmentation.none())

    def training_batches(self, first: int) -> Iterator[tuple]:
        passes = self.recipe.total_steps * self.recipe.accumulate
        for samples in batches.iterate(self.training, first, passes, self.workers, self.recipe.accumulate):
            yield self._on_device(samples)

    def validate(self, method: nn.Module) -> dict[str, float]:
        """Mean losses over the same patches and views every epoch."""
        sums: dict[str, float] = {}
        passes = self.recipe.validation_steps * self.recipe.accumulate
        for samples in batches.iterate(self.validation, 0, passes, self.workers, self.recipe.accumulate):
            losses = method(*self._on_device(samples))
            losses["loss"] = torch.stack(list(losses.values())).sum()
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + float(value) / passes
        return sums

    def _on_device(self, samples: list) -> tuple[torch.Tensor, list[int]]:
        with torch.autocast(self.device.type, enabled=False):
            images = batches.images_on_device(samples, self.patch, self.device)
        return images, [sample.draws.seed for sample in samples]
