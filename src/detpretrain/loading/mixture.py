"""Samples of several data sets in one stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch.utils.data import Dataset

from detpretrain import seeds
from detpretrain.loading.patches import Patches, PatchSample


class Mixture(Dataset):
    """Sample i comes from a data set drawn for it; which one depends on the seed and i alone.

    Args:
        parts: of equal batch size and patch. A single one is passed on as it is.
        weights: relative frequency of each, positive.
        seed: the run's seed parts.
    """

    def __init__(self, parts: Sequence[Patches], weights: Sequence[float], seed: Sequence[str | int]) -> None:
        self.parts, self.seed = list(parts), tuple(seed)
        self.batch_size = self.parts[0].batch_size
        self.bounds = np.cumsum(np.asarray(weights, dtype=float)) / np.sum(weights)
        self.bounds[-1] = 1.0  # whatever the rounding

    def __getitem__(self, index: int) -> PatchSample:
        source = self.source(index)
        return replace(self.parts[source][index], source=source)

    def source(self, index: int) -> int:
        """Number of the data set that sample ``index`` comes from."""
        if len(self.parts) == 1:
            return 0
        return int(np.searchsorted(self.bounds, seeds.generator(*self.seed, "source", index).random(), side="right"))
