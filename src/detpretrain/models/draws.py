"""Random numbers of a batch that several processes share: all draw those of the whole batch, each takes its own samples'.

Sample i of rank r is sample ``i * ranks + r`` of the batch (``loading.batches``) and gets the numbers that one process would have
drawn for it. For that, all ranks have to draw the same things in the same order from generators in the same state, which the
training loop sees to; a size that depends on a rank's own samples is first made that of all (``ranks.largest``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from detpretrain.models import ranks


def per_sample(draw: Callable[[Sequence[int]], Tensor], shape: Sequence[int], dim: int = 0) -> Tensor:
    """``draw(shape)`` of this rank's samples, which lie along ``dim``; alone it is just that."""
    number = ranks.number()
    whole = draw([size * number if axis == dim else size for axis, size in enumerate(shape)])
    return whole[(slice(None),) * dim + (slice(ranks.own(), None, number),)]


class Dropout(nn.Module):
    """``nn.Dropout`` for ``[B, ...]``; on a CPU, alone, with the same draws."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        return self._thinned(x, x.shape)

    def _thinned(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """``x`` times numbers of that shape: 0 with the probability, else what keeps the mean."""
        if not (self.training and self.probability):
            return x
        keep = 1 - self.probability
        kept = per_sample(lambda whole: x.new_empty(whole).bernoulli_(keep), shape)
        return x * (kept / keep if keep else kept)


class DropPath(Dropout):
    """Stochastic depth (Huang et al., ECCV 2016): leaves a residual branch ``[B, ...]`` out for whole samples.

    Alone with the same draws as timm's ``DropPath``.
    """

    def forward(self, x: Tensor) -> Tensor:
        return self._thinned(x, (len(x),) + (1,) * (x.ndim - 1))
