"""How rows are compared: the ``comparison`` part of a study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from detpretrain.errors import InputError


@dataclass(frozen=True)
class CompareSettings:
    """``reference``: the init that others are compared with; ``margin``: AP that counts as no difference (claims)."""

    resamples: int = 2000
    seed: int = 0
    confidence: float = 0.95
    reference: str = "scratch"
    margin: float = 0.02

    @staticmethod
    def of(settings: Mapping[str, Any]) -> CompareSettings:
        """Raises InputError for an unknown key or a value out of range."""
        known = CompareSettings.__dataclass_fields__
        for key in settings:
            if key not in known:
                raise InputError(f"compare: unknown setting {key!r}: use one of {', '.join(known)}")
        made = CompareSettings(**settings)
        if made.resamples < 1 or not 0 < made.confidence < 1:
            raise InputError(f"compare: resamples {made.resamples} or confidence {made.confidence} out of range")
        if not 0 < made.margin < 1:
            raise InputError(f"compare: margin {made.margin}: give an AP between 0 and 1")
        return made
