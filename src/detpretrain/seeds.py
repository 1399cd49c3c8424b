"""Seeds derived from what a draw is for, so that workers, ranks and resumed runs draw the same numbers."""

from __future__ import annotations

import hashlib

import numpy as np


def derive(*parts: str | int) -> int:
    """A 63-bit seed from names and numbers: (study seed, cell, purpose, step, sample). Any change gives another stream."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*parts: str | int) -> np.random.Generator:
    """NumPy generator for ``derive(*parts)``."""
    return np.random.default_rng(derive(*parts))
