"""Fine-tuning one cell: a detector on one fold of one data set, from one initialisation."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from detpretrain import leakage, provenance, seeds
from detpretrain.detectors.contract import Targets
from detpretrain.detectors.factory import build_detector
from detpretrain.evaluation import metrics
from detpretrain.evaluation.cases import Case
from detpretrain.files import digest, read_json
from detpretrain.folds import read_fold
from detpretrain.loading import batches
from detpretrain.loading.patches import PatchSample
from detpretrain.loading.staging import staged
from detpretrain.models import ranks
from detpretrain.models.factory import build_backbone
from detpretrain.training import adaptation, checkpoints, citations, distributed, neck_weights
from detpretrain.training.lock import CellLock
from detpretrain.training.logging import write_log
from detpretrain.training.loop import Run, add_losses, fit, means
from detpretrain.training.precision import used
from detpretrain.training.recipe import Recipe
from detpretrain.training.runtime import Runtime, peak_memory_mib
from detpretrain.training.stream import PatchSource, PatchStream


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What defines a fine-tuning.

    Attributes:
        name: ``dataset/detector/init/fold0-seed0``; part of every seed.
        detector, backbone, recipe: configuration entries, resolved for the study's size.
        recipe_name: for messages.
        fold, seed: of the cell.
        checkpoint: a pre-trained encoder, None = from scratch.
        stem: of a checkpoint with several; None = its default.
        neck: whether the checkpoint's feature pyramid is loaded too.
        identities: id space of the data set's patients (``leakage``).
        signature: recipe hash of the cell.

    A state of the cell is resumed only with the same signature and the same input files.
    """

    name: str
    detector: Mapping[str, Any]
    backbone: Mapping[str, Any]
    recipe: Mapping[str, Any]
    recipe_name: str
    fold: int
    seed: int
    checkpoint: Path | None
    signature: str
    stem: str | None = None
    neck: bool = False
    identities: str | None = None


def finetune(
    cell: Cell, preprocessed: Path, splits: Path, work: Path, model_path: Path, log_path: Path, runtime: Runtime
) -> None:
    """Trains the cell (or goes on with it) and writes ``model.pth`` and ``log.csv``."""
    started = time.monotonic()
    recipe = Recipe.from_entry(cell.recipe_name, cell.recipe)
    lock = distributed.held_by_first(CellLock(work))
    with distributed.joined(runtime.device) as place, lock, staged([preprocessed], runtime.stage) as [near]:
        distributed.check_batch(cell.recipe_name, recipe.batch_size, recipe.accumulate)
        device = replace(runtime, device=place).prepare(recipe.threads)
        index, split = read_json(preprocessed / "index.json"), read_fold(splits, cell.fold)
        plan = index["plan"]
        torch.manual_seed(seeds.derive(cell.seed, cell.name, "initialisation"))
        detector = build_detector(cell.detector, cell.backbone, plan)
        inputs, pretrained = [preprocessed / "index.json", splits], None
        seen = [leakage.Identities.of_cases(splits.parent, [*split["train"], *split["val"]], cell.identities).to_json()]
        if cell.checkpoint is not None:
            inputs.append(cell.checkpoint)
            pretrained, before = load_pretrained(detector, cell, plan)
            seen += before
        stream = PatchStream(
            [PatchSource(near, index, split)],
            recipe,
            (cell.seed, cell.name),
            runtime.workers,
            to_batch=lambda samples: detection_batch(samples, plan["patch"], device),
            object_fraction=recipe.object_fraction,
            in_plane=plan.get("dummy_2d", False),
        )
        run = Run(
            model=detector,
            batches=stream.training,
            validate=lambda model: validate(model, stream, plan["classes"]),
            recipe=recipe,
            seed=(cell.seed, cell.name),
            device=device,
            work=work,
            signature=f"{cell.signature}-{digest(inputs)}",
        )
        rows = fit(run, runtime.minutes_left(started))
        together = ranks.number()
        if not distributed.leave():
            return
        record = provenance.record(
            cell.signature,
            ["detpretrain.training.finetune", *provenance.class_modules(cell.detector, cell.backbone, cell.recipe)],
            seed=cell.seed,
            pretrain=pretrained,
            device=str(device),
            precision=used(recipe.precision, device),
            threads=recipe.threads,
            processes=together,
            seconds=round(time.monotonic() - started, 1),
            peak_memory_mib=peak_memory_mib(device),
        )
        write_model(model_path, detector, cell, plan, seen, record, split["train"])
        write_log(log_path, rows)
        (work / "last.pth").unlink(missing_ok=True)  # the result is there; a forced rerun starts anew


