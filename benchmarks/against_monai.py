"""RetinaNet of this package beside MONAI's, in one run on one machine: a training step, and the assignment of anchors.

MONAI is no dependency. It needs nothing that is not here already, so that one folder beside the environment holds it:

    .venv/bin/pip install --no-deps --target /tmp/monai monai==1.6.1
    PYTHONPATH=/tmp/monai .venv/bin/python benchmarks/against_monai.py --threads 1

Step (forward, loss, backward, optimiser): nnDetection's plain-convolution encoder of five stages with ``segmentation: false``,
so that the pyramid ends at the first detection level as MONAI's does, beside MONAI's ``RetinaNetDetector`` with a ResNet-FPN
whose width is chosen for the same number of parameters (used ones: without segmentation a few of ours are idle). Both have the
levels of strides 2, 4, 8, 16, the same 27 anchors per position, ATSS, BCE on hard negatives and GIoU, and SGD. They differ in
what the libraries fix: MONAI's heads have four convolutions each, ours two; its encoder has residual blocks and batch norm, and
a 7^3 stem at full resolution. The arithmetic of a step is therefore counted too.

Assignment: the same 1,010,880 anchors and boxes for both. MONAI takes at most as many candidates on a level as it has
positions (64 of 108 on the coarsest here), so agreement is counted on the levels where the definitions agree.

Machines are noisy: repeats alternate, medians count, and of these only the ratios.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from detpretrain.detectors.anchors import AnchorGenerator, AnchorGrid
from detpretrain.detectors.assignment import atss
from detpretrain.detectors.contract import Targets
from detpretrain.detectors.criteria import SampledBceGiou
from detpretrain.detectors.retina_unet import RetinaUNet
from detpretrain.models.eva_import import import_torchvision
from detpretrain.models.plain_conv import PlainConv
from detpretrain.training.precision import PRECISIONS, autocast_dtype

SIZES = {axis: [4, 8, 16] for axis in "zyx"}  # even ones: MONAI rounds half sizes
LEVELS = [1, 2, 3, 4]
STRIDES = [[1] * 3] + [[2] * 3] * 4
CANDIDATES = 4
Step = Callable[[], Tensor]


def our_detector() -> nn.Module:
    """nnDetection v0.1's network at 64^3: five stages, two convolutions per head."""
    kernels = [[3] * 3] * 5
    plan = {
        "strides": STRIDES, "kernels": kernels, "detection_levels": LEVELS, "anchors": SIZES, "classes": 1, "channels": 1,
    }  # fmt: skip
    backbone = PlainConv([32, 64, 128, 256, 320], STRIDES, kernels, negative_slope=0.0)
    return RetinaUNet(
        backbone=backbone, plan=plan, criterion=SampledBceGiou(), head_convs=2, segmentation=False,
        atss_candidates=CANDIDATES,
    )  # fmt: skip


def monai_detector() -> nn.Module:
    """ResNet-10 (its usual stem: 7^3, then max-pooling by 2), a pyramid of 128 channels without MONAI's extra coarse level."""
    from monai.apps.detection.networks.retinanet_detector import RetinaNetDetector
    from monai.apps.detection.networks.retinanet_network import RetinaNet
    from monai.apps.detection.utils.anchor_utils import AnchorGeneratorWithAnchorShape
    from monai.losses.giou_loss import BoxGIoULoss
    from monai.networks.blocks.backbone_fpn_utils import BackboneWithFPN
    from monai.networks.nets.resnet import ResNet

    widths = [64, 128, 256, 256]
    backbone = ResNet("basic", [1, 1, 1, 1], widths, n_input_channels=1, feed_forward=False)
    layers = {f"layer{number + 1}": str(number) for number in range(4)}
    features = BackboneWithFPN(backbone, layers, widths, out_channels=128, spatial_dims=3)
    features.fpn.extra_blocks = None
    network = RetinaNet(3, num_classes=1, num_anchors=27, feature_extractor=features, size_divisible=16)
    shapes = list(itertools.product(*SIZES.values()))
    detector = RetinaNetDetector(network, AnchorGeneratorWithAnchorShape((1, 2, 4, 8), shapes))
    detector.set_atss_matcher(num_candidates=CANDIDATES, center_in_gt=False)
    detector.set_hard_negative_sampler(batch_size_per_image=32, positive_fraction=0.33, pool_size=20)
    detector.set_box_regression_loss(BoxGIoULoss(), encode_gt=False, decode_pred=True)
    return detector


