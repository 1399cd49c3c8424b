"""MultiTalent: one U-Net segments what many data sets annotate, each in its own words.

Ulrich et al., "MultiTalent: A Multi-Dataset Approach to Medical Image Segmentation" (MICCAI 2023): every class of every data set
has a sigmoid output of its own, also where two data sets use one name for different things, and a sample trains the outputs
of its own data set only. The encoder and decoder are shared; the stem belongs to a modality or to a data set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from detpretrain.errors import InputError
from detpretrain.models import ranks
from detpretrain.pretraining.contract import Citation, Panel, Score, Source

DEFAULT_STEM = "CT"
SUMS = 5  # of ``class_sums``
SMOOTH = 1e-5  # of the soft Dice, as nnU-Net's


class MultiTalent(nn.Module):
    """Segmentation of several data sets with clashing labels.

    Args:
        backbone: makes the U-Net and the stems (``models.resenc.ResEnc`` or alike).
        sources: the data sets; any number.
        stems: "modality": data sets of the same channels share a stem; "dataset": each has its own.

    Raises:
        InputError: no source, a source without classes, another word for ``stems``.
    """

    supervised = True
    source_exponent = 0.5  # data sets are drawn by the square root of their number of cases
    citations = (
        Citation(
            "Pretraining Method",
            "MultiTalent",
            (
                "Ulrich, C., Isensee, F., Wald, T., Zenk, M., Baumgartner, M., & Maier-Hein, K. H. (2023). MultiTalent: A "
                "multi-dataset approach to medical image segmentation. In Medical Image Computing and Computer Assisted "
                "Intervention - MICCAI 2023 (pp. 648-658). Springer.",
            ),
        ),
    )

    def __init__(self, *, backbone: Any, sources: Sequence[Source], stems: str = "modality") -> None:
        super().__init__()
        _check(sources, stems)
        self.sources = list(sources)
        self.stem_of = [source.name if stems == "dataset" else "+".join(source.modalities) for source in sources]
        channels = {stem: len(source.modalities) for stem, source in zip(self.stem_of, sources, strict=True)}
        self.default_stem = DEFAULT_STEM if DEFAULT_STEM in channels else self.stem_of[0]
        starts = [0, *accumulate(len(source.class_names) for source in sources)]
        self.outputs = [slice(start, stop) for start, stop in pairwise(starts)]
        # the default stem sits in the network itself, so that its weights are those of a plain U-Net
        self.network = backbone.unet(channels.pop(self.default_stem), starts[-1])
        self._others = list(channels)
        self.stems = nn.ModuleList([backbone.stem(count) for count in channels.values()])

    def extra_stems(self) -> dict[str, nn.Module]:
        """The stems beside the default one, by name."""
        return dict(zip(self._others, self.stems, strict=True))

    def views(
        self, images: Sequence[Tensor], labels: Tensor, sources: Sequence[int]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[int]]:
        """Images, targets ``[K_s, D, H, W]`` bool of the data set's own classes, annotated voxels ``[D, H, W]`` bool, sources."""
        targets, annotated = [], []
        for label, source in zip(labels, sources, strict=True):
            chosen = self.sources[source]
            targets.append(torch.stack([_any_of(label, members) for members in chosen.members]))
            annotated.append(~_any_of(label, chosen.ignored))
        return list(images), targets, annotated, list(sources)

    def logits(self, images: Sequence[Tensor], sources: Sequence[int]) -> dict[int, Tensor]:
        """Per data set of the batch ``[n_s, K_s, D, H, W]``: its samples in the batch's order, its own classes only."""
        features = self._features(images, sources)
        head = self.network.decoder.seg_layers[-1]
        found = {}
        for source in sorted(set(sources)):
            own, outputs = features[_places(sources, source)], self.outputs[source]
            found[source] = functional.conv3d(own, head.weight[outputs], head.bias[outputs])
        return found

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Tensor], annotated: Sequence[Tensor], sources: Sequence[int]
    ) -> dict[str, Tensor]:
        """Dice over the samples that annotate a class, and binary cross-entropy; means over the batch's annotated classes."""
        sums = images[0].new_zeros(SUMS, self.outputs[-1].stop)
        for source, logits in self.logits(images, sources).items():
            truth, known = _stacked(targets, annotated, sources, source)
            with torch.autocast(logits.device.type, enabled=False):
                found = class_sums(logits.float(), truth, known)
            # samples of every data set may lie on any rank: a class's sums have their place whatever this rank got to see
            after = self.outputs[-1].stop - self.outputs[source].stop
            sums = sums + functional.pad(found, (self.outputs[source].start, after))
        sums = ranks.total(sums)
        seen = sums[-1] > 0
        return {"dice": dice_losses(sums)[seen].mean(), "bce": cross_entropies(sums)[seen].mean()}

    def assess(
        self, images: Sequence[Tensor], targets: Sequence[Tensor], annotated: Sequence[Tensor], sources: Sequence[int]
    ) -> dict[str, Score]:
        """Dice of each class at a threshold of 0.5, beside the best answer that looks at nothing: the class everywhere."""
        scores = {}
        for source, logits in self.logits(images, sources).items():
            truth, known = _stacked(targets, annotated, sources, source)
            found, known = (logits > 0) & known, known.expand_as(truth)
            truth = truth & known
            for number, name in enumerate(self.sources[source].class_names):
                hits, objects = (found & truth)[:, number].sum(), truth[:, number].sum()
                scores[f"Dice, {self.sources[source].name}: {name}"] = Score(
                    method=(2 * hits, found[:, number].sum() + objects),
                    baseline=(2 * objects, known[:, number].sum() + objects),
                    baseline_name="the class everywhere",
                    higher_is_better=True,
                )
        return scores

    def preview(
        self, images: Sequence[Tensor], targets: Sequence[Tensor], annotated: Sequence[Tensor], sources: Sequence[int]
    ) -> list[list[Panel]]:
        """Middle slices: image, truth, prediction; where classes overlap the last one is shown."""
        logits = self.logits(images, sources)
        middle = images[0].shape[1] // 2
        rows = []
        for place, (image, target, source) in enumerate(zip(images, targets, sources, strict=True)):
            found = logits[source][list(sources[:place]).count(source)] > 0
            name = self.sources[source].name
            rows.append(
                [
                    Panel(f"{name}: image", image[0, middle]),
                    Panel("truth", _label_map(target[:, middle]), "labels"),
                    Panel("prediction", _label_map(found[:, middle]), "labels"),
                ]
            )
        return rows

    def _features(self, images: Sequence[Tensor], sources: Sequence[int]) -> Tensor:
        """The last decoder stage's map, ``[B, C, D, H, W]``."""
        encoder, decoder = self.network.encoder, self.network.decoder
        stem_of = [self.stem_of[source] for source in sources]
        modules: Mapping[str, nn.Module] = {self.default_stem: encoder.stem, **self.extra_stems()}
        order, parts = [], []
        for name in sorted(set(stem_of)):
            places = _places(stem_of, name)
            order += places
            parts.append(modules[name](torch.stack([images[place] for place in places])))
        position = {place: row for row, place in enumerate(order)}
        x = torch.cat(parts)[[position[place] for place in range(len(order))]]
        skips = []
        for stage in encoder.stages:
            x = stage(x)
            skips.append(x)
        for depth, (up, stage) in enumerate(zip(decoder.transpconvs, decoder.stages, strict=True)):
            x = stage(torch.cat([up(x), skips[-(depth + 2)]], dim=1))
        return x


