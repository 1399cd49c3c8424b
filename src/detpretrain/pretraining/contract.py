"""What a pre-training method is to the training loop and to the checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn


@dataclass(frozen=True)
class Citation:
    """One entry of a checkpoint's ``citations``; ``type`` is e.g. "Pretraining Method" or "Architecture"."""

    type: str
    name: str
    apa_citations: tuple[str, ...]

    def as_data(self) -> dict[str, Any]:
        return {"type": self.type, "name": self.name, "apa_citations": list(self.apa_citations)}


class Method(Protocol):
    """An ``nn.Module`` built from a backbone by keyword (``backbone=``) and its entry's arguments.

    Attributes:
        network: what becomes ``network_weights``: holds the encoder under the backbone's keys (``encoder.stages`` ...).
        citations: of the method.
    """

    network: nn.Module
    citations: Sequence[Citation]

    def __call__(self, images: Tensor, sample_seeds: Sequence[int]) -> dict[str, Tensor]:
        """Losses by name, scalars that are summed: ``images [B, 1, D, H, W]``.

        Everything random comes from ``sample_seeds`` (one per sample), so that validation sees the same views every epoch.
        """
        ...
