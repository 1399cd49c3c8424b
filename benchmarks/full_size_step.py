"""Training steps of a detector at the study's full size: memory and steps per second.

    python benchmarks/full_size_step.py --detector retina_unet_resenc --batch 4 --steps 20

On a GPU the figure is the peak of allocated and reserved memory, on the CPU the peak resident size of the process.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from pathlib import Path

import torch

from detpretrain import study
from detpretrain.detectors.contract import Targets
from detpretrain.detectors.factory import build_detector
from detpretrain.training.recipe import PRECISIONS, Recipe

ROOT = Path(__file__).resolve().parents[1]
ANCHORS = {axis: [8, 16, 32] for axis in "zyx"}


def full_plan(patch: int) -> dict:
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
    images = torch.randn(size, 1, patch, patch, patch, device=device)
    boxes = torch.tensor([[10.0, 10, 10, 26, 26, 26], [60, 70, 50, 90, 100, 84]], device=device)
    foreground = torch.zeros(size, patch, patch, patch, dtype=torch.bool, device=device)
    foreground[:, 11:26, 11:26, 11:26] = True
    return images, Targets([boxes] * size, [torch.zeros(2, dtype=torch.int64, device=device)] * size, foreground)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", default="retina_unet_resenc")
    parser.add_argument("--patch", type=int, default=128)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1, help="timed steps, after one that is not")
    parser.add_argument("--precision", choices=PRECISIONS, default="bf16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    rows = [{"detector": arguments.detector, "init": "scratch"}]
    chosen = study.assemble(
        {"study": "bench", "size": "full", "datasets": ["phantom_nodules"], "rows": rows}, ROOT, "bench"
    )
    entry = chosen.entry("detectors", arguments.detector)
    detector = build_detector(entry, chosen.entry("backbones", entry["backbone"]), full_plan(arguments.patch)).to(
        device
    )
    recipe = Recipe.from_entry(entry["recipe"], chosen.entry("recipes", entry["recipe"]))
    optimizer = recipe.build_optimizer(detector)
    images, targets = batch_of(arguments.batch, arguments.patch, device)
    dtype = PRECISIONS[arguments.precision]
    seconds = []
    for _ in range(arguments.steps + 1):
        started = time.perf_counter()
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            loss = torch.stack(list(detector(images, targets).values())).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        value = float(loss.detach())  # waits for the device
        seconds.append(time.perf_counter() - started)
    result = {
        "detector": arguments.detector,
        "parameters_million": round(sum(p.numel() for p in detector.parameters()) / 1e6, 2),
        "patch": arguments.patch,
        "batch": arguments.batch,
        "precision": arguments.precision,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"cpu, {arguments.threads} threads",
        "loss": round(value, 4),
        "first_step_seconds": round(seconds[0], 3),
        "median_step_seconds": round(statistics.median(seconds[1:]), 4),
    }
    if device.type == "cuda":
        result["peak_allocated_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        result["peak_reserved_gib"] = round(torch.cuda.max_memory_reserved() / 2**30, 2)
    else:
        result["peak_resident_gib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
