"""Which number type a recipe's ``precision`` is on a device."""

from __future__ import annotations

import torch

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The type of autocast, None for float32.

    Where bf16 is missing, a GPU takes fp16, and a CPU float32: without such instructions (AVX-512, AMX) its convolutions fall
    back to reference code, which takes tens of times as long.
    """
    dtype = PRECISIONS[precision]
    if dtype is not torch.bfloat16:
        return dtype
    if device.type == "cuda":
        return dtype if torch.cuda.is_bf16_supported() else torch.float16
    return dtype if cpu_has_bf16() else None


def cpu_has_bf16() -> bool:
    """Whether convolutions have fast code in bf16 on this CPU."""
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context in which forward passes run."""
    dtype = autocast_dtype(precision, device)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def used(precision: str, device: torch.device) -> str:
    """The name of the precision that a device uses, for provenance."""
    dtype = autocast_dtype(precision, device)
    return next(name for name, value in PRECISIONS.items() if value is dtype)
