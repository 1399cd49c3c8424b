"""Training steps of a detector at the study's full size: memory, steps per second, and what attention and assignment take.

    python benchmarks/full_size_step.py --detector retina_unet_resenc --batch 4 --steps 20
    python benchmarks/full_size_step.py --detector deformable_detr_resenc deformable_detr_primus

On a GPU memory is the peak of allocated and reserved memory, on the CPU the peak resident size of the process, which only
grows: measure one detector at a time there. Shares are of further steps in which the parts are timed from inside, forward and
backward: deformable attention by hooks of its modules, assignment (ATSS, centres, Hungarian matching) by its calls. On a GPU
each part then begins and ends with a wait for the device, so that those steps are slower; both are printed.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from detpretrain import study
from detpretrain.detectors.contract import Targets
from detpretrain.detectors.factory import build_detector
from detpretrain.models.deformable_attention import DeformableAttention
from detpretrain.training.precision import PRECISIONS, autocast_dtype, used
from detpretrain.training.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
ANCHORS = {axis: [8, 16, 32] for axis in "zyx"}
ASSIGNMENTS = ("atss", "match_centres", "match")  # as the detectors' files import them


class Stopwatch:
    """Seconds in parts of a step."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self.running: dict[str, float] = {}

    def start(self, part: str) -> None:
        wait(self.device)
        self.running[part] = time.perf_counter()

    def stop(self, part: str) -> None:
        wait(self.device)
        self.seconds[part] += time.perf_counter() - self.running.pop(part)

    @contextmanager
    def watching(self, detector: nn.Module) -> Iterator[None]:
        """While open, times the detector's attention modules and the assignment that its file calls."""
        hooks = []
        for module in detector.modules():
            if isinstance(module, DeformableAttention):
                hooks += [
                    module.register_forward_pre_hook(lambda *_: self.start("attention")),
                    module.register_forward_hook(lambda *_: self.stop("attention")),
                    module.register_full_backward_pre_hook(lambda *_: self.start("attention")),
                    module.register_full_backward_hook(lambda *_: self.stop("attention")),
                ]
        file = sys.modules[type(detector).__module__]
        functions = {name: getattr(file, name) for name in ASSIGNMENTS if hasattr(file, name)}
        for name, function in functions.items():
            setattr(file, name, self.timed(function, "assignment"))
        yield
        for name, function in functions.items():
            setattr(file, name, function)
        for hook in hooks:
            hook.remove()

    def timed(self, function: Callable, part: str) -> Callable:
        def call(*arguments: Any) -> Any:
            self.start(part)
            result = function(*arguments)
            self.stop(part)
            return result

        return call


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def full_plan(patch: int) -> dict[str, Any]:
    """The fixed architecture plan (config/plans/resenc_l_128.yaml) with anchors as for mid-sized lesions."""
    return {
        "patch": [patch] * 3,
        "strides": [[1] * 3] + [[2] * 3] * 5,
        "kernels": [[3] * 3] * 6,
        "detection_levels": [2, 3, 4, 5],
        "anchors": ANCHORS,
        "classes": 1,
        "channels": 1,
    }


def batch_of(size: int, patch: int, device: torch.device) -> tuple[torch.Tensor, Targets]:
    """Random images, and two objects in each."""
    images = torch.randn(size, 1, patch, patch, patch, device=device)
    boxes = torch.tensor([[10.0, 10, 10, 26, 26, 26], [60, 70, 50, 90, 100, 84]], device=device) * patch / 128
    foreground = torch.zeros(size, patch, patch, patch, dtype=torch.bool, device=device)
    for box in boxes.round().int().tolist():
        foreground[:, box[0] + 1 : box[3], box[1] + 1 : box[4], box[2] + 1 : box[5]] = True
    return images, Targets([boxes] * size, [torch.zeros(2, dtype=torch.int64, device=device)] * size, foreground)


def training_step(detector: nn.Module, recipe: Recipe, arguments: argparse.Namespace) -> Callable[[], float]:
    """Runs one step and returns its seconds."""
    device, dtype = torch.device(arguments.device), autocast_dtype(arguments.precision, torch.device(arguments.device))
    optimizer = recipe.build_optimizer(detector)
    images, targets = batch_of(arguments.batch, arguments.patch, device)

    def step() -> float:
        started = time.perf_counter()
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            loss = torch.stack(list(detector(images, targets).values())).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if not loss.detach().isfinite():  # waits for the device
            raise FloatingPointError("the loss is not finite")
        wait(device)
        return time.perf_counter() - started

    return step


def measured(chosen: study.Study, name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    entry = chosen.entry("detectors", name)
    backbone = chosen.entry("backbones", entry["backbone"])
    detector = build_detector(entry, backbone, full_plan(arguments.patch)).to(device).train()
    step = training_step(
        detector, Recipe.from_entry(entry["recipe"], chosen.entry("recipes", entry["recipe"])), arguments
    )
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    first = step()
    median = statistics.median(step() for _ in range(arguments.steps))
    memory = peak_memory(device)
    watch = Stopwatch(device)
    with watch.watching(detector):
        watched = sum(step() for _ in range(arguments.steps))
    shares = {part: round(seconds / watched, 4) for part, seconds in watch.seconds.items()}
    return {
        "detector": name,
        "parameters_million": round(sum(p.numel() for p in detector.parameters()) / 1e6, 2),
        "patch": arguments.patch,
        "batch": arguments.batch,
        "precision": used(arguments.precision, device),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"cpu, {arguments.threads} threads",
        "first_step_seconds": round(first, 3),
        "median_step_seconds": round(median, 4),
        "steps_per_second": round(1 / median, 4),
        **memory,
        "watched_step_seconds": round(watched / arguments.steps, 4),
        **{f"{part}_share": shares[part] for part in sorted(shares)},
    }


def peak_memory(device: torch.device) -> dict[str, float]:
    if device.type == "cuda":
        return {
            "peak_allocated_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
            "peak_reserved_gib": round(torch.cuda.max_memory_reserved() / 2**30, 2),
        }
    return {"peak_resident_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--detector", nargs="+", default=["retina_unet_resenc"], help="entries of config/detectors.yaml"
    )
    parser.add_argument("--patch", type=int, default=128)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument(
        "--steps", type=int, default=1, help="timed steps, after one that is not; as many again watched"
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="bf16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = [{"detector": name, "init": "scratch"} for name in arguments.detector]
    config = {"study": "bench", "size": "full", "datasets": ["phantom_nodules"], "rows": rows}
    chosen = study.assemble(config, ROOT, "bench")
    for name in arguments.detector:
        if engine := chosen.engine(name):
            parser.error(f"{name}: engine {engine} takes this step in its own program: measure it there")
    for name in arguments.detector:
        print(json.dumps(measured(chosen, name, arguments), indent=1), flush=True)


if __name__ == "__main__":
    main()
