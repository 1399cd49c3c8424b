"""Processor, memory, GPUs, and the number types that are fast on them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detpretrain.doctor.finding import BLOCKS, WARNING, Finding

GIB = 2**30


@dataclass(frozen=True)
class GPU:
    name: str
    memory_gib: float
    bf16: bool


@dataclass(frozen=True)
class Machine:
    """``cuda``: the version that torch was built for, None for a CPU build."""

    torch: str
    cuda: str | None
    gpus: Sequence[GPU]
    cpu_bf16: bool
    cores: int
    memory_gib: float


def inspect() -> Machine:
    import torch

    from detpretrain.training.precision import cpu_has_bf16

    gpus = []
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        gpus.append(GPU(about.name, about.total_memory / GIB, about.major >= 8))  # bf16 in hardware since Ampere
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    cores = len(os.sched_getaffinity(0))
    return Machine(torch.__version__, torch.version.cuda, gpus, cpu_has_bf16(), cores, memory)


def findings(machine: Machine, runtime: Mapping[str, Any], executor: str) -> list[Finding]:
    """``runtime``: of the study; ``executor``: of the profile, because jobs may run on other machines than this one."""
    build = f"{machine.torch}, {f'for CUDA {machine.cuda}' if machine.cuda else 'CPU build'}"
    bf16 = "fast" if machine.cpu_bf16 else "slow, so a recipe's bf16 becomes fp32"
    return [
        Finding("torch", build),
        *_gpus(machine, runtime, executor),
        Finding("processor", f"{machine.cores} cores, bf16 {bf16}"),
        Finding("memory", f"{machine.memory_gib:.0f} GiB"),
    ]


def _gpus(machine: Machine, runtime: Mapping[str, Any], executor: str) -> list[Finding]:
    device = runtime.get("device", "auto")
    if machine.gpus:
        return [
            Finding(f"GPU {number}", f"{gpu.name}, {gpu.memory_gib:.0f} GiB, bf16 {'fast' if gpu.bf16 else 'missing'}")
            if gpu.bf16
            else Finding(
                f"GPU {number}", f"{gpu.name}, {gpu.memory_gib:.0f} GiB, no fast bf16", WARNING, "fp16 is used"
            )
            for number, gpu in enumerate(machine.gpus)
        ]
    wanted = device.startswith("cuda") or (device == "auto" and runtime.get("gpus", 0) > 0)
    if not wanted:
        return [Finding("GPU", "none, and the study asks for none")]
    if executor != "local":
        remedy = f"see that the machines of executor {executor} have one, and a CUDA build of torch"
        return [Finding("GPU", "none here", WARNING, remedy)]
    remedy = "install the CUDA build of torch on a machine with a GPU, give --profile of a cluster, or set gpus: 0"
    return [Finding("GPU", "none, but the study asks for one", BLOCKS, remedy)]
