"""How a job runs, as opposed to what it computes: device, loader processes, time budget."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from detpretrain.errors import InputError


@dataclass(frozen=True)
class Runtime:
    """``device`` auto takes a GPU when there is one; ``workers`` 0 loads in the training process.

    ``stage``: a folder on a disk of the node, where a training copies what it reads (``loading.staging``); None = it does not.
    """

    device: str = "auto"
    workers: int = 0
    budget_minutes: float | None = None
    stage: str | None = None

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Runtime:
        """From settings of which those that are None keep their default."""
        return cls(**{name: value for name, value in settings.items() if value is not None})

    def minutes_left(self, started: float) -> float | None:
        """Of the budget, for a job that began at ``started`` (``time.monotonic``): what comes before the training counts."""
        return None if self.budget_minutes is None else self.budget_minutes - (time.monotonic() - started) / 60

    def prepare(self, threads: int) -> torch.device:
        """Sets threads and determinism, and names the device.

        On the CPU every algorithm is deterministic; on a GPU the fast ones are used.
        """
        name = self.device
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        if name.startswith("cuda") and not torch.cuda.is_available():
            raise InputError(
                f"device {name}: torch {torch.__version__} sees no GPU: install the GPU build, or set device: cpu"
            )
        torch.set_num_threads(threads)
        # what use_deterministic_algorithms sets, without its import of the compiler, which takes seconds of every short job
        torch.set_deterministic_debug_mode("error" if name == "cpu" else "default")
        # a debugging aid of deterministic mode: a tenth of a step, and no kernel here reads uninitialised memory
        torch.utils.deterministic.fill_uninitialized_memory = False
        torch.backends.cudnn.benchmark = True
        return torch.device(name)


def peak_memory_mib(device: torch.device) -> int:
    """Most memory so far: allocated on the GPU, or resident in this process on a CPU (Linux counts KiB, macOS bytes)."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20)
    unit = 1 if sys.platform == "darwin" else 2**10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20)
