"""Pre-training steps of every method: what preparing the views costs beside the network's forward and backward pass.

    python benchmarks/pretraining_views.py --size demo
    python benchmarks/pretraining_views.py --size full --batch 2 --methods mae voco        (a GPU)

Images are random; views are those of training, without the patch's own augmentation, which all methods share.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from detpretrain import study
from detpretrain.build import build, locate
from detpretrain.files import read_yaml
from detpretrain.models.factory import build_backbone
from detpretrain.preprocessing.plan_spec import PlanSpec, parse_spec
from detpretrain.pretraining.contract import Source
from detpretrain.training.precision import autocast
from detpretrain.training.pretrain import RESERVED
from detpretrain.training.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
SOURCE = Source("organs", ["CT"], [f"organ {k}" for k in range(6)], [[k + 1] for k in range(6)], [], 36)


def plan_of(spec: PlanSpec) -> dict[str, Any]:
    kernels = spec.kernels if len(spec.kernels) == len(spec.strides) else spec.kernels * len(spec.strides)
    return {"patch": spec.patch, "strides": spec.strides, "kernels": kernels}


def made(chosen: study.Study, name: str, backbone: str) -> tuple[nn.Module, dict[str, Any], Recipe]:
    entry = chosen.entry("methods", name)
    plan = plan_of(parse_spec(entry["plan"], read_yaml(ROOT / "config" / "plans" / f"{entry['plan']}.yaml")))
    annotated = {"sources": [SOURCE]} if locate(entry["class"]).supervised else {}
    arguments = {key: value for key, value in entry.items() if key not in RESERVED}
    method = build(arguments, backbone=build_backbone(chosen.entry("backbones", backbone), plan), **annotated)
    return method, plan, Recipe.from_entry(entry["recipe"], chosen.entry("recipes", entry["recipe"]))


def seconds(function: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    result = function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result, time.perf_counter() - started


def measured(chosen: study.Study, name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    device = torch.device(arguments.device)
    torch.manual_seed(0)
    method, plan, recipe = made(chosen, name, arguments.backbone)
    layout = {"memory_format": torch.channels_last_3d} if recipe.channels_last else {}
    method = method.to(device, **layout).train()
    batch = arguments.batch or recipe.batch_size
    images = torch.randn(batch, 1, *plan["patch"], device=device)
    labels = (images[:, 0] * 2).round().clamp(0, 6).long()
    views_taken, steps_taken = [], []
    for step in range(arguments.steps + arguments.warm_up):
        inputs = (
            (list(images), labels, [0] * batch)
            if method.supervised
            else (images, range(step * batch, (step + 1) * batch))
        )

        def prepare(inputs: tuple = inputs) -> tuple:
            with torch.no_grad():
                return method.views(*inputs)

        views, taken = seconds(prepare, device)
        views_taken.append(taken)

        def passes(views: tuple = views) -> None:
            with autocast(recipe.precision, device):
                losses = method(*views)
            torch.stack(list(losses.values())).sum().backward()

        steps_taken.append(seconds(passes, device)[1])
        method.zero_grad(set_to_none=True)
    views_ms, step_ms = (1e3 * statistics.median(taken[arguments.warm_up :]) for taken in (views_taken, steps_taken))
    result = {
        "method": name, "patch": plan["patch"], "batch": batch, "precision": recipe.precision,
        "views_ms": round(views_ms, 2), "step_ms": round(step_ms, 2), "views_share": round(views_ms / (views_ms + step_ms), 3),
    }  # fmt: skip
    if device.type == "cuda":
        result["peak_allocated_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        torch.cuda.reset_peak_memory_stats()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="demo", help="size of the entries: demo, full, ...")
    parser.add_argument("--methods", nargs="*", help="entries of config/methods.yaml; default all that have the size")
    parser.add_argument("--backbone", default="resenc")
    parser.add_argument("--batch", type=int, help="default: the recipe's")
    parser.add_argument("--steps", type=int, default=9, help="timed, after the warm-up")
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.device == "cpu":  # as a training runs there
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False
    rows = [{"detector": "retina_unet_resenc", "init": "scratch"}]
    config = {"study": "bench", "size": arguments.size, "datasets": ["phantom_nodules"], "rows": rows}
    chosen = study.assemble(config, ROOT, "bench")
    sized = [name for name, entry in chosen.entries["methods"].items() if arguments.size in entry.get("sizes", {})]
    for name in arguments.methods or sized:
        print(json.dumps(measured(chosen, name, arguments)), flush=True)


if __name__ == "__main__":
    main()
