"""The batches of one run: training patches from any pass on, the same validation patches every epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from detpretrain.loading import augmentation, batches
from detpretrain.loading.patches import Patches, PatchSample
from detpretrain.training.loop import Batch
from detpretrain.training.recipe import Recipe


class PatchStream:
    """Patches of a preprocessed data set, made into batches of the model.

    Args:
        folder: preprocessed data set; ``index`` is its ``index.json``.
        split: case names under ``train`` and ``val``.
        recipe: batch size, steps and augmentation (validation has none).
        seed: parts of the run's seed.
        workers: loader processes.
        to_batch: samples -> arguments of the model, on its device.
        options: further arguments of ``loading.patches.Patches``.
    """

    def __init__(
        self,
        folder: Path,
        index: Mapping[str, Any],
        split: Mapping[str, Sequence[str]],
        recipe: Recipe,
        seed: Sequence[str | int],
        workers: int,
        to_batch: Callable[[list[PatchSample]], Batch],
        **options: Any,
    ) -> None:
        records = {case["case"]: case for case in index["cases"]}

        def patches(part: str, draws: augmentation.Augmentation) -> Patches:
            cases, patch = [records[case] for case in split[part]], index["plan"]["patch"]
            return Patches(folder, cases, patch, recipe.batch_size, (*seed, part), draws, **options)

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

    def _batches(self, patches: Patches, first: int, passes: int) -> Iterator[Batch]:
        for samples in batches.iterate(patches, first, passes, self.workers, self.recipe.accumulate):
            yield self.to_batch(samples)
