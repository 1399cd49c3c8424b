"""Training state and finished models on disk: plain tensors and data, written atomically, read without code execution."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detpretrain.engines import nndet_model
from detpretrain.errors import InputError
from detpretrain.files import atomic_path

CODE = re.compile(r"GLOBAL ([\w.]+)")  # how torch names what it refuses to import


def save(path: Path, content: dict[str, Any]) -> None:
    with atomic_path(path) as temporary:
        torch.save(content, temporary)


def cpu_weights(module: nn.Module) -> dict[str, Tensor]:
    """The state dict on the CPU; names that share one tensor still do, so that the file holds it once."""
    copies: dict[tuple, Tensor] = {}
    weights = {}
    for name, tensor in module.state_dict().items():
        key = (tensor.data_ptr(), tensor.shape, tensor.dtype)
        weights[name] = copies.setdefault(key, tensor.detach().cpu()) if tensor.numel() else tensor.detach().cpu()
    return weights


def load(path: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Reads a checkpoint with ``weights_only=True``.

    Raises:
        InputError: missing, corrupted, or holding objects other than tensors and plain data.
    """
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: file not found") from None
    except Exception as error:  # damaged bytes make the unpickler raise nearly anything
        if nndet_model.is_one(path):
            raise InputError(f"{path}: is nnDetection's own model, for its own commands: `unzip` it") from None
        reason = (str(error).splitlines() or [""])[0][:120] or type(error).__name__
        if isinstance(error, pickle.UnpicklingError):
            code = CODE.search(str(error))
            if code:
                raise InputError(
                    f"{path}: holds {code[1]}, which is code and is not run from a file: save it again as plain tensors"
                ) from None
            reason = "not a pickle of tensors"
        raise InputError(f"{path}: not a readable checkpoint ({reason}): make or download it again") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, not a mapping: give a checkpoint file")
    return content