def grid_of(generator: AnchorGenerator, patch: int) -> AnchorGrid:
    return generator.grid([[patch // 2**level] * 3 for level in LEVELS], torch.device("cpu"))


def objects_of(number: int, patch: int, generator: torch.Generator) -> Tensor:
    """Random boxes of 4 to 16 voxels with broken coordinates, so that no two positions are equally near."""
    size = 4 + 12 * torch.rand(number, 3, generator=generator)
    low = torch.rand(number, 3, generator=generator) * (patch - size)
    return torch.cat([low, low + size], dim=1)


def steps(arguments: argparse.Namespace) -> tuple[dict[str, Step], dict[str, nn.Module]]:
    """A training step of each detector on the same images and objects, and the detectors."""
    generator, patch = torch.Generator().manual_seed(0), arguments.patch
    images = torch.randn(arguments.batch, 1, patch, patch, patch, generator=generator)
    boxes = [objects_of(arguments.objects, patch, generator) for _ in images]
    labels = [torch.zeros(arguments.objects, dtype=torch.int64) for _ in images]
    targets = Targets(boxes, labels, torch.zeros(arguments.batch, *images.shape[2:], dtype=torch.bool))
    theirs = [{"boxes": b, "labels": c} for b, c in zip(boxes, labels, strict=True)]
    detectors = {"ours": our_detector().train(), "monai": monai_detector().train()}
    batches = {"ours": (images, targets), "monai": (images, theirs)}
    dtype = autocast_dtype(arguments.precision, torch.device("cpu"))

    def step_of(name: str) -> Step:
        detector, batch = detectors[name], batches[name]
        optimizer = torch.optim.SGD(detector.parameters(), lr=1e-4, momentum=0.9, nesterov=True)

        def step() -> Tensor:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
                losses = detector(*batch)
            loss = torch.stack(list(losses.values())).sum()
            loss.backward()
            optimizer.step()
            return loss.detach()

        return step

    return {name: step_of(name) for name in detectors}, detectors


def alternating(functions: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each; every round runs all of them, so that what else the machine does hits all alike."""
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            taken[name].append(time.perf_counter() - started)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def measure_steps(arguments: argparse.Namespace) -> dict[str, Any]:
    functions, detectors = steps(arguments)
    result: dict[str, Any] = {}
    for name, step in functions.items():  # the untimed first step
        with FlopCounterMode(display=False) as counter:
            loss = float(step())
        used = sum(value.numel() for value in detectors[name].parameters() if value.grad is not None)
        result[name] = {
            "parameters_million": round(used / 1e6, 3),
            "gflop": round(counter.get_total_flops() / 1e9, 1),
            "first_loss": round(loss, 4),
        }
    result["ours"]["anchors"] = len(grid_of(detectors["ours"].anchors, arguments.patch).boxes)
    result["monai"]["anchors"] = len(detectors["monai"].anchors[0])
    for name, seconds in alternating(functions, arguments.steps).items():
        result[name]["seconds"] = round(seconds, 4)
        result[name]["gflop_per_second"] = round(result[name]["gflop"] / seconds, 1)
    return result | {"monai_over_ours": round(result["monai"]["seconds"] / result["ours"]["seconds"], 2)}


def measure_assignment(arguments: argparse.Namespace) -> dict[str, Any]:
    from monai.apps.detection.utils.ATSS_matcher import ATSSMatcher

    matcher = ATSSMatcher(CANDIDATES, center_in_gt=False)
    grid = grid_of(AnchorGenerator(SIZES, [[2**level] * 3 for level in LEVELS]), 64)
    boxes = objects_of(20, 64, torch.Generator().manual_seed(1))

    def theirs(anchors: AnchorGrid) -> Tensor:
        positions = [len(level) for level in anchors.positions]
        return matcher(boxes, anchors.boxes, positions, anchors.shapes)[1]

    functions = {"ours": lambda: atss(grid, boxes, CANDIDATES), "monai": lambda: theirs(grid)}
    for function in functions.values():
        function()
    seconds = alternating(functions, arguments.repeats)
    # levels with at least as many positions as candidates: where both libraries mean the same
    alike = [level for level in grid.positions if len(level) >= CANDIDATES * grid.shapes]
    part = AnchorGrid(grid.boxes[: sum(map(len, alike)) * grid.shapes], tuple(alike), grid.shapes)
    ours, monai = atss(part, boxes, CANDIDATES), theirs(part)
    return {
        "anchors": len(grid.boxes), "objects": len(boxes),
        "ours_ms": round(1e3 * seconds["ours"], 2), "monai_ms": round(1e3 * seconds["monai"], 2),
        "monai_over_ours": round(seconds["monai"] / seconds["ours"], 1),
        "levels_compared": len(alike), "positives": int((ours >= 0).sum()), "different": int((ours != monai).sum()),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--objects", type=int, default=3, help="per image, in the step")
    parser.add_argument("--steps", type=int, default=7, help="timed steps of each")
    parser.add_argument("--repeats", type=int, default=9, help="timed assignments of each")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    import_torchvision()  # MONAI's detector uses parts of it that a CPU torch cannot load by itself
    try:
        import monai
    except ImportError:
        sys.exit("error: no MONAI: install it as the head of this file says")
    warnings.filterwarnings("ignore", module="monai")
    result = {
        "monai": monai.__version__, "torch": torch.__version__, "threads": arguments.threads, "patch": arguments.patch,
        "batch": arguments.batch, "precision": arguments.precision,
        "step": measure_steps(arguments), "assignment": measure_assignment(arguments),
    }  # fmt: skip
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
