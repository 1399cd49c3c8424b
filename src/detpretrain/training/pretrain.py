"""Pre-training one method on one corpus, or on several together."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detpretrain import leakage, provenance, seeds
from detpretrain.build import build, locate
from detpretrain.errors import InputError
from detpretrain.files import digest, read_json
from detpretrain.folds import read_fold
from detpretrain.loading import batches
from detpretrain.loading.patches import PatchSample
from detpretrain.loading.staging import staged
from detpretrain.models import ranks
from detpretrain.models.factory import build_backbone
from detpretrain.pretraining.contract import Source, check_suits
from detpretrain.tasks import Task
from detpretrain.training import adaptation, assessment, distributed
from detpretrain.training.lock import CellLock
from detpretrain.training.logging import write_log
from detpretrain.training.loop import Run, add_losses, fit, means
from detpretrain.training.precision import used
from detpretrain.training.recipe import Recipe
from detpretrain.training.runtime import Runtime, peak_memory_mib
from detpretrain.training.stream import PatchSource, PatchStream

# keys of a method entry that are not arguments of its class
RESERVED = ("plan", "recipe", "corpus")
MUST_AGREE = ("patch", "strides", "kernels")


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


@dataclass(frozen=True)
class Corpus:
    """A data set to learn from: its task folder, its preprocessed folder, its id space (``leakage.Identities``)."""

    task: Path
    preprocessed: Path
    identities: str | None = None


@dataclass(frozen=True)
class Outputs:
    checkpoint: Path
    log: Path
    assessment: Path
    preview: Path


def pretrain(job: Pretraining, corpora: Sequence[Corpus], work: Path, outputs: Outputs, runtime: Runtime) -> None:
    """Trains (or goes on) and writes the checkpoint in the adaptation-plan format, the log, and what was learned.

    Raises:
        InputError: corpora whose plans differ in patch or architecture, or whatever a bad input gives.
    """
    started = time.monotonic()
    recipe = Recipe.from_entry(job.recipe_name, job.recipe)
    lock = distributed.held_by_first(CellLock(work))
    copies = staged([corpus.preprocessed for corpus in corpora], runtime.stage)
    with distributed.joined(runtime.device) as place, lock, copies as folders:
        distributed.check_batch(job.recipe_name, recipe.batch_size, recipe.accumulate)
        device = replace(runtime, device=place).prepare(recipe.threads)
        sources = [patch_source(corpus, near) for corpus, near in zip(corpora, folders, strict=True)]
        plan = common_plan(sources)
        torch.manual_seed(seeds.derive(job.seed, job.name, "initialisation"))
        backbone = build_backbone(job.backbone, plan)
        method = build_method(job.method, backbone, corpora, sources)
        stream = stream_of(job, sources, recipe, method, plan["patch"], device, runtime.workers)
        run = Run(
            model=method,
            batches=stream.training,
            validate=lambda model: validate(model, stream),
            recipe=recipe,
            seed=(job.seed, job.name),
            device=device,
            work=work,
            signature=f"{job.signature}-{digest_of(corpora)}",
        )
        rows = fit(run, runtime.minutes_left(started))
        together = ranks.number()
        if not distributed.leave():
            return
        record = provenance.record(
            job.signature,
            ["detpretrain.training.pretrain", *provenance.class_modules(job.method, job.backbone, job.recipe)],
            seed=job.seed,
            device=str(device),
            precision=used(recipe.precision, device),
            threads=recipe.threads,
            processes=together,
            seconds=round(time.monotonic() - started, 1),
            peak_memory_mib=peak_memory_mib(device),
        )
        citations = write_checkpoint(outputs.checkpoint, method, backbone, plan, corpora, sources, record)
        about = {
            **dict(zip(("init", "backbone"), job.name.split("/"), strict=True)),
            "method": job.method["class"],
            "corpora": [source.index["plan"]["dataset"] for source in sources],
            "citations": citations,
            "provenance": record,
        }
        assessment.write(outputs.assessment, outputs.preview, method, stream, recipe, about)
        write_log(outputs.log, rows)
        (work / "last.pth").unlink(missing_ok=True)


def digest_of(corpora: Sequence[Corpus]) -> str:
    """Of the files that say what there is to learn from."""
    return digest(path for one in corpora for path in (one.preprocessed / "index.json", one.task / "splits.json"))


def stream_of(
    job: Pretraining,
    sources: Sequence[PatchSource],
    recipe: Recipe,
    method: nn.Module,
    patch: Sequence[int],
    device: torch.device,
    workers: int,
) -> PatchStream:
    """Batches of the method's views."""
    return PatchStream(
        sources,
        recipe,
        (job.seed, job.name),
        workers,
        to_batch=views_of(method, patch, device),
        source_exponent=getattr(method, "source_exponent", 1.0),
        object_fraction=0.0,
        single_channel=not method.supervised,  # every channel of every case is an image of its own
    )