def load_pretrained(
    detector: nn.Module, cell: Cell, plan: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Mapping[str, Any]]]:
    """Fills the detector's encoder, and its neck where asked, from the cell's checkpoint and says whom to cite.

    Returns:
        Provenance and citations of the checkpoint, and whose patients it has seen (``leakage.Identities.to_json``).
    """
    backbone = build_backbone(cell.backbone, plan)
    report = adaptation.load_encoder(detector.encoder, cell.checkpoint, plan["channels"], cell.stem, backbone)
    print(f"{cell.checkpoint}: {report}")
    if cell.neck:
        print(f"{cell.checkpoint}: loaded {neck_weights.load_neck(detector, cell.checkpoint)} neck tensors")
    for line in citations.lines(report.citations):
        print(f"please cite: {line}")
    return {**report.provenance, "citations": list(report.citations)}, list(report.patients)


def write_model(
    path: Path,
    detector: nn.Module,
    cell: Cell,
    plan: Mapping[str, Any],
    patients: Sequence[Mapping[str, Any]],
    record: Mapping[str, Any],
    trained_on: Sequence[str],
) -> None:
    """``model.pth``: everything that ``inference.model.load`` needs to predict, as plain data, and who has been seen.

    ``trained_on``: the cases of the training part, which the model must never be scored on.
    """
    content = {
        "weights": checkpoints.cpu_weights(detector),
        "cell": cell.name,
        "detector": dict(cell.detector),
        "backbone": dict(cell.backbone),
        "precision": cell.recipe.get("precision", "bf16"),
        "channels_last": cell.recipe.get("channels_last", False),
        "plan": dict(plan),
        "patients": [dict(corpus) for corpus in patients],
        "trained_on": list(trained_on),
        "provenance": dict(record),
    }
    checkpoints.save(path, content)


def detection_batch(
    samples: list[PatchSample], patch: Sequence[int], device: torch.device
) -> tuple[torch.Tensor, Targets]:
    """Augmented images ``[B, C, *patch]`` and what they show."""
    with torch.autocast(device.type, enabled=False):
        images = batches.images_on_device(samples, patch, device)
        instances = batches.instances_on_device(samples, patch, device)
        boxes, labels = batches.objects(instances, samples)
    return images, Targets(boxes, labels, instances > 0)


def validate(detector: nn.Module, stream: PatchStream, classes: int) -> dict[str, float]:
    """Mean losses and patch-level AP@0.10 over the same validation patches every epoch; logged, never selected on."""
    sums: dict[str, torch.Tensor] = {}
    cases: list[Case] = []
    for step, (images, targets) in enumerate(stream.validation()):
        add_losses(sums, detector(images, targets))
        cases += patch_cases(step * ranks.number() + ranks.own(), detector.predict(images), targets)
    scores = metrics.evaluate([case for part in ranks.gather_objects(cases) for case in part], classes)
    return {**means(sums, stream.validation_passes), "ap": scores["AP@0.10"] or 0.0}


def patch_cases(batch: int, detections: list, targets: Targets) -> list[Case]:
    """The patches of one batch as evaluation cases."""
    return [
        Case(
            image_id=f"{batch}-{place}",
            gt_boxes=boxes.cpu().numpy(),
            gt_labels=labels.cpu().numpy(),
            gt_ignore=torch.zeros(len(boxes), dtype=torch.bool).numpy(),
            pred_boxes=found.boxes.cpu().numpy(),
            pred_labels=found.labels.cpu().numpy(),
            pred_scores=found.scores.float().cpu().numpy(),
        )
        for place, (found, boxes, labels) in enumerate(zip(detections, targets.boxes, targets.labels, strict=True))
    ]
