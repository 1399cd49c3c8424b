"""Linear probe of a frozen encoder: how much of a voxel's label can be read off its features by a linear classifier.

Alain & Bengio, "Understanding intermediate layers using linear classifier probes", arXiv 1610.01644. The pre-trained encoder is
compared with the same architecture at random weights and with the grey value alone, all probed alike on the same voxels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.nn import functional

from detpretrain import provenance, seeds
from detpretrain.errors import InputError
from detpretrain.files import read_json, write_json
from detpretrain.folds import read_fold
from detpretrain.inference.tiling import tile_starts
from detpretrain.loading.patches import class_table
from detpretrain.loading.spatial import read_region
from detpretrain.models.channels_last import MOST_VOXELS, channels_last
from detpretrain.models.factory import build_backbone, pretrained_part
from detpretrain.preprocessing.store import PreprocessedCase, read_case
from detpretrain.training import adaptation
from detpretrain.training.readout import Readout, scores_of
from detpretrain.training.runtime import Runtime

BACKGROUND = "background"
IGNORED = -1
TILES_AT_ONCE = 4

EncoderOf = Callable[[int], nn.Module]


@dataclass(frozen=True)
class ProbeSettings:
    """``train_voxels`` per training case, shared equally by the classes; ``val_voxels`` per validation case, uniform.

    ``l2``: weight of half the squared norm beside the mean log loss; ``iterations``: of L-BFGS, the same for every encoder;
    ``repeats``: draws of training voxels, and of the random encoder's weights.
    """

    train_voxels: int = 480
    val_voxels: int = 4096
    l2: float = 1e-3
    iterations: int = 200
    repeats: int = 3

    @staticmethod
    def of(settings: Mapping[str, Any]) -> ProbeSettings:
        """Raises InputError for an unknown key or a value that is not positive."""
        known = ProbeSettings.__dataclass_fields__
        for key, value in settings.items():
            if key not in known:
                raise InputError(f"probe: unknown setting {key!r}: use one of {', '.join(known)}")
            if value <= 0:
                raise InputError(f"probe: {key} is {value}: give a positive number")
        return ProbeSettings(**settings)


@dataclass(frozen=True)
class Voxels:
    """Places of one case: ``positions`` integer [N, 3], ``labels`` [N] (0 = background, k + 1 = class k)."""

    case: PreprocessedCase
    positions: NDArray[np.int64]
    labels: NDArray[np.int64]


class Intensity(nn.Module):
    """The floor: a voxel's grey value and the mean of its patch, in the form of an encoder of two stages."""

    def forward(self, images: Tensor) -> list[Tensor]:
        return [images, images.mean(dim=(2, 3, 4), keepdim=True)]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a probe of a labelled data set is defined by.

    ``backbone``: entry of the pre-training, resolved for the study's size; strides and kernels come from the data set's plan.
    ``preprocessed``, ``splits``: of the data set; its first fold divides training from validation cases. ``settings``: keys of
    ``ProbeSettings``. ``signature``: recipe hash.
    """

    backbone: Mapping[str, Any]
    preprocessed: Path
    splits: Path
    settings: Mapping[str, Any]
    seed: int
    signature: str
    threads: int = 1
    runtime: Runtime = field(default_factory=Runtime)

    def run(self, encoders: Mapping[str, EncoderOf], started: float, **more: Any) -> dict[str, Any]:
        """``probe``'s result with its provenance, to which ``more`` is added."""
        device = self.runtime.prepare(self.threads)
        plan, split = read_json(self.preprocessed / "index.json")["plan"], read_fold(self.splits, 0)
        with threadpool_limits(self.threads):
            result = probe(encoders, self.preprocessed, plan, split, ProbeSettings.of(self.settings), self.seed, device)
        record = provenance.record(
            self.signature,
            ["detpretrain.training.probe", *provenance.class_modules(self.backbone)],
            seed=self.seed,
            device=str(device),
            threads=self.threads,
            seconds=round(time.monotonic() - started, 1),
            **more,
        )
        return {**result, "provenance": record}

    def encoder(self, repeat: int) -> nn.Module:
        """At random weights, others for every repeat."""
        plan = read_json(self.preprocessed / "index.json")["plan"]
        torch.manual_seed(seeds.derive(self.seed, "probe", "initialisation", repeat))
        return pretrained_part(build_backbone(self.backbone, plan).encoder(plan["channels"]))


def probe_baseline(job: Job, output: Path) -> None:
    """Probes random weights and the grey value alone, which every checkpoint of the backbone is compared with.

    Raises:
        InputError: an unknown setting, cases without labels, a class without voxels.
    """
    floor = Intensity()
    write_json(output, job.run({"random": job.encoder, "intensity": lambda repeat: floor}, time.monotonic()))