def class_sums(logits: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """What the losses of a data set's classes are made of, summed over annotated voxels: ``[SUMS, K]``.

    Overlap of found and true, found plus true, binary cross-entropy, annotated voxels, samples. ``[n, K, D, H, W]`` logits and
    truth, ``known [n, 1, D, H, W]``.
    """
    axes = (0, 2, 3, 4)
    found, marked = logits.sigmoid() * known, (truth & known).float()
    entropy = functional.binary_cross_entropy_with_logits(logits, truth.float(), reduction="none") * known
    voxels, samples = (
        known.sum().expand(logits.shape[1]),
        known.new_full(logits.shape[1:2], len(logits), dtype=torch.float32),
    )
    parts = [(found * marked).sum(axes), found.sum(axes) + marked.sum(axes), entropy.sum(axes), voxels, samples]
    return torch.stack([part.float() for part in parts])


def dice_losses(sums: Tensor) -> Tensor:
    """``1 - Dice`` per class over the whole batch: ``class_sums [SUMS, K] -> [K]``."""
    return 1 - (2 * sums[0] + SMOOTH) / (sums[1] + SMOOTH)


def cross_entropies(sums: Tensor) -> Tensor:
    """Binary cross-entropy per class, mean over the annotated voxels: ``[SUMS, K] -> [K]``; 0 when there is none."""
    return sums[2] / sums[3].clamp(min=1)


def _check(sources: Sequence[Source], stems: str) -> None:
    if stems not in ("modality", "dataset"):
        raise InputError(f"MultiTalent: stems {stems!r}: use modality or dataset")
    if not sources:
        raise InputError("MultiTalent: no data sets: name labelled ones under the study's labelled_corpus:")
    for source in sources:
        if not source.class_names:
            raise InputError(f"MultiTalent: {source.name} has no classes: use labelled data sets only")


def _any_of(labels: Tensor, values: Sequence[int]) -> Tensor:
    found = torch.zeros_like(labels, dtype=torch.bool)
    for value in values:
        found |= labels == value
    return found


def _places(names: Sequence[Any], name: Any) -> list[int]:
    return [place for place, other in enumerate(names) if other == name]


def _stacked(
    targets: Sequence[Tensor], annotated: Sequence[Tensor], sources: Sequence[int], source: int
) -> tuple[Tensor, Tensor]:
    """Targets ``[n, K, D, H, W]`` and annotated voxels ``[n, 1, D, H, W]`` of a data set's samples."""
    places = _places(sources, source)
    return torch.stack([targets[place] for place in places]), torch.stack([annotated[place] for place in places])[
        :, None
    ]


def _label_map(classes: Tensor) -> Tensor:
    """``[K, H, W]`` bool -> ``[H, W]``, 0 = none, k + 1 = class k."""
    numbers = torch.arange(1, len(classes) + 1, device=classes.device)[:, None, None]
    return (classes * numbers).amax(dim=0)
