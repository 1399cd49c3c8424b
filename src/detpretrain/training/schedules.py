"""Learning rate as a pure function of the optimiser step, one small class per shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Schedule(Protocol):
    def __call__(self, step: int, steps_per_epoch: int) -> float:
        """Learning rate of 0-based optimiser step ``step``."""
        ...


@dataclass(frozen=True, kw_only=True)
class WarmupPoly:
    """Linear from ``warmup_start`` to ``lr`` over ``warmup_steps``, then ``lr * (1 - progress) ** exponent`` (nnDetection).

    ``decay_steps`` is where the polynomial reaches zero, warm-up included; later steps stay at its last value above zero.
    """

    lr: float
    decay_steps: int
    warmup_steps: int = 0
    warmup_start: float = 1e-6
    exponent: float = 0.9

    def __call__(self, step: int, steps_per_epoch: int) -> float:
        if step < self.warmup_steps:
            return self.warmup_start + (self.lr - self.warmup_start) * step / self.warmup_steps
        length = self.decay_steps - self.warmup_steps
        progress = min(step - self.warmup_steps, length - 1) / length
        return self.lr * (1 - progress) ** self.exponent


@dataclass(frozen=True, kw_only=True)
class EpochPoly:
    """``lr * (1 - epoch / epochs) ** exponent``, constant within an epoch (nnU-Net, nnssl)."""

    lr: float
    decay_steps: int
    exponent: float = 0.9

    def __call__(self, step: int, steps_per_epoch: int) -> float:
        epochs = self.decay_steps // steps_per_epoch
        epoch = min(step // steps_per_epoch, epochs - 1)
        return self.lr * (1 - epoch / epochs) ** self.exponent


@dataclass(frozen=True, kw_only=True)
class Averaging:
    """Stochastic weight averaging (Izmailov et al., UAI 2018) as nnDetection runs it.

    From the 0-based epoch ``start_epoch`` on, the rate runs linearly from ``low`` to ``high`` within every epoch, and the
    weights at the START of each such epoch enter an equally weighted mean, which replaces the weights at the end.
    """

    start_epoch: int
    low: float
    high: float

    def lr(self, step: int, steps_per_epoch: int) -> float:
        within = (step % steps_per_epoch) / max(1, steps_per_epoch - 1)
        return self.low + (self.high - self.low) * within