def probe_checkpoint(job: Job, checkpoint: Path, baseline: Path, output: Path) -> None:
    """Probes the encoder of ``checkpoint`` and writes ``probe.json``: the result, the baseline's beside it, and ``judged``.

    Raises:
        InputError: an unknown setting, a checkpoint of another architecture, a baseline of another recipe, cases without labels,
            a class without voxels.
    """
    started, others = time.monotonic(), read_json(baseline)
    if others.pop("provenance")["recipe"] != job.signature:
        raise InputError(f"{baseline}: was probed by another recipe: run probe_baseline again")
    pretrained = job.encoder(0)
    channels = read_json(job.preprocessed / "index.json")["plan"]["channels"]
    loaded = adaptation.load_encoder(pretrained, checkpoint, channels)
    found = job.run({"pretrained": lambda repeat: pretrained}, started, pretrain=loaded.provenance)
    write_json(output, {**others, **found, **judged(found["pretrained"], others["random"])})


def judged(pretrained: Mapping[str, Any], random: Mapping[str, Any]) -> dict[str, Any]:
    """``difference``: mean balanced accuracy, pretrained - random; ``beats_random``: whether in every repeat."""
    scores = zip(pretrained["balanced_accuracy"], random["balanced_accuracy"], strict=True)
    gains = [ours - theirs for ours, theirs in scores]
    return {"difference": float(np.mean(gains)), "beats_random": min(gains) > 0}


def probe(
    encoders: Mapping[str, EncoderOf],
    preprocessed: Path,
    plan: Mapping[str, Any],
    split: Mapping[str, Sequence[str]],
    settings: ProbeSettings,
    seed: int,
    device: torch.device,
) -> dict[str, Any]:
    """Scores encoders (name -> repeat -> module ``[B, C, D, H, W]`` -> stages), all on the same voxels.

    Returns:
        ``dataset``, ``classes`` (background first), ``voxels`` (train, val), per encoder the lists over repeats ``scored``
        describes.
    """
    names = [BACKGROUND, *plan["class_names"]]
    patch = np.asarray(plan["patch"])
    val = [uniform_voxels(preprocessed, case, settings.val_voxels, (seed, "probe", "val")) for case in split["val"]]
    draws = [
        [
            balanced_voxels(preprocessed, case, settings.train_voxels, len(names), (seed, "probe", "train", repeat))
            for case in split["train"]
        ]
        for repeat in range(settings.repeats)
    ]
    for train in draws:
        _check_classes(preprocessed, train, names)
    scores = {
        name: _scores(encoder_of, draws, val, patch, len(names), settings, device)
        for name, encoder_of in encoders.items()
    }
    return {
        "dataset": plan["dataset"],
        "classes": names,
        "voxels": {"train": sum(len(part.labels) for part in draws[-1]), "val": sum(len(part.labels) for part in val)},
        **{name: _over_repeats(found, names) for name, found in scores.items()},
    }


def _scores(
    encoder_of: EncoderOf,
    draws: Sequence[Sequence[Voxels]],
    val: Sequence[Voxels],
    patch: NDArray[np.int64],
    classes: int,
    settings: ProbeSettings,
    device: torch.device,
) -> list[dict[str, Any]]:
    """One encoder's scores per repeat; a network that serves several repeats sees each image once."""
    repeats_of: dict[nn.Module, list[int]] = {}
    for repeat in range(len(draws)):
        repeats_of.setdefault(encoder_of(repeat), []).append(repeat)
    scores = {}
    for encoder, repeats in repeats_of.items():
        encoder = encoder.to(device).eval()
        if device.type == "cpu" and patch.prod() <= MOST_VOXELS:
            encoder = channels_last(encoder)
        trains = _gather(encoder, [draws[repeat] for repeat in repeats], patch, device)
        ((inputs, labels),) = _gather(encoder, [val], patch, device)
        for repeat, train in zip(repeats, trains, strict=True):
            readout = Readout.fit(*train, settings.l2, settings.iterations)
            scored = scores_of(readout.predict(inputs), labels, classes)
            scores[repeat] = {**scored, "converged": readout.converged, "features": inputs.shape[1]}
    return [scores[repeat] for repeat in range(len(draws))]


def label_map(case: PreprocessedCase) -> NDArray[np.int64]:
    """[D, H, W]: 0 = background, k + 1 = class k, -1 = ignored objects, whose class nobody vouches for."""
    table = class_table(case.properties).numpy() + 1
    ids, ignored = np.asarray(case.properties["ids"], int), np.asarray(case.properties["ignored"], bool)
    table[ids[ignored]] = IGNORED
    return table[case.instances[...]]


def uniform_voxels(preprocessed: Path, name: str, number: int, seed: Sequence[str | int]) -> Voxels:
    """``number`` voxels of a case drawn uniformly, all of them if there are fewer; ignored ones are left out."""
    case, labels = _labelled(preprocessed, name)
    return _voxels(case, labels, _some(np.flatnonzero(labels != IGNORED), number, seeds.generator(*seed, name)))


