"""Training state and finished models on disk: plain tensors and data, written atomically, read without code execution."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from detpretrain.errors import InputError
from detpretrain.files import atomic_path


def save(path: Path, content: dict[str, Any]) -> None:
    with atomic_path(path) as temporary:
        torch.save(content, temporary)


def load(path: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Reads a checkpoint with ``weights_only=True``.

    Raises:
        InputError: missing, corrupted, or holding objects other than tensors and plain data.
    """
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: file not found") from None
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{path}: not loadable without running code from it ({reason}): save it again as plain tensors"
        ) from None
    except (RuntimeError, EOFError, OSError) as error:
        raise InputError(
            f"{path}: not a readable checkpoint ({str(error).splitlines()[0]}): make or download it again"
        ) from None
