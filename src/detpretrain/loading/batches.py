"""From patch samples to batches on the device: spatial and intensity augmentation, then boxes of what is left of each object."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from detpretrain.loading import intensity, spatial
from detpretrain.loading.mixture import Mixture
from detpretrain.loading.patches import Patches, PatchSample
from detpretrain.models import box_ops


def iterate(
    patches: Patches | Mixture,
    first: int,
    passes: int,
    workers: int,
    accumulate: int = 1,
    rank: int = 0,
    ranks: int = 1,
) -> Iterator[list[PatchSample]]:
    """What the forward passes ``first`` to ``passes - 1`` of this rank see; the order does not depend on ``workers``.

    ``accumulate`` passes share a batch, in its order, so that their samples are those of one pass over the whole batch.
    """
    size = patches.batch_size // accumulate
    indices = [list(range(number * size + rank, (number + 1) * size, ranks)) for number in range(first, passes)]
    loader = DataLoader(
        patches,
        batch_sampler=indices,
        num_workers=workers,
        collate_fn=list,
        persistent_workers=False,
        prefetch_factor=4 if workers else None,
        generator=torch.Generator(),  # else it draws from the training's own, once wherever a run starts or resumes
    )
    return iter(loader)


def images_on_device(samples: Sequence[PatchSample], patch: Sequence[int], device: torch.device) -> Tensor:
    """``[B, C, *patch]`` float32, augmented."""
    images = torch.stack([_place(sample, sample.image, patch, device, nearest=False) for sample in samples])
    images = intensity.apply(images, [sample.draws for sample in samples])
    return torch.stack(
        [spatial.mirror(image, sample.draws.mirror) for image, sample in zip(images, samples, strict=True)]
    )


def instances_on_device(samples: Sequence[PatchSample], patch: Sequence[int], device: torch.device) -> Tensor:
    """``[B, *patch]`` int32 instance maps, transformed with their images."""
    maps = []
    for sample in samples:
        placed = _place(sample, sample.instances[None], patch, device, nearest=True)[0].to(torch.int32)
        maps.append(spatial.mirror(placed, sample.draws.mirror))
    return torch.stack(maps)


def semantic_on_device(samples: Sequence[PatchSample], patch: Sequence[int], device: torch.device) -> Tensor:
    """``[B, *patch]`` int64: class + 1 of each voxel's instance, 0 = background."""
    instances = instances_on_device(samples, patch, device).long()
    tables = [sample.classes.to(device) + 1 for sample in samples]
    return torch.stack([table[part] for table, part in zip(tables, instances, strict=True)])


def objects(instances: Tensor, samples: Sequence[PatchSample]) -> tuple[list[Tensor], list[Tensor]]:
    """Boxes ``[n, 6]`` and classes ``[n]`` of each sample's objects, from what the patch still shows of them."""
    boxes, labels = [], []
    for instance_map, sample in zip(instances, samples, strict=True):
        ids, found = box_ops.from_instances(instance_map)
        boxes.append(found)
        labels.append(sample.classes.to(instances.device)[ids.long()])
    return boxes, labels


def _place(sample: PatchSample, region: Tensor, patch: Sequence[int], device: torch.device, nearest: bool) -> Tensor:
    region = region.to(device, non_blocking=True)
    if sample.draws.matrix is None:
        return region
    matrix = torch.from_numpy(sample.draws.matrix)
    return spatial.resample(region, matrix, sample.offset, patch, nearest)
