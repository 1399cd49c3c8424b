"""The batches of one run: training patches from any pass on, the same validation patches every epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detpretrain.loading import augmentation, batches
from detpretrain.loading.mixture import Mixture
from detpretrain.loading.patches import Patches, PatchSample
from detpretrain.models import ranks
from detpretrain.training.loop import Batch
from detpretrain.training.recipe import Recipe


@dataclass(frozen=True)
class PatchSource:
    """A preprocessed data set: its folder, its ``index.json``, and case names under ``train`` and ``val``."""

    folder: Path
    index: Mapping[str, Any]
    split: Mapping[str, Sequence[str]]


class PatchStream:
    """Patches of preprocessed data sets, made into batches of the model: of several ranks each gets its part of every batch.

    Args:
        sources: one data set, or several to mix; of one patch size.
        recipe: batch size, steps and augmentation (validation has none).
        seed: parts of the run's seed.
        workers: loader processes.
        to_batch: samples -> arguments of the model, on its device.
        source_exponent: a data set is drawn in proportion to its number of training cases to this power.
        options: further arguments of ``loading.patches.Patches``.
    """

    def __init__(
        self,
        sources: Sequence[PatchSource],
        recipe: Recipe,
        seed: Sequence[str | int],
        workers: int,
        to_batch: Callable[[list[PatchSample]], Batch],
        source_exponent: float = 1.0,
        **options: Any,
    ) -> None:
        weights = [len(source.split["train"]) ** source_exponent for source in sources]

        def patches(part: str, draws: augmentation.Augmentation) -> Mixture:
            parts = []
            for source in sources:
                records = {case["case"]: case for case in source.index["cases"]}
                cases, patch = [records[case] for case in source.split[part]], source.index["plan"]["patch"]
                parts.append(Patches(source.folder, cases, patch, recipe.batch_size, (*seed, part), draws, **options))
            return Mixture(parts, weights, (*seed, part))

        self.recipe, self.workers, self.to_batch = recipe, workers, to_batch
        self._training = patches("train", recipe.build_augmentation())
        self._validation = patches("val", augmentation.none())

    @property
    def validation_passes(self) -> int:
        return self.recipe.validation_steps * self.recipe.accumulate

    def training(self, first: int) -> Iterator[Batch]:
        """Batches of the forward passes from ``first`` to the recipe's last one."""
        return self._batches(self._training, first, self.recipe.total_steps * self.recipe.accumulate)

    def validation(self) -> Iterator[Batch]:
        return self._batches(self._validation, 0, self.validation_passes)

    def training_samples(self, passes: int) -> Iterator[list[PatchSample]]:
        """The samples of the first forward passes, not yet on a device."""
        return batches.iterate(self._training, 0, passes, 0, self.recipe.accumulate)

    def _batches(self, patches: Mixture, first: int, passes: int) -> Iterator[Batch]:
        own = (ranks.own(), ranks.number())
        for samples in batches.iterate(patches, first, passes, self.workers, self.recipe.accumulate, *own):
            yield self.to_batch(samples)
