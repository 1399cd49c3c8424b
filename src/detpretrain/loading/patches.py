"""Training patches as a map-style data set: sample i is the same whoever asks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from detpretrain import seeds
from detpretrain.errors import InputError
from detpretrain.loading import sampling, spatial
from detpretrain.loading.augmentation import Augmentation, Draws
from detpretrain.preprocessing.store import PreprocessedCase, read_case


@dataclass(frozen=True)
class PatchSample:
    """One sample as read from disk, before the device.

    Attributes:
        image: ``[C, d, h, w]`` float32: the patch, or the larger region that a rotation or zoom needs.
        instances: ``[d, h, w]`` int32, or None for unlabelled cases.
        offset: ``[3]`` region coordinates of the patch centre.
        classes: ``[max id + 1]`` class of each instance id.
        draws: the sample's augmentation.
        source: number of its data set in a mixture.
    """

    image: Tensor
    instances: Tensor | None
    offset: Tensor
    classes: Tensor
    draws: Draws
    source: int = 0


class Patches(Dataset):
    """Samples 0, 1, 2, ... of one purpose; sample i stands at place ``i % batch_size`` of batch ``i // batch_size``.

    Args:
        folder: preprocessed data set; ``cases`` are the records of its ``index.json`` to draw from.
        patch: size in voxels.
        batch_size: global, over all ranks.
        seed: the run's seed parts, e.g. ``(0, "phantom_nodules/retina/mae/fold0", "train")``.
        augmentation: what to draw.
        object_fraction: part of each batch that is centred on an object drawn uniformly over all objects; 0 for unlabelled.
        in_plane: rotate about z only.
        channel: draw one channel of the case as a single-channel image (pre-training corpora), else all channels.
    """

    def __init__(
        self,
        folder: Path,
        cases: Sequence[Mapping[str, Any]],
        patch: Sequence[int],
        batch_size: int,
        seed: Sequence[str | int],
        augmentation: Augmentation,
        object_fraction: float = 0.5,
        in_plane: bool = False,
        single_channel: bool = False,
    ) -> None:
        if not cases:
            raise InputError(f"{folder}: no cases to draw patches from: check splits.json and index.json")
        self.folder, self.cases, self.patch = folder, list(cases), tuple(patch)
        self.batch_size, self.seed, self.augmentation = batch_size, tuple(seed), augmentation
        self.object_fraction, self.in_plane, self.single_channel = object_fraction, in_plane, single_channel
        self.objects = [(index, box) for index, case in enumerate(self.cases) for box in case.get("boxes", [])]
        self._open: dict[str, PreprocessedCase] = {}

    def __getitem__(self, index: int) -> PatchSample:
        rng = seeds.generator(*self.seed, index)
        case_index, start = self._place(rng, index % self.batch_size)
        case = self._case(self.cases[case_index]["case"])
        channels = case.data.shape[0]
        channel = int(rng.integers(channels)) if self.single_channel else None
        draws = self.augmentation.draw(rng, 1 if self.single_channel else channels, self.in_plane)
        low, high = spatial.source_region(start, self.patch, draws.matrix)
        image = spatial.read_region(case.data, low, high)
        instances = None
        if case.instances is not None:
            instances = torch.from_numpy(spatial.read_region(case.instances, low, high).astype(np.int32))
        centre = start + (np.asarray(self.patch) - 1) / 2 - low
        return PatchSample(
            image=torch.from_numpy(image if channel is None else image[channel : channel + 1]),
            instances=instances,
            offset=torch.from_numpy(centre.astype(np.float32)),
            classes=class_table(case.properties),
            draws=draws,
        )

    def _place(self, rng: np.random.Generator, position: int) -> tuple[int, np.ndarray]:
        centred = sampling.object_centred(position, self.batch_size, self.object_fraction)
        if centred and self.objects:
            case_index, box = self.objects[int(rng.integers(len(self.objects)))]
            return case_index, sampling.object_start(rng, box, self.cases[case_index]["shape"], self.patch)
        case_index = int(rng.integers(len(self.cases)))
        return case_index, sampling.random_start(rng, self.cases[case_index]["shape"], self.patch)

    def _case(self, name: str) -> PreprocessedCase:
        if name not in self._open:
            self._open[name] = read_case(self.folder, name)
        return self._open[name]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}  # file handles do not travel to workers


def class_table(properties: Mapping[str, Any]) -> Tensor:
    """``[max id + 1]`` int64: class by instance id, -1 where there is none."""
    ids = properties.get("ids", [])
    table = torch.full((max(ids, default=0) + 1,), -1, dtype=torch.int64)
    if ids:
        table[torch.tensor(ids)] = torch.tensor(properties["classes"], dtype=torch.int64)
    return table