def patch_source(corpus: Corpus, near: Path | None = None) -> PatchSource:
    """The first split of a corpus: pre-training has one training and one validation part; ``near``: its staged copy."""
    index, split = read_json(corpus.preprocessed / "index.json"), read_fold(corpus.task / "splits.json", 0)
    return PatchSource(near or corpus.preprocessed, index, split)


def common_plan(sources: Sequence[PatchSource]) -> dict[str, Any]:
    """The plan of the first corpus, whose patch and architecture all others share; ``dataset`` names them all."""
    plans = [source.index["plan"] for source in sources]
    for plan in plans[1:]:
        for key in MUST_AGREE:
            if plan[key] != plans[0][key]:
                raise InputError(
                    f"{plan['dataset']}: {key} {plan[key]}, but {plans[0]['dataset']} has {plans[0][key]}: corpora of one "
                    "pre-training need one patch and architecture, give them in the plan"
                )
    return {**plans[0], "dataset": "+".join(plan["dataset"] for plan in plans)}


def build_method(
    entry: Mapping[str, Any], backbone: Any, corpora: Sequence[Corpus], sources: Sequence[PatchSource]
) -> nn.Module:
    """The method of an entry; a supervised one is told what its data sets annotate.

    Raises:
        InputError: it does not suit the backbone.
    """
    arguments, method = {key: value for key, value in entry.items() if key not in RESERVED}, locate(entry["class"])
    check_suits(method, backbone)
    if not method.supervised:
        return build(arguments, backbone=backbone)
    annotated = [
        annotated_source(Task.read(corpus.task), len(source.split["train"]))
        for corpus, source in zip(corpora, sources, strict=True)
    ]
    return build(arguments, backbone=backbone, sources=annotated)


def annotated_source(task: Task, cases: int) -> Source:
    """What a task annotates; in semantic maps label k has the value k + 1."""
    classes = task.regions or {name: [label] for label, name in task.labels.items()}
    return Source(
        name=task.name,
        modalities=list(task.modalities.values()),
        class_names=list(classes),
        members=[[label + 1 for label in labels] for labels in classes.values()],
        ignored=[label + 1 for label in task.unannotated],
        cases=cases,
    )


def views_of(method: nn.Module, patch: Sequence[int], device: torch.device) -> Any:
    """Patch samples -> the method's views, on the device and in float32."""

    def views(samples: list[PatchSample]) -> tuple[Any, ...]:
        with torch.autocast(device.type, enabled=False), torch.no_grad():
            if method.supervised:
                labels = batches.semantic_on_device(samples, patch, device)
                return method.views(separate_images(samples, patch, device), labels, [s.source for s in samples])
            images = batches.images_on_device(samples, patch, device)
            return method.views(images, [sample.draws.seed for sample in samples])

    return views


def separate_images(samples: Sequence[PatchSample], patch: Sequence[int], device: torch.device) -> list[Tensor]:
    """Augmented images ``[C, *patch]``, whose channels may differ in number."""
    images: dict[int, Tensor] = {}
    for channels in sorted({len(sample.image) for sample in samples}):
        places = [place for place, sample in enumerate(samples) if len(sample.image) == channels]
        images |= dict(
            zip(places, batches.images_on_device([samples[place] for place in places], patch, device), strict=True)
        )
    return [images[place] for place in range(len(samples))]


def validate(method: nn.Module, stream: PatchStream) -> dict[str, float]:
    """Mean losses over the same patches and views every epoch."""
    sums: dict[str, Tensor] = {}
    for views in stream.validation():
        add_losses(sums, method(*views))
    return means(sums, stream.validation_passes)


def write_checkpoint(
    path: Path,
    method: nn.Module,
    backbone: Any,
    plan: Mapping[str, Any],
    corpora: Sequence[Corpus],
    sources: Sequence[PatchSource],
    record: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Writes the checkpoint with whose patients it saw; returns its citations."""
    patients = [
        leakage.Identities.of_cases(corpus.task, [*source.split["train"], *source.split["val"]], corpus.identities)
        for corpus, source in zip(corpora, sources, strict=True)
    ]
    stems = method.extra_stems() if method.supervised else None
    return adaptation.write_pretrained(
        path,
        method.network,
        backbone,
        plan,
        [citation.as_data() for citation in method.citations],
        record,
        stems=stems,
        default_stem=method.default_stem if method.supervised else None,
        patients=[found.to_json() for found in patients],
    )