def balanced_voxels(preprocessed: Path, name: str, number: int, classes: int, seed: Sequence[str | int]) -> Voxels:
    """``number // classes`` voxels of each class (background counts) of a case, fewer where a class has fewer."""
    case, labels = _labelled(preprocessed, name)
    rng = seeds.generator(*seed, name)
    chosen = [_some(np.flatnonzero(labels == label), number // classes, rng) for label in range(classes)]
    return _voxels(case, labels, np.concatenate(chosen))


def _labelled(preprocessed: Path, name: str) -> tuple[PreprocessedCase, NDArray[np.int64]]:
    case = read_case(preprocessed, name)
    if case.instances is None:
        raise InputError(f"{preprocessed / name}: has no labels: probe on a labelled data set")
    return case, label_map(case)


def _some(candidates: NDArray[np.int64], number: int, rng: np.random.Generator) -> NDArray[np.int64]:
    return rng.choice(candidates, min(number, len(candidates)), replace=False)


def _voxels(case: PreprocessedCase, labels: NDArray[np.int64], chosen: NDArray[np.int64]) -> Voxels:
    return Voxels(case, np.stack(np.unravel_index(chosen, labels.shape), axis=1), labels.flat[chosen])


def _check_classes(preprocessed: Path, train: Sequence[Voxels], names: Sequence[str]) -> None:
    missing = set(range(len(names))) - {int(label) for part in train for label in np.unique(part.labels)}
    if missing:
        raise InputError(
            f"{preprocessed}: no training voxel of {names[min(missing)]}: raise train_voxels or choose another probe data set"
        )


def _gather(
    encoder: nn.Module, draws: Sequence[Sequence[Voxels]], patch: NDArray[np.int64], device: torch.device
) -> list[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Features [N, F] and labels [N] of each draw from the same cases; a tile that several draws hit is computed once."""
    of_cases = []
    for parts in zip(*draws, strict=True):
        found = features(encoder, parts[0].case.data, np.concatenate([part.positions for part in parts]), patch, device)
        of_cases.append(np.split(found, np.cumsum([len(part.labels) for part in parts])[:-1]))
    return [
        (np.concatenate(found), np.concatenate([part.labels for part in parts]))
        for found, parts in zip(zip(*of_cases, strict=True), draws, strict=True)
    ]


@torch.inference_mode()
def features(
    encoder: nn.Module, data: Any, positions: NDArray[np.int64], patch: NDArray[np.int64], device: torch.device
) -> NDArray[np.float32]:
    """All stages' features at voxels, float32 [N, F]: each voxel from the tile that has it nearest to its centre.

    ``data`` [C, D, H, W], sliced tile by tile; tiles do not overlap unless the last one would stick out.
    """
    shape = np.asarray(data.shape[1:])
    front = np.maximum(patch - shape, 0) // 2  # an axis shorter than the patch is centred, as in training
    starts = tile_starts(np.maximum(shape, patch).tolist(), patch.tolist(), 0.0) - front
    owner = nearest_tile(positions, starts, patch)
    used, parts = np.unique(owner), {}
    for first in range(0, len(used), TILES_AT_ONCE):
        tiles = used[first : first + TILES_AT_ONCE]
        images = np.stack([read_region(data, starts[tile], starts[tile] + patch) for tile in tiles])
        stages = encoder(torch.from_numpy(images).to(device))
        for place, tile in enumerate(tiles):
            local = torch.from_numpy(positions[owner == tile] - starts[tile]).to(device)
            parts[tile] = at_positions([stage[place : place + 1] for stage in stages], local, patch.tolist()).cpu()
    found = torch.cat([parts[tile] for tile in used]).numpy()
    result = np.empty_like(found)
    result[np.argsort(owner, kind="stable")] = found
    return result


def nearest_tile(
    positions: NDArray[np.int64], starts: NDArray[np.int64], patch: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Of each position [N, 3], the tile (of ``starts`` [T, 3]) whose centre is nearest in units of the patch, [N]."""
    distance = np.abs(positions[:, None] - (starts + (patch - 1) / 2)) / patch
    return distance.max(axis=2).argmin(axis=1)


def at_positions(stages: Sequence[Tensor], positions: Tensor, patch: Sequence[int]) -> Tensor:
    """Stages of one patch (``[1, F_i, d, h, w]`` each), upsampled to it trilinearly, at its voxels [N, 3] -> ``[N, sum F_i]``."""
    size = torch.tensor(patch, device=positions.device)
    grid = ((2 * positions + 1) / size - 1).flip(-1)[None, None, None]  # grid_sample wants (x, y, z)
    sampled = [
        functional.grid_sample(stage, grid, mode="bilinear", padding_mode="border", align_corners=False)[0, :, 0, 0]
        for stage in stages
    ]
    return torch.cat(sampled).T


def _over_repeats(scored: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """Lists over repeats; ``per_class``: class name -> ``recall`` and ``dice``."""
    per_class = {
        name: {metric: [one[metric][place] for one in scored] for metric in ("recall", "dice")}
        for place, name in enumerate(names)
    }
    whole = ("balanced_accuracy", "mean_dice", "converged", "features")
    return {name: [one[name] for one in scored] for name in whole} | {"per_class": per_class}
